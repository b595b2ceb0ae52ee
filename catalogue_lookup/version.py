"""One version, opened: its answers, and its files until they are let go."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from catalogue_lookup import manifest as layout
from catalogue_lookup.attention import query_vectors, rank_by_attention
from catalogue_lookup.composition import Asked, Inputs, Query, Side, compose, kind_of
from catalogue_lookup.items import Items
from catalogue_lookup.manifest import Manifest
from catalogue_lookup.modality_vectors import ModalityVectors
from catalogue_lookup.query import QueryEncoder, QueryError
from catalogue_lookup.scope import OnSale, Scope
from catalogue_lookup.shard import BLOCK_ROWS, AnnoyShard, exact_scores, merge
from catalogue_lookup.withdrawn import Withdrawn
from encoders.fusion import STRUCTURED, Fusion, FusionError
from encoders.ranking import Ranker, candidates_for

Float32 = npt.NDArray[np.float32]
Found = tuple[npt.NDArray[np.int64], Float32]

# Candidates an answer that are ranked anew by other weights than the index was fused with: docs/lookup.md has what it reaches.
CANDIDATES = 10


class UnknownProductError(KeyError):
    """No product of the index has that id."""

    def __str__(self) -> str:
        return str(self.args[0])


class WithdrawnProductError(UnknownProductError):
    """The product of that id is withdrawn."""


@dataclass(frozen=True)
class Hit:
    """One answer.

    Attributes:
        rank: from 1.
        product_id: the product.
        score: angular: cosine, 1 at best; dot: dot product, the higher the closer; euclidean, manhattan: distance, 0 at best;
            of all of them where attention ranks: cosine and its correction, the higher the closer.
        columns: columns to show.
    """

    rank: int
    product_id: str
    score: float
    columns: dict[str, Any]


class OpenVersion:
    """An opened version. Several threads may search at once; none may after `close`.

    Attributes:
        manifest: of the version.
        users: queries in flight, and the index while it is the version served; counted by `Index`.
        superseded: another version has taken its place: `close` also deletes its copy, where it has one.
    """

    def __init__(
        self,
        manifest: Manifest,
        shards: Sequence[AnnoyShard],
        items: Items,
        modality_vectors: ModalityVectors,
        open_encoder: Callable[[], QueryEncoder],
        copy: Path | None = None,
    ) -> None:
        """Hold opened files; `copy` is their folder where they are copies of those of an object store."""
        self.manifest = manifest
        self.users = 1
        self.superseded = False
        self._shards = list(shards)
        self._items = items
        self._modality_vectors = modality_vectors
        self._open_encoder = open_encoder
        self._encoder: QueryEncoder | None = None
        self._opening_encoder = Lock()
        self._copy = copy
        self._on_sale = OnSale({}, None, len(self))

    @property
    def shards(self) -> tuple[AnnoyShard, ...]:
        """Give the Annoy files."""
        return tuple(self._shards)

    @property
    def items(self) -> Items:
        """Give ids and columns."""
        return self._items

    def __len__(self) -> int:
        return sum(shard.items for shard in self._shards)

    def __contains__(self, product_id: str) -> bool:
        return self.item_of(product_id) is not None

    def item_of(self, product_id: str) -> int | None:
        """Return the item of a product, None where there is none of that id."""
        return self._items.find(product_id)

    def vector_of(self, product_id: str) -> Float32:
        """Return the fused vector of a product: float32[D]; raises UnknownProductError where there is none."""
        return self._vectors(np.array([self._item(product_id, {})]))[0]

    def close(self) -> None:
        """Let go of the files."""
        for shard in self._shards:
            shard.close()
        self._modality_vectors.close()
        self._items.close()
        if self.superseded and self._copy is not None:
            # Else every night would leave a whole index in the cache. Processes that have it open keep their maps.
            shutil.rmtree(self._copy, ignore_errors=True)

    def withdraw(self, withdrawn: Withdrawn) -> None:
        """Leave these products, and no others, out of all answers to queries from now on."""
        self._on_sale = OnSale.without(withdrawn, self._items, self._shards, self.manifest.items)

    def encoder(self) -> QueryEncoder:
        """Return what encodes texts and pictures; its bundle is opened by the first call."""
        with self._opening_encoder:
            if self._encoder is None:
                self._encoder = self._open_encoder()
            return self._encoder

    def take_over(self, other: OpenVersion) -> None:
        """Get ready to answer every kind of query that another version answers, its towers loaded where they are there.

        Raises:
            BundleError: the bundle cannot be opened, and that of the other version can.
        """
        if other.manifest.bundle == self.manifest.bundle:
            self._encoder = other._encoder
            return
        try:
            encoder = self.encoder()
            encoder.load(other._encoder.loaded if other._encoder is not None else ())
        except Exception:
            try:
                other.encoder()
            except (ValueError, OSError):
                return
            raise

    def search(self, query: Query, k: int, where: str | None, search_k: int | None) -> list[Hit]:
        """Answer `Index.search`, which describes the arguments."""
        on_sale = self._on_sale
        scope = self._scope(on_sale, where, search_k)  # a filter that cannot be read is said before a tower is loaded
        wanted, unwanted = (self._encoded(side, on_sale.withdrawn) for side in (query.wanted, query.unwanted))
        own = {*wanted.items.tolist(), *unwanted.items.tolist()}
        asked = Asked(wanted, unwanted, query.vector, query.weights, query.ranking, query.kind)
        items, scores = self._found(asked, k + len(own), scope)
        hits = [(item, score) for item, score in zip(items.tolist(), scores.tolist(), strict=True) if item not in own][:k]
        rows = [self._items.row(item) for item, _ in hits]
        return [
            Hit(rank, row.pop(layout.PRODUCT_ID), score, row)
            for rank, (row, (_, score)) in enumerate(zip(rows, hits, strict=True), 1)
        ]

    def items_for(self, words: Mapping[str, Float32], k: int) -> npt.NDArray[np.int64]:
        """Return the items that `search` answers with to a query of encoded words, float32[d] a modality, the closest first.

        Withdrawn products count as any other.
        """
        side = Side(words, np.zeros(0, np.int64))
        return self._found(Asked(side, kind=kind_of(words)), k, self._scope(OnSale({}, None, len(self))))[0]

    def _scope(self, on_sale: OnSale, where: str | None = None, search_k: int | None = None) -> Scope:
        fits = None if where is None else self._items.matching(where)
        return Scope(self._shards, on_sale, fits, search_k or self.manifest.search_k)

    def _found(self, asked: Asked, count: int, scope: Scope) -> Found:
        """Return the closest items to a query, and their scores."""
        if asked.vector is not None:
            return scope.nearest(self._checked(asked.vector), count)
        if asked.weights is not None:
            return self._found_by_weights(asked, asked.weights, count, scope)
        # Only the bundle has what attention weighs words by; products need no bundle.
        words = asked.wanted.words or asked.unwanted.words
        fusion = self.encoder().bundle.fusion if words else self._modality_vectors.fusion
        vector = compose(*(side.vector(fusion, self._vectors(side.items)) for side in (asked.wanted, asked.unwanted)))
        if ranker := self._ranker_of(asked):
            items, _ = scope.nearest(vector, candidates_for(count))
            own = query_vectors(asked.wanted, self._modality_vectors)
            return rank_by_attention(ranker, own, vector, items, self._vectors(items), self._modality_vectors, count)
        if ranking := self._modality_vectors.fusion.for_query(asked.kind):
            items, _ = scope.nearest(vector, CANDIDATES * count)
            again = asked.wanted.vector(ranking, self._vectors(asked.wanted.items))
            assert again is not None
            return self._ranked(again, ranking, items, count)
        return scope.nearest(vector, count)

    def _found_by_weights(self, asked: Asked, weights: Mapping[str, float], count: int, scope: Scope) -> Found:
        fusion = self._fusion_of(weights)
        vector = compose(*(self._weighted(side, fusion) for side in (asked.wanted, asked.unwanted)))
        carried = self._modality_vectors.fusion.carry(vector[None], fusion)[0]
        items, _ = scope.nearest(carried, CANDIDATES * count)
        return self._ranked(vector, fusion, items, count)

    def _encoded(self, inputs: Inputs, withdrawn: Withdrawn) -> Side:
        """Encode what is asked by, and find its products, all of which have to be on sale and in the shards."""
        words = self.encoder().vectors(inputs.texts, inputs.images) if inputs.texts or inputs.images else {}
        return Side(words, np.array([self._item(product_id, withdrawn) for product_id in inputs.product_ids], np.int64))

    def _item(self, product_id: str, withdrawn: Withdrawn) -> int:
        if product_id in withdrawn:
            raise WithdrawnProductError(f"product {withdrawn[product_id]}")
        item = self._items.find(product_id)
        if item is None:
            raise UnknownProductError(f"no product of the index has the id '{product_id}'")
        if not any(shard.first_item <= item < shard.first_item + shard.items for shard in self._shards):
            raise UnknownProductError(f"product '{product_id}' lies in a shard that this index was opened without")
        return item

    def _vectors(self, items: npt.NDArray[np.int64]) -> Float32:
        vectors = np.zeros((len(items), self.manifest.dimension), np.float32)
        for shard in self._shards:
            inside = (items >= shard.first_item) & (items < shard.first_item + shard.items)
            vectors[inside] = shard.vectors(items[inside])
        return vectors

    def _ranker_of(self, query: Asked) -> Ranker | None:
        """Return what ranks the answers of a query by attention, None where cosine does."""
        if query.ranking == "cosine" or (query.ranking is None and query.kind not in self.manifest.ranking):
            return None
        ranker = self.encoder().bundle.ranker
        if ranker is None:
            raise QueryError(
                f"version {self.manifest.id} has no ranking by attention: its bundle was trained without one, or with one that "
                "found no more than cosine"
            )
        self._modality_vectors.check()
        return ranker

    def _fusion_of(self, weights: Mapping[str, float]) -> Fusion:
        """Return the concatenation with the weights of a query."""
        own = self._modality_vectors.fusion
        known = (*self.manifest.modalities, *((STRUCTURED,) if own.structured_weight else ()))
        unknown = ", ".join(f"'{name}'" for name in weights if name not in known)
        if unknown:
            raise QueryError(f"weights name {unknown}; version {self.manifest.id} has {', '.join(known)}")
        self._modality_vectors.check()
        try:
            return Fusion("concatenation", weights, own.structured_dimension)
        except FusionError as error:
            raise QueryError(f"weights: {error}") from None

    def _weighted(self, side: Side, fusion: Fusion) -> Float32 | None:
        """Return a side's vector of a query with weights of its own."""
        products = self._modality_vectors.fuse(side.items, fusion)
        lacking = np.flatnonzero(~products.any(axis=1))
        if len(lacking):
            product_id = self._items.row(int(side.items[lacking[0]]))[layout.PRODUCT_ID]
            raise QueryError(f"product '{product_id}' has nothing of {', '.join(fusion.modalities)} to be compared by")
        return side.vector(fusion, products)

    def _ranked(self, query: Float32, fusion: Fusion, items: npt.NDArray[np.int64], count: int) -> Found:
        """Return the closest of candidates as another fusion makes their vectors; those without any of it are left out."""
        parts = []
        for start in range(0, len(items), BLOCK_ROWS):
            block = items[start : start + BLOCK_ROWS]
            vectors = self._modality_vectors.fuse(block, fusion)
            there = vectors.any(axis=1)
            parts.append((block[there], exact_scores(self.manifest.metric, query, vectors[there])))
        return merge(self._shards, parts, count)

    def _checked(self, vector: npt.ArrayLike) -> Float32:
        checked = np.asarray(vector, np.float32)
        dimension = self.manifest.dimension
        if checked.shape != (dimension,):
            raise QueryError(f"the vector has shape {checked.shape}; the index takes ({dimension},)")
        if not np.isfinite(checked).all() or (self.manifest.metric in ("angular", "dot") and not checked.any()):
            raise QueryError("the vector is zero or has values that are not finite: nothing is close to it")
        return checked
