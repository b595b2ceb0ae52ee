"""Queries of several inputs, against exact computations: means, minus, and weights chosen by the query."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from shop_maker import COUNT, Shop, make_shop, photo, unit
from version_maker import FUSION, Products, bundle_in, draw_products, make_version

from catalogue_lookup import Index, QueryError, UnknownProductError, open_index
from catalogue_lookup.composition import compose
from catalogue_lookup.manifest import read_manifest
from catalogue_lookup.modality_vectors import map_modality_file
from encoders.fusion import Fusion, FusionKind
from encoders.integrity import IntegrityError
from pipelines import layout
from pipelines.cli import main
from pipelines.publish import publish_version
from pipelines.withdraw import withdraw

KINDS = get_args(FusionKind)
ALL = 10**6


@pytest.fixture(scope="module", params=KINDS)
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_towers: dict[str, Path]) -> Shop:
    """Make an index of each kind of fusion; no test changes it."""
    return make_shop(tmp_path_factory.mktemp(request.param), request.param, tiny_towers)


@pytest.fixture
def index(shop: Shop) -> Iterator[Index]:
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
            shop.words(picture=shop.image(12, 12, 13), text=shop.text("red", "thing 9")),
            {"text": ["red", "thing 9"], "image": (photo(12), photo(12), photo(13))}, (),
        ),
        "product and text": (
            unit(unit(shop.words(text=text)) + shop.like(one)), {"text": "thing 7 red", "product_id": one}, (one,),
        ),
    }  # fmt: skip
    for name, (query, asked, left_out) in expected.items():
        assert found(index, **asked) == shop.order(query, *left_out)[:10], name


def test_minus_takes_a_share_of_the_similarity_with_what_is_not_wanted(shop: Shop, index: Index) -> None:
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


def test_the_command_takes_several_of_each(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "shoe.jpg").write_bytes(photo(12))
    asked = ["query", "--index", str(shop.root), "--json", "--text", "thing 7", "--text", "red",
             "--image", str(tmp_path / "shoe.jpg"), "--minus-text", "blue", "--minus-product-id", "P00003",
             "--weight", "text=0.3", "--weight", "picture=0.7"]  # fmt: skip
    assert main(asked) == 0
    rows = json.loads(capsys.readouterr().out)
    with open_index(shop.root) as index:
        hits = index.search(text=["thing 7", "red"], image=photo(12), minus={"text": "blue", "product_id": "P00003"},
                            weights={"text": 0.3, "picture": 0.7})  # fmt: skip
    assert [(row["product_id"], row["score"]) for row in rows] == [(hit.product_id, pytest.approx(hit.score)) for hit in hits]
    assert main(["query", "--index", str(shop.root), "--text", "x", "--weight", "text"]) == 2
    assert "--weight text is not of the form text=0.3" in capsys.readouterr().err
    assert main(["query", "--index", str(shop.root), "--text", "x", "--weight", "smell=1"]) == 2
    assert "weights name 'smell'; version v1 has picture, text" in capsys.readouterr().err


# Without towers: products alone.

MEAN = Fusion("mean", {"picture": 0.5, "text": 0.5})


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Products]:
    """Make an index fused by the mean, of three Annoy files; no test changes it."""
    root = tmp_path_factory.mktemp("drawn")
    products = draw_products(3000)
    products = replace(products, fused=MEAN.fuse(products.modalities, products.present))
    make_version(root, "v1", products, bundle=bundle_in(root, fusion=MEAN), max_items_per_shard=1200)
    make_version(root, "v2", draw_products(3000), sequence=2)
    publish_version(layout.Index(str(root)), "v1", None)
    return root, products


def weighted(products: Products, weights: dict[str, float], row: int) -> list[str]:
    """Return the ids by similarity with a product, itself left out, as a concatenation with the weights ranks them."""
    fused = Fusion("concatenation", weights).fuse(products.modalities, products.present)
    scores = fused @ fused[row]
    rows = [other for other in np.argsort(-scores, kind="stable") if fused[other].any() and other != row]
    return [products.ids[other] for other in rows]


@pytest.mark.parametrize("kind", ["concatenation", "weighted_sum"])
def test_texts_and_photos_are_ranked_by_weights_of_their_own(
    tmp_path: Path, tiny_towers: dict[str, Path], kind: FusionKind
) -> None:
    weights = {"text": {"picture": 0.1, "text": 0.9}, "picture": {"picture": 0.9, "text": 0.1}}
    shop = make_shop(tmp_path, kind, tiny_towers, query_weights=weights)
    text, image = shop.text("thing 7 red"), shop.image(12)

    def ranked(asked_by: str, query: np.ndarray) -> list[str]:
        own = Fusion(kind, weights[asked_by])
        fused = own.fuse(shop.products.modalities, shop.products.present)
        scores = fused @ own.query({asked_by: query[None].astype(np.float32)}, {})[0]
        return [shop.products.ids[row] for row in np.argsort(-scores, kind="stable")]

    one = shop.products.ids[3]
    with open_index(shop.root) as index:
        by_text, by_image = index.search(text="thing 7 red"), index.search(image=photo(12))
        assert [hit.product_id for hit in by_text] == ranked("text", text)[:10] != shop.order(shop.words(text=text))[:10]
        assert [hit.product_id for hit in by_image] == ranked("picture", image)[:10]
        assert [hit.score for hit in by_text] == sorted((hit.score for hit in by_text), reverse=True)
        # Other kinds of queries are ranked by the fused vectors, and weights of a query's own come first.
        assert found(index, text="thing 7 red", image=photo(12)) == shop.order(shop.words(text=text, picture=image))[:10]
        assert found(index, product_id=one) == shop.order(shop.like(one), one)[:10]
        minus = unit(unit(shop.words(text=text)) - 0.5 * unit(shop.words(text=shop.text("red"))))
        assert found(index, text="thing 7 red", minus={"text": "red"}) == shop.order(minus)[:10]
        weighted = {"picture": 1.0, "text": 0.0}
        expected = shop.reweighted({"picture": 1.0}, {"picture": unit(text)})[:8]
        assert found(index, text="thing 7 red", weights=weighted)[:8] == expected
        red = {row["product_id"] for row in shop.products.rows if row["colour"] == "red"}
        expected = [name for name in ranked("text", text) if name in red][:10]
        assert found(index, text="thing 7 red", where="colour = 'red'") == expected
    first, *others = ranked("text", text)
    withdraw(str(shop.root), [first])
    with open_index(shop.root) as index:
        assert found(index, text="thing 7 red") == others[:10]


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("weights", [{"picture": 0.9, "text": 0.1}, {"text": 1.0}], ids=str)
def test_the_candidates_hold_nearly_all_answers(drawn: tuple[Path, Products], version: str, weights: dict[str, float]) -> None:
    root, products = drawn
    same = wanted = 0
    with open_index(root, version=version) as index:
        for row in range(1, 3000, 100):
            exact = weighted(products, weights, row)[:10]
            same += len(set(exact) & {hit.product_id for hit in index.search(product_id=products.ids[row], weights=weights)})
            wanted += 10
    assert same >= 0.95 * wanted


def test_the_weights_of_a_concatenation_change_nothing(drawn: tuple[Path, Products]) -> None:
    root, products = drawn
    with open_index(root, version="v2") as index:
        for product_id in products.ids[:20]:
            own = index.search(product_id=product_id, search_k=ALL)
            asked = index.search(product_id=product_id, search_k=ALL, weights={"text": 2, "picture": 2})
            assert [hit.product_id for hit in asked] == [hit.product_id for hit in own]
            assert [hit.score for hit in asked] == pytest.approx([hit.score for hit in own], abs=1e-5)


def test_products_without_what_is_weighed_are_no_answers_and_cannot_be_asked_by(drawn: tuple[Path, Products]) -> None:
    root, products = drawn
    lacking = products.ids[7]
    with open_index(root) as index:
        hits = index.search(product_id=products.ids[1], weights={"picture": 1}, k=3000)
        assert len(hits) == int(products.present["picture"].sum()) - 1
        with pytest.raises(QueryError, match=f"product '{lacking}' has nothing of picture to be compared by"):
            index.search(product_id=lacking, weights={"picture": 1})
        with pytest.raises(UnknownProductError, match="no product of the index has the id 'Q1'"):
            index.search(product_id=products.ids[1], minus={"product_id": ["Q1"]})
    with pytest.raises(QueryError, match="nothing is left of the query without what is in minus"):
        compose(np.array([0.5, 0], np.float32), np.array([1, 0], np.float32))


def test_weights_keep_to_filters_shards_and_withdrawn_products(drawn: tuple[Path, Products], tmp_path: Path) -> None:
    root = Path(shutil.copytree(drawn[0], tmp_path / "index"))
    products, weights = drawn[1], {"picture": 0.2, "text": 0.8}
    exact = weighted(products, weights, 1300)
    withdraw(str(root), exact[:2])
    cheap = {row["product_id"] for row in products.rows if row["stock"] < 2}
    with open_index(root) as index, open_index(root, shards=[1]) as second:
        asked: dict[str, Any] = {"product_id": products.ids[1300], "weights": weights, "search_k": ALL}
        assert [hit.product_id for hit in index.search(**asked)] == exact[2:12]
        filtered = [product_id for product_id in exact[2:] if product_id in cheap]
        assert [hit.product_id for hit in index.search(**asked, where="stock < 2")] == filtered[:10]
        inside = [product_id for product_id in exact[2:] if product_id in set(products.ids[1200:2400])]
        assert [hit.product_id for hit in second.search(**asked)] == inside[:10]


def test_vectors_of_the_modalities_lie_beside_an_index_that_does_not_hold_them(drawn: tuple[Path, Products]) -> None:
    root, products = drawn
    files = sorted((root / "versions" / "v1" / "modalities").iterdir())
    assert [path.name[:6] for path in files] == ["00000-", "00001-", "00002-"]
    kept = np.concatenate([np.load(path) for path in files])
    expected = np.stack([products.modalities[name] * products.present[name][:, None] for name in ("picture", "text")], axis=1)
    assert kept.dtype == np.float16
    assert np.array_equal(kept, expected.astype(np.float16))
    assert sum(path.stat().st_size for path in files) < 2 * 2 * 16 * 3000 + 3 * 200
    assert not (root / "versions" / "v2" / "modalities").exists()
    assert FUSION.keeps(("picture", "text"))


def forget(root: Path) -> None:
    """Take the files away, as if the version were one of a package that did not write them."""
    path = root / "versions" / "v1" / "manifest.json"
    manifest = read_manifest(path.read_bytes(), str(path))
    kept = {name: entry for name, entry in manifest.files.items() if not name.startswith("modalities/")}
    path.write_bytes(replace(manifest, files=kept).to_json())
    shutil.rmtree(root / "versions" / "v1" / "modalities")


def test_a_version_without_them_opens_and_says_what_is_missing(drawn: tuple[Path, Products], tmp_path: Path) -> None:
    root = Path(shutil.copytree(drawn[0], tmp_path / "index"))
    forget(root)
    with open_index(root) as index:
        assert len(index.search(product_id="P00001", minus={"product_id": "P00002"})) == 10
        message = r"version v1 holds no vectors of its modalities beside the fused ones \(fusion mean\): build it again"
        with pytest.raises(QueryError, match=message):
            index.search(product_id="P00001", weights={"text": 1})


@pytest.mark.parametrize("content", [b"no array", None], ids=["noise", "other-shape"])
def test_a_file_of_something_else_is_refused_by_name(drawn: tuple[Path, Products], tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "00000.npy"
    np.save(path, np.zeros((5, 2, 16), np.float16))
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(IntegrityError, match=f"{path} holds"):
        map_modality_file(path, 6, 2)
