"""Losses that draw a query's vector to those of its right answers, of which there may be several, and away from others.

Both take logits float32[Q, B] of Q queries and B products, which of them are right answers, bool[Q, B], and which
products are there, bool[B]; both return one value.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import keras
import tensorflow as tf


class VectorLoss:
    """One of the losses below, of vectors of unit norm, with what it learns itself.

    The contrastive one begins at `temperature`, the sigmoid one where its paper does; smoothing is of the contrastive one.

    Attributes:
        variables: the logarithm of what cosines are multiplied by, and the sigmoid loss's bias.
    """

    def __init__(self, kind: Literal["contrastive", "sigmoid"], temperature: float, smoothing: float) -> None:
        self.contrastive, self.smoothing = kind == "contrastive", smoothing
        scale = -math.log(temperature) if self.contrastive else math.log(10.0)
        self.log_scale = keras.Variable(scale, name="log_scale")
        self.bias = keras.Variable(0.0 if self.contrastive else -10.0, name="bias")
        self.variables: list[Any] = [self.log_scale] + ([] if self.contrastive else [self.bias])

    def __call__(self, asked: tf.Tensor, vectors: tf.Tensor, answers: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """Return the loss of queries float32[Q, D] and products float32[B, D]; a product that is not there answers nothing."""
        scale = tf.exp(tf.minimum(self.log_scale.value, math.log(100.0)))
        logits = scale * tf.matmul(asked, vectors, transpose_b=True)
        answers = tf.logical_and(answers, present[None, :])
        if self.contrastive:
            return contrastive_loss(logits, answers, present, self.smoothing)
        return sigmoid_loss(logits + self.bias.value, answers, present)


def contrastive_loss(logits: tf.Tensor, answers: tf.Tensor, present: tf.Tensor, smoothing: float = 0.0) -> tf.Tensor:
    """Average the cross entropies of both directions: over a query's products and over a product's queries.

    The loss of CLIP (Radford et al. 2021) with several right answers, as in SupCon (Khosla et al. 2020, L_out). A share
    `smoothing` of what is right is spread over all that is there (Szegedy et al. 2016), right or not.
    """
    there = tf.broadcast_to(present[None, :], tf.shape(logits))
    logits = tf.where(there, logits, -1e9)
    positive, all_there = tf.cast(answers, tf.float32), tf.cast(there, tf.float32)
    total = 0.0
    for axis in (1, 0):
        right = tf.reduce_sum(positive, axis, keepdims=True)
        target = (1.0 - smoothing) * positive / tf.maximum(right, 1.0)
        target += smoothing * all_there / tf.maximum(tf.reduce_sum(all_there, axis, keepdims=True), 1.0)
        asked = tf.cast(right > 0, tf.float32)
        entropy = -tf.reduce_sum(asked * target * tf.nn.log_softmax(logits, axis))
        total += entropy / tf.maximum(tf.reduce_sum(asked), 1.0)
    return total / 2.0


def sigmoid_loss(logits: tf.Tensor, answers: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
    """Sum the binary cross entropies of a query's pairs, average over queries: SigLIP (Zhai et al. 2023), algorithm 1."""
    signs = 2.0 * tf.cast(answers, tf.float32) - 1.0
    entropy = -tf.math.log_sigmoid(signs * logits) * tf.cast(present, tf.float32)[None, :]
    return tf.reduce_sum(entropy) / tf.maximum(tf.cast(tf.shape(logits)[0], tf.float32), 1.0)
