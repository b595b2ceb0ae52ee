"""Training of heads: features of the towers in, one head a modality out, in Keras.

Products' vectors, of each modality, are drawn towards the queries they answer and away from the others, so that
picture and text come to lie in one space with the queries. The text head serves queries and indexed texts alike. With
`gate`, the small network that weighs a product's modalities (`encoders.gate.Gate`) learns beside the heads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import count, islice
from typing import Literal

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from encoders.fusion import Fusion
from encoders.gate import Gate
from encoders.heads import BLOCK_ROWS, Head, apply_head, random_head
from encoders.losses import VectorLoss
from encoders.meanings import Mask
from encoders.models import fuse_by_gate, gate_model, gate_of, head_model, head_of
from encoders.trained_heads import TrainedHeads
from encoders.training_data import LEAST_QUERIES, ArrayTrainingData, Features, Questions, TrainingBatch, TrainingData
from encoders.training_rounds import Round, log_round

Float32 = npt.NDArray[np.float32]
EPOCHS = 100
AS_GOOD = 0.005


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of training; the defaults were tuned on several thousand fashion products.

    epochs: passes over the training products at most; None takes `EPOCHS`, but no less than `least_steps` and no more than
    `most_steps` steps, so that few products are seen often enough and many do not take hours. The learning rate
    falls to 0 along half a cosine. After each of `rounds` equal parts the heads are measured, and training
    ends `patience` parts after the best one. average: decay, a step, of the running mean of the weights that is kept.
    input_dropout: share of a feature's values that are left out in training, picture_dropout: of pictures.
    mixing: up to which share a picture's features are mixed with those of another product of the batch, uniformly drawn; the
    right answers stay (mixup of inputs alone, Zhang et al. 2018).
    loss: one of `encoders.losses`; the contrastive one begins at `temperature`, the sigmoid one where its paper does;
    smoothing is of the contrastive one. query_weight, phrase_weight, label_weight: weights of the losses of titles (or
    sentences), phrases and labels (`TrainingBatch`).
    gate: learn the gate of the fusion by attention, of `gate_units` hidden units, beside the heads.
    """

    dimension: int = 256
    hidden_units: int = 512
    epochs: int | None = None
    least_steps: int = 800
    most_steps: int = 4000
    rounds: int = 25
    patience: int = 10
    learning_rate: float = 4e-3
    weight_decay: float = 1e-2
    input_dropout: float = 0.3
    picture_dropout: float = 0.5
    hidden_dropout: float = 0.3
    mixing: float = 0.3
    loss: Literal["contrastive", "sigmoid"] = "contrastive"
    temperature: float = 0.07
    smoothing: float = 0.1
    query_weight: float = 0.7
    phrase_weight: float = 0.4
    label_weight: float = 0.3
    gate: bool = False
    gate_units: int = 16
    average: float = 0.98
    statistics_rows: int = 20_000
    seed: int = 0


def train_heads(
    data: TrainingData,
    dimensions: Mapping[str, int],
    settings: TrainingSettings | None = None,
    watch: Callable[[Round], None] = log_round,
) -> TrainedHeads:
    """Fit one head a modality; `dimensions` says which modalities there are and how wide their features are.

    Keeps the heads of the last round whose mean recall@10 of `evaluate_heads` on the validation batch is within `AS_GOOD` of the
    best until then: later ones have learned at lower rates, and that much differs by chance. With fewer than `LEAST_QUERIES`
    validation queries, of which the best round would be that of chance, all rounds run and the last counts.
    A modality that no training product has, and all of them where there are no queries, get a `random_head`; then there is
    no gate. Equal data, settings, versions, machine and thread count give equal heads. `watch` is told each round.
    Figures: `settings`, `trained` modalities, `steps`, `epochs` (passes), `best_epoch`, `seconds`, by round its last step and
    mean `loss` and recall@10 by modality, and `validation`: recall@1 and recall@10 by modality.
    """
    settings = settings or TrainingSettings()
    started = time.monotonic()
    heads = {name: random_head(width, settings.dimension, settings.seed) for name, width in dimensions.items()}
    moments = _measure(data, dimensions, settings.statistics_rows)
    if "text" not in moments:
        return TrainedHeads(heads, None, {"trained": [], "epochs": 0, "seconds": time.monotonic() - started})
    steps = _steps(data.steps_per_epoch, settings)
    trainer = _Trainer(moments, steps, settings)
    batches = _endless(data)
    validation = data.validation()
    chosen = len(validation.queries) >= LEAST_QUERIES
    best_score, best_step = -1.0, 0
    best_recalls: Mapping[str, Mapping[str, float]] = {}
    rounds: list[Round] = []
    gate, done = None, 0
    for part in np.array_split(np.arange(steps), min(settings.rounds, steps)):
        loss = float(np.mean([trainer.train(batch) for batch in islice(batches, len(part))]))
        done += len(part)
        current = {name: head_of(model) for name, model in trainer.averages.items()}
        weighing = None if trainer.mean_gate is None else gate_of(trainer.mean_gate, tuple(moments))
        recalls = evaluate_heads(current, validation, weighing)
        rounds.append(Round(done, steps, loss, recalls))
        watch(rounds[-1])
        score = float(np.mean([recall["recall@10"] for recall in recalls.values()])) if chosen else float(done)
        if score > best_score - AS_GOOD:
            best_score = max(score, best_score)
            best_step, best_recalls = done, recalls
            heads.update(current)
            gate = weighing
        elif done - best_step >= settings.patience * len(part):
            break
    figures = {
        "settings": asdict(settings),
        "trained": list(moments),
        "steps": done,
        "epochs": round(done / data.steps_per_epoch, 2),
        "best_epoch": round(best_step / data.steps_per_epoch, 2),
        "seconds": round(time.monotonic() - started, 2),
        "round_steps": [one.step for one in rounds],
        "loss": [one.loss for one in rounds],
        "round_recall@10": {name: [one.validation[name]["recall@10"] for one in rounds] for name in best_recalls},
        "validation": best_recalls,
    }
    return TrainedHeads(heads, gate, figures)


