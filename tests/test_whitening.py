"""Whitened values beside learned ones: what they are fitted on, and that photos find products by them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from encoders.gate import Gate
from encoders.heads import Head, apply_head, random_head
from encoders.trained_heads import TrainedHeads
from encoders.training_data import ArrayTrainingData
from encoders.whitening import SinglePictures, principal, shrunk_covariance, whiten

PRODUCTS, WIDTH, SHARE = 400, 40, 0.7


@dataclasses.dataclass(frozen=True)
class Shop:
    """Products whose pictures differ by ten large values of the moment and show ten small ones of their own."""

    data: ArrayTrainingData
    photos: np.ndarray
    pictures: SinglePictures
    heads: dict[str, Head]


@pytest.fixture(scope="module")
def shop() -> Shop:
    rng = np.random.default_rng(0)
    own = np.zeros((PRODUCTS, WIDTH), np.float32)
    own[:, 10:20] = rng.standard_normal((PRODUCTS, 10))
    turned = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0].astype(np.float32)

    def taken(of: np.ndarray) -> np.ndarray:
        moment = np.zeros_like(of)
        moment[:, :10] = 3 * rng.standard_normal((len(of), 10))
        return (of + moment + 0.1 * rng.standard_normal(of.shape).astype(np.float32)) @ turned + 5

    owners = np.repeat(np.arange(0, PRODUCTS, 2), 3)
    data = ArrayTrainingData(
        features={"picture": taken(own)[:, None], "text": rng.standard_normal((PRODUCTS, 1, 6)).astype(np.float32)},
        present={"picture": np.ones(PRODUCTS, bool), "text": np.ones(PRODUCTS, bool)},
        queries=np.zeros((0, 6), np.float32),
        title_ids=np.full((PRODUCTS, 1), -1),
        product_phrases=np.full((PRODUCTS, 1), -1),
        validation_rows=np.arange(PRODUCTS) % 10 == 0,
    )
    heads = {"picture": random_head(WIDTH, 8, 0), "text": random_head(6, 8, 1)}
    return Shop(data, taken(own), SinglePictures(taken(own[owners]), owners), heads)


def found_first(shop: Shop, made: TrainedHeads) -> float:
    """Return the share of the products held out of which another photo finds the picture, among all products."""
    indexed = apply_head(made.heads["picture"], shop.data.features["picture"][:, 0])
    asked = np.flatnonzero(shop.data.validation_rows)
    similarity = apply_head(made.heads["picture"], shop.photos[asked]) @ indexed.T
    return float(np.mean(similarity.argmax(axis=1) == asked))


def test_photos_find_products_by_what_pictures_of_one_product_share(shop: Shop) -> None:
    learned = TrainedHeads(shop.heads)
    plain = whiten(TrainedHeads(shop.heads), shop.data, None, 24, SHARE)
    several = whiten(TrainedHeads(shop.heads), shop.data, shop.pictures, 24, SHARE)
    assert found_first(shop, learned) < found_first(shop, plain) + 0.05 < 0.3
    assert found_first(shop, several) > 0.6
    assert plain.figures == {
        "dimension": 24, "share": SHARE, "products": 360, "variance": pytest.approx(1.0, abs=0.01)
    }  # fmt: skip
    assert several.figures["several"] == 160  # every fifth of the 200 is held out
    assert several.figures["pictures"] == 480
    assert 0 < several.figures["shrinkage"] < 0.2


def test_within_products_the_whitened_values_vary_alike(shop: Shop) -> None:
    head = whiten(TrainedHeads(shop.heads), shop.data, shop.pictures, 24, SHARE).heads["picture"]
    values = shop.pictures.features @ head.whitening + head.whitening_bias
    kept = ~shop.data.validation_rows[shop.pictures.owners]
    groups = values[kept].reshape(-1, 3, 24)
    within = (groups - groups.mean(axis=1, keepdims=True)).reshape(-1, 24)
    variances = np.linalg.eigvalsh(within.T @ within / (len(groups) * 2))
    assert variances[-10:] == pytest.approx(1, abs=0.25)  # what was 900 times as loud as the rest
    assert (variances > 0.02).all()
    products = shop.data.features["picture"][~shop.data.validation_rows, 0] @ head.whitening + head.whitening_bias
    assert np.abs(np.concatenate([products, values[kept]]).mean(axis=0)).max() < 0.01


def test_without_several_pictures_components_are_divided_by_the_fourth_root_of_their_variance(shop: Shop) -> None:
    head = whiten(TrainedHeads(shop.heads), shop.data, None, 12, SHARE).heads["picture"]
    features = shop.data.features["picture"][~shop.data.validation_rows, 0].astype(np.float64)
    variances, vectors = np.linalg.eigh(np.cov(features.T, bias=True))
    for column, expected, vector in zip(head.whitening.T, variances[::-1], vectors.T[::-1], strict=False):
        assert np.linalg.norm(column) == pytest.approx(expected**-0.25, rel=1e-3)
        assert abs(column @ vector) == pytest.approx(np.linalg.norm(column), rel=1e-3)


def test_texts_rank_pictures_as_before_and_vectors_have_unit_norm(shop: Shop) -> None:
    made = whiten(TrainedHeads(shop.heads), shop.data, shop.pictures, 24, SHARE)
    texts, pictures = shop.data.features["text"][:, 0], shop.data.features["picture"][:, 0]
    wide = {name: apply_head(head, shop.data.features[name][:, 0]) for name, head in made.heads.items()}
    narrow = apply_head(shop.heads["text"], texts) @ apply_head(shop.heads["picture"], pictures).T
    np.testing.assert_allclose(wide["text"] @ wide["picture"].T, np.sqrt(1 - SHARE) * narrow, atol=1e-6)
    for vectors in wide.values():
        assert vectors.shape == (PRODUCTS, 8 + 24)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert not wide["text"][:, 8:].any()


def test_the_gate_weighs_as_before(shop: Shop) -> None:
    rng = np.random.default_rng(5)
    drawn = [rng.standard_normal(shape).astype(np.float32) for shape in ((2 * 8 + 2, 5), (5,), (5, 2), (2,))]
    gate = Gate(("picture", "text"), *drawn)
    made = whiten(TrainedHeads(shop.heads, gate), shop.data, None, 24, SHARE)
    assert made.gate is not None
    there = {"picture": np.arange(PRODUCTS) % 3 > 0, "text": np.arange(PRODUCTS) % 4 > 0}

    def parts(heads: dict[str, Head], share: float) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        vectors = {name: apply_head(head, shop.data.features[name][:, 0]) for name, head in heads.items()}
        vectors["picture"][:, :8] /= share
        return {name: (array * there[name][:, None], there[name]) for name, array in vectors.items()}

    before = gate.weigh(parts(shop.heads, 1.0), PRODUCTS)
    after = made.gate.weigh(parts(dict(made.heads), np.sqrt(1 - SHARE)), PRODUCTS)
    np.testing.assert_allclose(after, before, atol=1e-5)


def test_products_held_out_are_not_looked_at(shop: Shop) -> None:
    loud = shop.data.features["picture"].copy()
    loud[shop.data.validation_rows] *= 100
    other = dataclasses.replace(shop.data, features={**shop.data.features, "picture": loud})
    single = shop.pictures.features.copy()
    single[shop.data.validation_rows[shop.pictures.owners]] *= 100
    made = whiten(TrainedHeads(shop.heads), other, dataclasses.replace(shop.pictures, features=single), 24, SHARE)
    same = whiten(TrainedHeads(shop.heads), shop.data, shop.pictures, 24, SHARE)
    assert made.figures == same.figures
    np.testing.assert_array_equal(made.heads["picture"].whitening, same.heads["picture"].whitening)


def test_too_few_products_no_pictures_and_no_dimension_leave_heads_as_they_are(shop: Shop) -> None:
    few = {"picture": np.arange(PRODUCTS) < 100, "text": np.ones(PRODUCTS, bool)}
    texts = {"text": shop.heads["text"]}
    for made in (
        whiten(TrainedHeads(shop.heads), dataclasses.replace(shop.data, present=few), None, 24, SHARE),
        whiten(TrainedHeads(shop.heads), shop.data, None, 0, SHARE),
        whiten(TrainedHeads(texts), shop.data, None, 24, SHARE),
    ):
        assert made.figures == {}
        assert {head.dimension_out for head in made.heads.values()} == {8}


def test_few_products_with_several_pictures_count_as_none(shop: Shop) -> None:
    few = SinglePictures(shop.pictures.features[: 3 * 21], shop.pictures.owners[: 3 * 21])  # 16 of 21 are not held out
    made = whiten(TrainedHeads(shop.heads), shop.data, few, 24)
    assert "several" not in made.figures
    assert made.heads["picture"].whitened_share == made.figures["share"] == 0.3
    more = SinglePictures(shop.pictures.features[: 3 * 26], shop.pictures.owners[: 3 * 26])  # 20 of 26
    made = whiten(TrainedHeads(shop.heads), shop.data, more, 24)
    assert made.figures["several"] == 20
    assert made.heads["picture"].whitened_share == made.figures["share"] == 0.85


@pytest.mark.parametrize("most", [5, 30])
def test_principal_components_are_those_of_a_full_decomposition(most: int) -> None:
    rng = np.random.default_rng(1)
    basis = np.linalg.qr(rng.standard_normal((32, 32)))[0]
    variances = 2.0 ** -np.arange(32)
    values, vectors = principal((basis * variances) @ basis.T, most)
    kept = min(most, 20)  # two to the minus twenty is less than a millionth
    np.testing.assert_allclose(values, variances[:kept], rtol=1e-6)
    np.testing.assert_allclose(np.abs(np.sum(vectors * basis[:, :kept], axis=0)), 1, rtol=1e-6)
    assert (vectors[np.abs(vectors).argmax(axis=0), np.arange(kept)] > 0).all()


def test_shrinkage_is_that_of_ledoit_and_wolf() -> None:
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((30, 6)) * np.arange(1, 7)
    found, share = shrunk_covariance(rows)
    sample = sum(np.outer(row, row) for row in rows) / 30
    scale = np.trace(sample) / 6
    distance = np.linalg.norm(sample - scale * np.eye(6)) ** 2
    error = sum(np.linalg.norm(np.outer(row, row) - sample) ** 2 for row in rows) / 30**2
    assert share == pytest.approx(error / distance)
    np.testing.assert_allclose(found, share * scale * np.eye(6) + (1 - share) * sample)
    assert shrunk_covariance(np.tile(rows, (20, 1)))[1] == pytest.approx(share / 20)
    same, whole = shrunk_covariance(np.eye(6))
    assert whole == 1
    np.testing.assert_allclose(same, np.eye(6) / 6)
