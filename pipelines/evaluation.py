"""Evaluation of a version: what it finds for queries whose right answers are known.

Queries are encoded as the lookup encodes them, and compared with the fused vectors, by exact search and through Annoy, and with
the vectors of each modality alone, by exact search. Exact search is one pass through the vectors for every 1,024 queries.
Through Annoy the answers are those of a search, with what ranks a query of its kind: the first ten those of a search for ten, as
shoppers see them, and the others those of a search for a hundred. Memory: 64 decoded pictures, the distances of 1,024 queries to
1,024 products, a hundred answers a query.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from catalogue_lookup.items import Items
from catalogue_lookup.manifest import Manifest, Metric
from catalogue_lookup.opening import Opening, current_version, find_version
from catalogue_lookup.place import Place
from catalogue_lookup.query import QueryEncoder, QueryError, clean_texts
from catalogue_lookup.version import OpenVersion
from encoders.fusion import Fusion
from pipelines import measures, storage
from pipelines.labelled_queries import LabelledQueries, LabelledQueriesError, Query, read_image
from pipelines.layout import ORDER, VECTOR, Index, modality_vector
from pipelines.measures import DEPTH, Figure, Judgement, Values
from pipelines.recall import Block, Float32, Queries, VectorsFile, all_blocks, closest_of, described

ENCODED, SEARCHED = 64, 1_024
FUSED, EXACT, ANNOY = "fused", "exact", "Annoy"
KINDS = ("text", "picture", "both")

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Version:
    """A version opened to be evaluated."""

    index: Index
    manifest: Manifest
    files: tuple[VectorsFile, ...]
    opened: OpenVersion
    items: Items
    encoder: QueryEncoder

    def orders(self) -> npt.NDArray[np.uint64]:
        """Return each item's place in the one order: uint64[items]."""
        parts = [batch.column(ORDER).to_numpy(zero_copy_only=False) for batch in self.items.batches()]
        return np.concatenate([np.zeros(0, np.uint64), *parts])

    def blocks(self, column: str, among: Mask | None = None) -> Iterator[Block]:
        """Yield blocks of a column of vectors; those of items that are not among these, bool[items], are zeros."""
        for first, block in all_blocks(self.files, column):
            yield first, block if among is None else block * among[first : first + len(block), None]


@dataclass(frozen=True)
class QuerySet:
    """Queries of one kind, with what is right for them in one version.

    Attributes:
        name: for people.
        queries: what is asked; all have a text, or all a picture, or both.
        judgements: of each.
        by: the vectors they are compared with: "fused" or a modality.
        lacking: right products that the version does not have.
        among: the items that may be answers, bool[items]; None: all.
    """

    name: str
    queries: tuple[Query, ...]
    judgements: tuple[Judgement, ...]
    by: tuple[str, ...]
    lacking: int = 0
    among: Mask | None = None


@dataclass(frozen=True)
class Change:
    """What is done to queries before they are encoded; what comes of one depends on its key, its id, alone.

    Attributes:
        name: for people.
        texts: makes other texts of texts and keys; None where texts stay.
        pictures: makes other pictures, uint8[N, S, S, 3], of pictures and keys; None where they stay.
    """

    name: str
    texts: Callable[[Sequence[str], Sequence[str]], list[str]] | None = None
    pictures: Callable[[Pixels, Sequence[str]], Pixels] | None = None


