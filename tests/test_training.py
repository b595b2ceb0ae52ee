from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.util import event_pb2

from encoders.fusion import Fusion
from encoders.heads import Head, apply_head, random_head
from encoders.models import fuse_by_gate, gate_model, gate_of, head_model, head_of
from encoders.training import TrainingSettings, evaluate_heads, remove_gaps, train_heads
from encoders.training_data import ArrayTrainingData
from encoders.training_rounds import Round, event_log

KINDS, COLOURS, PHRASES_EACH = 8, 6, 4
WIDTHS = {"picture": 40, "text": 24}
SETTINGS = TrainingSettings(dimension=16, hidden_units=32, epochs=12, rounds=6, learning_rate=5e-3)


def make_data(products: int = 600, **changes: Any) -> ArrayTrainingData:
    """Draw products of a kind and a colour, which pictures and texts show in unlike ways.

    A phrase names kind and colour in one of four wordings; its text is like an indexed text, with noise of its own.
    """
    rng = np.random.default_rng(3)
    kind, colour = rng.integers(KINDS, size=products), rng.integers(COLOURS, size=products)
    latent = np.concatenate([np.eye(KINDS)[kind], np.eye(COLOURS)[colour]], axis=1)
    maps = {name: rng.standard_normal((latent.shape[1], width)) for name, width in WIDTHS.items()}
    features = {
        name: (latent @ maps[name] + 0.7 * rng.standard_normal((products, width)) + 3)[:, None].astype(np.float16)
        for name, width in WIDTHS.items()
    }
    combinations = np.array([(k, c) for k in range(KINDS) for c in range(COLOURS)])
    spoken = np.concatenate([np.eye(KINDS)[combinations[:, 0]], np.eye(COLOURS)[combinations[:, 1]]], axis=1)
    phrases = np.repeat(spoken, PHRASES_EACH, axis=0) @ maps["text"] + 3
    phrases += 0.7 * rng.standard_normal(phrases.shape)
    own = (kind * COLOURS + colour)[:, None] * PHRASES_EACH + np.arange(PHRASES_EACH)
    given: dict[str, Any] = {
        "features": features,
        "present": {name: rng.random(products) < 0.95 for name in WIDTHS},
        "queries": phrases.astype(np.float16),
        "title_ids": np.full((products, 1), -1),
        "product_phrases": own,
        "validation_rows": np.arange(products) % 5 == 0,
        "batch_rows": 128,
    }
    return ArrayTrainingData(**{**given, **changes})


@pytest.fixture(scope="module")
def data() -> ArrayTrainingData:
    return make_data()


@pytest.fixture(scope="module")
def trained(data: ArrayTrainingData) -> dict[str, Any]:
    result = train_heads(data, WIDTHS, SETTINGS)
    return {"heads": result.heads, "figures": result.figures}


def same(one: Head, other: Head) -> bool:
    return all(np.array_equal(value, vars(other)[name]) for name, value in vars(one).items())


def test_phrases_find_pictures_and_texts_of_products_never_seen(data: ArrayTrainingData, trained: dict[str, Any]) -> None:
    recalls = evaluate_heads(trained["heads"], data.validation())
    assert recalls["picture"]["recall@10"] > 0.75
    assert recalls["text"]["recall@10"] > 0.75
    untrained = {name: random_head(width, 16, seed=0) for name, width in WIDTHS.items()}
    assert evaluate_heads(untrained, data.validation())["picture"]["recall@10"] < 0.35


def test_figures_are_those_of_the_heads_kept(data: ArrayTrainingData, trained: dict[str, Any]) -> None:
    figures = trained["figures"]
    assert figures["validation"] == evaluate_heads(trained["heads"], data.validation())
    assert figures["trained"] == ["picture", "text"]
    assert 0 < figures["best_epoch"] <= figures["epochs"] <= 12
    assert figures["loss"][-1] < figures["loss"][0]
    assert figures["seconds"] > 0


def test_training_is_the_same_by_seed(data: ArrayTrainingData, trained: dict[str, Any]) -> None:
    again = train_heads(data, WIDTHS, SETTINGS)
    assert again.figures["loss"] == trained["figures"]["loss"]
    assert all(same(again.heads[name], trained["heads"][name]) for name in WIDTHS)
    other = train_heads(data, WIDTHS, TrainingSettings(**{**vars(SETTINGS), "seed": 1}))
    assert not same(other.heads["text"], trained["heads"]["text"])


def test_numpy_applies_what_keras_trained() -> None:
    rng = np.random.default_rng(0)
    mean, scale = (
        rng.standard_normal(40).astype(np.float32),
        np.exp(rng.standard_normal(40)).astype(np.float32),
    )
    model = head_model(mean, scale, SETTINGS, seed=0, dropout=0.3)
    for variable in model.trainable_variables:
        variable.assign(rng.standard_normal(variable.shape))
    features = rng.standard_normal((300, 40)).astype(np.float32)
    np.testing.assert_allclose(apply_head(head_of(model), features), model(features, training=False), atol=1e-5)


