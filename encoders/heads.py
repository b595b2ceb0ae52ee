"""Heads: small networks that carry a tower's feature into the space that all modalities share.

Trained by `encoders.training`, applied here in numpy, by the jobs and by the lookup alike.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from encoders.query_bank import QueryBank

BLOCK_ROWS = 1024

Float32 = npt.NDArray[np.float32]


class HeadError(ValueError):
    """A head's file or arrays do not fit together, or a feature does not fit its head."""


@dataclass(frozen=True)
class Head:
    """Map a feature x of dimension D to a vector of the shared space, of dimension d.

    With z = (x - mean) / scale, the learned vector is `z linear + relu(z hidden + hidden_bias) output + bias`,
    brought to unit norm: a linear map beside one hidden layer of h units (h may be 0). Where there is a `gap`, it is
    taken away, and what is left is brought to unit norm. Arrays are float32.

    A `bank` puts one value beside the e learned ones (`encoders.query_bank`).

    m further values may stand beside these, d = e + m or e + 1 + m: those of the whitened feature
    y = z whitening + whitening_bias (`encoders.whitening`), or zeros where `whitening` has no rows. With s the share of the
    whitened, the vector is [sqrt(1 - s) v, sqrt(s) y], v and y of unit norm.
    """

    mean: Float32  # [D]
    scale: Float32  # [D], > 0
    linear: Float32  # [D, e]
    hidden: Float32  # [D, h]
    hidden_bias: Float32  # [h]
    output: Float32  # [h, e]
    bias: Float32  # [e]
    gap: Float32 = field(default_factory=lambda: np.zeros(0, np.float32))  # [e] or [0]: the mean of a catalogue's vectors
    whitening: Float32 = field(default_factory=lambda: np.zeros((0, 0), np.float32))  # [D, m], or [0, m]: zeros
    whitening_bias: Float32 = field(default_factory=lambda: np.zeros(0, np.float32))  # [m]
    whitened_share: float = 0.0
    bank: QueryBank | None = None

    def __post_init__(self) -> None:
        for name in _ARRAYS:
            array = np.ascontiguousarray(getattr(self, name), dtype=np.float32)
            if not np.isfinite(array).all():
                raise HeadError(f"head array '{name}' has values that are not finite: train it again")
            object.__setattr__(self, name, array)
        axes = self.linear.ndim, self.hidden.ndim, self.whitening.ndim
        if axes != (2, 2, 2):
            shown = f"{axes[0]}, {axes[1]} and {axes[2]}"
            raise HeadError(f"head arrays 'linear', 'hidden' and 'whitening' have {shown} axes, not 2")
        (inputs, outputs), units, whitened = self.linear.shape, self.hidden.shape[1], self.whitening.shape[1]
        if not (0 < self.whitened_share < 1 if len(self.whitening) else self.whitened_share == 0):
            raise HeadError(f"head gives whitened values the share {self.whitened_share}: train it again")
        expected = {
            "mean": (inputs,),
            "scale": (inputs,),
            "hidden": (inputs, units),
            "hidden_bias": (units,),
            "output": (units, outputs),
            "bias": (outputs,),
            "gap": (outputs,) if self.gap.size else (0,),
            "whitening": (inputs if len(self.whitening) else 0, whitened),
            "whitening_bias": (whitened,),
        }
        for name, shape in expected.items():
            found = getattr(self, name).shape
            if found != shape:
                raise HeadError(f"head array '{name}' has shape {found}, but its other arrays ask for {shape}")
        if self.bank is not None and self.bank.queries.shape[1] != outputs:
            width = self.bank.queries.shape[1]
            raise HeadError(f"head has a query bank of dimension {width} beside {outputs} learned values: train it again")
        if (self.scale <= 0).any():
            raise HeadError("head array 'scale' has values that are not positive: train the head again")

    @property
    def dimension_in(self) -> int:
        """Give D, the dimension of the tower's features."""
        return int(self.linear.shape[0])

    @property
    def dimension_out(self) -> int:
        """Give d, the dimension of the shared space."""
        return int(self.linear.shape[1] + (self.bank is not None) + self.whitening.shape[1])

    def widened(self, values: int) -> Head:
        """Return the head with so many zeros behind its vectors, which has no whitened values yet."""
        if self.whitening.shape[1]:
            raise HeadError(f"head has {self.whitening.shape[1]} whitened values already")
        return replace(self, whitening=np.zeros((0, values), np.float32), whitening_bias=np.zeros(values, np.float32))

    def to_npz(self, path: Path) -> None:
        """Write the arrays to `path`, uncompressed; the same arrays give the same bytes."""
        arrays = {name: getattr(self, name) for name in _ARRAYS if name not in _OPTIONAL}
        if self.gap.size:
            arrays["gap"] = self.gap
        if self.whitening.shape[1]:
            arrays |= {name: getattr(self, name) for name in _WHITENED}
            arrays[_SHARE] = np.float64(self.whitened_share)
        if self.bank is not None:
            numbers = self.bank.temperature, self.bank.gain, self.bank.level
            arrays |= dict(zip(_BANK, (self.bank.queries, self.bank.sizes, np.array(numbers)), strict=True))
        with open(path, "wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def from_npz(cls, path: Path) -> Head:
        """Read what `to_npz` wrote; raises HeadError, naming the file, where it is not whole."""
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                expected = set(_ARRAYS) - set(_OPTIONAL)
                expected |= set(_WHITENED) if _SHARE in archive.files else set()
                expected |= set(_BANK) if set(_BANK) & set(archive.files) else set()
                missing = [name for name in (*_ARRAYS, *_BANK) if name in expected and name not in archive.files]
                if missing:
                    absent = ", ".join(missing)
                    raise HeadError(f"head file '{path}' lacks the arrays {absent}: write the bundle again")
                share = float(archive[_SHARE]) if _SHARE in archive.files else 0.0
                bank = None
                if _BANK[0] in expected:
                    queries, sizes, numbers = (archive[name] for name in _BANK)
                    bank = QueryBank(queries, sizes, *numbers.astype(np.float64).reshape(3).tolist())
                arrays = {name: archive[name] for name in archive.files if name in _ARRAYS}
                return cls(**arrays, whitened_share=share, bank=bank)
        except (zipfile.BadZipFile, EOFError, OSError, ValueError) as error:
            if isinstance(error, HeadError | FileNotFoundError):
                raise
            raise HeadError(f"head file '{path}' cannot be read ({error}): write the bundle again") from error


_SHARE, _WHITENED = "whitened_share", ("whitening", "whitening_bias")
_BANK = ("bank_queries", "bank_sizes", "bank_numbers")  # the last: temperature, gain, level
_ARRAYS = tuple(field.name for field in fields(Head) if field.name not in (_SHARE, "bank"))
_OPTIONAL = ("gap", *_WHITENED)


def apply_head(head: Head, features: npt.NDArray[np.floating], block: int = BLOCK_ROWS) -> Float32:
    """Carry features, float16 or float32[N, D], into the shared space: float32[N, d], unit norm.

    Rows are taken in blocks of `block`, the last one padded, so that a row's bits depend neither on N nor on
    its neighbours, and at most the last ones on its place in the block (on one kind of machine and one number of
    BLAS threads). Whatever is stored takes the default block; a smaller one answers a single query sooner and
    differs in the last bits. A row that the head maps to 0 stays 0. Raises HeadError for another dimension than
    the head's and for features that are not finite.
    """
    if features.ndim != 2 or features.shape[1] != head.dimension_in:
        raise HeadError(f"features of shape {features.shape} do not fit a head for dimension {head.dimension_in}")
    vectors = np.empty((len(features), head.dimension_out), np.float32)
    padded = np.zeros((block, head.dimension_in), np.float32)
    for start in range(0, len(features), block):
        rows = min(block, len(features) - start)
        padded[:rows] = features[start : start + rows]
        padded[rows:] = head.mean
        finite = np.isfinite(padded).all(axis=1)
        if not finite.all():
            row = start + int(np.argmin(finite))
            raise HeadError(f"feature in row {row} has values that are not finite: encode the item again")
        vectors[start : start + rows] = _transform(head, padded)[:rows]
    return vectors


def random_head(dimension_in: int, dimension_out: int, seed: int) -> Head:
    """Make a head that only projects: orthonormal rows or columns drawn by `seed`, no hidden units.

    It keeps distances (d >= D) or nearly keeps them (d < D): for a modality with nothing to train against.
    """
    rng = np.random.default_rng(seed)
    larger, smaller = max(dimension_in, dimension_out), min(dimension_in, dimension_out)
    orthonormal, triangle = np.linalg.qr(rng.standard_normal((larger, smaller)))
    orthonormal *= np.sign(np.diag(triangle))
    linear = orthonormal if dimension_in >= dimension_out else orthonormal.T
    return Head(
        mean=np.zeros(dimension_in, np.float32),
        scale=np.ones(dimension_in, np.float32),
        linear=linear.astype(np.float32),
        hidden=np.zeros((dimension_in, 0), np.float32),
        hidden_bias=np.zeros(0, np.float32),
        output=np.zeros((0, dimension_out), np.float32),
        bias=np.zeros(dimension_out, np.float32),
    )


def identity_head(dimension: int) -> Head:
    """Make the head that only brings a feature to unit norm: for towers that share their space already."""
    return replace(random_head(dimension, dimension, 0), linear=np.eye(dimension, dtype=np.float32))


def _transform(head: Head, features: Float32) -> Float32:
    standard: Float32 = (features - head.mean) / head.scale
    vectors: Float32 = standard @ head.linear
    vectors += head.bias
    if head.hidden_bias.size:
        vectors += np.maximum(standard @ head.hidden + head.hidden_bias, 0) @ head.output
    vectors = _unit(vectors)
    vectors = _unit(vectors - head.gap) if head.gap.size else vectors
    vectors = vectors if head.bank is None else head.bank.beside(vectors)
    return _beside(head, vectors, standard) if head.whitening.shape[1] else vectors


def _beside(head: Head, learned: Float32, standard: Float32) -> Float32:
    whitened = np.zeros((len(learned), head.whitening.shape[1]), np.float32)
    if len(head.whitening):
        share = np.float32(head.whitened_share)
        whitened = np.sqrt(share) * _unit(standard @ head.whitening + head.whitening_bias)
        learned = np.sqrt(1 - share) * learned
    return np.hstack([learned, whitened])


def _unit(vectors: Float32) -> Float32:
    norms: Float32 = np.linalg.norm(vectors, axis=1, keepdims=True).astype(np.float32)
    norms[norms == 0] = 1
    return vectors / norms
