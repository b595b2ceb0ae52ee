"""Ranking by attention in the lookup: the candidates of a query, by its vectors and theirs of each modality."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from catalogue_lookup.composition import Side
from catalogue_lookup.modality_vectors import ModalityVectors
from catalogue_lookup.query import Float32, mean_of
from catalogue_lookup.shard import closest, exact_scores
from encoders.ranking import Ranker

Items = npt.NDArray[np.int64]


def query_vectors(side: Side, modality_vectors: ModalityVectors) -> dict[str, Float32]:
    """Return the vectors of a query by words, or by products: float32[d] of unit norm of each modality that it has.

    Those of several products are means over the products that have the modality.
    """
    if side.words:
        return dict(side.words)
    vectors, present = modality_vectors.of(side.items)
    return {name: mean_of(own[present[name]]) for name, own in vectors.items() if present[name].any()}


def rank_by_attention(
    ranker: Ranker, query: dict[str, Float32], asked: Float32, items: Items, fused: Float32, modality_vectors: ModalityVectors,
    count: int,
) -> tuple[Items, Float32]:  # fmt: skip
    """Return the `count` best of a query's candidates and their scores, the highest first.

    Args:
        ranker: the bundle's.
        query: what `query_vectors` returned.
        asked: the query's fused vector, float32[D].
        items: the candidates.
        fused: their fused vectors, float32[N, D].
        modality_vectors: of the version.
        count: answers.
    """
    if not len(items):
        return items, np.zeros(0, np.float32)
    scores = exact_scores("angular", asked, fused) + ranker.correct(query, *modality_vectors.of(items))
    return closest("dot", items, scores, count)
