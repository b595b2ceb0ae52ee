"""Answers of a search that attention ranks, of every fusion, and what a bundle is trained to rank by it."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from conftest import SHARED, unpriced, write_shards
from shop_maker import COUNT, Shop, drawn_ranker, make_shop, photo

from catalogue_lookup import Index, QueryError, open_index
from catalogue_lookup.manifest import read_manifest
from encoders.fusion import FusionKind
from encoders.ranking import QUERY_KINDS, candidates_for
from pipelines.cli import main
from pipelines.config import ConfigError, read_config
from pipelines.layout import Index as IndexLayout
from pipelines.prune import prune
from pipelines.run import resolve_bundle, run
from pipelines.train import train
from pipelines.withdraw import withdraw

ALL = 10**6
RANKER = drawn_ranker(SHARED, ("picture", "product"), seed=4)
ASKED: dict[str, dict[str, Any]] = {
    "text": {"text": "thing 7 red"},
    "picture": {"image": photo(12)},
    "text_picture": {"text": ["red", "thing 9"], "image": photo(12)},
    "product": {"product_id": "P00003"},
}


@pytest.fixture(scope="module", params=get_args(FusionKind))
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_towers: dict[str, Path]) -> Shop:
    return make_shop(tmp_path_factory.mktemp(request.param), request.param, tiny_towers, RANKER)


@pytest.fixture
def index(shop: Shop) -> Iterator[Index]:
    with open_index(shop.root) as opened:
        yield opened


def vectors_of(shop: Shop, *ids: str) -> dict[str, np.ndarray]:
    """Return the mean of products in each modality that any of them has."""
    rows = np.array([shop.products.ids.index(product_id) for product_id in ids])
    found = {}
    for name, vectors in shop.products.modalities.items():
        own = vectors[rows[shop.products.present[name][rows]]]
        if len(own):
            found[name] = own.mean(axis=0) / np.linalg.norm(own.mean(axis=0))
    return found


def expected(shop: Shop, query: np.ndarray, of: dict[str, np.ndarray], candidates: int, *left_out: str) -> dict[str, float]:
    """Return the first ten answers with their scores: the candidates nearest by cosine, ranked by the formula."""
    ids = shop.order(query)[:candidates]
    rows = np.array([shop.products.ids.index(product_id) for product_id in ids])
    modalities = {name: vectors[rows] for name, vectors in shop.products.modalities.items()}
    present = {name: there[rows] for name, there in shop.products.present.items()}
    correction = RANKER.correct({name: vector.astype(np.float32) for name, vector in of.items()}, modalities, present)
    scores = shop.products.fused[rows] @ query + correction
    ranked = [(ids[row], float(scores[row])) for row in np.argsort(-scores) if ids[row] not in left_out]
    return dict(ranked[:10])


def answers(index: Index, **query: Any) -> dict[str, float]:
    return {hit.product_id: hit.score for hit in index.search(**query, search_k=ALL)}


def test_every_fusion_ranks_every_kind_of_query_by_attention(shop: Shop, index: Index) -> None:
    text, texts, image = shop.text("thing 7 red"), shop.text("red", "thing 9"), shop.image(12)
    three = ("P00003", "P00007", "P00011")
    wanted = {
        "text": expected(shop, shop.words(text=text), {"text": text}, 50),
        "picture": expected(shop, shop.words(picture=image), {"picture": image}, 50),
        "text_picture": expected(shop, shop.words(picture=image, text=texts), {"picture": image, "text": texts}, 50),
        "product": expected(shop, shop.like("P00003"), vectors_of(shop, "P00003"), 55, "P00003"),
    }
    for kind, found in wanted.items():
        asked = answers(index, **ASKED[kind], ranking="attention")
        assert list(asked) == list(found), kind
        assert list(asked.values()) == pytest.approx(list(found.values()), abs=2e-3), kind
        by_cosine = answers(index, **ASKED[kind], ranking="cosine")
        assert list(by_cosine) != list(asked)
        assert answers(index, **ASKED[kind]) == (asked if kind in RANKER.kinds else by_cosine), kind
    several = answers(index, product_id=list(three))
    found = expected(shop, shop.like(*three), vectors_of(shop, *three), 65, *three)
    assert list(several.values()) == pytest.approx(list(found.values()), abs=2e-3)


def test_candidates_keep_to_filters_and_grow_with_the_answers(shop: Shop, index: Index) -> None:
    assert (candidates_for(3), candidates_for(10), candidates_for(40)) == (50, 50, 200)
    hits = index.search(**ASKED["picture"], k=COUNT, search_k=ALL)
    assert len(hits) == COUNT
    scores = [hit.score for hit in hits]
    assert scores == sorted(scores, reverse=True)
    few = index.search(**ASKED["picture"], k=COUNT, where="stock = 1", search_k=ALL)
    assert [hit.product_id for hit in few] == [hit.product_id for hit in hits if hit.columns["stock"] == 1]
    assert index.search(**ASKED["picture"], where="stock = 77") == []


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"text": "x", "weights": {"text": 1}}, "attention cannot rank a query of text and weights: it ranks queries by texts"),
        ({"text": "x", "minus": {"text": "y"}}, "attention cannot rank a query of text and minus: "),
        ({"text": "x", "product_id": "P00001"}, "attention cannot rank a query of text and product_id: "),
        ({"vector": [1.0] * SHARED}, "attention cannot rank a query of vector: .* leave ranking out"),
    ],
)
def test_what_attention_cannot_rank_is_said_and_left_to_cosine(
    shop: Shop, index: Index, query: dict[str, Any], message: str
) -> None:
    with pytest.raises(QueryError, match=message):
        index.search(**query, ranking="attention")
    if "vector" not in query:
        assert index.search(**query) == index.search(**query, ranking="cosine") != []
    with pytest.raises(QueryError, match="ranking is 'best'; it may be cosine, attention"):
        index.search(text="x", ranking="best")  # type: ignore[arg-type]


def test_the_command_takes_a_ranking(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["query", "--index", str(shop.root), "--json", "--text", "thing 7 red"]
    assert main([*asked, "--ranking", "attention"]) == 0
    rows = json.loads(capsys.readouterr().out)
    with open_index(shop.root) as index:
        hits = index.search(text="thing 7 red", ranking="attention")
    assert [(row["product_id"], row["score"]) for row in rows] == [(hit.product_id, pytest.approx(hit.score)) for hit in hits]


def test_a_version_that_prune_wrote_anew_is_ranked_as_before(shop: Shop, tmp_path: Path) -> None:
    root = Path(shutil.copytree(shop.root, tmp_path / "index"))
    with open_index(root) as index:
        before = list(answers(index, **ASKED["product"]))
    withdraw(str(root), [before[0]])
    assert prune(IndexLayout(str(root)), 1, 0).rewritten
    with open_index(root) as index:
        assert index.manifest.ranking == ("picture", "product")
        assert list(answers(index, **ASKED["product"]))[:9] == before[1:]


# From training on.


def test_a_bundle_whose_ranker_does_not_win_says_so_and_cosine_ranks(
    tiny_towers: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    towers = {f"{m}_tower": f"saved-model:{path.parent / f'{m}-saved-model'}" for m, path in tiny_towers.items()}
    root = tmp_path / "index"
    config = read_config(None, {
        "index": str(root), "catalogue": [write_shards(tmp_path / "shop", [unpriced(n) for n in range(60)], 30)],
        "dimension": SHARED, "column": ["title=name", "product_id=sku"], "epochs": 2, "ranking": "attention", **towers,
    })  # fmt: skip
    with caplog.at_level(logging.INFO):
        bundle = train(config)
    told = bundle.training["ranking"]
    assert (told["kept"], told["steps"], tuple(told["kinds"])) == (False, 32, QUERY_KINDS)
    assert bundle.ranker is None
    assert not (bundle.folder / "ranking.npz").exists()
    said = "train: attention found no more than cosine by two standard errors for any kind of query: it is left out"
    assert said in caplog.text
    run(config)
    with open_index(root) as index:
        assert index.manifest.ranking == ()
        assert b'"ranking"' not in (root / "versions" / index.version / "manifest.json").read_bytes()
        queries: list[dict[str, Any]] = [{"text": "a blue shirt"}, {"product_id": "P00021"}]
        for query in queries:
            assert index.search(**query) == index.search(**query, ranking="cosine")
            message = f"version {index.version} has no ranking by attention: its bundle was trained without one, or with one that"
            with pytest.raises(QueryError, match=message):
                index.search(**query, ranking="attention")


def test_another_fusion_leaves_the_ranker_out(
    shop: Shop, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given: dict[str, Any] = {"index": str(tmp_path / "index"), "bundle": str(shop.encoder.bundle.folder)}
    config = read_config(None, given)
    other = "max" if shop.kind == "mean" else "mean"
    with caplog.at_level(logging.INFO):
        assert resolve_bundle(config, ()).hash == shop.encoder.bundle.hash
        assert resolve_bundle(config.replace(picture_views=2), ()).ranker is not None
        assert "left out" not in caplog.text
        fused = resolve_bundle(config.replace(fusion=other), ())
    assert fused.ranker is None
    assert fused.training["ranking"]["kept"] is False
    said = f"the ranking by attention was trained with the fusion {shop.kind} (picture 0.6, text 0.4): it is left out"
    assert said in caplog.text


def test_nothing_to_train_a_ranker_with_is_said(tiny_towers: dict[str, Path], tmp_path: Path) -> None:
    tower = f"saved-model:{tiny_towers['picture'].parent / 'picture-saved-model'}"
    config = read_config(None, {
        "index": str(tmp_path / "index"), "catalogue": [write_shards(tmp_path / "shop", [unpriced(n) for n in range(8)], 8)],
        "column": ["title=name", "product_id=sku"], "picture_tower": tower, "text_tower": "", "dimension": SHARED,
        "ranking": "attention",
    })  # fmt: skip
    with pytest.raises(ConfigError, match="--ranking attention: the catalogue has no titles or phrases to train it with"):
        train(config)


def test_a_manifest_of_before_has_no_ranking(shop: Shop) -> None:
    path = next((shop.root / "versions").glob("*/manifest.json"))
    manifest = read_manifest(path.read_bytes(), str(path))
    assert manifest.ranking == ("picture", "product")
    plain = replace(manifest, ranking=())
    assert b'"ranking"' not in plain.to_json()
    assert read_manifest(plain.to_json(), "plain") == plain
