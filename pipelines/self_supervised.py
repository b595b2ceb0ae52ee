"""Queries made of the catalogue itself, for shops that have no labelled ones.

    titles     the title of a product; right are the pictures of products of that title: the products' texts are not looked at
    phrases    kind, colour and audience of a product as shoppers say them; right are all products that have them
    photos     a product's first picture as a photo (`robustness`); right are the products with the same pictures

They are made of the products of a version that follow the seed's place in the one order: a random sample, the same for the
same version and nearly the same for the next one. A pass through the columns finds what is right; queries for which more than
10,000 products are right ask for nothing in particular and are left out.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalogue_lookup import QueryError
from encoders.bundle import Bundle
from pipelines import ranges, storage
from pipelines.catalogue import CatalogueError
from pipelines.evaluation import FUSED, Change, Mask, QuerySet, Version
from pipelines.labelled_queries import Query
from pipelines.layout import PRODUCT_ID, modality_vector, order_of
from pipelines.measures import Judgement
from pipelines.recall import all_blocks
from pipelines.robustness import photo, photo_parts
from pipelines.source_pictures import PICTURE_CONTENT, files_with_pictures, pictures_of, source_rows
from transforms.phrases import find_roles, product_attributes
from transforms.shop_words import ShopWords
from transforms.wordings import word_phrase

MOST_RIGHT = 10_000
TITLE = "title"
ASKED_ROLES = ("kind", "colour", "audience")

_log = logging.getLogger(__name__)


class NotPossibleError(ValueError):
    """A version or its run lacks what queries of a kind are made of; the message says what."""


@dataclass(frozen=True)
class Asking:
    """What queries are made with.

    Attributes:
        sample: products that queries of a kind are made of, at most.
        seed: of everything random.
        catalogue: where the files of the catalogue lie now; empty: where the version's run read them.
        languages: of phrases, at least one of `LANGUAGES`; a set for each.
    """

    sample: int
    seed: int = 0
    catalogue: tuple[str, ...] = ()
    languages: tuple[str, ...] = ("en",)


@dataclass(frozen=True)
class Asked:
    """A set of queries and what is done to them.

    Attributes:
        queries: the set.
        changes: what is done to each, in that order.
        part: whether they are other queries of another set with a part of the changes.
    """

    queries: QuerySet
    changes: tuple[Change, ...] = ()
    part: bool = False


@dataclass(frozen=True)
class Made:
    """Sets of queries, and sentences on what could not be made."""

    sets: tuple[Asked, ...]
    missing: tuple[str, ...]


def make_sets(version: Version, asking: Asking, folder: Path, among: Mask | None = None) -> Made:
    """Make the queries of a version, the same from the same version.

    Args:
        version: the version.
        asking: what they are made with.
        folder: local folder that gets a copy of the pictures, to be there while the queries are asked.
        among: the items that queries are made of and that may be answers, bool[items]; None: all.
    """
    items = sample_items(version, asking.sample, asking.seed, among)
    rows = [version.items.row(item) for item in items]
    missing = []
    sets: list[Asked] = []
    kinds: Mapping[str, Callable[[], Iterable[Asked]]] = {
        "titles": lambda: [Asked(_titles(version, items, rows, among))],
        "phrases": lambda: map(Asked, _phrases(version, rows, asking, among)),
        "photos": lambda: _photos(_pictures(version, rows, asking.catalogue, folder, among), asking.seed),
    }
    for name, make in kinds.items():
        try:
            sets += make()
        except (NotPossibleError, CatalogueError, storage.StorageError) as error:
            missing.append(f"{name} are not asked for: {error}")
    return Made(tuple(sets), tuple(missing))


def sample_items(version: Version, sample: int, seed: int, among: Mask | None = None) -> list[int]:
    """Return the items, among these, that follow the seed's place in the one order, from the last on to the first."""
    total = version.manifest.items
    first = version.items.first_from(order_of(f"sample {seed}"))
    following = ((first + step) % total for step in range(total))
    return list(itertools.islice((item for item in following if among is None or among[item]), sample))


def _tower(bundle: Bundle, modality: str) -> None:
    if modality not in bundle.towers:
        raise NotPossibleError(f"the bundle has no tower for {modality}s")


def _titles(
    version: Version, items: Sequence[int], rows: Sequence[Mapping[str, Any]], among: Mask | None
) -> QuerySet:
    _tower(version.encoder.bundle, "text")
    if "picture" not in version.manifest.modalities:
        raise NotPossibleError("the version has no pictures that a title could find")
    if TITLE not in version.items.schema.names or not pa.types.is_string(version.items.schema.field(TITLE).type):
        raise NotPossibleError(f"the version keeps no column '{TITLE}' (--keep)")
    there = np.zeros(version.manifest.items, np.bool_)
    for first, block in all_blocks(version.files, modality_vector("picture")):
        there[first : first + len(block)] = block.any(axis=1)
    asked: dict[str, str] = {}
    for item, row in zip(items, rows, strict=True):
        if there[item] and row[TITLE]:
            asked.setdefault(row[TITLE], row[PRODUCT_ID])
    places = pa.array(list(asked), pa.string())
    right = _Right(len(asked), among)
    start = 0
    for batch in version.items.batches():
        found = pc.index_in(batch.column(TITLE), value_set=places)
        known = np.flatnonzero(found.is_valid().to_numpy(zero_copy_only=False) & there[start : start + batch.num_rows])
        right.add(found.take(pa.array(known)).to_pylist(), (start + known).tolist())
        start += batch.num_rows
    queries = [Query(product_id, title, None, {}) for title, product_id in asked.items()]
    return right.judge("titles", queries, ("picture",), "no product of the sample has a title and a picture")


