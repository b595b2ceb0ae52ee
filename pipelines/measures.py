"""What ranked answers are worth: measures of trec_eval through ir-measures, with confidence intervals over the queries.

    recall@k     share of the right products that are among the first k
    mrr          1 / rank of the first right one of a hundred, 0 where there is none
    ndcg@10      gain of the first ten, each discounted by log2(1 + rank), over the most there could be (Jarvelin and
                 Kekalainen, 2002)

Intervals are bootstrapped (Efron, 1979): queries are drawn with replacement a thousand times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

NAMES = ("recall@1", "recall@10", "recall@100", "mrr", "ndcg@10")
DEPTH = 100
RESAMPLES, CONFIDENCE = 1_000, 0.95
# Judgements are handed to trec_eval for so many queries at once, to bound memory.
_CHUNK = 64

Items = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Judgement:
    """The items that are right for a query, int64[M], and how right each is, int64[M] above 0.

    A right product that is not there to be found has a number below -1 of its own.
    """

    items: Items
    grades: Items


@dataclass(frozen=True)
class Figure:
    """A mean over queries, and the interval that holds 95 % of the means of resampled queries."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def to_json(self) -> dict[str, float]:
        """Give the figure as JSON values."""
        return asdict(self)


def measure(ranked: Items, judgements: Sequence[Judgement]) -> Values:
    """Measure each query: float64[Q, 5], in the order of `NAMES`.

    Args:
        ranked: int64[Q, K], the answers to each query, the best first; -1 for none.
        judgements: what is right for each.
    """
    import ir_measures as ir

    measures: list[Any] = [ir.R @ 1, ir.R @ 10, ir.R @ 100, ir.RR, ir.nDCG @ 10]
    places = {wanted: place for place, wanted in enumerate(measures)}
    values = np.zeros((len(ranked), len(measures)))
    for start in range(0, len(ranked), _CHUNK):
        part = range(start, min(start + _CHUNK, len(ranked)))
        judged = {
            str(query): {str(item): grade for item, grade in zip(j.items.tolist(), j.grades.tolist(), strict=True)}
            for query, j in zip(part, judgements[start : part.stop], strict=True)
        }
        # trec_eval ranks by score, and equal ones by name.
        answers = {
            str(query): {str(item): -float(rank) for rank, item in enumerate(ranked[query].tolist()) if item >= 0}
            for query in part
        }
        for found in ir.pytrec_eval.iter_calc(measures, judged, answers):
            values[int(found.query_id), places[found.measure]] = found.value
    return values


def figures(values: Values, seed: int) -> dict[str, Figure]:
    """Sum up what `measure` gave for one query or more: a figure for each measure."""
    low, high = _interval(_resampled(values, seed))
    means = values.mean(axis=0)
    return {
        name: Figure(*(round(float(part[place]), 4) for part in (means, low, high))) for place, name in enumerate(NAMES)
    }


def difference(before: Values, after: Values, seed: int) -> dict[str, Figure]:
    """Sum up how much better the second is for the same queries: the mean difference, with a paired bootstrap."""
    return figures(after - before, seed)


def _resampled(values: Values, seed: int) -> Values:
    rng = np.random.default_rng(seed)
    return np.stack([values[rng.integers(len(values), size=len(values))].mean(axis=0) for _ in range(RESAMPLES)])


def _interval(means: Values) -> tuple[Values, Values]:
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(means, [tail, 100 - tail], axis=0)
    return low, high
