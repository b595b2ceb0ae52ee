from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from encoders.fusion import Fusion
from encoders.heads import random_head
from encoders.selection import SHARES, choose_share, choose_weights, ndcg_at_10
from encoders.training_data import TrainingBatch

D = 24
HEADS = {name: random_head(D, D, 0) for name in ("picture", "text")}


def batch(clear: str, count: int = 200, present: float = 1.0) -> TrainingBatch:
    """Make products of which one modality lies near their queries, and the other anywhere."""
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((count, D)).astype(np.float32)
    near = queries + 0.3 * rng.standard_normal((count, D)).astype(np.float32)
    noise = rng.standard_normal((count, D)).astype(np.float32)
    products = {name: near if name == clear else noise for name in HEADS}
    return TrainingBatch(products, {name: rng.random(count) < present for name in HEADS}, queries, np.eye(count, dtype=bool))


@pytest.mark.parametrize("kind", ["concatenation", "weighted_sum"])
@pytest.mark.parametrize(("clear", "weights"), [("picture", (0.6, 0.9)), ("text", (0.3, 0.5))])
def test_what_answers_gets_the_weight(kind: str, clear: str, weights: tuple[float, float]) -> None:
    fusion = Fusion(kind, {"picture": 0.4, "text": 0.6})  # type: ignore[arg-type]
    chosen = choose_weights(fusion, HEADS, batch(clear))
    assert weights[0] <= chosen.fusion.weights["picture"] <= weights[1]
    assert chosen.fusion.weights["text"] == pytest.approx(1 - chosen.fusion.weights["picture"])
    assert chosen.figures["chosen"] is True
    assert chosen.figures["queries"] == 200
    assert chosen.figures["weights"] == chosen.fusion.weights
    assert [weight for weight, _, _ in chosen.figures["grid"]] == [round(0.1 * n, 1) for n in range(1, 10)]
    assert chosen.figures["ndcg@10"] == pytest.approx(max((texts + photos) / 2 for _, texts, photos in chosen.figures["grid"]))
    assert choose_weights(fusion, HEADS, batch(clear)) == chosen


@pytest.mark.parametrize("kind", ["concatenation", "weighted_sum"])
def test_texts_and_photos_get_weights_of_their_own_where_these_find_clearly_more(kind: str) -> None:
    """Texts lie near products' texts here, photos near their pictures."""
    chosen = choose_weights(Fusion(kind, {"picture": 0.5, "text": 0.5}), HEADS, batch("text"))  # type: ignore[arg-type]
    told, grid = chosen.figures["query_weights"], chosen.figures["grid"]
    assert chosen.fusion.query_weights == {name: found["weights"] for name, found in told.items()}
    assert chosen.fusion.query_weights["text"]["text"] > chosen.fusion.weights["text"]
    for column, name in ((1, "text"), (2, "picture")):
        if name in told:
            assert told[name]["ndcg@10"] == max(row[column] for row in grid)
            assert told[name]["fused"] == next(row[column] for row in grid if row[0] == chosen.fusion.weights["picture"])
            assert told[name]["ndcg@10"] - told[name]["fused"] > 2 * told[name]["error"] > 0
    ranks = chosen.fusion.for_query("text")
    assert ranks is not None
    assert (ranks.kind, ranks.weights) == (kind, told["text"]["weights"])
    assert chosen.fusion.for_query("product") is chosen.fusion.for_query(None) is None
    assert Fusion.from_json(chosen.fusion.to_json()) == chosen.fusion


def test_weights_that_are_given_missing_pictures_and_kinds_that_do_not_weigh_leave_the_fusion() -> None:
    own = Fusion("concatenation", {"picture": 0.4, "text": 0.6})
    mean = Fusion("mean", {"picture": 0.4, "text": 0.6})
    one = Fusion("concatenation", {"picture": 0.0, "text": 1.0})
    for fusion, drawn, fixed in ((own, batch("text"), True), (mean, batch("text"), False),
                                 (one, batch("text"), False), (own, batch("text", present=0.0), False)):  # fmt: skip
        chosen = choose_weights(fusion, HEADS, drawn, fixed)
        assert chosen.fusion == fusion
        assert (chosen.figures["chosen"], chosen.figures["grid"]) == (False, [])
        assert chosen.figures["ndcg@10"] is not None


def test_with_too_few_queries_to_choose_photos_are_ranked_by_their_pictures() -> None:
    own = Fusion("weighted_sum", {"picture": 0.4, "text": 0.6})
    chosen = choose_weights(own, HEADS, batch("text", 99))
    assert chosen.fusion == dataclasses.replace(own, query_weights={"picture": {"picture": 0.9, "text": 0.1}})
    assert (chosen.figures["chosen"], chosen.figures["grid"]) == (False, [])
    told = chosen.figures["query_weights"]
    assert list(told) == ["picture"]
    assert told["picture"]["weights"] == {"picture": 0.9, "text": 0.1}
    assert 1 >= told["picture"]["ndcg@10"] > told["picture"]["fused"] > 0.1
    assert 0 < told["picture"]["error"] < told["picture"]["ndcg@10"] - told["picture"]["fused"]


