"""Training of heads: features of the towers in, one head a modality out, by a symmetric contrastive loss in Keras.

Products' vectors, of each modality, are drawn towards the queries they answer and away from the others, so that
picture and text come to lie in one space with the queries. The text head serves queries and indexed texts alike.
The loss is that of CLIP (Radford et al. 2021) with several right answers, as in SupCon (Khosla et al. 2020, L_out).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count, islice
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
    """Settings of training; the defaults were tuned on several thousand fashion products.

    epochs: passes over the training products at most; None takes 80, but no less than `least_steps` and no more than
    `most_steps` steps, so that few products are seen often enough and many do not take hours. The learning rate
    falls to 0 along half a cosine. After each of `rounds` equal parts the heads are measured, and training
    ends `patience` parts after the best one. average: decay, a step, of the running mean of the weights that is kept.
    """

    dimension: int = 256
    hidden_units: int = 512
    epochs: int | None = None
    least_steps: int = 800
    most_steps: int = 6000
    rounds: int = 40
    patience: int = 15
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    input_dropout: float = 0.3
    hidden_dropout: float = 0.3
    temperature: float = 0.07
    average: float = 0.98
    statistics_rows: int = 20_000
    seed: int = 0


@dataclass(frozen=True)
class TrainedHeads:
    """Hold the heads by modality, and figures of the training as JSON values."""

    heads: Mapping[str, Head]
    figures: Mapping[str, Any] = field(default_factory=dict)


def train_heads(data: TrainingData, dimensions: Mapping[str, int], settings: TrainingSettings | None = None) -> TrainedHeads:
    """Fit one head a modality; `dimensions` says which modalities there are and how wide their features are.

    Keeps the heads of the round with the best mean recall@10 from queries to products of the validation batch;
    without validation queries all rounds run and the last counts. A modality that no training product has, and all
    of them where there are no queries, get a `random_head`. Equal data, settings, versions, machine and
    thread count give equal heads. Figures: `trained` modalities, `steps`, `epochs` (passes), `best_epoch`,
    `seconds`, mean `loss` by round, and `validation`: recall@1 and recall@10 by modality.
    """
    settings = settings or TrainingSettings()
    started = time.monotonic()
    heads = {name: random_head(width, settings.dimension, settings.seed) for name, width in dimensions.items()}
    moments = _measure(data, dimensions, settings.statistics_rows)
    if "text" not in moments:
        return TrainedHeads(heads, {"trained": [], "epochs": 0, "seconds": time.monotonic() - started})
    steps = _steps(data.steps_per_epoch, settings)
    trainer = _Trainer(moments, steps, settings)
    batches = _endless(data)
    validation = data.validation()
    best_score, best_step = -1.0, 0
    best_recalls: dict[str, dict[str, float]] = {}
    losses: list[float] = []
    done = 0
    for part in np.array_split(np.arange(steps), min(settings.rounds, steps)):
        losses.append(float(np.mean([trainer.train(batch) for batch in islice(batches, len(part))])))
        done += len(part)
        current = {name: head_of(model) for name, model in trainer.averages.items()}
        recalls = evaluate_heads(current, validation)
        score = float(np.mean([recall["recall@10"] for recall in recalls.values()])) if recalls else float(done)
        shown = ", ".join(f"{name} {figures['recall@10']:.3f}" for name, figures in recalls.items())
        logger.info("train: step %d of %d, loss %.3f, recall@10 on validation: %s", done, steps, losses[-1], shown)
        if score > best_score:
            best_score, best_step, best_recalls = score, done, recalls
            heads.update(current)
        elif done - best_step >= settings.patience * len(part):
            break
    figures = {
        "trained": list(moments),
        "steps": done,
        "epochs": round(done / data.steps_per_epoch, 2),
        "best_epoch": round(best_step / data.steps_per_epoch, 2),
        "seconds": round(time.monotonic() - started, 2),
        "loss": losses,
        "validation": best_recalls,
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
        if asked.any():
            similarity = queries[asked] @ apply_head(head, batch.products[name][there]).T
            recalls[name] = {f"recall@{k}": _recall(similarity, answers[asked], k) for k in (1, 10)}
    return recalls


def head_model(mean: Float32, scale: Float32, settings: TrainingSettings, seed: int) -> keras.Model:
    """Build the Keras model that `heads.Head` describes: float32[B, D] -> float32[B, d].

    It begins as an orthonormal projection of the standardised features.
    """
    layers, initializers = keras.layers, keras.initializers
    features = keras.Input((len(mean),))
    standard = layers.Normalization(mean=mean, variance=np.square(scale), name="standard")(features)
    kept = layers.Dropout(settings.input_dropout, seed=seed)(standard)
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


class _Trainer:
    """Hold the models that are trained, the running means of their weights, and the compiled step."""

    def __init__(self, moments: Mapping[str, tuple[Float32, Float32]], steps: int, settings: TrainingSettings) -> None:
        self.decay = settings.average
        self.models, self.averages = (
            {
                name: head_model(mean, scale, settings, settings.seed + 10 * number)
                for number, (name, (mean, scale)) in enumerate(moments.items())
            }
            for _ in range(2)
        )
        self.log_scale = keras.Variable(-math.log(settings.temperature), name="log_scale")
        rate = keras.optimizers.schedules.CosineDecay(settings.learning_rate, steps)
        self.optimizer = keras.optimizers.AdamW(rate, weight_decay=settings.weight_decay)
        self.optimizer.exclude_from_weight_decay(var_names=["bias", "log_scale"])
        self.weights = [weight for model in self.models.values() for weight in model.trainable_variables]
        self.means = [weight for model in self.averages.values() for weight in model.trainable_variables]
        self.optimizer.build([*self.weights, self.log_scale])
        self.step = tf.function(self._step, reduce_retracing=True)

    def train(self, batch: TrainingBatch) -> float:
        """Take one step; returns the loss."""
        features = {name: _zero_missing(batch.products[name], batch.present[name]) for name in self.models}
        present = {name: tf.constant(batch.present[name]) for name in self.models}
        queries = tf.constant(np.asarray(batch.queries, np.float32))
        return float(self.step(features, present, queries, tf.constant(batch.answers)))

    def _step(
        self,
        features: dict[str, tf.Tensor],
        present: dict[str, tf.Tensor],
        queries: tf.Tensor,
        answers: tf.Tensor,
    ) -> tf.Tensor:
        with tf.GradientTape() as tape:
            asked = self.models["text"](queries, training=True)
            scale = tf.exp(tf.minimum(self.log_scale.value, math.log(100.0)))
            losses = [
                _contrast(
                    scale * tf.matmul(asked, model(features[name], training=True), transpose_b=True),
                    tf.logical_and(answers, present[name][None, :]),
                    present[name],
                )
                for name, model in self.models.items()
            ]
            loss = tf.add_n(losses) / len(losses)
        variables = [*self.weights, self.log_scale]
        self.optimizer.apply(tape.gradient(loss, [variable.value for variable in variables]), variables)
        step = tf.cast(self.optimizer.iterations.value, tf.float32)
        share = 1.0 - tf.minimum(self.decay, step / (step + 10.0))
        for mean, weight in zip(self.means, self.weights, strict=True):
            mean.assign_add(share * (weight.value - mean.value))
        return loss


def _contrast(logits: tf.Tensor, answers: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
    """Average the cross entropies of both directions: over a query's products and over a product's queries."""
    logits = tf.where(present[None, :], logits, -1e9)
    positive = tf.cast(answers, tf.float32)
    total = 0.0
    for axis in (1, 0):
        right = tf.reduce_sum(positive, axis)
        entropy = -tf.reduce_sum(positive * tf.nn.log_softmax(logits, axis), axis) / tf.maximum(right, 1.0)
        total += tf.reduce_sum(entropy) / tf.maximum(tf.reduce_sum(tf.cast(right > 0, tf.float32)), 1.0)
    return total / 2.0


def _steps(per_epoch: int, settings: TrainingSettings) -> int:
    if settings.epochs is not None:
        return max(settings.epochs * per_epoch, 1)
    return min(max(80 * per_epoch, settings.least_steps), settings.most_steps)


def _endless(data: TrainingData) -> Iterator[TrainingBatch]:
    for epoch in count():
        yield from data.train_batches(epoch)


def _measure(data: TrainingData, dimensions: Mapping[str, int], rows: int) -> dict[str, tuple[Float32, Float32]]:
    """Measure mean and deviation of the first `rows` training features of each modality that has any.

    Queries count as texts. Nothing is measured where there is no query.
    """
    sums = {name: np.zeros((2, width)) for name, width in dimensions.items()}
    counts = dict.fromkeys(dimensions, 0)
    queries = 0
    for batch in data.train_batches(0):
        queries += len(batch.queries)
        taken = {name: batch.products[name][batch.present[name]] for name in dimensions}
        if "text" in taken and len(batch.queries):
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
    for name, counted in counts.items():
        if counted:
            mean, square = sums[name] / counted
            deviation = np.sqrt(np.maximum(square - np.square(mean), 0))
            # A value that hardly ever moves must not become the loudest one when it does.
            floor = max(0.1 * float(np.median(deviation)), 1e-6)
            moments[name] = mean.astype(np.float32), np.maximum(deviation, floor).astype(np.float32)
    return moments


def _zero_missing(features: Features, present: Mask) -> tf.Tensor:
    return tf.constant(np.where(present[:, None], features, 0).astype(np.float32))


def _recall(similarity: Float32, answers: Mask, k: int) -> float:
    k = min(k, similarity.shape[1])
    nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
    hits = np.take_along_axis(answers, nearest, axis=1).sum(axis=1)
    return float(np.mean(hits / np.minimum(answers.sum(axis=1), k)))
