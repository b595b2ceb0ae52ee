from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from encoders.curves import draw_curves

FIGURES: dict[str, Any] = {
    "settings": {"loss": "sigmoid"}, "round_steps": [10, 20, 30], "loss": [4.0, 2.0, 1.0], "steps": 30, "epochs": 3.0,
    "best_epoch": 2.0, "round_recall@10": {"picture": [0.2, 0.6, 0.5], "text": [0.5, 0.8, 0.8]},
}  # fmt: skip


def pixels(figures: dict[str, Any]) -> np.ndarray:
    drawn = draw_curves(figures)
    assert drawn is not None
    with Image.open(io.BytesIO(drawn)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"), int)


def coloured(image: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((np.abs(image - np.array(colour)).sum(axis=2) < 30).sum())


def test_loss_and_a_curve_a_modality_are_drawn() -> None:
    both, one = pixels(FIGURES), pixels({**FIGURES, "round_recall@10": {"picture": [0.2, 0.6, 0.5]}})
    blue, orange = (31, 119, 180), (255, 127, 14)
    assert coloured(both, blue) > 100
    assert coloured(both, orange) > 100
    assert coloured(one, orange) == 0


def test_without_validation_queries_there_is_only_the_loss() -> None:
    alone = pixels({**FIGURES, "round_recall@10": {}})
    assert alone.shape[0] < pixels(FIGURES).shape[0]


def test_the_same_figures_are_the_same_bytes_and_nothing_trained_is_nothing_drawn() -> None:
    assert draw_curves(FIGURES) == draw_curves(FIGURES)
    assert draw_curves({"trained": []}) is None
