"""Curves of a training, drawn by matplotlib: loss, and recall on validation, by round."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure


def draw_curves(figures: Mapping[str, Any]) -> bytes | None:
    """Draw the figures of `encoders.training.train_heads` as a PNG; None where nothing was trained.

    Above: the mean loss of each round. Below: recall@10 on validation by modality, with the round that was kept.
    The same figures give the same bytes with the same version of matplotlib.
    """
    if not figures.get("round_steps"):
        return None
    steps, recalls = figures["round_steps"], figures["round_recall@10"]
    figure = Figure(figsize=(7, 6 if recalls else 3.2), layout="constrained")
    axes = figure.subplots(2 if recalls else 1, sharex=True, squeeze=False)[:, 0]
    axes[0].plot(steps, figures["loss"], color="tab:gray")
    axes[0].set_ylabel(f"{figures['settings']['loss']} loss, mean of a round")
    if recalls:
        kept = round(figures["best_epoch"] * figures["steps"] / figures["epochs"])
        for name, values in recalls.items():
            axes[1].plot(steps, values, label=f"text → {name}")
        axes[1].axvline(kept, color="tab:gray", linestyle=":", label="kept")
        axes[1].set_ylabel("recall@10 on validation")
        axes[1].legend(loc="lower right")
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("step")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120, metadata={"Software": None})
    return stream.getvalue()
