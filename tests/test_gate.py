"""The gate: what is let through, what is kept of a refusal, and what moved since the version before."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import product, write_shards
from version_maker import Products, draw_products, make_version

from catalogue_lookup import open_index
from catalogue_lookup.manifest import Manifest, Measured
from pipelines import stages
from pipelines.config import Config, read_config
from pipelines.drift import Drift, drift_since, measure_drift
from pipelines.gate import Limits, RefusedError, judge, read_refusal, reasons_against, refused_versions
from pipelines.layout import Index, read_json
from pipelines.publish import check_version, list_versions, publish_version, read_current
from pipelines.run import open_run, run, run_stage

LIMITS = Limits(0.95, 0.10)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an index of a version and one with a fifth fewer products."""
    root = tmp_path_factory.mktemp("index")
    make_version(root, "v1", draw_products(100))
    make_version(root, "v2", draw_products(80), sequence=2, previous="v1")
    return root


@pytest.fixture
def index(made: Path, tmp_path: Path) -> Index:
    """Return a copy of it that a test may change."""
    return Index(str(shutil.copytree(made, tmp_path / "index")))


def manifest_of(index: Index, version: str) -> Manifest:
    return check_version(index, version)


def with_recall(manifest: Manifest, **by_query: float) -> Manifest:
    return dataclasses.replace(manifest, measured=Measured(min(by_query.values()), by_query, 200, 1.0, 2.0))


def test_a_good_version_passes(index: Index) -> None:
    first = manifest_of(index, "v1")
    assert reasons_against(first, None, LIMITS) == []
    assert reasons_against(first, first, Limits(0.95, 0.0)) == []
    assert reasons_against(first, manifest_of(index, "v2"), LIMITS) == []


def test_all_reasons_are_listed(index: Index) -> None:
    second = with_recall(manifest_of(index, "v2"), product=0.97, picture=0.9123, text=0.94)
    assert reasons_against(second, manifest_of(index, "v1"), LIMITS) == [
        "recall@10 of picture queries is 0.9123, below --min-recall 0.95: more --trees would help",
        (
            "it has 80 products, 20.0 % fewer than the 100 of version v1, above --max-shrink 0.1 (10 %): "
            "see that the catalogue is whole"
        ),
    ]
    assert reasons_against(second, manifest_of(index, "v1"), Limits(0.9123, 0.2)) == []


@pytest.mark.parametrize(
    ("items", "before", "most", "passes"),
    [(90, 100, 0.1, True), (89, 100, 0.1, False), (3, 10, 0.7, True), (2, 10, 0.7, False), (0, 10, 1.0, True),
     (0, 10, 0.99, False), (99, 100, 0.0, False), (500, 100, 0.0, True), (0, 0, 0.0, True)],
)  # fmt: skip
def test_the_last_product_allowed_is_allowed(index: Index, items: int, before: int, most: float, passes: bool) -> None:
    first = manifest_of(index, "v1")
    one, other = (dataclasses.replace(first, items=count) for count in (items, before))
    assert (reasons_against(one, other, Limits(0.0, most)) == []) is passes


@pytest.mark.parametrize(("products", "recall"), [(0, None), (1, 1.0), (2, 1.0), (9, 1.0), (11, 1.0)])
def test_of_a_tiny_index_recall_is_the_share_of_what_there_is(tmp_path: Path, products: int, recall: float | None) -> None:
    manifest = make_version(tmp_path, "v1", draw_products(products))
    assert manifest.recall == recall
    assert reasons_against(manifest, None, Limits(1.0, 0.0)) == []