@dataclass(frozen=True)
class Result:
    """What one kind of search found for a set of queries.

    Attributes:
        queries: the set.
        changes: what was done to the queries, in that order.
        by: the vectors they were compared with.
        search: "exact" or "Annoy".
        ranked: answers, int64[Q, 100], the best first, -1 for none.
        values: what they are worth, query by query, float64[Q, 5] in the order of `measures.NAMES`.
    """

    queries: QuerySet
    changes: tuple[Change, ...]
    by: str
    search: str
    ranked: measures.Items
    values: Values

    @property
    def changed(self) -> str:
        """Name what was done to the queries."""
        return ", ".join(change.name for change in self.changes)

    def figures(self, seed: int) -> dict[str, Figure]:
        """Sum up by measure."""
        return measures.figures(self.values, seed)

    def to_json(self, seed: int) -> dict[str, Any]:
        """Give the figures as JSON values."""
        return {
            "set": self.queries.name, "changed": self.changed, "by": self.by, "search": self.search,
            "queries": len(self.queries.queries), "lacking": self.queries.lacking,
            **{name: figure.to_json() for name, figure in self.figures(seed).items()},
        }  # fmt: skip


@contextmanager
def open_version(index: Index, version: str | None = None) -> Iterator[Version]:
    """Open a version, None for the current one, for the block.

    Raises:
        IntegrityError: there is none of that id, or it is damaged.
        BundleError: its bundle is not there.
    """
    root = Place.at(index.root)
    place, manifest = find_version(root, current_version(root) if version is None else version)
    opened = Opening(root, None, "once", None).open_version(place, manifest)
    try:
        files = tuple(described(storage.join(index.version(manifest.id), name)) for name in manifest.vectors)
        yield Version(index, manifest, files, opened, opened.items, opened.encoder())
    finally:
        opened.close()


def labelled_sets(version: Version, labelled: LabelledQueries) -> list[QuerySet]:
    """Look up the products of labelled queries in a version: a set for each kind of queries.

    Products that the version does not have are right answers that are not found; they are counted, also in the log.
    """
    sets = []
    absent: dict[str, None] = {}
    for kind in KINDS:
        queries = tuple(query for query in labelled.queries if query.kind == kind)
        lacking: dict[str, None] = {}
        judgements = tuple(_judge(version.items, query, lacking) for query in queries)
        if queries:
            sets.append(QuerySet(kind, queries, judgements, (FUSED, *version.manifest.modalities), len(lacking)))
        absent |= lacking
    if absent:
        _log.warning(
            "evaluate: %s products that %s calls right are not in version %s ('%s' is the first): they count as not found",
            f"{len(absent):,}", labelled.path, version.manifest.id, next(iter(absent)),
        )  # fmt: skip
    return sets


def _judge(items: Items, query: Query, lacking: dict[str, None]) -> Judgement:
    found = {product_id: items.find(product_id) for product_id in query.relevance}
    lacking.update(dict.fromkeys(product_id for product_id, item in found.items() if item is None))
    numbers = [-2 - place if item is None else item for place, item in enumerate(found.values())]
    return Judgement(np.array(numbers, np.int64), np.array(list(query.relevance.values()), np.int64))


def evaluate(version: Version, queries: QuerySet, *changes: Change) -> list[Result]:
    """Encode every query of a set and search for it: a result for each kind of vectors and search.

    Raises:
        LabelledQueriesError: a query cannot be encoded; the message names it.
        BundleError, ModuleNotFoundError: the bundle has no tower for it, or a package for that is missing.
    """
    words = encode(version.encoder, queries.queries, changes)
    results = []
    for by in queries.by:
        fusion, column, metric = _compared(version, by)
        vectors = fusion.query(words, {})
        ranked = nearest(vectors, partial(version.blocks, column, queries.among), metric)
        results.append(Result(queries, changes, by, EXACT, ranked, measures.measure(ranked, queries.judgements)))
        if by == FUSED:
            ranked = as_answered(version, words, queries.among)
            results.append(Result(queries, changes, by, ANNOY, ranked, measures.measure(ranked, queries.judgements)))
    return results


def evaluate_vectors(
    vectors: Float32, blocks: Callable[[], Iterable[Block]], metric: Metric, judgements: Sequence[Judgement]
) -> Values:
    """Measure what exact search finds for queries, whatever made their vectors and those they are compared with.

    Args:
        vectors: of the queries, float32[Q, D].
        blocks: gives the candidates' vectors from the first item on, anew for each pass.
        metric: what is close.
        judgements: what is right for each query.

    Returns what `measures.measure` does.
    """
    return measures.measure(nearest(vectors, blocks, metric), judgements)


