"""Losses that draw a query's vector to those of its right answers, of which there may be several, and away from others.

Both take logits float32[Q, B] of Q queries and B products, which of them are right answers, bool[Q, B], and which
products are there, bool[B]; both return one value.
"""

from __future__ import annotations

import tensorflow as tf


def contrastive_loss(logits: tf.Tensor, answers: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
    """Average the cross entropies of both directions: over a query's products and over a product's queries.

    The loss of CLIP (Radford et al. 2021) with several right answers, as in SupCon (Khosla et al. 2020, L_out).
    """
    logits = tf.where(present[None, :], logits, -1e9)
    positive = tf.cast(answers, tf.float32)
    total = 0.0
    for axis in (1, 0):
        right = tf.reduce_sum(positive, axis)
        entropy = -tf.reduce_sum(positive * tf.nn.log_softmax(logits, axis), axis) / tf.maximum(right, 1.0)
        total += tf.reduce_sum(entropy) / tf.maximum(tf.reduce_sum(tf.cast(right > 0, tf.float32)), 1.0)
    return total / 2.0


def sigmoid_loss(logits: tf.Tensor, answers: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
    """Sum the binary cross entropies of a query's pairs, average over queries: SigLIP (Zhai et al. 2023), algorithm 1."""
    signs = 2.0 * tf.cast(answers, tf.float32) - 1.0
    entropy = -tf.math.log_sigmoid(signs * logits) * tf.cast(present, tf.float32)[None, :]
    return tf.reduce_sum(entropy) / tf.maximum(tf.cast(tf.shape(logits)[0], tf.float32), 1.0)
