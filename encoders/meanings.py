"""What phrases mean: which attributes they name, and so which products they find, whichever product they were made for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Ids = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Meanings:
    """What phrases name and what products have, as numbers of values ("the colour is navy blue"): who answers what.

    names: int[S, r], what a phrase names, sorted, filled up with -1; attributes: int[S], a number for the set of attributes it
    names ("colour and kind"); queries: int[S], which query says it, ascending. A query that means one thing or another has a
    row for each.
    values: what products have, one after the other, those of product i from starts[i] to starts[i + 1]; starts: int[N + 1].
    """

    names: Ids
    attributes: Ids
    queries: Ids
    values: Ids
    starts: Ids

    def answers(self, asked: Ids, rows: Ids) -> Mask:
        """Tell which of the products `rows` have all that a query names: bool[Q, B]; `asked` are sorted, each once."""
        right = np.zeros((len(asked), len(rows)), np.bool_)
        meant = np.flatnonzero(np.isin(self.queries, asked))
        if not len(meant):
            return right
        names = self.names[meant]
        vocabulary = np.unique(names[names >= 0])
        had = self.of_products(rows)
        known = np.isin(had.values, vocabulary)
        there = np.zeros((len(vocabulary) + 1, len(rows)), np.bool_)
        there[np.searchsorted(vocabulary, had.values[known]), np.repeat(np.arange(len(rows)), np.diff(had.starts))[known]] = True
        there[-1] = True  # what is filled up asks for nothing
        places = np.where(names >= 0, np.searchsorted(vocabulary, names), len(vocabulary))
        fits = np.logical_and.reduce([there[column] for column in places.T])
        queries, first = np.unique(self.queries[meant], return_index=True)
        right[np.searchsorted(asked, queries)] = np.logical_or.reduceat(fits, first, axis=0)
        return right

    def labels(self, rng: np.random.Generator, own: Ids, most: int) -> Ids:
        """Draw one wording of each thing that phrases of the attributes named most often name, of `most` things at most.

        Those that the queries `own` name come first, the others are drawn.
        """
        queries, starts, things = self._wordings
        if len(starts) < 3:  # fewer than two things: nothing to tell apart
            return np.zeros(0, np.int64)
        first = rng.permutation(np.unique(things[np.isin(queries, own)]))
        others = rng.permutation(np.setdiff1d(np.arange(len(starts) - 1), first))
        taken = np.concatenate([first, others])[:most]
        places = starts[taken] + (rng.random(len(taken)) * np.diff(starts)[taken]).astype(np.int64)
        return np.unique(queries[places])

    @cached_property
    def _wordings(self) -> tuple[Ids, Ids, Ids]:
        """Give queries of the attributes named most often, thing by thing, where each thing begins, and the thing of each."""
        if not len(self.queries):
            return np.zeros(0, np.int64), np.zeros(1, np.int64), np.zeros(0, np.int64)
        rows = np.flatnonzero(self.attributes == np.bincount(self.attributes).argmax())
        _, things, counts = np.unique(self.names[rows], axis=0, return_inverse=True, return_counts=True)
        order = np.argsort(things.reshape(-1), kind="stable")
        return self.queries[rows[order]], np.concatenate([[0], np.cumsum(counts)]), things.reshape(-1)[order]

    def of_products(self, rows: Ids) -> Meanings:
        """Return what these products have, in this order, beside what queries name."""
        counts = self.starts[rows + 1] - self.starts[rows]
        starts = np.concatenate([[0], np.cumsum(counts)])
        places = np.arange(starts[-1]) + np.repeat(self.starts[rows] - starts[:-1], counts)
        return replace(self, values=self.values[places], starts=starts)
