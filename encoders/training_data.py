"""What heads are trained on: batches of products with the queries they answer, read from arrays or files of features.

A training product has a picture's feature, a text's feature (what the index holds of it), or both. A training query
is the text tower's feature of a title, of a sentence of a description, or of a phrase made from columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from encoders.meanings import Ids, Mask, Meanings

Features = npt.NDArray[np.floating[Any]]

_RUN_ROWS = 64  # rows read side by side from a file, and shuffled as one
_BUFFER_ROWS = 8192

MOST_LABELS = 1024  # a batch
LEAST_QUERIES = 100  # of fewer validation queries, what is best for them is best by chance


@dataclass(frozen=True)
class Questions:
    """Hold Q queries about the products of a batch, features float16 or float32[Q, D], and the right answers, bool[Q, B]."""

    queries: Features
    answers: Mask


@dataclass(frozen=True)
class TrainingBatch:
    """Hold B products, Q queries, and which product answers which query.

    products: by modality ("picture", "text"), features float16 or float32[B, D]; present: by modality, bool[B]; what
    stands in a missing row is never looked at. queries: features of the text tower, float16 or float32[Q, D].
    answers: bool[Q, B], true for every right answer, whether or not the query was drawn for that product.
    Beside them a batch that heads are trained on asks, each with a loss of its own, `phrases` of the products, and `labels`:
    phrases that all name the same attributes, one for each thing that products are by them.
    """

    products: Mapping[str, Features]
    present: Mapping[str, Mask]
    queries: Features
    answers: Mask
    phrases: Questions | None = None
    labels: Questions | None = None


class TrainingData(Protocol):
    """Give training batches epoch by epoch, read as they are needed, and one bounded batch to validate with."""

    @property
    def steps_per_epoch(self) -> int:
        """Give the number of batches of an epoch."""

    def train_batches(self, epoch: int) -> Iterable[TrainingBatch]:
        """Give the batches of an epoch for heads, in an order and with queries drawn by the epoch."""

    def validation(self) -> TrainingBatch:
        """Give products that no training batch holds, a few thousand at most, with queries for them."""


@dataclass(frozen=True)
class ArrayTrainingData:
    """Draw batches from arrays of N products: in memory, or memory-mapped from files and then read run by run.

    features: by modality ("picture", "text"), float16 or float32[N, V, D], V views of each item, of which a batch has
    one; present: by modality, bool[N].
    queries: the text tower's features of distinct titles and phrases, [U, D].
    query_texts: what they are features of, where it is needed.
    title_ids: int[N, W], the queries that are a product's title and views of it, -1 where it has none.
    product_phrases: int[N, k], the queries that are phrases drawn for a product, filled up with -1; meanings: which other
    products they fit, where that is known.
    validation_rows: bool[N], the products held out; index_views: by modality, over how many views, from the first,
    their features are the mean, as the index's are; 1 where it is not named.
    phrases_per_product: phrases that a batch asks of a product; phrase_share: share of the batches that ask them, the others
    asking titles, where a batch asks one of them (`ask`).
    product_sentences: int[N, s], the queries that are sentences of a product's description, filled up with -1; None where there
    are none. sentence_share: share of the batches that ask `sentences_per_product` of them a product.
    """

    features: Mapping[str, Features]
    present: Mapping[str, Mask]
    queries: Features
    title_ids: Ids
    product_phrases: Ids
    validation_rows: Mask
    query_texts: Sequence[str] = ()
    meanings: Meanings | None = None
    index_views: Mapping[str, int] = field(default_factory=dict)
    batch_rows: int = 512
    phrase_share: float = 0.4
    phrases_per_product: int = 2
    product_sentences: Ids | None = None
    sentence_share: float = 0.2
    sentences_per_product: int = 1
    max_validation: int = 2000
    seed: int = 0

    @property
    def steps_per_epoch(self) -> int:
        """Give the number of batches of an epoch, the last ones being smaller."""
        return -(-int(np.count_nonzero(~self.validation_rows)) // self.batch_rows)

    def train_batches(self, epoch: int) -> Iterator[TrainingBatch]:
        """Give every training product once, batch by batch with titles or sentences, phrases and labels."""
        for rows, rng in self.row_batches(epoch):
            titles, sentences = self.title_ids[rows], self._sentences(rows, rng.random())
            asked = _draw(titles, 1, rng) if sentences is None else _draw(sentences, self.sentences_per_product, rng)
            batch = self.batch(rows, asked, rng)
            phrases = np.unique(_draw(self.product_phrases[rows], self.phrases_per_product, rng))
            own = self.product_phrases[rows]
            labels = np.zeros(0, np.int64) if self.meanings is None else self.meanings.labels(rng, own, MOST_LABELS)
            yield replace(batch, phrases=self._questions(phrases, np.sort(rows)), labels=self._questions(labels, np.sort(rows)))

    def row_batches(self, epoch: int) -> Iterator[tuple[Ids, np.random.Generator]]:
        """Give the rows of every training product once, batch by batch, with what draws for it."""
        rng = np.random.default_rng((self.seed, epoch))
        pending = np.zeros(0, np.int64)
        for rows in self._shuffled_rows(rng):
            pending = np.concatenate([pending, rows])
            while len(pending) >= 2 * self.batch_rows:
                yield pending[: self.batch_rows], rng
                pending = pending[self.batch_rows :]
        if len(pending) > self.batch_rows:  # two halves, lest the last batch be too small to contrast
            yield pending[: len(pending) // 2], rng
            pending = pending[len(pending) // 2 :]
        if len(pending):
            yield pending, rng

    def validation(self, phrases: int = 2) -> TrainingBatch:
        """Give the products held out, `max_validation` of them at most, each with its title and so many of its phrases."""
        return self.batch(*self.validation_sample(phrases), None)

    def validation_sample(self, phrases: int = 2) -> tuple[Ids, Ids]:
        """Draw the rows of the products held out, sorted, and the queries for them, so many phrases of each."""
        rng = np.random.default_rng((self.seed, 0xFFFFFFFF))
        rows = np.flatnonzero(self.validation_rows)
        if len(rows) > self.max_validation:
            rows = np.sort(rng.choice(rows, self.max_validation, replace=False))
        titles, drawn = self.title_ids[rows, 0], _draw(self.product_phrases[rows], phrases, rng)
        return rows, np.concatenate([titles[titles >= 0], drawn])

    def trained_sample(self, most: int) -> TrainingBatch:
        """Give products that are not held out, `most` of them at most, as the index has them, and no queries."""
        rows = np.flatnonzero(~self.validation_rows)
        rows = np.random.default_rng((self.seed, 0xFFFFFFFE)).permutation(rows)[:most]
        return self.batch(rows, np.zeros(0, np.int64), None)

    def _shuffled_rows(self, rng: np.random.Generator) -> Iterator[Ids]:
        starts = rng.permutation(np.arange(0, len(self.title_ids), _RUN_ROWS))
        runs_a_buffer = _BUFFER_ROWS // _RUN_ROWS
        for first in range(0, len(starts), runs_a_buffer):
            runs = [np.arange(s, min(s + _RUN_ROWS, len(self.title_ids))) for s in starts[first : first + runs_a_buffer]]
            rows = np.concatenate(runs)
            yield rng.permutation(rows[~self.validation_rows[rows]])

    def ask(self, rows: Ids, rng: np.random.Generator) -> Ids:
        """Draw titles, sentences, or phrases: what is asked where a batch asks one of them."""
        titles, phrases = _draw(self.title_ids[rows], 1, rng), self.product_phrases[rows]
        drawn = rng.random()
        sentences = self._sentences(rows, drawn)
        if sentences is not None:
            return _draw(sentences, self.sentences_per_product, rng)
        asks_phrases = drawn < self.phrase_share
        if (asks_phrases and (phrases >= 0).any()) or not len(titles):
            return _draw(phrases, self.phrases_per_product, rng)
        return titles

    def batch(self, rows: Ids, queries: Ids, rng: np.random.Generator | None) -> TrainingBatch:
        """Make a batch of one drawn view of each product, or of the mean that the index has; rows and queries are sorted."""
        rows = np.sort(rows)
        asked = self._questions(np.unique(queries), rows)
        return TrainingBatch(
            products={name: self.product_features(name, rows, rng) for name in self.features},
            present={name: np.asarray(mask[rows]) for name, mask in self.present.items()},
            queries=asked.queries,
            answers=asked.answers,
        )

    def _sentences(self, rows: Ids, drawn: float) -> Ids | None:
        """Return the products' sentences where a batch that drew so asks them."""
        if self.product_sentences is None or drawn < 1.0 - self.sentence_share:
            return None
        sentences = self.product_sentences[rows]
        return sentences if (sentences >= 0).any() else None

    def _questions(self, asked: Ids, rows: Ids) -> Questions:
        """Gather queries, sorted and each once, and which of the products, sorted, they find."""
        known = [self.title_ids, self.product_phrases, *([] if self.product_sentences is None else [self.product_sentences])]
        ids = np.concatenate([own[rows] for own in known], axis=1)
        answers = np.zeros((len(asked), len(rows)), np.bool_)
        if len(asked):
            slots = np.searchsorted(asked, ids).clip(max=len(asked) - 1)
            product, column = np.nonzero(asked[slots] == ids)
            answers[slots[product, column], product] = True
            if self.meanings is not None:
                answers |= self.meanings.answers(asked, rows)
        return Questions(np.asarray(self.queries[asked]), answers)

    def product_features(self, name: str, rows: Ids, rng: np.random.Generator | None = None) -> Features:
        """Give the features of products: of one drawn view each, or as the index has them."""
        array = self.features[name]
        if rng is None:
            return np.asarray(array[rows, : self.index_views.get(name, 1)]).mean(axis=1, dtype=np.float32)
        return np.asarray(array[rows, rng.integers(array.shape[1], size=len(rows))])


def _draw(candidates: Ids, count: int, rng: np.random.Generator) -> Ids:
    """Draw up to `count` of each row's ids, which are not negative; returns them all in one array."""
    ranks = np.where(candidates >= 0, rng.random(candidates.shape), 2.0)
    chosen = np.argsort(ranks, axis=1)[:, :count]
    ids = np.take_along_axis(candidates, chosen, axis=1)
    return ids[ids >= 0]
