"""EVALUATE: what a version finds for queries whose right answers are known, by exact search and through Annoy.

    catalogue-index evaluate --index DIR --queries FILE [--version ID] [--json]

Queries are encoded as the lookup encodes them, 256 at a time; exact search is one pass through the vectors for every 1,024
queries. Through Annoy the first ten answers are those of a search for ten, as shoppers see them, and the others those of a
search for a hundred.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from catalogue_lookup.items import Items
from catalogue_lookup.manifest import Manifest
from catalogue_lookup.opening import Opening, current_version, find_version
from catalogue_lookup.place import Place
from catalogue_lookup.query import QueryEncoder, QueryError
from catalogue_lookup.shard import AnnoyShard, search_shards
from pipelines import measures, storage
from pipelines.drift import files_of
from pipelines.labelled_queries import LabelledQueries, LabelledQueriesError, Query
from pipelines.layout import VECTOR, Index
from pipelines.measures import DEPTH, Figure, Judgement, Values
from pipelines.recall import Float32, Queries, VectorsFile, exact_neighbours
from transforms.text import clean_text

ENCODED, SEARCHED = 256, 1_024
EXACT, ANNOY = "exact", "Annoy"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Version:
    """A version opened to be evaluated."""

    manifest: Manifest
    files: tuple[VectorsFile, ...]
    shards: tuple[AnnoyShard, ...]
    items: Items
    encoder: QueryEncoder


@dataclass(frozen=True)
class QuerySet:
    """Queries of one kind with their judgements.

    Attributes:
        name: for people.
        queries: what is asked.
        judgements: of each, in one version.
        modality: rank by the vectors of this modality alone and by exact search only; None: by the fused ones.
        right: the grade from which a product counts as right.
    """

    name: str
    queries: tuple[Query, ...]
    judgements: tuple[Judgement, ...]
    modality: str | None = None
    right: int = 1


@dataclass(frozen=True)
class Answers:
    """Answers of one kind of search to a set of queries: items int64[Q, 100], -1 for none, and float64[Q, 7] measured."""

    ranked: measures.Items
    values: Values


@dataclass(frozen=True)
class Evaluation:
    """What a version finds for a set of queries: by "exact" and "Annoy" search, or by the first alone."""

    queries: QuerySet
    answers: Mapping[str, Answers]

    def figures(self, seed: int) -> dict[str, dict[str, Figure]]:
        """Sum up: by search, by measure."""
        return {search: measures.figures(found.values, seed) for search, found in self.answers.items()}


@contextmanager
def open_version(index: Index, version: str | None = None) -> Iterator[Version]:
    """Open a version, None for the current one, for the block.

    Raises:
        IntegrityError: there is none of that id, or it is damaged.
    """
    root = Place.at(index.root)
    opening = Opening(root, None, "once", None)
    place, manifest = find_version(root, current_version(root) if version is None else version)
    opened = opening.open_version(place, manifest)
    try:
        yield Version(manifest, tuple(files_of(index, manifest)), opened.shards, opened.items, opened.encoder())
    finally:
        opened.close()


def labelled_sets(version: Version, labelled: LabelledQueries) -> list[QuerySet]:
    """Look up the products of labelled queries in a version: a set for each kind of queries.

    Products that the version does not have are left out and counted in the log, and so are queries of which none is left.

    Raises:
        LabelledQueriesError: no query is left.
    """
    known: dict[str, list[tuple[Query, Judgement]]] = {}
    unknown: dict[str, None] = {}
    for query in labelled.queries:
        found = {item: grade for product_id, grade in query.relevance.items()
                 if (item := version.items.find(product_id)) is not None}  # fmt: skip
        unknown |= dict.fromkeys(product_id for product_id in query.relevance if version.items.find(product_id) is None)
        if found:
            known.setdefault(query.kind, []).append((query, judge(found)))
    left = sum(map(len, known.values()))
    if unknown:
        _log.warning(
            "evaluate: %s products of %s are not in version %s ('%s' is the first) and left out, and with them %s of %s queries",
            f"{len(unknown):,}", labelled.path, version.manifest.id, next(iter(unknown)), f"{len(labelled.queries) - left:,}",
            f"{len(labelled.queries):,}",
        )  # fmt: skip
    if not left:
        raise LabelledQueriesError(f"{labelled.path} names no product of version {version.manifest.id} as right")
    return [
        QuerySet(f"labelled, {kind}", tuple(query for query, _ in known[kind]), tuple(judged for _, judged in known[kind]))
        for kind in ("text", "picture", "both") if kind in known
    ]  # fmt: skip


def judge(grades: Mapping[int, int]) -> Judgement:
    """Make a judgement of grades by item."""
    items = np.array(sorted(grades), np.int64)
    return Judgement(items, np.array([grades[item] for item in items.tolist()], np.int64))


def evaluate(version: Version, queries: QuerySet) -> Evaluation:
    """Search for every query of a set and measure the answers.

    Raises:
        LabelledQueriesError: a query cannot be encoded; the message names it.
    """
    vectors = encode(version.encoder, queries)
    found = {EXACT: _exact(version, queries, vectors)}
    if queries.modality is None:
        found[ANNOY] = np.stack([_through_annoy(version, vector) for vector in vectors])
    answers = {
        search: Answers(ranked, measures.measure(ranked, queries.judgements, queries.right)) for search, ranked in found.items()
    }
    return Evaluation(queries, answers)


def encode(encoder: QueryEncoder, queries: QuerySet) -> Float32:
    """Encode queries in order: float32[Q, D], or float32[Q, d] where they are compared with one modality's vectors.

    Raises:
        LabelledQueriesError: a query cannot be encoded; the message names it.
    """
    parts = []
    for _, group in groupby(queries.queries, key=lambda query: query.kind):
        alike = list(group)
        for start in range(0, len(alike), ENCODED):
            part = alike[start : start + ENCODED]
            try:
                parts.append(_encode(encoder, part, queries.modality))
            except QueryError:
                # One of them cannot be encoded: it is named.
                parts += [_encode_one(encoder, query, queries.modality) for query in part]
    return np.concatenate(parts)


def _encode(encoder: QueryEncoder, queries: Sequence[Query], modality: str | None) -> Float32:
    if modality is not None:
        return encoder.vectors("text", [clean_text(query.text or "") for query in queries])
    texts = None if queries[0].text is None else [query.text or "" for query in queries]
    images = None if queries[0].image is None else [_content(query) for query in queries]
    return encoder.encode_many(texts, images)


def _encode_one(encoder: QueryEncoder, query: Query, modality: str | None) -> Float32:
    try:
        return _encode(encoder, [query], modality)
    except QueryError as error:
        named = f", {query.image}" if isinstance(query.image, str) else ""
        raise LabelledQueriesError(f"query '{query.id}'{named} cannot be encoded: {error}") from error


def _content(query: Query) -> bytes:
    if isinstance(query.image, bytes):
        return query.image
    assert query.image is not None
    try:
        return storage.read_bytes(query.image)
    except (FileNotFoundError, storage.StorageError) as error:
        raise LabelledQueriesError(f"the picture of query '{query.id}' cannot be read: {error}") from error


def _exact(version: Version, queries: QuerySet, vectors: Float32) -> measures.Items:
    metric = version.manifest.metric if queries.modality is None else "angular"
    column = VECTOR if queries.modality is None else f"{queries.modality}_vector"
    parts = []
    for start in range(0, len(vectors), SEARCHED):
        part = vectors[start : start + SEARCHED]
        asked = Queries(queries.name, part, np.full(len(part), -1))
        parts.append(exact_neighbours(version.files, asked, metric, DEPTH, column=column))
    return np.concatenate(parts)


def _through_annoy(version: Version, vector: Float32) -> measures.Items:
    first, _ = search_shards(version.shards, vector, 10, version.manifest.search_k)
    more, _ = search_shards(version.shards, vector, DEPTH, version.manifest.search_k)
    ranked = np.full(DEPTH, -1, np.int64)
    joined = np.concatenate([first, more[~np.isin(more, first)]])[:DEPTH]
    ranked[: len(joined)] = joined
    return ranked


def rows(evaluations: Sequence[Evaluation], seed: int) -> list[dict[str, Any]]:
    """Tell evaluations as JSON values: an object for each set and kind of search."""
    return [
        {"set": evaluation.queries.name, "search": search, "queries": len(evaluation.queries.queries),
         **{name: {"value": figure.value, "low": figure.low, "high": figure.high} for name, figure in found.items()}}
        for evaluation in evaluations for search, found in evaluation.figures(seed).items()
    ]  # fmt: skip
