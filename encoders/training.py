"""Training of heads: features of the towers in, one head a modality out, by a symmetric contrastive loss in Keras.

Products' vectors, of each modality, are drawn towards the queries they answer and away from the others, so that
picture and text come to lie in one space with the queries. The text head serves queries and indexed texts alike. The
loss is that of CLIP (Radford et al. 2021) with several right answers, as in SupCon (Khosla et al. 2020, L_out).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from encoders.heads import Head, apply_head, random_head
from encoders.training_data import Features, Mask, TrainingBatch, TrainingData

logger = logging.getLogger(__name__)

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of training; the defaults were tuned on several thousand fashion products."""

    dimension: int = 256
    hidden_units: int = 512
    epochs: int = 40
    patience: int = 8
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    input_dropout: float = 0.1
    hidden_dropout: float = 0.3
    temperature: float = 0.07
    statistics_rows: int = 20_000
    seed: int = 0


@dataclass(frozen=True)
class TrainedHeads:
    """Hold the heads by modality, and figures of the training as JSON values."""

    heads: Mapping[str, Head]
    figures: Mapping[str, Any] = field(default_factory=dict)


def train_heads(
    data: TrainingData, dimensions: Mapping[str, int], settings: TrainingSettings | None = None
) -> TrainedHeads:
    """Fit one head a modality; `dimensions` says which modalities there are and how wide their features are.

    Keeps the weights of the epoch with the best mean recall@10 from queries to products of the validation batch, and
    stops `patience` epochs after it; without validation queries all epochs run and the last counts. A modality that no
    training product has, and all of them where there are no queries, get a `random_head`. Figures: `epochs`,
    `best_epoch`, `seconds`, `loss` by epoch, `validation` by modality: recall@1, recall@10; and sizes.
    """
    settings = settings or TrainingSettings()
    started = time.monotonic()
    moments = _measure(data, dimensions, settings.statistics_rows)
    heads = {
        name: random_head(width, settings.dimension, settings.seed) for name, width in dimensions.items()
    }
    if "text" not in moments:
        return TrainedHeads(heads, {"epochs": 0, "seconds": time.monotonic() - started, "trained": []})
    trainer = _Trainer(
        {name: _head_model(*moment, settings, seed=settings.seed + i) for i, (name, moment) in enumerate(moments.items())},
        settings,
    )
    validation = data.validation()
    history: list[dict[str, Any]] = []
    best: tuple[float, int, dict[str, Head]] = (-1.0, 0, {})
    for epoch in range(settings.epochs):
        loss = trainer.run_epoch(data, epoch)
        current = {name: head_of(model) for name, model in trainer.models.items()}
        recalls = evaluate_heads(current, validation)
        score = float(np.mean([r["recall@10"] for r in recalls.values()])) if recalls else float(epoch)
        history.append({"loss": loss, "validation": recalls})
        logger.info("epoch %d: loss %.4f, validation %s", epoch + 1, loss, recalls)
        if score > best[0]:
            best = (score, epoch, current)
        elif epoch - best[1] >= settings.patience:
            break
    heads.update(best[2])
    figures = {
        "trained": list(best[2]),
        "epochs": len(history),
        "best_epoch": best[1] + 1,
        "seconds": time.monotonic() - started,
        "loss": [entry["loss"] for entry in history],
        "validation": history[best[1]]["validation"],
    }
    return TrainedHeads(heads, figures)


def evaluate_heads(heads: Mapping[str, Head], batch: TrainingBatch) -> dict[str, dict[str, float]]:
    """Measure recall@1 and recall@10 from a batch's queries to its products, by modality.

    recall@k of a query is the share of its right answers, or of k where there are more, among the k nearest.
    Modalities without a right answer are left out.
    """
    if not len(batch.queries):
        return {}
    queries = apply_head(heads["text"], batch.queries)
    recalls = {}
    for name, head in heads.items():
        there = np.flatnonzero(batch.present[name])
        answers = batch.answers[:, there]
        asked = answers.any(axis=1)
        if not asked.any():
            continue
        similarity = queries[asked] @ apply_head(head, batch.products[name][there]).T
        recalls[name] = {f"recall@{k}": _recall(similarity, answers[asked], k) for k in (1, 10)}
    return recalls


def head_of(model: keras.Model) -> Head:
    """Take the weights of a head's Keras model for use in numpy."""
    standard, linear, hidden, output = (model.get_layer(n) for n in ("standard", "linear", "hidden", "output"))
    return Head(
        mean=np.asarray(standard.mean).reshape(-1),
        scale=np.sqrt(np.asarray(standard.variance)).reshape(-1),
        linear=np.asarray(linear.kernel),
        hidden=np.asarray(hidden.kernel),
        hidden_bias=np.asarray(hidden.bias),
        output=np.asarray(output.kernel),
        bias=np.asarray(linear.bias),
    )


