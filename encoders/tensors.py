"""Steps that networks for texts have in common, as functions of tensors."""

from __future__ import annotations

import keras
import tensorflow as tf

MASKED = -1e9  # added to what is not to count in a softmax or a maximum


def matmul(a: tf.Tensor, b: tf.Tensor, precision: str, transpose_b: bool = False) -> tf.Tensor:
    """Multiply float32 matrices as a policy of Keras does, in 16 bits where it is a mixed one: float32."""
    compute = keras.DTypePolicy(precision).compute_dtype
    product = tf.matmul(tf.cast(a, compute), tf.cast(b, compute), transpose_b=transpose_b)
    return tf.cast(product, tf.float32)


def unit(vectors: tf.Tensor) -> tf.Tensor:
    """Bring vectors float32[B, D] to unit norm."""
    return vectors * tf.math.rsqrt(tf.maximum(tf.reduce_sum(tf.square(vectors), 1, keepdims=True), 1e-24))


def within(lengths: tf.Tensor, places: tf.Tensor | int) -> tf.Tensor:
    """Tell which of so many places hold a token: bool[B, places] of lengths int32[B]."""
    return tf.expand_dims(tf.range(places), 0) < tf.expand_dims(lengths, 1)


def padded(ids: tf.Tensor, lengths: tf.Tensor, limit: int, padding: int) -> tf.Tensor:
    """Fill ids int32[B, L] beyond their lengths, and up to `limit`, with one id: int32[B, limit]."""
    wide = tf.pad(ids, [[0, 0], [0, limit]])[:, :limit]
    return tf.ensure_shape(tf.where(within(lengths, limit), wide, padding), [None, limit])


def pool_tokens(states: tf.Tensor, lengths: tf.Tensor, pooling: str) -> tf.Tensor:
    """Pool tokens' states float32[B, L, D], of which the first `lengths` count: float32[B, D], unit norm.

    pooling: "cls", the first token's; "max"; "mean".
    """
    if pooling == "cls":
        return unit(states[:, 0])
    mask = tf.expand_dims(tf.cast(within(lengths, tf.shape(states)[1]), tf.float32), 2)
    if pooling == "max":
        return unit(tf.reduce_max(states + (1.0 - mask) * MASKED, 1))
    return unit(tf.reduce_sum(states * mask, 1) / tf.expand_dims(tf.cast(lengths, tf.float32), 1))
