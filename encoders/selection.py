"""Weights chosen on the validation products: those with which texts and photos find most.

One set of weights fuses products' vectors, for all queries; others rank what a text, or a photo, finds among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from encoders.fusion import STRUCTURED, WEIGHING, Fusion
from encoders.heads import Head, apply_head
from encoders.training_data import LEAST_QUERIES, TrainingBatch

# With it photos find about as much as pictures turned, cropped and lit otherwise do (docs/quality.md).
PHOTO_DROPOUT = 0.7
# What photos find about the most with in a shop too small to choose (docs/quality.md).
PHOTO_WEIGHTS = {"picture": 0.9, "text": 0.1}
GRID = tuple(round(0.1 * tenths, 1) for tenths in range(1, 10))
# More than half of it would leave too little of a vector for texts and photos to find candidates by.
SHARES = tuple(round(0.1 * tenths, 1) for tenths in range(6))


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
    fusion: Fusion, heads: Mapping[str, Head], batch: TrainingBatch, fixed: bool = False, seed: int = 0,
    others: TrainingBatch | None = None,
) -> ChosenFusion:  # fmt: skip
    """Try weights of two modalities in steps of a tenth and take those of the highest nDCG@10 of queries about a batch.

    The queries are those of the batch, which are texts, and photos of its products: their pictures' features of which a share
    `PHOTO_DROPOUT`, drawn by the seed, is set to the mean; photos are asked among `others`, too, because a few hundred products
    are found by any weights, and thousands are not. The fusion's weights are those with the highest mean of both. Texts,
    and photos, are ranked by weights of their own, the best for them alone, where these are better by more than two standard
    errors of the mean difference, of at least 100 queries. Of equal weights those nearest to the fusion's own are taken. Only
    kinds that weigh, of products with two modalities, are chosen for, where at least 100 texts are asked, and not where the
    weights are `fixed`; otherwise the fusion stays, and photos are ranked by `PHOTO_WEIGHTS` where the weights are not fixed.

    Figures: `chosen`, `queries`, `photos`, the `weights` and the `ndcg@10` (None without texts) of the fusion that is returned,
    the `grid` of [weight of the first modality, nDCG@10 of texts, of photos (None where there are none)], and under
    `query_weights`, for "text" and "picture", the `weights` with the `ndcg@10` that rank them, that of the `fused` vectors, and
    the `error` of the difference.
    """
    asked = batch.answers.any(axis=1)
    figures: dict[str, Any] = {"chosen": False, "queries": int(asked.sum()), "photos": 0, "weights": dict(fusion.weights),
                               "ndcg@10": None, "grid": [], "query_weights": {}}  # fmt: skip
    if not asked.any():
        return ChosenFusion(fusion, figures)
    products = {name: apply_head(head, _whole(batch, name)) for name, head in heads.items()}
    beside = {} if others is None else {name: apply_head(head, _whole(others, name)) for name, head in heads.items()}
    more = len(beside["text"]) if beside else 0
    queries = {"text": apply_head(heads["text"], batch.queries[asked])}
    answers = {"text": batch.answers[asked]}
    photographed = np.flatnonzero(batch.present["picture"]) if "picture" in heads else np.zeros(0, np.int64)
    if len(photographed):
        queries["picture"] = _photos(heads["picture"], batch.products["picture"][photographed], seed)
        answers["picture"] = np.arange(len(batch.present["picture"]) + more) == photographed[:, None]
        figures["photos"] = len(photographed)

    def score(tried: Fusion) -> dict[str, npt.NDArray[np.float64]]:
        fused = tried.fuse(products, batch.present)
        pools = {"text": fused, "picture": fused}
        if others is not None:
            pools["picture"] = np.concatenate([fused, tried.fuse(beside, others.present)])
        return {
            name: ndcg_at_10(tried.query({name: asked}, {}) @ pools[name].T, answers[name]) for name, asked in queries.items()
        }

    names = fusion.modalities
    weighs = fusion.kind in WEIGHING and len(names) == 2 and not fixed and all(batch.present[name].any() for name in names)
    if weighs and figures["queries"] >= LEAST_QUERIES:
        found = {weight: score(_weighing(fusion, weight)) for weight in GRID}
        grid = [[weight, *(_mean_of(scores, kind) for kind in ("text", "picture"))] for weight, scores in found.items()]
        figures |= {"chosen": True, "grid": grid}
        own = fusion.weights[names[0]] / sum(fusion.weights[name] for name in names)
        best = _best({weight: _mean(scores) for weight, scores in found.items()}, own)
        fusion, scores = _weighing(fusion, best), found[best]
        figures["query_weights"] = _of_queries(fusion, found, best)
        ranked = {kind: told["weights"] for kind, told in figures["query_weights"].items()}
        fusion = replace(fusion, query_weights=ranked)
    else:
        scores = score(fusion)
        if weighs and len(photographed):
            by_picture = score(replace(fusion, weights=PHOTO_WEIGHTS))
            figures["query_weights"] = {"picture": _told(PHOTO_WEIGHTS, by_picture["picture"], scores["picture"])}
            fusion = replace(fusion, query_weights={"picture": PHOTO_WEIGHTS})
    return ChosenFusion(fusion, figures | {"weights": dict(fusion.weights), "ndcg@10": _mean(scores)})


def choose_share(
    fusion: Fusion, heads: Mapping[str, Head], batch: TrainingBatch, structured: npt.NDArray[np.float32], seed: int = 0
) -> ChosenFusion:
    """Choose the share of structured features by what queries by product find: float32[B, S] of the batch's products.

    Queries are products that one of the batch's texts finds, four of each text at most, drawn by the seed, and right are the
    others that it finds: the share says how much "like this product" means the same price, category and brand, and changes
    nothing of what texts and photos find. Of `SHARES` it is the smallest whose nDCG@10, averaged text by text, is not below the
    highest by two standard errors of the mean difference; 0 where there are fewer than 100 queries.

    Figures: `queries`, the `share`, its `ndcg@10` and that of none, `before` (None where nothing was chosen), and the `grid` of
    [share, nDCG@10].
    """
    texts = np.flatnonzero(batch.answers.sum(axis=1) > 1)
    drawn = np.where(batch.answers[texts], np.random.default_rng(seed).random((len(texts), batch.answers.shape[1])), 2.0)
    place, asked = np.nonzero(batch.answers[texts] & (drawn.argsort(axis=1).argsort(axis=1) < 4))
    figures: dict[str, Any] = {"queries": len(place), "share": 0.0, "ndcg@10": None, "before": None, "grid": []}
    if len(place) < LEAST_QUERIES:
        return ChosenFusion(fusion, figures)
    answers = batch.answers[texts[place]]
    answers[np.arange(len(place)), asked] = False
    starts = np.flatnonzero(np.diff(place, prepend=-1))
    counts = np.bincount(place)
    products = {name: apply_head(head, _whole(batch, name)) for name, head in heads.items()}

    def sharing(share: float) -> Fusion:
        weights = {name: weight for name, weight in fusion.weights.items() if name != STRUCTURED}
        return replace(fusion, weights=weights | {STRUCTURED: share}, structured_dimension=structured.shape[1])

    def found(share: float) -> npt.NDArray[np.float64]:
        fused = sharing(share).fuse(products, batch.present, structured)
        similarity = fused[asked] @ fused.T
        similarity[np.arange(len(place)), asked] = -np.inf
        return np.add.reduceat(ndcg_at_10(similarity, answers), starts) / counts

    scores = {share: found(share) for share in SHARES}
    best = scores[max(SHARES, key=lambda share: (round(float(scores[share].mean()), 6), -share))]
    share = next(share for share in SHARES if not _below(scores[share], best))
    means = {share: round(float(one.mean()), 6) for share, one in scores.items()}
    grid = [list(pair) for pair in means.items()]
    figures |= {"share": share, "ndcg@10": means[share], "before": means[0.0], "grid": grid}
    return ChosenFusion(sharing(share), figures)


def _below(scores: npt.NDArray[np.float64], best: npt.NDArray[np.float64]) -> bool:
    """Tell whether scores of the same queries are lower by more than two standard errors of the mean difference."""
    lost = best - scores
    return bool(lost.mean() > 2 * lost.std() / np.sqrt(len(lost)))


def _weighing(fusion: Fusion, first: float) -> Fusion:
    return replace(fusion, weights=dict(zip(fusion.modalities, (first, round(1 - first, 1)), strict=True)))


def _mean_of(scores: Mapping[str, npt.NDArray[np.float64]], kind: str) -> float | None:
    return round(float(scores[kind].mean()), 6) if kind in scores else None


def _mean(scores: Mapping[str, npt.NDArray[np.float64]]) -> float:
    """Return the mean of the means, each kind of query counting the same."""
    return round(float(np.mean([_mean_of(scores, kind) for kind in scores])), 6)


def _best(found: Mapping[float, float], own: float) -> float:
    return max(found, key=lambda weight: (found[weight], -abs(weight - own)))


def _of_queries(
    fusion: Fusion, found: Mapping[float, Mapping[str, npt.NDArray[np.float64]]], fused: float
) -> dict[str, dict[str, Any]]:
    """Return, by kind of query, the weights that rank it clearly better than the fused vectors do, with what they find."""
    told = {}
    for kind, before in found[fused].items():
        best = _best({weight: round(float(scores[kind].mean()), 6) for weight, scores in found.items()}, fused)
        own = _told(_weighing(fusion, best).weights, found[best][kind], before)
        if len(before) >= LEAST_QUERIES and (found[best][kind] - before).mean() > 2 * own["error"]:
            told[kind] = own
    return told


def _told(
    weights: Mapping[str, float], found: npt.NDArray[np.float64], fused: npt.NDArray[np.float64]
) -> dict[str, Any]:
    """Return weights with the nDCG@10 of queries ranked by them and by the fused vectors, and the error of the difference."""
    return {
        "weights": dict(weights), "ndcg@10": round(float(found.mean()), 6), "fused": round(float(fused.mean()), 6),
        "error": round(float((found - fused).std() / np.sqrt(len(found))), 6),
    }  # fmt: skip


def _photos(head: Head, features: npt.NDArray[Any], seed: int) -> npt.NDArray[np.float32]:
    """Make the vectors of photos of products, as dropout changes the features that heads are trained on."""
    kept = np.random.default_rng(seed).random(features.shape, np.float32) >= PHOTO_DROPOUT
    return apply_head(head, np.asarray(head.mean + (features - head.mean) * kept / (1 - PHOTO_DROPOUT), np.float32))


def _whole(batch: TrainingBatch, name: str) -> npt.NDArray[np.float32]:
    return np.where(batch.present[name][:, None], batch.products[name], 0).astype(np.float32)
