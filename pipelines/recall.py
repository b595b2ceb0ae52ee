"""Recall and latency of Annoy files against exact search, on a sample of a version's products.

Queries are of several kinds, because they lie differently: a product's own vector lies among the products, while a
query of one modality lies apart from all of them and is harder to answer.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from catalogue_lookup.manifest import Metric
from catalogue_lookup.shard import AnnoyShard, higher_is_closer, merge, search_shards
from encoders.fusion import Fusion
from pipelines import storage
from pipelines.layout import VECTOR, modality_vector

NEIGHBOURS = 10
QUERIES = 200
BATCH_ROWS = 1_024

Float32 = npt.NDArray[np.float32]
# The number of the first item, and the vectors of it and the following ones: float32[B, D].
Block = tuple[int, Float32]


@dataclass(frozen=True)
class VectorsFile:
    """A file of vectors, in its place among the others."""

    path: str
    rows: int


@dataclass(frozen=True)
class Queries:
    """Queries of one kind: vectors, float32[Q, D], and the items they were made of, int64[Q]."""

    kind: str
    vectors: Float32
    items: npt.NDArray[np.int64]


@contextmanager
def open_vectors(path: str) -> Iterator[pq.ParquetFile]:
    """Open a file of vectors for the block.

    Raises:
        StorageError: it is no whole Parquet file.
    """
    try:
        with storage.open_input(path) as source, pq.ParquetFile(source, pre_buffer=False) as parquet:
            yield parquet
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, storage.StorageError):
            raise
        raise storage.StorageError(f"{path} cannot be read: {error}; fuse it again") from error


def described(path: str) -> VectorsFile:
    """Return a file of vectors with its rows, which its footer tells.

    Raises:
        StorageError: it is no whole Parquet file.
    """
    with open_vectors(path) as parquet:
        return VectorsFile(path, parquet.metadata.num_rows)


def vector_blocks(files: Sequence[VectorsFile], first: int, stop: int, column: str = VECTOR) -> Iterator[Block]:
    """Yield blocks of the vectors of items `first` to `stop - 1`; of a modality's column missing vectors are zeros."""
    start = 0
    for file in files:
        if start < stop and start + file.rows > first:
            yield from _blocks_of(file, start, first, stop, column)
        start += file.rows


def all_blocks(files: Sequence[VectorsFile], column: str = VECTOR) -> Iterator[Block]:
    """Yield blocks of all vectors, as `vector_blocks` does."""
    return vector_blocks(files, 0, _total(files, None), column)


def _blocks_of(file: VectorsFile, start: int, first: int, stop: int, column: str) -> Iterator[Block]:
    with open_vectors(file.path) as parquet:
        if column not in parquet.schema_arrow.names:  # of a partition where no product has the modality
            return
        for group in range(parquet.num_row_groups):
            rows = parquet.metadata.row_group(group).num_rows
            if start < stop and start + rows > first:
                at = start
                for batch in parquet.iter_batches(BATCH_ROWS, row_groups=[group], columns=[column], use_threads=False):
                    cut = batch.slice(max(first - at, 0), max(stop - max(at, first), 0))
                    if cut.num_rows > cut.column(column).null_count:
                        yield max(at, first), _matrix(cut.column(column))
                    at += batch.num_rows
            start += rows


def _matrix(column: pa.Array) -> Float32:
    values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    there = values.reshape(len(column) - column.null_count, -1)
    if not column.null_count:
        return there
    matrix = np.zeros((len(column), there.shape[1]), np.float32)
    matrix[column.is_valid().to_numpy(zero_copy_only=False)] = there
    return matrix


def make_queries(
    files: Sequence[VectorsFile], modalities: Sequence[str], fusion: Fusion, seed: int, most: int | None = None
) -> list[Queries]:
    """Draw products, of the first `most` or of all, and make queries of them: of their own vectors, and of each modality."""
    total = _total(files, most)
    drawn = np.sort(np.random.default_rng(seed).choice(total, min(QUERIES, total), replace=False))
    vectors: dict[str, list[Float32]] = {"product": [], **{modality: [] for modality in modalities}}
    items: dict[str, list[int]] = {kind: [] for kind in vectors}
    for item, row in _rows(files, drawn):
        vectors["product"].append(np.array(row[VECTOR], np.float32))
        items["product"].append(item)
        for modality in modalities:
            own = row.get(modality_vector(modality))
            if own is not None:
                query = fusion.query({modality: np.array([own], np.float32)}, {})[0]
                vectors[modality].append(query)
                items[modality].append(item)
    return [Queries(kind, np.stack(rows), np.array(items[kind])) for kind, rows in vectors.items() if rows]


