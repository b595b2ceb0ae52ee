"""Rows and pictures of WebDataset tars, as img2dataset writes them: members of one key are one product.

    00000.tar: 000000001.jpg, 000000001.txt, 000000001.json, 000000002.jpg, ...

The key is a member's name up to the first dot behind its folder. A JSON object gives columns, `.txt` the column
`caption`, pictures the column `picture` (several, 1.a.jpg and 1.b.jpg, in their order in the tar), the key `key`; other
members are passed over. A tar is read from its beginning, member by member; none of it but one product is in memory.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import tarfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, cast

from pipelines import records
from pipelines.column_types import Path
from pipelines.columns import Block
from pipelines.csv_records import MAX_ROW_BYTES, Unreadable
from pipelines.picture_columns import picture_lists
from pipelines.records import Items
from pipelines.schema import ShardColumns
from pipelines.shards import CatalogueError, Piece, Shard, open_stream

KEY, CAPTION, PICTURE = "key", "caption", "picture"
_MEMBER = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)", re.DOTALL)
_PICTURES = frozenset("jpg jpeg jpe jfif png webp gif bmp tif tiff avif".split())
_TEXTS = frozenset(("json", "txt"))
# Long names and attributes lie in headers of their own, which tarfile reads whole.
_MAX_HEADER_BYTES = 1 << 20
_HEADERS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)


def describe(shard: Shard, sample_bytes: int) -> ShardColumns | None:
    """Find the columns of a tar from its first `sample_bytes`, unzipped; None where it has no product.

    Raises:
        CatalogueError: it is cut off or damaged, or no member is one that is read.
    """
    with _open(shard) as tar:
        return records.describe(shard.uri, records.sample(_rows(tar), sample_bytes), "products by key")


def read_blocks(piece: Piece, paths: Sequence[Path], rows: int, size: int, stop_row: int | None = None) -> Iterator[Block]:
    """Read a tar in blocks of at most `rows` products and about `size` bytes of members.

    Raises:
        CatalogueError: the tar is cut off, damaged or has changed.
    """
    kinds = _TEXTS | _PICTURES if (PICTURE,) in paths else _TEXTS
    with _open(piece.shard) as tar:
        yield from records.cut(_rows(tar, kinds), records.dict_columns, paths, rows, size, stop_row)


def read_pictures(
    shard: Shard, rows: Sequence[int], row_groups: Sequence[int] | None, path: Path, most: int, size: int
) -> Iterator[tuple[int, list[bytes | None]]]:
    """Read the pictures of some rows, sorted; of other rows only the headers are read.

    Raises:
        CatalogueError: the tar is cut off, damaged or has changed, or has no such row.
    """
    left = iter(rows)
    wanted = next(left, None)
    row = -1
    with _open(shard) as tar:
        for row, (key, members) in enumerate(_groups(tar)):
            if wanted is None:
                return
            if row == wanted:
                item, _ = _product(tar, key, members, _PICTURES)
                value = None if isinstance(item, Unreadable) else item.get(PICTURE)
                yield row, picture_lists([value], most)[0][0].as_py() or []
                wanted = next(left, None)
    if wanted is not None:
        raise CatalogueError(f"{shard.uri} has {row + 1} rows and no row {wanted}: start the run again")


@contextlib.contextmanager
def _open(shard: Shard) -> Iterator[tarfile.TarFile]:
    with open_stream(shard) as stream:
        try:
            with tarfile.open(fileobj=cast(BinaryIO, stream), mode="r:", tarinfo=_StrictInfo) as tar:
                yield tar
        except tarfile.TarError as error:
            raise CatalogueError(
                f"{shard.uri} is cut off or damaged near byte {stream.tell()}: {error}; write it again"
            ) from error


class _StrictInfo(tarfile.TarInfo):
    """A member's header. What tarfile takes for the end of an archive but its end mark is an error here."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _StrictInfo:
        try:
            found = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise  # the end mark
            raise tarfile.ReadError("a member's header or the end mark is missing") from error
        if found.type in _HEADERS and found.size > _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a member's header has {found.size} bytes")
        return found


def _members(tar: tarfile.TarFile) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    while (member := tar.next()) is not None:
        cast(Any, tar).members.clear()  # where tarfile keeps all that it has seen
        named = _MEMBER.fullmatch(member.name)
        if named is not None and member.isfile():
            kind = named[2].rsplit(".", 1)[-1].lower()
            if kind in _TEXTS or kind in _PICTURES:
                yield named[1], kind, member


_Members = Iterable[tuple[str, str, tarfile.TarInfo]]


def _groups(tar: tarfile.TarFile) -> Iterator[tuple[str, _Members]]:
    yield from itertools.groupby(_members(tar), lambda found: found[0])


def _rows(tar: tarfile.TarFile, kinds: Collection[str] = _TEXTS | _PICTURES) -> Items:
    for key, members in _groups(tar):
        yield _product(tar, key, members, kinds)


def _product(
    tar: tarfile.TarFile, key: str, members: _Members, kinds: Collection[str]
) -> tuple[dict[str, Any] | Unreadable, int]:
    """Read the members of these kinds of one key; returns the product and the bytes of its members."""
    fields: dict[str, Any] = {}
    pictures: list[bytes] = []
    caption: str | None = None
    size, bad = 0, None
    for _, kind, member in members:
        if kind not in kinds or bad is not None:
            continue
        size += member.size
        if size > MAX_ROW_BYTES:
            bad, size = records.too_long(f"the product '{key}'"), 0
            continue
        data = _read(tar, member)
        try:
            if kind == "json":
                fields.update(_object(data))
            elif kind == "txt":
                caption = data.decode("utf-8-sig")
            elif data:
                pictures.append(data)
        except (ValueError, RecursionError) as error:
            bad = Unreadable(f"the member {member.name} cannot be read: {error}")
    if bad is not None:
        return bad, size
    fields.pop(PICTURE, None)
    if fields.get(CAPTION) is None and caption is not None:
        fields[CAPTION] = caption
    if pictures:
        fields[PICTURE] = pictures if len(pictures) > 1 else pictures[0]
    return {**fields, KEY: key}, size


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    source = tar.extractfile(member)
    return b"" if source is None else source.read()


def _object(data: bytes) -> dict[str, Any]:
    found = json.loads(data.decode("utf-8-sig"))
    if not isinstance(found, dict):
        raise ValueError("it is JSON, but not an object")
    return found