def _phrases(
    version: Version, rows: Sequence[Mapping[str, Any]], asking: Asking, among: Mask | None
) -> Iterator[QuerySet]:
    _tower(version.encoder.bundle, "text")
    roles = find_roles(version.items.schema.names)
    if not set(roles) & set(ASKED_ROLES):
        raise NotPossibleError(f"no column of the version says {', '.join(ASKED_ROLES[:-1])} or {ASKED_ROLES[-1]} of products")
    words = ShopWords.load()
    attributes_of = (product_attributes(row, roles, words) for row in rows)
    named = (tuple((role, found[role][0]) for role in ASKED_ROLES if found.get(role)) for found in attributes_of)
    asked = list(dict.fromkeys(chosen for chosen in named if chosen))
    places = {chosen: place for place, chosen in enumerate(asked)}
    taken = list(dict.fromkeys(roles.values()))

    @lru_cache(1 << 16)
    def places_of(values: tuple[Hashable, ...]) -> tuple[int, ...]:
        row = {name: list(value) if isinstance(value, tuple) else value for name, value in zip(taken, values, strict=True)}
        attributes = product_attributes(row, roles, words)
        named = [[(role, value) for value in attributes[role]] for role in ASKED_ROLES if attributes.get(role)]
        some = itertools.chain.from_iterable(itertools.combinations(named, size) for size in range(1, len(named) + 1))
        found = (places.get(chosen) for parts in some for chosen in itertools.product(*parts))
        return tuple(sorted({place for place in found if place is not None}))

    right = _Right(len(asked), among)
    start = 0
    for batch in version.items.batches():
        columns = [batch.column(name).to_pylist() for name in taken]
        for item, values in enumerate(zip(*columns, strict=True), start):
            for place in places_of(tuple(tuple(value) if isinstance(value, list) else value for value in values)):
                right.add((place,), (item,))
        start += batch.num_rows
    by = (FUSED, *version.manifest.modalities)
    for language in asking.languages:
        queries = [
            Query(", ".join(value for _, value in chosen), _worded(chosen, language, asking.seed, words), None, {})
            for chosen in asked
        ]
        name = "phrases" if language == "en" else f"phrases, {language}"
        yield right.judge(name, queries, by, "no product of the sample has such a value")


def _worded(chosen: tuple[tuple[str, str], ...], language: str, seed: int, words: ShopWords) -> str:
    digest = hashlib.blake2b(repr((seed, chosen)).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return word_phrase(dict(chosen), language, np.random.default_rng(int.from_bytes(digest, "big")), words)


def _photos(pictures: QuerySet, seed: int) -> Iterator[Asked]:
    yield Asked(pictures, (photo(seed),))
    for change in photo_parts(seed):
        yield Asked(replace(pictures, name=f"{pictures.name}, {change.name}"), (change,), part=True)


def _pictures(
    version: Version, rows: Sequence[Mapping[str, Any]], catalogue: Sequence[str], folder: Path, among: Mask | None
) -> QuerySet:
    _tower(version.encoder.bundle, "picture")
    run = version.index.run(version.manifest.id)
    sources = source_rows(run, {row[PRODUCT_ID] for row in rows})
    if not sources:
        raise NotPossibleError("no product of the sample has a picture")
    places: dict[bytes, int] = {}
    queries, unreadable = [], 0
    for product_id, data in pictures_of(run, sources, catalogue):
        content = sources[product_id].content
        if content not in places:
            if not _can_be_asked(version, data):
                unreadable += 1
                continue
            places[content] = len(places)
            copy = folder / f"{len(places)}"
            copy.write_bytes(data)
            queries.append(Query(product_id, None, str(copy), {}))
    if unreadable:
        _log.warning("evaluate: the first picture of %s products cannot be decoded: they are not asked by it", f"{unreadable:,}")
    right = _Right(len(queries), among)
    for path in files_with_pictures(run):
        if places:
            table = ranges.read_table(path, [PRODUCT_ID, PICTURE_CONTENT])
            table = table.filter(pc.is_in(table[PICTURE_CONTENT], pa.array(list(places), table[PICTURE_CONTENT].type)))
            for row in table.to_pylist():
                item = version.items.find(row[PRODUCT_ID])
                if item is not None:
                    right.add((places[row[PICTURE_CONTENT]],), (item,))
    by = (FUSED, *(name for name in version.manifest.modalities if name == "picture"))
    return right.judge("photos", queries, by, "no picture of the sample is as it was: give --catalogue where it lies now")


def _can_be_asked(version: Version, picture: bytes) -> bool:
    try:
        version.encoder.decode([picture])
    except QueryError:
        return False
    return True


class _Right:
    """The items, among these, that are right for each of a number of queries, up to 10,001 of each."""

    def __init__(self, queries: int, among: Mask | None) -> None:
        self._items: list[list[int]] = [[] for _ in range(queries)]
        self._among = among

    def add(self, queries: Iterable[int], items: Iterable[int]) -> None:
        """Call items right, each for the query beside it."""
        for query, item in zip(queries, items, strict=True):
            if len(self._items[query]) <= MOST_RIGHT and (self._among is None or self._among[item]):
                self._items[query].append(item)

    def judge(self, name: str, queries: Sequence[Query], by: tuple[str, ...], nothing: str) -> QuerySet:
        """Make a set of the queries for which some products, and not too many, are right."""
        kept = [place for place, items in enumerate(self._items) if 0 < len(items) <= MOST_RIGHT]
        if not kept:
            raise NotPossibleError(nothing)
        right = [np.array(self._items[place], np.int64) for place in kept]
        judgements = tuple(Judgement(items, np.ones_like(items)) for items in right)
        return QuerySet(name, tuple(queries[place] for place in kept), judgements, by, among=self._among)


