"""Fusion: one vector from the vectors of a product's modalities, and the same for a query.

For modalities m with weight w_m > 0, unit vectors v_m and presence p_m in {0, 1} a product's vector is,
before it is brought to unit norm:

    concatenation   [sqrt(w_m) p_m v_m]_m               d x modalities values
    weighted_sum    sum_m w_m p_m v_m / sum_m w_m p_m   d values
    mean            sum_m p_m v_m / sum_m p_m           d values
    max             max_{m: p_m = 1} v_m                d values, element by element
    attention       sum_m a_m p_m v_m                   d values; a, the softmax over the modalities that are there,
                                                        is computed from the product's own vectors by a `Gate`

A query has any of the modalities. Those it has are pooled to one unit vector q of the shared space (by `mean`,
`max` and `attention` as a product is; otherwise by weights), and q is compared with every modality of the product:

    concatenation   [sqrt(w_m) q]_m, over its norm: the dot product with a product's vector is
                    sum_m w_m p_m v_m.q, over sqrt(sum_m w_m p_m) and sqrt(sum_m w_m)
    the others      q: the dot product is that with the sum, mean or maximum, over the norm of the latter

Structured features (price, brand and so on) are no modality: they live in no shared space. With their unit vector s and
their weight w, 0 <= w < 1, stands beside the unit vector z of any kind above, for a product and for a query:

    product         [sqrt(1-w) z, sqrt(w) s]    of unit norm; the dot product of two is (1-w) z.z' + w s.s'
    query           [q, 0]                      no text or picture has a price: the dot product is sqrt(1-w) q.z

So by cosine, dot product or Euclidean distance queries rank products as without structured features, and "like this
one", which takes a product's own vector, ranks by both. w = 0 adds no dimension.

A query by text, or by picture, may be ranked by other weights than the fusion's own (`for_query`): texts find more by products'
texts, photos by their pictures. The fused vectors then give the candidates.

Where every modality has a weight, a concatenation holds the vectors of all of them (`keeps`, `split`). So products can be
fused anew by a concatenation with other weights, and a query of that one can be answered, nearly, by the old (`carry`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from encoders.gate import Gate

FusionKind = Literal["concatenation", "weighted_sum", "mean", "max", "attention"]
Float32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

STRUCTURED = "structured"
# Kinds of fusion that have a use for weights.
WEIGHING: tuple[FusionKind, ...] = ("concatenation", "weighted_sum")
# Kinds of queries that weights of their own may rank: those by one modality, whose vector is compared with all.
ASKED_BY = ("text", "picture")


class FusionError(ValueError):
    """Fusion settings or vectors that do not fit together."""


@dataclass(frozen=True)
class Fusion:
    """Say how the vectors of the modalities become one.

    Attributes:
        kind: one of the formulas above.
        weights: modality -> weight >= 0, in the order of concatenation; "structured" -> the share of structured
            features, below 1, is among them where it is above 0.
        structured_dimension: values of structured features; 0 where they have no weight.
        gate: what weighs the modalities of each product; of the kind attention, which has no use for other weights than 0.
        query_weights: kind of query ("text", "picture") -> weights of the modalities that rank the candidates of such a query, of
            fusions that weigh; one that is not named is ranked by the fused vectors.
    """

    kind: FusionKind
    weights: Mapping[str, float]
    structured_dimension: int = 0
    gate: Gate | None = None
    query_weights: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in get_args(FusionKind):
            kinds = ", ".join(get_args(FusionKind))
            raise FusionError(f"unknown fusion '{self.kind}': choose one of {kinds}")
        weights = {str(name): float(weight) for name, weight in self.weights.items()}
        for name, weight in weights.items():
            if not math.isfinite(weight) or weight < 0:
                raise FusionError(f"fusion weight {weight} of '{name}' is not a finite number of 0 or more")
        structured = weights.pop(STRUCTURED, 0.0)
        if not any(weights.values()):
            raise FusionError(f"no modality has a fusion weight above 0 ({weights}): give at least one a weight")
        if structured >= 1:
            raise FusionError(f"fusion weight {structured} of '{STRUCTURED}' is not below 1: it is a share of the whole")
        if structured and self.structured_dimension < 1:
            raise FusionError(f"'{STRUCTURED}' has the fusion weight {structured}, but there are no such features")
        if structured:
            weights[STRUCTURED] = structured
        if self.query_weights and self.kind not in WEIGHING:
            raise FusionError(f"a fusion by {self.kind} has no weights, so queries have none of their own")
        for kind, own in self.query_weights.items():
            if kind not in ASKED_BY or not set(Fusion(self.kind, own).modalities) <= set(weights):
                names = ", ".join(weights)
                raise FusionError(f"weights {dict(own)} of queries by {kind}: they are of {names}, by text or picture")
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "structured_dimension", self.structured_dimension if structured else 0)

    def check_gate(self) -> Gate:
        """Return the gate; raises FusionError where there is none, as in settings read without their bundle."""
        if self.gate is None:
            raise FusionError("fusion by attention needs a gate, which is trained: train --fusion attention")
        return self.gate

    @property
    def modalities(self) -> tuple[str, ...]:
        """Give the modalities with a weight above 0, in order."""
        return tuple(name for name, weight in self.weights.items() if weight > 0 and name != STRUCTURED)

    @property
    def structured_weight(self) -> float:
        """Give the share of structured features."""
        return self.weights.get(STRUCTURED, 0.0)

    def for_query(self, kind: str | None) -> Fusion | None:
        """Return the fusion that ranks the candidates of a kind of query, None where this one does."""
        weights = None if kind is None else self.query_weights.get(kind)
        return None if weights is None else Fusion(self.kind, weights)

    def dimension(self, d: int) -> int:
        """Give the dimension of fused vectors where the shared space has d."""
        return (d * len(self.modalities) if self.kind == "concatenation" else d) + self.structured_dimension

    def shared_dimension(self, dimension: int) -> int:
        """Give d, the dimension of the shared space, where fused vectors have `dimension`."""
        own = dimension - self.structured_dimension
        return own // len(self.modalities) if self.kind == "concatenation" else own

    def fuse(
        self, vectors: Mapping[str, Float32], present: Mapping[str, Mask], structured: Float32 | None = None
    ) -> Float32:
        """Fuse products' vectors, float32[N, d] a modality, where `present`, bool[N] a modality, says so.

        Returns float32[N, dimension(d)] of unit norm; a row without any modality is zero. A modality that is
        not in `vectors` is missing everywhere, one that is not in `present` is there everywhere; those
        without a weight are left out. What stands in a missing row is never looked at. `structured` is
        float32[N, structured_dimension] of unit norm; it is taken only where it has a weight.

        Raises:
            FusionError: the shapes do not fit together.
        """
        return self._beside(self._fuse(vectors, present), structured)

    def _beside(self, fused: Float32, structured: Float32 | None) -> Float32:
        """Put products' structured features beside their fused vectors; a row of zeros stays one."""
        share = self.structured_weight
        if not share:
            return fused
        values = np.zeros((0, 0), np.float32) if structured is None else np.asarray(structured, np.float32)
        taken = (len(fused), self.structured_dimension)
        if values.shape != taken:
            raise FusionError(f"structured features have shape {values.shape}; the fusion takes {taken}")
        beside = np.where(fused.any(axis=1, keepdims=True), values, np.float32(0))
        return _unit(np.hstack([np.float32(math.sqrt(1 - share)) * fused, np.float32(math.sqrt(share)) * beside]))

    def _fuse(self, vectors: Mapping[str, Float32], present: Mapping[str, Mask]) -> Float32:
        d = _shared_dimension(vectors)
        parts = {name: _masked(vectors, present, name) for name in self.modalities if name in vectors}
        rows = len(next(iter(vectors.values())))
        if self.kind == "concatenation":
            fused = np.zeros((rows, d * len(self.modalities)), np.float32)
            for index, name in enumerate(self.modalities):
                if name in parts:
                    fused[:, index * d : (index + 1) * d] = math.sqrt(self.weights[name]) * parts[name][0]
            return _unit(fused)
        return _unit(self._pool(parts, rows, d))

    def _pool(self, parts: Mapping[str, tuple[Float32, Mask]], rows: int, d: int) -> Float32:
        """Pool vectors into the shared space as this kind does; those side by side are pooled by their weights."""
        if self.kind != "attention":
            return _pool("weighted_sum" if self.kind == "concatenation" else self.kind, self.weights, parts, rows, d)
        gate = self.check_gate()
        shares = gate.weigh(parts, rows)
        pooled = np.zeros((rows, d), np.float32)
        for number, name in enumerate(gate.modalities):
            if name in parts:
                pooled += shares[:, number : number + 1] * parts[name][0]
        return pooled

    def query(self, vectors: Mapping[str, Float32], present: Mapping[str, Mask]) -> Float32:
        """Make queries' vectors comparable with fused ones: float32[N, dimension(d)], unit norm.

        Takes vectors as `fuse` does; structured features are zero. A modality that products are not fused from counts
        where a query has no other (a text still finds pictures in an index of pictures). A query without anything is
        zero.
        """
        d = _shared_dimension(vectors)
        rows = len(next(iter(vectors.values())))
        parts = {name: _masked(vectors, present, name) for name in vectors}
        fused = {name: part for name, part in parts.items() if self.weights.get(name, 0) > 0}
        others = {name: part for name, part in parts.items() if name not in fused}
        pooled = self._pool(fused, rows, d)
        if others:
            bare = ~np.any([mask for _, mask in fused.values()] or np.zeros((1, rows), np.bool_), axis=0)
            substitute = _pool("max" if self.kind == "max" else "mean", {}, others, rows, d)
            pooled = np.where(bare[:, None], substitute, pooled)
        pooled = _unit(pooled)
        if self.kind == "concatenation":
            parts_of_q = [np.float32(math.sqrt(self.weights[name])) * pooled for name in self.modalities]
            pooled = _unit(np.concatenate(parts_of_q, axis=1))
        return np.pad(pooled, ((0, 0), (0, self.structured_dimension))) if self.structured_dimension else pooled

    def keeps(self, modalities: Iterable[str]) -> bool:
        """Tell whether fused vectors hold those of all these modalities."""
        return self.kind == "concatenation" and set(modalities) <= set(self.modalities)

    def split(self, fused: Float32) -> tuple[dict[str, Float32], dict[str, Mask], Float32]:
        """Take apart what a concatenation fused, float32[N, D], into what it was fused of.

        Returns vectors, float32[N, d] a modality of unit norm; presence, bool[N] a modality; structured features,
        float32[N, structured_dimension], of unit norm. What is missing is zero.
        """
        heads = fused[:, : fused.shape[1] - self.structured_dimension]
        blocks = np.split(heads, len(self.modalities), axis=1)
        vectors = {name: _unit(block) for name, block in zip(self.modalities, blocks, strict=True)}
        present: dict[str, Mask] = {name: np.any(block, axis=1) for name, block in vectors.items()}
        return vectors, present, self.structured_of(fused)

    def structured_of(self, fused: Float32) -> Float32:
        """Take products' structured features out of their fused vectors: float32[N, structured_dimension], unit norm."""
        return _unit(fused[:, fused.shape[1] - self.structured_dimension :])

    def carry(self, queries: Float32, other: Fusion) -> Float32:
        """Carry queries of a concatenation `other`, float32[N, D'], to the products of this fusion: float32[N, D], unit norm.

        With shares s_m (the weights, brought to a sum of 1) a block x_m of a query of `other` becomes

            concatenation   sqrt(s'_m / s_m) x_m: products that have all modalities are ranked as by `other`
            the others      the sum over m of sqrt(s'_m) x_m: about the products that `other` ranks first

        A modality that this fusion gives no weight finds no products of its own. Where there is no other, its block is
        compared with all modalities, as in `query`.
        """
        own, others = self._shares(), other._shares()
        head = queries.shape[1] - other.structured_dimension
        blocks = dict(zip(other.modalities, np.split(queries[:, :head], len(other.modalities), axis=1), strict=True))
        pooled: Float32 = sum(np.float32(math.sqrt(others[name])) * block for name, block in blocks.items())  # type: ignore[assignment]
        pooled = pooled / np.float32(math.sqrt(1 - self.structured_weight))
        if self.kind == "concatenation":
            nothing = np.zeros_like(pooled)
            scales = {name: np.float32(math.sqrt(others.get(name, 0) / own[name])) for name in self.modalities}
            if any(scales.values()):
                parts = [scale * blocks.get(name, nothing) for name, scale in scales.items()]
            else:
                parts = [np.float32(math.sqrt(own[name])) * pooled for name in self.modalities]
            pooled = np.concatenate(parts, axis=1)
        tail = np.zeros((len(queries), self.structured_dimension), np.float32)
        if self.structured_dimension and other.structured_dimension:
            tail = np.float32(math.sqrt(others[STRUCTURED] / own[STRUCTURED])) * queries[:, head:]
        return _unit(np.hstack([pooled, tail]))

    def _shares(self) -> dict[str, float]:
        """Return the shares of modalities and structured features, which sum to 1."""
        total = sum(self.weights[name] for name in self.modalities)
        shares = {name: (1 - self.structured_weight) * self.weights[name] / total for name in self.modalities}
        return shares | {STRUCTURED: self.structured_weight}

    def to_json(self) -> dict[str, Any]:
        """Give the settings but the gate as JSON values; the order of the weights is kept."""
        told: dict[str, Any] = {"kind": self.kind, "weights": dict(self.weights)}
        if self.structured_dimension:
            told["structured_dimension"] = self.structured_dimension
        if self.query_weights:
            told["query_weights"] = {kind: dict(weights) for kind, weights in self.query_weights.items()}
        return told

    @classmethod
    def from_json(cls, value: Mapping[str, Any], gate: Gate | None = None) -> Fusion:
        """Read what `to_json` gave, the gate apart; raises FusionError for what it could not have given."""
        try:
            return cls(
                value["kind"], value["weights"], value.get("structured_dimension", 0), gate, value.get("query_weights", {})
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise FusionError(f"fusion settings {dict(value)!r} need 'kind' and 'weights'") from error


def _shared_dimension(vectors: Mapping[str, Float32]) -> int:
    shapes = {name: np.shape(array) for name, array in vectors.items()}
    if not shapes or len(set(shapes.values())) > 1 or len(next(iter(shapes.values()))) != 2:
        raise FusionError(f"vectors to fuse need one shape [N, d] in all modalities, not {shapes}")
    return int(next(iter(shapes.values()))[1])


def _masked(vectors: Mapping[str, Float32], present: Mapping[str, Mask], name: str) -> tuple[Float32, Mask]:
    array = np.asarray(vectors[name], np.float32)
    mask = np.asarray(present.get(name, np.ones(len(array), np.bool_)), np.bool_)
    if mask.shape != (len(array),):
        raise FusionError(f"presence of '{name}' has shape {mask.shape} for {len(array)} vectors")
    return np.where(mask[:, None], array, np.float32(0)), mask


def _pool(
    kind: FusionKind,
    weights: Mapping[str, float],
    parts: Mapping[str, tuple[Float32, Mask]],
    rows: int,
    d: int,
) -> Float32:
    if kind == "max":
        largest = np.full((rows, d), -np.inf, np.float32)
        for array, mask in parts.values():
            largest = np.where(mask[:, None], np.maximum(largest, array), largest)
        return np.where(np.isneginf(largest), np.float32(0), largest)
    pooled = np.zeros((rows, d), np.float32)
    total = np.zeros((rows, 1), np.float32)
    for name, (array, mask) in parts.items():
        weight = np.float32(weights[name] if kind == "weighted_sum" else 1)
        pooled += weight * array
        total += weight * mask[:, None].astype(np.float32)
    total[total == 0] = 1
    return pooled / total


def _unit(array: Float32) -> Float32:
    norms: Float32 = np.linalg.norm(array, axis=1, keepdims=True).astype(np.float32)
    norms[norms == 0] = 1
    return array / norms