def evaluate_heads(heads: Mapping[str, Head], batch: TrainingBatch, gate: Gate | None = None) -> dict[str, dict[str, float]]:
    """Measure recall@1 and recall@10 from a batch's queries to its products, by modality, and "fused" by a gate.

    recall@k of a query is the share of its right answers, or of k where there are more, among the k nearest.
    Modalities without a right answer are left out.
    """
    if not len(batch.queries):
        return {}
    queries = apply_head(heads["text"], batch.queries)
    vectors = {}
    for name, head in heads.items():
        vectors[name] = apply_head(head, np.where(batch.present[name][:, None], batch.products[name], 0))
    present = dict(batch.present)
    if gate is not None:
        fusion = Fusion("attention", dict.fromkeys(gate.modalities, 1.0), gate=gate)
        vectors["fused"] = fusion.fuse({name: vectors[name] for name in gate.modalities}, present)
        present["fused"] = np.any([present[name] for name in gate.modalities], axis=0)
    recalls = {}
    for name, found in vectors.items():
        there = np.flatnonzero(present[name])
        answers = batch.answers[:, there]
        asked = answers.any(axis=1)
        if asked.any():
            similarity = queries[asked] @ found[there].T
            recalls[name] = {f"recall@{k}": recall_at(similarity, answers[asked], k) for k in (1, 10)}
    return recalls


def remove_gaps(heads: Mapping[str, Head], data: ArrayTrainingData) -> dict[str, Head]:
    """Return the heads with the mean of all products' vectors as their gap, each modality's own.

    Vectors of the modalities then lie about one point (the gap between them: Liang et al. 2022). A modality that no
    product has keeps its head.
    """
    centred = {}
    for name, head in heads.items():
        rows = np.flatnonzero(data.present[name])
        total = np.zeros(head.dimension_out)
        for start in range(0, len(rows), BLOCK_ROWS):
            features = data.product_features(name, rows[start : start + BLOCK_ROWS])
            total += apply_head(replace(head, gap=np.zeros(0, np.float32)), features).sum(axis=0, dtype=np.float64)
        centred[name] = replace(head, gap=(total / len(rows)).astype(np.float32)) if len(rows) else head
    return centred


