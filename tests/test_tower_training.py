"""Training of towers: what changes, what is kept, which towers take it, and how it goes on after a break."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from drawn_shapes import KINDS, SIDE, drawn

from encoders.compact import picture_network
from encoders.conversion import PictureNetwork
from encoders.heads import Head, apply_head, random_head
from encoders.keras_application import picture_network as application_network
from encoders.sources import check_trainable, load_network, read_source
from encoders.tower_data import TowerItems
from encoders.tower_spec import TowerError
from encoders.tower_trainer import TWIN, TowerTrainingSettings
from encoders.tower_training import TrainedTowers, train_towers
from encoders.trainable import last_variables, layers_of, value_of
from encoders.training_data import ArrayTrainingData

PRODUCTS = 96
HEADS = {"picture": random_head(256, 16, 0), "text": random_head(KINDS, 16, 1)}


def toy(products: int = PRODUCTS, asked: bool = True, **changes: Any) -> TowerItems:
    """Make a catalogue of drawn pictures in two pieces, asked for by shape and colour."""
    kinds = np.arange(products) % KINDS
    pixels, rows = drawn(kinds), np.arange(products)
    texts = np.eye(KINDS, dtype=np.float16)[kinds] + np.random.default_rng(1).normal(0, 0.1, (products, KINDS))
    data = ArrayTrainingData(
        features={"picture": np.zeros((products, 1, 0), np.float16), "text": texts[:, None].astype(np.float16)},
        present={"picture": np.ones(products, bool), "text": np.ones(products, bool)},
        queries=np.eye(KINDS, dtype=np.float16)[: KINDS if asked else 0],
        title_ids=kinds[:, None] if asked else np.full((products, 1), -1),
        product_phrases=np.full((products, 1), -1),
        validation_rows=rows // KINDS % 4 == 3,
        batch_rows=24,
        seed=5,
    )
    pieces = [rows[rows // KINDS % 2 == half] for half in (0, 1)]
    views = changes.pop("views", lambda pictures, rows, numbers: np.roll(pictures, numbers[0] % 3 - 1, axis=2))
    return TowerItems(data, pieces, 1, lambda piece: pixels[pieces[piece]], views, **changes)


@dataclass
class Memory:
    """A checkpoint in memory; `stop_at` is how many are written before the process is as if killed."""

    stop_at: int | None = None
    data: bytes | None = None
    written: int = 0
    all: list[bytes] = field(default_factory=list)

    def read(self) -> bytes | None:
        return self.data

    def write(self, data: bytes) -> None:
        self.data, self.written = data, self.written + 1
        self.all.append(data)
        if self.written == self.stop_at:
            raise KeyboardInterrupt


SETTINGS = TowerTrainingSettings({"picture": None}, steps=40, rounds=4, checkpoint_steps=6, learning_rate=2e-3)


def fresh() -> PictureNetwork:
    """Make a network of four layers whose weights are always the same."""
    picture = keras.Input((SIDE, SIDE, 3))
    x = picture
    for seed, width in enumerate((16, 32)):
        x = keras.layers.Conv2D(width, 5, 3, activation="relu", kernel_initializer=keras.initializers.HeNormal(seed))(x)
        if not seed:
            x = keras.layers.DepthwiseConv2D(3, padding="same", depthwise_initializer=keras.initializers.HeNormal(3))(x)
            x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.Concatenate()([keras.layers.GlobalMaxPooling2D()(x), keras.layers.GlobalAveragePooling2D()(x)])
    model = keras.Model(picture, keras.layers.Dense(256, kernel_initializer=keras.initializers.HeNormal(2))(x))
    return PictureNetwork(
        SIDE, "four", lambda pictures: model(tf.cast(pictures, tf.float32) / 127.5 - 1.0, training=False), layers=layers_of(model)
    )


def values(network: PictureNetwork) -> list[np.ndarray]:
    return [value_of(variable) for variable in last_variables(network.layers, None)]


def trained(
    items: TowerItems, memory: Memory | None = None, network: PictureNetwork | None = None, **changes: Any
) -> tuple[TrainedTowers, list[np.ndarray]]:
    network, heads = network or fresh(), HEADS if items.asks else {"picture": HEADS["picture"]}
    result = train_towers({"picture": network}, heads, items, replace(SETTINGS, **changes), memory or Memory())
    return result, values(network)


@pytest.fixture(scope="module")
def unbroken() -> tuple[TrainedTowers, list[np.ndarray]]:
    return trained(toy())


def halved(pictures: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pictures[:, ::2, ::2])


def test_a_compact_tower_trained_from_scratch_ranks_shapes_and_colours() -> None:
    items = toy(products=384)
    pixels = items.pixels
    assert pixels is not None
    items = replace(items, pixels=lambda piece: halved(pixels(piece)))
    kinds = np.arange(5 * KINDS) % KINDS
    others = halved(drawn(kinds, seed=99))

    def right(network: PictureNetwork, heads: Mapping[str, Head]) -> float:
        """Return the share of right ones among the first five pictures that a kind finds."""
        pictures = apply_head(heads["picture"], network.features(others).numpy())
        ranks = np.argsort(-(apply_head(heads["text"], np.eye(KINDS, dtype=np.float32)) @ pictures.T), axis=1)
        return float(np.mean([kinds[rank[:5]] == kind for kind, rank in enumerate(ranks)]))

    network = picture_network(SIDE // 2)
    assert right(network, HEADS) < 0.3
    result, _ = trained(items, network=network, steps=100, rounds=2, checkpoint_steps=50)
    assert right(network, result.heads) > 0.8


def test_a_compact_tower_has_less_than_a_million_parameters_and_no_statistics_of_batches() -> None:
    network = picture_network(SIDE)
    assert sum(value.size for value in values(network)) < 1_000_000
    assert picture_network(SIDE).weights_hash == network.weights_hash


def test_the_loss_falls_and_the_best_round_is_kept(unbroken: tuple[TrainedTowers, Any]) -> None:
    figures = unbroken[0].figures
    assert len(figures["loss"]) == 4
    assert figures["loss"][-1] < figures["loss"][0]
    scores = [np.mean([v for one in of_it.values() for v in one.values()]) for of_it in figures["validation"]]
    assert len(scores) == 5
    assert figures["best_step"] == 10 * int(np.argmax(scores))
    assert (figures["steps"], figures["resumed_from"]) == (40, 0)


def test_a_broken_training_goes_on_to_the_weights_of_an_unbroken_one(unbroken: tuple[TrainedTowers, list[np.ndarray]]) -> None:
    memory = Memory(stop_at=3)
    with pytest.raises(KeyboardInterrupt):
        trained(toy(), memory)
    result, weights = trained(toy(), Memory(data=memory.data))
    assert result.figures["resumed_from"] == 12
    assert result.figures["loss"] == unbroken[0].figures["loss"]
    assert result.figures["validation"] == unbroken[0].figures["validation"]
    assert all(np.array_equal(one, other) for one, other in zip(weights, unbroken[1], strict=True))
    for name, head in result.heads.items():
        assert all(np.array_equal(value, vars(unbroken[0].heads[name])[key]) for key, value in vars(head).items())
    assert result.networks["picture"].weights_hash == unbroken[0].networks["picture"].weights_hash


def test_windows_before_the_first_batch_are_not_read() -> None:
    read: list[int] = []
    items = toy()
    pixels = items.pixels
    assert pixels is not None

    def told(piece: int) -> Any:
        read.append(piece)
        return pixels(piece)

    whole = [batch for batch, _ in zip(items.train_batches(0), range(9), strict=False)]
    later = next(replace(items, pixels=told).train_batches(7))
    assert len(read) == 1
    assert later.pictures is not None
    assert whole[7].pictures is not None
    np.testing.assert_array_equal(later.pictures, whole[7].pictures)
    np.testing.assert_array_equal(later.stored.answers, whole[7].stored.answers)
    held_out = drawn(np.arange(PRODUCTS) % KINDS)[items.data.validation_rows]
    shown = np.concatenate([batch.pictures for batch in whole if batch.pictures is not None])
    assert not any((shown == picture).all(axis=(1, 2, 3)).any() for picture in held_out)


def test_without_queries_views_of_a_picture_find_one_another() -> None:
    result, _ = trained(toy(asked=False), steps=30, rounds=3)
    assert [set(one) for one in result.figures["validation"]] == [{TWIN}] * 4
    assert result.figures["loss"][-1] < result.figures["loss"][0]
    assert set(result.heads) == {"picture"}


def test_a_training_that_makes_nothing_better_keeps_the_tower_as_it_was() -> None:
    result, weights = trained(toy(), learning_rate=0.0, head_learning_rate=0.0, steps=4, rounds=2)
    network = fresh()
    assert result.figures["best_step"] == 0
    assert result.networks["picture"].weights_hash == network.weights_hash
    assert all(np.array_equal(one, other) for one, other in zip(weights, values(network), strict=True))


def test_time_runs_out_after_a_step_which_is_measured() -> None:
    memory = Memory()
    result, _ = trained(toy(), memory, minutes=0.0)
    assert result.figures["steps"] == 1
    assert len(result.figures["validation"]) == 2
    assert memory.written == 1


def test_only_the_last_layers_change() -> None:
    network = fresh()
    before = values(network)
    last = {id(variable) for variable in last_variables(network.layers, 3)}
    items = toy()
    # Without products to validate with, the last round is the one that is kept.
    items = replace(items, data=replace(items.data, validation_rows=np.zeros(PRODUCTS, bool)))
    result, _ = trained(items, network=network, layers={"picture": 3}, steps=8, rounds=2)
    assert (result.figures["best_step"], result.figures["validation"]) == (8, [{}, {}, {}])
    every = last_variables(network.layers, None)
    # Of the depthwise convolution also scale and shift of the normalisation after it.
    assert [len(layer) for layer in network.layers] == [2, 4, 2, 2]
    for variable, old in zip(every, before, strict=True):
        assert np.array_equal(value_of(variable), old) == (id(variable) not in last), variable.path


def test_a_network_of_mixed_precision_is_trained_in_it() -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        network = fresh()
    finally:
        keras.config.set_dtype_policy(before)
    assert network.features(tf.constant(drawn(np.arange(2)))).dtype == tf.bfloat16
    old = values(network)
    items = toy()
    items = replace(items, data=replace(items.data, validation_rows=np.zeros(PRODUCTS, bool)))
    result, weights = trained(items, network=network, steps=12, rounds=2)
    assert result.figures["loss"][1] < result.figures["loss"][0]
    assert not any(np.array_equal(one, other) for one, other in zip(weights, old, strict=True))


def test_layers_of_an_application_are_its_convolutions(application_weights: Path) -> None:
    source = read_source(f"keras:MobileNet?weights={application_weights}&alpha=0.25&side=32", "picture")
    network = application_network(source.name, source.options)
    # A depthwise and a pointwise convolution a block, each with its normalisation, and the first one.
    assert len(network.layers) == 27
    assert all(sum(len(variable.shape) > 1 for variable in layer) == 1 for layer in network.layers)


@pytest.mark.parametrize(("kind", "modality", "layers"), [("vit", "picture", 3), ("clip", "picture", 3), ("siglip", "picture", 3),
                                                            ("bert", "text", 3)])  # fmt: skip
def test_blocks_of_transformers_are_layers(real_data: Path, kind: str, modality: Any, layers: int) -> None:
    network = load_network(read_source(f"hf:{real_data / 'golden' / kind}", modality))
    assert len(network.layers) >= layers
    assert len({id(part) for layer in network.layers for part in layer}) == sum(map(len, network.layers))


@pytest.mark.parametrize(
    ("spec", "modality", "why"),
    [
        ("tflite:model.tflite", "picture", "a LiteRT file is a finished graph; name one of keras:, keras-hub:, hf: or pack"),
        ("saved-model:tower", "text", "a SavedModel is a finished graph; name one of keras-hub:, hf: or package:minilm"),
        ("package:use-multilingual", "text", "its weights are quantised"),
        ("keras:VGG16?precision=mixed_float16", "picture", "16 bits do not hold its gradients, mixed_bfloat16 may"),
        ("package:efficientnet-lite0,keras:VGG16", "picture", "of several towers side by side none can be"),
    ],
)
def test_towers_that_cannot_be_trained_further_are_refused(spec: str, modality: Any, why: str) -> None:
    with pytest.raises(TowerError, match=re.escape(f"tower '{spec}' cannot be trained further: {why}")):
        check_trainable(spec, modality)


def test_compact_towers_have_a_side(tmp_path: Path) -> None:
    with pytest.raises(TowerError, match=r"tower 'compact:8': give the pixels of a side, at least 16, as in compact:64"):
        read_source("compact:8", "picture")
    with pytest.raises(TowerError, match="tower 'compact:64' encodes a picture, not a text"):
        read_source("compact:64", "text")
    with pytest.raises(TowerError, match="has the option 'precision', but a compact tower is trained in float32"):
        read_source("compact:64?precision=mixed_bfloat16", "picture")