def test_head_begins_as_a_projection_that_keeps_similarities() -> None:
    model = head_model(np.zeros(24, np.float32), np.ones(24, np.float32), TrainingSettings(dimension=24), seed=0, dropout=0.3)
    features = np.random.default_rng(0).standard_normal((30, 24)).astype(np.float32)
    vectors = apply_head(head_of(model), features)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors @ vectors.T, features @ features.T, atol=1e-5)


def test_catalogue_of_texts_alone_is_trained() -> None:
    data = make_data()
    texts = make_data(features={"text": data.features["text"]}, present={"text": data.present["text"]})
    result = train_heads(texts, {"text": WIDTHS["text"]}, SETTINGS)
    assert result.figures["trained"] == ["text"]
    assert result.figures["validation"]["text"]["recall@10"] > 0.75


def test_catalogue_of_pictures_alone_gets_a_head_that_only_projects() -> None:
    data = make_data()
    pictures = make_data(
        features={"picture": data.features["picture"]},
        present={"picture": data.present["picture"]},
        queries=np.zeros((0, 1), np.float16),
        product_phrases=np.zeros((600, 0), int),
    )
    result = train_heads(pictures, {"picture": WIDTHS["picture"]}, SETTINGS)
    assert result.figures["trained"] == []
    assert result.heads["picture"].hidden_bias.size == 0
    assert result.heads["picture"].dimension_out == 16


def test_modality_that_no_product_has_gets_a_head_that_only_projects() -> None:
    data = make_data()
    present = {"picture": np.zeros(600, bool), "text": data.present["text"]}
    result = train_heads(make_data(present=present), WIDTHS, SETTINGS)
    assert result.figures["trained"] == ["text"]
    assert result.heads["picture"].hidden_bias.size == 0


@pytest.mark.parametrize("products", [1, 10])
def test_tiny_catalogue_is_trained(products: int) -> None:
    data = make_data(products, present={name: np.ones(products, bool) for name in WIDTHS})
    result = train_heads(data, WIDTHS, SETTINGS)
    assert set(result.heads) == set(WIDTHS)
    for name, head in result.heads.items():
        assert np.isfinite(apply_head(head, data.features[name][:, 0])).all()


def test_without_products_held_out_all_steps_are_taken() -> None:
    data = make_data(64, validation_rows=np.zeros(64, bool))
    result = train_heads(data, WIDTHS, TrainingSettings(**{**vars(SETTINGS), "rounds": 30, "epochs": 30}))
    assert result.figures["steps"] == 30
    assert result.figures["validation"] == {}


def test_training_ends_when_validation_gets_no_better() -> None:
    rng = np.random.default_rng(0)
    noise = {name: rng.standard_normal((600, 1, width)).astype(np.float16) for name, width in WIDTHS.items()}
    settings = TrainingSettings(**{**vars(SETTINGS), "epochs": 40, "rounds": 40, "patience": 3})
    figures = train_heads(make_data(features=noise), WIDTHS, settings).figures
    assert figures["epochs"] < 40
    assert figures["epochs"] == pytest.approx(figures["best_epoch"] + 3, abs=0.1)


def test_of_rounds_as_good_as_the_best_the_last_counts(data: ArrayTrainingData) -> None:
    figures = train_heads(data, WIDTHS, replace(SETTINGS, epochs=40, rounds=20, patience=5)).figures
    means = np.mean(list(figures["round_recall@10"].values()), axis=0)
    good = [number for number, mean in enumerate(means) if mean > max([-1.0, *means[:number]]) - 0.005]
    kept = figures["round_steps"][good[-1]] / data.steps_per_epoch
    assert figures["best_epoch"] == pytest.approx(kept, abs=0.01)
    assert int(np.argmax(means)) < good[-1]  # the best one came before it


