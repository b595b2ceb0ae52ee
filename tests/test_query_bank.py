"""Pictures that are near to many queries: how they are weighed down, and when."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from encoders.bank_fitting import TEMPERATURE, WEIGHTS, balance
from encoders.gate import Gate
from encoders.heads import Head, HeadError, apply_head, identity_head
from encoders.meanings import Meanings
from encoders.query_bank import QUERY_LEVEL, QueryBank
from encoders.selection import ndcg_at_10
from encoders.trained_heads import TrainedHeads
from encoders.training_data import ArrayTrainingData
from encoders.whitening import whiten

PRODUCTS, WIDTH = 900, 24


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def make_data(hubs: float) -> ArrayTrainingData:
    """Make products whose pictures look like their titles, a share of them rather like all titles."""
    rng = np.random.default_rng(0)
    common = rng.standard_normal(WIDTH)
    titles = unit(unit(rng.standard_normal((PRODUCTS, WIDTH))) + 0.8 * unit(common[None]))
    pictures = titles + 0.9 * unit(rng.standard_normal((PRODUCTS, WIDTH)))
    many = rng.random(PRODUCTS) < hubs
    pictures[many] += 2.0 * unit(common[None])
    return ArrayTrainingData(
        features={"picture": unit(pictures)[:, None], "text": titles[:, None]},
        present={"picture": np.arange(PRODUCTS) % 50 != 7, "text": np.ones(PRODUCTS, bool)},
        queries=titles,
        title_ids=np.arange(PRODUCTS)[:, None],
        product_phrases=np.full((PRODUCTS, 1), -1),
        validation_rows=np.arange(PRODUCTS) % 3 == 0,
    )


@pytest.fixture(scope="module")
def hubs() -> ArrayTrainingData:
    return make_data(0.15)


@pytest.fixture
def heads() -> dict[str, Head]:
    return {"picture": identity_head(WIDTH), "text": identity_head(WIDTH)}


def encode(heads: dict[str, Head], data: ArrayTrainingData, name: str) -> np.ndarray:
    return apply_head(heads[name], data.features[name][:, 0])


def test_what_many_queries_are_near_to_crowds_out_less(hubs: ArrayTrainingData, heads: dict[str, Head]) -> None:
    made = balance(TrainedHeads(heads), hubs, hubs.validation(), 1024)
    figures = made.figures
    assert (figures["queries"], figures["bank"]) == (294, 600)  # 300 held out, six of them without a picture
    assert figures["weight"] in WEIGHTS
    assert figures["ndcg@10"] - figures["before"] > max(0.03, 2 * figures["error"])
    held = np.flatnonzero(hubs.validation_rows & hubs.present["picture"])
    before = encode(heads, hubs, "text")[held] @ encode(heads, hubs, "picture")[held].T
    after = encode(dict(made.heads), hubs, "text")[held] @ encode(dict(made.heads), hubs, "picture")[held].T
    right = np.eye(len(held), dtype=bool)
    assert ndcg_at_10(before, right).mean() == pytest.approx(figures["before"], abs=1e-6)
    assert ndcg_at_10(after, right).mean() == pytest.approx(figures["ndcg@10"], abs=1e-6)
    assert most_often(after) < most_often(before) / 2


def most_often(similarity: np.ndarray) -> int:
    """Return how many queries have one product among their first ten, of the product that most have."""
    return int(np.bincount(np.argsort(-similarity, axis=1)[:, :10].ravel()).max())


def test_similarities_fall_by_the_weight_times_the_nearness_to_the_bank(hubs: ArrayTrainingData, heads: dict[str, Head]) -> None:
    texts, pictures = encode(heads, hubs, "text"), encode(heads, hubs, "picture")
    sizes = np.array([300, 20])
    exponents = (pictures.astype(np.float64) @ texts[:320].T.astype(np.float64) - 1) / 0.1
    groups = [0.1 * np.log(np.exp(exponents[:, part]).mean(axis=1)) for part in (slice(300), slice(300, 320))]
    nearness = np.mean(groups, axis=0)
    bank = QueryBank.of_pictures(texts[:320], sizes, 0.1, 0.4, nearness.mean())
    np.testing.assert_allclose(bank.nearness(pictures), nearness, atol=1e-6)
    found = QueryBank.of_texts(WIDTH).beside(texts) @ bank.beside(pictures).T
    kept = np.sqrt(1 - QUERY_LEVEL**2)
    value = 0.4 * kept / QUERY_LEVEL * (nearness.mean() - nearness)
    exact = kept * (np.sqrt(1 - value**2) * (texts @ pictures.T) - 0.4 * (nearness - nearness.mean()))
    np.testing.assert_allclose(found, exact, atol=1e-6)


def test_vectors_have_unit_norm_zeros_stay_zeros_and_values_are_bounded() -> None:
    vectors = unit(np.random.default_rng(1).standard_normal((50, WIDTH)))
    vectors[3] = 0
    for bank in (QueryBank.of_texts(WIDTH), QueryBank(vectors[:2], np.array([1, 1]), 0.05, 100.0, 0.0)):
        made = bank.beside(vectors)
        assert made.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(np.delete(made, 3, axis=0), axis=1), 1, atol=1e-6)
        assert not made[3].any()
        assert np.abs(made[:, -1]).max() <= 0.5
    assert made[:, -1].max() == 0.5  # the second's, which would be larger


def test_texts_find_texts_as_before_and_the_gate_weighs_as_before(hubs: ArrayTrainingData, heads: dict[str, Head]) -> None:
    rng = np.random.default_rng(5)
    drawn = [rng.standard_normal(shape).astype(np.float32) for shape in ((2 * WIDTH + 2, 5), (5,), (5, 2), (2,))]
    made = balance(TrainedHeads(heads, Gate(("picture", "text"), *drawn)), hubs, hubs.validation(), 1024)
    before, after = encode(heads, hubs, "text"), encode(dict(made.heads), hubs, "text")
    np.testing.assert_allclose(after @ after.T, (1 - QUERY_LEVEL**2) * before @ before.T + QUERY_LEVEL**2, atol=1e-6)
    assert made.gate is not None
    assert made.gate.dimension == made.heads["picture"].dimension_out == WIDTH + 1


def test_whitened_values_stand_behind_it(hubs: ArrayTrainingData, heads: dict[str, Head], tmp_path: Path) -> None:
    made = balance(TrainedHeads(heads), hubs, hubs.validation(), 1024)
    wide = whiten(made, hubs, None, 8, 0.3).heads
    narrow = encode(dict(made.heads), hubs, "picture")
    wide["picture"].to_npz(tmp_path / "picture.npz")
    vectors = encode({"picture": Head.from_npz(tmp_path / "picture.npz")}, hubs, "picture")
    assert vectors.shape == (PRODUCTS, WIDTH + 1 + 8)
    np.testing.assert_allclose(vectors[:, : WIDTH + 1], np.sqrt(0.7) * narrow, atol=1e-6)
    assert np.array_equal(vectors, encode(dict(wide), hubs, "picture"))
    wide["text"].to_npz(tmp_path / "text.npz")
    texts = encode({"text": Head.from_npz(tmp_path / "text.npz")}, hubs, "text")
    np.testing.assert_allclose(texts[:, WIDTH], QUERY_LEVEL, atol=1e-6)
    assert not texts[:, WIDTH + 1 :].any()


def test_labels_are_a_group_of_their_own_and_titles_held_out_are_in_none(hubs: ArrayTrainingData, heads: dict[str, Head]) -> None:
    labels = np.arange(PRODUCTS, PRODUCTS + 12)
    more = unit(hubs.queries[:12] + 0.1)
    meanings = Meanings(  # twelve things, one wording of each, which no product has
        np.arange(12)[:, None], np.zeros(12, np.int64), labels, np.zeros(0, np.int64), np.zeros(PRODUCTS + 1, np.int64)
    )  # fmt: skip
    data = dataclasses.replace(hubs, queries=np.concatenate([hubs.queries, more]), meanings=meanings)
    bank = balance(TrainedHeads(heads), data, data.validation(), 250).heads["picture"].bank
    assert bank is not None
    assert bank.sizes.tolist() == [250, 12]
    assert bank.temperature == TEMPERATURE
    np.testing.assert_allclose(bank.queries[250:], more, atol=1e-6)
    trained = data.queries[:PRODUCTS][~data.validation_rows]
    assert (np.abs(bank.queries[:250, None] - trained[None]).max(axis=2).min(axis=1) < 1e-6).all()


def test_where_nothing_is_gained_or_too_little_is_asked_heads_stay(hubs: ArrayTrainingData, heads: dict[str, Head]) -> None:
    even = make_data(0.0)
    same = dataclasses.replace(even, features={**even.features, "picture": even.features["text"]})
    made = balance(TrainedHeads(heads), same, same.validation(), 1024)
    assert made.heads is heads
    assert (made.figures["weight"], made.figures["ndcg@10"]) == (0.0, 1.0)
    few = dataclasses.replace(hubs, validation_rows=np.arange(PRODUCTS) % 10 == 0)  # 88 of 90 queries with a picture
    texts = {"text": heads["text"]}
    for own, data, size in ((heads, few, 1024), (heads, hubs, 0), (texts, hubs, 1024)):
        made = balance(TrainedHeads(own), data, data.validation(), size)
        assert made.heads is own
        assert made.figures == {}


def test_a_bank_that_does_not_fit_is_refused(hubs: ArrayTrainingData, heads: dict[str, Head], tmp_path: Path) -> None:
    head = balance(TrainedHeads(heads), hubs, hubs.validation(), 1024).heads["picture"]
    assert head.bank is not None
    with pytest.raises(HeadError, match=r"^head has a query bank of dimension 23 beside 24 learned values: train it again$"):
        dataclasses.replace(head, bank=dataclasses.replace(head.bank, queries=head.bank.queries[:, 1:]))
    with pytest.raises(ValueError, match=r"^a query bank has groups of \[599\] queries and arrays of shape \(600, 24\)"):
        dataclasses.replace(head.bank, sizes=np.array([599]))
    with pytest.raises(ValueError, match=r"temperature, gain and level are \(0\.0, 1\.0, 0\.0\), or its queries are not finite$"):
        QueryBank(head.bank.queries, head.bank.sizes, 0.0, 1.0, 0.0)
    head.to_npz(tmp_path / "whole.npz")
    arrays = dict(np.load(tmp_path / "whole.npz"))
    del arrays["bank_sizes"]
    np.savez(tmp_path / "part.npz", **arrays)
    with pytest.raises(HeadError, match=r"part\.npz' lacks the arrays bank_sizes: write the bundle again"):
        Head.from_npz(tmp_path / "part.npz")
    np.savez(tmp_path / "cut.npz", **arrays, bank_sizes=head.bank.sizes[:-1])
    with pytest.raises(HeadError, match=r"cut\.npz' cannot be read \(a query bank has groups of \[\] queries"):
        Head.from_npz(tmp_path / "cut.npz")
