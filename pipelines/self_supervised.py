"""Queries made of the catalogue itself, for shops that have no labelled ones.

    titles     the title of a product; right are the pictures of products of that title: the products' texts are not looked at
    phrases    kind, colour and audience of a product as shoppers say them; right are all products that have them
    pictures   a view of a product's first picture; right are the products with the same pictures

They are made of the products of a version that follow the seed's place in the one order: a random sample, the same for the
same version and nearly the same for the next one. A pass through the columns finds what is right; queries for which more than
10,000 products are right ask for nothing in particular and are left out.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from encoders.bundle import Bundle
from pipelines import ranges, storage
from pipelines.catalogue import CatalogueError
from pipelines.evaluation import FUSED, Change, QuerySet, Version
from pipelines.labelled_queries import Query
from pipelines.layout import CONTENT, ORDER, PRODUCT_ID, modality_vector, order_of
from pipelines.measures import Judgement
from pipelines.recall import all_blocks
from pipelines.robustness import augmented
from pipelines.source_pictures import SourceRow, pictures_of
from transforms.phrases import find_roles, product_attributes
from transforms.shop_words import ShopWords
from transforms.wordings import word_phrase

MOST_RIGHT = 10_000
TITLE, PICTURE_CONTENT = "title", f"picture_{CONTENT}"
ASKED_ROLES = ("kind", "colour", "audience")


class NotPossibleError(ValueError):
    """A version or its run lacks what queries of a kind are made of; the message says what."""


@dataclass(frozen=True)
class Made:
    """Sets of queries, each with what is done to its queries, and sentences on what could not be made."""

    sets: tuple[tuple[QuerySet, tuple[Change, ...]], ...]
    missing: tuple[str, ...]


def make_sets(version: Version, sample: int, seed: int, catalogue: Sequence[str], folder: Path) -> Made:
    """Make the queries of a version, the same from the same version.

    Args:
        version: the version.
        sample: products that queries of a kind are made of, at most.
        seed: of everything random.
        catalogue: where the files of the catalogue lie now; empty: where the version's run read them.
        folder: local folder that gets a copy of the pictures, to be there while the queries are asked.
    """
    items = sample_items(version, sample, seed)
    rows = [version.items.row(item) for item in items]
    missing = []
    sets: list[tuple[QuerySet, tuple[Change, ...]]] = []
    kinds: Mapping[str, Callable[[], tuple[QuerySet, tuple[Change, ...]]]] = {
        "titles": lambda: (_titles(version, items, rows), ()),
        "phrases": lambda: (_phrases(version, rows, seed), ()),
        "pictures": lambda: (_pictures(version, rows, catalogue, folder), (augmented(seed),)),
    }
    for name, make in kinds.items():
        try:
            sets.append(make())
        except (NotPossibleError, CatalogueError, storage.StorageError) as error:
            missing.append(f"{name} are not asked for: {error}")
    return Made(tuple(sets), tuple(missing))


def sample_items(version: Version, sample: int, seed: int) -> list[int]:
    """Return the items that follow the seed's place in the one order, from the last on to the first."""
    total = version.manifest.items
    first = version.items.first_from(order_of(f"sample {seed}"))
    return [(first + step) % total for step in range(min(sample, total))]


def _tower(bundle: Bundle, modality: str) -> None:
    if modality not in bundle.towers:
        raise NotPossibleError(f"the bundle has no tower for {modality}s")


def _titles(version: Version, items: Sequence[int], rows: Sequence[Mapping[str, Any]]) -> QuerySet:
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
    right = _Right(len(asked))
    start = 0
    for batch in version.items.batches():
        found = pc.index_in(batch.column(TITLE), value_set=places)
        known = np.flatnonzero(found.is_valid().to_numpy(zero_copy_only=False) & there[start : start + batch.num_rows])
        right.add(found.take(pa.array(known)).to_pylist(), (start + known).tolist())
        start += batch.num_rows
    queries = [Query(product_id, title, None, {}) for title, product_id in asked.items()]
    return right.judge("titles", queries, ("picture",), "no product of the sample has a title and a picture")


