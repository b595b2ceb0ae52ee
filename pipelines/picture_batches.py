"""Pictures of a unit of work, from where they lie to batches of views that a tower takes.

Reading and making views run one batch ahead in a thread, decoding in a thread a core; so what a tower waits for is
one batch. At most three batches of pictures are held as they were read.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from encoders.pooling import Views
from encoders.tower_spec import Decoding
from pipelines import pictures
from pipelines.catalogue import CatalogueSchema, Shard, read_pictures
from pipelines.features import content_hash
from pipelines.views import check_version
from transforms.decode import PictureError, decode_picture
from transforms.views import FORMAT, PictureOperations, PictureViews

DECODE_AHEAD = 3

T = TypeVar("T")

# A product's number in its unit, and a picture's bytes or why there are none.
Item = tuple[int, bytes | pictures.PathError]
Decode = Callable[[bytes], np.ndarray]


@dataclass(frozen=True)
class Batch:
    """Views that are encoded at once.

    Attributes:
        pictures: uint8[B, side, side, 3].
        owners: the product each belongs to, by its number in the unit.
        views: the number of each view.
    """

    pictures: np.ndarray
    owners: list[int]
    views: list[int]


@dataclass
class Findings:
    """What became of the pictures of a unit of N products.

    Attributes:
        hashes: content hashes of each product's pictures, in order.
        rejected: reasons and details of each product's bad pictures.
    """

    products: int
    hashes: list[list[bytes]] = field(init=False)
    rejected: list[list[dict[str, str]] | None] = field(init=False)

    def __post_init__(self) -> None:
        """Begin with nothing found."""
        self.hashes = [[] for _ in range(self.products)]
        self.rejected = [None] * self.products

    def reject(self, product: int, error: PictureError | pictures.PathError) -> None:
        """Note why a picture cannot be used."""
        self.rejected[product] = [*(self.rejected[product] or ()), {"reason": error.reason, "detail": str(error)}]


def read_paths(work: pa.Table) -> Iterator[Item]:
    """Read pictures that are named by path."""
    for product, places in enumerate(work["paths"].to_pylist()):
        for place in places:
            try:
                yield product, pictures.read(place)
            except pictures.PathError as error:
                yield product, error


def read_inside(work: pa.Table, shards: tuple[Shard, ...], schema: CatalogueSchema) -> Iterator[Item]:
    """Read pictures that lie inside shards; the rows of a shard stand together, in order."""
    numbers, rows, groups = (work[name].to_pylist() for name in ("shard", "row", "row_group"))
    for shard, members in itertools.groupby(range(len(rows)), key=numbers.__getitem__):
        products = list(members)
        wanted = sorted({groups[product] for product in products if groups[product] is not None})
        place = {rows[product]: product for product in products}
        for row, contents in read_pictures(shards[shard], [rows[product] for product in products], wanted or None, schema):
            for data in contents:
                if data is not None:
                    yield place[row], data


def batches(
    items: Iterable[Item], findings: Findings, side: int, size: int, views: Views, max_pixels: int,
    decoding: Decoding,
) -> Iterator[Batch]:  # fmt: skip
    """Give the views of all pictures in batches of `size`, made one batch ahead; the last may be smaller."""
    decode = partial(decode_picture, side=side, max_pixels=max_pixels, **asdict(decoding))
    yield from one_ahead(_batches(items, findings, side, size, views, decode))


def one_ahead(source: Iterator[T]) -> Iterator[T]:
    """Make the next item in a thread while the one before it is used."""
    with ThreadPoolExecutor(1, "ahead") as pool:
        coming = pool.submit(next, source, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, source, None)
            yield item


def _batches(
    items: Iterable[Item], findings: Findings, side: int, size: int, views: Views, decode: Decode
) -> Iterator[Batch]:
    check_version(views, str(FORMAT))
    maker = PictureViews(side, PictureOperations.of(views.operations), views.seed, size)
    each = (
        (product, digest, view, pixels)
        for product, digest, pixels in _decode_ahead(items, findings, decode, DECODE_AHEAD * size)
        for view in range(views.count)
    )
    while members := list(itertools.islice(each, size)):
        owners, keys, numbers, pixels = (list(part) for part in zip(*members, strict=True))
        yield Batch(maker.make(np.stack(pixels), keys, numbers), owners, numbers)


def _decode_ahead(
    items: Iterable[Item], findings: Findings, decode: Decode, ahead: int
) -> Iterator[tuple[int, bytes, np.ndarray]]:
    def work(data: bytes) -> tuple[bytes, np.ndarray | PictureError]:
        digest = content_hash(data)
        try:
            return digest, decode(data)
        except PictureError as error:
            return digest, error

    def finish(product: int, coming: Future[Any]) -> Iterator[tuple[int, bytes, np.ndarray]]:
        digest, decoded = coming.result()
        findings.hashes[product].append(digest)
        if isinstance(decoded, PictureError):
            findings.reject(product, decoded)
        else:
            yield product, digest, decoded

    waiting: deque[tuple[int, Future[Any]]] = deque()
    with ThreadPoolExecutor(os.cpu_count() or 1, "decode") as pool:
        for product, data in items:
            if isinstance(data, pictures.PathError):
                findings.reject(product, data)
                continue
            waiting.append((product, pool.submit(work, data)))
            if len(waiting) >= ahead:
                yield from finish(*waiting.popleft())
        while waiting:
            yield from finish(*waiting.popleft())
