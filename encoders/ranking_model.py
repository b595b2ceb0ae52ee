"""The TensorFlow side of `encoders.ranking`: the same formula for many queries at once, with its gradient."""

from __future__ import annotations

import math

import keras
import numpy as np
import tensorflow as tf

from encoders.ranking import ARRAYS, Ranker


class RankerModel:
    """Hold the variables of a ranker; its output begins as 0, so that candidates begin as cosine ranks them."""

    def __init__(self, modalities: tuple[str, ...], dimension: int, attention_units: int, hidden_units: int, seed: int) -> None:
        many, a = len(modalities), attention_units
        rng = np.random.default_rng(seed)

        def drawn(rows: int, columns: int) -> np.ndarray:
            return rng.standard_normal((rows, columns)) / math.sqrt(rows)

        begin = {
            "query": drawn(dimension, a), "query_embedding": np.zeros((many, a)), "key": drawn(dimension, a),
            "key_embedding": np.zeros((many, a)), "value": drawn(dimension, a), "value_embedding": np.zeros((many, a)),
            "hidden": drawn(a + 2 * many, hidden_units), "hidden_bias": np.zeros(hidden_units), "output": np.zeros(hidden_units),
        }  # fmt: skip
        self.modalities = modalities
        self.variables = {name: keras.Variable(begin[name], dtype="float32", name=name) for name in ARRAYS}

    def ranker(self, kinds: tuple[str, ...] = ()) -> Ranker:
        """Take the weights for use in numpy."""
        return Ranker(self.modalities, kinds, *(np.asarray(self.variables[name]) for name in ARRAYS))

    def correct(self, asked: tf.Tensor, given: tf.Tensor, tokens: tf.Tensor, there: tf.Tensor, dropout: float = 0.0) -> tf.Tensor:
        """Return what is to be added to the cosines: float32[Q, K].

        Takes vectors of Q queries, float32[Q, M, d], and of K candidates of each, float32[Q, K, M, d], and which are there,
        float32[Q, M] and float32[Q, K, M]; vectors that are not there are zeros. `dropout` is that of the hidden layer's inputs.
        """
        v = {name: variable.value for name, variable in self.variables.items()}
        own = tf.tensordot(asked, v["query"], 1) + v["query_embedding"]
        keys = tf.tensordot(tokens, v["key"], 1) + v["key_embedding"]
        values = tf.tensordot(tokens, v["value"], 1) + v["value_embedding"]
        logits = tf.einsum("qia,qkja->qikj", own, keys) / math.sqrt(v["query"].shape[1])
        shares = tf.nn.softmax(tf.where(there[:, None] > 0, logits, -1e9), axis=3)
        context = tf.einsum("qikj,qkja->qika", shares, values)
        near = tf.einsum("qid,qkjd->qikj", asked, tokens)
        inputs = tf.concat([own[:, :, None] * context, near, tf.zeros_like(near) + there[:, None]], axis=3)
        if dropout:
            inputs = tf.nn.dropout(inputs, dropout)
        hidden = tf.nn.relu(tf.tensordot(inputs, v["hidden"], 1) + v["hidden_bias"])
        each = tf.tensordot(hidden, v["output"], 1) * given[:, :, None]
        return tf.reduce_sum(each, 1) / tf.reduce_sum(given, 1)[:, None]
