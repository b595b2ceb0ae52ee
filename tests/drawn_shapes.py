"""Drawn pictures of shapes in colours, for tests of towers that are trained."""

from __future__ import annotations

import numpy as np

SIDE = 32
COLOURS = np.array([(220, 40, 40), (40, 190, 60), (50, 60, 220), (230, 210, 50)])
SHAPES = 3
KINDS = len(COLOURS) * SHAPES


def drawn(kinds: np.ndarray, seed: int = 0) -> np.ndarray:
    """Draw pictures of a shape (square, cross, ring) in a colour somewhere on a noisy ground: uint8[N, SIDE, SIDE, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    pictures = []
    for kind in kinds.tolist():
        across, down = np.abs(x - rng.integers(11, 21)), np.abs(y - rng.integers(11, 21))
        ring = np.hypot(across, down)
        shape = ((across < 8) & (down < 8), (np.minimum(across, down) < 3) & (np.maximum(across, down) < 10),
                 (ring > 6) & (ring < 10))[kind % SHAPES]  # fmt: skip
        picture = np.where(shape[..., None], COLOURS[kind // SHAPES], 235) + rng.integers(-15, 16, (SIDE, SIDE, 3))
        pictures.append(picture.clip(0, 255))
    return np.stack(pictures).astype(np.uint8)
