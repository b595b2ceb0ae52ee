"""One Annoy file: its candidates for a query, and exact scores of its items."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from annoy import AnnoyIndex

from catalogue_lookup.manifest import Metric
from encoders.integrity import IntegrityError

Float32 = npt.NDArray[np.float32]
Items = npt.NDArray[np.int64]

BLOCK_ROWS = 4_096
# `search_k` is tuned for this many answers, and grows with the answers asked for.
TUNED_FOR = 10

# Bytes of a node before its vector, in the files of annoy 1.17.
NODE_HEADER = {"angular": 12, "euclidean": 16, "manhattan": 16, "dot": 16}


def higher_is_closer(metric: Metric) -> bool:
    """Tell scores that are similarities (angular: cosine, dot: dot product) from those that are distances."""
    return metric in ("angular", "dot")


def exact_scores(metric: Metric, query: Float32, vectors: Float32) -> Float32:
    """Score vectors, float32[N, D], against a query, float32[D]: float32[N].

    angular: cosine; dot: dot product; euclidean and manhattan: distance. The score of a vector does not depend on the
    others, bit for bit. A zero vector has cosine 0.
    """
    if metric in ("euclidean", "manhattan"):
        difference = vectors - query
        if metric == "manhattan":
            return np.abs(difference).sum(axis=1)
        return np.sqrt(np.einsum("nd,nd->n", difference, difference))
    products: Float32 = np.einsum("nd,d->n", vectors, query)
    if metric == "dot":
        return products
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors) * np.einsum("d,d->", query, query))
    return np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)


def closest(metric: Metric, items: Items, scores: Float32, count: int) -> tuple[Items, Float32]:
    """Return the `count` closest items and their scores, the closest first; of equal ones the first item first."""
    keys = -scores if higher_is_closer(metric) else scores
    if len(items) > 4 * count:
        edge = np.partition(keys, count - 1)[count - 1]
        near = np.flatnonzero(keys <= edge)
        items, scores, keys = items[near], scores[near], keys[near]
    order = np.lexsort((items, keys))[:count]
    return items[order], scores[order]


class AnnoyShard:
    """A loaded Annoy file. Items are numbered through the whole version; several threads may search at once."""

    def __init__(self, path: Path, first_item: int, items: int, metric: Metric, dimension: int) -> None:
        """Load a file that has been verified; Annoy itself takes any file for an index.

        Raises:
            IntegrityError: it has another number of items than told, or is of another dimension or metric.
        """
        self.path, self.first_item, self.items = path, first_item, items
        self.metric: Metric = metric
        self.dimension = dimension
        self._annoy = AnnoyIndex(dimension, metric)
        try:
            self._annoy.load(str(path))
        except OSError as error:
            raise IntegrityError(f"{path} is no Annoy file of dimension {dimension} and metric {metric}: {error}") from None
        if self._annoy.get_n_items() != items:
            raise IntegrityError(f"{path} has {self._annoy.get_n_items():,} items instead of {items:,}: build the index again")
        self._matrix = self._map_vectors()

    def _map_vectors(self) -> Float32 | None:
        """Map the vectors in the file, float32[items, D]; None where they don't lie as annoy 1.17 lays them.

        Annoy hands out one vector at a time, as a list; scoring thousands takes ten times as long.
        """
        header = NODE_HEADER[self.metric]
        node = header + 4 * self.dimension
        with open(self.path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if len(mapped) % node or len(mapped) < node * self.items:
            return None
        matrix: Float32 = np.ndarray((self.items, self.dimension), "<f4", mapped, header, (node, 4))
        for item in {0, self.items // 2, self.items - 1}:
            if not np.array_equal(matrix[item], np.array(self._annoy.get_item_vector(item), np.float32)):
                return None
        return matrix

    def vectors(self, items: Items) -> Float32:
        """Return the vectors of items: float32[N, D]."""
        local = items - self.first_item
        if self._matrix is not None:
            return self._matrix[local]
        rows = [self._annoy.get_item_vector(int(item)) for item in local]
        return np.array(rows, np.float32).reshape(len(rows), self.dimension)

    def score(self, query: Float32, items: Items) -> Float32:
        """Score items exactly against a query, float32[D]: float32[N]."""
        scores = np.empty(len(items), np.float32)
        for start in range(0, len(items), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            scores[block] = exact_scores(self.metric, query, self.vectors(items[block]))
        return scores

    def all_items(self) -> Items:
        """Number all items of the file."""
        return np.arange(self.first_item, self.first_item + self.items)

    def nearest(self, query: Float32, count: int, search_k: int) -> tuple[Items, Float32]:
        """Return up to `count` candidates for a query, float32[D], with their exact scores.

        Where Annoy would look at as many nodes as there are items, all of them are scored.
        """
        if search_k >= self.items:
            items = self.all_items()
        else:
            found = self._annoy.get_nns_by_vector(query.tolist(), min(count, self.items), search_k)
            items = np.array(found, np.int64) + self.first_item
        return closest(self.metric, items, self.score(query, items), count)

    def compared(self, query: Float32, search_k: int) -> int:
        """Count the items that `nearest` has Annoy compare with a query, float32[D]."""
        if search_k >= self.items:
            return self.items
        return len(self._annoy.get_nns_by_vector(query.tolist(), self.items, search_k))

    def close(self) -> None:
        """Let go of the file."""
        self._matrix = None
        self._annoy.unload()


def nodes_for(count: int, search_k: int) -> int:
    """Return the nodes to look at for `count` answers where `search_k` are enough for ten."""
    return search_k * max(1, -(-count // TUNED_FOR))


def search_shards(shards: Sequence[AnnoyShard], query: Float32, count: int, search_k: int) -> tuple[Items, Float32]:
    """Return the `count` closest of the candidates of all shards, merged by their exact scores."""
    nodes = nodes_for(count, search_k)
    return merge(shards, [shard.nearest(query, count, nodes) for shard in shards], count)


def merge(shards: Sequence[AnnoyShard], found: Iterable[tuple[Items, Float32]], count: int) -> tuple[Items, Float32]:
    """Merge items and exact scores found in each of the shards: the `count` closest, the closest first."""
    parts = list(found)
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    items, scores = (np.concatenate(column) for column in zip(*parts, strict=True))
    return closest(shards[0].metric, items, scores, count)
