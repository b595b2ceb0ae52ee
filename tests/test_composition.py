"""Queries of several inputs, against exact computations: means, minus, and weights chosen by the query."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from conftest import DIMENSION, SHARED, jpeg
from version_maker import Products, draw_products, make_version

from catalogue_lookup import Index, open_index
from catalogue_lookup.query import QueryEncoder
from encoders.bundle import Bundle, write_bundle
from encoders.fusion import Fusion, FusionKind
from encoders.heads import random_head
from pipelines import layout
from pipelines.publish import publish_version

KINDS = get_args(FusionKind)
COUNT = 60
ALL = 10**6
OWN = {"picture": 0.6, "text": 0.4}


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
        return unit(unit(self.encoder._vector("text", list(texts)).astype(np.float64)).mean(axis=0))

    def image(self, *numbers: int) -> np.ndarray:
        """Return the mean of photos."""
        pictures = np.concatenate([self.encoder._decode(photo(number)) for number in numbers])
        return unit(unit(self.encoder._vector("picture", pictures).astype(np.float64)).mean(axis=0))

    def words(self, **of: np.ndarray) -> np.ndarray:
        """Return the query of one vector a modality in the space of the index."""
        if self.kind == "max":
            pooled = np.max(list(of.values()), axis=0)
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


@pytest.fixture(scope="module", params=KINDS)
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_towers: dict[str, Path]) -> Shop:
    """Make an index of each kind of fusion; no test changes it."""
    root = tmp_path_factory.mktemp(request.param)
    fusion = Fusion(request.param, OWN)
    heads = {modality: random_head(DIMENSION, SHARED, seed) for seed, modality in enumerate(tiny_towers)}
    made = write_bundle(root / "made", tiny_towers, heads, fusion, {}, {})
    (root / "bundles").mkdir()
    bundle: Bundle = replace(made, folder=made.folder.rename(root / "bundles" / made.hash))
    encoder = QueryEncoder(bundle)
    drawn = draw_products(COUNT)
    pictures = np.concatenate([encoder._decode(photo(int(name[1:]))) for name in drawn.ids])
    modalities = {
        "picture": encoder._vector("picture", pictures),
        "text": encoder._vector("text", [f"{row['title']} {row['colour']}" for row in drawn.rows]),
    }
    present = {"picture": drawn.present["picture"], "text": np.arange(COUNT) % 5 != 3}
    present["picture"] |= ~present["text"]
    products = Products(drawn.rows, fusion.fuse(modalities, present), modalities, present)
    make_version(root, "v1", products, bundle=bundle, max_items_per_shard=25)
    publish_version(layout.Index(str(root)), "v1", None)
    return Shop(root, request.param, products, encoder)


@pytest.fixture
def index(shop: Shop) -> Any:
    with open_index(shop.root) as opened:
        yield opened


def found(index: Index, **query: Any) -> list[str]:
    return [hit.product_id for hit in index.search(**query, search_k=ALL)]


def test_every_fusion_answers_every_kind_of_query(shop: Shop, index: Index) -> None:
    text, image, (one, two) = shop.text("thing 7 red"), shop.image(12), shop.products.ids[3:5]
    expected: dict[str, tuple[np.ndarray, dict[str, Any], tuple[str, ...]]] = {
        "text": (shop.words(text=text), {"text": "thing 7 red"}, ()),
        "picture": (shop.words(picture=image), {"image": photo(12)}, ()),
        "both": (shop.words(picture=image, text=text), {"text": "thing 7 red", "image": photo(12)}, ()),
        "product": (shop.like(one), {"product_id": one}, (one,)),
        "products": (shop.like(one, two), {"product_id": [one, two]}, (one, two)),
        "several": (
            shop.words(picture=shop.image(12, 13), text=shop.text("red", "thing 9")),
            {"text": ["red", "thing 9"], "image": (photo(12), photo(13))}, (),
        ),
        "product and text": (
            unit(unit(shop.words(text=text)) + shop.like(one)), {"text": "thing 7 red", "product_id": one}, (one,),
        ),
    }  # fmt: skip
    for name, (query, asked, left_out) in expected.items():
        assert found(index, **asked) == shop.order(query, *left_out)[:10], name


def test_minus_takes_half_the_similarity_with_what_is_not_wanted(shop: Shop, index: Index) -> None:
    wanted, unwanted = unit(shop.words(text=shop.text("thing 7"))), unit(shop.words(text=shop.text("red", "blue")))
    asked = found(index, text="thing 7", minus={"text": ["red", "blue"]})
    assert asked == shop.order(unit(wanted - 0.5 * unwanted))[:10]
    assert asked != found(index, text="thing 7")
    one, other = shop.products.ids[:2]
    unwanted = unit(unit(shop.words(picture=shop.image(3))) + shop.like(other))
    assert found(index, product_id=one, minus={"image": photo(3), "product_id": other}) == shop.order(
        unit(shop.like(one) - 0.5 * unwanted), one, other
    )[:10]


WEIGHTS = [{"picture": 0.9, "text": 0.1}, {"text": 3.0, "picture": 7.0}, {"text": 1.0}, {"picture": 1.0, "text": 0.0}]


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_weights_of_a_query_rank_as_a_concatenation_with_them(shop: Shop, index: Index, weights: dict[str, float]) -> None:
    text, image = shop.text("thing 7 red"), shop.image(12)
    words = unit(weights.get("text", 0) * text + weights.get("picture", 0) * image)
    pooled = dict.fromkeys(weights, words)
    asked = found(index, text="thing 7 red", image=photo(12), weights=weights, k=COUNT)
    assert asked[:8] == shop.reweighted({n: w for n, w in weights.items() if w}, pooled)[:8]
    row = next(row for row in range(COUNT) if all(there[row] for there in shop.products.present.values()))
    own = {name: unit(vectors[row].astype(np.float64)) for name, vectors in shop.products.modalities.items()}
    like = [name for name in shop.reweighted({n: w for n, w in weights.items() if w}, own) if name != shop.products.ids[row]]
    assert found(index, product_id=shop.products.ids[row], weights=weights)[:8] == like[:8]
