"""Networks written down: both forms compared, conversions that are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from encoders import conversion
from encoders.conversion import ConversionError, PictureNetwork
from encoders.presets import probe_pictures, write_picture_tower
from encoders.towers import load_tower


def picture_network(features: Callable[[tf.Tensor], tf.Tensor], side: int = 32) -> PictureNetwork:
    """Make a network for pictures of a function of pixels in 0..1."""
    return PictureNetwork(side, "00", lambda pictures: features(tf.cast(pictures, tf.float32) / 255.0))


def test_a_network_with_a_gradient_of_its_own_is_saved(tmp_path: Path) -> None:
    convolution = keras.layers.Conv2D(8, 3, strides=4, activation="silu")
    network = picture_network(lambda pixels: tf.reduce_mean(convolution(pixels), [1, 2]))
    assert write_picture_tower("tiny", network, tmp_path).forms == ("litert", "saved_model")


def test_a_network_that_mixes_the_items_of_a_batch_is_refused(tmp_path: Path) -> None:
    network = picture_network(lambda pixels: tf.reduce_mean(pixels - tf.reduce_mean(pixels, 0), [1, 2]))
    with pytest.raises(
        ConversionError, match=r"^tiny in a batch differs from itself alone by a cosine distance of "
    ):
        write_picture_tower("tiny", network, tmp_path)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (tf.math.digamma, r"saved_model cannot be converted to LiteRT: "),
        # Converted without a word, to a network that cannot run.
        (tf.math.lgamma, r"^the LiteRT form of tiny does not run \(.*\): refused$"),
    ],
)
def test_a_network_that_litert_cannot_run_keeps_its_saved_model_where_that_is_enough(
    function: Callable[[tf.Tensor], tf.Tensor], message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = picture_network(lambda pixels: function(1.5 + tf.reduce_mean(pixels, [1, 2])))
    with pytest.raises(ConversionError, match=message):
        write_picture_tower("tiny", network, tmp_path / "required")
    built = write_picture_tower("tiny", network, tmp_path / "wanted", litert="wanted")
    assert built.forms == ("saved_model",)
    assert "tiny runs in TensorFlow only: " in caplog.text
    assert load_tower(tmp_path / "wanted").encode(probe_pictures(32)).shape == (5, 3)
    assert not (tmp_path / "wanted" / "model.tflite").exists()


def test_a_converted_network_without_its_weights_is_refused(tmp_path: Path) -> None:
    # The converter reports success for a Keras model saved this way, and answers NaN.
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(inputs)))

    class Unfrozen(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3], tf.uint8)])
        def __call__(self, pictures: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"features": self.model(tf.cast(pictures, tf.float32))}

    module = Unfrozen()
    tf.saved_model.save(module, str(tmp_path / "model"), signatures=module.__call__)
    with pytest.raises(
        ConversionError, match=r"^the LiteRT model reads variables \(VAR_HANDLE\), which hold no weights"
    ):
        conversion.convert(tmp_path / "model")


def test_features_that_differ_are_refused() -> None:
    a = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    assert conversion.check_equal(a, a * (1 + 1e-5), "b", "a") < 1e-9
    assert conversion.check_equal(a * 0, a * 0, "b", "a") == 0
    with pytest.raises(
        ConversionError, match=r"^b differs from a by a cosine distance of 1\.4e-05 and .* refused$"
    ):
        conversion.check_equal(a, a + 0.01 * (np.arange(8) == 3), "b", "a")
    with pytest.raises(ConversionError, match=r"^b differs from a by .* and 1\.0e-02 of the norm: refused$"):
        conversion.check_equal(a, a * 1.01, "b", "a")
    with pytest.raises(ConversionError, match=r"^b differs from a by a cosine distance of 1\.0e\+00 "):
        conversion.check_equal(a, a * 0, "b", "a")
    with pytest.raises(
        ConversionError, match=r"^b or a gives features that are not finite: weights are lost"
    ):
        conversion.check_equal(a, a * np.nan, "b", "a")
    with pytest.raises(ConversionError, match=r"^b gives features \[4, 7\], a \[4, 8\]: refused$"):
        conversion.check_equal(a, a[:, :7], "b", "a")
