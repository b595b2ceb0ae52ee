"""Training of towers: the last layers of a pretrained network further, or all layers of a new one, together with the heads.

Products' vectors are drawn towards the queries they answer, as in `encoders.training`; where there are no queries, two views
of a picture towards one another (SimCLR, Chen et al. 2020). Batch normalisation keeps the statistics it has.
"""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Protocol

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from encoders.conversion import PictureNetwork, TextNetwork
from encoders.heads import Head, apply_head
from encoders.losses import contrastive_loss, sigmoid_loss
from encoders.trainable import last_variables, value_of
from encoders.training import evaluate_heads, recall_at
from encoders.training_data import TrainingBatch
from encoders.training_rounds import Round, log_round
from encoders.weights import combine_hashes, hash_arrays

Networks = Mapping[str, PictureNetwork | TextNetwork]
Tokens = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]
Array = npt.NDArray[Any]

TWIN = "twin"  # what views of a picture find of the others is told as this

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TowerTrainingSettings:
    """Settings of a tower's training.

    layers: by modality, how many of the last layers are trained; None: all. The learning rates, of the towers and of the
    heads, fall to 0 along half a cosine over `steps`. After each of `rounds` equal parts what was learned is measured,
    and training ends `patience` parts after the best one, or after `minutes`. A checkpoint is written at the end
    of each part and each `checkpoint_steps` steps.
    """

    layers: Mapping[str, int | None]
    steps: int = 600
    minutes: float | None = None
    rounds: int = 12
    patience: int = 4
    checkpoint_steps: int = 50
    learning_rate: float = 1e-4
    head_learning_rate: float = 5e-4
    clip_norm: float = 1.0
    loss: Literal["contrastive", "sigmoid"] = "contrastive"
    temperature: float = 0.07


@dataclass(frozen=True)
class TowerBatch:
    """Hold B products and Q queries with what the towers in training take of them.

    stored: features of the towers that are not trained, with presence and answers; those of the others are never looked at.
    pictures: uint8[B, side, side, 3]; twins: other views of them, where there are no queries.
    texts, queries: ids int32[., L], padded, and lengths int32[.] of the products' texts and of the queries.
    """

    stored: TrainingBatch
    pictures: npt.NDArray[np.uint8] | None = None
    twins: npt.NDArray[np.uint8] | None = None
    texts: Tokens | None = None
    queries: Tokens | None = None


class TowerData(Protocol):
    """Give batches by their number, so that a training goes on anywhere, and some to validate with."""

    def train_batches(self, first: int) -> Iterator[TowerBatch]:
        """Give batch number `first` and all after it, without end; what a batch holds depends on its number only."""

    def validation(self) -> tuple[Sequence[TowerBatch], npt.NDArray[np.bool_]]:
        """Give products that no training batch holds, in batches, and the answers bool[Q, N] of all their queries."""


class Checkpoints(Protocol):
    """Keep one checkpoint, whole or not at all."""

    def read(self) -> bytes | None:
        """Return the checkpoint, None where there is none."""

    def write(self, data: bytes) -> None:
        """Put a checkpoint in place of the one before it."""


@dataclass(frozen=True)
class TrainedTowers:
    """Hold networks with the weights of the best round, their heads, and figures of the training as JSON values.

    Where no round was better than what the training began with, the networks are those given.
    """

    networks: Networks
    heads: Mapping[str, Head]
    figures: Mapping[str, Any] = field(default_factory=dict)


