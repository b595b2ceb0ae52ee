"""Recall and latency of Annoy files, against exact search over the same vectors."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from catalogue_lookup.manifest import Measured, Metric
from catalogue_lookup.shard import AnnoyShard, higher_is_closer

PRODUCT = "product"
QUERIES = 200
ANSWERS = 10
ENOUGH_RECALL = 0.95
MOST_STEPS = 8
# Equal vectors share a place, and scores of many queries at once differ from those of one in the last bits.
TIE = 1e-5


@dataclass(frozen=True)
class Queries:
    """A sample to measure with.

    Attributes:
        kinds: of each query "product" or the modality it is made of.
        rows: int64[Q], the product's row in the version; it is no answer to its own query.
        vectors: float32[Q, D].
    """

    kinds: tuple[str, ...]
    rows: np.ndarray
    vectors: np.ndarray


def sample_rows(items: int, seed: int) -> np.ndarray:
    """Draw the rows of at most 200 products, sorted: int64."""
    return np.sort(np.random.default_rng([seed, items]).choice(items, min(QUERIES, items), replace=False))


class Exact:
    """The ten best answers to each query in a shard, found exactly while its vectors go by.

    Attributes:
        metric: distance of the index.
        queries: the sample.
        best: float32[Q, 10], closeness, best first; -inf where there is none.
    """

    def __init__(self, metric: Metric, queries: Queries) -> None:
        self.metric: Metric = metric
        self.queries = queries
        self.best = np.full((len(queries.rows), ANSWERS), -np.inf, np.float32)

    def score(self, vectors: np.ndarray, first: int) -> None:
        """Score vectors, float32[N, D], of the products from row `first` on."""
        with threadpool_limits(1):
            found = closeness(self.metric, self.queries.vectors, vectors)
        rows = self.queries.rows - first
        own = (rows >= 0) & (rows < len(vectors))
        found[own, rows[own]] = -np.inf
        together = np.concatenate([self.best, found], axis=1)
        self.best = -np.sort(-together, axis=1)[:, :ANSWERS]

    def told(self) -> list[list[float | None]]:
        """Return the answers as JSON values."""
        return _lists(self.best)


def closeness(metric: Metric, queries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Compare vectors, float32[N, D], with many queries, float32[Q, D]: float32[Q, N], higher is closer.

    The score of the lookup, and for distances their negative.
    """
    if metric == "angular":
        queries, vectors = (a / np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-30) for a in (queries, vectors))
    if metric in ("angular", "dot"):
        return queries @ vectors.T
    found = np.empty((len(queries), len(vectors)), np.float32)
    for row, query in zip(found, queries, strict=True):
        difference = vectors - query
        row[:] = -(np.linalg.norm(difference, axis=1) if metric == "euclidean" else np.abs(difference).sum(axis=1))
    return found


def ask(shard: AnnoyShard, trees: int, exact: Exact) -> list[dict[str, Any]]:
    """Search a shard for the same, search_k doubled from step to step until recall is high or all is looked at.

    Args:
        shard: the built shard.
        trees: trees it has.
        exact: the sample and the exact answers.

    Returns:
        For each step search_k, the closeness of each query's answers, and the milliseconds each took.
    """
    queries, steps = exact.queries, list[dict[str, Any]]()
    sign = 1 if higher_is_closer(exact.metric) else -1
    search_k = trees * ANSWERS
    while True:
        found = np.full((len(queries.rows), ANSWERS), -np.inf, np.float32)
        times = []
        for query, (vector, row) in enumerate(zip(queries.vectors, queries.rows, strict=True)):
            started = time.perf_counter()
            rows, scores = shard.nearest(vector, ANSWERS + 1, search_k)
            times.append(round(1000 * (time.perf_counter() - started), 4))
            kept = sign * scores[rows != row][:ANSWERS]
            found[query, : len(kept)] = kept
        steps.append({"search_k": search_k, "found": _lists(found), "milliseconds": times})
        recalls = _recalls(queries.kinds, exact.best, found)
        # Higher than what is enough for the whole, for which the answers of several shards are merged.
        enough = min(recalls.values(), default=1) >= (1 + ENOUGH_RECALL) / 2
        if enough or len(steps) == MOST_STEPS or search_k >= shard.items:
            return steps
        search_k *= 2


def summarise(shards: Sequence[Mapping[str, Any]], queries: Queries, trees: int) -> tuple[int, Measured]:
    """Merge what all shards answered.

    Args:
        shards: `exact` and `steps` of each.
        queries: the sample.
        trees: trees of each shard.

    Returns:
        The least search_k whose recall@10 is at least 0.95 for each kind of query (the largest tried where none
        is), and what was measured with it, one shard searched after the other.
    """
    if not shards:
        return trees * ANSWERS, Measured(None, {}, 0, 0.0, 0.0)
    exact = _merge([shard["exact"] for shard in shards])
    for number in range(max(len(shard["steps"]) for shard in shards)):
        steps = [shard["steps"][min(number, len(shard["steps"]) - 1)] for shard in shards]
        recalls = _recalls(queries.kinds, exact, _merge([step["found"] for step in steps]))
        if min(recalls.values(), default=1) >= ENOUGH_RECALL:
            break
    times = np.sum([step["milliseconds"] for step in steps], axis=0)
    p50, p95 = (round(float(np.percentile(times, p)), 3) for p in (50, 95))
    asked = queries.kinds.count(PRODUCT)
    measured = Measured(min(recalls.values(), default=None), recalls, asked, p50, p95)
    return max(step["search_k"] for step in steps), measured


def _recalls(kinds: Sequence[str], exact: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """Return the share of the exact answers found, by kind; what scores like the last of them counts as one."""
    there = np.isfinite(exact)
    least = np.where(there, exact, np.inf).min(axis=1, initial=np.inf, keepdims=True)
    close = found >= least - TIE * np.maximum(1, np.abs(np.where(np.isfinite(least), least, 0)))
    hits = np.minimum((close & np.isfinite(found)).sum(axis=1), there.sum(axis=1))
    recalls = {}
    for kind in dict.fromkeys(kinds):
        asked = np.array([each == kind for each in kinds])
        if there[asked].any():
            recalls[kind] = round(float(hits[asked].sum() / there[asked].sum()), 4)
    return recalls


def _merge(parts: Sequence[Sequence[Sequence[float | None]]]) -> np.ndarray:
    together = np.concatenate([_array(part) for part in parts], axis=1)
    return -np.sort(-together, axis=1)[:, :ANSWERS]


def _lists(scored: np.ndarray) -> list[list[float | None]]:
    """Return scores as JSON values, null for -inf."""
    return [[None if value == -np.inf else round(value, 7) for value in row] for row in scored.tolist()]


def _array(lists: Sequence[Sequence[float | None]]) -> np.ndarray:
    return np.array([[-np.inf if value is None else value for value in row] for row in lists], np.float64)
