"""A bank of queries, by which what is near to many of them is weighed down: querybank normalization.

Among vectors of many dimensions some are among the nearest of far more queries than others, and crowd out what is asked for
("hubs": Radovanovic, Nanopoulos and Ivanovic, 2010). How near one lies to a bank of queries tells how much of a hub it is, and
taking that away from its similarities is an inverted softmax over the bank (Smith and others, 2017; at the time of the
search: Bogolin and others, "Cross Modal Retrieval with Querybank Normalisation", 2022). Here it is one value of the vector
itself, so that every search by cosine does it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]

QUERY_LEVEL = 0.3  # the value of a text: large enough that pictures' values stay small
MOST = 0.5  # of a picture's value


@dataclass(frozen=True)
class QueryBank:
    """Put one value beside a learned vector v of e dimensions and unit norm: [sqrt(1 - u^2) v, u].

    u = level - gain * b(v), from -.5 to .5, with b(v) the mean over the groups of the bank of T log(mean exp((q v - 1) / T)),
    q the queries of a group and T the temperature. Without queries u is the level. With u = s for texts, and for pictures a
    gain of w sqrt(1 - s^2) / s, the cosine of a text and a picture is what it would be, less w times the picture's b (but for
    a constant, a factor and the square of u).

    queries: float32[Q, e], of unit norm, group after group; sizes: int[G], how many each group has.
    """

    queries: Float32
    sizes: npt.NDArray[np.int64]
    temperature: float
    gain: float
    level: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "queries", np.ascontiguousarray(self.queries, np.float32))
        object.__setattr__(self, "sizes", np.ascontiguousarray(self.sizes, np.int64))
        if self.queries.ndim != 2 or self.sizes.ndim != 1 or (self.sizes < 1).any() or self.sizes.sum() != len(self.queries):
            shown = f"groups of {self.sizes.tolist()} queries and arrays of shape {self.queries.shape}"
            raise ValueError(f"a query bank has {shown}, which do not fit")
        numbers = self.temperature, self.gain, self.level
        if not np.isfinite([*numbers, float(self.queries.sum())]).all() or self.temperature <= 0:
            raise ValueError(f"a query bank's temperature, gain and level are {numbers}, or its queries are not finite")

    @classmethod
    def of_texts(cls, dimension: int) -> QueryBank:
        """Make what gives all texts the same value."""
        return cls(np.zeros((0, dimension), np.float32), np.zeros(0, np.int64), 1.0, 0.0, QUERY_LEVEL)

    @classmethod
    def of_pictures(
        cls, queries: Float32, sizes: npt.NDArray[np.int64], temperature: float, weight: float, usual: float
    ) -> QueryBank:
        """Make what takes `weight` times the nearness from similarities to texts; `usual` is pictures' mean nearness."""
        gain = weight * float(np.sqrt(1 - QUERY_LEVEL**2)) / QUERY_LEVEL
        return cls(queries, sizes, temperature, gain, gain * usual)

    def nearness(self, vectors: Float32) -> Float32:
        """Return b of vectors float32[N, e]: float32[N]."""
        total = np.zeros(len(vectors), np.float32)
        if not len(self.sizes):
            return total
        exponents = (vectors @ self.queries.T - 1) / np.float32(self.temperature)
        for group in np.split(exponents, np.cumsum(self.sizes)[:-1], axis=1):
            highest = group.max(axis=1, keepdims=True)
            total += highest[:, 0] + np.log(np.exp(group - highest).mean(axis=1))
        return np.asarray(total * np.float32(self.temperature / len(self.sizes)), np.float32)

    def beside(self, vectors: Float32) -> Float32:
        """Put the value beside vectors float32[N, e], of unit norm or zeros, which stay zeros: float32[N, e + 1]."""
        value = np.float32(self.level) - np.float32(self.gain) * self.nearness(vectors)
        value = np.where(vectors.any(axis=1), value.clip(-MOST, MOST), np.float32(0))[:, None]
        return np.hstack([np.sqrt(1 - value**2) * vectors, value])
