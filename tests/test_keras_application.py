"""Keras applications as towers."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import cosine_distance, least_cosine

from encoders.integrity import hash_file
from encoders.keras_application import ApplicationError, picture_network
from encoders.presets import build_tower
from encoders.towers import load_tower
from encoders.weights import WeightsError


def test_a_keras_application_answers_as_keras_does(application_weights: Path, tmp_path: Path) -> None:
    spec = f"keras:MobileNet?weights={application_weights}&alpha=0.25&side=64&pooling=max"
    built = build_tower(f"{spec}&sha256={hash_file(application_weights)}", "picture", tmp_path / "tower")
    assert (built.side, built.dimension, built.forms) == (64, 256, ("litert", "saved_model"))
    pictures = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    model = keras.applications.MobileNet(
        include_top=False,
        weights=str(application_weights),
        alpha=0.25,
        input_shape=(64, 64, 3),
        pooling="max",
    )
    expected = model.predict(
        keras.applications.mobilenet.preprocess_input(pictures.astype(np.float32)), verbose=0
    )
    for form in built.forms:
        found = load_tower(tmp_path / "tower", form).encode(pictures)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
        assert cosine_distance(found, expected) < 1e-6


def test_a_keras_applications_size_is_its_own_where_none_is_given(
    application_weights: Path, tmp_path: Path
) -> None:
    built = build_tower(
        f"keras:MobileNet?weights={application_weights}&alpha=0.25", "picture", tmp_path / "tower"
    )
    assert built.side == 224
    smaller = build_tower(
        f"keras:MobileNet?weights={application_weights}&alpha=0.25&side=64", "picture", tmp_path / "b"
    )
    assert built.weights_hash != smaller.weights_hash


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            "MobileNot?weights=W",
            ApplicationError,
            r"^keras\.applications has no 'MobileNot': it has ConvNeXtBase, ",
        ),
        (
            "MobileNet",
            WeightsError,
            r"^Keras has no ImageNet weights of MobileNet here and cannot download them \(.*\): name a file, as in keras:",
        ),
        (
            "MobileNet?weights=/no/file.h5",
            WeightsError,
            r"^weights file /no/file\.h5 is missing: name a file with ",
        ),
        (
            "MobileNet?weights=W&depth=3",
            ApplicationError,
            r"^MobileNet has no option 'depth': it has alpha, ",
        ),
        ("MobileNet?weights=W&pooling=sum", ApplicationError, r"^pooling is 'sum': it may be avg or max$"),
        ("MobileNet?weights=W&side=big", ApplicationError, r"^side is 'big': give a number of pixels$"),
        (
            "MobileNet?weights=W&alpha=small",
            ApplicationError,
            r"^an option of MobileNet is not a JSON value: ",
        ),
        (
            "MobileNet?weights=W&sha256=00",
            WeightsError,
            r"^weights file .* has sha256 \w{64} instead of 00: give the",
        ),
        ("MobileNet?sha256=00", ApplicationError, r"^sha256 is that of a file: name it, as in keras:MobileNet\?weights="),
        (
            "MobileNet?weights=W&alpha=0.5&side=64",
            WeightsError,
            r"^weights file .* does not fit MobileNet without ",
        ),
    ],
)
def test_an_application_that_cannot_be_built_is_refused(
    options: str, error: type[Exception], message: str, application_weights: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        build_tower(
            f"keras:{options.replace('=W', f'={application_weights}')}", "picture", tmp_path / "tower"
        )
    assert list(tmp_path.iterdir()) == []


def test_depths_stand_side_by_side_each_of_unit_norm(application_weights: Path, tmp_path: Path) -> None:
    spec = f"keras:MobileNet?weights={application_weights}&alpha=0.25&side=64"
    plain = build_tower(spec, "picture", tmp_path / "plain")
    built = build_tower(f"{spec}&depths=all", "picture", tmp_path / "tower")
    pictures = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    widths = [256, 16, 32, 64, 128]  # of the last layer, then of those at 32, 16, 8 and 4 pixels a side
    assert built.dimension == sum(widths)
    assert built.forms == plain.forms
    assert built.weights_hash != plain.weights_hash
    blocks = np.split(load_tower(tmp_path / "tower").encode(pictures), np.cumsum(widths)[:-1], axis=1)
    for block in blocks:
        np.testing.assert_allclose(np.linalg.norm(block, axis=1), 1, atol=1e-5)
    assert least_cosine(blocks[0], load_tower(tmp_path / "plain").encode(pictures)) > 0.99999


@pytest.mark.parametrize(
    ("name", "dimension"),
    [("ResNet50", 2048 + 64 + 256 + 512 + 1024), ("VGG16", 512 + 128 + 256 + 512 + 512),
     ("MobileNetV3Small", 576 + 16 + 72 + 96 + 288), ("ConvNeXtTiny", 768 + 96 + 192 + 384)],
)  # fmt: skip
def test_the_middle_depths_of_a_family_are_found(name: str, dimension: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = getattr(keras.applications, name)
    monkeypatch.setattr("encoders.keras_application._with_imagenet", lambda _, __, given: random(weights=None, **given))
    network = picture_network(name, {"side": "64", "depths": "all"})
    assert network.features(tf.zeros((1, 64, 64, 3), tf.uint8)).shape == (1, dimension)


def test_depths_of_another_name_are_refused(application_weights: Path) -> None:
    with pytest.raises(ApplicationError, match=r"^depths is 'some': it may be last or all$"):
        picture_network("MobileNet", {"weights": str(application_weights), "depths": "some"})
