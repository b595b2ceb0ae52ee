"""Networks of `keras.applications` as towers for pictures, with weights from a file, or ImageNet's from Keras."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from encoders.conversion import PictureNetwork
from encoders.depths import DepthsError, map_depths
from encoders.trainable import layers_of
from encoders.weights import WeightsError, combine_hashes, hash_arrays, read_verified, reason_of

POOLINGS = ("avg", "max")
DEPTHS = ("last", "all")
GIVEN = {"include_top", "weights", "input_tensor", "input_shape", "pooling"}

# Whatever changes a feature and is not in the weights: to be changed with the arithmetic below.
RECIPE = "keras application, 2"


class ApplicationError(ValueError):
    """An application or an option of it that Keras does not have."""


def picture_network(name: str, options: Mapping[str, str]) -> PictureNetwork:
    """Build an application without its top: uint8[B, side, side, 3] -> float32[B, D], pooled.

    Args:
        name: name in `keras.applications`.
        options: `weights`, a file of weights without the top; without it Keras finds or downloads ImageNet's; `sha256`
            of the file; `side`, by default the application's; `pooling`, "avg" (default) or "max"; `depths`, "last"
            (default) or "all" of them side by side; other parameters of it as JSON values.

    Raises:
        ApplicationError: for a name or an option that is unknown, or has nothing to be of.
        WeightsError: for a weights file that is missing, altered, or does not fit.
    """
    application = getattr(keras.applications, name, None)
    if not inspect.isfunction(application):
        known = sorted(key for key, value in vars(keras.applications).items() if inspect.isfunction(value))
        raise ApplicationError(f"keras.applications has no '{name}': it has {', '.join(known)}")
    parameters = _parameters(name, application, options)
    path = _verified_file(name, options)
    side = int(options["side"]) if "side" in options else _default_side(application, parameters)
    shape, pooling = (side, side, 3), options.get("pooling", POOLINGS[0])
    given = {"include_top": False, "input_shape": shape, "pooling": pooling, **parameters}
    model = _with_imagenet(name, application, given) if path is None else application(weights=None, **given)
    if path is not None:
        _load_weights(model, name, path)
    preprocess = sys.modules[application.__module__].preprocess_input
    settings = [name, side, pooling, parameters]
    if options.get("depths") == "all":
        settings.append("depths")
        features = _all_depths(name, model, side, pooling)
    else:
        features = partial(model, training=False)
    told = json.dumps(settings, sort_keys=True)
    return PictureNetwork(
        side=side,
        weights_hash=combine_hashes(RECIPE, told, keras.__version__, hash_arrays(model.get_weights())),
        features=lambda pictures: features(preprocess(tf.cast(pictures, tf.float32))),
        layers=layers_of(model),
    )


def _all_depths(name: str, model: keras.Model, side: int, pooling: str) -> Callable[[tf.Tensor], tf.Tensor]:
    try:
        return map_depths(model, side, tf.reduce_max if pooling == "max" else tf.reduce_mean)
    except DepthsError as error:
        raise ApplicationError(f"{name} {error}") from None


def _parameters(name: str, application: Any, options: Mapping[str, str]) -> dict[str, Any]:
    known = set(inspect.signature(application).parameters) - GIVEN
    others = {
        key: value for key, value in options.items() if key not in ("weights", "sha256", "side", "pooling", "depths")
    }
    unknown = sorted(set(others) - known)
    if unknown:
        raise ApplicationError(f"{name} has no option '{unknown[0]}': it has {', '.join(sorted(known))}")
    if options.get("pooling", "avg") not in POOLINGS:
        raise ApplicationError(f"pooling is '{options['pooling']}': it may be {' or '.join(POOLINGS)}")
    if options.get("depths", "last") not in DEPTHS:
        raise ApplicationError(f"depths is '{options['depths']}': it may be {' or '.join(DEPTHS)}")
    if not options.get("side", "1").isdecimal():
        raise ApplicationError(f"side is '{options['side']}': give a number of pixels")
    try:
        return {key: json.loads(value) for key, value in others.items()}
    except ValueError as error:
        raise ApplicationError(f"an option of {name} is not a JSON value: {error}") from None


def _with_imagenet(name: str, application: Any, given: Mapping[str, Any]) -> keras.Model:
    try:
        return application(weights="imagenet", **given)
    except Exception as error:  # what the network, h5py and Keras raise
        raise WeightsError(
            f"Keras has no ImageNet weights of {name} here and cannot download them ({reason_of(error)}): name a file, as in "
            f"keras:{name}?weights=<file>"
        ) from error


def _load_weights(model: keras.Model, name: str, path: Path) -> None:
    try:
        model.load_weights(path)
    except Exception as error:  # Keras and h5py raise whatever a foreign file makes them
        raise WeightsError(
            f"weights file {path} does not fit {name} without its top ({reason_of(error)}): "
            "give the file for include_top=False"
        ) from error


def _verified_file(name: str, options: Mapping[str, str]) -> Path | None:
    if "weights" not in options:
        if "sha256" in options:
            raise ApplicationError(f"sha256 is that of a file: name it, as in keras:{name}?weights=<file>&sha256=<hex>")
        return None
    path = Path(options["weights"])
    if not path.is_file():
        raise WeightsError(
            f"weights file {path} is missing: name a file with the weights of {name} without its top"
        )
    if "sha256" in options:
        read_verified(path, options["sha256"], "give the right file, or its own sha256")
    return path


def _default_side(application: Any, parameters: Mapping[str, Any]) -> int:
    # Only the network with its top has the size it was trained with.
    return int(application(include_top=True, weights=None, **parameters).input_shape[1])
