"""A query bank for pictures: drawn from what was trained on, weighed by what validation queries find with it.

`encoders.query_bank` tells what it does. Titles of products and labels (`Meanings.labels`) make a group each, so that both
kinds of queries count. All texts get one value, so that what texts find among texts stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from encoders.heads import Head, apply_head
from encoders.query_bank import QueryBank
from encoders.selection import ndcg_at_10
from encoders.trained_heads import TrainedHeads
from encoders.training_data import LEAST_QUERIES, ArrayTrainingData, TrainingBatch

BALANCED = "picture"
TEMPERATURE = 0.04
WEIGHTS = (0.2, 0.4, 0.6)
USUAL_ROWS = 4096


def balance(
    trained: TrainedHeads, data: ArrayTrainingData, validation: TrainingBatch, size: int, seed: int = 0
) -> TrainedHeads:
    """Give the head of pictures a query bank of at most `size` titles and as many labels, the other heads a constant beside.

    The titles are of products that are not held out. The bank's weight is the one of `WEIGHTS` with which the queries of
    `validation` find most of its pictures by nDCG@10; where none finds more than no bank by two standard errors of the mean
    difference, or fewer than 100 are asked, the heads stay as they are.

    Figures: validation `queries`, the `bank`'s queries, its `weight` (0: none), the `ndcg@10` with it, `before` and the `error`
    of the difference; {} where nothing could be measured.
    """
    heads, gate = trained.heads, trained.gate
    if BALANCED not in heads or "text" not in heads or not size:
        return TrainedHeads(heads, gate)
    there = np.flatnonzero(validation.present[BALANCED])
    asked = validation.answers[:, there].any(axis=1)
    bank = _draw(data, size, seed)
    if np.count_nonzero(asked) < LEAST_QUERIES or not bank:
        return TrainedHeads(heads, gate)
    answers = validation.answers[np.ix_(asked, there)]
    texts, pictures = validation.queries[asked], validation.products[BALANCED][there]
    vectors = [apply_head(heads["text"], np.asarray(data.queries[rows])) for rows in bank]
    queries, sizes = np.concatenate(vectors), np.array([len(group) for group in vectors])
    rows = np.flatnonzero(data.present[BALANCED] & ~data.validation_rows)[:USUAL_ROWS]
    known = apply_head(heads[BALANCED], data.product_features(BALANCED, rows))
    usual = float(QueryBank(queries, sizes, TEMPERATURE, 0.0, 0.0).nearness(known).mean())

    def of(weight: float) -> dict[str, Head]:
        constant = QueryBank.of_texts(queries.shape[1])
        own = QueryBank.of_pictures(queries, sizes, TEMPERATURE, weight, usual)
        return {name: replace(head, bank=own if name == BALANCED else constant) for name, head in heads.items()}

    def found(tried: Mapping[str, Head]) -> npt.NDArray[np.float64]:
        return ndcg_at_10(apply_head(tried["text"], texts) @ apply_head(tried[BALANCED], pictures).T, answers)

    before = found(heads)
    scores = {weight: found(of(weight)) for weight in WEIGHTS}
    best = max(scores, key=lambda weight: round(float(scores[weight].mean()), 6))
    gained = scores[best] - before
    error = float(gained.std() / np.sqrt(len(gained)))
    kept = bool(gained.mean() > 2 * error)
    figures = {
        "queries": len(before), "bank": len(queries), "weight": best if kept else 0.0, "error": round(error, 6),
        "ndcg@10": round(float((scores[best] if kept else before).mean()), 6), "before": round(float(before.mean()), 6),
    }  # fmt: skip
    if not kept:
        return TrainedHeads(heads, gate, figures)
    return TrainedHeads(of(best), None if gate is None else gate.widened(1), figures)


def _draw(data: ArrayTrainingData, size: int, seed: int) -> list[npt.NDArray[Any]]:
    """Draw titles of products that are not held out, and labels: rows of the queries, sorted, a group each that has any."""
    rng = np.random.default_rng((seed, 0xBA4C))
    titles = np.unique(data.title_ids[~data.validation_rows, :1])
    titles = titles[titles >= 0]
    groups = [rng.permutation(titles)[:size]]
    if data.meanings is not None:
        groups.append(data.meanings.labels(rng, np.zeros(0, np.int64), size))
    return [np.sort(group) for group in groups if len(group)]
