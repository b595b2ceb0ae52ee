"""Products of WooCommerce's product export: a variable product and its variations are one product.

A variation names its product in `Parent`, `id:123` or a SKU, and may be anywhere in the file. So an export is read twice:
first its variations alone (what is used of them, at most 256 MB a file), then its products, one by one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines import records
from pipelines.column_types import Path
from pipelines.columns import Block
from pipelines.csv_records import Unreadable
from pipelines.recognition import folded
from pipelines.records import Numbered
from pipelines.schema import ShardColumns
from pipelines.shards import CatalogueError, Piece, Shard, open_stream
from pipelines.shop_columns import distinct, lowest_price, split_list
from pipelines.text_shards import read_cells

MAX_VARIATION_BYTES = 256 << 20
# Columns under the names that all formats share; the others keep theirs.
_NAMES = {
    "id": "id", "sku": "sku", "type": "woocommerce_type", "parent": "parent", "name": "title", "description": "description",
    "short description": "short_description", "regular price": "regular_price", "sale price": "sale_price",
    "categories": "category", "tags": "tags", "brands": "brand", "images": "picture",
}  # fmt: skip
_ATTRIBUTE = re.compile(r"attribute (\d+) (.+)")
_OF_A_VARIATION = ("sku", "regular_price", "sale_price", "picture")
_CODES = ("GTIN, UPC, EAN, or ISBN",)
# What a cell takes in memory besides its characters.
_CELL_BYTES = 100
_Row = dict[str, str]


def describe(shard: Shard, sample_bytes: int) -> ShardColumns | None:
    """Find the columns of an export from its first `sample_bytes`, unzipped; None where it has no row.

    Raises:
        CatalogueError: it is cut off or damaged, or has no readable header.
    """
    with open_stream(shard) as stream:
        names, lines = read_cells(shard, stream)
        rows = [(cells, 0) for cells in records.sample(lines, sample_bytes)]
    header = _Header(names)
    # A variation whose product lies behind the sample says nothing of the columns.
    found = [item.item for item, _ in _products(header, rows, _read_variations(shard, header, rows)) if not item.orphan]
    if rows and not found:
        found = [header.product({}, [])]
    return records.describe(shard.uri, found, "products of a WooCommerce export", records.infer_cells, _CODES)


def read_blocks(piece: Piece, paths: Sequence[Path], rows: int, size: int, stop_row: int | None = None) -> Iterator[Block]:
    """Read an export in blocks of at most `rows` products and about `size` bytes.

    Raises:
        CatalogueError: the export is cut off, damaged or has changed, or has more than 256 MB of variations.
    """
    shard = piece.shard
    with open_stream(shard) as stream:
        names, lines = read_cells(shard, stream)
        header = _Header(names)
        families = _read_variations(shard, header, lines)
    with open_stream(shard) as stream:
        _, lines = read_cells(shard, stream)
        yield from records.cut(_products(header, lines, families), records.dict_columns, paths, rows, size, stop_row)


class _Header:
    """What the columns of one export mean."""

    def __init__(self, names: Sequence[str]) -> None:
        self._sources: dict[str, str] = {}
        self._attributes: dict[str, dict[str, str]] = {}
        self._others: list[str] = []
        for name in names:
            meaning = _NAMES.get(folded(name))
            attribute = _ATTRIBUTE.fullmatch(folded(name))
            if meaning is not None and meaning not in self._sources:
                self._sources[meaning] = name
            elif attribute is not None:
                self._attributes.setdefault(attribute[1], {})[attribute[2]] = name
            elif name:
                self._others.append(name)

    def cell(self, row: _Row, meaning: str) -> str | None:
        """Return the cell of a column by its meaning."""
        return row.get(self._sources.get(meaning, ""))

    def parent(self, row: _Row) -> str | None:
        """Return the key of the product that a row is a variation of; None where it is none."""
        if "variation" not in split_list(self.cell(row, "woocommerce_type")):
            return None
        parent = (self.cell(row, "parent") or "").strip()
        return parent if parent.startswith("id:") else f"sku:{parent}"

    def keys(self, row: _Row) -> list[str]:
        """Return the keys by which variations may name the product of a row."""
        return [f"{kind}:{cell.strip()}" for kind in ("id", "sku") if (cell := self.cell(row, kind))]

    def of_variation(self, row: _Row) -> _Row:
        """Return what a variation gives its product, by meaning."""
        return {name: cell for name in _OF_A_VARIATION if (cell := self.cell(row, name))}

    def product(self, row: _Row, variations: Sequence[_Row]) -> dict[str, Any]:
        """Make a product of its own row and what its variations give it."""
        own = {name: self.cell(row, name) for name in _NAMES.values()}
        every: list[Mapping[str, str | None]] = [own, *variations]
        made: dict[str, Any] = {name: row.get(name) for name in self._others}
        single = ("woocommerce_type", "title", "brand", "regular_price", "sale_price")
        made |= {name: own[name] for name in single if name in self._sources}
        # The exporter writes a line break of these two as a backslash and an n.
        made |= {name: (own[name] or "").replace("\\n", "\n") or None for name in ("description", "short_description")}
        made |= {name: split_list(own[name]) for name in ("category", "tags")}
        made["description"] = made["description"] or made["short_description"]
        made["price"] = lowest_price(one.get("sale_price") or one.get("regular_price") for one in every)
        made["skus"] = distinct(one.get("sku") for one in every)
        made["options"] = [
            f"{row[columns['name']]}: {value}" for columns in self._attributes.values() if columns.get("name") in row
            for value in split_list(row.get(columns.get("value(s)", "")))
        ]  # fmt: skip
        made["picture"] = distinct(place for one in every for place in split_list(one.get("picture"))) or None
        return {"product_id": own["id"] or own["sku"], **made}


@dataclass
class _Family:
    """The variations that name their product by one key.

    Attributes:
        first_row: the row of the first of them.
        variations: what they give their product.
        size: their length in the file.
        late: the product's own row where it comes below its first variation, and its number.
        placed: whether the product has come.
    """

    first_row: int
    variations: list[_Row] = field(default_factory=list)
    size: int = 0
    late: tuple[int, _Row] | None = None
    placed: bool = False


@dataclass(frozen=True)
class _Numbered(Numbered):
    """A row with its number; `orphan`: a variation without its product."""

    orphan: bool = False


def _read_variations(shard: Shard, header: _Header, lines: Iterable[tuple[_Row | Unreadable, int]]) -> dict[str, _Family]:
    families: dict[str, _Family] = {}
    held = 0
    for number, (row, length) in enumerate(lines):
        if isinstance(row, Unreadable):
            continue
        parent = header.parent(row)
        taken: list[_Row] = []
        if parent is not None:
            family = families.setdefault(parent, _Family(number))
            family.variations.append(header.of_variation(row))
            family.size += length
            taken = family.variations[-1:]
        else:
            for key in header.keys(row):
                if key in families and families[key].late is None:
                    families[key].late, taken = (number, row), [row]
        held += sum(len(cell.encode()) + _CELL_BYTES for one in taken for cell in one.values()) + _CELL_BYTES * len(taken)
        if held > MAX_VARIATION_BYTES:
            raise CatalogueError(
                f"{shard.uri} has more than {MAX_VARIATION_BYTES >> 20} MB of variations up to row {number}: "
                "split it into files, each product with its variations in one of them"
            )
    return families


def _products(
    header: _Header, lines: Iterable[tuple[_Row | Unreadable, int]], families: Mapping[str, _Family]
) -> Iterator[tuple[_Numbered, int]]:
    def family_of(row: _Row) -> list[_Family]:
        return [families[key] for key in header.keys(row) if key in families]

    def product(number: int, row: _Row, length: int) -> tuple[_Numbered, int]:
        found = [family for family in family_of(row) if not family.placed]
        for family in found:
            family.placed = True
        variations = [one for family in found for one in family.variations]
        return _Numbered(number, header.product(row, variations)), length + sum(family.size for family in found)

    for number, (row, length) in enumerate(lines):
        if isinstance(row, Unreadable):
            yield _Numbered(number, row), length
            continue
        parent = header.parent(row)
        if parent is None:
            late = (family.late for family in family_of(row))
            if not any(one is not None and one[0] == number for one in late):
                yield product(number, row, length)
        elif not (family := families[parent]).placed:
            if family.late is not None:
                yield product(number, family.late[1], length)
            else:
                bad = Unreadable(f"the row is a variation of '{parent.removeprefix('sku:')}', which has no row in the file")
                yield _Numbered(number, bad, orphan=True), length