def nearest(vectors: Float32, blocks: Callable[[], Iterable[Block]], metric: Metric) -> measures.Items:
    """Return the hundred items closest to each query by exact search: int64[Q, 100], -1 for none."""
    parts = []
    for start in range(0, len(vectors), SEARCHED):
        part = vectors[start : start + SEARCHED]
        parts.append(closest_of(blocks(), Queries("", part, np.full(len(part), -1)), metric, DEPTH))
    return np.concatenate(parts)


def encode(encoder: QueryEncoder, queries: Sequence[Query], changes: Sequence[Change] = ()) -> dict[str, Float32]:
    """Encode queries of one kind: float32[Q, d] of unit norm for each modality they ask by.

    Raises:
        LabelledQueriesError: a query cannot be encoded; the message names it.
    """
    parts = []
    for start in range(0, len(queries), ENCODED):
        part = queries[start : start + ENCODED]
        try:
            parts.append(_encode(encoder, part, changes))
        except QueryError:
            # One of them cannot be encoded: it is named.
            parts += [_encode_one(encoder, query, changes) for query in part]
    return {modality: np.concatenate([part[modality] for part in parts]) for modality in parts[0]}


def _encode(encoder: QueryEncoder, queries: Sequence[Query], changes: Sequence[Change]) -> dict[str, Float32]:
    keys = [query.id for query in queries]
    found = {}
    if queries[0].image is not None:
        pixels = encoder.decode([read_image(query) for query in queries])
        for change in changes:
            pixels = pixels if change.pictures is None else change.pictures(pixels, keys)
        found["picture"] = encoder.encode("picture", pixels)
    if queries[0].text is not None:
        texts = clean_texts(query.text or "" for query in queries)
        for change in changes:
            texts = texts if change.texts is None else change.texts(texts, keys)
        found["text"] = encoder.encode("text", texts)
    return found


def _encode_one(encoder: QueryEncoder, query: Query, changes: Sequence[Change]) -> dict[str, Float32]:
    try:
        return _encode(encoder, [query], changes)
    except QueryError as error:
        named = "" if query.image is None else f", {query.image}"
        raise LabelledQueriesError(f"query '{query.id}'{named} cannot be encoded: {error}") from error


def _compared(version: Version, by: str) -> tuple[Fusion, str, Metric]:
    """Return how queries become vectors, the column of those they are compared with, and what is close.

    Of one modality alone it is what `weights={modality: 1}` does in a search.
    """
    if by == FUSED:
        return version.encoder.bundle.fusion, VECTOR, version.manifest.metric
    return Fusion("concatenation", {by: 1.0}), modality_vector(by), "angular"


def as_answered(version: Version, words: Mapping[str, Float32], among: Mask | None = None) -> measures.Items:
    """Return what a search answers to each query, float32[Q, d] a modality: int64[Q, 100], -1 for none.

    Items that are not among these are left out.
    """
    queries = len(next(iter(words.values())))
    ranked = np.full((queries, DEPTH), -1, np.int64)
    for row in range(queries):
        own = {modality: vectors[row] for modality, vectors in words.items()}
        first, more = (version.opened.items_for(own, count) for count in (10, DEPTH))
        joined = np.concatenate([first, more[~np.isin(more, first)]])[:DEPTH]
        joined = joined if among is None else joined[among[joined]]
        ranked[row, : len(joined)] = joined
    return ranked


def as_shopped(results: Iterable[Result]) -> Mapping[str, Result]:
    """Return what shoppers get, by set: the results through Annoy of queries as they are."""
    return {result.queries.name: result for result in results if result.search == ANNOY and not result.changes}
