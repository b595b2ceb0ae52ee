"""One job at a time an index: an advisory lock on `LOCK` at its root, whose content names the owner.

The kernel holds the lock (flock) for the process, so it is free again however the process ends, kill -9 included; the
file stays, and what it says counts only while it is locked. Object stores, and filesystems that have no locks, go
without: there `CURRENT`, which is swapped only if it is unchanged, keeps two runs from undoing one another.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from catalogue_lookup.withdrawn import WITHDRAWN_FILE
from pipelines import storage
from pipelines.config import ConfigError

LOCK_FILE = "LOCK"
# An owner writes its name right after it took the lock: a second process may look in between.
NAMED_WITHIN_SECONDS = 1.0
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)

_log = logging.getLogger(__name__)


class LockedError(RuntimeError):
    """Another job is at work on the index; the message names it."""


@dataclass(frozen=True)
class Owner:
    """Who holds the lock of an index.

    Attributes:
        command: what it does, e.g. "run".
        host: name of its machine.
        pid: its process there.
        since: UTC time at which it took the lock, ISO 8601.
    """

    command: str
    host: str
    pid: int
    since: str

    def __str__(self) -> str:
        return f"'catalogue-index {self.command}' on {self.host}, process {self.pid}, since {self.since}"


def check_index(index: str) -> None:
    """Check that a local folder of an index is there; object stores have no folders.

    Raises:
        ConfigError: there is none.
    """
    local = storage.local_path(index)
    if local is not None and not local.is_dir():
        raise ConfigError(f"there is no index at {index}: no such folder")


@contextlib.contextmanager
def hold(index: str, command: str, create: bool = True) -> Iterator[None]:
    """Hold the lock of an index for the block; on an object store there is none, which is logged.

    The first thing done under it is to delete what killed owners left half-written.

    Args:
        index: folder or URI of the index.
        command: what the owner is told to do.
        create: whether to make a local folder where there is none.

    Raises:
        ConfigError: there is no such folder, and none is to be made.
        LockedError: another process, or another block of this one, holds it.
        StorageError: the file cannot be opened.
    """
    local = storage.local_path(index)
    if not create:
        check_index(index)
    if local is None:
        _log.info("%s is on an object store, which has no locks: see to it that one job at a time works on it", index)
        yield
        return
    path = local / LOCK_FILE
    handle = _open(path)
    try:
        if _locked(handle, path):
            since = datetime.now(UTC).isoformat(timespec="seconds")
            with storage.named_errors("write", str(path)):
                _write(handle, Owner(command, socket.gethostname(), os.getpid(), since))
            left = storage.remove_leftovers(index, WITHDRAWN_FILE)
            if left:
                _log.info("deleted %d half-written files that killed jobs left", left)
            try:
                yield
            finally:
                os.ftruncate(handle, 0)
        else:
            yield
    finally:
        os.close(handle)


def _open(path: Path) -> int:
    # Not written as other files of an index are: a lock is one inode's, and a file put in its place would be free.
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise storage.StorageError(f"cannot open the lock {path}: {error.strerror}") from error


def _locked(handle: int, path: Path) -> bool:
    """Take the lock; False where the filesystem has none."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = _read_owner(path)
        raise LockedError(
            f"the index {path.parent} is locked by {owner or 'another process'}: wait until it has ended, or stop it; "
            "nothing was done"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise storage.StorageError(f"cannot lock {path}: {error.strerror}") from error
        _log.warning("the filesystem of %s has no locks: see to it that one job at a time works on the index", path.parent)
        return False
    return True


def _write(handle: int, owner: Owner) -> None:
    os.ftruncate(handle, 0)
    os.pwrite(handle, (json.dumps(asdict(owner), ensure_ascii=False) + "\n").encode(), 0)


def _read_owner(path: Path) -> Owner | None:
    """Return who holds the lock, None where it does not say so in time."""
    deadline = time.monotonic() + NAMED_WITHIN_SECONDS
    while True:
        with contextlib.suppress(OSError, ValueError, TypeError):
            owner = Owner(**json.loads(path.read_bytes()))
            if owner.host != socket.gethostname() or _is_alive(owner.pid):
                return owner
        if time.monotonic() > deadline:
            return None
        time.sleep(0.02)


def _is_alive(pid: int) -> bool:
    """Tell whether a process of this machine is there: what a killed owner left in the file is not the owner's name."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
