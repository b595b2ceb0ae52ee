"""Attention ranking: the numpy side against TensorFlow, a problem that cosine gets wrong, and the file of a ranker."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from shop_maker import drawn_ranker
from version_maker import FUSION, write_heads, write_towers
from version_maker import SHARED as DRAWN_SHARED

from encoders.bundle import BundleError, open_bundle, write_bundle
from encoders.fusion import Fusion
from encoders.heads import apply_head, identity_head
from encoders.ranking import ARRAYS, QUERY_KINDS, Ranker, RankingError
from encoders.ranking_model import RankerModel
from encoders.ranking_training import RankingSettings, TrainedRanker, compare, pool_of, train_ranker
from encoders.training_data import ArrayTrainingData

MODALITIES = ("picture", "text")


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
