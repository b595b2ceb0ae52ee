"""Fusion weights chosen on the validation products: those with which queries find most among fused vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from encoders.fusion import Fusion
from encoders.heads import Head, apply_head
from encoders.training_data import LEAST_QUERIES, TrainingBatch

GRID = tuple(round(0.1 * tenths, 1) for tenths in range(1, 10))


@dataclass(frozen=True)
class ChosenFusion:
    """Hold a fusion and, as JSON values, what it was chosen from."""

    fusion: Fusion
    figures: Mapping[str, Any]


def ndcg_at_10(similarity: npt.NDArray[np.float32], answers: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return the nDCG@10 of queries with binary gains (Jarvelin and Kekalainen, 2002): float64[Q].

    Takes float32[Q, B] and which of the products are right answers, bool[Q, B], at least one of each query.
    """
    ranked = np.take_along_axis(answers, np.argsort(-similarity, axis=1, kind="stable")[:, :10], axis=1)
    discounts = 1 / np.log2(np.arange(2, 12))
    ideal = np.concatenate([[0], np.cumsum(discounts)])[np.minimum(answers.sum(axis=1), 10)]
    return np.asarray((ranked * discounts[: ranked.shape[1]]).sum(axis=1) / ideal)


def choose_weights(fusion: Fusion, heads: Mapping[str, Head], batch: TrainingBatch, fixed: bool = False) -> ChosenFusion:
    """Try weights of two modalities in steps of a tenth and take those of the highest nDCG@10 of a batch's queries.

    Of equal ones those nearest to the fusion's own. Only kinds that weigh, of products with two modalities, are chosen
    for, where at least 100 queries are asked, and not where the weights are `fixed`; otherwise the fusion stays. Figures:
    `chosen`, `queries`, the `weights` and the `ndcg@10` (None without queries) of the fusion that is returned, and the
    `grid` of [weight of the first modality, nDCG@10].
    """
    asked = batch.answers.any(axis=1)
    figures: dict[str, Any] = {"chosen": False, "queries": int(asked.sum()), "weights": dict(fusion.weights), "ndcg@10": None,
                               "grid": []}  # fmt: skip
    if not asked.any():
        return ChosenFusion(fusion, figures)
    queries = apply_head(heads["text"], batch.queries[asked])
    products = {name: apply_head(head, _whole(batch, name)) for name, head in heads.items()}

    def score(tried: Fusion) -> float:
        near = tried.query({"text": queries}, {}) @ tried.fuse(products, batch.present).T
        return round(float(ndcg_at_10(near, batch.answers[asked]).mean()), 6)

    names = fusion.modalities
    weighs = fusion.kind in ("concatenation", "weighted_sum") and len(names) == 2 and not fixed
    if weighs and figures["queries"] >= LEAST_QUERIES and all(batch.present[name].any() for name in names):
        own = fusion.weights[names[0]] / sum(fusion.weights[name] for name in names)
        tried = {
            weight: replace(fusion, weights=dict(zip(names, (weight, round(1 - weight, 1)), strict=True))) for weight in GRID
        }
        figures["grid"] = [[weight, score(one)] for weight, one in tried.items()]
        best = max(figures["grid"], key=lambda found: (found[1], -abs(found[0] - own)))
        taken = tried[best[0]]
        return ChosenFusion(taken, figures | {"chosen": True, "weights": dict(taken.weights), "ndcg@10": best[1]})
    return ChosenFusion(fusion, figures | {"ndcg@10": score(fusion)})


def _whole(batch: TrainingBatch, name: str) -> npt.NDArray[np.float32]:
    return np.where(batch.present[name][:, None], batch.products[name], 0).astype(np.float32)
