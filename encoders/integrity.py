"""Files checked against the sizes and hashes that a list of them gives, each copy hashed once; JSON that holds its own hash."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

Verify = Literal["once", "always"]

HASHING_THREADS = 4
# A file that changed within the tick of its filesystem's clock keeps its times; such verdicts are not remembered.
CLOCK_TICK_NS = 100_000_000


class IntegrityError(ValueError):
    """A file is missing, truncated or altered; the message names it."""


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and sha256 (hex) of a file."""

    size: int
    sha256: str


def describe_file(path: Path) -> FileEntry:
    """Return the size and the sha256 of a file."""
    return FileEntry(path.stat().st_size, hash_file(path))


def read_entries(content: Mapping[str, Any]) -> dict[str, FileEntry]:
    """Read a list of files from JSON: relative name -> {size, sha256}.

    Raises:
        IntegrityError: a name leads out of the folder, or an entry has other fields.
    """
    entries = {}
    for name, entry in content.items():
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise IntegrityError(f"the list of files names '{name}', which lies outside its folder: copy the folder again")
        try:
            entries[name] = FileEntry(int(entry["size"]), str(entry["sha256"]))
        except (KeyError, TypeError, ValueError):
            raise IntegrityError(f"the list of files has no size and sha256 for '{name}': copy the folder again") from None
    return entries


def hash_content(content: Mapping[str, Any]) -> str:
    """Return the sha256 (hex) of JSON values, the same whatever the order of their keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class SealedJson:
    """A kind of JSON document that holds its format and the hash of its own content: a truncated one is not a shorter one.

    Attributes:
        kind: what it is, for messages.
        format: the one that is written and read.
        error: what is raised where it cannot be read.
        remedy: what to do then, for messages.
        hash_of: hash (hex) of the content, its hash left out.
    """

    kind: str
    format: int
    error: type[ValueError]
    remedy: str
    hash_of: Callable[[Mapping[str, Any]], str] = hash_content

    def write(self, content: Mapping[str, Any]) -> bytes:
        """Write a content, its keys in their order, with format and hash."""
        whole = {"format": self.format, **content}
        return (json.dumps({**whole, "hash": self.hash_of(whole)}, indent=1, ensure_ascii=False) + "\n").encode()

    def read(self, data: bytes, path: str) -> dict[str, Any]:
        """Return the content, format and hash among it.

        Args:
            data: what `write` wrote.
            path: where it lies, for messages.

        Raises:
            ValueError: `error`: it is of a newer format, truncated or altered.
        """
        try:
            content = json.loads(data)
        except ValueError as error:
            reason = f"is not whole JSON ({error}): it is truncated or altered"
            raise self.error(f"{path} {reason}; {self.remedy}") from None
        number = content.get("format") if isinstance(content, dict) else None
        if isinstance(number, int) and number > self.format:
            raise self.error(f"{path} has format {number}, but this catalogue-index reads {self.format}: install a newer one")
        if number != self.format:
            raise self.error(f"{path} is no {self.kind}: it gives the format {number}; {self.remedy}")
        if content.get("hash") != self.hash_of({name: value for name, value in content.items() if name != "hash"}):
            raise self.error(f"{path} is altered: its content has another hash than it says; {self.remedy}")
        return content


def hash_file(path: Path) -> str:
    """Hash a file's content: sha256 in hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def cache_folder() -> Path:
    """Return where local copies and verdicts are kept: `$CATALOGUE_INDEX_CACHE` or `~/.cache/catalogue-index`."""
    return Path(os.environ.get("CATALOGUE_INDEX_CACHE") or Path.home() / ".cache" / "catalogue-index")


def verify_files(folder: Path, entries: Mapping[str, FileEntry], mode: Verify = "once") -> None:
    """Check files below `folder`: sizes always, sha256 once for each copy or always.

    A copy is known by path, size, inode and the times of its last changes; verdicts are remembered in the cache
    folder, and a cache that cannot be read or written only costs the hashing again.

    Raises:
        IntegrityError: naming the first file that is missing, truncated or altered.
    """
    if mode not in ("once", "always"):
        raise ValueError(f"verify is '{mode}'; it may be 'once' or 'always'")
    known = _read_verdicts(folder) if mode == "once" else {}
    copies = {name: _look_at(folder / name, entry) for name, entry in entries.items()}
    unknown = [name for name, copy in copies.items() if known.get(name) != copy]
    if not unknown:
        return
    now = time.time_ns()
    with ThreadPoolExecutor(HASHING_THREADS) as threads:
        for name, digest in zip(unknown, threads.map(lambda name: hash_file(folder / name), unknown), strict=True):
            if digest != entries[name].sha256:
                raise IntegrityError(
                    f"{folder / name} is altered: its sha256 is not the one it was written with; copy the folder again"
                )
    settled = {name: copies[name] for name in unknown if now - (folder / name).stat().st_ctime_ns > CLOCK_TICK_NS}
    if settled:
        _write_verdicts(folder, _read_verdicts(folder) | settled)


def _look_at(path: Path, entry: FileEntry) -> str:
    """Check a file's size; returns what tells this copy of it from any other."""
    try:
        stat = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise IntegrityError(f"{path} is missing: copy the whole folder again") from None
    if stat.st_size != entry.size:
        state = "truncated" if stat.st_size < entry.size else "altered"
        raise IntegrityError(f"{path} has {stat.st_size} bytes instead of {entry.size}: it is {state}; copy the folder again")
    return f"{stat.st_size}-{stat.st_mtime_ns}-{stat.st_ctime_ns}-{stat.st_ino}-{entry.sha256}"


def _verdict_file(folder: Path) -> Path:
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]
    return cache_folder() / "verified" / f"{name}.json"


def _read_verdicts(folder: Path) -> dict[str, str]:
    try:
        content = json.loads(_verdict_file(folder).read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write_verdicts(folder: Path, verdicts: Mapping[str, str]) -> None:
    path = _verdict_file(folder)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "w") as stream:
            json.dump(verdicts, stream, sort_keys=True)
        os.replace(temporary, path)
    except OSError:
        return


def files_below(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield (relative name, path) of all files below a folder, sorted by name."""
    found = [(path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file()]
    yield from sorted(found)
