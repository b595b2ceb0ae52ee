"""Keras models of heads and of the fusion's gate, and their weights for use in numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from encoders.gate import Gate
from encoders.heads import Head

if TYPE_CHECKING:
    from encoders.training import TrainingSettings

Float32 = npt.NDArray[np.float32]


def head_model(mean: Float32, scale: Float32, settings: TrainingSettings, seed: int, dropout: float) -> keras.Model:
    """Build the Keras model that `heads.Head` describes: float32[B, D] -> float32[B, d].

    It begins as an orthonormal projection of the standardised features, of which a share `dropout` is left out in training.
    """
    layers, initializers = keras.layers, keras.initializers
    features = keras.Input((len(mean),))
    standard = layers.Normalization(mean=mean, variance=np.square(scale), name="standard")(features)
    kept = layers.Dropout(dropout, seed=seed)(standard)
    linear = layers.Dense(settings.dimension, kernel_initializer=initializers.Orthogonal(seed=seed), name="linear")(kept)
    hidden = layers.Dense(settings.hidden_units, "relu", kernel_initializer=initializers.HeNormal(seed=seed + 1), name="hidden")(
        kept
    )
    hidden = layers.Dropout(settings.hidden_dropout, seed=seed + 1)(hidden)
    output = layers.Dense(settings.dimension, use_bias=False, kernel_initializer="zeros", name="output")(hidden)
    return keras.Model(features, layers.UnitNormalization()(layers.Add()([linear, output])))


def head_of(model: keras.Model) -> Head:
    """Take the weights of a head's Keras model for use in numpy."""
    standard, linear, hidden, output = (model.get_layer(name) for name in ("standard", "linear", "hidden", "output"))
    return Head(
        mean=np.asarray(standard.mean).reshape(-1),
        scale=np.sqrt(np.asarray(standard.variance)).reshape(-1),
        linear=np.asarray(linear.kernel),
        hidden=np.asarray(hidden.kernel),
        hidden_bias=np.asarray(hidden.bias),
        output=np.asarray(output.kernel),
        bias=np.asarray(linear.bias),
    )


def gate_model(modalities: int, dimension: int, units: int, seed: int) -> keras.Model:
    """Build the Keras model that `gate.Gate` describes, before its softmax: float32[B, M * d + M] -> float32[B, M].

    It begins by weighing all modalities alike.
    """
    inputs = keras.Input((modalities * (dimension + 1),))
    hidden = keras.layers.Dense(
        units, "relu", kernel_initializer=keras.initializers.HeNormal(seed=seed), name="hidden"
    )(inputs)
    return keras.Model(inputs, keras.layers.Dense(modalities, kernel_initializer="zeros", name="output")(hidden))


def gate_of(model: keras.Model, modalities: tuple[str, ...]) -> Gate:
    """Take the weights of a gate's Keras model for use in numpy."""
    hidden, output = model.get_layer("hidden"), model.get_layer("output")
    arrays = (np.asarray(weight) for weight in (hidden.kernel, hidden.bias, output.kernel, output.bias))
    return Gate(modalities, *arrays)


def fuse_by_gate(model: keras.Model, vectors: list[tf.Tensor], present: list[tf.Tensor]) -> tf.Tensor:
    """Fuse vectors of the gate's modalities, float32[B, d] each, as `Fusion` of the kind "attention" does."""
    masks = tf.stack(present, axis=1)
    there = tf.cast(masks, tf.float32)
    masked = [vector * there[:, number : number + 1] for number, vector in enumerate(vectors)]
    logits = tf.where(masks, model(tf.concat([*masked, there], axis=1)), -1e9)
    shares = tf.nn.softmax(logits, axis=1) * there
    return tf.math.l2_normalize(tf.add_n([shares[:, n : n + 1] * vector for n, vector in enumerate(masked)]), axis=1)
