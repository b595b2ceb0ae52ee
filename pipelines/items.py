"""Ids and columns of a version's products, taken from its files of vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from encoders.fusion import STRUCTURED
from pipelines.layout import ORDER, PRODUCT_ID, VECTOR, modality_vector
from pipelines.recall import VectorsFile, open_vectors

ITEMS_BATCH_ROWS = 8_192


class BuildError(ValueError):
    """The files of vectors cannot be made an index; the message names the file."""


def write_items(files: Sequence[VectorsFile], modalities: Sequence[str], path: Path) -> int:
    """Write ids and columns of all items as an Arrow file of batches of 8,192 rows; returns the rows.

    Raises:
        BuildError: a file is not sorted, or has other columns or rows than told.
    """
    tables = _item_tables(files, modalities)
    first = next(tables, None)
    schema = pa.schema([(PRODUCT_ID, pa.string()), (ORDER, pa.uint64())]) if first is None else first.schema
    rows = 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        pending = [] if first is None else [first]
        for table in tables:
            pending.append(table)
            if sum(part.num_rows for part in pending) >= ITEMS_BATCH_ROWS:
                whole = pa.concat_tables(pending).combine_chunks()
                cut = whole.num_rows - whole.num_rows % ITEMS_BATCH_ROWS
                writer.write_table(whole.slice(0, cut), max_chunksize=ITEMS_BATCH_ROWS)
                pending, rows = [whole.slice(cut)], rows + cut
        if pending:
            whole = pa.concat_tables(pending).combine_chunks()
            writer.write_table(whole, max_chunksize=ITEMS_BATCH_ROWS)
            rows += whole.num_rows
    return rows


def _item_tables(files: Sequence[VectorsFile], modalities: Sequence[str]) -> Iterator[pa.Table]:
    hidden = {ORDER, PRODUCT_ID, VECTOR, *(modality_vector(name) for name in (*modalities, STRUCTURED))}
    schema: pa.Schema | None = None
    last = (-1, "")
    for file in files:
        with open_vectors(file.path) as parquet:
            if parquet.metadata.num_rows != file.rows:
                raise BuildError(f"{file.path} has {parquet.metadata.num_rows:,} rows instead of {file.rows:,}: fuse it again")
            names = [PRODUCT_ID, ORDER, *(name for name in parquet.schema_arrow.names if name not in hidden)]
            own = pa.schema([_plain(parquet.schema_arrow.field(name)) for name in names])
            schema = schema or own
            if own != schema:
                raise BuildError(f"{file.path} has other columns than the file before: fuse all partitions by one run")
            start = 0
            for batch in parquet.iter_batches(ITEMS_BATCH_ROWS, columns=names, use_threads=False):
                table = pa.Table.from_batches([batch]).select(names).replace_schema_metadata(None).cast(schema)
                last = _check_sorted(table, last, file, start)
                start += table.num_rows
                yield table


def _plain(field: pa.Field) -> pa.Field:
    """Return the field without metadata and dictionary, of which an Arrow file may hold one a column only."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    return pa.field(field.name, kind)


def _check_sorted(table: pa.Table, last: tuple[int, str], file: VectorsFile, start: int) -> tuple[int, str]:
    """Check that rows follow the one order without a repeat; returns the last of them."""
    orders = table[ORDER].to_numpy()
    ids = table[PRODUCT_ID]
    rows = [0, *(np.flatnonzero(orders[1:] <= orders[:-1]) + 1).tolist()] if len(orders) else []
    for row in rows:
        before = (int(orders[row - 1]), ids[row - 1].as_py()) if row else last
        if (int(orders[row]), ids[row].as_py()) <= before:
            raise BuildError(
                f"row {start + row} of {file.path} is not after the row before by order and product_id: fuse it again"
            )
    return (int(orders[-1]), ids[-1].as_py()) if len(orders) else last
