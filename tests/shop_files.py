"""Catalogue files of every format for tests, and what is read of them."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.catalogue import (
    CatalogueOptions,
    CatalogueSchema,
    Shard,
    batch_schema,
    inspect,
    list_shards,
    pieces,
    read_piece,
)  # fmt: skip

Row = dict[str, Any]
Member = tuple[str, bytes]


def write_parquet(path: Path, rows: Sequence[Row] | pa.Table, **options: Any) -> None:
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows))
    pq.write_table(table, path, **options)


def write_jsonl(path: Path, rows: Sequence[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_csv(path: Path, rows: Sequence[Row], delimiter: str = ",") -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([names, *[[row.get(name) for name in names] for row in rows]])


def write_tsv(path: Path, rows: Sequence[Row]) -> None:
    write_csv(path, rows, "\t")


def feature(value: Any) -> Any:
    import tensorflow as tf

    values = value if isinstance(value, list) else [value]
    if values and isinstance(values[0], int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    if values and isinstance(values[0], float):
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    raw = [item.encode() if isinstance(item, str) else item for item in values]
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=raw))


def example(**features: Any) -> bytes:
    import tensorflow as tf

    named = {name.replace("__", "/"): feature(value) for name, value in features.items()}
    return bytes(tf.train.Example(features=tf.train.Features(feature=named)).SerializeToString())


def write_tfrecord(path: Path, examples: Sequence[bytes], compression: str = "") -> Path:
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for data in examples:
            writer.write(data)
    return path


def write_tar(path: Path, members: Sequence[Member], form: int = tarfile.GNU_FORMAT) -> Path:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    data = stream.getvalue()
    path.write_bytes(gzip.compress(data) if path.suffix in (".gz", ".tgz") else data)
    return path


def zip_file(path: Path) -> Path:
    zipped = path.with_name(path.name + ".gz")
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    return zipped


def open_catalogue(*patterns: Path | str, **options: Any) -> tuple[list[Shard], CatalogueSchema]:
    names = tuple(str(pattern) for pattern in patterns)
    shards = list_shards(names)
    return shards, inspect(shards, CatalogueOptions(names, **options))


def rows_of(shards: Sequence[Shard], schema: CatalogueSchema, **how: Any) -> list[Row]:
    found: list[Row] = []
    for shard in shards:
        for piece in pieces(shard):
            for batch in read_piece(piece, schema, **how):
                assert batch.schema.equals(batch_schema(schema))
                batch.validate(full=True)
                found += [{**row, "shard": shard.index} for row in batch.to_pylist()]
    return found


def read(*patterns: Path | str, **options: Any) -> list[Row]:
    return rows_of(*open_catalogue(*patterns, **options))


def problems_of(rows: Sequence[Row]) -> dict[int, list[tuple[str | None, str]]]:
    return {row["row"]: [(p["field"], p["reason"]) for p in row["problems"]] for row in rows if row["problems"]}


SHOP: list[Row] = [
    {"id": "a1", "title": "Red shoe", "description": 'With "quotes", commas\nand lines', "price": 19.5, "stock": 3},
    {"id": "a2", "title": "蓝色 衬衫", "description": None, "price": 20.0, "stock": 0},
    {"id": "a3", "title": "Hat", "description": "plain", "price": None, "stock": 12},
]


def publish(folder: Path, bundle: Path, *patterns: Path | str, **settings: Any) -> tuple[Any, dict[str, Row]]:
    """Run a catalogue into a published version below `folder`; return the report and what is indexed, by product id."""
    from catalogue_lookup import open_index
    from pipelines.config import read_config
    from pipelines.run import run

    names = [str(pattern) for pattern in patterns]
    flags = {"index": str(folder / "index"), "catalogue": names, "bundle": str(bundle), "trees": 5}
    report = run(read_config(None, flags | settings))
    with open_index(str(folder / "index")) as index:
        hits = index.search(text="shirt", k=report.indexed)
        return report, {hit.product_id: hit.columns for hit in hits}


def rejects_of(folder: Path, report: Any) -> list[Row]:
    """Return what a run below `folder` rejected, by shard and row."""
    files = sorted((folder / "index" / "runs" / report.version / "rejects").glob("*.parquet"))
    found = [row for file in files for row in pq.read_table(file).to_pylist()]
    return sorted(found, key=lambda row: (row["shard"], row["row"], row["field"] or ""))
