"""Shops with titles and photos, encoded by tiny towers: indexes whose every vector is known to tests of what searches them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from conftest import DIMENSION, SHARED, jpeg
from version_maker import Products, draw_products, make_version

from catalogue_lookup.query import QueryEncoder
from encoders.bundle import write_bundle
from encoders.fusion import Fusion, FusionKind
from encoders.gate import Gate
from encoders.heads import random_head
from encoders.ranking import ARRAYS, Ranker
from pipelines import layout
from pipelines.publish import publish_version

COUNT = 60
OWN = {"picture": 0.6, "text": 0.4}
DRAWN = [np.random.default_rng(3).standard_normal(shape, np.float32) for shape in ((2 * SHARED + 2, 5), (5,), (5, 2), (2,))]
GATE = Gate(("picture", "text"), *DRAWN)


def drawn_ranker(dimension: int, kinds: tuple[str, ...] = (), seed: int = 0, units: int = 5) -> Ranker:
    """Draw a ranker whose corrections are as large as cosines."""
    rng, many = np.random.default_rng(seed), len(OWN)
    shapes = {
        "query": (dimension, 4), "query_embedding": (many, 4), "key": (dimension, 4), "key_embedding": (many, 4),
        "value": (dimension, 4), "value_embedding": (many, 4), "hidden": (4 + 2 * many, units), "hidden_bias": (units,),
        "output": (units,),
    }  # fmt: skip
    drawn = {name: (0.7 * rng.standard_normal(shapes[name])).astype(np.float32) for name in ARRAYS}
    return Ranker(tuple(OWN), kinds, **drawn)


def unit(array: np.ndarray) -> np.ndarray:
    return array / np.maximum(np.linalg.norm(array, axis=-1, keepdims=True), 1e-30)


def photo(number: int) -> bytes:
    return jpeg((number * 8 % 256, number * 5 % 256, 255 - number * 8 % 256), number)


@dataclass(frozen=True)
class Shop:
    """An index of products with titles and photos, and the vectors in it."""

    root: Path
    kind: FusionKind
    products: Products
    encoder: QueryEncoder

    def text(self, *texts: str) -> np.ndarray:
        """Return the mean of texts."""
        return unit(unit(self.encoder.encode("text", list(texts)).astype(np.float64)).mean(axis=0))

    def image(self, *numbers: int) -> np.ndarray:
        """Return the mean of photos."""
        pictures = self.encoder.decode([photo(number) for number in numbers])
        return unit(unit(self.encoder.encode("picture", pictures).astype(np.float64)).mean(axis=0))

    def words(self, **of: np.ndarray) -> np.ndarray:
        """Return the query of one vector a modality in the space of the index."""
        if self.kind == "max":
            pooled = np.max(list(of.values()), axis=0)
        elif self.kind == "attention":
            shares = GATE.weigh({name: (vector[None], np.ones(1, bool)) for name, vector in of.items()}, 1)[0]
            pooled = sum(shares[GATE.modalities.index(name)] * vector for name, vector in of.items())
        else:
            weights = OWN if self.kind != "mean" else dict.fromkeys(OWN, 1.0)
            pooled = sum(weights[name] * vector for name, vector in of.items())
        pooled = unit(pooled)
        return np.hstack([np.sqrt(OWN[name]) * pooled for name in OWN]) if self.kind == "concatenation" else pooled

    def like(self, *ids: str) -> np.ndarray:
        """Return the mean of products."""
        rows = [self.products.ids.index(product_id) for product_id in ids]
        return unit(self.products.fused[rows].astype(np.float64).mean(axis=0))

    def order(self, query: np.ndarray, *left_out: str) -> list[str]:
        """Return the ids from the closest on."""
        scores = unit(self.products.fused.astype(np.float64)) @ query
        return [self.products.ids[row] for row in np.argsort(-scores) if self.products.ids[row] not in left_out]

    def reweighted(self, weights: dict[str, float], query: dict[str, np.ndarray]) -> list[str]:
        """Return the ids by the weighted sum of their modalities' similarities with a query's vector of each."""
        scores, total = np.zeros(len(self.products.ids)), np.zeros(len(self.products.ids))
        for name, weight in weights.items():
            there = self.products.present[name]
            scores += weight * there * (unit(self.products.modalities[name].astype(np.float64)) @ query[name])
            total += weight * there
        rows = np.flatnonzero(total > 0)
        ranked = rows[np.argsort(-scores[rows] / np.sqrt(total[rows]), kind="stable")]
        return [self.products.ids[row] for row in ranked]


def make_shop(
    root: Path, kind: FusionKind, towers: dict[str, Path], ranker: Ranker | None = None,
    query_weights: Mapping[str, Mapping[str, float]] | None = None,
) -> Shop:  # fmt: skip
    """Make an index fused by a kind of fusion, its answers ranked by a ranker, or by weights of queries, where they are given."""
    fusion = Fusion(kind, OWN, gate=GATE if kind == "attention" else None, query_weights=query_weights or {})
    heads = {modality: random_head(DIMENSION, SHARED, seed) for seed, modality in enumerate(towers)}
    made = write_bundle(root / "made", towers, heads, fusion, {}, {}, ranker=ranker)
    (root / "bundles").mkdir()
    bundle = replace(made, folder=made.folder.rename(root / "bundles" / made.hash))
    encoder = QueryEncoder(bundle)
    drawn = draw_products(COUNT)
    pictures = encoder.decode([photo(int(name[1:])) for name in drawn.ids])
    modalities = {
        "picture": encoder.encode("picture", pictures),
        "text": encoder.encode("text", [f"{row['title']} {row['colour']}" for row in drawn.rows]),
    }
    present = {"picture": drawn.present["picture"], "text": np.arange(COUNT) % 5 != 3}
    present["picture"] |= ~present["text"]
    products = Products(drawn.rows, fusion.fuse(modalities, present), modalities, present)
    make_version(root, "v1", products, bundle=bundle, max_items_per_shard=25)
    publish_version(layout.Index(str(root)), "v1", None)
    return Shop(root, kind, products, encoder)
