"""Shards of a catalogue: finding their format, and streaming their rows."""

from __future__ import annotations

import contextlib
import csv
import functools
import gzip
import io
import json
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.columns import Kind, kind_of_text, kind_of_type, kind_of_value, merge, reach

MAX_LINE_BYTES = 64 << 20
INSPECTED_ROWS = 1_000
INSPECTED_BYTES = 4 << 20
SUFFIXES = {
    "parquet": "parquet", "pq": "parquet", "jsonl": "jsonl", "ndjson": "jsonl", "json": "jsonl", "csv": "csv", "tsv": "tsv",
}  # fmt: skip

csv.field_size_limit(MAX_LINE_BYTES)


class CatalogueError(ValueError):
    """The catalogue cannot be read as it was said to be; the message names the file or column and the remedy."""


@dataclass(frozen=True)
class Block:
    """Some rows of a shard.

    Attributes:
        rows: row numbers.
        groups: row group of each, None but for Parquet.
        columns: values by source column, Arrow arrays or lists.
        broken: position in the block -> why the row cannot be read.
    """

    rows: Sequence[int]
    groups: Sequence[int | None]
    columns: Mapping[str, pa.Array | list[Any]]
    broken: Mapping[int, str]


@dataclass(frozen=True)
class Shard:
    """One file of a catalogue; `fingerprint` changes when its content is replaced."""

    index: int
    uri: str
    size: int
    fingerprint: str
    format: Literal["parquet", "jsonl", "csv", "tsv"]
    compression: Literal["gzip"] | None

    def check_unchanged(self) -> None:
        """Raise CatalogueError where the file is not the one that was listed."""
        try:
            now = storage.fingerprint(self.uri)
        except storage.StorageError as error:
            raise CatalogueError(f"{self.uri} has gone while the run was reading it: put it back and run again") from error
        if now != self.fingerprint:
            raise CatalogueError(f"{self.uri} changed while the run was reading it: run again when it is complete")

    def row_groups(self) -> list[int]:
        """Return the rows of each row group of a Parquet shard."""
        with self.parquet() as file:
            return [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]

    @contextlib.contextmanager
    def parquet(self) -> Iterator[pq.ParquetFile]:
        """Open a Parquet shard so that column chunks are streamed, not read whole."""
        with contextlib.ExitStack() as stack:
            try:
                if self.compression is None:
                    source: Any = stack.enter_context(storage.open_input(self.uri))
                else:
                    # Parquet is read from its end, which gzip cannot: it is unpacked to local disk first.
                    source = stack.enter_context(tempfile.TemporaryFile())
                    shutil.copyfileobj(stack.enter_context(self.stream()), source, 1 << 22)
                    source.seek(0)
                file = pq.ParquetFile(source, pre_buffer=False, buffer_size=1 << 20)
            except (pa.ArrowException, OSError, EOFError, zlib.error) as error:
                raise self.damaged(error) from error
            yield stack.enter_context(file)

    @contextlib.contextmanager
    def stream(self) -> Iterator[BinaryIO]:
        """Open the shard's bytes, unpacked."""
        with storage.open_input(self.uri) as source:
            yield gzip.GzipFile(fileobj=source) if self.compression else source  # type: ignore[misc]

    def damaged(self, error: Exception) -> CatalogueError:
        """Return the sentence for a shard that cannot be read to its end."""
        cut = isinstance(error, EOFError) or "magic bytes" in str(error) or "footer" in str(error) or "smaller than" in str(error)
        what = "is cut off" if cut else "is damaged"
        why = str(error).strip().splitlines()[0][:200]
        return CatalogueError(f"{self.uri} {what} ({why}): copy it again, or move it out of the way")

    def blocks(
        self, sources: Sequence[str], groups: Sequence[int] | None, first_row: int, rows: int, size: int
    ) -> Iterator[Block]:
        """Stream rows in blocks of at most `rows` rows and about `size` bytes."""
        try:
            if self.format == "parquet":
                yield from self._parquet_blocks(sources, groups, first_row, rows, size)
            else:
                yield from _text_blocks(self.records(), sources, rows, size)
        except (pa.ArrowException, OSError, EOFError, zlib.error, csv.Error) as error:
            if isinstance(error, storage.StorageError):
                raise
            raise self.damaged(error) from error

    def _parquet_blocks(
        self, sources: Sequence[str], groups: Sequence[int] | None, first_row: int, rows: int, size: int
    ) -> Iterator[Block]:
        with self.parquet() as file:
            row, names = first_row, _top_columns(file, sources)
            for group in range(file.num_row_groups) if groups is None else groups:
                for batch in file.iter_batches(_rows_of(file, group, names, rows, size), [group], names, use_threads=False):
                    columns = {source: _column(batch, source) for source in sources}
                    numbers = range(row, row + batch.num_rows)
                    yield Block(numbers, [group] * batch.num_rows, {k: v for k, v in columns.items() if v is not None}, {})
                    row += batch.num_rows

    def picture_cells(self, source: str, groups: Sequence[int] | None) -> Iterator[tuple[int, pa.Array]]:
        """Stream the picture column of some row groups of a Parquet shard, with the number of each batch's first row."""
        try:
            with self.parquet() as file:
                names, row = _top_columns(file, [source]), 0
                chosen = set(range(file.num_row_groups) if groups is None else groups)
                for group in range(file.num_row_groups):
                    if group in chosen:
                        start = row
                        batch_rows = _rows_of(file, group, names, 64, 32 << 20)
                        for batch in file.iter_batches(batch_rows, [group], names, use_threads=False):
                            column = _column(batch, source)
                            if column is not None:
                                yield start, column
                            start += batch.num_rows
                    row += file.metadata.row_group(group).num_rows
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, storage.StorageError):
                raise
            raise self.damaged(error) from error

    def records(self) -> Iterator[tuple[Mapping[str, Any] | None, str, int]]:
        """Stream the rows of a text shard: values by name, or None and why; with the row's bytes."""
        with self.stream() as stream:
            yield from (_json_records(stream) if self.format == "jsonl" else _csv_records(stream, self.format))


