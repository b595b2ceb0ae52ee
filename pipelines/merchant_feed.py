"""Products of Google Merchant feeds: XML (RSS 2.0 or Atom with the `g:` namespace), or a table by tab or comma.

An item, entry or row is a product; attributes are columns, named as in the product data specification with `_`
(support.google.com/merchants/answer/7052112), but for `id`, which is `product_id` as in every shop's export, and for
`image_link` and all of `additional_image_link`, which make `picture`.
XML is read item by item, each of at most 64 MB, without DTD or entities.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import iterparse

from pipelines import records
from pipelines.column_types import Path
from pipelines.columns import Block
from pipelines.csv_records import MAX_ROW_BYTES, Unreadable
from pipelines.layout import PRODUCT_ID
from pipelines.recognition import folded
from pipelines.records import Items
from pipelines.schema import ShardColumns
from pipelines.shards import CatalogueError, Piece, Shard, open_stream
from pipelines.text_shards import read_cells

_GOOGLE = "base.google.com/ns/"
# What RSS and Atom call what the specification has other names for.
_ATOM_NAMES = {"summary": "description", "content": "description"}
_CODES = ("gtin", "mpn", "item_group_id", "google_product_category")
_IMAGE, _MORE_IMAGES, PICTURE = "image_link", "additional_image_link", "picture"


def describe(shard: Shard, sample_bytes: int) -> ShardColumns | None:
    """Find the columns of a feed from its first `sample_bytes`, unzipped; None where it has no item.

    Raises:
        CatalogueError: it is cut off, damaged or no feed.
    """
    with open_stream(shard) as stream:
        items = records.sample(_products(shard, stream), sample_bytes)
        return records.describe(shard.uri, items, "products of a Merchant feed", records.infer_cells, _CODES)


def read_blocks(piece: Piece, paths: Sequence[Path], rows: int, size: int, stop_row: int | None = None) -> Iterator[Block]:
    """Read a feed in blocks of at most `rows` products and about `size` bytes of the file.

    Raises:
        CatalogueError: the feed is cut off, damaged or has changed.
    """
    with open_stream(piece.shard) as stream:
        yield from records.cut(_products(piece.shard, stream), records.dict_columns, paths, rows, size, stop_row)


def _products(shard: Shard, stream: io.BufferedReader) -> Items:
    if stream.peek(1 << 16).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
        yield from _items(shard, stream)
        return
    _, lines = read_cells(shard, stream)
    for cells, length in lines:
        yield cells if isinstance(cells, Unreadable) else _of_cells(cells), length


def _of_cells(cells: dict[str, str]) -> dict[str, Any]:
    fields: dict[str, Any] = {folded(name).replace(" ", "_"): cell for name, cell in cells.items()}
    # Several pictures are separated by commas, those of an address itself being written %2C.
    fields[_MORE_IMAGES] = fields.get(_MORE_IMAGES, "").split(",")
    return _product(fields)


def _product(fields: dict[str, Any]) -> dict[str, Any]:
    fields[PRODUCT_ID] = fields.pop("id", None)
    places: list[str] = []
    for name in (_IMAGE, _MORE_IMAGES):
        value = fields.pop(name, None)
        places += value if isinstance(value, list) else [value or ""]
    return {**fields, PICTURE: list(dict.fromkeys(place.strip() for place in places if place.strip())) or None}


class _Counted:
    """A stream that says how much was read of it, and refuses to read an item above the limit on rows."""

    def __init__(self, shard: Shard, stream: io.BufferedReader) -> None:
        self._uri, self._stream = shard.uri, stream
        self.position = self.item_start = 0

    def read(self, size: int = -1) -> bytes:
        if self.position - self.item_start > MAX_ROW_BYTES:
            raise CatalogueError(
                f"{self._uri} has no end of an item within {MAX_ROW_BYTES >> 20} MB from byte {self.item_start}: "
                "it is no Merchant feed, or an item is too long; leave it out, or write it again"
            )
        data = self._stream.read(size)
        self.position += len(data)
        return data


def _items(shard: Shard, stream: io.BufferedReader) -> Items:
    counted = _Counted(shard, stream)
    open_elements: list[Element] = []
    try:
        for event, element in iterparse(counted, events=("start", "end"), forbid_dtd=True):
            if event == "start":
                open_elements.append(element)
                continue
            open_elements.pop()
            if _name(element) in ("item", "entry") and open_elements:
                length, counted.item_start = counted.position - counted.item_start, counted.position
                yield _of_element(element), max(length, 1)
                open_elements[-1].remove(element)
    except ParseError as error:
        line, column = error.position
        how = "cut off" if "no element found" in str(error) or "unclosed" in str(error) else "damaged"
        raise CatalogueError(
            f"{shard.uri} is {how}: its XML cannot be read at line {line}, column {column} ({error.msg}); write it again"
        ) from error
    except DefusedXmlException as error:
        raise CatalogueError(
            f"{shard.uri} declares a document type or entities ({error}), which no feed needs: leave them out"
        ) from error


def _name(element: Element) -> str:
    return element.tag.rpartition("}")[2]


def _of_element(item: Element) -> dict[str, Any]:
    of_google: dict[str, Any] = {}
    of_feed: dict[str, Any] = {}
    for child in item:
        google = _GOOGLE in child.tag
        name = _name(child)
        value = child.get("href") if name == "link" and not google and child.get("href") else _value(child)
        if value is not None:
            fields, name = (of_google, name) if google else (of_feed, _ATOM_NAMES.get(name, name))
            _add(fields, name, value)
    return _product({**of_feed, **of_google})


def _value(element: Element) -> Any:
    if len(element):
        inner: dict[str, Any] = {}
        for child in element:
            if (value := _value(child)) is not None:
                _add(inner, _name(child), value)
        return inner or None
    text = (element.text or "").strip()
    return text or None


def _add(fields: dict[str, Any], name: str, value: Any) -> None:
    before = fields.get(name)
    if before is None:
        fields[name] = value
    else:
        fields[name] = [*(before if isinstance(before, list) else [before]), value]
