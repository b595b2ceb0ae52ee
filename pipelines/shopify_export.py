"""Products of Shopify's product export: consecutive rows of one handle are one product.

A product's first row has its title, text and first variant; the rows below it have further variants and pictures.
Both headers that Shopify writes are read: `Handle, Title, Body (HTML), ...` and `Title, URL handle, Description, ...`.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines import records
from pipelines.column_types import Path
from pipelines.columns import Block
from pipelines.csv_records import MAX_ROW_BYTES, Unreadable
from pipelines.recognition import folded
from pipelines.records import Items, Numbered
from pipelines.schema import ShardColumns
from pipelines.shards import Piece, Shard, open_stream
from pipelines.shop_columns import distinct, lowest_price, split_list
from pipelines.text_shards import read_cells

# Columns under the names that all formats share; of the columns of a header that mean the same, the first counts.
_NAMES = {
    "handle": "product_id", "url handle": "product_id", "title": "title", "body (html)": "description",
    "description": "description", "vendor": "brand", "type": "product_type", "product category": "category",
    "tags": "tags", "variant price": "price", "price": "price", "variant sku": "skus", "sku": "skus",
    "image src": "picture", "product image url": "picture", "image position": "position",
}  # fmt: skip
# What each variant has besides, listed in the order of the rows.
_OF_VARIANTS = (
    "variant ", "barcode", "compare-at price", "cost per item", "inventory quantity", "weight value", "image alt text",
)  # fmt: skip
_DEFAULT_OPTION = "Default Title"
_OPTIONS = range(1, 4)
_Row = dict[str, str]


def describe(shard: Shard, sample_bytes: int) -> ShardColumns | None:
    """Find the columns of an export from its first `sample_bytes`, unzipped; None where it has no row.

    Raises:
        CatalogueError: it is cut off, damaged or has no readable header.
    """
    with open_stream(shard) as stream:
        items = records.sample(_products(shard, stream), sample_bytes)
        return records.describe(shard.uri, items, "products of a Shopify export", records.infer_cells)


def read_blocks(piece: Piece, paths: Sequence[Path], rows: int, size: int, stop_row: int | None = None) -> Iterator[Block]:
    """Read an export in blocks of at most `rows` products and about `size` bytes of the file.

    Raises:
        CatalogueError: the export is cut off, damaged or has changed.
    """
    with open_stream(piece.shard) as stream:
        yield from records.cut(_products(piece.shard, stream), records.dict_columns, paths, rows, size, stop_row)


def _products(shard: Shard, stream: io.BufferedReader) -> Items:
    names, lines = read_cells(shard, stream)
    header = _Header(names)
    product: _Product | None = None
    for row, (cells, length) in enumerate(lines):
        handle = None if isinstance(cells, Unreadable) else header.cell(cells, "product_id")
        if isinstance(cells, Unreadable) or handle is None:
            bad = cells if isinstance(cells, Unreadable) else Unreadable("the row has no handle")
            yield Numbered(row, bad), length
            continue
        if product is None or handle != product.handle:
            if product is not None:
                yield product.close(header)
            product = _Product(handle, row)
        product.add(cells, length)
    if product is not None:
        yield product.close(header)


@dataclass
class _Product:
    """The rows of one handle, as far as they are read."""

    handle: str
    first_row: int
    rows: list[_Row] = field(default_factory=list)
    size: int = 0

    def add(self, cells: _Row, length: int) -> None:
        self.size += length
        if self.size > MAX_ROW_BYTES:
            self.rows.clear()
        else:
            self.rows.append(cells)

    def close(self, header: _Header) -> tuple[Numbered, int]:
        long = self.size > MAX_ROW_BYTES
        made = records.too_long(f"the product '{self.handle}'") if long else header.product(self.handle, self.rows)
        return Numbered(self.first_row, made), self.size


class _Header:
    """What the columns of one export mean."""

    def __init__(self, names: Sequence[str]) -> None:
        self._sources: dict[str, str] = {}
        self._lists: list[str] = []
        self._others: list[str] = []
        options = {f"option{i} {part}": f"option{i} {part}" for i in _OPTIONS for part in ("name", "value")}
        for name in names:
            meaning = (_NAMES | options).get(folded(name))
            if meaning is not None and meaning not in self._sources:
                self._sources[meaning] = name
            elif name and folded(name).startswith(_OF_VARIANTS):
                self._lists.append(name)
            elif name:
                self._others.append(name)

    def cell(self, row: _Row, meaning: str) -> str | None:
        """Return the cell of a column by its meaning."""
        return row.get(self._sources.get(meaning, ""))

    def product(self, handle: str, rows: Sequence[_Row]) -> dict[str, Any]:
        """Make one product of its rows."""
        made: dict[str, Any] = {name: next((row[name] for row in rows if name in row), None) for name in self._others}
        made |= {name: [row[name] for row in rows if name in row] for name in self._lists}
        for name in ("title", "description", "brand", "product_type", "category"):
            if name in self._sources:
                made[name] = next((cell for row in rows if (cell := self.cell(row, name))), None)
        made["tags"] = distinct(tag for row in rows for tag in split_list(self.cell(row, "tags")))
        made["price"] = lowest_price(self.cell(row, "price") for row in rows)
        made["skus"] = distinct(self.cell(row, "skus") for row in rows)
        made["options"] = self._options(rows)
        made["picture"] = self._pictures(rows) or None
        return {"product_id": handle, **made}

    def _options(self, rows: Sequence[_Row]) -> list[str]:
        """List each value of each option once, as "Size: M"; only a product's first row names its options."""
        found: list[str] = []
        for i in _OPTIONS:
            name = next((cell for row in rows if (cell := self.cell(row, f"option{i} name"))), f"Option{i}")
            values = distinct(self.cell(row, f"option{i} value") for row in rows)
            found += [f"{name}: {value}" for value in values if value != _DEFAULT_OPTION]
        return found

    def _pictures(self, rows: Sequence[_Row]) -> list[str]:
        """List the pictures by their positions; those without one come last, in the order of the rows."""
        placed = [(self.cell(row, "position") or "", self.cell(row, "picture")) for row in rows]
        placed.sort(key=lambda pair: int(pair[0]) if pair[0].isdecimal() else sys.maxsize)
        return distinct(picture and picture.strip() for _, picture in placed)