def test_a_refusal_is_kept_beside_the_manifest_until_the_version_passes(
    index: Index, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pipelines")
    reasons = judge(index, "v2", "v1", LIMITS)
    assert len(reasons) == 1
    assert caplog.messages[-1] == "gate: recall@10 1 (at least 0.95), 80 products (100 in version v1): refused"
    kept = read_json(f"{index.version('v2')}/refused.json")
    assert {**kept, "refused": "now"} == {
        "version": "v2", "refused": "now", "reasons": reasons, "previous": "v1",
        "limits": {"min_recall": 0.95, "max_shrink": 0.1, "max_index_bytes": None, "max_evaluation_drop": 0.02},
    }  # fmt: skip
    assert (read_refusal(index, "v2"), refused_versions(index)) == (reasons, {"v2"})
    assert [(v.id, v.refused) for v in list_versions(index)] == [("v1", False), ("v2", True)]
    # It is no file of the version's: that one is as whole as it was.
    assert "refused.json" not in manifest_of(index, "v2").files
    with open_index(index.root, version="v2") as opened:
        assert len(opened) == 80
    assert judge(index, "v2", "v1", Limits(0.95, 0.2)) == []
    assert (read_refusal(index, "v2"), refused_versions(index)) == ([], set())


def test_a_damaged_refusal_is_a_refusal(index: Index) -> None:
    path = Path(index.version("v2")) / "refused.json"
    path.write_text("{")
    assert read_refusal(index, "v2") == [f"it was refused, but {path} is damaged and does not say why"]


@pytest.mark.parametrize("state", ["damaged", "missing"])
def test_a_version_before_that_cannot_be_read_is_not_compared_with(
    index: Index, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = Path(index.version("v1")) / "manifest.json"
    if state == "damaged":
        path.write_text("{")
        told = f"version v1 cannot be compared with: {path} is not whole JSON"
    else:
        path.unlink()
        told = "version v1 cannot be compared with: its manifest is missing"
    assert judge(index, "v2", "v1", LIMITS) == []
    assert told in caplog.text


# --- what moved ---


def exact(products: Products, ids: list[str]) -> dict[str, set[str]]:
    """Return the ten nearest of each product by looking at all, by name."""
    unit = products.fused / np.linalg.norm(products.fused, axis=1, keepdims=True)
    place = {name: number for number, name in enumerate(products.ids)}
    found = {}
    for name in ids:
        near = unit @ unit[place[name]]
        near[place[name]] = -np.inf
        found[name] = {products.ids[item] for item in np.argsort(-near)[:10]}
    return found


def test_the_same_products_have_not_moved(index: Index) -> None:
    make_version(Path(index.root), "v3", draw_products(100), sequence=3, previous="v1", metric="euclidean")
    first = manifest_of(index, "v1")
    assert measure_drift(index, first, first) == Drift(100, 0.0)
    assert drift_since(index, manifest_of(index, "v3")) == Drift(100, 0.0)


def test_what_moved_is_what_exact_search_says(tmp_path: Path) -> None:
    before, index = draw_products(700), Index(str(tmp_path))
    rng = np.random.default_rng(1)
    fused = before.fused.copy()
    fused[::5] = rng.standard_normal(fused[::5].shape).astype(np.float32)
    gone = set(range(3, 700, 10))
    rows = [number for number in range(700) if number not in gone]
    after = Products(
        [before.rows[row] for row in rows], fused[rows], {m: v[rows] for m, v in before.modalities.items()},
        {m: p[rows] for m, p in before.present.items()},
    )  # fmt: skip
    make_version(tmp_path, "v1", before)
    make_version(tmp_path, "v2", after, sequence=2, previous="v1")
    probes = after.ids[:200]
    were, are = exact(before, probes), exact(after, probes)
    expected = sum(len(were[name] - are[name]) for name in probes) / 2000
    found = drift_since(index, manifest_of(index, "v2"))
    assert found.probes == 200
    assert found.moved == pytest.approx(expected, abs=0.001)
    assert 0.2 < expected < 0.9


def test_equal_products_do_not_move_by_chance(tmp_path: Path) -> None:
    """Where more than ten are equally near, the first of the one order are the neighbours in either version."""
    before = draw_products(300)
    before.fused[:] = before.fused[np.arange(300) // 60 * 60]
    after = Products(before.rows[:299], before.fused[:299], {m: v[:299] for m, v in before.modalities.items()},
                     {m: p[:299] for m, p in before.present.items()})  # fmt: skip
    make_version(tmp_path, "v1", before)
    make_version(tmp_path, "v2", after, sequence=2, previous="v1")
    assert drift_since(Index(str(tmp_path)), manifest_of(Index(str(tmp_path)), "v2")) == Drift(200, 0.0)


def test_without_a_product_in_common_nothing_is_said(tmp_path: Path) -> None:
    products = draw_products(40)
    halves = [
        Products([products.rows[row] for row in rows], products.fused[rows], {m: v[rows] for m, v in products.modalities.items()},
                 {m: p[rows] for m, p in products.present.items()})
        for rows in (list(range(0, 40, 2)), list(range(1, 40, 2)))
    ]  # fmt: skip
    index = Index(str(tmp_path))
    for number, half in enumerate(halves):
        make_version(tmp_path, f"v{number}", half, previous=f"v{number - 1}" if number else None)
    assert drift_since(index, manifest_of(index, "v1")) == Drift(0, None)
    assert drift_since(index, manifest_of(index, "v0")) == Drift(0, None)
    make_version(tmp_path, "empty", draw_products(0), previous="v1")
    assert drift_since(index, manifest_of(index, "empty")) == Drift(0, None)


def test_missing_vectors_of_the_version_before_stop_nothing(index: Index, caplog: pytest.LogCaptureFixture) -> None:
    second = manifest_of(index, "v2")
    path = sorted(Path(index.version("v1")).glob("vectors/*.parquet"))[0]
    path.unlink()
    assert drift_since(index, second) == Drift(0, None)
    assert f"build: what moved since version v1 is not known: cannot read {path}: " in caplog.text


# --- in a run ---


@pytest.fixture
def config(tmp_path: Path, tiny_bundle: Path) -> Callable[..., Config]:
    """Return a function that makes the configuration of a run on that many products."""

    def make(count: int, **changes: Any) -> Config:
        folder = tmp_path / f"shop-{count}"
        if not folder.exists():
            write_shards(folder, [product(number) for number in range(count)], 20)
        flags = {"index": str(tmp_path / "index"), "catalogue": [f"{folder}/*.parquet"], "bundle": str(tiny_bundle), "trees": 5}
        return read_config(None, flags | changes)

    return make


def test_half_a_catalogue_is_refused_kept_and_published_where_that_is_allowed(config: Callable[..., Config]) -> None:
    first = run(config(40))
    settings = config(20)
    index = Index(settings.index)
    with pytest.raises(RefusedError) as raised:
        run(settings)
    version = raised.value.version
    reason = (
        f"it has 20 products, 50.0 % fewer than the 40 of version {first.version}, above --max-shrink 0.1 (10 %): "
        "see that the catalogue is whole"
    )
    assert str(raised.value) == (
        f"version {version} is refused by the gate and not published:\n- {reason}\n"
        f"to publish it anyway: catalogue-index publish {version} --index {index.root} --force"
    )
    assert read_current(index) == first.version
    assert read_refusal(index, version) == [reason]
    assert [(v.id, v.current, v.refused) for v in list_versions(index)] == [
        (first.version, True, False), (version, False, True)
    ]  # fmt: skip
    with pytest.raises(RefusedError, match=f"version {version} is refused"):
        run(settings)
    report = run(settings.replace(max_shrink=0.5))
    assert (report.version, report.encoded, report.published) == (version, {}, True)
    assert (read_current(index), read_refusal(index, version)) == (version, [])


def test_a_run_that_does_not_publish_is_held_to_the_gate(
    config: Callable[..., Config], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pipelines")
    settings = config(40, publish=False)
    index = Index(settings.index)
    report = run(settings)
    assert (report.published, read_current(index), len(list_versions(index))) == (False, None, 1)
    assert "gate: recall@10 1 (at least 0.95), 40 products (nothing to compare with): passed" in caplog.messages
    assert f"it is not published: catalogue-index publish {report.version} --index {index.root} does that" in caplog.messages
    assert "recall@10 1" in list(report.lines())
    published = run(settings.replace(publish=True))
    assert (published.version, published.published) == (report.version, True)
    with pytest.raises(RefusedError, match=r"it has 20 products, 50\.0 % fewer"):
        run(config(20, publish=False))
    with pytest.raises(RefusedError, match=r"it has 20 products, 50\.0 % fewer"):
        run_stage(config(20), "build")
    assert read_current(index) == report.version


def test_what_moved_is_in_the_counts_and_the_report(config: Callable[..., Config], tmp_path: Path) -> None:
    first = run(config(40))
    second = run(config(41))
    counts = json.loads((tmp_path / "index" / "runs" / second.version / "ended" / "build.json").read_text())
    assert (counts["probes"], counts["previous"]) == (40, first.version)
    assert counts["moved_neighbours"] == second.moved
    assert second.moved is not None
    assert 0 <= second.moved < 0.2
    assert (
        f"recall@10 1; {100 * second.moved:.1f} % of the neighbours of 40 products moved since the version before"
        in list(second.lines())
    )
    assert (first.moved, first.probes) == (None, 0)


def test_a_version_that_was_overtaken_is_built_on_the_one_that_is_current_now(config: Callable[..., Config]) -> None:
    waiting = config(40, publish=False)
    built = run(waiting)
    other = run(config(41))
    report = run(config(40))
    index = Index(waiting.index)
    assert (report.version, read_current(index)) == (built.version, built.version)
    manifest = manifest_of(index, report.version)
    assert (manifest.previous, manifest.sequence) == (other.version, 3)


def test_a_version_published_by_its_id_is_not_held_to_the_gate_again(config: Callable[..., Config]) -> None:
    first = run(config(40))
    settings = config(20)
    with pytest.raises(RefusedError) as raised:
        run(settings)
    index = Index(settings.index)
    publish_version(index, raised.value.version, first.version, forced=True, reasons=raised.value.reasons)
    report = run(settings)
    assert (report.version, report.published) == (raised.value.version, True)
    job, _ = open_run(settings, ())
    assert job.run.id != report.version, "the run is over"
    assert stages.STAGES[-1] == "publish"
