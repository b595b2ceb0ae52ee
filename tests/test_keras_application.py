"""Keras applications as towers."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import cosine_distance

from encoders.integrity import hash_file
from encoders.keras_application import ApplicationError
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
