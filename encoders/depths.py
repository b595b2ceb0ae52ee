"""Features of several depths of a network for pictures: middle layers, pooled, beside its last.

The last layer knows what kind of thing is shown, middle ones keep colour and texture. Each depth is brought to unit norm, so that
each counts the same in a cosine; the first values are the last layer's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from encoders.tensors import unit

GLOBAL_POOLINGS = (keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D)

Features = Callable[[tf.Tensor], tf.Tensor]


class DepthsError(ValueError):
    """A network has no middle layers that could stand beside its last."""


def map_depths(model: keras.Model, side: int, pool: Callable[..., tf.Tensor]) -> Features:
    """Return the function that gives the depths of a network of maps: float[B, side, side, 3] -> float32[B, D].

    A depth is the last layer of those that see the picture at one size: half of its side, a quarter and so on. Maps are pooled
    by `pool` (`tf.reduce_mean` or `tf.reduce_max`), the last as the network does it.

    Raises DepthsError for a network without middle layers that are maps.
    """
    maps: dict[int, Any] = {}
    last = 0
    for layer in model.layers:
        given: Any = layer.output
        if isinstance(layer, GLOBAL_POOLINGS):  # the last of them is that of the whole network
            last = _halvings(layer.input, side)
        elif len(given.shape) == 4 and not isinstance(layer, keras.layers.ZeroPadding2D):
            maps[_halvings(given, side)] = given
    middle = [output for depth, output in sorted(maps.items()) if 0 < depth < last]
    if not middle:
        raise DepthsError("has no middle layers that are maps of the picture: leave depths=all away")
    depths = keras.Model(model.input, [*middle, model.output])

    def features(pixels: tf.Tensor) -> tf.Tensor:
        *outputs, pooled = (tf.cast(output, tf.float32) for output in depths(pixels, training=False))
        return tf.concat([unit(block) for block in [pooled, *(pool(output, [1, 2]) for output in outputs)]], 1)

    return features


def pyramid_depths(backbone: Any) -> Features:
    """Return what `map_depths` does of a backbone of KerasHub, whose levels it names; all maps are pooled by their mean.

    Raises DepthsError for a backbone without several levels.
    """
    levels: Mapping[str, Any] = getattr(backbone, "pyramid_outputs", None) or {}
    middle = [levels[name] for name in sorted(levels, key=lambda name: int(name[1:]))][:-1]
    if not middle:
        raise DepthsError("has no middle layers that are maps of the picture: leave depths=all away")
    depths = keras.Model(backbone.input, [*middle, backbone.output])

    def features(pixels: tf.Tensor) -> tf.Tensor:
        *outputs, last = (tf.cast(output, tf.float32) for output in depths(pixels, training=False))
        return tf.concat([unit(tf.reduce_mean(output, [1, 2])) for output in [last, *outputs]], 1)

    return features


def token_depths(encoder: Any, side: int, last: Features) -> Features:
    """Return the function that gives the depths of a transformer: `last`, its feature, and three of its blocks beside it.

    These are the blocks after a quarter, a half and three quarters of them, of which the tokens of the picture's patches are
    averaged, not the class token or registers before them.

    Args:
        encoder: the transformer, which has a `patch_size` and a row of blocks.
        side: pixels of a picture's side.
        last: runs the encoder: float[B, side, side, 3] -> float32[B, D].

    Raises DepthsError for a transformer of one block.
    """
    blocks = _blocks(encoder)
    places = sorted({round(len(blocks) * quarters / 4) - 1 for quarters in (1, 2, 3)} & set(range(len(blocks) - 1)))
    if not places:
        raise DepthsError("has no row of blocks, of which middle ones could be taken: leave depths=all away")
    size = encoder.patch_size
    patches = (side // (size if isinstance(size, int) else size[0])) ** 2
    given: dict[int, tf.Tensor] = {}
    for place in places:
        _note(blocks[place], place, given)

    def features(pixels: tf.Tensor) -> tf.Tensor:
        given.clear()
        feature = last(pixels)
        tokens = [tf.cast(given[place], tf.float32)[:, -patches:] for place in places]
        return tf.concat([unit(block) for block in [feature, *(tf.reduce_mean(states, 1) for states in tokens)]], 1)

    return features


def _note(block: Any, place: int, given: dict[int, tf.Tensor]) -> None:
    """Make a layer note what it gives; Keras has no hooks, and no symbolic output of blocks within a layer."""
    call = block.call

    def noting(*inputs: Any, **more: Any) -> Any:
        output = call(*inputs, **more)
        given[place] = output[0] if isinstance(output, tuple) else output
        return output

    block.call = noting


def _blocks(layer: Any) -> list[Any]:
    """Return the longest row of layers of one kind, with layers of their own, that stand next to each other in a layer."""
    children = layer._layers
    kinds = Counter(type(child) for child in children if child._layers)
    rows = [[child for child in children if type(child) is kind] for kind in kinds]
    return max([*rows, *(_blocks(child) for child in children)], key=len, default=[])


def _halvings(output: Any, side: int) -> int:
    """Return how often the picture was halved on the way to a map."""
    return round(math.log2(side / output.shape[1]))