def _rows(files: Sequence[VectorsFile], wanted: npt.NDArray[np.int64]) -> Iterator[tuple[int, dict]]:
    start = 0
    for file in files:
        inside = wanted[(wanted >= start) & (wanted < start + file.rows)]
        if len(inside):
            with open_vectors(file.path) as parquet:
                columns = [name for name in parquet.schema_arrow.names if name.endswith(VECTOR)]
                at = start
                for group in range(parquet.num_row_groups):
                    rows = parquet.metadata.row_group(group).num_rows
                    here = inside[(inside >= at) & (inside < at + rows)]
                    if len(here):
                        table = parquet.read_row_group(group, columns=columns, use_threads=False)
                        yield from zip(here.tolist(), table.take(here - at).to_pylist(), strict=True)
                    at += rows
        start += file.rows


def exact_neighbours(
    files: Sequence[VectorsFile], queries: Queries, metric: Metric, neighbours: int = NEIGHBOURS, most: int | None = None,
    decimals: int | None = None,
) -> npt.NDArray[np.int64]:  # fmt: skip
    """Find the items closest to each query but its own among the first `most` (None: all) by looking at each.

    Returns what `closest_of` does.
    """
    return closest_of(vector_blocks(files, 0, _total(files, most)), queries, metric, neighbours, decimals)


def closest_of(
    blocks: Iterable[Block], queries: Queries, metric: Metric, neighbours: int = NEIGHBOURS, decimals: int | None = None
) -> npt.NDArray[np.int64]:
    """Find the items of blocks closest to each query but its own; items whose vector is zero are never among them.

    Returns int64[Q, neighbours], the closest first and of equally close ones the first item; -1 for none. Those are equally
    close whose closeness is the same to so many `decimals` (None: all).
    """
    count = len(queries.items)
    best = np.full((count, neighbours), -np.inf, np.float32)
    items = np.full((count, neighbours), -1, np.int64)
    for first, block in blocks:
        near = closeness(metric, queries.vectors, block)
        if decimals is not None:
            near = np.round(near, decimals)
        near[:, ~block.any(axis=1)] = -np.inf
        own = queries.items - first
        inside = np.flatnonzero((own >= 0) & (own < len(block)))
        near[inside, own[inside]] = -np.inf
        better = near > best[:, -1:]
        for row in np.flatnonzero(better.any(axis=1)).tolist():
            columns = np.flatnonzero(better[row])
            merged = np.concatenate([best[row], near[row, columns]])
            kept = np.argsort(-merged, kind="stable")[:neighbours]
            best[row], items[row] = merged[kept], np.concatenate([items[row], first + columns])[kept]
    return items


def _total(files: Sequence[VectorsFile], most: int | None) -> int:
    total = sum(file.rows for file in files)
    return total if most is None else min(total, most)


def closeness(metric: Metric, queries: Float32, vectors: Float32) -> Float32:
    """Order vectors, float32[B, D], by closeness to queries, float32[Q, D]: float32[Q, B], the higher the closer."""
    if metric == "manhattan":
        return np.stack([-np.abs(vectors - query).sum(axis=1) for query in queries])
    products: Float32 = queries @ vectors.T
    if metric == "dot":
        return products
    squares = np.einsum("nd,nd->n", vectors, vectors)
    if metric == "euclidean":
        return 2 * products - squares
    norms: Float32 = np.sqrt(squares)
    norms[norms == 0] = 1
    return products / norms


def recall_of(
    shards: Sequence[AnnoyShard], queries: Queries, exact: npt.NDArray[np.int64], search_k: int
) -> tuple[float, list[float]]:
    """Return the recall of searches and the milliseconds that each took.

    An answer counts where it is as close as the last of the exact ones, so that equal products may stand in for each
    other.
    """
    found = wanted = 0
    milliseconds = []
    for query, own, neighbours in zip(queries.vectors, queries.items.tolist(), exact, strict=True):
        started = time.perf_counter()
        items, scores = search_shards(shards, query, NEIGHBOURS + 1, search_k)
        milliseconds.append(1000 * (time.perf_counter() - started))
        count = int((neighbours >= 0).sum())
        scores = scores[items != own][:count]
        if count:
            last = _worst_score(shards, query, neighbours[neighbours >= 0])
            slack = 1e-6 * max(1.0, abs(last))
            near = scores >= last - slack if higher_is_closer(shards[0].metric) else scores <= last + slack
            found += int(near.sum())
            wanted += count
    return (found / wanted if wanted else 1.0), milliseconds


def _worst_score(shards: Sequence[AnnoyShard], query: Float32, items: npt.NDArray[np.int64]) -> float:
    parts = []
    for shard in shards:
        own = items[(items >= shard.first_item) & (items < shard.first_item + shard.items)]
        parts.append((own, shard.score(query, own)))
    return float(merge(shards, parts, len(items))[1][-1])
