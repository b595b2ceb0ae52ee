"""How much a version differs from the one before it: the share of neighbours that moved, on a fixed set of products.

The products are the first 200 of the one order that both versions have, so that every night asks the same ones. Their
ten nearest are found by exact search in either version: what is counted is what products have come to lie elsewhere, not
what an approximate search misses. Files of vectors are streamed, a block at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from catalogue_lookup.manifest import Manifest, Metric
from pipelines import storage
from pipelines.gate import find_version
from pipelines.layout import ORDER, Index
from pipelines.recall import NEIGHBOURS, Float32, VectorsFile, closeness, open_vectors, vector_blocks

PROBES = 200
# Common products are spread evenly by the hash that orders them: where the first million has none, hardly any are common.
LOOKED_THROUGH = 1 << 20
ORDER_BATCH_ROWS = 65_536
# Of vectors closer to each other than that, which one counts as nearer is an accident of rounding.
DECIMALS = 5

_log = logging.getLogger(__name__)

Orders = npt.NDArray[np.uint64]
Items = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Drift:
    """What moved between two versions.

    Attributes:
        probes: products that were asked for.
        moved: share of their ten nearest in the version before that are no longer among the ten nearest; None where the
            versions have no product in common, or none has a neighbour.
    """

    probes: int
    moved: float | None


def drift_since(index: Index, after: Manifest) -> Drift:
    """Compare a version with the one whose place it is to take; what cannot be compared is logged."""
    before = find_version(index, after.previous)
    if before is None:
        return Drift(0, None)
    try:
        drift = measure_drift(index, before, after)
    except storage.StorageError as error:
        _log.warning("build: what moved since version %s is not known: %s", before.id, error)
        return Drift(0, None)
    if drift.moved is not None:
        _log.info(
            "build: %.1f %% of the neighbours of %d products moved since version %s", 100 * drift.moved, drift.probes, before.id
        )
    return drift


def measure_drift(index: Index, before: Manifest, after: Manifest) -> Drift:
    """Compare the neighbours of products that two versions have in common.

    Memory is bounded by a block of 1,024 vectors and the probes; time is one pass through the vectors of both.

    Raises:
        StorageError: a file of vectors is missing or damaged.
    """
    old, new = (files_of(index, manifest) for manifest in (before, after))
    first, second = common_items(old, new)
    if not len(first):
        return Drift(0, None)
    were = nearest_orders(old, first, before.metric)
    are = nearest_orders(new, second, after.metric)
    wanted = sum(len(orders) for orders in were)
    kept = sum(len(np.intersect1d(one, other)) for one, other in zip(were, are, strict=True))
    return Drift(len(first), round(1 - kept / wanted, 4) if wanted else None)


def files_of(index: Index, manifest: Manifest) -> list[VectorsFile]:
    """Return the files of vectors of a version.

    Raises:
        StorageError: one is missing or damaged.
    """
    files = []
    for name in manifest.vectors:
        path = storage.join(index.version(manifest.id), name)
        with open_vectors(VectorsFile(path, 0)) as parquet:
            files.append(VectorsFile(path, parquet.metadata.num_rows))
    return files


def _orders(files: Sequence[VectorsFile]) -> Iterator[tuple[int, Orders]]:
    """Yield the order of the first items: the first item's number, and uint64[B], ascending."""
    start = 0
    for file in files:
        with open_vectors(file) as parquet:
            for batch in parquet.iter_batches(ORDER_BATCH_ROWS, columns=[ORDER], use_threads=False):
                yield start, batch.column(0).to_numpy()
                start += batch.num_rows
                if start >= LOOKED_THROUGH:
                    return


def common_items(one: Sequence[VectorsFile], other: Sequence[VectorsFile]) -> tuple[Items, Items]:
    """Find the first products that two versions have in common: their items in either, int64[P] both."""
    found: list[tuple[Items, Items]] = []
    left, right = _orders(one), _orders(other)
    a, b = next(left, None), next(right, None)
    while a is not None and b is not None and sum(len(items) for items, _ in found) < PROBES:
        _, here, there = np.intersect1d(a[1], b[1], return_indices=True)
        found.append((a[0] + here, b[0] + there))
        last_of_a, last_of_b = a[1][-1], b[1][-1]
        # The batch that ends first is done with; where both end with the same product, both are.
        if last_of_a <= last_of_b:
            a = next(left, None)
        if last_of_b <= last_of_a:
            b = next(right, None)
    if not found:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    first, second = (np.concatenate(part)[:PROBES].astype(np.int64) for part in zip(*found, strict=True))
    return first, second


def nearest_orders(files: Sequence[VectorsFile], items: Items, metric: Metric) -> list[Orders]:
    """Return the orders of the ten nearest to each item but itself; of equally near ones the first in order."""
    total = sum(file.rows for file in files)
    queries = _vectors_of(files, items)
    best = np.full((len(items), NEIGHBOURS), -np.inf, np.float32)
    nearest = np.full((len(items), NEIGHBOURS), -1, np.int64)
    for first, block in vector_blocks(files, 0, total):
        near = np.round(closeness(metric, queries, block), DECIMALS)
        own = items - first
        inside = np.flatnonzero((own >= 0) & (own < len(block)))
        near[inside, own[inside]] = -np.inf
        better = near > best[:, -1:]
        for row in np.flatnonzero(better.any(axis=1)).tolist():
            columns = np.flatnonzero(better[row])
            merged = np.concatenate([best[row], near[row, columns]])
            numbers = np.concatenate([nearest[row], first + columns])
            kept = np.argsort(-merged, kind="stable")[:NEIGHBOURS]
            best[row], nearest[row] = merged[kept], numbers[kept]
    wanted = np.unique(nearest[nearest >= 0])
    orders = _orders_of(files, wanted)
    return [orders[np.searchsorted(wanted, row[row >= 0])] for row in nearest]


def _vectors_of(files: Sequence[VectorsFile], items: Items) -> Float32:
    """Return the vectors of items, which ascend: float32[N, D]."""
    blocks = vector_blocks(files, int(items[0]), int(items[-1]) + 1)
    return np.concatenate([block[items[(items >= first) & (items < first + len(block))] - first] for first, block in blocks])


def _orders_of(files: Sequence[VectorsFile], items: Items) -> Orders:
    """Return the orders of items, which ascend: uint64[N]."""
    parts: list[Orders] = [np.zeros(0, np.uint64)]
    start = 0
    for file in files:
        inside = items[(items >= start) & (items < start + file.rows)] - start
        start += file.rows
        if len(inside):
            with open_vectors(file) as parquet:
                at = 0
                for batch in parquet.iter_batches(ORDER_BATCH_ROWS, columns=[ORDER], use_threads=False):
                    here = inside[(inside >= at) & (inside < at + batch.num_rows)] - at
                    parts.append(batch.column(0).to_numpy()[here])
                    at += batch.num_rows
    return np.concatenate(parts)