def train_towers(
    networks: Networks,
    heads: Mapping[str, Head],
    data: TowerData,
    settings: TowerTrainingSettings,
    checkpoints: Checkpoints,
    watch: Callable[[Round], None] = log_round,
) -> TrainedTowers:
    """Train the last layers of the networks given, by modality, with the heads of all modalities.

    Keeps the round of the best validation, the mean of recall@1 and recall@10 over the modalities; the start counts as
    one. Goes on from the checkpoint where there is one; equal data, settings, versions, machine and thread count then
    give the weights of an unbroken training. Figures: `steps`, `resumed_from`, `best_step` (0: nothing got better),
    `seconds`, mean `loss` by round and `validation` by round, the start's first.
    """
    trainer = _Trainer(networks, heads, settings)
    state = _State.begin()
    found = checkpoints.read()
    resumed = 0
    if found is not None:
        state = trainer.restore(found)
        resumed = state.step
        _log.info("train: going on with the towers from step %d of %d", resumed, settings.steps)
    started = time.monotonic() - state.seconds
    if not state.scores:
        _measure(trainer, data, state)
    ends = {int(part[-1]) + 1 for part in np.array_split(np.arange(settings.steps), min(settings.rounds, settings.steps))}
    length = max(settings.steps // settings.rounds, 1)
    batches = data.train_batches(state.step)
    late = False
    while state.step < settings.steps and not late and state.step - state.best_step < settings.patience * length:
        state.losses.append(trainer.train(next(batches)))
        state.step += 1
        late = settings.minutes is not None and time.monotonic() - started > 60 * settings.minutes
        over = state.step in ends or late
        if over:
            _measure(trainer, data, state)
            watch(Round(state.step, settings.steps, state.rounds[-1], state.recalls[-1]))
        if over or state.step % settings.checkpoint_steps == 0:
            state.seconds = time.monotonic() - started
            checkpoints.write(trainer.save(state))
    trainer.take(state.best)
    figures = {
        "layers": dict(settings.layers), "variables": {name: len(own) for name, own in trainer.trained.items()},
        "steps": state.step, "resumed_from": resumed, "best_step": state.best_step, "loss": state.rounds,
        "validation": state.recalls, "seconds": round(time.monotonic() - started, 2),
    }  # fmt: skip
    kept = networks if state.best_step == 0 else trainer.networks()
    return TrainedTowers(kept, trainer.heads(), figures)


@dataclass
class _State:
    """What a training knows besides its variables."""

    step: int
    best_step: int
    seconds: float
    losses: list[float]
    rounds: list[float]
    scores: list[float]
    recalls: list[dict[str, dict[str, float]]]
    best: list[Array]

    @classmethod
    def begin(cls) -> _State:
        return cls(0, 0, 0.0, [], [], [], [], [])


def _measure(trainer: _Trainer, data: TowerData, state: _State) -> None:
    recalls = trainer.evaluate(*data.validation())
    score = float(np.mean([value for of_it in recalls.values() for value in of_it.values()])) if recalls else float(state.step)
    if state.losses:
        state.rounds.append(float(np.mean(state.losses)))
        state.losses.clear()
    state.recalls.append(recalls)
    if not state.scores or score > max(state.scores):
        state.best_step, state.best = state.step, trainer.values()
    state.scores.append(score)


class _Head:
    """A head as variables: what `encoders.heads.apply_head` computes, without the gap."""

    def __init__(self, head: Head) -> None:
        self.head = head
        self.names = [name for name in ("linear", "hidden", "hidden_bias", "output", "bias") if getattr(head, name).size]
        self.variables = [keras.Variable(getattr(head, name), name=name) for name in self.names]

    def __call__(self, features: tf.Tensor) -> tf.Tensor:
        w = {name: variable.value for name, variable in zip(self.names, self.variables, strict=True)}
        standard = (features - self.head.mean) / self.head.scale
        vectors = tf.matmul(standard, w["linear"]) + w["bias"]
        if "hidden" in w:
            vectors += tf.matmul(tf.nn.relu(tf.matmul(standard, w["hidden"]) + w["hidden_bias"]), w["output"])
        return tf.math.l2_normalize(vectors, axis=1)

    def taken(self) -> Head:
        values = {name: value_of(variable) for name, variable in zip(self.names, self.variables, strict=True)}
        return replace(self.head, **values, gap=np.zeros(0, np.float32))


class _Trainer:
    """Hold networks and heads as variables, their optimizers, and the compiled step."""

    def __init__(self, networks: Networks, heads: Mapping[str, Head], settings: TowerTrainingSettings) -> None:
        self.given, self.settings = networks, settings
        self.weights: dict[str, dict[str, Any]] = {}
        self.trained: dict[str, list[Any]] = {}
        for name, network in networks.items():
            layers: Any = network.layers
            arrays = network.weights if isinstance(network, TextNetwork) else {}
            if arrays:
                own = {key: keras.Variable(arrays[key]) for key in last_variables(layers, settings.layers[name])}
                self.weights[name] = {**arrays, **own}
                self.trained[name] = list(own.values())
            else:
                self.trained[name] = last_variables(layers, settings.layers[name])
        self.models = {name: _Head(head) for name, head in heads.items()}
        tower = [variable for own in self.trained.values() for variable in own]
        self.log_scale = keras.Variable(float(np.log(1.0 / settings.temperature)), name="log_scale")
        self.bias = keras.Variable(0.0 if settings.loss == "contrastive" else -10.0, name="bias")
        learned = [variable for model in self.models.values() for variable in model.variables]
        learned += [self.log_scale] + ([] if settings.loss == "contrastive" else [self.bias])
        self.groups = [(self._optimizer(settings.learning_rate, tower), tower),
                       (self._optimizer(settings.head_learning_rate, learned), learned)]  # fmt: skip
        self.variables = [*tower, *learned]
        self.step = tf.function(self._step, reduce_retracing=True)
        self.features = {name: tf.function(self._features(name), reduce_retracing=True) for name in networks}

    def _optimizer(self, rate: float, variables: list[Any]) -> Any:
        optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, self.settings.steps))
        optimizer.build(variables)
        return optimizer

    def _features(self, name: str) -> Callable[..., tf.Tensor]:
        network = self.given[name]
        if isinstance(network, PictureNetwork):
            return network.features
        weights = self.weights.get(name, {})

        def features(ids: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
            now = {key: value.value if isinstance(value, keras.Variable) else value for key, value in weights.items()}
            return network.features(now, ids, lengths)

        return features

    def train(self, batch: TowerBatch) -> float:
        """Take one step; returns the loss."""
        return float(self.step(_tensors(batch)))

    def _step(self, given: dict[str, Any]) -> tf.Tensor:
        values = [variable.value for variable in self.variables]
        # Nothing before the first trained layer is kept for the way back.
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            loss = self._loss(given)
        gradients = tape.gradient(loss, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        gradients, _ = tf.clip_by_global_norm(gradients, self.settings.clip_norm)
        start = 0
        for optimizer, variables in self.groups:
            optimizer.apply(gradients[start : start + len(variables)], variables)
            start += len(variables)
        return loss

    def _loss(self, given: dict[str, Any]) -> tf.Tensor:
        if "twins" in given:
            one, other = (self.models["picture"](self._run("picture", *given[name])) for name in ("pictures", "twins"))
            same = tf.eye(tf.shape(one)[0], dtype=tf.bool)
            return self._contrast(one, other, same, tf.ones(tf.shape(one)[:1], tf.bool))
        asked = self.models["text"](self._run("text", *given["queries"]) if "queries" in given else given["asked"])
        losses = []
        for name, model in self.models.items():
            items = given.get("texts" if name == "text" else "pictures")
            features = given["stored"][name] if items is None else self._run(name, *items)
            losses.append(self._contrast(asked, model(features), given["answers"], given["present"][name]))
        return tf.add_n(losses) / len(losses)

    def _run(self, name: str, *items: tf.Tensor) -> tf.Tensor:
        return self._features(name)(*items)

    def _contrast(self, asked: tf.Tensor, vectors: tf.Tensor, answers: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        scale = tf.exp(tf.minimum(self.log_scale.value, float(np.log(100.0))))
        logits, answers = scale * tf.matmul(asked, vectors, transpose_b=True), tf.logical_and(answers, present[None, :])
        if self.settings.loss == "contrastive":
            return contrastive_loss(logits, answers, present)
        return sigmoid_loss(logits + self.bias.value, answers, present)

    def evaluate(self, batches: Sequence[TowerBatch], answers: npt.NDArray[np.bool_]) -> dict[str, dict[str, float]]:
        """Measure recalls as `evaluate_heads` does, or of views by views of the same pictures."""
        heads, found = self.heads(), [self._encoded(batch) for batch in batches]
        if not found:
            return {}
        twins = [one["twins"] for one in found if "twins" in one]
        if twins:
            products = apply_head(heads["picture"], np.concatenate([one["picture"] for one in found]))
            similarity = apply_head(heads["picture"], np.concatenate(twins)) @ products.T
            return {TWIN: {f"recall@{k}": recall_at(similarity, np.eye(len(products), dtype=bool), k) for k in (1, 10)}}
        whole = TrainingBatch(
            products={name: np.concatenate([one[name] for one in found]) for name in heads},
            present={name: np.concatenate([batch.stored.present[name] for batch in batches]) for name in heads},
            queries=np.concatenate([one["queries"] for one in found]),
            answers=answers,
        )
        return evaluate_heads(heads, whole)

    def _encoded(self, batch: TowerBatch) -> dict[str, Array]:
        found: dict[str, Array] = {name: np.asarray(of_it, np.float32) for name, of_it in batch.stored.products.items()}
        found["queries"] = np.asarray(batch.stored.queries, np.float32)
        if batch.pictures is not None:
            found["picture"] = self.features["picture"](tf.constant(batch.pictures)).numpy()
        if batch.twins is not None:
            found["twins"] = self.features["picture"](tf.constant(batch.twins)).numpy()
        for name, tokens in (("text", batch.texts), ("queries", batch.queries)):
            if tokens is not None:
                found[name] = self.features["text"](*(tf.constant(part) for part in tokens)).numpy()
        return found

    def heads(self) -> dict[str, Head]:
        """Give the heads as they are now."""
        return {name: model.taken() for name, model in self.models.items()}

    def values(self) -> list[Array]:
        """Give the values of all variables that are learned."""
        return [value_of(variable) for variable in self.variables]

    def take(self, values: Sequence[Array]) -> None:
        """Put values in place of those of all variables that are learned."""
        for variable, value in zip(self.variables, values, strict=True):
            variable.assign(value)

    def networks(self) -> Networks:
        """Give the networks as they are now, with hashes of their own."""
        made: dict[str, PictureNetwork | TextNetwork] = {}
        for name, network in self.given.items():
            values = [value_of(variable) for variable in self.trained[name]]
            digest = combine_hashes(network.weights_hash, "trained", hash_arrays(values))
            if isinstance(network, TextNetwork) and name in self.weights:
                weights = {k: value_of(v) if isinstance(v, keras.Variable) else v for k, v in self.weights[name].items()}
                made[name] = replace(network, weights_hash=digest, weights=weights)
            else:
                made[name] = replace(network, weights_hash=digest)
        return made

    def save(self, state: _State) -> bytes:
        """Serialise all variables, the optimizers' and the best round's among them, with the state."""
        told = {key: value for key, value in asdict(state).items() if key != "best"}
        arrays: dict[str, Any] = {f"best{number:05d}": value for number, value in enumerate(state.best)}
        arrays |= {f"now{number:05d}": value_of(variable) for number, variable in enumerate(self._all())}
        stream = io.BytesIO()
        np.savez(stream, state=np.frombuffer(json.dumps(told).encode(), np.uint8), **arrays)
        return stream.getvalue()

    def restore(self, data: bytes) -> _State:
        """Take back what `save` wrote."""
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            told = json.loads(archive["state"].tobytes())
            for number, variable in enumerate(self._all()):
                variable.assign(archive[f"now{number:05d}"])
            return _State(**told, best=[archive[f"best{number:05d}"] for number in range(len(self.variables))])

    def _all(self) -> list[Any]:
        return [*self.variables, *(variable for optimizer, _ in self.groups for variable in optimizer.variables)]


def _tensors(batch: TowerBatch) -> dict[str, Any]:
    if batch.twins is not None:
        return {"pictures": (tf.constant(batch.pictures),), "twins": (tf.constant(batch.twins),)}
    stored = batch.stored
    given: dict[str, Any] = {
        "stored": {
            name: tf.constant(np.where(stored.present[name][:, None], features, 0).astype(np.float32))
            for name, features in stored.products.items()
        },
        "present": {name: tf.constant(mask) for name, mask in stored.present.items()},
        "asked": tf.constant(np.asarray(stored.queries, np.float32)),
        "answers": tf.constant(stored.answers),
    }
    if batch.pictures is not None:
        given["pictures"] = (tf.constant(batch.pictures),)
    for name, tokens in (("texts", batch.texts), ("queries", batch.queries)):
        if tokens is not None:
            given[name] = tuple(tf.constant(part) for part in tokens)
    return given
