"""What towers are trained on: batches with the pixels of pictures and the tokens of texts, beside features in store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from encoders.meanings import Ids
from encoders.tokens import load_tokenizer, shape_text
from encoders.tower_spec import TowerError, TowerSpec
from encoders.towers import cut
from encoders.training_data import ArrayTrainingData, TrainingBatch

Pixels = npt.NDArray[np.uint8]
Tokens = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]
MAX_VALIDATION = 500


@dataclass(frozen=True)
class TowerBatch:
    """Hold B products and Q queries with what the towers in training take of them.

    stored: features of the towers that are not trained, with presence and answers; those of the others are never looked at.
    pictures: uint8[B, side, side, 3]; twins: other views of them, where there are no queries.
    texts, queries: ids int32[., L], padded, and lengths int32[.] of the products' texts and of the queries.
    """

    stored: TrainingBatch
    pictures: npt.NDArray[np.uint8] | None = None
    twins: npt.NDArray[np.uint8] | None = None
    texts: Tokens | None = None
    queries: Tokens | None = None


class TowerData(Protocol):
    """Give batches by their number, so that a training goes on anywhere, and some to validate with."""

    def train_batches(self, first: int) -> Iterator[TowerBatch]:
        """Give batch number `first` and all after it, without end; what a batch holds depends on its number only."""

    def validation(self) -> tuple[Sequence[TowerBatch], npt.NDArray[np.bool_]]:
        """Give products that no training batch holds, in batches, and the answers bool[Q, N] of all their queries."""


def tokens_of(spec: TowerSpec, folder: Path) -> Callable[[Sequence[str]], Tokens]:
    """Return the function from texts to ids int32[B, L], padded, and lengths int32[B], cut and shaped as the tower sees them."""
    tokenise = load_tokenizer(spec, folder)

    def tokens(texts: Sequence[str]) -> Tokens:
        rows = [cut(np.asarray(ids, np.int32), spec.token_limit) for ids in tokenise([shape_text(text, spec) for text in texts])]
        lengths = np.array([len(row) for row in rows], np.int32)
        ids = np.zeros((len(rows), int(lengths.max(initial=1))), np.int32)
        for target, row in zip(ids, rows, strict=True):
            target[: len(row)] = row
        return ids, lengths

    return tokens


@dataclass(frozen=True)
class TowerItems:
    """Draw batches from pieces of products, a window of neighbouring pieces at a time.

    data: presence, queries and answers of all products, and the features of towers that are not trained.
    pieces: rows of the products of each piece. window: pieces in memory at once; a batch is drawn from one window.
    pixels: pictures of a piece's products in their order, uint8[., side, side, 3]; None: the pictures' tower is not trained.
    views: views of pictures with their rows and numbers of the views, uint8 as given; view 0 is the picture itself.
    view_count: how many views of a picture are drawn from; None: another one each time.
    tokens: ids and lengths of texts; None: the texts' tower is not trained. texts: those of the products.
    """

    data: ArrayTrainingData
    pieces: Sequence[Ids]
    window: int = 1
    pixels: Callable[[int], Pixels] | None = None
    views: Callable[[Pixels, Ids, Ids], Pixels] | None = None
    view_count: int | None = 1
    tokens: Callable[[Sequence[str]], Tokens] | None = None
    texts: Sequence[str | None] = ()

    @property
    def asks(self) -> bool:
        """Tell whether there are queries; without them pictures are contrasted with their own views."""
        return len(self.data.queries) > 0

    def train_batches(self, first: int) -> Iterator[TowerBatch]:
        """Give batch number `first` and all after it; windows before it are not read.

        Raises:
            TowerError: there is no product but those to validate with.
        """
        number = 0
        for epoch in count():
            for window, batches in self._plan(epoch):
                if number + len(batches) > first:
                    held, pixels = self._read(window)
                    for offset, rows in enumerate(batches):
                        if number + offset >= first:
                            yield self._batch(rows, number + offset, epoch, held, pixels)
                number += len(batches)
            if not number:
                raise TowerError("no product to train the towers on is left: give more products")

    def validation(self) -> tuple[list[TowerBatch], npt.NDArray[np.bool_]]:
        """Give the products held out that lie in the pieces, 500 at most, with their queries and answers."""
        inside = np.zeros(len(self.data.validation_rows), np.bool_)
        inside[np.concatenate([*self.pieces, np.zeros(0, np.int64)]).astype(np.int64)] = True
        held = replace(self.data, validation_rows=inside & self.data.validation_rows, max_validation=MAX_VALIDATION)
        rows, queries = held.validation_sample()
        queries = np.unique(queries)
        pixels = self._pixels_of(rows)
        whole = held.batch(rows, queries, None)
        parts = max(-(-len(rows) // self.data.batch_rows), 1)
        found = []
        for own, asked in zip(np.array_split(np.arange(len(rows)), parts), np.array_split(np.arange(len(queries)), parts),
                              strict=True):  # fmt: skip
            stored = replace(
                whole,
                products={name: features[own] for name, features in whole.products.items()},
                present={name: mask[own] for name, mask in whole.present.items()},
                queries=whole.queries[asked],
            )
            pictures = None if pixels is None else pixels[own]
            twins = None
            if pictures is not None and not self.asks:
                assert self.views is not None
                twins = self.views(pictures, rows[own], np.ones(len(own), np.int64))
            found.append(TowerBatch(stored, pictures, twins, self._texts(rows[own]), self._queries(queries[asked])))
        return ([] if not len(rows) else found), whole.answers

    def _plan(self, epoch: int) -> Iterator[tuple[list[int], list[Ids]]]:
        rng = np.random.default_rng((self.data.seed, epoch))
        order = rng.permutation(len(self.pieces))
        for start in range(0, len(order), self.window):
            window = order[start : start + self.window].tolist()
            rows = np.concatenate([self.pieces[piece] for piece in window])
            rows = rng.permutation(rows[~self.data.validation_rows[rows]])
            if len(rows):
                yield window, np.array_split(rows, max(round(len(rows) / self.data.batch_rows), 1))

    def _read(self, window: Sequence[int]) -> tuple[Ids, Pixels | None]:
        rows = np.concatenate([self.pieces[piece] for piece in window])
        pixels = self.pixels
        return rows, None if pixels is None else np.concatenate([pixels(piece) for piece in window])

    def _pixels_of(self, rows: Ids) -> Pixels | None:
        if self.pixels is None:
            return None
        places, found = {row: place for place, row in enumerate(rows.tolist())}, None
        for piece, members in enumerate(self.pieces):
            wanted = np.flatnonzero(np.isin(members, rows))
            if len(wanted):
                read = self.pixels(piece)
                found = np.empty((len(rows), *read.shape[1:]), np.uint8) if found is None else found
                found[[places[row] for row in members[wanted].tolist()]] = read[wanted]
        return found

    def _batch(self, rows: Ids, number: int, epoch: int, held: Ids, pixels: Pixels | None) -> TowerBatch:
        rng = np.random.default_rng((self.data.seed, epoch, number))
        rows = np.sort(rows)
        asked = np.unique(self.data.ask(rows, rng)) if self.asks else np.zeros(0, np.int64)
        pictures: Pixels | None = None
        twins: Pixels | None = None
        if pixels is not None:
            order = np.argsort(held)
            itself = pixels[order[np.searchsorted(held, rows, sorter=order)]]
            if self.asks:
                shown = np.full(len(rows), epoch) if self.view_count is None else rng.integers(self.view_count, size=len(rows))
                pictures = self._views(itself, rows, shown)
            else:
                pictures = self._views(itself, rows, np.full(len(rows), 2 * epoch + 1))
                twins = self._views(itself, rows, np.full(len(rows), 2 * epoch + 2))
        stored = self.data.batch(rows, asked, rng)
        return TowerBatch(stored, pictures, twins, self._texts(rows), self._queries(asked))

    def _views(self, pictures: Pixels, rows: Ids, numbers: Ids) -> Pixels:
        if not numbers.any():
            return pictures
        assert self.views is not None
        return self.views(pictures, rows, numbers)

    def _texts(self, rows: Ids) -> Any:
        return None if self.tokens is None else self.tokens([self.texts[row] or "" for row in rows.tolist()])

    def _queries(self, asked: Ids) -> Any:
        return None if self.tokens is None else self.tokens([self.data.query_texts[number] for number in asked.tolist()])
