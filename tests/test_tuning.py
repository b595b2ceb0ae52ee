"""Choosing trees and search_k: the least that reaches the recall, the same whatever the clock says, kept from night to night."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from annoy import AnnoyIndex
from conftest import product, write_shards
from version_maker import DIMENSION, FUSION, Products, draw_products, make_version, write_vectors

from catalogue_lookup import open_index
from catalogue_lookup.manifest import ChosenFor, Metric
from catalogue_lookup.shard import AnnoyShard
from pipelines import cli, recall
from pipelines.exit_codes import REFUSED
from pipelines.gate import Limits, reasons_against
from pipelines.layout import Index, read_json, write_json
from pipelines.recall import VectorsFile, recall_of
from pipelines.search_k import SEARCH_KS, Sample, find_search_k, least_place
from pipelines.trees import TREES, Choice, IndexTooLargeError, annoy_bytes, choose, fitting


def scattered(count: int, seed: int = 3) -> Products:
    """Draw products far apart, of which few trees do not find all."""
    drawn = draw_products(count)
    fused = np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)
    return dataclasses.replace(drawn, fused=fused / np.linalg.norm(fused, axis=1, keepdims=True))


def build(products: Products, trees: int, path: Path, metric: Metric = "angular") -> int:
    """Build an Annoy file and return its bytes."""
    annoy = AnnoyIndex(DIMENSION, metric)
    annoy.set_seed(0)
    for number, row in enumerate(products.fused.tolist()):
        annoy.add_item(number, row)
    annoy.build(trees, n_jobs=1)
    annoy.save(str(path))
    return path.stat().st_size


@pytest.fixture(scope="module", autouse=True)
def fewer_queries() -> Iterator[None]:
    """Ask forty queries of a kind in place of two hundred."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recall, "QUERIES", 40)
        yield


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Products, tuple[VectorsFile, ...]]:
    """Draw 2,000 scattered products, and write their vectors."""
    products, folder = scattered(2000), tmp_path_factory.mktemp("vectors")
    return products, tuple(VectorsFile(str(folder / told["file"]), told["rows"]) for told in write_vectors(folder, products))


@pytest.fixture(scope="module")
def sample(drawn: tuple[Products, tuple[VectorsFile, ...]]) -> Sample:
    """Draw queries on them."""
    return Sample.draw(drawn[1], ["picture", "text"], FUSION, "angular", 0)


