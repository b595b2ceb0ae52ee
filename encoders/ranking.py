"""Attention ranking: the candidates that cosine finds, ranked anew by the vectors of their modalities, in numpy.

A query's unit vectors q_i and a candidate's c_j, one of each modality that it has, are tokens. With embeddings e, f, g of
the modalities

    Q_i = q_i W_q + e_i    K_j = c_j W_k + f_j    V_j = c_j W_v + g_j
    o_i = sum_j softmax_j(Q_i . K_j / sqrt(a)) V_j            cross-attention of one head (Vaswani et al. 2017)
    x_i = [Q_i * o_i, (q_i . c_j)_j, (p_j)_j]                 p_j: 1 where the candidate has the modality j, else 0
    score = cosine + mean_i relu(x_i W + b) w

where the cosine is that of the fused vectors: what is learned corrects it, and begins as nothing. Trained by
`encoders.ranking_training`, applied by the lookup.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

QueryKind = Literal["text", "picture", "text_picture", "product"]
QUERY_KINDS: tuple[QueryKind, ...] = get_args(QueryKind)
LEAST_CANDIDATES, CANDIDATES_PER_ANSWER = 50, 5

Float32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


class RankingError(ValueError):
    """A ranker's file or arrays do not fit together, or vectors do not fit it."""


def candidates_for(answers: int) -> int:
    """Return how many candidates are ranked anew for so many answers."""
    return max(LEAST_CANDIDATES, CANDIDATES_PER_ANSWER * answers)


@dataclass(frozen=True, eq=False)
class Ranker:
    """Hold the arrays of the formula above, float32: M modalities, vectors of d values, a attention and h hidden units.

    kinds: the kinds of queries that it ranks better than cosine does, on validation: those it ranks unless told not to.
    """

    modalities: tuple[str, ...]
    kinds: tuple[str, ...]
    query: Float32  # W_q [d, a]
    query_embedding: Float32  # e [M, a]
    key: Float32  # W_k [d, a]
    key_embedding: Float32  # f [M, a]
    value: Float32  # W_v [d, a]
    value_embedding: Float32  # g [M, a]
    hidden: Float32  # W [a + 2 M, h]
    hidden_bias: Float32  # b [h]
    output: Float32  # w [h]

    def __post_init__(self) -> None:
        for name in ARRAYS:
            array = np.ascontiguousarray(getattr(self, name), np.float32)
            if not np.isfinite(array).all():
                raise RankingError(f"ranker array '{name}' has values that are not finite: train it again")
            object.__setattr__(self, name, array)
        unknown = set(self.kinds) - set(QUERY_KINDS)
        if unknown or not self.modalities:
            raise RankingError(f"the ranker is of queries {self.kinds} and modalities {self.modalities}: train it again")
        many, units = len(self.modalities), self.hidden_bias.size
        d, a = self.query.shape if self.query.ndim == 2 else (0, 0)
        expected = {
            "query": (d, a), "query_embedding": (many, a), "key": (d, a), "key_embedding": (many, a), "value": (d, a),
            "value_embedding": (many, a), "hidden": (a + 2 * many, units), "hidden_bias": (units,), "output": (units,),
        }  # fmt: skip
        for name, shape in expected.items():
            if getattr(self, name).shape != shape or not d:
                raise RankingError(f"ranker array '{name}' has shape {getattr(self, name).shape}, not {shape}: train it again")

    @property
    def dimension(self) -> int:
        """Give d, the dimension of the vectors that it compares."""
        return len(self.query)

    def correct(self, query: Mapping[str, Float32], candidates: Mapping[str, Float32], present: Mapping[str, Mask]) -> Float32:
        """Return what is to be added to the cosines of a query's candidates: float32[K].

        Args:
            query: float32[d] of unit norm of each modality that the query has.
            candidates: float32[K, d] of unit norm of each modality that candidates have.
            present: bool[K], which of them have it.

        Raises:
            RankingError: the query has no modality that the ranker knows, or the vectors are of another dimension.
        """
        known = [number for number, name in enumerate(self.modalities) if name in query]
        if not known:
            raise RankingError(f"the query has none of the modalities {', '.join(self.modalities)}")
        asked = np.stack([query[self.modalities[number]] for number in known]).astype(np.float32)
        count = len(next(iter(candidates.values())))
        tokens = np.zeros((count, len(self.modalities), self.dimension), np.float32)
        there = np.zeros((count, len(self.modalities)), np.bool_)
        for number, name in enumerate(self.modalities):
            if name in candidates:
                if self.dimension not in (candidates[name].shape[1], 0) or asked.shape[1] != self.dimension:
                    raise RankingError(f"the ranker compares vectors of dimension {self.dimension}: train it with these heads")
                there[:, number] = present[name]
                tokens[:, number] = np.where(there[:, number, None], candidates[name], 0)
        own = asked @ self.query + self.query_embedding[known]
        keys, values = tokens @ self.key + self.key_embedding, tokens @ self.value + self.value_embedding
        logits = np.einsum("ia,kja->ikj", own, keys) / np.float32(math.sqrt(own.shape[1]))
        logits = np.where(there[None], logits, np.float32(-1e9))
        shares = np.exp(logits - logits.max(axis=2, keepdims=True))
        shares /= shares.sum(axis=2, keepdims=True)
        context = np.einsum("ikj,kja->ika", shares, values)
        near = np.einsum("id,kjd->ikj", asked, tokens)
        had = np.broadcast_to(there.astype(np.float32), near.shape)
        inputs = np.concatenate([own[:, None] * context, near, had], axis=2)
        hidden = np.maximum(inputs @ self.hidden + self.hidden_bias, 0)
        return np.asarray((hidden @ self.output).mean(axis=0), np.float32)

    def to_npz(self, path: Path) -> None:
        """Write the arrays to `path`, uncompressed; the same arrays give the same bytes."""
        arrays = {name: getattr(self, name) for name in ARRAYS}
        with open(path, "wb") as file:
            np.savez(file, modalities=np.array(self.modalities), kinds=np.array(self.kinds, np.str_), **arrays)

    @classmethod
    def from_npz(cls, path: Path) -> Ranker:
        """Read what `to_npz` wrote; raises RankingError, naming the file, where it is not whole."""
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                modalities, kinds = tuple(archive["modalities"].tolist()), tuple(archive["kinds"].tolist())
                return cls(modalities, kinds, *(archive[name] for name in ARRAYS))
        except (zipfile.BadZipFile, EOFError, OSError, KeyError, ValueError) as error:
            raise RankingError(f"ranker file '{path}' cannot be read ({error}): write the bundle again") from error


ARRAYS = tuple(field.name for field in fields(Ranker) if field.name not in ("modalities", "kinds"))
