"""Precision, XLA and batches of towers: what they change, what they leave, and who has no use for them."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from conftest import cosine_distance
from test_hugging_face import bert_like_folder
from test_keras_hub import TEXTS, clip_pair

from encoders.bundle import write_bundle
from encoders.conversion import ConversionError, check_equal
from encoders.fusion import Fusion
from encoders.heads import random_head
from encoders.pooling import Views
from encoders.presets import build_tower
from encoders.sources import read_source
from encoders.tower_spec import Modality, TowerError, TowerSpec
from encoders.towers import load_tower
from pipelines.features import Space

SIDE = 64


@pytest.fixture(scope="module")
def mobilenet(application_weights: Path) -> str:
    """Give the specification of a small network."""
    return f"keras:MobileNet?weights={application_weights}&alpha=0.25&side={SIDE}"


@pytest.fixture(scope="module")
def plain(mobilenet: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[TowerSpec, Path]:
    """Build it without options."""
    folder = tmp_path_factory.mktemp("plain") / "tower"
    return build_tower(mobilenet, "picture", folder), folder


def pictures(count: int = 5) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


def space(spec: TowerSpec) -> str:
    return Space.of(spec, Views()).id


# --- precision ---


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_a_mixed_precision_gives_nearly_the_same_in_another_space(
    precision: str, mobilenet: str, plain: tuple[TowerSpec, Path], tmp_path: Path
) -> None:
    built = build_tower(f"{mobilenet}&precision={precision}", "picture", tmp_path / "tower")
    assert (built.precision, built.forms, built.dimension) == (precision, ("saved_model",), plain[0].dimension)
    assert TowerSpec.from_json((tmp_path / "tower" / "tower.json").read_text()) == built
    assert space(built) != space(plain[0])
    assert keras.config.dtype_policy().name == "float32"
    found, expected = (load_tower(folder).encode(pictures()) for folder in (tmp_path / "tower", plain[1]))
    assert found.dtype == np.float32
    assert 1e-8 < cosine_distance(found, expected) < 1e-2


def test_float32_is_the_space_of_before(mobilenet: str, plain: tuple[TowerSpec, Path], tmp_path: Path) -> None:
    built = build_tower(f"{mobilenet}&precision=float32&batch=4&xla=off", "picture", tmp_path / "tower")
    assert (built.batch, plain[0].batch) == (4, 32)
    assert space(built) == space(plain[0])
    assert (built.forms, built.precision, built.xla) == (plain[0].forms, "float32", False)
    written = (tmp_path / "tower" / "tower.json").read_text()
    assert "precision" not in written.replace(built.spec, "")
    tower, other = (load_tower(folder, "saved_model") for folder in (tmp_path / "tower", plain[1]))
    np.testing.assert_allclose(tower.encode(pictures(9)), other.encode(pictures(9)), rtol=1e-4, atol=1e-5)


def test_the_kin_of_bert_in_a_mixed_precision(tmp_path: Path) -> None:
    folder = bert_like_folder(tmp_path / "model", "distilbert")
    towers = {}
    for precision in ("float32", "mixed_bfloat16"):
        built = build_tower(f"hf:{folder}?precision={precision}", "text", tmp_path / precision)
        towers[built.weights_hash] = load_tower(tmp_path / precision, "saved_model").encode(TEXTS)
    found, expected = towers.values()
    assert 1e-8 < cosine_distance(found, expected) < 1e-2


def test_both_sides_of_a_pair_in_a_mixed_precision(tmp_path: Path) -> None:
    name, _, _ = clip_pair(tmp_path / "preset")
    sides: tuple[tuple[Modality, npt.NDArray[np.uint8] | list[str]], ...] = (
        ("text", TEXTS), ("picture", np.random.default_rng(2).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)),
    )  # fmt: skip
    for modality, items in sides:
        found = []
        for precision in ("float32", "mixed_bfloat16"):
            build_tower(f"keras-hub:{name}?precision={precision}", modality, tmp_path / f"{modality}-{precision}")
            found.append(load_tower(tmp_path / f"{modality}-{precision}", "saved_model").encode(items))
        assert 1e-8 < cosine_distance(found[1], found[0]) < 1e-2


def test_sixteen_bits_that_do_not_hold_a_feature_are_told() -> None:
    features = np.ones((2, 3), np.float32)
    with pytest.raises(ConversionError, match=r"not finite: 16 bits do not hold them, mixed_bfloat16 may$"):
        check_equal(features, features * np.inf, "a", "b", "mixed_float16")
    near = features + np.array([[0, 0, 0.05]], np.float32)
    assert check_equal(features, near, "a", "b", "mixed_bfloat16") > 1e-6
    with pytest.raises(ConversionError, match=r"^a differs from b by a cosine distance of 2\.7e-04 "):
        check_equal(features, near, "a", "b")


# --- XLA ---


def test_xla_gives_the_same_in_the_same_space(mobilenet: str, plain: tuple[TowerSpec, Path], tmp_path: Path) -> None:
    built = build_tower(f"{mobilenet}&xla=on&batch=4", "picture", tmp_path / "tower")
    assert (built.xla, built.forms) == (True, ("litert", "saved_model"))
    assert space(built) == space(plain[0])
    tower = load_tower(tmp_path / "tower")
    assert (tower.form, tower.runs_in) == ("saved_model", "TensorFlow, compiled by XLA, on the CPU, without a GPU")
    expected = load_tower(plain[1], "saved_model").encode(pictures(9))
    found = tower.encode(pictures(9))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_queries_take_litert_where_jobs_take_xla(mobilenet: str, tmp_path: Path) -> None:
    built = build_tower(f"{mobilenet}&xla=on", "picture", tmp_path / "tower")
    heads = {"picture": random_head(built.dimension, 8, 0)}
    fusion = Fusion("mean", {"picture": 1.0})
    bundle = write_bundle(tmp_path / "bundle", {"picture": tmp_path / "tower"}, heads, fusion, {}, {})
    assert bundle.towers["picture"].xla
    assert [tower.form for tower in (bundle.load_tower("picture"), load_tower(tmp_path / "tower"))] == ["litert", "saved_model"]


def test_texts_of_any_length_are_compiled_in_few_shapes(tmp_path: Path) -> None:
    folder = bert_like_folder(tmp_path / "model", "roberta")
    texts = [*TEXTS, *("red " * count for count in range(1, 90, 7))]
    built = build_tower(f"hf:{folder}?xla=on", "text", tmp_path / "xla")
    plain = build_tower(f"hf:{folder}", "text", tmp_path / "plain")
    assert (built.xla, built.weights_hash) == (True, plain.weights_hash)
    found, expected = (load_tower(tmp_path / name, "saved_model").encode(texts) for name in ("xla", "plain"))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_saved_model_is_compiled_where_xla_can(tmp_path: Path) -> None:
    class Pixels(tf.Module):
        def __init__(self, compiles: bool):
            super().__init__()
            self.compiles = compiles

        @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3], tf.uint8)])
        def __call__(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
            values = tf.reshape(tf.cast(images, tf.float32), [-1, 192])
            return {"features": values if self.compiles else tf.strings.to_number(tf.strings.as_string(values))}

    for compiles in (True, False):
        module = Pixels(compiles)
        tf.saved_model.save(module, str(tmp_path / f"{compiles}"), signatures={"serving_default": module.__call__})
    built = build_tower(f"saved-model:{tmp_path}/True?xla=on", "picture", tmp_path / "tower")
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(load_tower(tmp_path / "tower").encode(images), images.reshape(3, -1))
    assert built.xla
    with pytest.raises(ConversionError, match=r"^saved-model:.*/False\?xla=on cannot be compiled by XLA: "):
        build_tower(f"saved-model:{tmp_path}/False?xla=on", "picture", tmp_path / "other")


@pytest.mark.parametrize(
    ("spec", "modality", "why"),
    [
        ("tflite:a.tflite?precision=mixed_bfloat16", "picture", "a LiteRT file computes in what it was converted to"),
        ("tflite:a.tflite?xla=on", "picture", "a LiteRT file runs in LiteRT, which XLA does not compile"),
        ("tflite:a.tflite?batch=8", "picture", "a LiteRT file says itself how many pictures it takes at once"),
        ("package:minilm?precision=float32", "text", "the packaged towers compute in float32"),
        ("package:efficientnet-lite0?xla=on", "picture", "the packaged towers run in LiteRT, which XLA does not compile"),
        ("saved-model:m?precision=mixed_float16", "text", "a SavedModel computes in what it was saved with"),
        ("saved-model:m?xla=on", "text", "a SavedModel for texts takes strings, which XLA cannot compile"),
    ],
)
def test_who_has_no_use_for_them_says_why(spec: str, modality: Modality, why: str) -> None:
    option = spec.partition("?")[2].partition("=")[0]
    with pytest.raises(TowerError) as refused:
        read_source(spec, modality)
    assert str(refused.value) == f"tower '{spec}' has the option '{option}', but {why}: leave it away"


def test_values_that_mean_nothing_are_refused() -> None:
    with pytest.raises(TowerError, match=r": precision may be float32, mixed_bfloat16, mixed_float16$"):
        read_source("keras:ResNet50?precision=float16", "picture")
    with pytest.raises(TowerError, match=r": xla may be off, on$"):
        read_source("hf:model?xla=true", "text")
    with pytest.raises(TowerError, match=r": batch is a number of at least 1$"):
        read_source("keras:ResNet50?batch=0", "picture")