def sniff(info: storage.FileInfo) -> Shard | None:
    """Return a file as a shard, numbered 0; None where its name says no known format."""
    parts = info.path.rsplit("/", 1)[-1].lower().split(".")
    zipped = parts[-1] == "gz"
    kind = SUFFIXES.get(parts[-2] if zipped and len(parts) > 1 else parts[-1])
    if kind is None or len(parts) < (3 if zipped else 2):
        return None
    with storage.open_input(info.path) as source:
        head = source.read(4)
    compression: Literal["gzip"] | None = "gzip" if head[:2] == b"\x1f\x8b" else None
    if zipped and compression is None:
        raise CatalogueError(f"{info.path} is called .gz but is not gzipped: rename it or copy it again")
    if kind == "parquet" and compression is None and head != b"PAR1":
        raise CatalogueError(f"{info.path} is called .{parts[-1]} but is no Parquet file: rename it or copy it again")
    if kind != "parquet" and head == b"PAR1":
        raise CatalogueError(f"{info.path} is called .{parts[-1]} but is a Parquet file: rename it")
    return Shard(0, info.path, info.size, info.fingerprint, kind, compression)  # type: ignore[arg-type]


def sources_of(shard: Shard, wanted: Iterable[str]) -> dict[str, Kind]:
    """Return the columns of a shard and what they hold, as its footer or its first rows say.

    Args:
        shard: the shard.
        wanted: dotted sources that are to be found besides the top-level columns.
    """
    dotted = [name for name in wanted if "." in name]
    if shard.format == "parquet":
        with shard.parquet() as file:
            return _parquet_kinds(file.schema_arrow, dotted)
    kinds: dict[str, Kind] = {}
    rows = size = 0
    try:
        for record, _, length in shard.records():
            rows, size = rows + 1, size + length
            for name, value in (record or {}).items():
                kinds[name] = merge(kinds.get(name, "null"), _kind_of_cell(value, shard))
            for name in dotted:
                value = reach(record, name.split("."))
                if value is not None and name not in (record or {}):
                    kinds[name] = merge(kinds.get(name, "null"), kind_of_value(value))
            if rows >= INSPECTED_ROWS or size >= INSPECTED_BYTES:
                break
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        if isinstance(error, storage.StorageError):
            raise
        raise shard.damaged(error) from error
    # A picture may be {bytes|path|url}: in text it is a path.
    return {name: "string" if kind == "struct" and _is_picture(name) else kind for name, kind in kinds.items()}


def _is_picture(name: str) -> bool:
    return name.lower() in ("image", "picture", "photo")


def _kind_of_cell(value: Any, shard: Shard) -> Kind:
    return kind_of_value(value) if shard.format == "jsonl" else kind_of_text(value)


