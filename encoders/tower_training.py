"""Training of towers: the last layers of a pretrained network further, or all layers of a new one, together with the heads.

Products' vectors are drawn towards the queries they answer, as in `encoders.training`; where there are no queries, two views
of a picture towards one another (SimCLR, Chen et al. 2020). Batch normalisation keeps the statistics it has.
"""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np

from encoders.heads import Head
from encoders.tower_data import TowerData
from encoders.tower_trainer import Array, Networks, TowerTrainer, TowerTrainingSettings
from encoders.trainable import value_of
from encoders.training_rounds import Round, log_round

_log = logging.getLogger(__name__)


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
    trainer = TowerTrainer(networks, heads, settings)
    state = _State.begin()
    found = checkpoints.read()
    resumed = 0
    if found is not None:
        state = _restore(trainer, found)
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
            checkpoints.write(_save(trainer, state))
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


def _measure(trainer: TowerTrainer, data: TowerData, state: _State) -> None:
    recalls = trainer.evaluate(*data.validation())
    score = float(np.mean([value for of_it in recalls.values() for value in of_it.values()])) if recalls else float(state.step)
    if state.losses:
        state.rounds.append(float(np.mean(state.losses)))
        state.losses.clear()
    state.recalls.append(recalls)
    if not state.scores or score > max(state.scores):
        state.best_step, state.best = state.step, trainer.values()
    state.scores.append(score)


def _save(trainer: TowerTrainer, state: _State) -> bytes:
    """Serialise all variables, the optimizers' and the best round's among them, with the state."""
    told = {key: value for key, value in asdict(state).items() if key != "best"}
    arrays: dict[str, Any] = {f"best{number:05d}": value for number, value in enumerate(state.best)}
    arrays |= {f"now{number:05d}": value_of(variable) for number, variable in enumerate(trainer.all_variables)}
    stream = io.BytesIO()
    np.savez(stream, state=np.frombuffer(json.dumps(told).encode(), np.uint8), **arrays)
    return stream.getvalue()


def _restore(trainer: TowerTrainer, data: bytes) -> _State:
    """Take back what `_save` wrote."""
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        told = json.loads(archive["state"].tobytes())
        for number, variable in enumerate(trainer.all_variables):
            variable.assign(archive[f"now{number:05d}"])
        return _State(**told, best=[archive[f"best{number:05d}"] for number in range(len(trainer.variables))])
