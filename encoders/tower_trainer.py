"""One step of the training of towers: networks and heads as variables, their optimizers, what is measured between steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from encoders.conversion import PictureNetwork, TextNetwork
from encoders.heads import Head, apply_head
from encoders.losses import VectorLoss
from encoders.tower_data import TowerBatch
from encoders.trainable import last_variables, value_of
from encoders.training import TrainingSettings, evaluate_heads, recall_at
from encoders.training_data import TrainingBatch
from encoders.weights import combine_hashes, hash_arrays

Networks = Mapping[str, PictureNetwork | TextNetwork]
Array = npt.NDArray[Any]

TWIN = "twin"  # what views of a picture find of the others is told as this


@dataclass(frozen=True)
class TowerTrainingSettings:
    """Settings of a tower's training.

    layers: by modality, how many of the last layers are trained; None: all. The learning rates, of the towers and of the
    heads, fall to 0 along half a cosine over `steps`. After each of `rounds` equal parts what was learned is measured,
    and training ends `patience` parts after the best one, or after `minutes`. A checkpoint is written at the end
    of each part and each `checkpoint_steps` steps. loss, temperature and smoothing: as heads have them.
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
    temperature: float = TrainingSettings.temperature
    smoothing: float = TrainingSettings.smoothing


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
        values: dict[str, Any] = {name: value_of(variable) for name, variable in zip(self.names, self.variables, strict=True)}
        return replace(self.head, **values, gap=np.zeros(0, np.float32))


class TowerTrainer:
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
        self.loss = VectorLoss(settings.loss, settings.temperature, settings.smoothing)
        learned = [*(variable for model in self.models.values() for variable in model.variables), *self.loss.variables]
        self.groups = [(self._optimizer(settings.learning_rate, tower), tower),
                       (self._optimizer(settings.head_learning_rate, learned), learned)]  # fmt: skip
        self.variables = [*tower, *learned]
        self.step: Callable[[dict[str, Any]], tf.Tensor] | None = None
        self.features = {
            name: tf.function(self._features(name), autograph=False, input_signature=_signature(network))
            for name, network in networks.items()
        }

    def _optimizer(self, rate: float, variables: list[Any]) -> Any:
        optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, self.settings.steps))
        optimizer.build(variables)
        return optimizer

    def _features(self, name: str) -> Callable[..., tf.Tensor]:
        network = self.given[name]
        if isinstance(network, PictureNetwork):
            return lambda pictures: tf.cast(network.features(pictures), tf.float32)
        weights = self.weights.get(name, {})

        def features(ids: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
            now = {key: value.value if isinstance(value, keras.Variable) else value for key, value in weights.items()}
            return network.features(now, ids, lengths)

        return features

    def train(self, batch: TowerBatch) -> float:
        """Take one step; returns the loss."""
        given = _tensors(batch)
        if self.step is None:
            self.step = tf.function(self._step, autograph=False, input_signature=[tf.nest.map_structure(_of_any_length, given)])
        return float(self.step(given))

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
            pixels = tf.concat([*given["pictures"], *given["twins"]], 0)
            one, other = tf.split(self.models["picture"](self._features("picture")(pixels)), 2)
            same = tf.eye(tf.shape(one)[0], dtype=tf.bool)
            return self.loss(one, other, same, tf.ones(tf.shape(one)[:1], tf.bool))
        asked = self.models["text"](self._features("text")(*given["queries"]) if "queries" in given else given["asked"])
        losses = []
        for name, model in self.models.items():
            items = given.get("texts" if name == "text" else "pictures")
            features = given["stored"][name] if items is None else self._features(name)(*items)
            losses.append(self.loss(asked, model(features), given["answers"], given["present"][name]))
        return tf.add_n(losses) / len(losses)

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

    @property
    def all_variables(self) -> list[Any]:
        """Give all that a checkpoint has to hold: what is learned, and the optimizers' variables."""
        return [*self.variables, *(variable for optimizer, _ in self.groups for variable in optimizer.variables)]


def _signature(network: PictureNetwork | TextNetwork) -> list[tf.TensorSpec]:
    if isinstance(network, PictureNetwork):
        return [tf.TensorSpec([None, network.side, network.side, 3], tf.uint8)]
    return [tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None], tf.int32)]


def _of_any_length(tensor: tf.Tensor) -> tf.TensorSpec:
    """Describe pixels uint8[B, side, side, 3], features float32[B, D], or answers, presence, tokens and their lengths."""
    kept = {tf.uint8: 3, tf.float32: 1}.get(tensor.dtype, 0)
    shape = tensor.shape.as_list()
    return tf.TensorSpec([None] * (len(shape) - kept) + shape[len(shape) - kept :], tensor.dtype)


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