def _parquet_kinds(schema: pa.Schema, dotted: Sequence[str]) -> dict[str, Kind]:
    kinds: dict[str, Kind] = {}
    for name, kind in zip(schema.names, schema.types, strict=True):
        kinds[name] = kind_of_type(kind)
        inner = kind.value_type if kinds[name] == "structs" else kind
        if pa.types.is_struct(inner):
            fields = {field.name: field.type for field in inner}
            if "bytes" in fields and kind_of_type(fields["bytes"]) == "bytes":
                kinds[name] = "bytes"
            elif "path" in fields and set(fields) <= {"bytes", "path"}:
                kinds[name] = "string" if inner is kind else "strings"
    for name in dotted:
        found = _dotted_type(schema, name.split("."))
        if found is not None:
            kinds[name] = found
    return kinds


def _dotted_type(schema: pa.Schema, path: Sequence[str]) -> Kind | None:
    if path[0] not in schema.names:
        return None
    kind: pa.DataType = schema.field(path[0]).type
    for name in path[1:]:
        if pa.types.is_list(kind) and pa.types.is_struct(kind.value_type):
            return "strings"
        if not pa.types.is_struct(kind) or kind.get_field_index(name) < 0:
            return None
        kind = kind.field(name).type
    return kind_of_type(kind)


def _top_columns(file: pq.ParquetFile, sources: Sequence[str]) -> list[str]:
    names = set(file.schema_arrow.names)
    return list(dict.fromkeys(s if s in names else s.split(".")[0] for s in sources if s in names or s.split(".")[0] in names))


def _rows_of(file: pq.ParquetFile, group: int, names: Sequence[str], rows: int, size: int) -> int:
    """Return how many rows of a row group make a batch of about `size` bytes, at most `rows`."""
    metadata = file.metadata.row_group(group)
    wanted = set(names)
    chunks = [metadata.column(number) for number in range(metadata.num_columns)]
    total = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] in wanted)
    return max(1, min(rows, size * max(metadata.num_rows, 1) // max(total, 1)))


def _column(batch: pa.RecordBatch, source: str) -> pa.Array | None:
    names = batch.schema.names
    if source in names:
        return batch.column(source)
    path = source.split(".")
    if path[0] not in names:
        return None
    return [reach(value, path[1:]) for value in batch.column(path[0]).to_pylist()]  # type: ignore[return-value]


def _text_blocks(
    records: Iterable[tuple[Mapping[str, Any] | None, str, int]], sources: Sequence[str], rows: int, size: int
) -> Iterator[Block]:
    paths = {source: source.split(".") for source in sources}
    row = held = 0
    columns: dict[str, list[Any]] = {source: [] for source in sources}
    broken: dict[int, str] = {}
    count = 0
    for record, detail, length in records:
        if record is None:
            broken[count] = detail
        for source, path in paths.items():
            found = record or {}
            columns[source].append(found[source] if source in found else reach(found, path) if len(path) > 1 else None)
        count, held = count + 1, held + length
        if count >= rows or held >= size:
            yield Block(range(row, row + count), [None] * count, columns, broken)
            row, held, count = row + count, 0, 0
            columns, broken = {source: [] for source in sources}, {}
    if count:
        yield Block(range(row, row + count), [None] * count, columns, broken)


def _json_records(stream: BinaryIO) -> Iterator[tuple[Mapping[str, Any] | None, str, int]]:
    first = True
    for line in iter(functools.partial(stream.readline, MAX_LINE_BYTES + 1), b""):
        if len(line) > MAX_LINE_BYTES:
            while line and not line.endswith(b"\n"):
                line = stream.readline(MAX_LINE_BYTES)
            yield None, f"the line has more than {MAX_LINE_BYTES} bytes", MAX_LINE_BYTES
            continue
        text = line.removeprefix(b"\xef\xbb\xbf") if first else line
        if first and text.lstrip()[:1] == b"[":
            raise CatalogueError("a JSON shard is one array: write one object a line (JSON lines)")
        first = False
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            yield None, f"the line is no JSON: {error}", len(line)
            continue
        if isinstance(record, dict):
            yield record, "", len(line)
        else:
            yield None, f"the line is no JSON object but {type(record).__name__}", len(line)


def _csv_records(stream: BinaryIO, kind: str) -> Iterator[tuple[Mapping[str, Any] | None, str, int]]:
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="")
    head = text.readline()
    delimiter = "\t" if kind == "tsv" or ("\t" in head and "," not in head) else ";" if ";" in head and "," not in head else ","
    reader = csv.reader(_after(head, text), delimiter=delimiter)
    header = next(reader, None)
    if header is None:
        return
    for cells in reader:
        size = sum(map(len, cells))
        if not cells:
            continue
        if len(cells) != len(header):
            yield None, f"the row has {len(cells)} cells, the header {len(header)}", size
        else:
            yield dict(zip(header, cells, strict=True)), "", size


def _after(head: str, text: io.TextIOWrapper) -> Iterator[str]:
    yield head
    yield from text


