"""SavedModels as towers, and those that are none."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from encoders import conversion
from encoders.presets import build_tower, probe_pictures
from encoders.saved_model import SavedModelError
from encoders.towers import load_tower
from encoders.weights import WeightsError, hash_folder


def save_function(folder: Path, function: Callable[..., Any], *inputs: tf.TensorSpec) -> str:
    """Save a function as a SavedModel, and give the specification of its tower."""
    conversion.save(folder, {"serving_default": (function, inputs)})
    return f"saved-model:{folder}"


PICTURES = tf.TensorSpec([None, 8, 8, 3], tf.uint8)
STRINGS = tf.TensorSpec([None], tf.string)


def pooled(pictures: tf.Tensor) -> dict[str, tf.Tensor]:
    """Give the mean colours of pictures."""
    return {"features": tf.reduce_mean(tf.cast(pictures, tf.float32), [1, 2])}


def test_a_saved_model_is_a_tower_verified_by_its_hash(tmp_path: Path) -> None:
    spec = save_function(tmp_path / "source", pooled, PICTURES)
    expected = hash_folder(tmp_path / "source")
    built = build_tower(f"{spec}?sha256={expected}", "picture", tmp_path / "tower")
    assert (built.dimension, built.side, built.weights_hash) == (3, 8, expected)
    shutil.rmtree(tmp_path / "source")
    pictures = probe_pictures(8)
    np.testing.assert_allclose(
        load_tower(tmp_path / "tower").encode(pictures), pictures.mean((1, 2)), rtol=1e-5
    )


def test_an_altered_saved_model_is_refused(tmp_path: Path) -> None:
    spec = save_function(tmp_path / "source", pooled, PICTURES)
    pinned = hash_folder(tmp_path / "source")
    (tmp_path / "source" / "variables" / "variables.index").write_bytes(b"altered")
    with pytest.raises(
        WeightsError, match=rf"^SavedModel .* has sha256 \w{{64}} instead of {pinned}: give the right"
    ):
        build_tower(f"{spec}?sha256={pinned}", "picture", tmp_path / "tower")
    assert not (tmp_path / "tower").exists()


def test_a_saved_model_of_fixed_batch_and_unknown_dimension_is_a_tower(tmp_path: Path) -> None:
    def shapeless(pictures: tf.Tensor) -> dict[str, tf.Tensor]:
        features = pooled(pictures)["features"]
        return {"features": tf.reshape(features, tf.concat([tf.shape(features)[:1], [-1]], 0))}

    spec = save_function(tmp_path / "source", shapeless, tf.TensorSpec([4, 8, 8, 3], tf.uint8))
    built = build_tower(spec, "picture", tmp_path / "tower")
    assert (built.dimension, built.batch, built.forms) == (3, 4, ("saved_model",))
    pictures = probe_pictures(8)
    np.testing.assert_allclose(
        load_tower(tmp_path / "tower").encode(pictures), pictures.mean((1, 2)), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("modality", "function", "inputs", "message"),
    [
        (
            "picture",
            lambda pictures: {"features": tf.reduce_mean(pictures, [1, 2])},
            [tf.TensorSpec([None, 8, 8, 3], tf.float32)],
            r"takes float32 \[B, 8, 8, 3\]: as a picture tower it has to take uint8 \[B, side, side, 3\]$",
        ),
        (
            "picture",
            pooled,
            [tf.TensorSpec([None, 8, 6, 3], tf.uint8)],
            r"takes uint8 \[B, 8, 6, 3\]: as a picture tower it has to take uint8 \[B, side, side, 3\]$",
        ),
        (
            "picture",
            lambda pictures: pooled(pictures) | {"more": tf.cast(pictures, tf.float32)},
            [PICTURES],
            r"has 1 inputs and 2 outputs: export it with one of each$",
        ),
        (
            "picture",
            lambda pictures: {"features": tf.cast(pictures, tf.float32)},
            [PICTURES],
            r"gives float32 \[B, 8, 8, 3\]: export it so that it gives floats \[B, D\]$",
        ),
        (
            "text",
            pooled,
            [PICTURES],
            r"takes uint8 \[B, 8, 8, 3\]: as a text tower it has to take string \[B\], B free$",
        ),
        (
            "text",
            lambda texts: {"ids": tf.strings.unicode_decode(texts, "UTF-8").to_tensor()},
            [STRINGS],
            r"gives int32 \[B, None\]: export it so that it gives floats \[B, D\]$",
        ),
    ],
)
def test_a_saved_model_that_is_no_tower_is_refused(
    modality: Any, function: Callable[..., Any], inputs: list[tf.TensorSpec], message: str, tmp_path: Path
) -> None:
    spec = save_function(tmp_path / "source", function, *inputs)
    with pytest.raises(SavedModelError, match=f"^{tmp_path}/source {message}"):
        build_tower(spec, modality, tmp_path / "tower")
    assert not (tmp_path / "tower").exists()


def test_a_saved_model_without_the_signature_or_none_at_all_is_refused(tmp_path: Path) -> None:
    conversion.save(tmp_path / "source", {"embed": (pooled, [PICTURES])})
    with pytest.raises(
        SavedModelError, match=r"has the signatures \['embed'\]: export it as 'serving_default'$"
    ):
        build_tower(f"saved-model:{tmp_path / 'source'}", "picture", tmp_path / "tower")
    with pytest.raises(
        SavedModelError, match=rf"^{tmp_path} is no SavedModel: name a folder that holds saved_model"
    ):
        build_tower(f"saved-model:{tmp_path}", "picture", tmp_path / "tower")
