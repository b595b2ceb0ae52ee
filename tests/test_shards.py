"""Shards are found, told apart and opened, or refused by name."""

from __future__ import annotations

import gzip
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from shop_files import (
    SHOP,
    Row,
    open_catalogue,
    read,
    rows_of,
    write_csv,
    write_jsonl,
    write_parquet,
    zip_file,
)  # fmt: skip

from pipelines.catalogue import (
    CatalogueError,
    list_shards,
    pieces,
    read_piece,
)  # fmt: skip


def test_shards_are_sorted_and_what_lies_beside_them_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("b.jsonl", "a.jsonl"):
        write_jsonl(tmp_path / name, SHOP)
    (tmp_path / "empty.jsonl").touch()
    for beside in ("_SUCCESS", ".hidden.jsonl", "_temporary.jsonl", "README.md"):
        (tmp_path / beside).write_text("x")
    with caplog.at_level(logging.WARNING):
        shards = list_shards([str(tmp_path), f"{tmp_path}/*.jsonl"])
    assert [(shard.index, Path(shard.uri).name) for shard in shards] == [(0, "a.jsonl"), (1, "b.jsonl")]
    assert f"{tmp_path}/empty.jsonl has 0 bytes and is left out" in caplog.text


def test_a_glob_looks_into_folders_but_not_into_hidden_ones(tmp_path: Path) -> None:
    for folder in ("kind=shoe", "kind=shirt", "_temporary/0", ".staging"):
        (tmp_path / folder).mkdir(parents=True)
        write_jsonl(tmp_path / folder / "part.jsonl", SHOP)
    shards = list_shards([f"{tmp_path}/**/*.jsonl"])
    assert [shard.uri for shard in shards] == [f"{tmp_path}/kind={kind}/part.jsonl" for kind in ("shirt", "shoe")]


def test_a_file_whose_name_looks_like_a_glob_is_found(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "shop [new].jsonl", SHOP)
    assert len(list_shards([f"{tmp_path}/shop [new].jsonl"])) == 1


def test_a_pattern_that_matches_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match=r"no file of a catalogue matches '.*/no\.csv': check the path, or give a glob"):
        list_shards([f"{tmp_path}/no.csv"])
    with pytest.raises(CatalogueError, match=r"cannot list nosuch://bucket/\*: "):
        list_shards(["nosuch://bucket/*"])
    (tmp_path / "a.csv").touch()
    with pytest.raises(CatalogueError, match=r"all files that match .* have 0 bytes: write them again"):
        list_shards([f"{tmp_path}/*.csv"])


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x.txt", b"id,title\n", r"x\.txt is of no known format \(\.parquet, .*rename it, or narrow the glob"),
        ("x.csv", b"PAR1....PAR1", r"x\.csv is no text, it is a Parquet file"),
        ("x.parquet", b"id,title\n1,a\n", r"x\.parquet is not a Parquet file, it is of another format: give it the suffix"),
        ("x.csv", "id,title\n1,a\n".encode("utf-16"), r"x\.csv is no text, it is encoded in UTF-16: write it as UTF-8"),
        ("x.jsonl", b"PK\x03\x04....", r"x\.jsonl is no text, it is a ZIP file"),
    ],
)
def test_a_file_that_is_not_what_its_suffix_says_is_refused(
    tmp_path: Path, name: str, content: bytes, sentence: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CatalogueError, match=sentence):
        list_shards([f"{tmp_path}/*"])


