from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from encoders.meanings import Meanings
from encoders.training_data import ArrayTrainingData, Questions

PRODUCTS, PHRASES = 1000, 40


@pytest.fixture
def data() -> ArrayTrainingData:
    """Thousand products whose features say who they are; queries 0 to 499 are titles, shared by two products each."""
    rng = np.random.default_rng(0)
    number = np.arange(PRODUCTS, dtype=np.float32)
    phrases = 500 + rng.integers(0, PHRASES, (PRODUCTS, 3))
    phrases[::5, 1:] = -1
    title_ids = np.arange(PRODUCTS) // 2
    title_ids[7] = -1
    return ArrayTrainingData(
        features={"picture": np.stack([number, number], axis=1)[:, None], "text": number[:, None, None]},
        present={"picture": number % 3 > 0, "text": np.ones(PRODUCTS, bool)},
        queries=np.arange(500 + PHRASES, dtype=np.float32)[:, None],
        title_ids=title_ids[:, None],
        product_phrases=phrases,
        validation_rows=number % 10 == 0,
        batch_rows=128,
    )


def test_an_epoch_holds_every_training_product_once_and_no_other(data: ArrayTrainingData) -> None:
    batches = list(data.train_batches(0))
    seen = np.concatenate([batch.products["text"][:, 0] for batch in batches])
    assert np.array_equal(np.sort(seen), np.flatnonzero(~data.validation_rows))
    assert {len(batch.products["text"]) for batch in batches} == {128, 66}  # the rest in two halves


def test_answers_are_all_products_of_the_batch_with_that_title_or_phrase(data: ArrayTrainingData) -> None:
    for batch in [*data.train_batches(3), data.validation()]:
        rows = batch.products["text"][:, 0].astype(int)
        asked = batch.queries[:, 0].astype(int)
        expected = (data.title_ids[rows, 0] == asked[:, None]) | (data.product_phrases[rows] == asked[:, None, None]).any(2)
        assert np.array_equal(batch.answers, expected)
        assert batch.answers.any(axis=1).all()
        assert len(set(asked)) == len(asked)
        assert np.array_equal(batch.present["picture"], rows % 3 > 0)


def with_meanings(data: ArrayTrainingData) -> tuple[ArrayTrainingData, list[list[int]], list[tuple[int, set[int]]]]:
    """Products have a kind (0 to 4) and colours (10 to 15), some two; phrases name a kind, or both; some say the same."""
    rng = np.random.default_rng(1)
    own = [[int(kind), *np.unique(rng.integers(10, 16, rng.integers(3))).tolist()] for kind in rng.integers(0, 5, PRODUCTS)]
    meant = [(500 + query, {query % 5} if query < 5 else {query % 5, 10 + query % 6}) for query in range(PHRASES)]
    meant.insert(3, (502, {4, 11}))  # this one means one thing or another
    names = np.array([[*sorted(values), -1][:2] for _, values in meant])
    attributes, queries = np.array([len(values) for _, values in meant]), np.array([query for query, _ in meant])
    meanings = Meanings(names, attributes, queries, np.concatenate(own), np.cumsum([0, *map(len, own)]))
    return dataclasses.replace(data, meanings=meanings), own, meant


def right_by(
    data: ArrayTrainingData, own: list[list[int]], meant: list[tuple[int, set[int]]], rows: np.ndarray, asked: np.ndarray
) -> np.ndarray:
    drawn = (data.title_ids[rows, 0] == asked[:, None]) | (data.product_phrases[rows] == asked[:, None, None]).any(2)
    fits = [[any(query == of and values <= set(own[row]) for of, values in meant) for row in rows] for query in asked]
    return np.array(drawn | np.array(fits))


def test_phrases_are_right_for_every_product_that_has_what_they_name(data: ArrayTrainingData) -> None:
    knowing, own, meant = with_meanings(data)
    right, drawn = 0, 0
    for batch, other in zip([*knowing.train_batches(0), knowing.validation()], [*data.train_batches(0), data.validation()],
                            strict=True):  # fmt: skip
        rows = batch.products["text"][:, 0].astype(int)
        groups = [Questions(batch.queries, batch.answers), *([] if batch.phrases is None else [batch.phrases])]
        assert len(groups) == 2 or (rows % 10 == 0).all()  # validation asks both together
        for asked in groups:
            expected = right_by(data, own, meant, rows, asked.queries[:, 0].astype(int))
            assert np.array_equal(asked.answers, expected)
        right += int(groups[-1].answers.sum())
        drawn += int((other.phrases or other).answers.sum())
    assert right > 1.5 * drawn


