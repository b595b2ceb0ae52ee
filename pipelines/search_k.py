"""How many nodes a query looks at: the least `search_k` of a series in steps of a tenth that reaches the recall wanted.

It is found anew for every version, with queries on its own products or, where trees are chosen, on a sample of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from catalogue_lookup.manifest import ChosenFor, Measured, Metric
from catalogue_lookup.shard import AnnoyShard
from encoders.fusion import Fusion
from pipelines.recall import NEIGHBOURS, Queries, VectorsFile, exact_neighbours, make_queries, recall_of

STEP = 1.1
LEAST_NODES, MOST_NODES = 100, 200_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """Queries on the first items of files of vectors, and what exact search finds for them.

    Attributes:
        items: how many of the items are searched.
        kinds: queries of each kind.
        exact: the closest items to each query, int64[Q, 10] a kind.
    """

    items: int
    kinds: tuple[Queries, ...]
    exact: tuple[npt.NDArray[np.int64], ...]

    @classmethod
    def draw(
        cls, files: Sequence[VectorsFile], modalities: Sequence[str], fusion: Fusion, metric: Metric, seed: int,
        most: int | None = None,
    ) -> Sample:  # fmt: skip
        """Draw queries on the first `most` items, None for all of them, and search exactly."""
        total = sum(file.rows for file in files)
        items = total if most is None else min(total, most)
        kinds = tuple(make_queries(files, modalities, fusion, seed, items)) if items else ()
        return cls(items, kinds, tuple(exact_neighbours(files, queries, metric, most=items) for queries in kinds))


@dataclass(frozen=True)
class Tuned:
    """The least `search_k` that reaches a recall, or the most that is tried where none does, and what it gives.

    Attributes:
        search_k: nodes a query looks at, a file.
        recalls: recall@10 of each kind of queries.
        milliseconds: what each query took.
    """

    search_k: int
    recalls: tuple[float, ...]
    milliseconds: tuple[float, ...]

    @property
    def recall(self) -> float:
        """Give the least recall of the kinds."""
        return min(self.recalls)


def _series() -> tuple[int, ...]:
    steps = [LEAST_NODES]
    while steps[-1] < MOST_NODES:
        steps.append(min(round(steps[-1] * STEP), MOST_NODES))
    return tuple(steps)


SEARCH_KS = _series()


def least_place(reaches: Callable[[int], bool], start: int, last: int) -> int:
    """Return the first of the places 0 to `last` that reaches, `last` where none before it does.

    What reaches at a place does at all later ones. Asks at `start`, then ever farther from there, then between.
    """
    low, high, step, at = -1, last, 1, min(start, last)
    while high - low > 1:
        if reaches(at):
            high = at
        else:
            low = at
        if low < 0:
            at = max(high - step, 0)
        elif high == last:
            at = min(low + step, last - 1)
        else:
            at = (low + high) // 2
        step *= 2
    return high


def find_search_k(shards: Sequence[AnnoyShard], sample: Sample, least_recall: float, start: int) -> Tuned:
    """Find the least `search_k` of the series with which every kind of queries has the recall.

    What Annoy finds with more nodes includes what it finds with fewer, so the answer does not depend on where the search
    starts; near the answer it takes two passes through the queries.

    Args:
        shards: the Annoy files.
        sample: queries, one kind at least.
        least_recall: recall@10 that is wanted.
        start: the `search_k` to look at first.
    """
    # With as many nodes as there are items all are compared.
    last = int(np.searchsorted(SEARCH_KS[:-1], max(shard.items for shard in shards)))
    passed: dict[int, Tuned] = {}
    hardest_first = list(range(len(sample.kinds)))

    def look(search_k: int, least: float) -> Tuned | None:
        found: dict[int, tuple[float, list[float]]] = {}
        for kind in list(hardest_first):
            found[kind] = recall_of(shards, sample.kinds[kind], sample.exact[kind], search_k)
            if found[kind][0] < least:
                hardest_first.remove(kind)
                hardest_first.insert(0, kind)
                return None
        parts = [found[kind] for kind in range(len(sample.kinds))]
        return Tuned(search_k, tuple(recall for recall, _ in parts), tuple(ms for _, each in parts for ms in each))

    def reaches(place: int) -> bool:
        tuned = look(SEARCH_KS[place], least_recall)
        if tuned is not None:
            passed[place] = tuned
        return tuned is not None

    place = least_place(reaches, int(np.searchsorted(SEARCH_KS, start)), last)
    tuned = passed.get(place) or look(SEARCH_KS[place], 0.0)
    assert tuned is not None
    return tuned


def measure(
    shards: Sequence[AnnoyShard], sample: Sample, least_recall: float, start: int, chosen_for: ChosenFor | None
) -> tuple[int, Measured]:
    """Find `search_k` for a version's Annoy files; returns it with what the manifest tells of it."""
    if not sample.kinds:
        return start, Measured(None, {}, 0, 0.0, 0.0, chosen_for)
    tuned = find_search_k(shards, sample, least_recall, start)
    if tuned.recall < least_recall:
        _log.warning(
            "build: recall@%d is %.3f with %d nodes a query; more trees would help", NEIGHBOURS, tuned.recall, tuned.search_k
        )
    p50, p95 = (round(float(np.percentile(tuned.milliseconds, percent)), 3) for percent in (50, 95))
    by_query = {queries.kind: round(recall, 4) for queries, recall in zip(sample.kinds, tuned.recalls, strict=True)}
    return tuned.search_k, Measured(round(tuned.recall, 4), by_query, len(sample.kinds[0].items), p50, p95, chosen_for)
