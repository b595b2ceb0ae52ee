"""Files of an index, on local disk or any filesystem Beam knows (gs://, s3://, hdfs://).

`write_whole` and `put_file` are the only ways a file of the index comes to be: a reader finds it whole under
its name or does not find it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob as globbing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems


class StorageError(OSError):
    """A file could not be read or written; the message names it and says why."""


@dataclass(frozen=True)
class FileInfo:
    """A file as its folder lists it.

    Attributes:
        path: its path.
        size: bytes.
        fingerprint: changes when the content is replaced.
        modified: when it was last written, in seconds since 1970.
    """

    path: str
    size: int
    fingerprint: str
    modified: float


def local_path(path: str) -> Path | None:
    """Return the local path that `path` names, or None for a path of a remote filesystem."""
    if path.startswith("file://"):
        return Path(path.removeprefix("file://"))
    return None if "://" in path else Path(path)


def join(base: str, *parts: str) -> str:
    """Join path parts below `base`, which may be a URI."""
    return "/".join([base.rstrip("/") or "/", *(part.strip("/") for part in parts)])


@contextlib.contextmanager
def named_errors(verb: str, path: str) -> Iterator[None]:
    """Say of what the system refuses in the block which file it was about.

    Raises:
        StorageError: "cannot VERB PATH: CAUSE".
    """
    try:
        yield
    except StorageError:
        raise
    except (OSError, BeamIOError) as error:
        if os.strerror(errno.ENOSPC) in str(error):  # Annoy's error has no number
            raise StorageError(f"cannot {verb} {path}: the disk is full; free some space and run it again") from error
        raise StorageError(f"cannot {verb} {path}: {getattr(error, 'strerror', None) or error}") from error


def write_whole(path: str, data: bytes | memoryview | pa.Buffer) -> None:
    """Write `data` under `path` in one step: whole, or not at all.

    Local disk: a temporary name beside it, fsync, `os.replace`. Elsewhere: one PUT.

    Raises:
        StorageError: naming the path and the cause.
    """
    view = memoryview(data)
    with named_errors("write", path):
        local = local_path(path)
        if local is None:
            with FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
                stream.write(bytes(view))
            return
        _replace_local(local, lambda stream: stream.write(view))


def put_file(source: Path, path: str) -> None:
    """Copy a finished local file to `path`, whole or not at all (for what is too large for one buffer)."""
    with named_errors("write", path):
        local = local_path(path)
        with open(source, "rb") as reading:
            if local is None:
                with FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
                    shutil.copyfileobj(reading, stream, 1 << 22)
            else:
                _replace_local(local, lambda stream: shutil.copyfileobj(reading, stream, 1 << 22))


def _replace_local(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            fill(stream)
            stream.flush()
            os.fchmod(stream.fileno(), 0o644)
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def read_bytes(path: str) -> bytes:
    """Read a whole file.

    Raises:
        FileNotFoundError: where there is none.
        StorageError: where it cannot be read.
    """
    local = local_path(path)
    if local is not None:
        try:
            return local.read_bytes()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror}") from error
    with named_errors("read", path):
        if not FileSystems.exists(path):
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
            return stream.read()


def exists(path: str) -> bool:
    """Tell whether a file of that name is there."""
    local = local_path(path)
    return local.exists() if local is not None else FileSystems.exists(path)


def open_input(path: str) -> pa.NativeFile:
    """Open a file for seekable reading as Arrow reads it; never mapped into memory."""
    local = local_path(path)
    with named_errors("read", path):
        if local is not None:
            return pa.OSFile(os.fspath(local), "rb")
        return pa.PythonFile(FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED), mode="r")


def list_files(pattern: str) -> list[FileInfo]:
    """List the files that a glob matches, sorted by path; none is an empty list."""
    if local_path(pattern) is not None:
        return sorted(_list_local(str(local_path(pattern))), key=lambda info: info.path)
    with named_errors("list", pattern):
        found = FileSystems.match([pattern])[0].metadata_list
    return sorted((_listed(metadata) for metadata in found), key=lambda info: info.path)


def _listed(metadata: FileMetadata) -> FileInfo:
    size, modified = metadata.size_in_bytes, metadata.last_updated_in_seconds
    return FileInfo(metadata.path, size, f"{size}-{modified}", modified or 0.0)


def _list_local(pattern: str) -> Iterator[FileInfo]:
    for path in globbing.glob(pattern, recursive=True):
        with contextlib.suppress(FileNotFoundError):
            if not os.path.basename(path).endswith(".tmp") and os.path.isfile(path):
                yield _look_at(path)


def _look_at(path: str) -> FileInfo:
    stat = os.stat(path)
    return FileInfo(path, stat.st_size, f"{stat.st_size}-{stat.st_mtime_ns}", stat.st_mtime)


def list_folder(folder: str, name: str = "*") -> list[FileInfo]:
    """List the files of `folder` whose names match the glob `name`; `folder` itself is taken literally."""
    return list_files(join(globbing.escape(folder), name))


def folder_names(folder: str) -> list[str]:
    """Name the folders in a folder, sorted; of an object store those that hold a file."""
    local = local_path(folder)
    if local is not None:
        with named_errors("list", folder):
            return sorted(path.name for path in local.iterdir() if path.is_dir()) if local.is_dir() else []
    below = [info.path.removeprefix(f"{folder.rstrip('/')}/") for info in list_folder(folder, "**")]
    return sorted({name.partition("/")[0] for name in below if "/" in name})


def fingerprint(path: str) -> str:
    """Return what changes when the content of a file is replaced: size with mtime, or what the store lists.

    Raises:
        StorageError: there is no such file.
    """
    with named_errors("read", path):
        local = local_path(path)
        if local is not None:
            return _look_at(os.fspath(local)).fingerprint
        found = FileSystems.match([path])[0].metadata_list
        if not found:
            raise FileNotFoundError(errno.ENOENT, "No such file", path)
        return _listed(found[0]).fingerprint


def remove(paths: Iterable[str]) -> None:
    """Delete files and folders; what is gone already is no error."""
    for path in paths:
        local = local_path(path)
        with named_errors("delete", path):
            if local is not None:
                if local.is_dir():
                    # What stays is only found by name, such as the files that NFS keeps for who has them open.
                    shutil.rmtree(local, ignore_errors=True)
                else:
                    local.unlink(missing_ok=True)
            elif FileSystems.exists(path):
                FileSystems.delete([path])


def remove_folder(folder: str) -> None:
    """Delete a folder with all that is in it; one that is gone already is no error."""
    if local_path(folder) is not None:
        remove([folder])
    else:
        remove(info.path for info in list_folder(folder, "**"))


def remove_leftovers(folder: str, but: str) -> int:
    """Delete what killed writers left half-written below a folder of local disk; returns how many files.

    Who calls it has to be the only writer there: a file in the making has such a name, too.

    Args:
        folder: on an object store nothing is ever half-written.
        but: name of a file that others may be writing.
    """
    local, removed = local_path(folder), 0
    for parent, _, names in os.walk(local) if local is not None else ():
        for name in names:
            if name.startswith(".") and name.endswith(".tmp") and not name.startswith(f".{but}."):
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(parent, name))
                    removed += 1
    return removed


def compare_and_swap(path: str, expected: bytes | None, new: bytes) -> bool:
    """Replace the file's content by `new` if it still is `expected` (None: not there); tell whether it was.

    On local disk the comparison and the swap happen under a lock file; on an object store they are two requests.
    """
    local = local_path(path)
    with contextlib.ExitStack() as stack:
        if local is not None:
            with named_errors("write", path):
                local.parent.mkdir(parents=True, exist_ok=True)
                lock = stack.enter_context(open(local.with_name(f".{local.name}.lock"), "ab"))
                fcntl.flock(lock, fcntl.LOCK_EX)
            remove([str(left) for left in local.parent.glob(f".{globbing.escape(local.name)}.*.tmp")])
        try:
            current: bytes | None = read_bytes(path)
        except FileNotFoundError:
            current = None
        if current != expected:
            return False
        write_whole(path, new)
        return True
