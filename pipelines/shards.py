"""Shards of a catalogue: listing them, telling their formats apart, opening them.

A file's suffix says its format (`.parquet`, `.jsonl`, `.csv`, `.tsv` and their synonyms, each also with `.gz`); its
first bytes say whether it is gzipped, and whether it is what its suffix says.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import logging
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from glob import escape
from typing import BinaryIO, Literal, cast

import pyarrow as pa

from pipelines import storage

Format = Literal["parquet", "jsonl", "csv", "tsv"]
SUFFIXES: dict[str, Format] = {
    ".parquet": "parquet", ".pq": "parquet", ".parq": "parquet",
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".jl": "jsonl", ".json": "jsonl",
    ".csv": "csv", ".tsv": "tsv", ".tab": "tsv",
}  # fmt: skip
# What files begin with that are no shards, whatever their suffix says.
_FOREIGN = {
    b"PAR1": "a Parquet file", b"PARE": "an encrypted Parquet file", b"BZh": "compressed by bzip2",
    b"\xfd7zXZ": "compressed by xz", b"\x28\xb5\x2f\xfd": "compressed by Zstandard", b"PK\x03\x04": "a ZIP file",
    b"\xff\xfe": "encoded in UTF-16", b"\xfe\xff": "encoded in UTF-16", b"ARROW1": "an Arrow file",
    b"Obj\x01": "an Avro file", b"ORC": "an ORC file", b"%PDF": "a PDF", b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
}  # fmt: skip
_GZIP = b"\x1f\x8b"
_READERS = 16
_COPY_BYTES = 1 << 20

_log = logging.getLogger(__name__)


class CatalogueError(ValueError):
    """The catalogue cannot be read as it is; the message names the file or column and says what to do."""


@dataclass(frozen=True)
class Shard:
    """One file of the catalogue.

    Attributes:
        index: its place in the sorted list of shards.
        uri: local path or URI.
        size: bytes, as stored.
        fingerprint: changes when the content is replaced.
        format: "parquet", "jsonl", "csv" or "tsv".
        compression: "gzip" or None.
    """

    index: int
    uri: str
    size: int
    fingerprint: str
    format: Format
    compression: str | None


@dataclass(frozen=True)
class Piece:
    """A part of a shard that one worker reads.

    Attributes:
        shard: the shard.
        index: the piece's place in it.
        first_row: 0-based row of the shard that the piece begins with.
        row_groups: consecutive row groups of a Parquet file; None: the whole shard.
        rows: how many; None where only reading tells.
    """

    shard: Shard
    index: int
    first_row: int
    row_groups: tuple[int, ...] | None
    rows: int | None


def list_shards(patterns: Sequence[str]) -> list[Shard]:
    """List the files that globs, folders or paths name, each once, sorted by URI and numbered.

    Of a folder, the files of known suffixes directly in it are taken. What a glob finds below hidden names and
    names that begin with an underscore is left out, and so are files of 0 bytes, which are logged.

    Raises:
        CatalogueError: a pattern matches nothing, or a file of no known format.
    """
    found: dict[str, storage.FileInfo] = {}
    for pattern in patterns:
        infos = _match(pattern)
        if not infos:
            raise CatalogueError(
                f"no file of a catalogue matches '{pattern}': check the path, or give a glob such as "
                f"'{storage.join(pattern.rstrip('*') or '.', '**', '*.parquet')}'"
            )
        found.update((info.path, info) for info in infos)
    for info in found.values():
        if not info.size:
            _log.warning("%s has 0 bytes and is left out", info.path)
    infos = sorted((info for info in found.values() if info.size), key=lambda info: info.path)
    if not infos:
        raise CatalogueError(f"all files that match {' '.join(patterns) or 'no pattern'} have 0 bytes: write them again")
    with ThreadPoolExecutor(_READERS) as pool:
        kinds = list(pool.map(_kind, infos))
    return [
        Shard(index, info.path, info.size, info.fingerprint, *kind)
        for index, (info, kind) in enumerate(zip(infos, kinds, strict=True))
    ]


def _match(pattern: str) -> list[storage.FileInfo]:
    local = storage.local_path(pattern)
    try:
        if local is not None and local.is_file():
            return storage.list_files(escape(str(local)))
        if local is not None and local.is_dir():
            return _known(storage.list_folder(str(local)))
        infos = storage.list_files(pattern)
        if local is None and not _has_glob(pattern) and (_suffix(pattern) is None or not any(info.size for info in infos)):
            infos = _known(storage.list_files(storage.join(pattern, "*"))) or infos
    except ValueError as error:  # Beam's, for a scheme it has no filesystem for
        raise CatalogueError(f"cannot list {pattern}: {error}") from error
    if not _has_glob(pattern):
        return infos
    fixed = storage.local_path(pattern)
    depth = (str(fixed) if fixed is not None else pattern).split("/")
    start = next(i for i, part in enumerate(depth) if _has_glob(part))
    return [info for info in infos if not any(part[:1] in (".", "_") for part in info.path.split("/")[start:])]


def _known(infos: list[storage.FileInfo]) -> list[storage.FileInfo]:
    names = [(info, info.path.rsplit("/", 1)[-1]) for info in infos]
    return [info for info, name in names if name[:1] not in (".", "_") and _suffix(name) is not None]


def _has_glob(text: str) -> bool:
    return any(mark in text for mark in "*?[")


def _suffix(path: str) -> Format | None:
    name = path.rsplit("/", 1)[-1].lower()
    for ending in (".gz", ".gzip"):
        name = name.removesuffix(ending)
    return SUFFIXES.get("." + name.rsplit(".", 1)[-1]) if "." in name else None


def _kind(info: storage.FileInfo) -> tuple[Format, str | None]:
    with storage.open_input(info.path) as source:
        head = source.read(8)
    form = _suffix(info.path) or ("parquet" if head.startswith(b"PAR1") else None)
    if form is None:
        raise CatalogueError(
            f"{info.path} is of no known format ({', '.join(SUFFIXES)}, also with .gz): "
            "rename it, or narrow the glob so that it is left out"
        )
    if head.startswith(_GZIP):
        return form, "gzip"
    check_content(info.path, form, head)
    return form, None


def check_content(uri: str, form: Format, head: bytes) -> None:
    """Compare the first bytes of a file, unzipped, with what its suffix says.

    Raises:
        CatalogueError: they are another format's.
    """
    if (form == "parquet" and head.startswith(b"PAR1")) or not head:
        return
    foreign = next((name for magic, name in _FOREIGN.items() if head.startswith(magic)), None)
    if form == "parquet":
        raise CatalogueError(
            f"{uri} is not a Parquet file, it is {foreign or 'of another format'}: give it the suffix of what it is"
        )
    if foreign is not None or b"\0" in head:
        raise CatalogueError(
            f"{uri} is no text, it is {foreign or 'binary'}: "
            "write it as UTF-8 (gzipped if you like), or give it the suffix of what it is"
        )


def check_unchanged(shard: Shard) -> None:
    """Compare a shard with what was listed.

    Raises:
        CatalogueError: it has been replaced or deleted since.
    """
    try:
        unchanged = storage.fingerprint(shard.uri) == shard.fingerprint
    except FileNotFoundError:
        unchanged = False
    except storage.StorageError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        unchanged = False
    if not unchanged:
        raise CatalogueError(f"{shard.uri} has changed since the run listed it: start the run again")


@contextlib.contextmanager
def named_errors(shard: Shard) -> Iterator[None]:
    """Say of a shard that cannot be unzipped or decoded which one it is, and why."""
    try:
        yield
    except EOFError as error:
        raise CatalogueError(f"{shard.uri} is cut off: its gzip stream has no end; write it again") from error
    except (zlib.error, gzip.BadGzipFile) as error:
        raise CatalogueError(f"{shard.uri} is damaged: it cannot be unzipped ({error}); write it again") from error
    except pa.ArrowInvalid as error:
        raise CatalogueError(f"{shard.uri} is damaged: {str(error).splitlines()[0]}; write it again") from error


@contextlib.contextmanager
def open_stream(shard: Shard) -> Iterator[io.BufferedReader]:
    """Open a shard for reading from its beginning, unzipped.

    Raises:
        CatalogueError: the shard has changed, is cut off or damaged; also while it is read.
    """
    check_unchanged(shard)
    with contextlib.ExitStack() as stack:
        stack.enter_context(named_errors(shard))
        raw = stack.enter_context(storage.open_input(shard.uri))
        if shard.compression == "gzip":
            raw = stack.enter_context(gzip.GzipFile(fileobj=cast(BinaryIO, raw), mode="rb"))
        yield stack.enter_context(io.BufferedReader(cast(io.RawIOBase, raw), _COPY_BYTES))


@contextlib.contextmanager
def open_seekable(shard: Shard) -> Iterator[pa.NativeFile]:
    """Open a shard for seekable reading; a gzipped one is unzipped to a temporary file on local disk.

    Raises:
        CatalogueError: the shard has changed, is cut off or damaged.
    """
    if shard.compression is None:
        check_unchanged(shard)
        with named_errors(shard), storage.open_input(shard.uri) as source:
            yield source
        return
    with tempfile.TemporaryFile(prefix="catalogue-") as copy:
        with open_stream(shard) as stream:
            shutil.copyfileobj(stream, copy, _COPY_BYTES)
        copy.seek(0)
        with named_errors(shard), pa.PythonFile(copy, mode="r") as source:
            yield source
