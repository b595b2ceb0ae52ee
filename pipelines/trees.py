"""How many trees the Annoy files have: as many as make the least work a query at the recall wanted.

More trees find the same neighbours among fewer candidates, until asking the trees themselves costs more than that saves;
they take longer to build and more memory. Numbers of trees are tried on at most 50,000 products, the first of the one
order and so a random sample, when a version is the first of its kind; later versions keep the number while their
products are between half and twice those that it was chosen for.

What is least is counted and not clocked: the products that Annoy compares with a query, and a hyperplane a tree. So the same
vectors give the same choice on any machine. It is written down before anything is built: a run that is resumed does not
choose again.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from catalogue_lookup.manifest import ChosenFor, Manifest, Metric
from catalogue_lookup.shard import NODE_HEADER, AnnoyShard
from pipelines.items import BuildError
from pipelines.recall import NEIGHBOURS
from pipelines.search_k import LEAST_NODES, STEP, Sample, find_search_k

LEAST_RECALL = 0.95
TREES = (10, 20, 50, 100, 200)
TRIED_ITEMS = 50_000

_log = logging.getLogger(__name__)


class IndexTooLargeError(BuildError):
    """No number of trees keeps the Annoy files within the bytes allowed; the message says how many they take."""


def annoy_bytes(items: int, trees: int, dimension: int, metric: Metric) -> int:
    """Estimate the bytes of an Annoy file from above: what it takes where every leaf is half full.

    A file is nodes of one size s, a header and a vector: the items, the nodes of each tree, and a copy of each root (annoy
    1.17). A leaf holds the numbers of up to K = (s - o) / 4 items in the room of its vector and of what stands before it
    from byte o on. A tree of n > K items with leaves half full has 2 n / K of them, and as many splits but one.
    Measured files of product vectors are 2 to 12 % smaller.
    """
    node = NODE_HEADER[metric] + 4 * dimension
    capacity = (node - (8 if metric in ("euclidean", "manhattan") else 4)) // 4
    nodes = 1 if items <= capacity else -(-4 * items // capacity)
    return node * (items + trees * (nodes + 1))


@dataclass(frozen=True)
class Trial:
    """What one number of trees gave on the sample.

    Attributes:
        trees: the number.
        search_k: nodes a query looks at.
        recall: recall@10, the least of the kinds of queries.
        work: what a query is compared with, on average: products, and a hyperplane a tree.
        p50_ms: milliseconds a query took, the median; it decides nothing.
    """

    trees: int
    search_k: int
    recall: float
    work: float
    p50_ms: float


@dataclass(frozen=True)
class Choice:
    """How many trees each Annoy file of a version has.

    Attributes:
        trees: the number.
        start: the `search_k` to try first.
        chosen_for: what it was chosen for; None where it was given.
        why: a clause for people.
        trials: what was tried.
    """

    trees: int
    start: int
    chosen_for: ChosenFor | None
    why: str
    trials: tuple[Trial, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Give the choice as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Choice:
        """Read what `to_json` gave."""
        chosen_for = content["chosen_for"]
        return cls(**content | {
            "chosen_for": None if chosen_for is None else ChosenFor(**chosen_for),
            "trials": tuple(Trial(**trial) for trial in content["trials"]),
        })  # fmt: skip


def given(trees: int) -> Choice:
    """Return the choice of who says how many trees there are to be."""
    return Choice(trees, NEIGHBOURS * trees, None, "as --trees says")


def kept(before: Manifest | None, wanted: ChosenFor, metric: Metric, dimension: int) -> Choice | None:
    """Return the choice of the version before, None where it is to be made anew."""
    old = None if before is None else before.measured.chosen_for
    if before is None or old is None or (before.metric, before.dimension) != (metric, dimension):
        return None
    alike = (old.recall, old.max_bytes) == (wanted.recall, wanted.max_bytes)
    if not alike or not old.items <= 2 * wanted.items <= 4 * old.items:
        return None
    return Choice(before.n_trees, before.search_k, old, f"as in version {before.id}, chosen for {old.items:,} products")


def fitting(parts: Sequence[int], dimension: int, metric: Metric, max_bytes: int | None) -> tuple[int, ...]:
    """Return the numbers of trees with which Annoy files of so many items each are within `max_bytes`.

    Raises:
        IndexTooLargeError: none is; the message says what the fewest trees take.
    """
    sizes = {trees: sum(annoy_bytes(items, trees, dimension, metric) for items in parts) for trees in TREES}
    fit = tuple(trees for trees, size in sizes.items() if max_bytes is None or size <= max_bytes)
    if not fit:
        raise IndexTooLargeError(
            f"Annoy files of {sum(parts):,} products at dimension {dimension} take about {sizes[TREES[0]]:,} bytes with the "
            f"fewest trees that are tried, {TREES[0]}, above --max-index-bytes {max_bytes}: allow more, or train a bundle of a "
            "smaller --dimension"
        )
    if len(fit) < len(TREES):
        left = ", ".join(f"{trees} ({size:,} bytes)" for trees, size in sizes.items() if trees not in fit)
        _log.info("build: numbers of trees left out because of --max-index-bytes %d: %s", max_bytes, left)
    return fit


def choose(
    sample: Sample, candidates: Sequence[int], wanted: ChosenFor, metric: Metric, dimension: int,
    build: Callable[[int, Path], None],
) -> Choice:  # fmt: skip
    """Try numbers of trees on a sample, the fewest first, and choose.

    Of those that reach the recall the one with the least work a query is taken, or a smaller one that comes within a
    tenth; trying ends where more trees make more work. Where none reaches it, the one with the highest recall is taken.

    Args:
        sample: queries on the first items.
        candidates: numbers of trees, ascending.
        wanted: what is chosen for.
        metric: distance of the Annoy files.
        dimension: D.
        build: builds an Annoy file of the sample's items with so many trees at a path.
    """
    if sample.items <= LEAST_NODES or len(candidates) == 1:
        few = f"all of {sample.items:,} products are compared" if sample.items <= LEAST_NODES else "no other number fits"
        return Choice(candidates[0], NEIGHBOURS * candidates[0], wanted, few)
    trials: list[Trial] = []
    with tempfile.TemporaryDirectory() as temporary:
        for trees in candidates:
            path = Path(temporary) / f"{trees}.ann"
            build(trees, path)
            trials.append(_try(path, trees, sample, wanted.recall, metric, dimension,
                               trials[-1].search_k if trials else NEIGHBOURS * trees))  # fmt: skip
            if len(trials) > 1 and trials[-2].recall >= wanted.recall and trials[-1].work > trials[-2].work:
                break
    good = [trial for trial in trials if trial.recall >= wanted.recall]
    if good:
        least = min(trial.work for trial in good)
        # Fewer trees are taken where more of them save less than a step of `search_k`.
        best = next(trial for trial in good if trial.work <= STEP * least)
    else:
        best = max(trials, key=lambda trial: trial.recall)
    tried = ", ".join(str(trial.trees) for trial in trials)
    reason = f"least work for recall@{NEIGHBOURS} {wanted.recall:g}" if good else f"best recall@{NEIGHBOURS}"
    why = f"{reason} of {tried}, {best.work:,.0f} comparisons a query on {sample.items:,} products"
    return Choice(best.trees, best.search_k, wanted, why, tuple(trials))


def _try(
    path: Path, trees: int, sample: Sample, least_recall: float, metric: Metric, dimension: int, start: int
) -> Trial:
    shard = AnnoyShard(path, 0, sample.items, metric, dimension)
    try:
        tuned = find_search_k([shard], sample, least_recall, start)
        compared = [shard.compared(query, tuned.search_k) for queries in sample.kinds for query in queries.vectors]
    finally:
        shard.close()
    p50 = round(float(np.percentile(tuned.milliseconds, 50)), 3)
    return Trial(trees, tuned.search_k, round(tuned.recall, 4), round(float(np.mean(compared)) + trees, 1), p50)