class _Trainer:
    """Hold models, temperature and optimizer, and the compiled step over them."""

    def __init__(self, models: Mapping[str, keras.Model], settings: TrainingSettings) -> None:
        self.models = dict(models)
        self.settings = settings
        self.log_scale = keras.Variable(-math.log(settings.temperature), name="log_scale")
        self.optimizer = keras.optimizers.AdamW(settings.learning_rate, weight_decay=settings.weight_decay)
        self.optimizer.exclude_from_weight_decay(var_names=["bias", "log_scale"])
        self.variables = [v for m in self.models.values() for v in m.trainable_variables] + [self.log_scale]
        self.optimizer.build(self.variables)
        self.step = tf.function(self._step, reduce_retracing=True)

    def run_epoch(self, data: TrainingData, epoch: int) -> float:
        """Train on all batches of an epoch; returns the mean loss."""
        progress = epoch / self.settings.epochs
        self.optimizer.learning_rate = self.settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
        losses = [
            float(
                self.step(
                    {name: _tensor(batch.products[name], batch.present[name]) for name in self.models},
                    {name: tf.constant(batch.present[name]) for name in self.models},
                    tf.constant(np.asarray(batch.queries, np.float32)),
                    tf.constant(batch.answers),
                )
            )
            for batch in data.train_batches(epoch)
            if batch.answers.any()
        ]
        return float(np.mean(losses)) if losses else 0.0

    def _step(
        self, products: dict[str, tf.Tensor], present: dict[str, tf.Tensor], queries: tf.Tensor, answers: tf.Tensor
    ) -> tf.Tensor:
        with tf.GradientTape() as tape:
            asked = self.models["text"](queries, training=True)
            scale = tf.exp(tf.minimum(self.log_scale.value, math.log(100.0)))
            losses = [
                _contrast(
                    scale * tf.matmul(asked, model(products[name], training=True), transpose_b=True),
                    tf.logical_and(answers, present[name][None, :]),
                    present[name],
                )
                for name, model in self.models.items()
            ]
            loss = tf.add_n(losses) / len(losses)
        values = [variable.value for variable in self.variables]
        self.optimizer.apply(tape.gradient(loss, values), self.variables)
        return loss


def _contrast(logits: tf.Tensor, answers: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
    """Average the two directions' cross entropy: over products [Q, B -> 1] and over queries [Q -> 1, B]."""
    logits = tf.where(present[None, :], logits, -1e9)
    positive = tf.cast(answers, tf.float32)
    total = 0.0
    for axis in (1, 0):
        count = tf.reduce_sum(positive, axis)
        entropy = -tf.reduce_sum(positive * tf.nn.log_softmax(logits, axis), axis) / tf.maximum(count, 1.0)
        total += tf.reduce_sum(entropy) / tf.maximum(tf.reduce_sum(tf.cast(count > 0, tf.float32)), 1.0)
    return total / 2.0


def _head_model(mean: Float32, scale: Float32, settings: TrainingSettings, seed: int) -> keras.Model:
    """Build the model that `heads.Head` describes; it begins as an orthonormal projection of standardised features."""
    width = len(mean)
    layers = keras.layers
    features = keras.Input((width,))
    standard = layers.Normalization(mean=mean, variance=scale**2, name="standard")(features)
    kept = layers.Dropout(settings.input_dropout, seed=seed)(standard)
    linear = layers.Dense(
        settings.dimension, kernel_initializer=keras.initializers.Orthogonal(seed=seed), name="linear"
    )(kept)
    hidden = layers.Dense(
        settings.hidden_units, "relu", kernel_initializer=keras.initializers.HeNormal(seed=seed + 1), name="hidden"
    )(kept)
    hidden = layers.Dropout(settings.hidden_dropout, seed=seed + 1)(hidden)
    output = layers.Dense(settings.dimension, use_bias=False, kernel_initializer="zeros", name="output")(hidden)
    return keras.Model(features, layers.UnitNormalization()(layers.Add()([linear, output])))


def _measure(
    data: TrainingData, dimensions: Mapping[str, int], rows: int
) -> dict[str, tuple[Float32, Float32]]:
    """Measure mean and deviation of the first `rows` training features of each modality that has any.

    Queries count as texts. Nothing is measured where there is no query.
    """
    sums = {name: np.zeros((2, width)) for name, width in dimensions.items()}
    counts = dict.fromkeys(dimensions, 0)
    queries = 0
    for batch in data.train_batches(0):
        queries += len(batch.queries)
        taken = {name: batch.products[name][batch.present[name]] for name in dimensions}
        if "text" in taken:
            taken["text"] = np.concatenate([taken["text"], batch.queries])
        for name, features in taken.items():
            exact = np.asarray(features, np.float64)
            sums[name] += exact.sum(axis=0), np.square(exact).sum(axis=0)
            counts[name] += len(exact)
        if min(counts.values()) >= rows:
            break
    if not queries:
        return {}
    moments = {}
    for name, count in counts.items():
        if count:
            mean, square = sums[name] / count
            deviation = np.sqrt(np.maximum(square - mean**2, 0))
            # A value that hardly ever moves must not become the loudest one when it does.
            floor = max(0.1 * float(np.median(deviation)), 1e-6)
            moments[name] = mean.astype(np.float32), np.maximum(deviation, floor).astype(np.float32)
    return moments


def _tensor(features: Features, present: Mask) -> tf.Tensor:
    return tf.constant(np.where(present[:, None], features, 0).astype(np.float32))


def _recall(similarity: Float32, answers: Mask, k: int) -> float:
    k = min(k, similarity.shape[1])
    nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
    hits = np.take_along_axis(answers, nearest, axis=1).sum(axis=1)
    return float(np.mean(hits / np.minimum(answers.sum(axis=1), k)))
