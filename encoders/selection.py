"""Fusion weights chosen on the validation products: those with which texts and photos find most among fused vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from encoders.fusion import Fusion
from encoders.heads import Head, apply_head
from encoders.training_data import LEAST_QUERIES, TrainingBatch

# With it photos find about as much as pictures turned, cropped and lit otherwise do (docs/quality.md).
PHOTO_DROPOUT = 0.7
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


def choose_weights(
    fusion: Fusion, heads: Mapping[str, Head], batch: TrainingBatch, fixed: bool = False, seed: int = 0
) -> ChosenFusion:
    """Try weights of two modalities in steps of a tenth and take those of the highest nDCG@10 of queries about a batch.

    It is the mean of that of the batch's queries, which are texts, and of photos of its products: their pictures' features of
    which a share `PHOTO_DROPOUT`, drawn by the seed, is set to the mean. Of equal weights those nearest to the fusion's own are
    taken. Only kinds that weigh, of products with two modalities, are chosen for, where at least 100 texts are asked, and
    not where the weights are `fixed`; otherwise the fusion stays.

    Figures: `chosen`, `queries`, `photos`, the `weights` and the `ndcg@10` (None without texts) of the fusion that is returned,
    and the `grid` of [weight of the first modality, nDCG@10 of texts, of photos (None where there are none)].
    """
    asked = batch.answers.any(axis=1)
    figures: dict[str, Any] = {"chosen": False, "queries": int(asked.sum()), "photos": 0, "weights": dict(fusion.weights),
                               "ndcg@10": None, "grid": []}  # fmt: skip
    if not asked.any():
        return ChosenFusion(fusion, figures)
    products = {name: apply_head(head, _whole(batch, name)) for name, head in heads.items()}
    queries = {"text": apply_head(heads["text"], batch.queries[asked])}
    answers = {"text": batch.answers[asked]}
    photographed = np.flatnonzero(batch.present["picture"]) if "picture" in heads else np.zeros(0, np.int64)
    if len(photographed):
        queries["picture"] = _photos(heads["picture"], batch.products["picture"][photographed], seed)
        answers["picture"] = np.arange(len(batch.present["picture"])) == photographed[:, None]
        figures["photos"] = len(photographed)

    def score(tried: Fusion) -> list[float]:
        fused = tried.fuse(products, batch.present).T
        return [round(float(ndcg_at_10(tried.query({name: asked}, {}) @ fused, answers[name]).mean()), 6)
                for name, asked in queries.items()]  # fmt: skip

    names = fusion.modalities
    weighs = fusion.kind in ("concatenation", "weighted_sum") and len(names) == 2 and not fixed
    if weighs and figures["queries"] >= LEAST_QUERIES and all(batch.present[name].any() for name in names):
        own = fusion.weights[names[0]] / sum(fusion.weights[name] for name in names)
        tried = {
            weight: replace(fusion, weights=dict(zip(names, (weight, round(1 - weight, 1)), strict=True))) for weight in GRID
        }
        found = {weight: score(one) for weight, one in tried.items()}
        best = max(found, key=lambda weight: (np.mean(found[weight]), -abs(weight - own)))
        figures |= {"chosen": True, "grid": [[weight, *scores, *[None] * (2 - len(scores))] for weight, scores in found.items()]}
        fusion, scores = tried[best], found[best]
    else:
        scores = score(fusion)
    return ChosenFusion(fusion, figures | {"weights": dict(fusion.weights), "ndcg@10": round(float(np.mean(scores)), 6)})


def _photos(head: Head, features: npt.NDArray[Any], seed: int) -> npt.NDArray[np.float32]:
    """Make the vectors of photos of products, as dropout changes the features that heads are trained on."""
    kept = np.random.default_rng(seed).random(features.shape, np.float32) >= PHOTO_DROPOUT
    return apply_head(head, np.asarray(head.mean + (features - head.mean) * kept / (1 - PHOTO_DROPOUT), np.float32))


def _whole(batch: TrainingBatch, name: str) -> npt.NDArray[np.float32]:
    return np.where(batch.present[name][:, None], batch.products[name], 0).astype(np.float32)