def _phrases(version: Version, rows: Sequence[Mapping[str, Any]], seed: int) -> QuerySet:
    _tower(version.encoder.bundle, "text")
    roles = find_roles(version.items.schema.names)
    if not set(roles) & set(ASKED_ROLES):
        raise NotPossibleError(f"no column of the version says {', '.join(ASKED_ROLES[:-1])} or {ASKED_ROLES[-1]} of products")
    words = ShopWords.load()
    asked: dict[tuple[tuple[str, str], ...], Query] = {}
    for row in rows:
        attributes = product_attributes(row, roles, words)
        chosen = tuple((role, attributes[role][0]) for role in ASKED_ROLES if attributes.get(role))
        if chosen and chosen not in asked:
            digest = hashlib.blake2b(repr((seed, chosen)).encode("utf-8", "surrogatepass"), digest_size=8).digest()
            phrase = word_phrase(dict(chosen), "en", np.random.default_rng(int.from_bytes(digest, "big")), words)
            asked[chosen] = Query(", ".join(value for _, value in chosen), phrase, None, {})
    places = {chosen: place for place, chosen in enumerate(asked)}
    taken = list(dict.fromkeys(roles.values()))

    @lru_cache(1 << 16)
    def asking(values: tuple[Hashable, ...]) -> tuple[int, ...]:
        row = {name: list(value) if isinstance(value, tuple) else value for name, value in zip(taken, values, strict=True)}
        attributes = product_attributes(row, roles, words)
        named = [[(role, value) for value in attributes[role]] for role in ASKED_ROLES if attributes.get(role)]
        some = itertools.chain.from_iterable(itertools.combinations(named, size) for size in range(1, len(named) + 1))
        found = (places.get(chosen) for parts in some for chosen in itertools.product(*parts))
        return tuple(sorted({place for place in found if place is not None}))

    right = _Right(len(asked))
    start = 0
    for batch in version.items.batches():
        columns = [batch.column(name).to_pylist() for name in taken]
        for item, values in enumerate(zip(*columns, strict=True), start):
            for place in asking(tuple(tuple(value) if isinstance(value, list) else value for value in values)):
                right.add((place,), (item,))
        start += batch.num_rows
    by = (FUSED, *version.manifest.modalities)
    return right.judge("phrases", list(asked.values()), by, "no product of the sample has such a value")


def _pictures(version: Version, rows: Sequence[Mapping[str, Any]], catalogue: Sequence[str], folder: Path) -> QuerySet:
    _tower(version.encoder.bundle, "picture")
    run = version.index.run(version.manifest.id)
    if not storage.exists(run.plan):
        raise NotPossibleError(f"{run.folder}, which says where pictures were read, is gone")
    files = [info.path for info in storage.list_folder(run.file("products"), "*.parquet")]
    named = {row[PRODUCT_ID] for row in rows}
    orders = {order_of(product_id) for product_id in named}
    sources = {}
    for path in files:
        names = [PRODUCT_ID, "shard", "row", PICTURE_CONTENT]
        if PICTURE_CONTENT in _columns(path):
            for row in ranges.read_matching(path, ORDER, orders, names).to_pylist():
                if row[PRODUCT_ID] in named and row[PICTURE_CONTENT] is not None:
                    sources[row[PRODUCT_ID]] = SourceRow(row["shard"], row["row"], row[PICTURE_CONTENT])
    if not sources:
        raise NotPossibleError("no product of the sample has a picture")
    places: dict[bytes, int] = {}
    queries = []
    for product_id, data in pictures_of(run, sources, catalogue):
        content = sources[product_id].content
        if content not in places:
            places[content] = len(places)
            copy = folder / f"{len(places)}"
            copy.write_bytes(data)
            queries.append(Query(product_id, None, str(copy), {}))
    right = _Right(len(queries))
    for path in files:
        if places and PICTURE_CONTENT in _columns(path):
            table = ranges.read_table(path, [PRODUCT_ID, PICTURE_CONTENT])
            table = table.filter(pc.is_in(table[PICTURE_CONTENT], pa.array(list(places), table[PICTURE_CONTENT].type)))
            for row in table.to_pylist():
                item = version.items.find(row[PRODUCT_ID])
                if item is not None:
                    right.add((places[row[PICTURE_CONTENT]],), (item,))
    by = (FUSED, *(name for name in version.manifest.modalities if name == "picture"))
    return right.judge("pictures", queries, by, "no picture of the sample is as it was: give --catalogue where it lies now")


def _columns(path: str) -> list[str]:
    with storage.open_input(path) as source, pq.ParquetFile(source) as file:
        return list(file.schema_arrow.names)


class _Right:
    """The items that are right for each of a number of queries, up to 10,001 of each."""

    def __init__(self, queries: int) -> None:
        self._items: list[list[int]] = [[] for _ in range(queries)]

    def add(self, queries: Iterable[int], items: Iterable[int]) -> None:
        """Call items right, each for the query beside it."""
        for query, item in zip(queries, items, strict=True):
            if len(self._items[query]) <= MOST_RIGHT:
                self._items[query].append(item)

    def judge(self, name: str, queries: Sequence[Query], by: tuple[str, ...], nothing: str) -> QuerySet:
        """Make a set of the queries for which some products, and not too many, are right."""
        kept = [place for place, items in enumerate(self._items) if 0 < len(items) <= MOST_RIGHT]
        if not kept:
            raise NotPossibleError(nothing)
        right = [np.array(self._items[place], np.int64) for place in kept]
        judgements = tuple(Judgement(items, np.ones_like(items)) for items in right)
        return QuerySet(name, tuple(queries[place] for place in kept), judgements, by)


