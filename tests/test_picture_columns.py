"""Pictures are read from inside shards or named by path, however the column holds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from shop_files import (
    open_catalogue,
    problems_of,
    read,
    rows_of,
    write_jsonl,
    write_parquet,
)  # fmt: skip

from pipelines.catalogue import (
    CatalogueError,
    read_pictures,
)  # fmt: skip

PIXELS = [b"first", b"second", b"third"]


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (pa.array([PIXELS[0], None, b""]), "plain"),
        (pa.array([PIXELS[0], None, b""], pa.large_binary()), "large"),
        (pa.array([[PIXELS[0]], None, [b""]]), "list"),
        (pa.array([[PIXELS[0], None], [], [b"", b"cut", b"off"]]), "list with nulls"),
        (pa.array([{"bytes": PIXELS[0], "path": "1.jpg"}, None, {"bytes": b"", "path": None}]), "Hugging Face"),
        (pa.array([[{"bytes": PIXELS[0], "path": None}], [], [{"bytes": b"", "path": "3.jpg"}]]), "list of Hugging Face"),
    ],
)
def test_pictures_inside_shards_are_read(tmp_path: Path, cells: pa.Array, kind: str) -> None:
    write_parquet(tmp_path / "x.parquet", pa.table({"id": [1, 2, 3], "image": cells}))
    shards, schema = open_catalogue(tmp_path, max_pictures=2)
    assert schema.picture_kind == "bytes"
    assert schema.text == ()
    assert "picture" not in schema.kept.names
    rows = rows_of(shards, schema)
    last = [b"", b"cut"] if kind == "list with nulls" else [b""]
    assert [row["picture_bytes"] for row in rows] == [[b"first"], None, last]
    assert [row["picture_paths"] for row in rows] == [None] * 3
    assert list(read_pictures(shards[0], [0, 1, 2], None, schema)) == [(0, [b"first"]), (1, []), (2, last)]
    assert not problems_of(rows)
    assert [row["picture_bytes"] for row in rows_of(shards, schema, pictures=False)] == [None] * 3


@pytest.mark.parametrize(
    "cells",
    [
        ["1.jpg", None, ""],
        [["1.jpg"], None, []],
        [["1.jpg", None], [], ["", None]],
        [{"bytes": None, "path": "1.jpg"}, None, {"bytes": None, "path": None}],
        [[{"bytes": None, "path": "1.jpg"}], [], None],
        [{"url": "1.jpg", "width": 3}, None, {"url": "", "width": 3}],
    ],
)
def test_pictures_named_by_path_are_read(tmp_path: Path, cells: list[Any]) -> None:
    rows = [{"id": i, "image": cell} for i, cell in enumerate(cells)]
    write_jsonl(tmp_path / "x.jsonl", rows)
    kind = pa.array(cells).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    write_parquet(tmp_path / "x.parquet", pa.table({"id": [0, 1, 2], "image": pa.array(cells, kind)}))
    for name in ("x.jsonl", "x.parquet"):
        shards, schema = open_catalogue(tmp_path / name)
        assert schema.picture_kind == "path"
        found = rows_of(shards, schema)
        assert [row["picture_paths"] for row in found] == [["1.jpg"], None, None]
        assert [row["picture_bytes"] for row in found] == [None] * 3
        assert not problems_of(found)
    with pytest.raises(CatalogueError, match="has no pictures inside: they are named by path"):
        list(read_pictures(shards[0], [0], None, schema))


def test_bytes_in_one_shard_and_paths_in_another_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [{"id": 1, "image": b"x"}])
    write_jsonl(tmp_path / "b.jsonl", [{"id": 2, "image": "x.jpg"}])
    with pytest.raises(
        CatalogueError, match=r"the pictures in 'image' are bytes in .*a\.parquet and paths in .*b\.jsonl: give catalogues"
    ):
        open_catalogue(tmp_path)


def test_a_picture_with_a_path_only_among_bytes_is_a_bad_value(tmp_path: Path) -> None:
    cells = [{"bytes": b"x", "path": "1.jpg"}, {"bytes": None, "path": "2.jpg"}]
    write_parquet(tmp_path / "x.parquet", [{"id": i, "title": "a", "image": cell} for i, cell in enumerate(cells)])
    assert problems_of(read(tmp_path)) == {1: [("picture", "bad_value")]}


def test_wanted_pictures_only_are_read(tmp_path: Path) -> None:
    pictures = [f"{i}".encode() * 50 for i in range(1000)]
    write_parquet(tmp_path / "x.parquet", pa.table({"id": range(1000), "image": pictures}), row_group_size=100)
    shards, schema = open_catalogue(tmp_path)
    wanted = [0, 1, 99, 100, 555, 998]
    expected = [(row, [pictures[row]]) for row in wanted]
    assert list(read_pictures(shards[0], wanted, None, schema)) == expected
    assert list(read_pictures(shards[0], wanted, [0, 1, 5, 9], schema)) == expected
    assert list(read_pictures(shards[0], wanted, None, schema, batch_bytes=5000)) == expected
    assert list(read_pictures(shards[0], [], None, schema)) == []
    with pytest.raises(CatalogueError, match="has 1000 rows and no row 1000: start the run again"):
        list(read_pictures(shards[0], [5, 1000], None, schema))
