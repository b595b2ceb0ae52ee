"""Pictures that the catalogue names by path or URI: where they may lie, and what they contain by hash."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa

from pipelines import ranges, storage, web
from pipelines.features import content_hash
from pipelines.layout import KEY_BYTES, Index, Partition

READERS = 16
MAX_PICTURE_BYTES = 256 << 20


class PathError(ValueError):
    """A picture's path cannot be used; `reason` is the reject's reason, the text its detail."""

    def __init__(self, reason: str, detail: str):
        """Keep the reason beside the sentence."""
        super().__init__(detail)
        self.reason = reason


def read_named(paths: Iterable[str], shard: str, roots: Iterable[str]) -> list[bytes]:
    """Return the contents of pictures that a row of `shard` names, for looking at: those that cannot be read are left out.

    What a run does with these, it rejects with its reason.
    """
    contents = []
    for path in paths:
        try:
            contents.append(read(resolve(path, shard, roots)))
        except PathError:
            continue
    return contents


def catalogue_roots(shards: Iterable[str]) -> tuple[str, ...]:
    """Return the folders that hold the shards: what pictures may be read from unless the user says otherwise."""
    return tuple(sorted({shard.rpartition("/")[0] or ("/" if shard.startswith("/") else ".") for shard in shards}))


def resolve(path: str, shard: str, roots: Iterable[str]) -> str:
    """Return the place of a picture that a row of `shard` names by `path`.

    Relative paths are relative to the shard's folder. Links are followed before the roots are compared.

    Raises:
        PathError: outside the allowed roots, or a scheme that pictures are not read by.
    """
    if path.startswith("file://"):
        path = path.removeprefix("file://")
    if "\0" in path:
        raise PathError("unreadable_path", "the path has a NUL character")
    if "://" in path:
        if not any(path.startswith(root.rstrip("/") + "/") for root in roots if "://" in root) or _leads_up(path):
            raise PathError("path_outside_roots", f"{path} is outside the allowed roots ({', '.join(roots)})")
        return path
    if not path.startswith("/"):
        path = storage.join(shard.rpartition("/")[0] or ".", path)
        if "://" in path:
            return resolve(path, shard, roots)
    real = os.path.realpath(path)
    for root in roots:
        local = storage.local_path(root)
        if local is not None and os.path.commonpath([real, os.path.realpath(local)]) == os.path.realpath(local):
            return path
    raise PathError("path_outside_roots", f"{path} is outside the allowed roots ({', '.join(roots)})")


def _leads_up(uri: str) -> bool:
    """Tell whether a part of a URI is "..", however often its characters are escaped: servers unescape before they look."""
    place = uri.partition("://")[2]
    while (plain := unquote(place)) != place:
        place = plain
    return any(part.partition(";")[0] == ".." for part in re.split(r"[/\\?#]", place))


@dataclass(frozen=True)
class Seen:
    """What a picture contained when it was last read."""

    fingerprint: str
    content: bytes


def remembered(index: Index, partition: Partition) -> dict[str, Seen]:
    """Return the pictures that earlier runs read for products of a partition, by place."""
    folders = [index.pictures(part) for part in partition.lineage()]
    files = sorted(
        (info.path for folder in folders for info in storage.list_folder(folder, "*.parquet")),
        key=lambda path: path.rsplit("/", 1)[-1],
    )
    seen: dict[str, Seen] = {}
    for path in files:
        table = ranges.read_table(path)
        rows = zip(*(table[name].to_pylist() for name in ("path", "fingerprint", "content")), strict=True)
        seen.update({place: Seen(fingerprint, content) for place, fingerprint, content in rows})
    return seen


def remember(index: Index, partition: Partition, run: str, seen: Mapping[str, Seen]) -> None:
    """Write down what tonight's pictures contain; older files of the partition then say nothing new."""
    places = sorted(seen)
    table = pa.table(
        {
            "path": pa.array(places, pa.string()),
            "fingerprint": pa.array([seen[place].fingerprint for place in places], pa.string()),
            "content": pa.array([seen[place].content for place in places], pa.binary(KEY_BYTES)),
        }
    )
    path = storage.join(index.pictures(partition), f"{run}.parquet")
    ranges.write_table(path, table)
    older = [info.path for info in storage.list_folder(index.pictures(partition), "*.parquet") if info.path < path]
    storage.remove(older)


def look(places: Iterable[str], known: Mapping[str, Seen]) -> dict[str, Seen | PathError]:
    """Hash the pictures whose fingerprint is new; the others are as remembered.

    Pictures are read by threads, one at a time each, at most 256 MB each.
    """

    def one(place: str) -> Seen | PathError:
        try:
            before = known.get(place)
            if web.is_web(place) and before is None:
                data, fingerprint = _fetch(place)
                return Seen(fingerprint, content_hash(data))
            fingerprint = web.fingerprint(place) if web.is_web(place) else storage.fingerprint(place)
            if before is not None and before.fingerprint == fingerprint:
                return before
            return Seen(fingerprint, content_hash(read(place)))
        except PathError as error:
            return error
        except OSError as error:
            return PathError("unreadable_path", f"cannot read {place}: {error.strerror or error}")

    unique = sorted(set(places))
    with ThreadPoolExecutor(READERS) as pool:
        return dict(zip(unique, pool.map(one, unique), strict=True))


def read(place: str) -> bytes:
    """Read a picture.

    Raises:
        PathError: there is none, it is no file (a pipe, a device, a folder), or it is larger than 256 MB.
    """
    if web.is_web(place):
        return _fetch(place)[0]
    local = storage.local_path(place)
    try:
        if local is not None:
            data = _read_file(local)
        else:
            with storage.open_input(place) as source:
                data = source.read(MAX_PICTURE_BYTES + 1)
    except OSError as error:
        raise PathError("unreadable_path", f"cannot read {place}: {error.__cause__ or error.strerror or error}") from error
    return _bounded(data, place)


def _read_file(path: Path) -> bytes:
    # A pipe is opened without waiting for who writes to it, and what is no file is not read: a device may have no end.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(handle, "rb") as source:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no file")
        return source.read(min(found.st_size, MAX_PICTURE_BYTES) + 1)


def _fetch(place: str) -> tuple[bytes, str]:
    try:
        data, fingerprint = web.fetch(place, MAX_PICTURE_BYTES)
    except web.WebError as error:
        raise PathError("unreadable_path", f"cannot read {place}: {error}") from error
    return _bounded(data, place), fingerprint


def _bounded(data: bytes, place: str) -> bytes:
    if len(data) > MAX_PICTURE_BYTES:
        raise PathError("picture_too_large", f"{place} has more than {MAX_PICTURE_BYTES} bytes")
    return data
