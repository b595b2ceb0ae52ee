"""Rows of JSON lines, CSV and TSV shards, in blocks, with what cannot be read numbered in its place.

JSON lines: a row is a line that is not blank, of at most 64 MB; what is no JSON object is one unreadable row. CSV
(by comma, or semicolon) and TSV: a header, then records as `csv_records` reads them; a row with more or fewer cells
than the header is unreadable, and so is one that is not UTF-8; empty cells are null. Row numbers are 0-based and
count neither header nor blank lines.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import pyarrow as pa

from pipelines import records
from pipelines.column_types import Path, infer_text_type
from pipelines.columns import Block, Column
from pipelines.csv_records import MAX_ROW_BYTES, Unreadable, has_bad_bytes, read_records
from pipelines.recognition import header_delimiter
from pipelines.records import Items
from pipelines.schema import ShardColumns
from pipelines.shards import CatalogueError, Piece, Shard, check_content, open_stream


def describe(shard: Shard, sample_bytes: int) -> ShardColumns | None:
    """Find the columns of a shard from its first `sample_bytes`, unzipped; None where it has no row.

    Raises:
        CatalogueError: the file is not what its suffix says, or is cut off or damaged.
    """
    with open_stream(shard) as stream:
        check_content(shard.uri, shard.format, stream.peek(8)[:8])
        if shard.format == "jsonl":
            return records.describe(shard.uri, records.sample(_json_items(stream), sample_bytes), "JSON lines, one object a line")
        lines = read_records(stream, _delimiter(shard, stream))
        return _describe_csv(shard, _header(shard, lines), records.sample(lines, sample_bytes))


def _describe_csv(shard: Shard, names: list[str], items: Iterator[Any]) -> ShardColumns | None:
    rows = [_checked(item, names) for item in items]
    if not rows:
        return None
    cells = [row for row in rows if isinstance(row, list)]
    columns = [(name, infer_text_type(row[i] for row in cells)) for i, name in enumerate(names) if name]
    return ShardColumns(shard.uri, pa.schema(columns), complete=True)


def read_blocks(piece: Piece, paths: Sequence[Path], rows: int, size: int, stop_row: int | None = None) -> Iterator[Block]:
    """Read a shard in blocks of at most `rows` rows and of about `size` bytes of the file.

    Args:
        piece: the whole of a JSON lines, CSV or TSV file.
        paths: places to read.
        rows: rows of a block, at most.
        size: bytes of a block, exceeded by one row at most.
        stop_row: row to stop before.

    Raises:
        CatalogueError: the shard is cut off, damaged or has changed.
    """
    shard = piece.shard
    with open_stream(shard) as stream:
        if shard.format == "jsonl":
            yield from records.cut(_json_items(stream), records.dict_columns, paths, rows, size, stop_row)
        else:
            lines = read_records(stream, _delimiter(shard, stream))
            names = _header(shard, lines)
            items = ((_checked(item, names), length) for item, length in lines)
            yield from records.cut(items, _CsvColumns(names), paths, rows, size, stop_row)


def read_cells(shard: Shard, stream: io.BufferedReader) -> tuple[list[str], Items]:
    """Read a table by comma, semicolon or tab, whichever its header has.

    Returns:
        Its columns, and its rows: cells by column, those that are empty left out.

    Raises:
        CatalogueError: the header cannot be read.
    """
    line = (stream.peek(1 << 16).splitlines() or [b""])[0].decode(errors="replace")
    lines = read_records(stream, header_delimiter(line))
    names = _header(shard, lines)
    return names, ((_filled(_checked(item, names), names), length) for item, length in lines)


def _filled(item: list[str] | Unreadable, names: list[str]) -> dict[str, str] | Unreadable:
    if isinstance(item, Unreadable):
        return item
    cells = {name: cell for name, cell in zip(names, item, strict=True) if name and cell and not cell.isspace()}
    bad = next((name for name, cell in cells.items() if has_bad_bytes(cell)), None)
    return cells if bad is None else Unreadable(f"the cell of column '{bad}' is not UTF-8")


def _json_items(stream: BinaryIO) -> Items:
    number = 0
    while line := stream.readline(MAX_ROW_BYTES + 1):
        number += 1
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if len(line) > MAX_ROW_BYTES:
            while line and not line.endswith(b"\n"):
                line = stream.readline(1 << 20)
            yield Unreadable(f"line {number} is longer than {MAX_ROW_BYTES >> 20} MB"), MAX_ROW_BYTES
        elif line and not line.isspace():
            yield _json_object(line, number), len(line)


def _json_object(line: bytes, number: int) -> dict[str, Any] | Unreadable:
    try:
        found = json.loads(line.rstrip().decode())
    except UnicodeDecodeError as error:
        return Unreadable(f"line {number} is not UTF-8 at byte {error.start}")
    except json.JSONDecodeError as error:
        return Unreadable(f"line {number} is not JSON: {error.msg} at character {error.pos}")
    except (ValueError, RecursionError) as error:
        return Unreadable(f"line {number} is no JSON that can be read: {error}")
    return found if isinstance(found, dict) else Unreadable(f"line {number} is JSON, but not an object")


class _CsvColumns:
    """Makes Arrow columns of CSV cells; rows that turn out not to be UTF-8 become unreadable."""

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self._places = {name: i for i, name in enumerate(names)}

    def __call__(self, items: list[Any], paths: Sequence[Path], unreadable: dict[int, str]) -> dict[Path, Column]:
        empty = [""] * len(self._names)
        for row in unreadable:
            items[row] = empty
        try:
            return self._columns(items, paths)
        except UnicodeEncodeError:
            for row, cells in enumerate(items):
                bad = next((name for name, cell in zip(self._names, cells, strict=True) if has_bad_bytes(cell)), None)
                if bad is not None:
                    unreadable[row] = f"the cell of column '{bad}' is not UTF-8"
                    items[row] = empty
            return self._columns(items, paths)

    def _columns(self, items: list[Any], paths: Sequence[Path]) -> dict[Path, Column]:
        places = {path: self._places.get(path[0]) if len(path) == 1 else None for path in paths}
        return {
            path: pa.nulls(len(items)) if i is None else pa.array([cells[i] or None for cells in items], pa.string())
            for path, i in places.items()
        }


def _delimiter(shard: Shard, stream: io.BufferedReader) -> str:
    """Return the tab of TSV, else the comma; the semicolon where the header of a CSV has one and no comma."""
    if shard.format == "tsv":
        return "\t"
    header = stream.peek(1 << 16).splitlines()[:1]
    return ";" if header and b";" in header[0] and b"," not in header[0] else ","


def _header(shard: Shard, records: Items) -> list[str]:
    names, _ = next(records, ([], 0))
    if isinstance(names, Unreadable):
        raise CatalogueError(f"{shard.uri} has no readable header: {names.detail}")
    if any(has_bad_bytes(name) for name in names):
        raise CatalogueError(f"{shard.uri} is not UTF-8 in its header: save it as UTF-8")
    twice = next((name for i, name in enumerate(names) if name and name in names[:i]), None)
    if twice is not None:
        raise CatalogueError(f"{shard.uri} has two columns '{twice}': rename one of them")
    return names


def _checked(item: list[str] | Unreadable, names: list[str]) -> list[str] | Unreadable:
    if isinstance(item, Unreadable) or len(item) == len(names):
        return item
    return Unreadable(f"the row has {len(item)} cells, the header has {len(names)}")
