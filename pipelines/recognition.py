"""Formats of catalogue files: their names, and which one a file is by its suffix and its first bytes.

Bytes decide wherever they can: Parquet, TFRecord and tar archives are known by how they begin, shops' exports and
feeds by their header or namespace, whatever the file is called. A suffix that the bytes contradict is an error.
"""

from __future__ import annotations

import csv
import re
import struct
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import google_crc32c

Format = Literal["parquet", "jsonl", "csv", "tsv", "tfrecord", "webdataset", "merchant", "shopify", "woocommerce"]
SUFFIXES: dict[str, Format] = {
    ".parquet": "parquet", ".pq": "parquet", ".parq": "parquet",
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".jl": "jsonl", ".json": "jsonl",
    ".csv": "csv", ".tsv": "tsv", ".tab": "tsv",
    ".tfrecord": "tfrecord", ".tfrecords": "tfrecord", ".tar": "webdataset", ".tgz": "webdataset", ".xml": "merchant",
}  # fmt: skip
# What a file of each format is called in sentences, and what is one product where that is not one row.
NOUNS: Mapping[Format, str] = {
    "parquet": "Parquet", "jsonl": "JSON lines", "csv": "CSV", "tsv": "TSV", "tfrecord": "TFRecord",
    "webdataset": "a WebDataset tar", "merchant": "a Google Merchant feed", "shopify": "a Shopify product export",
    "woocommerce": "a WooCommerce product export",
}  # fmt: skip
UNITS: Mapping[Format, str] = {
    "webdataset": "members of one key are one product", "shopify": "rows with one handle are one product",
    "woocommerce": "a variable product and its variations are one product",
}  # fmt: skip
HEAD_BYTES = 64 << 10

_SHARD_NUMBER = re.compile(r"-\d+-of-\d+$")
_TEXTS = ("jsonl", "csv", "tsv")
# What files begin with that are no text, or in an encoding that is not read.
_FOREIGN = {
    b"PAR1": "a Parquet file", b"PARE": "an encrypted Parquet file", b"BZh": "compressed by bzip2",
    b"\xfd7zXZ": "compressed by xz", b"\x28\xb5\x2f\xfd": "compressed by Zstandard", b"PK\x03\x04": "a ZIP file",
    b"\xff\xfe": "encoded in UTF-16", b"\xfe\xff": "encoded in UTF-16", b"ARROW1": "an Arrow file",
    b"Obj\x01": "an Avro file", b"ORC": "an ORC file", b"%PDF": "a PDF", b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
}  # fmt: skip
# NUL characters that the first 512 bytes of a text may have.
_TEXT_NULS = 8
_OTHER_XML = "XML or HTML of another kind"
_MERCHANT_NAMESPACE = b"base.google.com/ns/"


class CatalogueError(ValueError):
    """The catalogue cannot be read as it is; the message names the file or column and says what to do."""


@dataclass(frozen=True)
class _Dialect:
    """Columns, in lower case and without `_`, that a header has to have: to be recognised, and to be read when asked."""

    format: Format
    recognised: frozenset[str]
    one_of: frozenset[str]
    needed: frozenset[str]


_DIALECTS = (
    _Dialect("shopify", frozenset(("handle", "title")), frozenset(("variant price", "variant sku", "image src")),
             frozenset(("handle",))),
    _Dialect("shopify", frozenset(("url handle", "title")), frozenset(("product image url", "option1 name", "vendor")),
             frozenset(("url handle",))),
    _Dialect("woocommerce", frozenset(("type", "sku", "name")), frozenset(("parent", "regular price", "tax class")),
             frozenset(("type", "name"))),
    _Dialect("merchant", frozenset(("id", "title", "link", "image link")), frozenset(("price", "availability", "description")),
             frozenset(("id", "title"))),
)  # fmt: skip


@dataclass(frozen=True)
class Looks:
    """What the beginning of a file looks like.

    Attributes:
        formats: what it may be read as, the likeliest first; none where it is nothing that is read.
        certain: whether the bytes alone say that it is the first of them.
        noun: what it is, for sentences.
    """

    formats: tuple[Format, ...]
    certain: bool
    noun: str


def format_of_suffix(path: str) -> Format | None:
    """Return the format that a file's suffix says, `.gz` and a shard's number (`-00003-of-00010`) not counted."""
    name = _plain_name(path)
    name = _SHARD_NUMBER.sub("", name)
    return SUFFIXES.get("." + name.rsplit(".", 1)[-1]) if "." in name else None


def is_numbered(path: str) -> bool:
    """Tell whether a file is called as numbered shards are, `train-00003-of-00010`, whatever comes before."""
    return _SHARD_NUMBER.search(_plain_name(path)) is not None


def _plain_name(path: str) -> str:
    name = path.rsplit("/", 1)[-1].lower()
    for ending in (".gz", ".gzip"):
        name = name.removesuffix(ending)
    return name


