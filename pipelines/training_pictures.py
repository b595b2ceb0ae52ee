"""Pictures that a tower is trained on: decoded once, in pieces below the run's folder, read back a few pieces at a time.

A piece holds neighbours in the catalogue's files, at most 512 products and 64 MB of pixels, of each its first picture that can
be decoded. Pieces are written whole; those that are there after a kill are not made again. What lies on disk is at most 20,000
products' pixels (3 GB at 224 pixels a side), in memory 256 MB of them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from encoders.pooling import Views
from encoders.tower_spec import Decoding
from pipelines import ranges, storage
from pipelines.job import Job
from pipelines.layout import ORDER
from pipelines.picture_batches import Findings, Item, batches, read_inside, read_paths
from pipelines.picture_rows import picture_rows, resolved

MAX_PRODUCTS, PIECE_PRODUCTS = 20_000, 512
PIECE_BYTES, WINDOW_BYTES = 64 << 20, 256 << 20
PIXELS = "pixels"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingPictures:
    """Pictures of products in pieces.

    Attributes:
        job: the run whose rows they belong to.
        folder: where the pieces lie.
        orders: orders of the products of the training, sorted; what is a row of them below.
        side: pixels of a side.
        decoding: how a picture's file becomes the square.
    """

    job: Job
    folder: str
    orders: Sequence[int]
    side: int
    decoding: Decoding

    @property
    def piece_products(self) -> int:
        """Give the products of a piece, at most."""
        return max(min(PIECE_PRODUCTS, PIECE_BYTES // (3 * self.side**2)), 1)

    @property
    def window(self) -> int:
        """Give the pieces that are held in memory together."""
        return max(WINDOW_BYTES // (self.piece_products * 3 * self.side**2), 1)

    def copy(self) -> None:
        """Decode the pictures of all products into pieces, but for those that are there."""
        places = picture_rows(self.job, self.orders[:MAX_PRODUCTS])
        pieces = -(-places.num_rows // self.piece_products)
        for number in range(pieces):
            path = self._path(number)
            if not storage.exists(path):
                piece = self._piece(places.slice(number * self.piece_products, self.piece_products))
                ranges.write_table(path, piece)
                _log.info("train: pictures of piece %d of %d decoded", number + 1, pieces)

    @cached_property
    def rows(self) -> list[np.ndarray]:
        """Give the rows of the products of each piece, int64."""
        files = sorted(info.path for info in storage.list_folder(self.folder, "*.parquet"))
        orders = np.asarray(self.orders, np.uint64)
        return [np.searchsorted(orders, ranges.read_table(path, [ORDER])[ORDER].to_numpy()) for path in files]

    def pixels(self, piece: int) -> np.ndarray:
        """Read the pictures of a piece: uint8[N, side, side, 3]."""
        column = ranges.read_table(self._path(piece), [PIXELS])[PIXELS].combine_chunks()
        width = 3 * self.side**2
        data = np.frombuffer(column.buffers()[1], np.uint8, len(column) * width, column.offset * width)
        return data.reshape(-1, self.side, self.side, 3)

    def _path(self, number: int) -> str:
        return storage.join(self.folder, f"{number:05d}.parquet")

    def _items(self, piece: pa.Table) -> Iterator[Item]:
        job = self.job
        if job.schema.picture_kind == "bytes":
            yield from read_inside(piece, job.shards, job.schema)
        else:
            yield from read_paths(resolved(job, piece))

    def _piece(self, piece: pa.Table) -> pa.Table:
        held = np.zeros((piece.num_rows, self.side, self.side, 3), np.uint8)
        there = np.zeros(piece.num_rows, bool)
        findings = Findings(piece.num_rows)
        made = batches(self._items(piece), findings, self.side, 32, Views(), self.job.config.max_pixels, self.decoding)
        for batch in made:
            for owner, picture in zip(batch.owners, batch.pictures, strict=True):
                if not there[owner]:
                    held[owner], there[owner] = picture, True
        kept = np.flatnonzero(there)
        size = 3 * self.side**2
        pixels = pa.FixedSizeBinaryArray.from_buffers(pa.binary(size), len(kept), [None, pa.py_buffer(held[kept].tobytes())])
        return pa.table({ORDER: piece[ORDER].take(pa.array(kept)), PIXELS: pixels})
