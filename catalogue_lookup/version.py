"""One version, opened: its answers, and its files until they are let go."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from catalogue_lookup import manifest as layout
from catalogue_lookup.items import Items
from catalogue_lookup.manifest import Manifest
from catalogue_lookup.query import Picture, QueryEncoder, QueryError
from catalogue_lookup.shard import AnnoyShard, merge, nodes_for, search_shards
from catalogue_lookup.withdrawn import Withdrawn

Float32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Found = tuple[npt.NDArray[np.int64], Float32]


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
        score: angular: cosine, 1 at best; dot: dot product, the higher the closer; euclidean, manhattan: distance, 0 at best.
        columns: columns to show.
    """

    rank: int
    product_id: str
    score: float
    columns: dict[str, Any]


@dataclass(frozen=True)
class _OnSale:
    """What is not withdrawn: a mask of the version's items, None for all of them; how many there are in the shards."""

    withdrawn: Withdrawn
    mask: Mask | None
    items: int


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
        open_encoder: Callable[[], QueryEncoder],
        copy: Path | None = None,
    ) -> None:
        """Hold opened files; `copy` is their folder where they are copies of those of an object store."""
        self.manifest = manifest
        self.users = 1
        self.superseded = False
        self._shards = list(shards)
        self._items = items
        self._open_encoder = open_encoder
        self._encoder: QueryEncoder | None = None
        self._opening_encoder = Lock()
        self._copy = copy
        self._on_sale = _OnSale({}, None, len(self))

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
        return self._items.find(product_id) is not None

    def close(self) -> None:
        """Let go of the files."""
        for shard in self._shards:
            shard.close()
        self._items.close()
        if self.superseded and self._copy is not None:
            # Else every night would leave a whole index in the cache. Processes that have it open keep their maps.
            shutil.rmtree(self._copy, ignore_errors=True)

    def withdraw(self, withdrawn: Withdrawn) -> None:
        """Leave these products, and no others, out of all answers to queries from now on."""
        items = [item for product_id in withdrawn if (item := self._items.find(product_id)) is not None]
        if not items:
            self._on_sale = _OnSale(withdrawn, None, len(self))
            return
        mask = np.ones(self.manifest.items, np.bool_)
        mask[items] = False
        self._on_sale = _OnSale(withdrawn, mask, self._count(mask))

    def _count(self, mask: Mask) -> int:
        return sum(int(mask[shard.first_item : shard.first_item + shard.items].sum()) for shard in self._shards)

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

    def search(
        self,
        text: str | None,
        image: Picture | None,
        product_id: str | None,
        vector: npt.ArrayLike | None,
        k: int,
        where: str | None,
        search_k: int | None,
    ) -> list[Hit]:
        """Answer `Index.search`, which describes the arguments."""
        on_sale = self._on_sale
        query, own = self._query(text, image, product_id, vector, on_sale.withdrawn)
        nodes = search_k or self.manifest.search_k
        wanted = k + (own is not None)
        if where is not None:
            fits = self._items.matching(where)
            fits = fits if on_sale.mask is None else fits & on_sale.mask
            items, scores = self._nearest_matching(query, fits, wanted, nodes)
        elif on_sale.mask is not None:
            items, scores = self._nearest_on_sale(query, on_sale.mask, on_sale.items, wanted, nodes)
        else:
            items, scores = search_shards(self._shards, query, wanted, nodes)
        hits = [(item, score) for item, score in zip(items.tolist(), scores.tolist(), strict=True) if item != own][:k]
        rows = [self._items.row(item) for item, _ in hits]
        return [
            Hit(rank, row.pop(layout.PRODUCT_ID), score, row)
            for rank, (row, (_, score)) in enumerate(zip(rows, hits, strict=True), 1)
        ]

    def _query(
        self, text: str | None, image: Picture | None, product_id: str | None, vector: npt.ArrayLike | None, withdrawn: Withdrawn
    ) -> tuple[Float32, int | None]:
        """Return the query's vector, float32[D], and the item it is of, if any."""
        words = text if image is None else image
        kinds = {"text or image": words, "product_id": product_id, "vector": vector}
        given = [name for name, value in kinds.items() if value is not None]
        if len(given) > 1:
            raise QueryError(f"{' and '.join(given)} are given: give one of them")
        if product_id is not None:
            if product_id in withdrawn:
                raise WithdrawnProductError(f"product {withdrawn[product_id]}")
            item = self._items.find(product_id)
            if item is None:
                raise UnknownProductError(f"no product of the index has the id '{product_id}'")
            for shard in self._shards:
                if shard.first_item <= item < shard.first_item + shard.items:
                    return shard.vectors(np.array([item]))[0], item
            raise UnknownProductError(f"product '{product_id}' lies in a shard that this index was opened without")
        if vector is not None:
            return self._checked(vector), None
        return self.encoder().encode(text, image), None

    def _checked(self, vector: npt.ArrayLike) -> Float32:
        checked = np.asarray(vector, np.float32)
        dimension = self.manifest.dimension
        if checked.shape != (dimension,):
            raise QueryError(f"the vector has shape {checked.shape}; the index takes ({dimension},)")
        if not np.isfinite(checked).all() or (self.manifest.metric in ("angular", "dot") and not checked.any()):
            raise QueryError("the vector is zero or has values that are not finite: nothing is close to it")
        return checked

    def _nearest_on_sale(self, query: Float32, mask: Mask, on_sale: int, count: int, search_k: int) -> Found:
        """Return the closest of the items on sale.

        Few queries meet a withdrawn product, so twice as many candidates of the same nodes are enough for nearly all;
        four times as many nodes are looked at while too few are on sale, in the end all items.
        """
        nodes = nodes_for(count, search_k)
        candidates = count + min(count, len(self) - on_sale)
        while True:
            items, scores = merge(self._shards, [shard.nearest(query, candidates, nodes) for shard in self._shards], candidates)
            kept = mask[items]
            if kept.sum() >= min(count, on_sale):
                return items[kept][:count], scores[kept][:count]
            candidates, nodes = 4 * candidates, 4 * nodes

    def _nearest_matching(self, query: Float32, fits: Mask, count: int, search_k: int) -> Found:
        """Return the closest of the items that fit.

        With m of n fitting, the closest are expected among the first count n / m candidates; twice as many are asked
        for, and more while too few of them fit. As soon as that looks at more nodes than items fit, those are scored.
        """
        total = self._count(fits)
        candidates = 2 * count * len(self) // max(total, 1)
        while nodes_for(candidates, search_k) * len(self._shards) < total:
            items, scores = search_shards(self._shards, query, candidates, search_k)
            kept = fits[items]
            if kept.sum() >= count:
                return items[kept][:count], scores[kept][:count]
            candidates *= 4
        exact = []
        for shard in self._shards:
            items = shard.first_item + np.flatnonzero(fits[shard.first_item : shard.first_item + shard.items])
            exact.append((items, shard.score(query, items)))
        return merge(self._shards, exact, count)
