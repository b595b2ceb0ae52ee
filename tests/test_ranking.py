"""Attention ranking: the numpy side against TensorFlow, a problem that cosine gets wrong, and the answers of a search."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from conftest import SHARED, product, write_shards
from shop_maker import COUNT, Shop, make_shop, photo
from version_maker import FUSION, write_heads, write_towers
from version_maker import SHARED as DRAWN_SHARED

from catalogue_lookup import Index, QueryError, open_index
from catalogue_lookup.manifest import read_manifest
from encoders.bundle import BundleError, open_bundle, write_bundle
from encoders.fusion import Fusion, FusionKind
from encoders.heads import apply_head, identity_head
from encoders.ranking import ARRAYS, QUERY_KINDS, Ranker, RankingError, candidates_for
from encoders.ranking_model import RankerModel
from encoders.ranking_training import RankingSettings, TrainedRanker, compare, pool_of, train_ranker
from encoders.training_data import ArrayTrainingData
from pipelines.cli import main
from pipelines.config import ConfigError, read_config
from pipelines.layout import Index as IndexLayout
from pipelines.prune import prune
from pipelines.run import resolve_bundle, run
from pipelines.train import train
from pipelines.withdraw import withdraw

ALL = 10**6
MODALITIES = ("picture", "text")


def drawn_ranker(dimension: int, kinds: tuple[str, ...] = (), seed: int = 0, units: int = 5) -> Ranker:
    """Draw a ranker whose corrections are as large as cosines."""
    rng, many = np.random.default_rng(seed), len(MODALITIES)
    shapes = {
        "query": (dimension, 4), "query_embedding": (many, 4), "key": (dimension, 4), "key_embedding": (many, 4),
        "value": (dimension, 4), "value_embedding": (many, 4), "hidden": (4 + 2 * many, units), "hidden_bias": (units,),
        "output": (units,),
    }  # fmt: skip
    drawn = {name: (0.7 * rng.standard_normal(shapes[name])).astype(np.float32) for name in ARRAYS}
    return Ranker(MODALITIES, kinds, **drawn)


def unit_rows(rng: np.random.Generator, *shape: int) -> np.ndarray:
    drawn = rng.standard_normal(shape)
    return (drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)).astype(np.float32)


def test_numpy_ranks_as_tensorflow_does() -> None:
    rng = np.random.default_rng(1)
    model = RankerModel(MODALITIES, 12, 6, 7, 3)
    tokens, asked = unit_rows(rng, 20, 9, 2, 12), unit_rows(rng, 20, 2, 12)
    there, given = rng.random((20, 9, 2)) < 0.7, rng.random((20, 2)) < 0.6
    there[~there.any(axis=2), 0] = True
    given[~given.any(axis=1), 1] = True
    tokens, asked = tokens * there[..., None], asked * given[..., None]

    def correct() -> np.ndarray:
        asked_by, given_by, found, found_there = (array.astype(np.float32) for array in (asked, given, tokens, there))
        return np.asarray(model.correct(asked_by, given_by, found, found_there))

    assert not np.any(correct()), "an untrained one corrects nothing"
    for variable in model.variables.values():
        variable.assign(0.5 * rng.standard_normal(variable.shape))
    expected, ranker = correct(), model.ranker(("text",))
    assert np.ptp(expected) > 0.5
    for row in range(20):
        query = {name: asked[row, number] for number, name in enumerate(MODALITIES) if given[row, number]}
        candidates = {name: tokens[row, :, number] for number, name in enumerate(MODALITIES)}
        present = {name: there[row, :, number] for number, name in enumerate(MODALITIES)}
        assert np.allclose(ranker.correct(query, candidates, present), expected[row], atol=1e-5)


# Products of eight classes. A class shows in the first half of a vector, quietly; the second half says, loudly, nothing of it.

CLASSES, HALF, QUERIES = 8, 8, 16
FUSED = Fusion("concatenation", {"picture": 0.5, "text": 0.5})
HEADS = {name: identity_head(2 * HALF) for name in MODALITIES}
SMALL = RankingSettings(attention_units=16, hidden_units=16, pool=600, steps=150, learning_rate=1e-2, feature_dropout=0.0,
                        dropout=0.0)  # fmt: skip


def quiet_classes(misleading: bool = True) -> ArrayTrainingData:
    """Draw products and queries; where they mislead, cosine sees hardly more than their loud half."""
    rng = np.random.default_rng(0)

    def draw(classes: np.ndarray) -> np.ndarray:
        loud = unit_rows(rng, len(classes), HALF) if misleading else np.zeros((len(classes), HALF), np.float32)
        return np.hstack([0.35 * np.eye(CLASSES, HALF, dtype=np.float32)[classes], loud])

    products, asked = rng.integers(0, CLASSES, 900), np.repeat(np.arange(CLASSES), QUERIES)
    ids = QUERIES * products[:, None] + np.arange(QUERIES)
    return ArrayTrainingData(
        features={name: draw(products)[:, None] for name in MODALITIES},
        present={"picture": np.arange(900) % 7 > 0, "text": np.ones(900, bool)},
        queries=draw(asked), title_ids=ids[:, :1], product_phrases=ids, validation_rows=np.arange(900) >= 600,
    )  # fmt: skip


@pytest.fixture(scope="module")
def learned() -> TrainedRanker:
    return train_ranker(quiet_classes(), HEADS, FUSED, SMALL)


def test_attention_learns_what_cosine_cannot_see_for_every_kind_of_query(learned: TrainedRanker) -> None:
    told = learned.figures
    assert learned.ranker is not None
    assert learned.ranker.kinds == QUERY_KINDS == tuple(told["kinds"])
    assert (told["kept"], told["steps"], told["settings"]["candidates"]) == (True, 150, 50)
    for kind, found in told["kinds"].items():
        assert found["kept"] is True
        assert found["cosine"] < 0.6, kind
        assert found["attention"] > found["cosine"] + 0.25, kind
        assert found["queries"] >= 100
        assert 0 < found["error"] < 0.05
    rng, loud = np.random.default_rng(9), unit_rows(np.random.default_rng(8), HALF)
    classes = np.arange(40) % CLASSES
    # The nearer the loud halves, the higher cosine ranks: the right class, 3, stands last.
    near = np.where(classes == 3, 0.2, 0.8)[:, None]
    halves = near * loud + 0.1 * rng.standard_normal((40, HALF))
    halves /= np.linalg.norm(halves, axis=1, keepdims=True)
    halves = np.where(classes[:, None] == 3, -halves, halves)
    vectors = np.hstack([0.35 * np.eye(HALF)[classes], halves])
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    query = np.hstack([0.35 * np.eye(HALF)[3], loud]).astype(np.float32)
    query /= np.linalg.norm(query)
    cosine = vectors @ query
    assert set(classes[np.argsort(-cosine)[-5:]]) == {3}
    both, all_there = dict.fromkeys(MODALITIES, vectors), dict.fromkeys(MODALITIES, np.ones(40, bool))
    correction = learned.ranker.correct({"text": query}, both, all_there)
    assert set(classes[np.argsort(-correction)[:5]]) == {3}


def test_what_finds_no_more_than_cosine_is_not_kept() -> None:
    trained = train_ranker(quiet_classes(misleading=False), HEADS, FUSED, replace(SMALL, steps=5))
    assert trained.ranker is None
    assert trained.figures["kept"] is False
    assert {found["cosine"] for found in trained.figures["kinds"].values()} == {1.0}
    assert not any(found["kept"] for found in trained.figures["kinds"].values())


def test_the_same_training_gives_the_same_ranker_and_few_queries_decide_nothing(learned: TrainedRanker) -> None:
    data = quiet_classes()
    one, other = (train_ranker(data, HEADS, FUSED, replace(SMALL, steps=20)).ranker for _ in range(2))
    assert one is not None
    assert other is not None
    assert all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ARRAYS)
    assert learned.ranker is not None
    few = replace(data, validation_rows=np.arange(900) >= 890)
    told = train_ranker(few, HEADS, FUSED, replace(SMALL, steps=2)).figures
    assert all(found["queries"] < 100 and not found["kept"] for found in told["kinds"].values())
    batch = data.validation()
    texts = {"text": apply_head(HEADS["text"], batch.products["text"])}
    pool = pool_of(texts, {"text": batch.present["text"]}, Fusion("mean", {"text": 1}))
    queries = apply_head(HEADS["text"], batch.queries)
    assert list(compare(learned.ranker, pool, queries, batch.answers, 50, 0)) == ["text", "product"]
    nothing = compare(learned.ranker, pool, queries[:0], batch.answers[:0], 50, 0)
    assert nothing["product"] == {"queries": 0, "cosine": None, "attention": None, "error": None}


# The file.


def test_a_ranker_is_a_file_of_its_bundle_and_part_of_its_hash(tmp_path: Path) -> None:
    towers, heads, ranker = write_towers(tmp_path / "towers"), write_heads(), drawn_ranker(DRAWN_SHARED, ("product",))
    plain = write_bundle(tmp_path / "plain", towers, heads, FUSION, {}, {})
    ranked = write_bundle(tmp_path / "ranked", towers, heads, FUSION, {}, {}, ranker=ranker)
    assert plain.ranker is None
    assert ranked.hash != plain.hash
    read = open_bundle(ranked.folder).ranker
    assert read is not None
    assert all(np.array_equal(getattr(read, field.name), getattr(ranker, field.name)) for field in fields(Ranker))
    with pytest.raises(BundleError, match=r"the ranker compares picture, text of dimension 5, the heads give .*train them tog"):
        write_bundle(tmp_path / "other", towers, heads, FUSION, {}, {}, ranker=drawn_ranker(5))
    content = (ranked.folder / "ranking.npz").read_bytes()
    (ranked.folder / "ranking.npz").write_bytes(content[:-7])
    with pytest.raises(BundleError, match=r"ranking\.npz has \d+ bytes instead of \d+: it is truncated"):
        open_bundle(ranked.folder)


def test_a_damaged_or_odd_file_is_named(tmp_path: Path) -> None:
    path, ranker = tmp_path / "ranking.npz", drawn_ranker(6)
    ranker.to_npz(path)
    whole = path.read_bytes()
    ranker.to_npz(path)
    assert path.read_bytes() == whole
    for damaged in (whole[:-30], b"", b"PK no archive"):
        path.write_bytes(damaged)
        with pytest.raises(RankingError, match=f"ranker file '{path}' cannot be read .*: write the bundle again"):
            Ranker.from_npz(path)
    with pytest.raises(RankingError, match=r"ranker array 'output' has shape \(4,\), not \(5,\): train it again"):
        replace(ranker, output=np.ones(4, np.float32))
    with pytest.raises(RankingError, match="ranker array 'key' has values that are not finite"):
        replace(ranker, key=np.full((6, 4), np.nan, np.float32))
    with pytest.raises(RankingError, match=r"the ranker is of queries \('smell',\)"):
        replace(ranker, kinds=("smell",))
    vector, there = np.ones((1, 6), np.float32), {"text": np.ones(1, bool)}
    with pytest.raises(RankingError, match="the query has none of the modalities picture, text"):
        ranker.correct({"sound": vector[0]}, {"text": vector}, there)
    with pytest.raises(RankingError, match="the ranker compares vectors of dimension 6: train it with these heads"):
        ranker.correct({"text": np.ones(7, np.float32)}, {"text": np.ones((1, 7), np.float32)}, there)


# The answers of a search, of every fusion.

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
        "index": str(root), "catalogue": [write_shards(tmp_path / "shop", [product(n) for n in range(60)], 30)],
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
        "index": str(tmp_path / "index"), "catalogue": [write_shards(tmp_path / "shop", [product(n) for n in range(8)], 8)],
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
