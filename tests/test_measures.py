"""Measures that are computed by hand, and their intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipelines.measures import NAMES, Judgement, difference, figures, measure


def judged(**grades: int) -> Judgement:
    items = sorted((int(name[1:]), grade) for name, grade in grades.items())
    return Judgement(np.array([item for item, _ in items]), np.array([grade for _, grade in items]))


def ranking(*items: int) -> np.ndarray:
    return np.array([[*items, *[-1] * (100 - len(items))]])


def test_measures_are_those_computed_by_hand() -> None:
    values = measure(ranking(5, 7, 9), [judged(i7=2, i9=1, i4=1)])
    gain = 2 / math.log2(3) + 1 / math.log2(4)
    ideal = 2 + 1 / math.log2(3) + 1 / math.log2(4)
    assert dict(zip(NAMES, values[0], strict=True)) == pytest.approx(
        {"recall@1": 0, "recall@10": 2 / 3, "recall@100": 2 / 3, "mrr": 0.5, "ndcg@10": gain / ideal}
    )  # fmt: skip


def test_the_order_of_answers_counts_and_not_their_names() -> None:
    for items in ((3, 20, 100), (100, 3, 20), (20, 100, 3)):
        assert measure(ranking(*items), [judged(i20=1)])[0][NAMES.index("mrr")] == pytest.approx(1 / (1 + items.index(20)))


def test_a_query_without_answers_counts_as_nothing_found() -> None:
    many = np.concatenate([ranking(4), ranking()] * 70)
    values = measure(many, [judged(i4=1)] * 140)
    assert values[::2].min() == 1
    assert values[1::2].max() == 0


def test_intervals_hold_the_mean_and_are_the_same_for_a_seed() -> None:
    values = np.repeat(np.random.default_rng(0).random((200, 1)), len(NAMES), axis=1)
    found = figures(values, 1)
    assert found == figures(values, 1)
    assert found != figures(values, 2)
    for figure in found.values():
        assert figure.value == pytest.approx(values.mean(), abs=1e-4)
        # The standard error of 200 uniform numbers is 0.02.
        assert 0.06 < figure.high - figure.low < 0.1
        assert figure.low < figure.value < figure.high
    alone = figures(values[:1], 0)["mrr"]
    assert alone.low == alone.value == alone.high




def test_deeper_answers_count_for_the_deeper_measures() -> None:
    (values,) = measure(ranking(*range(100, 200)), [judged(i101=1, i110=1, i150=1, i5=1)])
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, 5))
    assert dict(zip(NAMES, values, strict=True)) == pytest.approx(
        {"recall@1": 0, "recall@10": 1 / 4, "recall@100": 3 / 4, "mrr": 1 / 2, "ndcg@10": 1 / math.log2(3) / ideal}
    )


def test_what_is_not_there_to_be_found_counts_as_right() -> None:
    (values,) = measure(ranking(7), [Judgement(np.array([7, -2, -3]), np.array([1, 1, 1]))])
    ideal = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    assert dict(zip(NAMES, values, strict=True)) == pytest.approx(
        {"recall@1": 1 / 3, "recall@10": 1 / 3, "recall@100": 1 / 3, "mrr": 1, "ndcg@10": 1 / ideal}
    )


def test_a_paired_difference_is_narrower_than_the_figures() -> None:
    before = np.random.default_rng(0).random((200, len(NAMES)))
    found = difference(before, before - 0.1, 0)["mrr"]
    assert (found.value, found.low, found.high) == (-0.1, -0.1, -0.1)