@pytest.fixture(scope="module")
def shard(
    drawn: tuple[Products, tuple[VectorsFile, ...]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AnnoyShard]:
    """Build ten trees of them."""
    path = tmp_path_factory.mktemp("annoy") / "10.ann"
    build(drawn[0], 10, path)
    opened = AnnoyShard(path, 0, 2000, "angular", DIMENSION)
    yield opened
    opened.close()


def test_the_first_place_that_reaches_is_found_from_anywhere() -> None:
    for last in range(12):
        for first in range(last + 3):
            for start in range(last + 2):
                asked: list[int] = []

                def reaches(place: int, first: int = first, asked: list[int] = asked) -> bool:
                    asked.append(place)
                    return place >= first

                assert least_place(reaches, start, last) == min(first, last)
                assert len(asked) == len(set(asked)) <= 8
                if start == first and 0 < first < last:
                    assert asked == [start, start - 1], "an unchanged night asks twice"


def test_steps_are_a_tenth() -> None:
    steps = np.diff(SEARCH_KS) / SEARCH_KS[:-1]
    assert (SEARCH_KS[0], SEARCH_KS[-1]) == (100, 200_000)
    assert 0 < steps[:-1].min() <= steps.max() < 0.11


@pytest.mark.parametrize("least_recall", [0.7, 0.9, 0.99])
def test_search_k_is_the_least_step_that_reaches_the_recall_wherever_it_is_looked_for(
    shard: AnnoyShard, sample: Sample, least_recall: float
) -> None:
    found = {find_search_k([shard], sample, least_recall, start).search_k for start in (10, 300, 2000, 10**6)}
    assert len(found) == 1
    (search_k,) = found
    place = SEARCH_KS.index(search_k)

    def reached(search_k: int) -> float:
        return min(recall_of([shard], *each, search_k)[0] for each in zip(sample.kinds, sample.exact, strict=True))

    assert place > 0
    assert reached(search_k) >= least_recall > reached(SEARCH_KS[place - 1])
    tuned = find_search_k([shard], sample, least_recall, search_k)
    assert tuned.recall == reached(search_k)
    assert len(tuned.milliseconds) == sum(len(queries.items) for queries in sample.kinds)


def test_a_recall_out_of_reach_takes_all_nodes(shard: AnnoyShard, sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.search_k.SEARCH_KS", (100, 110, 121))
    tuned = find_search_k([shard], sample, 0.99, 100)
    assert tuned.search_k == 121
    assert 0 < tuned.recall < 0.99


def test_a_sample_is_of_the_first_items(drawn: tuple[Products, tuple[VectorsFile, ...]]) -> None:
    products, files = drawn
    sample = Sample.draw(files, ["text"], FUSION, "angular", 0, 700)
    assert sample.items == 700
    for queries, exact in zip(sample.kinds, sample.exact, strict=True):
        assert max(queries.items.max(), exact.max()) < 700
        near = queries.vectors @ products.fused[:700].T
        near[np.arange(len(near)), queries.items] = -np.inf
        assert np.array_equal(exact, np.argsort(-near, axis=1, kind="stable")[:, :10])


@pytest.mark.parametrize("metric", get_args(Metric))
@pytest.mark.parametrize("count", [1, 30, 100, 1000, 2000])
def test_annoy_files_are_hardly_smaller_than_estimated_and_not_larger(tmp_path: Path, metric: Metric, count: int) -> None:
    for trees in (10, 50):
        size = build(draw_products(count), trees, tmp_path / "a.ann", metric)
        estimated = annoy_bytes(count, trees, DIMENSION, metric)
        assert 0.6 * estimated < size <= estimated


def choose_trees(products: Products, sample: Sample) -> Choice:
    """Choose trees for scattered products."""

    def build_at(trees: int, path: Path) -> None:
        build(products, trees, path)

    return choose(sample, TREES, ChosenFor(2000, 0.9, None), "angular", DIMENSION, build_at)


def test_the_least_work_is_chosen_and_more_trees_only_where_they_save(
    drawn: tuple[Products, tuple[VectorsFile, ...]], sample: Sample
) -> None:
    choice = choose_trees(drawn[0], sample)
    works = {trial.trees: trial.work for trial in choice.trials}
    assert list(works) == list(TREES[: len(works)])
    assert all(trial.recall >= 0.9 for trial in choice.trials)
    fewest = next(trees for trees, work in works.items() if work <= 1.1 * min(works.values()))
    assert choice.trees == fewest
    assert choice.why == (
        f"least work for recall@10 0.9 of {', '.join(map(str, works))}, {works[fewest]:,.0f} comparisons a query on 2,000 "
        "products"
    )
    again = choose_trees(drawn[0], sample)
    assert [(t.trees, t.search_k, t.recall, t.work) for t in again.trials] == [
        (t.trees, t.search_k, t.recall, t.work) for t in choice.trials
    ]
    assert Choice.from_json(choice.to_json()) == choice


def test_work_is_what_annoy_compares(shard: AnnoyShard, sample: Sample) -> None:
    query = sample.kinds[0].vectors[0]
    counts = [shard.compared(query, search_k) for search_k in (1, 100, 500, 1999, 2000)]
    assert counts == sorted(counts)
    assert counts[-1] == 2000
    assert 100 / 10 <= counts[1] <= 100 + DIMENSION + 2


# --- in versions ---


def test_a_version_takes_the_trees_chosen_and_a_lookup_their_search_k(tmp_path: Path) -> None:
    products = scattered(1500)
    manifest = make_version(tmp_path, "v1", products, trees=None)
    assert manifest.n_trees in TREES
    assert manifest.measured.chosen_for == ChosenFor(1500, 0.95, None)
    assert manifest.recall is not None
    assert manifest.recall >= 0.95
    folder = tmp_path / "versions" / "v1"
    annoy = AnnoyIndex(DIMENSION, "angular")
    annoy.load(str(folder / manifest.annoy[0].file))
    assert annoy.get_n_trees() == manifest.n_trees
    with open_index(tmp_path, version="v1") as index:
        assert index.manifest == manifest
        for query in products.fused[:50]:
            own = index.search(vector=query, k=10)
            assert own == index.search(vector=query, k=10, search_k=manifest.search_k)
    again = make_version(tmp_path / "again", "v1", products, trees=None)
    assert again.files == manifest.files
    assert (again.n_trees, again.search_k) == (manifest.n_trees, manifest.search_k)


def test_trees_are_kept_while_products_are_within_twice_those_they_were_chosen_for(tmp_path: Path) -> None:
    first = make_version(tmp_path, "v1", scattered(400), trees=None)
    path = tmp_path / "versions" / "v1" / "manifest.json"
    # As if another number had been chosen: what is kept shows.
    path.write_bytes(dataclasses.replace(first, n_trees=20).to_json())
    anchor = ChosenFor(400, 0.95, None)
    for number, (count, is_kept) in enumerate([(800, True), (200, True), (801, False), (199, False)]):
        made = make_version(tmp_path, f"w{number}", scattered(count), trees=None, previous="v1")
        if is_kept:
            assert (made.n_trees, made.measured.chosen_for) == (20, anchor)
        else:
            assert made.measured.chosen_for == ChosenFor(count, 0.95, None)
        assert made.recall is not None
        assert made.recall >= 0.95
    second = make_version(tmp_path, "x", scattered(780), trees=None, previous="w0")
    assert (second.n_trees, second.measured.chosen_for) == (20, anchor), "what it was chosen for does not wander"
    why = read_json(Index(str(tmp_path)).run("x").done("build", "trees"))["why"]
    assert why == "as in version w0, chosen for 400 products"


def test_trees_are_chosen_anew_for_another_recall_or_limit_or_metric_and_where_they_were_given(tmp_path: Path) -> None:
    products = scattered(400)
    make_version(tmp_path, "v1", products, trees=None)
    make_version(tmp_path, "v2", products, trees=7)
    for version, previous, changes in (
        ("a", "v1", {"min_recall": 0.99}), ("b", "v1", {"max_index_bytes": 10**9}), ("c", "v1", {"metric": "euclidean"}),
        ("d", "v2", {}), ("e", "gone", {}),
    ):  # fmt: skip
        make_version(tmp_path, version, products, trees=None, previous=previous, **changes)
        why = read_json(Index(str(tmp_path)).run(version).done("build", "trees"))["why"]
        assert why.startswith("least work for recall@10 0.9"), version


def test_a_number_that_is_given_is_taken(tmp_path: Path) -> None:
    manifest = make_version(tmp_path, "v1", scattered(300), trees=7)
    assert (manifest.n_trees, manifest.measured.chosen_for) == (7, None)
    assert read_json(Index(str(tmp_path)).run("v1").done("build", "trees"))["why"] == "as --trees says"


def test_a_run_that_is_resumed_does_not_choose_again(tmp_path: Path) -> None:
    decided = Choice(50, 500, ChosenFor(400, 0.95, None), "as decided before it was killed")
    write_json(Index(str(tmp_path)).run("v1").done("build", "trees"), decided.to_json())
    assert make_version(tmp_path, "v1", scattered(400), trees=None).n_trees == 50


def test_an_index_that_is_all_compared_has_the_fewest_trees(tmp_path: Path) -> None:
    for count in (0, 1, 100):
        manifest = make_version(tmp_path / str(count), "v1", draw_products(count), trees=None)
        assert (manifest.n_trees, manifest.recall) == (TREES[0], 1.0 if count else None)


def test_trees_that_do_not_fit_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pipelines")
    products = scattered(1500)
    free = make_version(tmp_path, "v1", products, trees=None)
    most = annoy_bytes(1500, 20, DIMENSION, "angular")
    assert free.n_trees > 20, "the limit binds"
    manifest = make_version(tmp_path, "v2", products, trees=None, max_index_bytes=most, previous="v1")
    assert manifest.n_trees <= 20
    assert manifest.annoy_bytes <= most
    left = ", ".join(f"{trees} ({annoy_bytes(1500, trees, DIMENSION, 'angular'):,} bytes)" for trees in (50, 100, 200))
    assert f"build: numbers of trees left out because of --max-index-bytes {most}: {left}" in caplog.messages
    halves = fitting([750, 750], DIMENSION, "angular", 2 * annoy_bytes(750, 50, DIMENSION, "angular"))
    assert halves == (10, 20, 50)
    assert reasons_against(manifest, None, Limits(0.9, 0.1, most)) == []
    assert reasons_against(free, None, Limits(0.9, 0.1, most)) == [(
        f"its Annoy files take {free.annoy_bytes:,} bytes, above --max-index-bytes {most}: "
        f"fewer --trees than {free.n_trees} would help"
    )]


def test_a_limit_below_the_fewest_trees_is_refused_with_what_they_take(tmp_path: Path) -> None:
    least = annoy_bytes(300, 10, DIMENSION, "angular")
    with pytest.raises(IndexTooLargeError) as caught:
        make_version(tmp_path, "v1", scattered(300), trees=None, max_index_bytes=least - 1)
    assert str(caught.value) == (
        f"Annoy files of 300 products at dimension 32 take about {least:,} bytes with the fewest trees that are tried, 10, "
        f"above --max-index-bytes {least - 1}: allow more, or train a bundle of a smaller --dimension"
    )
    assert not (tmp_path / "versions" / "v1" / "manifest.json").exists()


# --- in a run ---


@pytest.fixture
def command(tmp_path: Path, tiny_bundle: Path) -> Callable[..., int]:
    """Return a function that runs the command on so many products."""

    def call(count: int, *flags: str) -> int:
        folder = tmp_path / f"shop-{count}"
        if not folder.exists():
            write_shards(folder, [product(number) for number in range(count)], 50)
        return cli.main(["run", "--index", str(tmp_path / "index"), "--catalogue", f"{folder}/*.parquet", "--bundle",
                         str(tiny_bundle), *flags])  # fmt: skip

    return call


def test_the_report_says_what_was_chosen_and_a_limit_too_low_leaves_the_version_before(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert command(60) == 0
    out = capsys.readouterr().out
    assert "\nAnnoy: 10 trees (all of 60 products are compared), " in out
    current = (tmp_path / "index" / "CURRENT").read_text()
    assert command(61, "--max-index-bytes", "1000") == REFUSED
    error = capsys.readouterr().err
    assert "catalogue-index: Annoy files of 61 products at dimension 16 take about " in error
    assert (tmp_path / "index" / "CURRENT").read_text() == current
    assert command(61, "--trees", "30", "--max-index-bytes", "2_000") == REFUSED
    assert "bytes, above --max-index-bytes 2000: fewer --trees than 30 would help" in capsys.readouterr().err
    assert command(61) == 0
    assert "(as in version " in capsys.readouterr().out