def masked_crc32c(data: bytes) -> int:
    """Return the checksum that TFRecord keeps: CRC-32C, rotated and shifted (tensorflow/core/lib/hash/crc32c.h)."""
    crc = google_crc32c.value(data)
    return int(((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def look(head: bytes) -> Looks:
    """Return what a file that begins, unzipped, with these bytes looks like."""
    if head.startswith(b"PAR1"):
        return Looks(("parquet",), True, "Parquet")
    if len(head) >= 12 and struct.unpack_from("<I", head, 8)[0] == masked_crc32c(head[:8]):
        return Looks(("tfrecord",), True, "TFRecord")
    if _is_tar(head[:512]):
        return Looks(("webdataset",), True, "a tar archive")
    foreign = next((name for magic, name in _FOREIGN.items() if head.startswith(magic)), None)
    if foreign is not None or b"\0" in head[:8] or head[:512].count(0) > _TEXT_NULS:
        return Looks((), False, foreign or "binary")
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"<"):
        feed = _MERCHANT_NAMESPACE in text
        return Looks(("merchant",) if feed else (), feed, "a Google Merchant feed" if feed else _OTHER_XML)
    if text.startswith(b"["):
        return Looks((), False, "a JSON array")
    if text.startswith(b"{"):
        return Looks(("jsonl",), False, "JSON")
    return _look_at_header(text) if text else Looks((), False, "empty")


def _is_tar(head: bytes) -> bool:
    try:
        return bool(tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape").name)
    except tarfile.HeaderError:
        return False


def header_delimiter(line: str) -> str:
    """Return what separates the cells of a header: the comma, semicolon or tab, whichever it has most of."""
    return max(",;\t", key=line.count)


def folded(name: str) -> str:
    """Return a column's name as headers are compared: lower case, spaces for `_`."""
    return name.strip().lower().replace("_", " ")


def _look_at_header(text: bytes) -> Looks:
    line = text.splitlines()[0].decode(errors="replace")
    delimiter = header_delimiter(line)
    try:
        names = next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        names = []
    columns = {folded(name) for name in names}
    table: tuple[Format, ...] = ("csv", "tsv") if delimiter not in line else ("tsv",) if delimiter == "\t" else ("csv",)
    sure = next((d for d in _DIALECTS if d.recognised <= columns and d.one_of & columns), None)
    others = [dialect.format for dialect in _DIALECTS if dialect.needed <= columns]
    formats: dict[Format, None] = dict.fromkeys([*([sure.format] if sure else []), *table, *others])
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return Looks(tuple(formats), sure is not None, NOUNS[sure.format] if sure else f"{NOUNS[table[0]]} with the columns {shown}")


def choose(uri: str, head: bytes, wanted: Format | None) -> Format:
    """Return the format to read a file as.

    Args:
        uri: the file.
        head: its first bytes, unzipped; none where they cannot be read, which whoever reads on then says.
        wanted: the format that was asked for; None: what it looks like.

    Raises:
        CatalogueError: the content contradicts the suffix or what was asked for, or is of no known format.
    """
    found, named = look(head), format_of_suffix(uri)
    if wanted is not None:
        if head and found.noun != "empty" and wanted not in found.formats and not _damaged(wanted, named, found):
            raise CatalogueError(
                f"{uri} is not {NOUNS[wanted]}, as --format {wanted} says, it looks like {found.noun}: "
                "leave --format out, or narrow the glob"
            )
        return wanted
    if named is None:
        if found.certain or found.formats == ("jsonl",):
            return found.formats[0]
        raise CatalogueError(
            f"{uri} is of no known format ({', '.join(SUFFIXES)}, also with .gz): "
            "rename it, or narrow the glob so that it is left out"
        )
    if not head or named in found.formats[:1] or _damaged(named, named, found):
        return named
    if found.certain and named in _TEXTS and found.formats[0] in ("merchant", "shopify", "woocommerce"):
        return found.formats[0]
    _check(uri, named, found)
    return named


def _damaged(wanted: Format, named: Format | None, found: Looks) -> bool:
    """Tell whether a file called as what is wanted of it looks like nothing: its reader then says what is broken."""
    return wanted in ("tfrecord", "webdataset") and named == wanted and found == Looks((), False, "binary")


def check_content(uri: str, form: Format, head: bytes) -> None:
    """Compare the first bytes of a file, unzipped, with the format it is read as.

    Raises:
        CatalogueError: they are another format's.
    """
    if head:
        _check(uri, form, look(head))


def _check(uri: str, form: Format, found: Looks) -> None:
    binary = not found.formats and found.noun not in ("empty", "a JSON array", _OTHER_XML)
    foreign = binary or found.formats[:1] in (("parquet",), ("tfrecord",), ("webdataset",))
    if form in _TEXTS:
        if foreign:
            noun = "a Parquet file" if found.formats == ("parquet",) else found.noun
            raise CatalogueError(
                f"{uri} is no text, it is {noun}: write it as UTF-8 (gzipped if you like), or give it the suffix of what it is"
            )
    elif form not in found.formats[:1] and found.noun != "empty":
        noun = found.noun if foreign and found.noun != "binary" else "of another format"
        name = "a Parquet file" if form == "parquet" else NOUNS[form]
        remedy = "write it as UTF-8" if noun.startswith("encoded") else "give it the suffix of what it is"
        raise CatalogueError(f"{uri} is not {name}, it is {noun}: {remedy}")
