"""Evaluation: measures that can be computed by hand, labelled queries of every form, and a version that is really searched."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import jpeg, product, write_shards
from shop_files import write_csv, write_jsonl, write_parquet

from catalogue_lookup import open_index
from catalogue_lookup.query import QueryEncoder
from encoders.bundle import open_bundle
from pipelines import cli
from pipelines.labelled_queries import LabelledQueriesError, Query, read_labelled_queries
from pipelines.measures import NAMES, Judgement, figures, measure

# --- measures ---


def judged(**grades: int) -> Judgement:
    items = sorted((int(name[1:]), grade) for name, grade in grades.items())
    return Judgement(np.array([item for item, _ in items]), np.array([grade for _, grade in items]))


def ranking(*items: int) -> np.ndarray:
    return np.array([[*items, *[-1] * (100 - len(items))]])


def test_measures_are_those_computed_by_hand() -> None:
    values = measure(ranking(5, 7, 9), [judged(i7=2, i9=1, i4=1)])
    gain = 2 / math.log2(3) + 1 / math.log2(4)
    ideal = 2 + 1 / math.log2(3) + 1 / math.log2(4)
    assert dict(zip(NAMES, values[0], strict=True)) == pytest.approx(
        {"recall@1": 0, "recall@10": 2 / 3, "recall@100": 2 / 3, "success@1": 0, "success@10": 1, "mrr": 0.5,
         "ndcg@10": gain / ideal}
    )  # fmt: skip


def test_below_the_grade_that_is_right_an_item_counts_for_gain_only() -> None:
    (values,) = measure(ranking(1, 2), [judged(i1=1, i2=2)], right=2)
    found = dict(zip(NAMES, values, strict=True))
    assert (found["recall@1"], found["recall@10"], found["mrr"]) == (0, 1, 0.5)
    assert found["ndcg@10"] == pytest.approx((1 + 2 / math.log2(3)) / (2 + 1 / math.log2(3)))


def test_the_order_of_answers_counts_and_not_their_names() -> None:
    for items in ((3, 20, 100), (100, 3, 20), (20, 100, 3)):
        assert measure(ranking(*items), [judged(i20=1)])[0][NAMES.index("mrr")] == pytest.approx(1 / (1 + items.index(20)))


def test_a_query_without_answers_counts_as_nothing_found() -> None:
    many = np.concatenate([ranking(4), ranking()] * 70)
    values = measure(many, [judged(i4=1)] * 140)
    assert values[::2].min() == 1
    assert values[1::2].max() == 0


def test_intervals_hold_the_mean_and_are_the_same_for_a_seed() -> None:
    values = np.repeat(np.random.default_rng(0).random((200, 1)), len(NAMES), axis=1)
    found = figures(values, 1)
    assert found == figures(values, 1)
    assert found != figures(values, 2)
    for figure in found.values():
        assert figure.value == pytest.approx(values.mean(), abs=1e-4)
        # The standard error of 200 uniform numbers is 0.02.
        assert 0.06 < figure.high - figure.low < 0.1
        assert figure.low < figure.value < figure.high
    alone = figures(values[:1], 0)["mrr"]
    assert alone.low == alone.value == alone.high


# --- files ---

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


# --- a version ---


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    """Publish an index of sixty shirts."""
    root = tmp_path_factory.mktemp("evaluated")
    catalogue = write_shards(root / "shop", [product(number) for number in range(60)], 30)
    assert cli.main(["run", "--index", str(root / "index"), "--catalogue", catalogue, "--bundle", str(tiny_bundle)]) == 0
    return root / "index"


def write_queries(folder: Path, rows: list[tuple[str, str, str]]) -> Path:
    """Write text, image and product of queries."""
    with (folder / "q.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "image", "product_id"), *rows])
    return folder / "q.csv"


def evaluate(index: Path, queries: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    assert cli.main(["evaluate", "--index", str(index), "--queries", str(queries), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_figures_are_those_of_what_a_search_finds(index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photo.jpg").write_bytes(jpeg((200, 30, 30), 77))
    wanted = [("green shirt number 4", "", "P00004"), ("blue", "", "P00011"), ("", "photo.jpg", "P00003"),
              ("red shirt", "photo.jpg", "P00009")]  # fmt: skip
    found = evaluate(index, write_queries(tmp_path, wanted), capsys)
    assert [(row["set"], row["search"], row["queries"]) for row in found] == [
        (f"labelled, {kind}", search, count) for kind, count in (("text", 2), ("picture", 1), ("both", 1))
        for search in ("exact", "Annoy")
    ]  # fmt: skip
    with open_index(index) as opened:
        for number, (text, image, right) in enumerate(wanted):
            hits = opened.search(text=text or None, image=tmp_path / image if image else None, k=60)
            rank = [hit.product_id for hit in hits].index(right) + 1
            kind = "both" if text and image else "text" if text else "picture"
            rows = [row for row in found if row["set"] == f"labelled, {kind}"]
            if number > 1:
                assert all(row["mrr"]["value"] == pytest.approx(1 / rank, abs=1e-4) for row in rows)
    assert evaluate(index, tmp_path / "q.csv", capsys) == found


def test_products_the_version_lacks_are_left_out_and_counted(
    index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_queries(tmp_path, [("red", "", "P00003"), ("red", "", "gone"), ("blue", "", "old")])
    assert cli.main(["evaluate", "--index", str(index), "--queries", str(path), "--json"]) == 0
    out, log = capsys.readouterr()
    assert json.loads(out)[0]["queries"] == 1
    version = (index / "CURRENT").read_text().strip()
    told = f"2 products of {path} are not in version {version} ('gone' is the first) and left out, and with them 1 of 2 queries"
    assert "".join(told.split()) in "".join(log.split())
    path = write_queries(tmp_path, [("blue", "", "old")])
    assert cli.main(["evaluate", "--index", str(index), "--queries", str(path)]) == cli.BAD_FLAG
    assert f"catalogue-index: {path} names no product of version {version} as right" in capsys.readouterr().err


def test_a_picture_that_cannot_be_read_is_named(index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    for image, message in (
        ("bad.jpg", f"catalogue-index: query '#2', {tmp_path}/bad.jpg cannot be encoded: the picture cannot be searched with: "),
        ("gone.jpg", "catalogue-index: the picture of query '#2' cannot be read: "),
    ):
        path = write_queries(tmp_path, [("", "good.jpg", "P00003"), ("", image, "P00003")])
        (tmp_path / "good.jpg").write_bytes(jpeg((1, 2, 3), 0))
        assert cli.main(["evaluate", "--index", str(index), "--queries", str(path)]) == cli.BAD_FLAG
        assert message in capsys.readouterr().err


def test_the_table_shows_figures_with_their_intervals(index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_queries(tmp_path, [("red", "", "P00003")])
    assert cli.main(["evaluate", "--index", str(index), "--queries", str(path)]) == 0
    out = capsys.readouterr().out
    assert f"version {(index / 'CURRENT').read_text().strip()}" in out
    assert "labelled, text: 1 queries" in out
    assert [line.split("│")[0].strip() for line in out.splitlines() if "[" in line] == list(NAMES)


def test_queries_encoded_together_are_those_encoded_alone(tiny_bundle: Path) -> None:
    encoder = QueryEncoder(open_bundle(tiny_bundle))
    texts, images = ["red shirt", "a longer blue shirt"], [jpeg((200, 0, 0), 1), jpeg((0, 0, 200), 2)]
    for many in ((texts, None), (None, images), (texts, images)):
        asked, shown = many
        alone = [encoder.encode(asked[row] if asked else None, shown[row] if shown else None) for row in range(2)]
        assert np.array_equal(encoder.encode_many(asked, shown), np.stack(alone))
