"""Every format gives the same rows, in pieces and batches of bounded size."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import jpeg
from shop_files import (
    SHOP,
    Row,
    example,
    open_catalogue,
    problems_of,
    rows_of,
    write_csv,
    write_jsonl,
    write_parquet,
    write_tar,
    write_tfrecord,
    write_tsv,
    zip_file,
)  # fmt: skip

from pipelines.catalogue import (
    CatalogueError,
    list_shards,
    pieces,
    read_pictures,
    read_piece,
)  # fmt: skip


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("name", "write"),
    [("x.parquet", write_parquet), ("x.jsonl", write_jsonl), ("x.csv", write_csv), ("x.tsv", write_tsv)],
)
def test_every_format_gives_the_same_rows(
    tmp_path: Path, name: str, write: Callable[[Path, Sequence[Row]], None], zipped: bool
) -> None:
    write(tmp_path / name, SHOP)
    if zipped:
        zip_file(tmp_path / name)
    shards, schema = open_catalogue(tmp_path)
    assert shards[0].format == name.split(".")[1]
    assert shards[0].compression == ("gzip" if zipped else None)
    assert schema.text == ("title", "description")
    assert schema.picture_kind is None
    assert [(field.name, field.type) for field in schema.kept] == [
        ("title", pa.string()), ("price", pa.float64()), ("description", pa.string()), ("stock", pa.int64()),
    ]  # fmt: skip
    rows = rows_of(shards, schema)
    assert [row["row"] for row in rows] == [0, 1, 2]
    assert [row["row_group"] for row in rows] == ([0, 0, 0] if "parquet" in name else [None] * 3)
    assert [row["product_id"] for row in rows] == ["a1", "a2", "a3"]
    assert [row["text"] for row in rows] == [
        ["Red shoe", 'With "quotes", commas\nand lines'], ["蓝色 衬衫"], ["Hat", "plain"],
    ]  # fmt: skip
    assert [row["price"] and float(row["price"]) for row in rows] == [19.5, 20.0, None]
    assert [row["kept"] for row in rows] == [{name: row[name] for name in schema.kept.names} for row in SHOP]
    assert not problems_of(rows)


def test_schema_and_pieces_survive_pickling(tmp_path: Path) -> None:
    write_parquet(tmp_path / "x.parquet", SHOP)
    shards, schema = open_catalogue(tmp_path)
    again = pickle.loads(pickle.dumps((shards, schema, pieces(shards[0]))))
    assert rows_of(again[0], again[1]) == rows_of(shards, schema)


def test_parquet_is_cut_into_pieces_of_row_groups_and_text_is_not(tmp_path: Path) -> None:
    rows = 150_000
    table = pa.table({"id": pa.array(range(rows)), "title": pa.array(["t"] * rows)})
    write_parquet(tmp_path / "x.parquet", table, row_group_size=30_000)
    shards, schema = open_catalogue(tmp_path)
    cut = pieces(shards[0])
    assert [(piece.index, piece.first_row, piece.row_groups, piece.rows) for piece in cut] == [
        (0, 0, (0, 1), 60_000), (1, 60_000, (2, 3), 60_000), (2, 120_000, (4,), 30_000),
    ]  # fmt: skip
    batch = next(read_piece(cut[1], schema))
    assert batch["row"][0].as_py() == 60_000
    assert batch["row_group"][0].as_py() == 2
    assert batch["product_id"][0].as_py() == "60000"
    write_csv(tmp_path / "x.csv", SHOP)
    assert [piece.row_groups for piece in pieces(list_shards([str(tmp_path / "x.csv")])[0])] == [None]


@pytest.mark.parametrize(
    ("name", "write"), [("x.parquet", write_parquet), ("x.jsonl", write_jsonl), ("x.csv", write_csv)]
)
def test_batches_keep_to_rows_and_bytes_and_stop_where_they_are_told(
    tmp_path: Path, name: str, write: Callable[[Path, Sequence[Row]], None]
) -> None:
    write(tmp_path / name, [{"id": i, "title": "x" * 1000} for i in range(500)])
    shards, schema = open_catalogue(tmp_path)
    (piece,) = pieces(shards[0])
    assert max(batch.num_rows for batch in read_piece(piece, schema, batch_rows=64)) == 64
    small = list(read_piece(piece, schema, batch_bytes=20_000))
    assert max(batch.nbytes for batch in small) < 80_000
    assert sum(batch.num_rows for batch in small) == 500
    for stop in (0, 1, 64, 100, 500, 600):
        rows = [row for batch in read_piece(piece, schema, batch_rows=64, stop_row=stop) for row in batch["row"].to_pylist()]
        assert rows == list(range(min(stop, 500)))


def test_no_row_group_of_pictures_is_whole_in_memory(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = pa.table({"id": range(300), "image": [rng.bytes(200_000) for _ in range(300)]})
    # A page is read whole, and pyarrow ends none before so many rows.
    write_parquet(tmp_path / "x.parquet", table, write_batch_size=16, use_dictionary=False)
    group = 300 * 200_000
    shards, schema = open_catalogue(tmp_path)
    assert pq.ParquetFile(tmp_path / "x.parquet").num_row_groups == 1
    previous, pool = pa.default_memory_pool(), pa.system_memory_pool()
    pa.set_memory_pool(pool)
    try:
        before, count = pool.bytes_allocated(), 0
        peak = 0
        for batch in read_piece(pieces(shards[0])[0], schema, batch_bytes=8 << 20):
            count += batch.num_rows
            peak = max(peak, pool.bytes_allocated() - before)
        assert count == 300
        assert pool.max_memory() - before < group / 4
        assert len(list(read_pictures(shards[0], range(0, 300, 7), None, schema, batch_bytes=8 << 20))) == 43
        assert pool.max_memory() - before < group / 4
    finally:
        pa.set_memory_pool(previous)


def test_one_large_picture_that_all_rows_repeat_does_not_fill_memory(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).bytes(900_000)
    table = pa.table({"id": range(200), "image": pa.array([picture] * 200, pa.binary())})
    write_parquet(tmp_path / "x.parquet", table)
    assert (tmp_path / "x.parquet").stat().st_size < 2_000_000
    shards, schema = open_catalogue(tmp_path)
    sizes = [batch.nbytes for batch in read_piece(pieces(shards[0])[0], schema, batch_bytes=8 << 20)]
    assert max(sizes) < 10 << 20


def test_catalogues_are_read_through_beams_filesystems(tmp_path: Path) -> None:
    from apache_beam.io.filesystem import CompressionTypes
    from apache_beam.io.localfilesystem import LocalFileSystem

    class ShopFileSystem(LocalFileSystem):
        """Files of a folder under a scheme of their own, as an object store has them."""

        @classmethod
        def scheme(cls) -> str:
            return "shop"

        def _local(self, path: str) -> str:
            return str(path).replace("shop://bucket", str(tmp_path))

        def join(self, basepath: str, *paths: str) -> str:
            return "/".join([basepath.rstrip("/"), *paths])

        def _list(self, dir_or_prefix: str) -> Any:
            for found in super()._list(self._local(dir_or_prefix)):
                found.path = found.path.replace(str(tmp_path), "shop://bucket")
                yield found

        def exists(self, path: str) -> bool:
            return bool(super().exists(self._local(path)))

        def metadata(self, path: str) -> Any:
            found = super().metadata(self._local(path))
            found.path = path
            return found

        def open(self, path: str, mime_type: str = "", compression_type: str = CompressionTypes.AUTO) -> Any:
            return super().open(self._local(path), mime_type, compression_type)

    write_csv(tmp_path / "a.csv", SHOP)
    zip_file(tmp_path / "a.csv")
    write_parquet(tmp_path / "b.parquet", SHOP)
    write_parquet(tmp_path / "c.parquet", SHOP)
    zip_file(tmp_path / "c.parquet")
    for pattern in ("shop://bucket/*", "shop://bucket"):
        shards, schema = open_catalogue(pattern)
        assert [shard.uri for shard in shards] == [
            f"shop://bucket/{name}" for name in ("a.csv.gz", "b.parquet", "c.parquet.gz")
        ]
        assert [row["product_id"] for row in rows_of(shards, schema)] == ["a1", "a2", "a3"] * 3
    with pytest.raises(CatalogueError, match=r"no file of a catalogue matches 'shop://bucket/none\.csv'"):
        list_shards(["shop://bucket/none.csv"])
    red, blue = jpeg((200, 30, 30), 1), jpeg((30, 40, 210), 2)
    write_tfrecord(tmp_path / "t.tfrecord", [example(id=1, image=red), example(id=2), example(id=3, image=blue)])
    write_tar(tmp_path / "w.tar", [("1.jpg", red), ("2.txt", b"no picture"), ("3.jpg", blue)])
    for name in ("t.tfrecord", "w.tar"):
        shards, schema = open_catalogue(f"shop://bucket/{name}")
        assert [row["picture_bytes"] for row in rows_of(shards, schema)] == [[red], None, [blue]]
        assert list(read_pictures(shards[0], [1, 2], None, schema)) == [(1, []), (2, [blue])]


def test_the_real_catalogues_are_read_whole(real_data: Path) -> None:
    shards, schema = open_catalogue(real_data / "fashion224")
    assert (schema.picture_kind, schema.text) == ("bytes", ("title",))
    rows = rows_of(shards, schema)
    assert len({row["product_id"] for row in rows}) == 7698
    assert all(row["picture_bytes"][0][:2] == b"\xff\xd8" for row in rows)
    wanted = [row for row in rows if row["shard"] == 3 and row["row"] % 50 == 7]
    found = read_pictures(shards[3], [row["row"] for row in wanted], sorted({row["row_group"] for row in wanted}), schema)
    assert [pictures for _, pictures in found] == [row["picture_bytes"] for row in wanted]

    shards, schema = open_catalogue(real_data / "magento", text=("title", "description", "attributes.color"))
    assert schema.picture_kind == "path"
    rows = rows_of(shards, schema)
    assert len(rows) == 185
    assert rows[0]["text"][2:] == ["Black", "Gray", "Orange"]
    assert all(os.path.exists(real_data / "magento" / path) for row in rows for path in row["picture_paths"])

    shards, schema = open_catalogue(real_data / "retail")
    rows = rows_of(shards, schema)
    assert (schema.picture_kind, len(rows)) == (None, 2465)
    assert {str(schema.kept.field(name).type) for name in ("price", "current_stock", "promoted")} == {"double", "int64", "bool"}
    assert not problems_of(rows)