def test_equally_good_weights_are_those_nearest_to_the_given() -> None:
    drawn = batch("text")
    same = TrainingBatch(dict.fromkeys(HEADS, drawn.products["text"]), drawn.present, drawn.queries, drawn.answers)
    for picture in (0.2, 0.4, 0.7):
        chosen = choose_weights(Fusion("concatenation", {"picture": picture, "text": 1 - picture}), HEADS, same)
        assert chosen.fusion.weights["picture"] == picture
        assert "text" not in chosen.fusion.query_weights


def test_without_queries_nothing_is_measured() -> None:
    drawn = batch("text")
    silent = TrainingBatch(drawn.products, drawn.present, np.zeros((0, D), np.float32), np.zeros((0, 200), bool))
    assert choose_weights(Fusion("mean", {"text": 1.0}), HEADS, silent).figures["ndcg@10"] is None


def test_ndcg_is_that_of_the_paper() -> None:
    similarity = np.array([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]], np.float32)
    answers = np.array([[True, False, True], [True, False, False]])
    ideal = 1 + 1 / np.log2(3)
    np.testing.assert_allclose(ndcg_at_10(similarity, answers), [1.5 / ideal, 0.5])


def test_photos_are_asked_among_other_products_too() -> None:
    fusion = Fusion("weighted_sum", {"picture": 0.5, "text": 0.5})
    few, many = batch("text"), batch("text", 4000)
    others = dataclasses.replace(many, queries=many.queries[:0], answers=many.answers[:0])
    alone, among = choose_weights(fusion, HEADS, few), choose_weights(fusion, HEADS, few, others=others)
    for (_, texts, photos), (_, same, fewer) in zip(alone.figures["grid"], among.figures["grid"], strict=True):
        assert texts == same
        assert photos > fewer
    assert among.figures["photos"] == alone.figures["photos"] == 200
    assert among.fusion.query_weights["picture"] == {"picture": 0.9, "text": 0.1}


def shelves(informative: bool) -> tuple[TrainingBatch, np.ndarray]:
    """Make products of 40 shelves with a query for each shelf, and structured features that tell the shelf, or nothing."""
    rng = np.random.default_rng(4)
    shelf = np.arange(400) % 40
    answers = np.tile(shelf[None] == np.arange(40)[:, None], (4, 1))
    vectors = rng.standard_normal((40, D))[shelf] + 2.0 * rng.standard_normal((400, D))
    features = {name: (vectors + rng.standard_normal((400, D))).astype(np.float32) for name in HEADS}
    structured = np.eye(40, dtype=np.float32)[shelf if informative else rng.permutation(shelf)]
    batch = TrainingBatch(features, dict.fromkeys(HEADS, np.ones(400, bool)), np.zeros((160, D), np.float32), answers)
    return batch, structured


def test_structured_features_get_the_least_share_that_finds_what_is_alike() -> None:
    fusion = Fusion("weighted_sum", {"picture": 0.5, "text": 0.5}, query_weights={"text": {"picture": 0.2, "text": 0.8}})
    batch, structured = shelves(True)
    chosen = choose_share(fusion, HEADS, batch, structured)
    grid = dict(chosen.figures["grid"])
    assert tuple(grid) == SHARES
    assert chosen.figures["queries"] == 4 * 160
    share = chosen.figures["share"]
    assert 0 < share == chosen.fusion.structured_weight
    assert grid[share] == chosen.figures["ndcg@10"] > grid[0.0] + 0.2
    assert chosen.figures["before"] == grid[0.0]
    assert max(grid.values()) - grid[share] < 0.02
    assert all(max(grid.values()) - grid[less] > 0.01 for less in SHARES if less < share)
    assert (chosen.fusion.structured_dimension, chosen.fusion.query_weights) == (40, fusion.query_weights)
    assert choose_share(fusion, HEADS, batch, structured) == chosen


def test_structured_features_that_tell_nothing_get_no_share() -> None:
    fusion = Fusion("concatenation", {"picture": 0.4, "text": 0.6})
    batch, structured = shelves(False)
    chosen = choose_share(fusion, HEADS, batch, structured)
    assert (chosen.figures["share"], chosen.fusion) == (0.0, fusion)
    few = dataclasses.replace(batch, queries=batch.queries[:24], answers=batch.answers[:24])
    chosen = choose_share(fusion, HEADS, few, structured)
    assert chosen.fusion is fusion
    assert chosen.figures == {"queries": 96, "share": 0.0, "ndcg@10": None, "before": None, "grid": []}
