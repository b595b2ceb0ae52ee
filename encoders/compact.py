"""A compact network for pictures, to be trained from scratch on a catalogue for which no weights can be had."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from encoders.conversion import PictureNetwork
from encoders.trainable import layers_of
from encoders.weights import combine_hashes, hash_arrays

# Whatever changes a feature and is not in the weights: to be changed with the arithmetic below.
RECIPE = "compact, 1"

WIDTHS, BLOCKS, DIMENSION = (32, 64, 128, 192), 2, 256


def picture_network(side: int, seed: int = 0) -> PictureNetwork:
    """Build the untrained network: uint8[B, side, side, 3] -> float32[B, 256].

    Four stages of blocks, each a depthwise 5 x 5 convolution, a normalisation over channels and two pointwise ones beside a
    shortcut (as ConvNeXt: Liu et al. 2022), then mean and maximum over the picture: 0.9 million parameters. No statistics of
    batches, so that it computes the same in training and after it.
    """
    model = build(side, seed)
    return PictureNetwork(
        side=side,
        weights_hash=combine_hashes(RECIPE, str(side), keras.__version__, hash_arrays(model.get_weights())),
        features=lambda pictures: model(tf.cast(pictures, tf.float32) / 127.5 - 1.0, training=False),
        layers=layers_of(model),
    )


def build(side: int, seed: int) -> keras.Model:
    """Build the Keras model, float32[B, side, side, 3] in -1..1 -> float32[B, 256], its weights drawn by a seed."""
    layers, seeds = keras.layers, iter(range(1000 * seed, 1000 * seed + 1000))

    def drawn() -> Any:
        return keras.initializers.HeNormal(seed=next(seeds))

    def convolve(x: Any, width: int, kernel: int, stride: int = 1) -> Any:
        return layers.Conv2D(width, kernel, stride, "same", kernel_initializer=drawn())(x)

    picture = keras.Input((side, side, 3))
    x = picture
    for width in WIDTHS:
        x = layers.LayerNormalization(epsilon=1e-6)(convolve(x, width, 3, 2))
        for _ in range(BLOCKS):
            y = layers.DepthwiseConv2D(5, padding="same", depthwise_initializer=drawn())(x)
            y = layers.LayerNormalization(epsilon=1e-6)(y)
            y = convolve(layers.ReLU()(convolve(y, 2 * width, 1)), width, 1)
            x = layers.Add()([x, layers.Rescaling(0.5)(y)])
    pooled = layers.Concatenate()([layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(x)])
    pooled = layers.LayerNormalization(epsilon=1e-6)(pooled)
    return keras.Model(picture, layers.Dense(DIMENSION, kernel_initializer=drawn())(pooled))