def test_content_under_gzip_is_compared_with_the_suffix_too(tmp_path: Path) -> None:
    write_parquet(tmp_path / "x.parquet", SHOP)
    zip_file(tmp_path / "x.parquet").rename(tmp_path / "x.csv.gz")
    with pytest.raises(CatalogueError, match=r"x\.csv\.gz is no text, it is a Parquet file"):
        open_catalogue(tmp_path)


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        ("[\n{}\n]", "line 1 is not JSON: Expecting value at character 1"),
        ('[{"id": 1}]', "line 1 is JSON, but not an object"),
        ("id,title\n1,a\n", "line 1 is not JSON: Expecting value at character 0"),
    ],
)
def test_what_is_no_json_lines_is_refused(tmp_path: Path, content: str, detail: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(CatalogueError, match="does not hold JSON lines, one object a line") as error:
        open_catalogue(tmp_path)
    assert detail in str(error.value)


def test_gzip_is_known_by_content_and_not_by_suffix(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "plain.jsonl.gz", SHOP)
    write_jsonl(tmp_path / "zipped.jsonl", SHOP)
    (tmp_path / "zipped.jsonl").write_bytes(gzip.compress((tmp_path / "zipped.jsonl").read_bytes()))
    shards, schema = open_catalogue(tmp_path)
    assert [shard.compression for shard in shards] == [None, "gzip"]
    assert len(rows_of(shards, schema)) == 6


def test_a_parquet_shard_cut_in_half_is_refused_by_name(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", SHOP)
    write_parquet(tmp_path / "b.parquet", SHOP)
    data = (tmp_path / "b.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(CatalogueError, match=r"b\.parquet is cut off: .*no readable footer; write it again"):
        open_catalogue(tmp_path)


@pytest.mark.parametrize(("name", "write"), [("x.csv", write_csv), ("x.jsonl", write_jsonl), ("x.parquet", write_parquet)])
def test_a_gzipped_shard_cut_in_half_is_refused_by_name(
    tmp_path: Path, name: str, write: Callable[[Path, Sequence[Row]], None]
) -> None:
    rng = np.random.default_rng(0)
    write(tmp_path / name, [{"id": i, "title": rng.bytes(300).hex()} for i in range(3000)])
    zipped = zip_file(tmp_path / name)
    zipped.write_bytes(zipped.read_bytes()[: zipped.stat().st_size // 2])
    with pytest.raises(CatalogueError, match=rf"{name}\.gz is cut off: its gzip stream has no end; write it again"):
        read(tmp_path)


def test_a_gzipped_shard_cut_behind_what_is_inspected_is_refused_while_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.catalogue._SAMPLE_BYTES", range(1, 10_000))
    rng = np.random.default_rng(0)
    write_jsonl(tmp_path / "x.jsonl", [{"id": i, "title": rng.bytes(300).hex()} for i in range(9000)])
    zipped = zip_file(tmp_path / "x.jsonl")
    zipped.write_bytes(zipped.read_bytes()[: zipped.stat().st_size // 2])
    shards, schema = open_catalogue(tmp_path)
    with pytest.raises(CatalogueError, match=r"x\.jsonl\.gz is cut off"):
        rows_of(shards, schema)


def test_damage_inside_a_shard_is_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    write_parquet(tmp_path / "x.parquet", [{"id": i, "title": rng.bytes(99).hex()} for i in range(2000)])
    write_csv(tmp_path / "y.csv", SHOP)
    for path in (tmp_path / "x.parquet", zip_file(tmp_path / "y.csv")):
        data = bytearray(path.read_bytes())
        data[20 : len(data) - 4000 if path.suffix == ".parquet" else 40] = b"\xff" * (
            len(data) - 4020 if path.suffix == ".parquet" else 20
        )
        path.write_bytes(bytes(data))
        with pytest.raises(CatalogueError, match=rf"{path.name} is damaged: .*; write it again"):
            read(path)


@pytest.mark.parametrize(("name", "write"), [("x.csv", write_csv), ("x.parquet", write_parquet)])
def test_a_shard_that_changes_after_listing_is_refused(
    tmp_path: Path, name: str, write: Callable[[Path, Sequence[Row]], None]
) -> None:
    write(tmp_path / name, SHOP)
    shards, schema = open_catalogue(tmp_path)
    os.utime(tmp_path / name, ns=(1, 1))
    with pytest.raises(CatalogueError, match=rf"{name} has changed since the run listed it: start the run again"):
        rows_of(shards, schema)
    (tmp_path / name).unlink()
    with pytest.raises(CatalogueError, match=rf"{name} has changed since the run listed it"):
        rows_of(shards, schema)


def test_a_shard_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    write_csv(tmp_path / "x.csv", SHOP)
    shards, schema = open_catalogue(tmp_path)
    batches = read_piece(pieces(shards[0])[0], schema, batch_rows=1)
    next(batches)
    os.utime(tmp_path / "x.csv", ns=(1, 1))
    with pytest.raises(CatalogueError, match="has changed since the run listed it"):
        list(batches)


@pytest.mark.parametrize(
    ("name", "content"),
    [("x.csv", b"id,title\n"), ("x.csv", b"\n"), ("x.jsonl", b"\n\n"), ("x.jsonl.gz", gzip.compress(b"", mtime=0))],
)
def test_shards_without_rows_read_as_nothing(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    write_parquet(tmp_path / "none.parquet", pa.table({"other": pa.array([], pa.int8())}))
    with pytest.raises(CatalogueError, match="the catalogue has no rows: all of its 2 files are empty"):
        open_catalogue(tmp_path)
    write_jsonl(tmp_path / "z.jsonl", SHOP)
    shards, schema = open_catalogue(tmp_path)
    assert len(shards) == 3
    assert "other" not in schema.kept.names
    assert [row["shard"] for row in rows_of(shards, schema)] == [2, 2, 2]
