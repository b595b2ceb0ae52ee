"""Files checked against the sizes and hashes that a list of them gives, each copy hashed once."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
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
    return FileEntry(path.stat().st_size, _sha256(path))


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


def _sha256(path: Path) -> str:
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
        for name, digest in zip(unknown, threads.map(lambda name: _sha256(folder / name), unknown), strict=True):
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
