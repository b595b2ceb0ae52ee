"""Vectors files as BUILD reads them, and the file of items it makes of their other columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.layout import MODALITIES, ORDER, PRODUCT_ID, ROW_GROUP, VECTOR, modality_vector

ITEM_ROWS = 16_384
BARE_SCHEMA = pa.schema([(ORDER, pa.uint64()), (PRODUCT_ID, pa.string())])


@dataclass(frozen=True)
class Slice:
    """Rows [start, stop) of a vectors file, which is named below the version's folder."""

    file: str
    start: int
    stop: int


@dataclass(frozen=True)
class ShardPlan:
    """What goes into one Annoy file: `rows` products from row `first` of the version on."""

    number: int
    first: int
    rows: int
    slices: tuple[Slice, ...]

    @property
    def name(self) -> str:
        """Name of the shard in paths."""
        return f"{self.number:05d}"


def plan_shards(fused: Sequence[Mapping[str, Any]], max_items: int) -> list[ShardPlan]:
    """Cut the rows of all vectors files, in order, into the least number of shards, of nearly equal size."""
    files = [(entry["file"], entry["rows"]) for entry in fused if entry["rows"]]
    total = sum(rows for _, rows in files)
    count = -(-total // max_items)
    bounds = [total * number // count for number in range(count + 1)] if count else [0]
    starts = np.concatenate([[0], np.cumsum([rows for _, rows in files])]).astype(int).tolist()
    plans = []
    for number in range(count):
        first, last = bounds[number], bounds[number + 1]
        slices = tuple(
            Slice(name, max(first, start) - start, min(last, start + rows) - start)
            for (name, rows), start in zip(files, starts[:-1], strict=True)
            if start < last and start + rows > first
        )
        plans.append(ShardPlan(number, first, last - first, slices))
    return plans


def read_slice(
    path: str, start: int, stop: int, columns: Sequence[str] | None = None, shown: bool = False
) -> Iterator[pa.RecordBatch]:
    """Read rows [start, stop) of a vectors file in small batches, only the row groups that hold them.

    Args:
        path: the file.
        start: first row.
        stop: row after the last.
        columns: columns to read, by default all.
        shown: read the columns that an answer shows instead.

    Raises:
        storage.StorageError: the file is no whole Parquet file; it is named.
    """
    try:
        with storage.open_input(path) as source, pq.ParquetFile(source, pre_buffer=False) as file:
            ends = np.cumsum([file.metadata.row_group(g).num_rows for g in range(file.metadata.num_row_groups)])
            low, high = int(np.searchsorted(ends, start, "right")), int(np.searchsorted(ends, stop, "left"))
            at = int(ends[low - 1]) if low else 0
            groups = list(range(low, min(high + 1, len(ends))))
            wanted = shown_columns(file.schema_arrow) if shown else columns
            for batch in file.iter_batches(ROW_GROUP, row_groups=groups, columns=wanted, use_threads=False):
                begin, end = max(start - at, 0), min(stop - at, batch.num_rows)
                if end > begin:
                    yield batch.slice(begin, end - begin)
                at += batch.num_rows
    except pa.ArrowInvalid as error:
        raise storage.StorageError(f"cannot read {path}: {error}; run FUSE again") from error


def vectors_of(batch: pa.RecordBatch) -> np.ndarray:
    """Return the vectors of a batch as float32[N, D]."""
    column = batch.column(VECTOR)
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)


def single_vectors(batch: pa.RecordBatch, modality: str) -> np.ndarray | None:
    """Return a modality's own vectors in a batch, float32[N, d] of the rows that have one; None: none has."""
    name = modality_vector(modality)
    if name not in batch.schema.names:
        return None
    column = batch.column(name).drop_null()
    if not len(column):
        return None
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1).astype(np.float32)


def check_vectors(vectors: np.ndarray, path: str, row: int) -> None:
    """Refuse vectors that Annoy would take without complaint and then answer wrongly.

    Raises:
        storage.StorageError: naming the file and the first row whose vector is zero or not finite.
    """
    bad = ~np.isfinite(vectors).all(axis=1) | ~vectors.any(axis=1)
    if bad.any():
        which = int(np.argmax(bad))
        what = "zero" if np.isfinite(vectors[which]).all() else "not finite"
        raise storage.StorageError(
            f"the vector in row {row + which} of {path} is {what}: delete the file and the run's folder, and run again"
        )


def check_rows(slices: Sequence[Slice], found: int, expected: int) -> None:
    """Refuse vectors files with fewer rows than FUSE wrote.

    Raises:
        StorageError: naming them.
    """
    if found != expected:
        names = ", ".join(part.file for part in slices)
        raise storage.StorageError(f"{found:,} rows instead of {expected:,} are in {names}: run FUSE again")


def shown_columns(schema: pa.Schema) -> list[str]:
    """Return the columns of a vectors file that an answer shows, order and product_id first."""
    hidden = {VECTOR, *(modality_vector(modality) for modality in MODALITIES)}
    return [name for name in schema.names if name not in hidden]


class ItemWriter:
    """Writes order, product_id and the kept columns as an Arrow file of batches of 16,384 rows."""

    def __init__(self, path: Path, schema: pa.Schema):
        # An Arrow file may hold one dictionary a column only.
        plain = [
            pa.field(f.name, f.type.value_type if pa.types.is_dictionary(f.type) else f.type)
            for f in (schema.field(name) for name in shown_columns(schema))
        ]
        self.schema = pa.schema(plain)
        self._sink = pa.OSFile(str(path), "wb")
        self._file = pa.ipc.new_file(self._sink, self.schema)
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows."""
        self._waiting.append(batch.select(self.schema.names).cast(self.schema))
        self._rows += batch.num_rows
        if self._rows >= ITEM_ROWS:
            self._flush(self._rows - self._rows % ITEM_ROWS)

    def _flush(self, rows: int) -> None:
        table = pa.Table.from_batches(self._waiting, self.schema).combine_chunks()
        self._file.write_table(table.slice(0, rows), max_chunksize=ITEM_ROWS)
        rest = table.slice(rows)
        self._waiting, self._rows = rest.to_batches(), rest.num_rows

    def close(self) -> None:
        """Write what waits and finish the file."""
        self._flush(self._rows)
        self._file.close()
        self._sink.close()
