"""Picture views: seeded random variations of a picture, made for a whole batch in one TensorFlow graph.

View 0 is the picture itself. Any other view mirrors, zooms, rotates and shifts it in one bilinear resampling, in
which the nearest edge goes on beyond the border, and then changes contrast and brightness and adds noise:

    x(p) = contrast * (picture(A p) - 127.5) + 127.5 + 255 * brightness + 255 * sigma * n(p)

How much of each comes from BLAKE2b of (seed, content key, view) and from nothing else: a picture has the same views
in whatever batch, shard, order or process it comes. The noise n is a sum of four uniform bytes of an integer
hash of (draw, pixel), scaled to a deviation of 1 (Irwin-Hall; the hash is MurmurHash3's finalizer).
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]

FORMAT = 1  # what a view is; a change of this module that changes views counts it up

_NOISE_MEAN = 4 * 255 / 2
_NOISE_DEVIATION = math.sqrt(4 * (256**2 - 1) / 12)


class ViewError(ValueError):
    """Settings of views that mean nothing; the message names the operation and what it may be."""


@dataclass(frozen=True)
class PictureOperations:
    """How strong each operation is at most; 0 leaves it out, and all together are composed.

    Attributes:
        flip: probability of a mirror image, left to right.
        rotate: degrees, either way.
        zoom: share, in or out: 0.2 gives sizes from 1 / 1.2 to 1.2.
        shift: share of the side, in each direction.
        brightness: share of the range from black to white, either way.
        contrast: share, more or less: 0.2 gives factors from 1 / 1.2 to 1.2.
        noise: standard deviation, as a share of the range from black to white.
    """

    flip: float = 0.5
    rotate: float = 8.0
    zoom: float = 0.15
    shift: float = 0.06
    brightness: float = 0.1
    contrast: float = 0.2
    noise: float = 0.02

    def __post_init__(self) -> None:
        """Refuse what means nothing."""
        most = {"flip": 1.0, "rotate": 180.0, "zoom": 4.0, "shift": 1.0, "brightness": 1.0, "contrast": 4.0, "noise": 1.0}
        for name, value in asdict(self).items():
            if not 0 <= value <= most[name]:
                raise ViewError(f"the picture operation {name} is {value}; it may be from 0 to {most[name]:g}")

    @classmethod
    def of(cls, strengths: Mapping[str, Any]) -> PictureOperations:
        """Read strengths by name over the defaults; raises ViewError for an unknown name or what is no number."""
        return cls(**read_strengths(cls, strengths, "picture"))


def read_strengths(kind: type[Any], strengths: Mapping[str, Any], modality: str) -> dict[str, float]:
    """Turn strengths of operations into numbers.

    Raises:
        ViewError: `kind` has no operation of that name, or the strength is no number.
    """
    names = [f.name for f in fields(kind)]
    read = {}
    for name, value in strengths.items():
        if name not in names:
            raise ViewError(f"there is no {modality} operation '{name}'; it may be {', '.join(names)}")
        try:
            read[name] = float(value)
        except (TypeError, ValueError):
            raise ViewError(f"the {modality} operation {name} is '{value}', which is no number") from None
    return read


@dataclass(frozen=True)
class Draws:
    """What was drawn for N views.

    Attributes:
        transforms: float32[N, 6], rows of A: (x, y, 1) of the view -> (x, y) of the picture, in pixels.
        contrast: float32[N], factors.
        brightness: float32[N], added to values of 0 to 255.
        sigma: float32[N], deviation of the noise in values of 0 to 255.
        noise: uint32[N], what the noise is hashed with.
    """

    transforms: Float32
    contrast: Float32
    brightness: Float32
    sigma: Float32
    noise: npt.NDArray[np.uint32]


def draw(keys: Sequence[bytes], views: Sequence[int], side: int, operations: PictureOperations, seed: int) -> Draws:
    """Draw what happens in view `views[i]` of the picture with content key `keys[i]`; in view 0 nothing does."""
    words = np.stack([_words(seed, key, view) for key, view in zip(keys, views, strict=True)])
    # Nine numbers in [0, 1), and the same from -1 to 1.
    share = (words[:, :9] / 2**32).astype(np.float64)
    swing = 2 * share - 1
    moved = np.asarray(views) > 0
    angle = np.deg2rad(operations.rotate) * swing[:, 1]
    scale = (1 + operations.zoom) ** swing[:, 2]
    mirror = np.where(share[:, 0] < operations.flip, -1.0, 1.0)
    across, down = operations.shift * side * swing[:, 3], operations.shift * side * swing[:, 4]
    middle = (side - 1) / 2
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    transforms = np.stack(
        [
            mirror * cos, mirror * sin, middle - mirror * (cos * (middle + across) + sin * (middle + down)),
            -sin, cos, middle + sin * (middle + across) - cos * (middle + down),
        ],
        axis=1,
    )  # fmt: skip
    transforms[~moved] = (1, 0, 0, 0, 1, 0)
    return Draws(
        transforms=transforms.astype(np.float32),
        contrast=np.where(moved, (1 + operations.contrast) ** swing[:, 5], 1).astype(np.float32),
        brightness=np.where(moved, 255 * operations.brightness * swing[:, 6], 0).astype(np.float32),
        sigma=np.where(moved, 255 * operations.noise * share[:, 7], 0).astype(np.float32),
        noise=words[:, 9].astype(np.uint32),
    )


def _words(seed: int, key: bytes, view: int) -> npt.NDArray[np.uint32]:
    digest = hashlib.blake2b(seed.to_bytes(8, "big", signed=True) + view.to_bytes(4, "big") + key, digest_size=40).digest()
    return np.frombuffer(digest, ">u4")


def apply(pictures: Any, draws: tuple[Any, ...]) -> Any:
    """Build the graph: uint8[B, S, S, 3] and the fields of `Draws` as tensors -> uint8[B, S, S, 3].

    Runs eagerly as well; the two differ by one level of 256 at most, where a value lies between two.
    """
    import tensorflow as tf

    transforms, contrast, brightness, sigma, noise = draws
    rows, side = tf.shape(pictures)[0], pictures.shape[1]
    down, across = tf.meshgrid(tf.range(side, dtype=tf.float32), tf.range(side, dtype=tf.float32), indexing="ij")
    a = transforms[:, :, None, None]
    x = tf.clip_by_value(a[:, 0] * across + a[:, 1] * down + a[:, 2], 0.0, side - 1.0)
    y = tf.clip_by_value(a[:, 3] * across + a[:, 4] * down + a[:, 5], 0.0, side - 1.0)
    left, top = tf.floor(x), tf.floor(y)
    right_share, bottom_share = (x - left)[..., None], (y - top)[..., None]
    flat = tf.reshape(pictures, [-1, 3])
    first = tf.range(rows)[:, None, None] * (side * side)

    def values(down: Any, across: Any) -> Any:
        place = tf.cast(tf.minimum(down, side - 1.0), tf.int32) * side + tf.cast(tf.minimum(across, side - 1.0), tf.int32)
        return tf.cast(tf.gather(flat, first + place), tf.float32)

    upper = (1 - right_share) * values(top, left) + right_share * values(top, left + 1)
    lower = (1 - right_share) * values(top + 1, left) + right_share * values(top + 1, left + 1)
    moved = (1 - bottom_share) * upper + bottom_share * lower
    factor = contrast[:, None, None, None]
    coloured = factor * moved + (127.5 * (1 - contrast) + brightness)[:, None, None, None]
    noisy = coloured + sigma[:, None, None, None] * _noise(noise, side)
    return tf.cast(tf.round(tf.clip_by_value(noisy, 0.0, 255.0)), tf.uint8)


def _noise(draws: Any, side: int) -> Any:
    """Give float32[B, S, S, 3] of mean 0 and deviation 1, by draw and pixel."""
    import tensorflow as tf

    def word(value: int) -> Any:
        return tf.constant(value, tf.uint32)

    xor, shift = tf.bitwise.bitwise_xor, tf.bitwise.right_shift
    pixels = tf.cast(tf.range(side * side * 3), tf.uint32) * word(0x9E3779B1)
    hashed = xor(pixels[None], draws[:, None])
    for width, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        hashed = xor(hashed, shift(hashed, word(width))) * word(factor)
    parts = [tf.bitwise.bitwise_and(shift(hashed, word(bits)), word(0xFF)) for bits in (0, 8, 16, 24)]
    total = tf.add_n([tf.cast(part, tf.float32) for part in parts])
    return tf.reshape((total - _NOISE_MEAN) / _NOISE_DEVIATION, [-1, side, side, 3])


@functools.cache
def _compiled() -> Any:
    """Give `apply` compiled by XLA: nine times as fast as the same operations one by one."""
    import tensorflow as tf

    return tf.function(apply, jit_compile=True, reduce_retracing=False)


class PictureViews:
    """Makes views of pictures of one size, in batches of one size, for which the graph is compiled once a process."""

    def __init__(self, side: int, operations: PictureOperations, seed: int, batch: int = 32):
        """Keep the settings; TensorFlow is imported with the first view."""
        self.side, self.operations, self.seed, self.batch = side, operations, seed, batch

    def make(self, pictures: Pixels, keys: Sequence[bytes], views: Sequence[int]) -> Pixels:
        """Make view `views[i]` of picture i, uint8[N, S, S, 3], whose content key is `keys[i]`."""
        made = np.empty_like(pictures)
        for start in range(0, len(pictures), self.batch):
            rows = slice(start, min(start + self.batch, len(pictures)))
            made[rows] = self._make(pictures[rows], keys[rows], views[rows])
        return made

    def _make(self, pictures: Pixels, keys: Sequence[bytes], views: Sequence[int]) -> Pixels:
        if not any(views):
            return pictures
        rows, missing = len(pictures), self.batch - len(pictures)
        draws = draw([*keys, *[b""] * missing], [*views, *[0] * missing], self.side, self.operations, self.seed)
        if missing:
            pictures = np.concatenate([pictures, np.zeros((missing, *pictures.shape[1:]), np.uint8)])
        made = _compiled()(pictures, (draws.transforms, draws.contrast, draws.brightness, draws.sigma, draws.noise))
        return np.asarray(made)[:rows]
