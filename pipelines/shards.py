"""Shards of a catalogue: listing them, finding their formats, opening them.

Which format a file is of, `recognition` says by its suffix and content; its first bytes say whether it is gzipped.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import logging
import re
import shutil
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from glob import escape
from typing import BinaryIO, Literal, cast

import pyarrow as pa

from pipelines import storage
from pipelines.recognition import (
    HEAD_BYTES,
    NOUNS,
    UNITS,
    CatalogueError,
    Format,
    check_content,
    choose,
    format_of_suffix,
    is_numbered,
)

__all__ = [
    "CatalogueError",
    "Format",
    "Piece",
    "Shard",
    "check_content",
    "check_unchanged",
    "list_shards",
    "named_errors",
    "open_seekable",
    "open_stream",
]  # fmt: skip

_GZIP = b"\x1f\x8b"
_READERS = 16
_COPY_BYTES = 1 << 20
_TAR_SUFFIX = re.compile(r"\.(tar(\.gz|\.gzip)?|tgz)$")
_COMPANION = re.compile(r"(\.parquet|_stats\.json)$")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shard:
    """One file of the catalogue.

    Attributes:
        index: its place in the sorted list of shards.
        uri: local path or URI.
        size: bytes, as stored.
        fingerprint: changes when the content is replaced.
        format: what it is read as.
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


def list_shards(patterns: Sequence[str], form: Format | Literal["auto"] = "auto") -> list[Shard]:
    """List the files that globs, folders or paths name, each once, sorted by URI and numbered.

    Of a folder, the files of known suffixes directly in it are taken. What a glob finds below hidden names and
    names that begin with an underscore is left out, and so are files of 0 bytes and what img2dataset writes beside
    its tars, which are logged.

    Args:
        patterns: globs, folders or paths.
        form: what all files are to be read as; "auto": what each of them is by its suffix and content.

    Raises:
        CatalogueError: a pattern matches nothing, or a file is of no known format or not what `form` says.
    """
    found: dict[str, storage.FileInfo] = {}
    for pattern in patterns:
        infos = _without_companions(_match(pattern))
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
        kinds = list(pool.map(partial(_kind, wanted=None if form == "auto" else form), infos))
    _log.info("recognised %s", _recognised(Counter(kind for kind, _ in kinds)))
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
        filled = format_of_suffix(pattern) is not None and any(info.size for info in infos)
        if local is None and not _has_glob(pattern) and not filled:
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
    return [info for info, name in names if name[:1] not in (".", "_") and (format_of_suffix(name) or is_numbered(name))]


def _without_companions(infos: list[storage.FileInfo]) -> list[storage.FileInfo]:
    """Leave out the tables and statistics that img2dataset writes beside each tar: 00000.parquet, 00000_stats.json."""
    tars = {_TAR_SUFFIX.sub("", info.path) for info in infos if _TAR_SUFFIX.search(info.path)}
    beside = [info for info in infos if _COMPANION.sub("", info.path) in tars and _COMPANION.search(info.path)]
    if beside:
        names = [info.path.rsplit("/", 1)[-1] for info in beside]
        shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        _log.info("%d files that lie beside tars of the same name are left out: %s", len(beside), shown)
    left_out = {info.path for info in beside}
    return [info for info in infos if info.path not in left_out]


def _has_glob(text: str) -> bool:
    return any(mark in text for mark in "*?[")


def _kind(info: storage.FileInfo, wanted: Format | None) -> tuple[Format, str | None]:
    with storage.open_input(info.path) as source:
        head = source.read(HEAD_BYTES)
    compression = "gzip" if head.startswith(_GZIP) else None
    if compression is not None:
        try:
            head = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, HEAD_BYTES)
        except zlib.error:
            head = b""
    return choose(info.path, head, wanted), compression


def _recognised(counts: Mapping[Format, int]) -> str:
    each = [(f"{count} file{'s' * (count > 1)} as {NOUNS[form]}", UNITS.get(form)) for form, count in counts.items()]
    return "; ".join(f"{files}: {unit}" if unit else files for files, unit in each)


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
