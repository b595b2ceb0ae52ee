"""Rows of formats that are read one by one: sampled for their columns, cut into blocks, turned into columns.

A row is a dict of values, cells of a table, or `Unreadable` with the reason, in the place of a row that cannot be read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from pipelines.column_types import STRINGS, Path, infer_text_type, infer_type, value_at
from pipelines.columns import Block, Column, mend
from pipelines.csv_records import MAX_ROW_BYTES, Unreadable
from pipelines.schema import ShardColumns
from pipelines.shards import CatalogueError

# A row and its length in the file.
Items = Iterator[tuple[Any, int]]


@dataclass(frozen=True)
class Numbered:
    """A row that says its own number: rows of the file that are joined to a product have none.

    Products come by their numbers; a row that cannot be read may come before a product that began above it.
    """

    row: int
    item: dict[str, Any] | Unreadable


class MakeColumns(Protocol):
    """Turns rows into what lies at each path; rows that turn out not to be readable are added to `unreadable`."""

    def __call__(self, items: list[Any], paths: Sequence[Path], unreadable: dict[int, str]) -> dict[Path, Column]:
        """Return the column of each path."""


def too_long(what: str) -> Unreadable:
    """Return what stands for a row above the limit on rows."""
    return Unreadable(f"{what} is longer than {MAX_ROW_BYTES >> 20} MB")


def sample(items: Items, size: int) -> Iterator[Any]:
    """Yield rows until `size` bytes of the file are read."""
    read = 0
    for item, length in items:
        yield item
        read += length
        if read >= size:
            return


def infer_cells(values: Iterable[Any]) -> pa.DataType:
    """Return the type that fits all values of a column whose scalars are text as written, as those of CSV are."""
    values = list(values)
    texts = all(value is None or isinstance(value, str) for value in values)
    found = infer_text_type(values) if texts else infer_type(values)
    return STRINGS if found.equals(pa.list_(pa.null())) else found


def describe(
    uri: str, items: Iterable[Any], what: str, infer: Callable[[Iterable[Any]], pa.DataType] = infer_type,
    codes: Collection[str] = (),
) -> ShardColumns | None:  # fmt: skip
    """Find the columns of a shard from its first rows, dicts; None where there are none.

    Args:
        uri: the shard.
        items: its rows.
        what: what most of its rows have to be, for the sentence that says they are not.
        infer: returns the type of a column.
        codes: columns that are text where they look like numbers: leading zeros count.

    Raises:
        CatalogueError: most rows cannot be read.
    """
    objects: list[dict[str, Any]] = []
    bad: Unreadable | None = None
    count = 0
    for item in items:
        item = item.item if isinstance(item, Numbered) else item
        if isinstance(item, Unreadable):
            bad, count = bad or item, count + 1
        else:
            objects.append(item)
    if not objects and bad is None:
        return None
    if bad is not None and count > len(objects):
        raise CatalogueError(f"{uri} does not hold {what} ({bad.detail}): write it so, or give it the suffix of what it is")
    names = dict.fromkeys(name for item in objects for name in item)
    types = {name: infer(item.get(name) for item in objects) for name in names}
    types |= {name: pa.string() for name in codes if name in types and pa.types.is_integer(types[name])}
    columns = pa.schema([(mend(name), kind) for name, kind in types.items()])
    return ShardColumns(uri, columns, complete=False)


def cut(items: Items, make: MakeColumns, paths: Sequence[Path], rows: int, size: int, stop_row: int | None) -> Iterator[Block]:
    """Cut rows into blocks of at most `rows` rows and about `size` bytes, up to row `stop_row`."""
    block: list[Any] = []
    numbers: list[int] = []
    held = count = 0

    def close() -> Block:
        unreadable = {row: item.detail for row, item in enumerate(block) if isinstance(item, Unreadable)}
        columns = make(block, paths, unreadable)
        made = Block(numbers[0], None, len(block), columns, unreadable)
        consecutive = numbers[-1] - numbers[0] == len(numbers) - 1 and numbers == sorted(numbers)
        return made if consecutive else dataclasses.replace(made, rows=tuple(numbers))

    for found, length in items:
        number, item = (found.row, found.item) if isinstance(found, Numbered) else (count, found)
        count += 1
        if stop_row is not None and number >= stop_row:
            if isinstance(found, Numbered) and isinstance(item, Unreadable):
                continue  # a product that began before it may follow
            break
        numbers.append(number)
        block.append(item)
        held += length
        if len(block) >= rows or held >= size:
            yield close()
            held, block, numbers = 0, [], []
    if block:
        yield close()


def dict_columns(items: list[Any], paths: Sequence[Path], unreadable: dict[int, str]) -> dict[Path, Column]:
    """Turn dicts into columns of Python values."""
    for row in unreadable:
        items[row] = {}
    return {
        path: [item.get(path[0]) for item in items] if len(path) == 1 else [value_at(item, path) for item in items]
        for path in paths
    }
