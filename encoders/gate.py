"""The gate of fusion by attention: a small network that weighs the modalities of each product, in numpy."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


class GateError(ValueError):
    """A gate's file or arrays do not fit together, or vectors do not fit its gate."""


@dataclass(frozen=True, eq=False)
class Gate:
    """Weigh the modalities of each product, from its vectors: learned by `encoders.training`, applied in numpy.

    With x = [p_m v_m]_m, [p_m]_m side by side, the weights are the softmax of `relu(x hidden + hidden_bias) output + bias`
    over the modalities that are there. Arrays are float32; M modalities, d values each, h units.
    """

    modalities: tuple[str, ...]
    hidden: Float32  # [M d + M, h]
    hidden_bias: Float32  # [h]
    output: Float32  # [h, M]
    bias: Float32  # [M]

    _ARRAYS = ("hidden", "hidden_bias", "output", "bias")

    def __post_init__(self) -> None:
        for name in self._ARRAYS:
            array = np.ascontiguousarray(getattr(self, name), np.float32)
            if not np.isfinite(array).all():
                raise GateError(f"gate array '{name}' has values that are not finite: train it again")
            object.__setattr__(self, name, array)
        many, units = len(self.modalities), self.hidden_bias.size
        rows = self.hidden.shape[0] if self.hidden.ndim == 2 else 0
        expected = {"hidden": (rows, units), "hidden_bias": (units,), "output": (units, many), "bias": (many,)}
        found = {name: getattr(self, name).shape for name in self._ARRAYS}
        if found != expected or not many or rows % many or rows < 2 * many:
            raise GateError(f"gate arrays of shapes {found} do not fit {many} modalities: train it again")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Gate):
            return NotImplemented
        return self.modalities == other.modalities and all(
            np.array_equal(getattr(self, name), getattr(other, name)) for name in self._ARRAYS
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def dimension(self) -> int:
        """Give d, the dimension of the vectors it weighs."""
        return self.hidden.shape[0] // len(self.modalities) - 1

    def widened(self, values: int) -> Gate:
        """Return the gate for vectors that have so many further values, which it does not look at."""
        many = len(self.modalities)
        blocks = self.hidden[:-many].reshape(many, self.dimension, -1)
        wider = np.pad(blocks, ((0, 0), (0, values), (0, 0))).reshape(many * (self.dimension + values), -1)
        return replace(self, hidden=np.concatenate([wider, self.hidden[-many:]]))

    def weigh(self, parts: Mapping[str, tuple[Float32, Mask]], rows: int) -> Float32:
        """Return the weights of masked vectors, float32[N, d] with bool[N]: float32[N, M], zeros where nothing is there.

        Raises:
            GateError: the vectors have another dimension than those it was trained on.
        """
        nothing = np.zeros((rows, self.dimension), np.float32), np.zeros(rows, np.bool_)
        taken = [parts.get(name, nothing) for name in self.modalities]
        inputs = np.hstack([*(vectors for vectors, _ in taken), np.stack([mask for _, mask in taken], axis=1)])
        if inputs.shape[1] != len(self.hidden):
            raise GateError(f"the gate weighs vectors of dimension {self.dimension}: train it with these heads")
        there = np.stack([mask for _, mask in taken], axis=1)
        logits = np.maximum(inputs.astype(np.float32) @ self.hidden + self.hidden_bias, 0) @ self.output + self.bias
        logits = np.where(there, logits, np.float32(-np.inf))
        highest = np.where(there.any(axis=1, keepdims=True), logits.max(axis=1, keepdims=True), np.float32(0))
        shares = np.exp(logits - highest)
        total = shares.sum(axis=1, keepdims=True)
        return np.asarray(shares / np.where(total == 0, 1, total), np.float32)

    def to_npz(self, path: Path) -> None:
        """Write the arrays to `path`, uncompressed; the same arrays give the same bytes."""
        with open(path, "wb") as file:
            np.savez(file, modalities=np.array(self.modalities), **{name: getattr(self, name) for name in self._ARRAYS})

    @classmethod
    def from_npz(cls, path: Path) -> Gate:
        """Read what `to_npz` wrote; raises GateError, naming the file, where it is not whole."""
        try:
            with np.load(path, allow_pickle=False) as archive:
                return cls(tuple(archive["modalities"].tolist()), *(archive[name] for name in cls._ARRAYS))
        except (zipfile.BadZipFile, EOFError, OSError, KeyError, ValueError) as error:
            raise GateError(f"gate file '{path}' cannot be read ({error}): write the bundle again") from error
