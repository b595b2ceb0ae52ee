"""Distortions of pictures as shoppers' photos have them: out of focus, cut off, noisy, before another wall.

They take uint8[N, S, S, 3] and a key for each picture, and return the same shape. What is drawn comes from BLAKE2b of (seed,
distortion, key) alone, so a picture is distorted alike in whatever batch it comes. Views for training are in `views`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

BLUR = 0.008  # deviation, as a share of the side
CROP = (0.6, 0.8)  # sides of the part that is left, as shares of the side
NOISE = 0.05  # deviation, as a share of the range from black to white
LIKE_THE_EDGE = 24  # how far a value may be from that of the background, of 255
LEAST_BACKGROUND, MOST_BACKGROUND = 0.05, 0.95


def blur(pictures: Pixels, keys: Sequence[str], seed: int) -> Pixels:
    """Blur by a Gaussian whose deviation is 0.8 % of the side."""
    from PIL import Image, ImageFilter

    gaussian = ImageFilter.GaussianBlur(BLUR * pictures.shape[1])
    return np.stack([np.asarray(Image.fromarray(picture).filter(gaussian)) for picture in pictures])


def crop(pictures: Pixels, keys: Sequence[str], seed: int) -> Pixels:
    """Leave a square of 60 to 80 % of the side anywhere in the picture, scaled to the whole."""
    from PIL import Image

    side = pictures.shape[1]
    made = np.empty_like(pictures)
    for row, key in enumerate(keys):
        size, across, down = _random("crop", key, seed).random(3)
        left = side * (CROP[0] + (CROP[1] - CROP[0]) * size)
        x, y = across * (side - left), down * (side - left)
        box = (x, y, x + left, y + left)
        made[row] = np.asarray(Image.fromarray(pictures[row]).resize((side, side), Image.Resampling.BILINEAR, box))
    return made


def noise(pictures: Pixels, keys: Sequence[str], seed: int) -> Pixels:
    """Add Gaussian noise of a deviation of 5 % of the range."""
    drawn = [_random("noise", key, seed).standard_normal(pictures.shape[1:], np.float32) for key in keys]
    return np.clip(np.rint(pictures + 255 * NOISE * np.stack(drawn)), 0, 255).astype(np.uint8)


def background(pictures: Pixels, keys: Sequence[str], seed: int) -> Pixels:
    """Put another plain colour in place of a plain background.

    Background is what hangs together with the border and is like the middle value of the border. Where that is less than 5 %
    of the picture, or more than 95 %, it stays as it is.
    """
    made = pictures.copy()
    border = np.concatenate([pictures[:, 0], pictures[:, -1], pictures[:, :, 0], pictures[:, :, -1]], axis=1)
    middle = np.median(border, axis=1)[:, None, None, :]
    like = (np.abs(pictures - middle) <= LIKE_THE_EDGE).all(axis=-1)
    inside = _from_border(like)
    for row, key in enumerate(keys):
        if LEAST_BACKGROUND <= inside[row].mean() <= MOST_BACKGROUND:
            made[row][inside[row]] = _random("background", key, seed).integers(0, 256, 3)
    return made


def _from_border(like: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return what of masks, bool[N, S, S], hangs together with the border: sweeps in four directions until nothing is new."""
    reached = like.copy()
    reached[:, 1:-1, 1:-1] = False
    count = -1
    while count != (count := int(reached.sum())):
        for rows, wanted in ((reached, like), (reached.swapaxes(1, 2), like.swapaxes(1, 2))):
            for line in range(1, rows.shape[1]):
                rows[:, line] |= rows[:, line - 1] & wanted[:, line]
            for line in range(rows.shape[1] - 2, -1, -1):
                rows[:, line] |= rows[:, line + 1] & wanted[:, line]
    return reached


def _random(name: str, key: str, seed: int) -> np.random.Generator:
    content = f"{seed}\0{name}\0{key}".encode("utf-8", "surrogatepass")
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big"))
