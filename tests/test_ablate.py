"""Ablation: vectors fused anew find what versions fused that way find, among all products or those never trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import product, write_shards
from version_maker import FUSION, draw_products, make_version

from encoders.bundle import open_bundle, write_bundle
from encoders.fusion import Fusion, Gate
from pipelines import ablate, cli, exit_codes, measures
from pipelines.evaluate import evaluate_queries
from pipelines.evaluation import EXACT, open_version
from pipelines.labelled_queries import read_labelled_queries
from pipelines.layout import Index
from pipelines.measures import NAMES
from pipelines.self_supervised import Asking
from pipelines.training_products import hash_share


@pytest.fixture(scope="module")
def shop(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Publish an index of sixty shirts, every tenth without a picture, by a bundle trained with a holdout."""
    root = tmp_path_factory.mktemp("ablated")
    rows = [product(number) | ({"image": None} if number % 10 == 9 else {}) for number in range(60)]
    write_shards(root / "shop", rows, 30)
    tiny = open_bundle(tiny_bundle)
    towers = {name: tiny.folder / "towers" / name for name in tiny.towers}
    write_bundle(root / "bundle", towers, tiny.heads, tiny.fusion, {}, {"holdout": 0.5})
    assert cli.main(run_flags(root)) == 0
    return root


def run_flags(root: Path, *flags: str) -> list[str]:
    bundle = [] if flags else ["--bundle", str(root / "bundle")]
    return ["run", "--index", str(root / "index"), "--catalogue", f"{root}/shop/*.parquet", *bundle, *flags]


def values_of(root: Path, version: str | None, source: Any) -> dict[tuple[str, str], np.ndarray]:
    results = evaluate_queries(str(root / "index"), version, source).results
    return {(one.queries.name, one.by): one.values for one in results if one.search == EXACT}


