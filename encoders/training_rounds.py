"""Rounds of a training, as they are told to who looks on: a line of the log, or an event for TensorBoard."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import tensorflow as tf
from tensorflow.core.framework import summary_pb2
from tensorflow.core.framework.summary_pb2 import SummaryMetadata

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Round:
    """Say how far a training is: step of `steps`, mean loss since the round before, recalls as `evaluate_heads` gives them."""

    step: int
    steps: int
    loss: float
    validation: Mapping[str, Mapping[str, float]]

    @property
    def shown(self) -> str:
        """Give the figures for people."""
        recalls = ", ".join(f"{name} {figures['recall@10']:.3f}" for name, figures in self.validation.items())
        return f"loss {self.loss:.3f}, recall@10 on validation: {recalls or 'no queries'}"


def log_round(done: Round) -> None:
    """Log a line a round."""
    logger.info("train: step %d of %d, %s", done.step, done.steps, done.shown)


@contextmanager
def event_log(folder: str) -> Iterator[Callable[[Round], None]]:
    """Write rounds to a folder for TensorBoard, local or whatever TensorFlow can write to, as they are told."""
    # tf.summary.scalar does the same, but only where TensorBoard itself is installed.
    scalar = SummaryMetadata(
        plugin_data=SummaryMetadata.PluginData(plugin_name="scalars"), data_class=summary_pb2.DATA_CLASS_SCALAR
    )
    writer = tf.summary.create_file_writer(folder)

    def write(done: Round) -> None:
        values = {"loss": done.loss}
        for modality, figures in done.validation.items():
            values |= {f"validation/{modality}/{name}": value for name, value in figures.items()}
        with writer.as_default(step=done.step):
            for tag, value in values.items():
                tf.summary.write(tag, tf.constant(value, tf.float32), metadata=scalar)
        writer.flush()

    yield write
    writer.close()