def test_labels_name_the_same_attributes_and_each_thing_once(data: ArrayTrainingData) -> None:
    knowing, own, meant = with_meanings(data)
    things = {query: frozenset(values) for query, values in meant if len(values) == 2}
    drawn: set[int] = set()
    for epoch in range(5):
        for batch in knowing.train_batches(epoch):
            assert batch.labels is not None
            rows, asked = batch.products["text"][:, 0].astype(int), batch.labels.queries[:, 0].astype(int)
            drawn.update(asked.tolist())
            assert sorted(map(sorted, {things[query] for query in asked})) == sorted(map(sorted, set(things.values())))
            assert len(asked) == len(set(things.values())) < len(things)
            assert np.array_equal(batch.labels.answers, right_by(data, own, meant, rows, asked))
    assert drawn == set(things)  # any wording
    assert knowing.validation().labels is None
    assert knowing.meanings is not None
    few = knowing.meanings.labels(np.random.default_rng(0), np.array([[520, 3], [533, -1]]), 10)
    assert len({things[query] for query in few}) == 10
    assert {things[520], things[533]} < {things[query] for query in few}  # what is asked for comes first


def test_epochs_differ_and_the_same_epoch_is_the_same(data: ArrayTrainingData) -> None:
    def order(epoch: int) -> list[int]:
        return [int(row) for batch in data.train_batches(epoch) for row in batch.products["text"][:, 0]]

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_files_mapped_to_memory_give_the_same_batches(data: ArrayTrainingData, tmp_path: Path) -> None:
    features = {}
    for name, array in data.features.items():
        np.save(tmp_path / f"{name}.npy", array)
        features[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    mapped = ArrayTrainingData(**{**vars(data), "features": features})
    for one, other in zip(data.train_batches(1), mapped.train_batches(1), strict=True):
        assert np.array_equal(one.products["picture"], other.products["picture"])
        assert np.array_equal(one.answers, other.answers)


def test_validation_is_bounded(data: ArrayTrainingData) -> None:
    batch = ArrayTrainingData(**{**vars(data), "max_validation": 20}).validation()
    assert len(batch.products["text"]) == 20
    assert (batch.products["text"] % 10 == 0).all()


def test_products_without_title_or_phrases_have_batches_without_queries(data: ArrayTrainingData) -> None:
    silent = ArrayTrainingData(
        **{**vars(data), "title_ids": np.full((PRODUCTS, 1), -1), "product_phrases": np.zeros((PRODUCTS, 0), int)}
    )
    for batch in silent.train_batches(0):
        assert batch.queries.shape == (0, 1)
        assert batch.answers.shape == (0, len(batch.products["text"]))


def test_heads_are_asked_titles_and_phrases_by_every_batch(data: ArrayTrainingData) -> None:
    for batch in data.train_batches(0):
        assert batch.phrases is not None
        assert (batch.queries < 500).all()
        assert (batch.phrases.queries >= 500).all()
        assert len(batch.queries) > 40
        assert len(batch.phrases.queries) > 20


def test_where_a_batch_asks_one_of_them_the_share_decides_how_often(data: ArrayTrainingData) -> None:
    asked = [data.ask(rows, rng) for epoch in range(25) for rows, rng in data.row_batches(epoch)]
    phrases = [bool((queries >= 500).all()) for queries in asked]
    assert all(phrase or (queries < 500).all() for phrase, queries in zip(phrases, asked, strict=True))
    assert 0.25 < np.mean(phrases) < 0.55  # 200 batches, of which .4 are expected


def test_where_there_are_only_titles_or_only_phrases_those_are_asked(data: ArrayTrainingData) -> None:
    titles = ArrayTrainingData(**{**vars(data), "product_phrases": np.zeros((PRODUCTS, 0), int)})
    phrases = ArrayTrainingData(**{**vars(data), "title_ids": np.full((PRODUCTS, 1), -1)})
    for only, least, most in ((titles, 0, 500), (phrases, 500, 500 + PHRASES)):
        for rows, rng in only.row_batches(0):
            asked = only.ask(rows, rng)
            assert len(asked)
            assert least <= asked.min() <= asked.max() < most
    assert all(batch.phrases is not None and not len(batch.phrases.queries) for batch in titles.train_batches(0))
    assert not any(len(batch.queries) for batch in phrases.train_batches(0))


def test_a_batch_has_one_view_of_each_product_and_validation_the_mean_of_those_indexed(data: ArrayTrainingData) -> None:
    number = np.arange(PRODUCTS, dtype=np.float32)
    views = np.stack([number, number + 0.25, number + 0.75], axis=1)[:, :, None]
    several = ArrayTrainingData(**{**vars(data), "features": {"text": views}, "present": {"text": np.ones(PRODUCTS, bool)},
                                   "index_views": {"text": 2}})  # fmt: skip
    drawn = np.concatenate([batch.products["text"][:, 0] for batch in several.train_batches(0)])
    assert {float(value % 1) for value in drawn} == {0.0, 0.25, 0.75}
    assert np.array_equal(np.sort(np.floor(drawn)), np.flatnonzero(~data.validation_rows))
    again = np.concatenate([batch.products["text"][:, 0] for batch in several.train_batches(1)])
    assert not np.array_equal(np.sort(drawn), np.sort(again))
    assert np.array_equal(several.validation().products["text"][:, 0], np.flatnonzero(data.validation_rows) + 0.125)


def test_any_view_of_a_title_is_asked_and_all_of_them_are_right(data: ArrayTrainingData) -> None:
    titles = np.stack([np.arange(PRODUCTS), PRODUCTS + np.arange(PRODUCTS)], axis=1)
    several = ArrayTrainingData(**{**vars(data), "title_ids": titles, "product_phrases": np.zeros((PRODUCTS, 0), int),
                                   "queries": np.arange(2 * PRODUCTS, dtype=np.float32)[:, None]})  # fmt: skip
    asked = np.concatenate([batch.queries[:, 0] for batch in several.train_batches(0)])
    assert 0.3 < np.mean(asked >= PRODUCTS) < 0.7
    assert (several.validation().queries < PRODUCTS).all()
    for batch in several.train_batches(0):
        rows, right = batch.products["text"][:, 0], batch.answers.argmax(axis=1)
        assert np.array_equal(rows[right], batch.queries[:, 0] % PRODUCTS)


def asking_sentences(data: ArrayTrainingData, share: float) -> ArrayTrainingData:
    """Sentences 540 to 789, each of four products; of every tenth product the sentence is also its title."""
    queries = np.arange(500 + PHRASES + 250, dtype=np.float32)[:, None]
    number = np.arange(PRODUCTS)
    said = np.stack([500 + PHRASES + number // 4, np.where(number % 10 == 0, number // 2, -1)], axis=1)
    return dataclasses.replace(data, queries=queries, product_sentences=said, sentence_share=share)


def test_a_share_of_the_batches_asks_sentences_and_all_who_say_them_are_right(data: ArrayTrainingData) -> None:
    asking = asking_sentences(data, 0.3)
    batches = [batch for epoch in range(40) for batch in asking.train_batches(epoch)]
    assert asking.product_sentences is not None
    of_sentences = [batch for batch in batches if (batch.queries[:, 0] >= 500 + PHRASES).any()]
    assert 0.2 < len(of_sentences) / len(batches) < 0.4
    for batch in of_sentences:
        rows, asked = batch.products["text"][:, 0].astype(int), batch.queries[:, 0].astype(int)
        right = (asking.title_ids[rows, 0] == asked[:, None]) | (asking.product_sentences[rows] == asked[:, None, None]).any(2)
        assert np.array_equal(batch.answers, right)
        assert batch.answers.any(axis=1).all()


def test_without_sentences_batches_are_drawn_as_they_were(data: ArrayTrainingData) -> None:
    empty = np.full((PRODUCTS, 2), -1)
    others = [dataclasses.replace(data, product_sentences=none, sentence_share=0.5) for none in (None, empty)]
    for epoch in range(3):
        for batches in zip(*(one.train_batches(epoch) for one in (data, *others)), strict=True):
            assert all(np.array_equal(batch.queries, batches[0].queries) for batch in batches)
            assert all(np.array_equal(batch.answers, batches[0].answers) for batch in batches)