class _Trainer:
    """Hold the models that are trained, the running means of their weights, and the compiled step."""

    def __init__(self, moments: Mapping[str, tuple[Float32, Float32]], steps: int, settings: TrainingSettings) -> None:
        self.decay = settings.average
        self.models, self.averages = (
            {
                name: head_model(mean, scale, settings, settings.seed + 10 * number,
                                 settings.picture_dropout if name == "picture" else settings.input_dropout)
                for number, (name, (mean, scale)) in enumerate(moments.items())
            }
            for _ in range(2)
        )
        self.gate, self.mean_gate = (
            gate_model(len(moments), settings.dimension, settings.gate_units, settings.seed) if settings.gate else None
            for _ in range(2)
        )
        self.mixing = settings.mixing
        self.random = tf.random.Generator.from_seed(settings.seed)
        self.loss_weights = settings.query_weight, settings.phrase_weight, settings.label_weight
        self.losses = [VectorLoss(settings.loss, settings.temperature, settings.smoothing) for _ in self.loss_weights]
        rate = keras.optimizers.schedules.CosineDecay(settings.learning_rate, steps)
        self.optimizer = keras.optimizers.AdamW(rate, weight_decay=settings.weight_decay)
        self.optimizer.exclude_from_weight_decay(var_names=["bias", "log_scale"])
        gates = ([] if gate is None else [gate] for gate in (self.gate, self.mean_gate))
        self.weights, self.means = (
            [weight for model in [*models.values(), *gate] for weight in model.trainable_variables]
            for models, gate in zip((self.models, self.averages), gates, strict=True)
        )
        self.variables = [*self.weights, *(variable for loss in self.losses for variable in loss.variables)]
        self.optimizer.build(self.variables)
        widths = {name: len(mean) for name, (mean, _) in moments.items()}
        self.step = tf.function(self._step, autograph=False, input_signature=[
            {name: tf.TensorSpec([None, width], tf.float32) for name, width in widths.items()},
            {name: tf.TensorSpec([None], tf.bool) for name in widths},
            [tf.TensorSpec([None, widths["text"]], tf.float32) for _ in self.losses],
            [tf.TensorSpec([None, None], tf.bool) for _ in self.losses],
        ])  # fmt: skip

    def train(self, batch: TrainingBatch) -> float:
        """Take one step; returns the loss."""
        features = {name: _zero_missing(batch.products[name], batch.present[name]) for name in self.models}
        present = {name: tf.constant(batch.present[name]) for name in self.models}
        none = Questions(batch.queries[:0], batch.answers[:0])
        asked = Questions(batch.queries, batch.answers), batch.phrases or none, batch.labels or none
        queries = [tf.constant(np.asarray(one.queries, np.float32)) for one in asked]
        return float(self.step(features, present, queries, [tf.constant(one.answers) for one in asked]))

    def _step(
        self,
        features: dict[str, tf.Tensor],
        present: dict[str, tf.Tensor],
        queries: list[tf.Tensor],
        answers: list[tf.Tensor],
    ) -> tf.Tensor:
        if self.mixing and "picture" in features:
            features = features | {"picture": self._mix(features["picture"], present["picture"])}
        with tf.GradientTape() as tape:
            together = self.models["text"](tf.concat(queries, axis=0), training=True)
            asked = tf.split(together, [tf.shape(one)[0] for one in queries])
            vectors = {name: model(features[name], training=True) for name, model in self.models.items()}
            found = [(vectors[name], present[name]) for name in vectors]
            if self.gate is not None:
                fused = fuse_by_gate(self.gate, list(vectors.values()), list(present.values()))
                found.append((fused, tf.reduce_any(list(present.values()), axis=0)))
            losses = [
                weight * loss(texts, products, right, there)
                for weight, loss, texts, right in zip(self.loss_weights, self.losses, asked, answers, strict=True)
                for products, there in found
            ]
            loss = tf.add_n(losses) / len(found)
        self.optimizer.apply(tape.gradient(loss, [variable.value for variable in self.variables]), self.variables)
        step = tf.cast(self.optimizer.iterations.value, tf.float32)
        share = 1.0 - tf.minimum(self.decay, step / (step + 10.0))
        for mean, weight in zip(self.means, self.weights, strict=True):
            mean.assign_add(share * (weight.value - mean.value))
        return loss

    def _mix(self, features: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """Mix features of products, float32[B, D], with those of others where both are there, bool[B]."""
        draws = self.random.uniform((2, tf.shape(features)[0]))
        others = tf.argsort(draws[0])
        both = tf.cast(present & tf.gather(present, others), tf.float32)
        share = (self.mixing * draws[1] * both)[:, None]
        return features + share * (tf.gather(features, others) - features)


def _steps(per_epoch: int, settings: TrainingSettings) -> int:
    if settings.epochs is not None:
        return max(settings.epochs * per_epoch, 1)
    return min(max(EPOCHS * per_epoch, settings.least_steps), settings.most_steps)


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
        asked = np.concatenate([batch.queries, *([] if batch.phrases is None else [batch.phrases.queries])])
        queries += len(asked)
        taken = {name: batch.products[name][batch.present[name]] for name in dimensions}
        if "text" in taken and len(asked):
            taken["text"] = np.concatenate([taken["text"], asked])
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


def recall_at(similarity: Float32, answers: Mask, k: int) -> float:
    """Average the share of its right answers, or of k where there are more, that each query has among the k nearest.

    similarity: float32[Q, N]; answers: bool[Q, N], at least one a query.
    """
    k = min(k, similarity.shape[1])
    nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
    hits = np.take_along_axis(answers, nearest, axis=1).sum(axis=1)
    return float(np.mean(hits / np.minimum(answers.sum(axis=1), k)))