def alike(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and bool(np.abs(one - other).max() < 0.1)


def test_each_way_finds_what_a_version_made_that_way_finds(shop: Path) -> None:
    version = (shop / "index" / "CURRENT").read_text().strip()
    found = ablate.ablate(str(shop / "index"), version, Asking(60))
    assert (found.version, found.candidates, found.unseen, found.missing) == (version, 60, None, ())
    rows = {row.way.name: row for row in found.rows}
    own = "concatenation picture 0.5, text 0.5 (the version's)"
    assert found.rows[0].way.name == own
    assert list(rows[own].values) == ["titles", "phrases", "photos"]
    assert (rows[own].dimension, rows["picture alone"].dimension, rows["max"].dimension) == (16, 8, 8)
    searched = values_of(shop, version, Asking(60))
    for name in ("titles", "phrases", "photos"):
        assert np.array_equal(rows["picture alone"].values[name], searched[name, "picture"])
    assert np.array_equal(rows["text alone"].values["phrases"], searched["phrases", "text"])
    # A version keeps fused vectors as float16, made of more exact ones: products that are nearly as close may change places.
    assert alike(rows[own].values["phrases"], searched["phrases", "fused"])
    for name, flags in (
        ("weighted_sum picture 0.3, text 0.7", ("--fusion", "weighted_sum", "--weight", "picture=0.3", "--weight", "text=0.7")),
        ("max", ("--fusion", "max")),
    ):
        assert cli.main(run_flags(shop, *flags)) == 0
        other = values_of(shop, None, Asking(60))
        assert alike(rows[name].values["phrases"], other["phrases", "fused"])


def test_only_products_that_training_never_saw_are_asked_and_searched(
    shop: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []
    measure = measures.measure

    def watched(ranked: np.ndarray, judgements: Any) -> np.ndarray:
        seen.append(ranked)
        return measure(ranked, judgements)

    monkeypatch.setattr(measures, "measure", watched)
    version = (shop / "index" / "CURRENT").read_text().strip()
    found = ablate.ablate(str(shop / "index"), version, Asking(60), 0.0)
    with open_version(Index(str(shop / "index"))) as opened:
        unseen = {item for item, order in enumerate(opened.orders().tolist()) if hash_share(order) < 0.5}
        assert len(opened.orders()) == 60
    assert (found.unseen, found.candidates) == (0.5, len(unseen))
    assert 15 < len(unseen) < 45
    assert all(set(ranked[ranked >= 0].tolist()) <= unseen for ranked in seen)
    assert any(set(ranked[ranked >= 0].tolist()) == unseen for ranked in seen)
    assert len(found.rows[0].values["photos"]) < 45
    capsys.readouterr()
    assert cli.main(["evaluate", "--index", str(shop / "index"), "--ablate", "--unseen"]) == 0
    out = capsys.readouterr().out
    told = f"exact search among {len(unseen)} products, those that training with --holdout 0.5 never saw"
    assert out.startswith(f"version {version}: {told}\n")
    assert "\nphotos: " in out
    assert "below each figure the change from the first row; *: its 95 % interval leaves out 0" in out


def test_the_table_and_json_tell_figures_and_changes(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    flags = ["--ablate", "--phrase-language", "en", "--phrase-language", "zh", "--sample", "20", "--json"]
    assert cli.main(["evaluate", "--index", str(shop / "index"), *flags]) == 0
    told = json.loads(capsys.readouterr().out)
    first, second = told["rows"][:2]
    assert list(first["sets"]) == ["titles", "phrases", "phrases, zh", "photos"]
    assert set(first["change"]["titles"]) == set(NAMES)
    assert all(figure["value"] == 0 for figure in first["change"]["titles"].values())
    for name in NAMES:
        change = second["sets"]["titles"][name]["value"] - first["sets"]["titles"][name]["value"]
        assert second["change"]["titles"][name]["value"] == pytest.approx(change, abs=2e-4)
    found = ablate.ablate(str(shop / "index"), None, Asking(20, languages=("en", "zh")))
    assert found.columns() == (
        "vectors", "dimension", "titles recall@1", "titles recall@10", "phrases ndcg@10", "phrases, zh ndcg@10",
        "photos recall@1", "photos ndcg@10",
    )  # fmt: skip
    shown = found.table(0)
    assert shown[0]["photos recall@1"] == f"{first['sets']['photos']['recall@1']['value']:.3f}"
    lines = shown[1]["photos recall@1"].splitlines()
    change = second["change"]["photos"]["recall@1"]
    sure = "*" if change["low"] > 0 or change["high"] < 0 else ""
    assert lines == [f"{second['sets']['photos']['recall@1']['value']:.3f}", f"{change['value']:+.3f}{sure}"]


def test_labelled_queries_choose_a_fusion_too(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("text,product_id\nred shirt,P00000\nred shirt,P00003\n")
    found = ablate.ablate(str(shop / "index"), None, read_labelled_queries(str(tmp_path / "q.csv")))
    assert found.columns() == ("vectors", "dimension", "text recall@10", "text ndcg@10")
    assert found.rows[0].values["text"].shape == (1, len(NAMES))


def test_blocks_of_modalities_are_put_side_by_side(tmp_path: Path) -> None:
    """Every seventh product has no picture, files have several row groups; zeros stay where no product may be an answer."""
    products = draw_products(150)
    make_version(tmp_path, "v1", products)
    among = np.arange(150) % 2 == 0
    with open_version(Index(str(tmp_path)), "v1") as version:
        for mask in (None, among):
            fused = np.zeros((150, version.manifest.dimension), np.float32)
            for first, there in ablate._side_by_side(version, ("picture", "text"), mask):
                present: dict[str, np.ndarray] = {name: np.any(block, axis=1) for name, block in there.items()}
                block = FUSION.fuse(there, present)
                fused[first : first + len(block)] = block
            wanted = products.fused if mask is None else products.fused * among[:, None]
            assert np.allclose(fused, wanted, atol=2e-3)
        mean = ablate._mean(version, "picture")
        assert np.allclose(mean, products.modalities["picture"][products.present["picture"]].mean(axis=0), atol=1e-3)


def test_ways_are_each_taken_once() -> None:
    gate = Gate(("picture", "text"), np.zeros((10, 3)), np.zeros(3), np.zeros((3, 2)), np.zeros(2))  # type: ignore[arg-type]
    fusion = Fusion("weighted_sum", {"picture": 0.25, "text": 0.75}, gate=gate)
    names = [way.name for way in ablate.ways(fusion, ("picture", "text"))]
    assert len(names) == len(set(names)) == 1 + 2 + 1 + 9 + 9 + 3 + 4
    assert names[:3] == ["weighted_sum picture 0.25, text 0.75 (the version's)", "picture alone", "text alone"]
    assert {"attention", "concatenation picture 0.25, text 0.75", "weighted_sum picture 0.5, text 0.5"} <= set(names)
    alone = ablate.ways(Fusion("concatenation", {"text": 1.0}), ("text",))
    assert [way.name for way in alone] == ["text alone (the version's)", "text alone, means taken away"]


def test_what_does_not_fit_is_refused(
    shop: Path, tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["run", "--index", str(tmp_path / "index"), "--catalogue", f"{shop}/shop/*.parquet"]
    assert cli.main([*run, "--bundle", str(tiny_bundle)]) == 0
    for flags, message in (
        (["--ablate", "--unseen"], "the bundle tells of no products that training left out: give --unseen SHARE"),
        (["--ablate", "--unseen", "1"], "--unseen is 1; it is a share of at least 0 and below 1"),
        (["--unseen", "0.2"], "--unseen goes with --ablate and queries that are made of the catalogue"),
        (["--ablate", "--robustness"], "--ablate asks the queries as they are: it does not go with --robustness"),
    ):
        assert cli.main(["evaluate", "--index", str(tmp_path / "index"), *flags]) == exit_codes.BAD_FLAG
        assert f"catalogue-index: {message}" in capsys.readouterr().err
