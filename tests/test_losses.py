from __future__ import annotations

import numpy as np
import tensorflow as tf

from encoders.losses import contrastive_loss, sigmoid_loss

RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal((4, 5)).astype(np.float32)
ANSWERS = np.array([[1, 0, 0, 1, 0], [0, 1, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]], bool)
PRESENT = np.array([1, 1, 1, 1, 0], bool)


def test_the_sigmoid_loss_is_that_of_the_paper_over_products_that_are_there() -> None:
    expected = 0.0
    for query in range(4):
        for product in range(4):
            sign = 1 if ANSWERS[query, product] else -1
            expected += np.log1p(np.exp(-sign * LOGITS[query, product])) / 4
    found = float(sigmoid_loss(tf.constant(LOGITS), tf.constant(ANSWERS), tf.constant(PRESENT)))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_contrastive_loss_is_the_mean_over_both_directions_and_all_right_answers() -> None:
    there = np.where(PRESENT, LOGITS, -np.inf)
    by_query = there - np.log(np.exp(there).sum(axis=1, keepdims=True))
    by_product = LOGITS - np.log(np.exp(LOGITS).sum(axis=0, keepdims=True))
    rows = [-by_query[query, ANSWERS[query]].mean() for query in range(3)]
    columns = [-by_product[ANSWERS[:, product], product].mean() for product in (0, 1, 3)]
    found = float(contrastive_loss(tf.constant(LOGITS), tf.constant(ANSWERS), tf.constant(PRESENT)))
    np.testing.assert_allclose(found, (np.mean(rows) + np.mean(columns)) / 2, rtol=1e-5)


def test_smoothing_spreads_a_share_of_what_is_right_over_what_is_there() -> None:
    targets = np.where(ANSWERS, 1.0, 0.0) / np.maximum(ANSWERS.sum(axis=1, keepdims=True), 1)
    there = np.where(PRESENT, LOGITS, -np.inf)
    by_query = there - np.log(np.exp(there).sum(axis=1, keepdims=True))
    by_product = LOGITS - np.log(np.exp(LOGITS).sum(axis=0, keepdims=True))
    rows = [-((0.8 * targets[query] + 0.2 * PRESENT / 4)[PRESENT] * by_query[query][PRESENT]).sum() for query in range(3)]
    shares = ANSWERS / np.maximum(ANSWERS.sum(axis=0), 1)
    columns = [-((0.8 * shares[:, product] + 0.2 / 4) * by_product[:, product]).sum() for product in (0, 1, 3)]
    found = float(contrastive_loss(tf.constant(LOGITS), tf.constant(ANSWERS), tf.constant(PRESENT), 0.2))
    np.testing.assert_allclose(found, (np.mean(rows) + np.mean(columns)) / 2, rtol=1e-5)


def test_without_queries_both_are_zero() -> None:
    for loss in (contrastive_loss, sigmoid_loss):
        nothing = tf.zeros((0, 5)), tf.zeros((0, 5), tf.bool)
        assert float(loss(*nothing, tf.constant(PRESENT))) == 0.0
