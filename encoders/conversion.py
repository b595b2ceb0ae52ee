"""Towers written down: functions frozen into SavedModels, converted to LiteRT, compared with one another."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from encoders.tower_spec import Decoding, Precision, TextForm
from encoders.trainable import Layers
from encoders.weights import reason_of

MAX_COSINE_DISTANCE, MAX_STRETCH = 1e-6, 1e-3
# Sums of 16 bits depend on how many items there are beside one.
MIXED_COSINE_DISTANCE, MIXED_STRETCH = 1e-3, 2e-2

_log = logging.getLogger(__name__)


class ConversionError(ValueError):
    """A network cannot be converted, or does not answer as it should."""


@dataclass(frozen=True)
class PictureNetwork:
    """A network for pictures, as functions of tensors.

    Attributes:
        side: pixels of the square it takes.
        weights_hash: hash of all that determines a feature besides the picture.
        features: uint8[B, side, side, 3] -> float32[B, D].
        decoding: how a picture's file becomes the square.
        layers: variables of its layers that can be trained further, see `encoders.trainable`; none: it cannot be.
        precision: what it computes in.
    """

    side: int
    weights_hash: str
    features: Callable[[tf.Tensor], tf.Tensor]
    decoding: Decoding = field(default_factory=Decoding)
    layers: Layers = ()
    precision: Precision = "float32"


@dataclass(frozen=True)
class TextNetwork:
    """A network for texts, as functions of tensors.

    Attributes:
        token_limit: tokens a text is cut at, its end kept.
        weights_hash: hash of all that determines a feature besides the text.
        weights: arrays by name; none where `features` holds them.
        features: weights (arrays or variables), ids int32[B, L], padded anyhow, and lengths int32[B]
            -> float32[B, D].
        tokenise: string[B] -> ragged int32[B, (L)], with begin and end, uncut; None: both forms take ids.
        resources: what `tokenise` reads, to be saved with it.
        tokenizer: its kind for forms that take ids, a key of `tower_spec.TOKENIZER_FILES`.
        tokenizer_file: content of that file.
        prefix: what is written before each text.
        text_form: what is done to a text then, see `TowerSpec`.
        layers: variables of its layers that can be trained further, or the names of its `weights` that are one.
        precision: what it computes in.
    """

    token_limit: int
    weights_hash: str
    weights: Mapping[str, npt.NDArray[Any]]
    features: Callable[[Mapping[str, Any], tf.Tensor, tf.Tensor], tf.Tensor]
    tokenise: Callable[[tf.Tensor], tf.RaggedTensor] | None
    resources: Mapping[str, Any]
    tokenizer: str
    tokenizer_file: bytes
    prefix: str = ""
    text_form: TextForm = "as_is"
    layers: Layers = ()
    precision: Precision = "float32"


def save_picture_network(network: PictureNetwork, folder: Path) -> None:
    """Write a network for pictures as a SavedModel."""
    side = network.side
    pictures = tf.TensorSpec([None, side, side, 3], tf.uint8, name="pictures")
    frozen = freeze(lambda pictures: tf.cast(network.features(pictures), tf.float32), pictures)
    save(folder, {"serving_default": (lambda pictures: {"features": frozen(pictures)}, [pictures])})


def save_text_network(network: TextNetwork, folder: Path) -> None:
    """Write a network for texts as a SavedModel: strings in, tokenised inside, where it can tokenise; else ids in.

    With two functions its weights are variables: constants are copied with each, and would take twice the memory.
    """
    tokenise = network.tokenise
    if tokenise is None:
        save_numeric(network, folder)
        return
    variables = {name: tf.Variable(array, trainable=False) for name, array in network.weights.items()}
    last = network.token_limit - 1

    def serve(texts: tf.Tensor) -> dict[str, tf.Tensor]:
        tokens = tokenise(texts)
        cut = tf.concat([tokens[:, :last], tokens[:, last:][:, -1:]], 1)
        lengths = tf.cast(cut.row_lengths(), tf.int32)
        return {"features": network.features(variables, cut.to_tensor(), lengths)}

    def count_tokens(texts: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"tokens": tf.cast(tokenise(texts).row_lengths(), tf.int32)}

    texts = [tf.TensorSpec([None], tf.string, name="texts")]
    signatures = {"serving_default": (serve, texts), "count_tokens": (count_tokens, texts)}
    save(folder, signatures, weights=list(variables.values()), **network.resources)


def save_numeric(network: TextNetwork, folder: Path) -> None:
    """Write a network for texts as a SavedModel that takes ids int32[B, L] and lengths int32[B]."""
    inputs = [
        tf.TensorSpec([None, None], tf.int32, name="ids"),
        tf.TensorSpec([None], tf.int32, name="lengths"),
    ]
    frozen = freeze(lambda ids, lengths: network.features(network.weights, ids, lengths), *inputs)
    save(folder, {"serving_default": (lambda ids, lengths: {"features": frozen(ids, lengths)}, inputs)})


def freeze(function: Callable[..., tf.Tensor], *inputs: tf.TensorSpec) -> Callable[..., tf.Tensor]:
    """Trace a function of tensors and turn its variables into constants.

    Frozen networks take half the space of Keras's export, run up to 1.3 times as fast, and leave no variable
    that a converter could lose.
    """
    frozen = convert_variables_to_constants_v2(tf.function(function, autograph=False).get_concrete_function(*inputs))

    def call(*arguments: tf.Tensor) -> tf.Tensor:
        outputs = frozen(*arguments)
        return outputs[0] if isinstance(outputs, list | tuple) else outputs

    return call


def save(
    folder: Path, signatures: Mapping[str, tuple[Callable[..., Any], Sequence[tf.TensorSpec]]], **tracked: Any
) -> None:
    """Write a SavedModel.

    Args:
        folder: where it goes.
        signatures: name -> (function giving a dictionary of tensors, its inputs).
        tracked: the resources that the functions read.
    """
    module = tf.Module()
    for name, resource in tracked.items():
        setattr(module, name, resource)
    functions = {
        name: tf.function(function, autograph=False).get_concrete_function(*inputs)
        for name, (function, inputs) in signatures.items()
    }
    # Gradients of swish and the like refer to tensors that freezing removes.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(module, str(folder), signatures=functions, options=options)
    # It holds a random number: without it, the same weights make the same files.
    (folder / "fingerprint.pb").unlink(missing_ok=True)


def convert(saved_model: Path) -> bytes:
    """Convert the signature `serving_default` to LiteRT, float32 throughout.

    Raises ConversionError where LiteRT lacks an operation or a variable is left.
    """
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model), signature_keys=["serving_default"])
    try:
        model: bytes = converter.convert()
    except Exception as error:  # the converter raises a type of its own and bare Exceptions
        raise ConversionError(f"{saved_model} cannot be converted to LiteRT: {reason_of(error)}") from error
    refuse_variables(model)
    return model


def refuse_variables(model: bytes) -> None:
    """Raise ConversionError where a LiteRT model reads variables, which a converter leaves without values."""
    from ai_edge_litert import schema_py_generated as schema

    content = schema.Model.GetRootAs(model, 0)
    codes = [content.OperatorCodes(index).BuiltinCode() for index in range(content.OperatorCodesLength())]
    if schema.BuiltinOperator.VAR_HANDLE in codes:
        raise ConversionError(
            "the LiteRT model reads variables (VAR_HANDLE), which hold no weights: freeze it first"
        )


def check_equal(
    expected: npt.NDArray[Any], found: npt.NDArray[Any], name: str, original: str, precision: Precision = "float32"
) -> float:
    """Compare features float[N, D] row by row; returns the largest cosine distance.

    Raises ConversionError above 1e-6, for norms that differ by more than a thousandth, for other shapes and
    for values that are not finite; with a mixed precision, above 1e-3 and 2 %.
    """
    mixed = precision != "float32"
    most, longest = (MIXED_COSINE_DISTANCE, MIXED_STRETCH) if mixed else (MAX_COSINE_DISTANCE, MAX_STRETCH)
    if expected.shape != found.shape:
        raise ConversionError(
            f"{name} gives features {list(found.shape)}, {original} {list(expected.shape)}: refused"
        )
    if not (np.isfinite(found).all() and np.isfinite(expected).all()):
        why = "weights are lost or wrong" if precision != "mixed_float16" else "16 bits do not hold them, mixed_bfloat16 may"
        raise ConversionError(f"{name} or {original} gives features that are not finite: {why}")
    a, b = expected.astype(np.float64), found.astype(np.float64)
    lengths, others = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    products = np.where((lengths == 0) & (others == 0), 1.0, lengths * others)
    cosines = np.where(lengths + others == 0, 1.0, (a * b).sum(axis=1) / np.maximum(products, 1e-300))
    distance = max(0.0, float((1.0 - cosines).max(initial=0.0)))
    stretch = float((np.abs(others - lengths) / np.maximum(lengths, 1e-12)).max(initial=0.0))
    if distance > most or stretch > longest:
        raise ConversionError(
            f"{name} differs from {original} by a cosine distance of {distance:.1e} and {stretch:.1e} of the "
            "norm: refused"
        )
    _log.info("%s equals %s to a cosine distance of %.1e", name, original, distance)
    return distance


def probe_dimension(saved_model: Path, items: npt.NDArray[Any] | Sequence[str], batch: int) -> int:
    """Ask a SavedModel for the dimension of its features, by running it where its signature does not tell."""
    loaded = tf.saved_model.load(str(saved_model))
    serve = loaded.signatures["serving_default"]
    (given,) = serve.structured_outputs.values()
    if given.shape.rank is None or given.shape[-1] is None:
        ((name, _),) = serve.structured_input_signature[1].items()
        (given,) = serve(**{name: tf.constant([items[0]] * batch)}).values()
    if given.shape.rank != 2:
        raise ConversionError(f"{saved_model} gives features of shape {given.shape}: they have to be [B, D]")
    return int(given.shape[-1])
