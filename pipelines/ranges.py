"""Sorted Parquet files read by range: what moves rows from one stage's elements to the next stage's.

A stage that reads by shard and one that reads by partition meet here: the first leaves files sorted by the
column the second cuts by, and each element of the second reads its own range of every file. So the exchange is
resumable file by file, and its memory is that of one element; it costs files x elements range reads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from encoders.integrity import FileEntry
from pipelines import storage
from pipelines.layout import ROW_GROUP


def serialise(table: pa.Table, compression: str | None = "zstd") -> pa.Buffer:
    """Serialise a table as a Parquet file of row groups of 1,024 rows."""
    sink = pa.BufferOutputStream()
    # Nested columns go by their leaves here: vectors and features stay plain, dictionaries of them only cost.
    dictionary = [field.name for field in table.schema if pa.types.is_string(field.type)] if compression else False
    pq.write_table(
        table, sink, row_group_size=ROW_GROUP, compression=compression or "none", use_dictionary=dictionary, store_schema=True
    )
    return sink.getvalue()


def write_table(path: str, table: pa.Table, compression: str | None = "zstd") -> FileEntry:
    """Write a table whole and describe the file."""
    data = serialise(table, compression)
    storage.write_whole(path, data)
    return FileEntry(data.size, hashlib.sha256(data).hexdigest())


def read_table(path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read some columns of a whole Parquet file."""
    with storage.open_input(path) as source, pq.ParquetFile(source) as file:
        return file.read(columns=columns, use_threads=False)


def read_range(path: str, column: str, first: int, last: int, columns: Sequence[str] | None = None) -> pa.Table:
    """Read the rows whose `column` lies in [first, last] from a file sorted by it.

    Only the row groups whose statistics reach into the range are read.
    """
    with storage.open_input(path) as source, pq.ParquetFile(source, pre_buffer=False) as file:
        groups = _groups_in_range(file, column, first, last)
        wanted = None if columns is None else list(dict.fromkeys([*columns, column]))
        table = file.read_row_groups(groups, columns=wanted, use_threads=False)
    values = table[column]
    kind = values.type
    inside = pc.and_(pc.greater_equal(values, pa.scalar(first, kind)), pc.less_equal(values, pa.scalar(last, kind)))
    table = table.filter(inside)
    return table if columns is None else table.select(list(columns))


def read_matching(path: str, column: str, values: Collection[int], columns: Sequence[str]) -> pa.Table:
    """Read the rows whose `column` is one of `values` from a file sorted by it.

    Only the row groups whose statistics say that one may be in them are read: of most files the footer alone.
    """
    with storage.open_input(path) as source, pq.ParquetFile(source, pre_buffer=False) as file:
        groups = sorted({group for value in values for group in _groups_in_range(file, column, value, value)})
        table = file.read_row_groups(groups, columns=list(dict.fromkeys([*columns, column])), use_threads=False)
    found = pc.is_in(table[column], pa.array(sorted(values), table[column].type))
    return table.filter(found).select(list(columns))


def _groups_in_range(file: pq.ParquetFile, column: str, first: Any, last: Any) -> list[int]:
    metadata = file.metadata
    leaf = next(i for i in range(metadata.num_columns) if file.schema.column(i).path == column)
    groups = []
    for group in range(metadata.num_row_groups):
        statistics = metadata.row_group(group).column(leaf).statistics
        if statistics is None or not statistics.has_min_max or (statistics.min <= last and statistics.max >= first):
            groups.append(group)
    return groups


def find_rows(path: str, column: str, value: int | str, columns: Sequence[str] | None = None) -> list[tuple[int, dict[str, Any]]]:
    """Return the rows of a file whose `column` has a value, each with its number; row groups that cannot have it are not read."""
    found = []
    with storage.open_input(path) as source, pq.ParquetFile(source, pre_buffer=False) as file:
        starts = np.cumsum([0, *(file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))])
        wanted = None if columns is None else list(dict.fromkeys([*columns, column]))
        for group in _groups_in_range(file, column, value, value):
            table = file.read_row_group(group, columns=[column], use_threads=False)
            rows = pc.indices_nonzero(pc.equal(table[column], pa.scalar(value, table[column].type)))
            if len(rows):
                whole = file.read_row_group(group, columns=wanted, use_threads=False).take(rows)
                found += [(int(starts[group]) + row, one) for row, one in zip(rows.to_pylist(), whole.to_pylist(), strict=True)]
    return found


def read_ranges(
    paths: Iterable[str], column: str, first: int, last: int, columns: Sequence[str] | None = None
) -> list[pa.Table]:
    """Read the same range of several files; files without a row in it give none."""
    tables = (read_range(path, column, first, last, columns) for path in paths)
    return [table for table in tables if table.num_rows]
