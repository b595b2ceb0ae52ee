"""Files of labelled queries: every form says the same, and what cannot be used is refused with a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from shop_files import write_csv, write_jsonl, write_parquet

from pipelines.labelled_queries import LabelledQueriesError, Query, read_labelled_queries

ROWS: list[dict[str, Any]] = [
    {"query_id": "q1", "text": "red shirt", "image": None, "product_id": "007", "relevance": 2},
    {"query_id": "q1", "text": "red shirt", "image": None, "product_id": "nan", "relevance": 1},
    {"query_id": "q2", "text": None, "image": "photos/a.jpg", "product_id": "B", "relevance": None},
    {"query_id": "q3", "text": "blue", "image": "/photos/b.jpg", "product_id": "C", "relevance": 1},
    {"query_id": "q4", "text": "nothing fits", "image": None, "product_id": "C", "relevance": 0},
]


@pytest.mark.parametrize("name", ["q.csv", "q.tsv", "q.jsonl", "q.parquet"])
def test_every_form_says_the_same(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("parquet"):
        write_parquet(path, ROWS)
    elif name.endswith("jsonl"):
        write_jsonl(path, ROWS)
    else:
        write_csv(path, ROWS, "\t" if name == "q.tsv" else ",")
    read = read_labelled_queries(str(path))
    assert read.queries == (
        Query("q1", "red shirt", None, {"007": 2, "nan": 1}),
        Query("q2", None, f"{tmp_path}/photos/a.jpg", {"B": 1}),
        Query("q3", "blue", "/photos/b.jpg", {"C": 1}),
    )
    assert [query.kind for query in read.queries] == ["text", "picture", "both"]


def test_without_ids_rows_that_ask_the_same_are_one_query(tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    path.write_text("text,product_id\nred,A\nblue,B\nred,C\n")
    assert read_labelled_queries(str(path)).queries == (
        Query("#1", "red", None, {"A": 1, "C": 1}), Query("#2", "blue", None, {"B": 1})
    )  # fmt: skip


def test_columns_of_other_names_are_mapped(tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    path.write_text("query,sku,id\nred,007,1\n")
    read = read_labelled_queries(str(path), {"text": "query", "product_id": "sku"})
    assert read.queries == (Query("#1", "red", None, {"007": 1}),)
    with pytest.raises(LabelledQueriesError, match=r"has no column 'words', which text is mapped to \(columns: query, sku, id\)"):
        read_labelled_queries(str(path), {"text": "words", "product_id": "sku"})
    with pytest.raises(LabelledQueriesError, match="labelled queries have no 'title' to map; they have query_id, text, image, "):
        read_labelled_queries(str(path), {"title": "query"})


def test_a_digest_tells_queries_apart_by_what_they_ask_and_not_by_their_form(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"one")
    rows: list[dict[str, Any]] = [
        {"query_id": "q1", "text": "red", "image": None, "product_id": "A", "relevance": 2},
        {"query_id": "q1", "text": "red", "image": None, "product_id": "B", "relevance": 1},
        {"query_id": "q2", "text": None, "image": "a.jpg", "product_id": "B", "relevance": 1},
    ]
    write_csv(tmp_path / "q.csv", rows)
    write_parquet(tmp_path / "q.parquet", rows[::-1])
    first = read_labelled_queries(f"{tmp_path}/q.csv")
    digest = first.digest()
    assert read_labelled_queries(f"{tmp_path}/q.parquet").digest() == digest
    (tmp_path / "a.jpg").write_bytes(b"other")
    assert first.digest() != digest
    write_csv(tmp_path / "q.csv", [rows[0] | {"relevance": 1}, *rows[1:]])
    (tmp_path / "a.jpg").write_bytes(b"one")
    assert read_labelled_queries(f"{tmp_path}/q.csv").digest() != digest
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(LabelledQueriesError, match=rf"the picture of query 'q2' cannot be read: cannot read {tmp_path}/a\.jpg"):
        first.digest()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.csv", "text,sku\nred,A\n", "has no column 'product_id' (columns: text, sku)"),
        ("q.csv", "words,product_id\nred,A\n", "has neither a column 'text' nor 'image' (columns: words, product_id)"),
        ("q.csv", "text,product_id\n ,A\n", "row 1 of {path} asks for nothing: it has neither text nor image"),
        ("q.csv", "text,product_id\nred,\n", "row 1 of {path} has no product_id"),
        ("q.csv", "text,product_id,relevance\nred,A,1\nred,B,good\n",
         "row 2 of {path} has the relevance 'good'; it is a whole number from 0 to 999"),
        ("q.csv", "text,product_id,relevance\nred,A,1\nred,A,2\n",
         "row 2 of {path} says relevance 2 of product 'A', a row before it 1"),
        ("q.csv", "query_id,text,product_id\nq,red,A\nq,blue,A\n",
         "row 2 of {path} asks for something else than the rows before it of query 'q'"),
        ("q.csv", "text,product_id,relevance\nred,A,0\n", "{path} has no query: none of its 1 rows says that a product is right"),
        ("q.parquet", "PAR", "{path} cannot be read as parquet: "),
        ("q.xlsx", "", "{path} is no csv, tsv, jsonl, parquet by its name: what kind of table is it?"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_refused_with_a_sentence(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(LabelledQueriesError) as caught:
        read_labelled_queries(str(path))
    assert message.format(path=path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabelledQueriesError, match=rf"there is no file of queries {tmp_path}/q\.csv"):
        read_labelled_queries(f"{tmp_path}/q.csv")
