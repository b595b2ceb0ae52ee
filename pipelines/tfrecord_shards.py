"""Rows and pictures of TFRecord shards of `tf.train.Example`, record by record, every checksum compared.

A record is a row, a feature a column: one value is a scalar, several are a list, none is null. Bytes that are a
picture stay bytes; others are text where they are UTF-8. A record has at most 64 MB.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from google.protobuf.message import DecodeError

from pipelines import records
from pipelines.column_types import Path, infer_type
from pipelines.columns import Block, Column
from pipelines.csv_records import MAX_ROW_BYTES, Unreadable
from pipelines.example_message import Example
from pipelines.picture_columns import is_picture, picture_lists
from pipelines.recognition import masked_crc32c
from pipelines.records import Items
from pipelines.schema import ShardColumns
from pipelines.shards import CatalogueError, Piece, Shard, open_stream

_HEADER_BYTES, _FOOTER_BYTES = 12, 4
_ABSURD_BYTES = 1 << 40


def describe(shard: Shard, sample_bytes: int) -> ShardColumns | None:
    """Find the columns of a shard from its first `sample_bytes`, unzipped; None where it has no record.

    Raises:
        CatalogueError: it is cut off or damaged, or its records are no Examples.
    """
    with open_stream(shard) as stream:
        examples = records.sample(_examples(stream, shard), sample_bytes)
        rows = (item if isinstance(item, Unreadable) else _values(item) for item in examples)
        return records.describe(shard.uri, rows, "records of tf.train.Example", _infer)


def _values(example: Any) -> dict[str, Any]:
    return {name: _value(example, name) for name in sorted(example.features.feature)}


def _infer(values: Iterable[Any]) -> pa.DataType:
    """Return the type of a feature: binary where one value is a picture or most are no text."""
    values = list(values)
    flat = [item for value in values for item in (value if isinstance(value, list) else [value])]
    raw = [item for item in flat if isinstance(item, bytes)]
    if not raw:
        return infer_type(values)
    binary = any(map(is_picture, raw)) or 2 * len(raw) > sum(isinstance(item, str | bytes) for item in flat)
    kind = pa.binary() if binary else pa.string()
    return pa.list_(kind) if any(isinstance(value, list) for value in values) else kind


def read_blocks(piece: Piece, paths: Sequence[Path], rows: int, size: int, stop_row: int | None = None) -> Iterator[Block]:
    """Read a shard in blocks of at most `rows` rows and about `size` bytes of records.

    Raises:
        CatalogueError: the shard is cut off, damaged or has changed.
    """
    with open_stream(piece.shard) as stream:
        yield from records.cut(_examples(stream, piece.shard), _columns, paths, rows, size, stop_row)


def _columns(items: list[Any], paths: Sequence[Path], unreadable: dict[int, str]) -> dict[Path, Column]:
    return {
        path: [_value(item, path[0]) if len(path) == 1 and row not in unreadable else None for row, item in enumerate(items)]
        for path in paths
    }


def read_pictures(
    shard: Shard, rows: Sequence[int], row_groups: Sequence[int] | None, path: Path, most: int, size: int
) -> Iterator[tuple[int, list[bytes | None]]]:
    """Read the pictures of some rows, sorted; other records are passed over without reading them.

    Raises:
        CatalogueError: the shard is cut off, damaged or has changed, or has no such row.
    """
    left = iter(rows)
    row = next(left, None)
    with open_stream(shard) as stream:
        records_of = _Records(stream, shard)
        while row is not None:
            data = records_of.next(wanted=records_of.count == row)
            if data is None:
                raise CatalogueError(f"{shard.uri} has {records_of.count} rows and no row {row}: start the run again")
            if records_of.count == row + 1:
                example = data if isinstance(data, Unreadable) else _parse(data, row)
                value = None if isinstance(example, Unreadable) else _value(example, path[0])
                yield row, picture_lists([value], most)[0][0].as_py() or []
                row = next(left, None)


def _examples(stream: BinaryIO, shard: Shard) -> Items:
    found = _Records(stream, shard)
    while (data := found.next()) is not None:
        yield (data, _HEADER_BYTES) if isinstance(data, Unreadable) else (_parse(data, found.count - 1), len(data))


def _parse(data: bytes, row: int) -> Any:
    try:
        return Example.FromString(data)
    except DecodeError:
        return Unreadable(f"record {row} is no tf.train.Example")


def _value(example: Any, name: str) -> Any:
    features = example.features.feature
    if name not in features:
        return None
    kind = features[name].WhichOneof("kind")
    values: Any = getattr(features[name], kind).value if kind is not None else ()
    if kind == "bytes_list":
        values = [_text_or_bytes(value) for value in values if value]
    elif kind == "float_list" and len(values) == 1:
        # By the shortest text, so that a float32 19.99 is 19.99 and not 19.989999771118164.
        return float(str(np.float32(values[0])))
    return values[0] if len(values) == 1 else list(values) or None


def _text_or_bytes(value: bytes) -> str | bytes:
    if is_picture(value) or b"\0" in value:
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


class _Records:
    """Reads the records of a stream: length, its checksum, data, its checksum (tensorflow/core/lib/io/record_writer.h)."""

    def __init__(self, stream: BinaryIO, shard: Shard) -> None:
        self._stream, self._uri = stream, shard.uri
        self._offset = 0
        self.count = 0

    def next(self, wanted: bool = True) -> bytes | Unreadable | None:
        """Return the next record, or b"" where it is not wanted; None at the end.

        Raises:
            CatalogueError: naming the place where the shard is cut off or damaged.
        """
        header = self._stream.read(_HEADER_BYTES)
        if not header:
            return None
        if len(header) < _HEADER_BYTES:
            raise self._broken("cut off", "the header of a record is incomplete")
        length, checksum = struct.unpack("<QI", header)
        if checksum != masked_crc32c(header[:8]) or length > _ABSURD_BYTES:
            raise self._broken("damaged", f"a record's length of {length} bytes is wrong")
        data: bytes | Unreadable = b""
        if wanted and length <= MAX_ROW_BYTES:
            data = self._read(length)
        else:
            self._pass_over(length)
            if wanted:
                data = records.too_long(f"record {self.count}")
        self._offset += _HEADER_BYTES + length + _FOOTER_BYTES
        self.count += 1
        return data

    def _read(self, length: int) -> bytes:
        data = self._stream.read(length)
        footer = self._stream.read(_FOOTER_BYTES)
        if len(data) + len(footer) < length + _FOOTER_BYTES:
            raise self._broken("cut off", f"a record of {length} bytes has no end")
        if struct.unpack("<I", footer)[0] != masked_crc32c(data):
            raise self._broken("damaged", "the checksum of a record does not fit its data")
        return data

    def _pass_over(self, length: int) -> None:
        self._stream.seek(length + _FOOTER_BYTES - 1, os.SEEK_CUR)
        if len(self._stream.read(1)) < 1:  # seeking goes beyond the end
            raise self._broken("cut off", f"a record of {length} bytes has no end")

    def _broken(self, how: str, why: str) -> CatalogueError:
        return CatalogueError(f"{self._uri} is {how} at byte {self._offset} (record {self.count}): {why}; write it again")
