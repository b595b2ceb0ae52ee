"""Rows and pictures of Parquet shards, streamed: no row group is ever whole in memory.

The smallest thing the format lets one read is a page. Most writers end a page at 1 MB; pyarrow ends it at 1 MB or
`write_batch_size` rows (1,024 unless told otherwise), whichever comes last, so large pictures want a smaller one. Where a
writer gave pages checksums they are verified.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.column_types import Path, is_list
from pipelines.columns import Block, Column, descend, lists_of
from pipelines.picture_columns import picture_lists
from pipelines.schema import ShardColumns
from pipelines.shards import CatalogueError, Piece, Shard, check_content, open_seekable

PIECE_ROWS = 65_536
_BUFFER_BYTES = 1 << 20
# The reader decodes a batch beside pages it holds; and rows differ in size.
_BATCH_SHARE = 4
_DICTIONARY_BYTES = 1 << 20
_LIST_LEVELS = re.compile(r"\.(list\.(element|item)|bag\.array(_element)?|array)(?=\.|$)")


@contextlib.contextmanager
def open_parquet(shard: Shard) -> Iterator[pq.ParquetFile]:
    """Open a Parquet shard for streaming.

    Raises:
        CatalogueError: it is cut off, damaged, not Parquet, or has changed since it was listed; also while it is read.
    """
    with open_seekable(shard) as source:
        head = source.read(8)
        check_content(shard.uri, "parquet", head)
        source.seek(0)
        try:
            file = pq.ParquetFile(source, pre_buffer=False, buffer_size=_BUFFER_BYTES, page_checksum_verification=True)
        except (pa.ArrowInvalid, OSError) as error:
            raise CatalogueError(
                f"{shard.uri} is cut off: it begins as a Parquet file and has no readable footer; write it again"
            ) from error
        with file:
            try:
                yield file
            except OSError as error:
                if type(error) is not OSError or error.errno is not None:  # not Arrow's: the network, the disk
                    raise
                raise CatalogueError(f"{shard.uri} is damaged: {str(error).splitlines()[0]}; write it again") from error


def describe(shard: Shard) -> ShardColumns | None:
    """Find the columns of a shard from its footer; None where it has neither rows nor columns.

    Raises:
        CatalogueError: it is cut off, damaged or not Parquet.
    """
    with open_parquet(shard) as file:
        metadata = file.metadata
        columns = file.schema_arrow
        if not len(columns):
            return None
        twice = next((name for i, name in enumerate(columns.names) if name in columns.names[:i]), None)
        if twice is not None:
            raise CatalogueError(f"{shard.uri} has two columns '{twice}': rename one of them")
        empty = _empty_columns(metadata) if metadata.num_rows else frozenset()
        return ShardColumns(shard.uri, columns.remove_metadata(), complete=True, empty=empty, has_rows=metadata.num_rows > 0)


def _empty_columns(metadata: pq.FileMetaData) -> frozenset[str]:
    """Name the columns that the statistics say are all null."""
    empty = set()
    for leaf in range(metadata.num_columns):
        chunks = [metadata.row_group(group).column(leaf) for group in range(metadata.num_row_groups)]
        if all(
            c.statistics is not None and c.statistics.has_null_count and c.statistics.null_count == c.num_values for c in chunks
        ):
            empty.add(_LIST_LEVELS.sub("", chunks[0].path_in_schema))
    return frozenset(empty)


def pieces(shard: Shard) -> list[Piece]:
    """Cut a shard into pieces of consecutive row groups of at most 65,536 rows; a larger row group is one piece.

    A gzipped shard stays whole: it can only be read from its beginning.
    """
    if shard.compression is not None:
        return [Piece(shard, 0, 0, None, None)]
    with open_parquet(shard) as file:
        sizes = _group_sizes(file)
    cut: list[Piece] = []
    groups: list[int] = []
    first = rows = 0
    for group, size in enumerate(sizes):
        if groups and rows + size > PIECE_ROWS:
            cut.append(Piece(shard, len(cut), first, tuple(groups), rows))
            first, groups, rows = first + rows, [], 0
        groups.append(group)
        rows += size
    return [*cut, Piece(shard, len(cut), first, tuple(groups), rows)] if rows else cut


def _group_sizes(file: pq.ParquetFile) -> list[int]:
    return [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]


def read_blocks(piece: Piece, paths: Sequence[Path], rows: int, size: int, stop_row: int | None = None) -> Iterator[Block]:
    """Read a piece in blocks of at most `rows` rows and about `size` bytes.

    Args:
        piece: row groups to read.
        paths: places to read.
        rows: rows of a block, at most.
        size: bytes of a block, estimated from each row group's mean.
        stop_row: row of the shard to stop before.

    Raises:
        CatalogueError: the shard is damaged or has changed.
    """
    with open_parquet(piece.shard) as file:
        sizes = _group_sizes(file)
        row = piece.first_row
        for group in piece.row_groups if piece.row_groups is not None else range(len(sizes)):
            if stop_row is not None and row >= stop_row:
                return
            for batch in _batches(file, group, paths, rows, size):
                if stop_row is not None and row + batch.num_rows > stop_row:
                    batch = batch.slice(0, stop_row - row)
                if batch.num_rows:
                    yield _block(batch, row, group, paths)
                row += batch.num_rows


def _batches(file: pq.ParquetFile, group: int, paths: Sequence[Path], rows: int, size: int) -> Iterator[pa.RecordBatch]:
    names = list(dict.fromkeys(name for path in paths if (name := _leaf_prefix(file.schema_arrow, path)) is not None))
    most = min(rows, _affordable(file.metadata.row_group(group), names, size))
    yield from file.iter_batches(batch_size=most, row_groups=[group], columns=names, use_threads=False)


def _leaf_prefix(schema: pa.Schema, path: Path) -> str | None:
    """Return the dotted name that makes the reader read what `path` needs; lists and maps are read whole."""
    place = schema.get_field_index(path[0])
    if place < 0:
        return None
    kind, names = schema.field(place).type, [path[0]]
    for name in path[1:]:
        if not pa.types.is_struct(kind):
            break
        place = kind.get_field_index(name)
        if place < 0:
            return None
        kind = kind.field(place).type
        names.append(name)
    return ".".join(names)


def _affordable(group: pq.RowGroupMetaData, names: Sequence[str], size: int) -> int:
    """Return how many rows of a row group make a batch of at most about `size` bytes."""
    total = repeated = 0
    for leaf in range(group.num_columns):
        chunk = group.column(leaf)
        if any(chunk.path_in_schema == name or chunk.path_in_schema.startswith(f"{name}.") for name in names):
            total += chunk.total_uncompressed_size
            if {"RLE_DICTIONARY", "PLAIN_DICTIONARY"} & set(chunk.encodings):
                # A dictionary may hold one large value that many rows repeat.
                repeated = max(repeated, min(chunk.total_uncompressed_size, _DICTIONARY_BYTES))
    mean = total // max(group.num_rows, 1)
    return max(1, min(size // _BATCH_SHARE // max(mean, 1), size // max(repeated, 1)))


def _block(batch: pa.RecordBatch, row: int, group: int, paths: Sequence[Path]) -> Block:
    fixed: dict[str, pa.Array] = {}
    columns: dict[Path, Column] = {}
    bad: dict[Path, list[int]] = {}
    for path in paths:
        place = batch.schema.get_field_index(path[0])
        if place < 0:
            columns[path] = pa.nulls(batch.num_rows)
            continue
        if path[0] not in fixed:
            fixed[path[0]], rows = repair_texts(batch.column(place))
            if rows:
                bad[path[:1]] = rows
        columns[path] = descend(fixed[path[0]], path[1:])
    return Block(row, group, batch.num_rows, columns, bad_texts=bad)


def read_pictures(
    shard: Shard, rows: Sequence[int], row_groups: Sequence[int] | None, path: Path, most: int, size: int
) -> Iterator[tuple[int, list[bytes | None]]]:
    """Read the pictures of some rows and no others' into Python.

    Args:
        shard: a Parquet file.
        rows: wanted rows of the shard, sorted.
        row_groups: row groups they are in; None: found by the footer.
        path: place of the picture column.
        most: pictures of a row, at most.
        size: bytes that a batch may have.

    Raises:
        CatalogueError: the shard is damaged or has changed.
    """
    wanted = pa.array(rows, pa.int64())
    with open_parquet(shard) as file:
        sizes = _group_sizes(file)
        if len(rows) and rows[-1] >= sum(sizes):
            raise CatalogueError(f"{shard.uri} has {sum(sizes)} rows and no row {rows[-1]}: start the run again")
        start = found = 0
        for group, count in enumerate(sizes):
            stop = start + count
            if found == len(rows):
                return
            if rows[found] < stop and (row_groups is None or group in row_groups):
                row = start
                for batch in _batches(file, group, [path], 1024, size):
                    after = _count_below(rows, row + batch.num_rows, found)
                    if after > found:
                        chosen = batch.take(pc.subtract(wanted.slice(found, after - found), row))
                        lists, _ = picture_lists(_pictures_at(chosen, path), most)
                        yield from zip(rows[found:after], (value or [] for value in lists.to_pylist()), strict=True)
                        found = after
                    row += batch.num_rows
                    if found == len(rows) or rows[found] >= stop:
                        break
            start = stop


def _count_below(rows: Sequence[int], limit: int, start: int) -> int:
    while start < len(rows) and rows[start] < limit:
        start += 1
    return start


def _pictures_at(batch: pa.RecordBatch, path: Path) -> Column:
    return descend(batch.column(batch.schema.get_field_index(path[0])), path[1:])


def repair_texts(array: pa.Array) -> tuple[pa.Array, list[int]]:
    """Return an array whose texts are UTF-8, and the rows where one was not: null there, U+FFFD inside nested types."""
    try:
        array.validate(full=True)
        return array, []
    except pa.ArrowInvalid:
        pass
    if not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
        return _repair_nested(array), []
    raw = _raw(array)
    fixed = [None if data is None or not _is_utf8(data) else data.decode() for data in raw]
    bad = [row for row, (data, text) in enumerate(zip(raw, fixed, strict=True)) if data is not None and text is None]
    return pa.array(fixed, pa.string()), bad


def _repair_nested(array: pa.Array) -> pa.Array:
    kind = array.type
    if pa.types.is_struct(kind):
        children = [_repair_nested(pc.struct_field(array, [i])) for i in range(kind.num_fields)]
        return pa.StructArray.from_arrays(children, names=[one.name for one in kind], mask=array.is_null())
    if pa.types.is_map(kind):
        return _repair_nested(array.cast(pa.list_(pa.struct([("key", kind.key_type), ("value", kind.item_type)]))))
    if is_list(kind):
        lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
        return lists_of(lengths, _repair_nested(array.flatten()), array.is_null())
    if pa.types.is_dictionary(kind):
        return _repair_nested(array.dictionary_decode())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pa.array([None if data is None else data.decode(errors="replace") for data in _raw(array)], pa.string())
    return array


def _raw(array: pa.Array) -> list[bytes | None]:
    return array.cast(pa.binary() if pa.types.is_string(array.type) else pa.large_binary()).to_pylist()


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