def test_rows_are_read_from_files_mapped_to_memory_and_missing_ones_never_looked_at(
    data: ArrayTrainingData, trained: dict[str, Any], tmp_path: Path
) -> None:
    features = {}
    for name, array in data.features.items():
        np.save(tmp_path / f"{name}.npy", np.where(data.present[name][:, None, None], array, np.nan))
        features[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    mapped = train_heads(make_data(features=features), WIDTHS, SETTINGS)
    assert all(same(mapped.heads[name], trained["heads"][name]) for name in WIDTHS)


def test_the_sigmoid_loss_trains_heads_that_find_products_too(data: ArrayTrainingData) -> None:
    result = train_heads(data, WIDTHS, TrainingSettings(**{**vars(SETTINGS), "loss": "sigmoid"}))
    assert result.figures["settings"]["loss"] == "sigmoid"
    assert result.figures["loss"][-1] < result.figures["loss"][0]
    assert min(figures["recall@10"] for figures in result.figures["validation"].values()) > 0.7


def test_each_round_is_told_and_is_in_the_figures(data: ArrayTrainingData) -> None:
    told: list[Round] = []
    figures = train_heads(data, WIDTHS, SETTINGS, told.append).figures
    assert [one.step for one in told] == figures["round_steps"]
    assert [one.loss for one in told] == figures["loss"]
    assert {one.steps for one in told} == {48}
    for name in WIDTHS:
        assert figures["round_recall@10"][name] == [one.validation[name]["recall@10"] for one in told]
    assert "recall@10 on validation: picture 0." in told[-1].shown


def test_numpy_weighs_modalities_as_keras_does() -> None:
    rng = np.random.default_rng(0)
    model = gate_model(2, 16, 5, seed=0)
    for variable in model.trainable_variables:
        variable.assign(rng.standard_normal(variable.shape))
    vectors = {name: rng.standard_normal((50, 16)).astype(np.float32) for name in WIDTHS}
    vectors = {name: array / np.linalg.norm(array, axis=1, keepdims=True) for name, array in vectors.items()}
    present = {"picture": rng.random(50) < 0.6, "text": rng.random(50) < 0.6}
    assert (~present["picture"] & ~present["text"]).any()
    fusion = Fusion("attention", {"picture": 0.5, "text": 0.5}, gate=gate_of(model, tuple(WIDTHS)))
    expected = fuse_by_gate(model, [tf.constant(vectors[name]) for name in WIDTHS], [tf.constant(present[n]) for n in WIDTHS])
    np.testing.assert_allclose(fusion.fuse(vectors, present), expected, atol=1e-5)


def test_the_gate_learns_which_modality_says_something_of_a_product() -> None:
    """Half of the products have a picture of noise, the others a text of noise; each noise lies in a corner of its own."""
    data = make_data(2000)
    rng = np.random.default_rng(5)
    noisy = {"picture": np.arange(2000) % 2 == 0, "text": np.arange(2000) % 2 == 1}
    features = {
        name: np.where(noisy[name][:, None, None], rng.standard_normal(array.shape) - 6, array).astype(np.float16)
        for name, array in data.features.items()
    }
    whole = {name: np.ones(2000, bool) for name in WIDTHS}
    mixed = make_data(2000, features=features, present=whole)
    result = train_heads(mixed, WIDTHS, TrainingSettings(**{**vars(SETTINGS), "gate": True, "epochs": 40}))
    assert result.gate is not None
    vectors = {name: apply_head(result.heads[name], features[name][:, 0]) for name in WIDTHS}
    shares = result.gate.weigh({name: (vectors[name], whole[name]) for name in WIDTHS}, 2000)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
    assert shares[noisy["text"], 0].min() > 0.5
    assert shares[noisy["picture"], 1].min() > 0.5


def test_a_gap_added_to_one_modality_is_removed(data: ArrayTrainingData) -> None:
    rng = np.random.default_rng(0)
    heads = {name: random_head(width, 16, seed=0) for name, width in WIDTHS.items()}
    apart = {name: replace(head, bias=4 * rng.standard_normal(16).astype(np.float32)) for name, head in heads.items()}
    centred = remove_gaps(apart, data)

    def distance(heads: dict[str, Head]) -> float:
        means = [apply_head(heads[n], data.features[n][data.present[n], 0]).mean(axis=0) for n in WIDTHS]
        return float(np.linalg.norm(means[0] - means[1]))

    assert distance(apart) > 0.8
    assert distance(centred) < 0.2
    for name, head in centred.items():
        own = apply_head(apart[name], data.features[name][data.present[name], 0])
        np.testing.assert_allclose(head.gap, own.mean(axis=0), atol=1e-5)
    again = remove_gaps(centred, data)
    assert all(same(again[name], centred[name]) for name in WIDTHS)


def test_rounds_are_written_for_tensorboard(tmp_path: Path) -> None:
    recalls = {"picture": {"recall@1": 0.25, "recall@10": 0.5}}
    with event_log(str(tmp_path)) as write:
        write(Round(24, 48, 2.5, recalls))
        write(Round(48, 48, 1.5, recalls))
    (file,) = tmp_path.glob("events.out.tfevents.*")
    found = {}
    for record in tf.data.TFRecordDataset(str(file)):
        event = event_pb2.Event.FromString(record.numpy())
        for value in event.summary.value:
            assert value.metadata.plugin_data.plugin_name == "scalars"
            found[event.step, value.tag] = float(tf.make_ndarray(value.tensor))
    assert found == {
        (step, tag): value
        for step, loss in ((24, 2.5), (48, 1.5))
        for tag, value in (("loss", loss), ("validation/picture/recall@1", 0.25), ("validation/picture/recall@10", 0.5))
    }
