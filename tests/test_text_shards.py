"""What cannot be read of a text shard is a row in its place."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from shop_files import (
    problems_of,
    read,
    write_parquet,
)  # fmt: skip

from pipelines import csv_records, text_shards
from pipelines.catalogue import (
    CatalogueError,
)  # fmt: skip


def test_malformed_json_lines_are_rows_in_their_place(tmp_path: Path) -> None:
    lines = [
        b'\xef\xbb\xbf{"id": 1, "title": "a"}', b'{"id": 2, "tit', b"", b"[3]", b'{"id": 4, "title": "\xff"}', b"   ",
        b'{"id": 5, "title": "\\ud83d\\ude00 \\ud83d!"}', b"[" * 200_000, b'{"id": ' + b"9" * 5000 + b"}",
        b'{"id": 9}', b'{"id": 10}', b'{"id": 11}',
    ]  # fmt: skip
    (tmp_path / "x.jsonl").write_bytes(b"\r\n".join(lines))
    rows = read(tmp_path)
    assert [(row["row"], row["product_id"]) for row in rows] == [
        (0, "1"), (1, None), (2, None), (3, None), (4, "5"), (5, None), (6, None), (7, "9"),
        (8, "10"), (9, "11"),
    ]  # fmt: skip
    assert problems_of(rows) == {row: [(None, "unreadable_row")] for row in (1, 2, 3, 5, 6)}
    details = [row["problems"][0]["detail"] for row in rows if row["problems"]]
    assert details[0] == "line 2 is not JSON: Unterminated string starting at at character 10"
    assert details[1:3] == ["line 4 is JSON, but not an object", "line 5 is not UTF-8 at byte 20"]
    assert rows[4]["text"] == ["\U0001f600 \ufffd!"]
    assert rows[7]["text"] == []


def test_csv_rows_of_the_wrong_length_are_rows_in_their_place(tmp_path: Path) -> None:
    content = (
        '\ufeffid,title,description\r\n1,a,b\r\n2,too few\r\n3,"line\r\nbreak, and ""quotes""",b\r\n\r\n'
        '4,a,b,too many\r\n5,5" pipe,b\r\n6,"a"b,c\r\n7,a,b'
    )
    (tmp_path / "x.csv").write_bytes(content.encode() + b"\r\n8,caf\xe9,b\r\n9,a,b\r\n")
    rows = read(tmp_path)
    assert [row["product_id"] for row in rows] == ["1", None, "3", None, "5", None, "7", None, "9"]
    assert [row["row"] for row in rows] == list(range(9))
    assert rows[2]["text"] == ['line\r\nbreak, and "quotes"', "b"]
    assert rows[4]["text"] == ['5" pipe', "b"]
    details = {row["row"]: row["problems"][0]["detail"] for row in rows if row["problems"]}
    assert details == {
        1: "the row has 2 cells, the header has 3",
        3: "the row has 4 cells, the header has 3",
        5: "line 9: ',' expected after '\"'",
        7: "the cell of column 'title' is not UTF-8",
    }


def test_a_quote_that_is_never_closed_costs_one_row(tmp_path: Path) -> None:
    lines = ["id,title", "1,a", '2,"never closed', *[f"{i},a" for i in range(3, 3000)]]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    rows = read(tmp_path)
    assert [row["product_id"] for row in rows] == ["1", None, *[str(i) for i in range(3, 3000)]]
    assert rows[1]["problems"][0]["detail"] == "line 3: a quote is opened and never closed"


def test_rows_longer_than_the_limit_are_unreadable_and_the_next_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_records, "MAX_ROW_BYTES", 1 << 20)
    monkeypatch.setattr(text_shards, "MAX_ROW_BYTES", 1 << 20)
    long = "x" * 3_000_000
    (tmp_path / "x.csv").write_text(f'id,title\n1,a\n2,{long}\n3,b\n4,"{long}"\n5,"\n{long}\n",\n6,c\n')
    (tmp_path / "x.jsonl").write_text(f'{{"id": 1}}\n{{"id": 2, "title": "{long}"}}\n{{"id": 3, "title": "b"}}\n')
    found = read(tmp_path / "x.csv")
    assert [row["product_id"] for row in found if row["product_id"]] == ["1", "3", "6"]
    assert found[1]["problems"][0]["detail"] == "line 3 is longer than 1 MB"
    found = read(tmp_path / "x.jsonl")
    assert [row["product_id"] for row in found] == ["1", None, "3"]
    assert found[1]["problems"][0]["detail"] == "line 2 is longer than 1 MB"


def test_headers_that_cannot_serve_are_refused(tmp_path: Path) -> None:
    for content, sentence in (
        (b"id,title,id\n1,a,2\n", r"x\.csv has two columns 'id': rename one of them"),
        (b"id,caf\xe9\n1,a\n", r"x\.csv is not UTF-8 in its header: save it as UTF-8"),
        (b'"id"x,title\n', r"x\.csv has no readable header: line 1: "),
    ):
        (tmp_path / "x.csv").write_bytes(content)
        with pytest.raises(CatalogueError, match=sentence):
            read(tmp_path)


def test_a_csv_by_semicolon_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("id;title;price\n1;a, b;1.5\n")
    assert read(tmp_path)[0]["text"] == ["a, b"]


def test_texts_of_parquet_that_are_not_utf8_are_bad_values(tmp_path: Path) -> None:
    def texts(*values: bytes) -> pa.Array:
        raw = pa.array(values, pa.binary())
        return pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())

    tags = pa.ListArray.from_arrays([0, 1, 2], texts(b"ok", b"caf\xe9"))
    table = pa.table({"id": texts(b"\xff", b"2"), "title": texts(b"a", b"caf\xe9"), "tags": tags})
    write_parquet(tmp_path / "x.parquet", table)
    rows = read(tmp_path)
    assert [(row["product_id"], row["text"], row["kept"]["tags"]) for row in rows] == [
        (None, ["a"], ["ok"]), ("2", [], ["caf\ufffd"]),
    ]  # fmt: skip
    assert problems_of(rows) == {0: [("product_id", "bad_value")], 1: [("title", "bad_value")]}


def test_a_csv_of_any_content_comes_back_as_it_was(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    alphabet = ['"', ",", "\n", "\r\n", "a", "é", "中", " ", "\t", ";", "''", "\0"]
    rows = [
        {"id": f"p{i}", "title": "x" + "".join(rng.choice(alphabet, 6)), "description": "".join(rng.choice(alphabet, 9))}
        for i in range(500)
    ]
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows([list(rows[0]), *[list(row.values()) for row in rows]])
    (tmp_path / "x.csv").write_text(out.getvalue(), encoding="utf-8", newline="")
    found = read(tmp_path)
    assert [(row["product_id"], row["text"]) for row in found] == [
        (row["id"], [row["title"], row["description"]]) for row in rows
    ]
