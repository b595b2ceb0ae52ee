"""Files checked against the sizes and hashes that a list of them gives, each copy hashed once."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Verify = Literal["once", "always"]


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


def _sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def cache_folder() -> Path:
    """Return where local copies and verdicts are kept: `$CATALOGUE_INDEX_CACHE` or `~/.cache/catalogue-index`."""
    return Path(os.environ.get("CATALOGUE_INDEX_CACHE") or Path.home() / ".cache" / "catalogue-index")


def verify_files(folder: Path, entries: Mapping[str, FileEntry], mode: Verify = "once") -> None:
    """Check files below `folder`: sizes always, sha256 once for each copy or always.

    A copy is known by path, size, modification time and inode; verdicts are remembered in the cache folder, and a
    cache that cannot be read or written only costs the hashing again.

    Raises:
        IntegrityError: naming the first file that is missing, truncated or altered.
    """
    if mode not in ("once", "always"):
        raise ValueError(f"verify is '{mode}'; it may be 'once' or 'always'")
    known = _read_verdicts(folder) if mode == "once" else {}
    verdicts: dict[str, str] = {}
    for name, entry in entries.items():
        path = folder / name
        try:
            stat = path.stat()
        except FileNotFoundError:
            raise IntegrityError(f"{path} is missing: copy the whole folder again") from None
        if stat.st_size != entry.size:
            raise IntegrityError(f"{path} has {stat.st_size} bytes instead of {entry.size}: it is truncated or altered")
        copy = f"{stat.st_size}-{stat.st_mtime_ns}-{stat.st_ino}-{entry.sha256}"
        if known.get(name) != copy and _sha256(path) != entry.sha256:
            raise IntegrityError(f"{path} is altered: its sha256 is not the one it was written with")
        verdicts[name] = copy
    if verdicts != {name: known.get(name) for name in verdicts}:
        _write_verdicts(folder, known | verdicts)


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
