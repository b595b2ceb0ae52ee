"""What a search looks at: the items on sale that fit a filter, and the closest of them to a query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from catalogue_lookup.items import Items
from catalogue_lookup.shard import AnnoyShard, merge, nodes_for, search_shards
from catalogue_lookup.withdrawn import Withdrawn

Float32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Found = tuple[npt.NDArray[np.int64], Float32]


@dataclass(frozen=True)
class OnSale:
    """What is not withdrawn: a mask of the version's items, None for all of them; how many there are in the shards."""

    withdrawn: Withdrawn
    mask: Mask | None
    items: int

    @staticmethod
    def without(withdrawn: Withdrawn, items: Items, shards: Sequence[AnnoyShard], total: int) -> OnSale:
        """Leave products out of a version of so many items in `total`."""
        gone = [item for product_id in withdrawn if (item := items.find(product_id)) is not None]
        if not gone:
            return OnSale(withdrawn, None, sum(shard.items for shard in shards))
        mask = np.ones(total, np.bool_)
        mask[gone] = False
        return OnSale(withdrawn, mask, _count(shards, mask))


@dataclass(frozen=True)
class Scope:
    """The items on sale, in the shards, that fit a filter, bool[items] or None for all; and the nodes of a file that are seen."""

    shards: Sequence[AnnoyShard]
    on_sale: OnSale
    fits: Mask | None
    search_k: int

    def nearest(self, query: Float32, count: int) -> Found:
        """Return the closest items to a query, float32[D], and their scores, the closest first."""
        mask = self.on_sale.mask
        if self.fits is not None:
            return self._nearest_matching(query, self.fits if mask is None else self.fits & mask, count)
        if mask is not None:
            return self._nearest_on_sale(query, mask, count)
        return search_shards(self.shards, query, count, self.search_k)

    def _nearest_on_sale(self, query: Float32, mask: Mask, count: int) -> Found:
        """Return the closest of the items on sale.

        Few queries meet a withdrawn product, so twice as many candidates of the same nodes are enough for nearly all;
        four times as many nodes are looked at while too few are on sale, in the end all items.
        """
        nodes, on_sale = nodes_for(count, self.search_k), self.on_sale.items
        candidates = count + min(count, sum(shard.items for shard in self.shards) - on_sale)
        while True:
            items, scores = merge(self.shards, [shard.nearest(query, candidates, nodes) for shard in self.shards], candidates)
            kept = mask[items]
            if kept.sum() >= min(count, on_sale):
                return items[kept][:count], scores[kept][:count]
            candidates, nodes = 4 * candidates, 4 * nodes

    def _nearest_matching(self, query: Float32, fits: Mask, count: int) -> Found:
        """Return the closest of the items that fit.

        With m of n fitting, the closest are expected among the first count n / m candidates; twice as many are asked
        for, and more while too few of them fit. As soon as that looks at more nodes than items fit, those are scored.
        """
        total = _count(self.shards, fits)
        candidates = 2 * count * sum(shard.items for shard in self.shards) // max(total, 1)
        while nodes_for(candidates, self.search_k) * len(self.shards) < total:
            items, scores = search_shards(self.shards, query, candidates, self.search_k)
            kept = fits[items]
            if kept.sum() >= count:
                return items[kept][:count], scores[kept][:count]
            candidates *= 4
        exact = []
        for shard in self.shards:
            items = shard.first_item + np.flatnonzero(fits[shard.first_item : shard.first_item + shard.items])
            exact.append((items, shard.score(query, items)))
        return merge(self.shards, exact, count)


def _count(shards: Sequence[AnnoyShard], mask: Mask) -> int:
    return sum(int(mask[shard.first_item : shard.first_item + shard.items].sum()) for shard in shards)
