"""Ids and columns of the items of a version: a memory-mapped Arrow file in the one order."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catalogue_lookup.filter_parts import numbers_of
from catalogue_lookup.manifest import ORDER, PRODUCT_ID
from catalogue_lookup.where import parse_where
from encoders.integrity import IntegrityError

# A remembered filter takes a byte an item.
FILTERS_REMEMBERED = 4


def order_of(product_id: str) -> int:
    """Return a product's place in the one order of all files: the first 8 bytes of BLAKE2b of its id, as uint64."""
    return int.from_bytes(hashlib.blake2b(product_id.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


class Items:
    """The opened file; item n is row n. Several threads may read at once."""

    def __init__(self, path: Path, batch_rows: int, items: int) -> None:
        """Map a file that has been verified.

        Raises:
            IntegrityError: it is no such file, or has another number of rows than `items`.
        """
        self.batch_rows = batch_rows
        self._mapped = pa.memory_map(str(path))
        try:
            self._file: Any = pa.ipc.open_file(self._mapped)
        except pa.ArrowInvalid as error:
            raise IntegrityError(f"{path} is no Arrow file ({error}): copy the version again") from None
        self._matching = lru_cache(FILTERS_REMEMBERED)(self._apply)
        last = self._file.num_record_batches - 1
        rows = last * batch_rows + self._file.get_batch(last).num_rows if last >= 0 else 0
        if rows != items:
            raise IntegrityError(f"{path} has {rows:,} rows instead of {items:,}: copy the version again")

    @property
    def schema(self) -> pa.Schema:
        """Give the columns, `product_id` and `order` among them."""
        return self._file.schema

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield all rows, in order."""
        return (self._file.get_batch(number) for number in range(self._file.num_record_batches))

    def _orders(self, batch: int) -> npt.NDArray[np.uint64]:
        return numbers_of(self._file.get_batch(batch).column(ORDER), np.uint64)

    def find(self, product_id: str) -> int | None:
        """Return the item of a product, None where there is none of that id."""
        order = order_of(product_id)
        batch = bisect_left(range(self._file.num_record_batches), order, key=lambda number: int(self._orders(number)[0]))
        # The first of equal orders may be at the end of the batch before.
        for number in range(max(batch - 1, 0), self._file.num_record_batches):
            orders = self._orders(number)
            row = int(np.searchsorted(orders, np.uint64(order)))
            ids = self._file.get_batch(number).column(PRODUCT_ID)
            while row < len(orders) and orders[row] == order:
                if ids[row].as_py() == product_id:
                    return number * self.batch_rows + row
                row += 1
            if row < len(orders):
                return None
        return None

    def first_from(self, order: int) -> int:
        """Return the first item whose place in the one order is `order` or later; the number of items where there is none."""
        batches = self._file.num_record_batches
        number = max(bisect_left(range(batches), order, key=lambda batch: int(self._orders(batch)[0])) - 1, 0)
        return number * self.batch_rows + int(np.searchsorted(self._orders(number), np.uint64(order))) if batches else 0

    def row(self, item: int) -> dict[str, Any]:
        """Return the columns of an item, its `product_id` among them."""
        batch, row = divmod(item, self.batch_rows)
        columns: dict[str, Any] = self._file.get_batch(batch).slice(row, 1).to_pylist()[0]
        del columns[ORDER]
        return columns

    def matching(self, where: str) -> npt.NDArray[np.bool_]:
        """Tell which items fit a filter: bool[items]; the last few filters are remembered.

        Raises:
            WhereError: the filter cannot be read or does not fit the columns.
        """
        return self._matching(where)

    def _apply(self, where: str) -> npt.NDArray[np.bool_]:
        schema = pa.schema([field for field in self.schema if field.name != ORDER])
        fits = parse_where(where, schema)
        masks = [fits.mask(batch) for batch in self.batches()]
        fitting = np.concatenate(masks) if masks else np.zeros(0, np.bool_)
        fitting.flags.writeable = False
        return fitting

    def close(self) -> None:
        """Let go of the file."""
        self._matching.cache_clear()
        # The reader's footer is a view of the map, which would stay until the garbage is collected.
        self._file = None
        self._mapped.close()
