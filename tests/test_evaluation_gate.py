"""Labelled queries in the gate: a version that finds less than the one before it is refused."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import jpeg, product, write_shards

from encoders.bundle import write_bundle
from encoders.fusion import Fusion
from encoders.heads import Head
from encoders.towers import load_tower
from pipelines import cli, exit_codes
from pipelines.config import Config, read_config
from pipelines.evaluated import Evaluated, read_evaluated, reasons_of_evaluation
from pipelines.gate import read_refusal
from pipelines.labelled_queries import LabelledQueriesError
from pipelines.layout import Index
from pipelines.publish import read_current
from pipelines.run import run
from transforms.decode import decode_picture

COLOURS = ("red", "green", "blue")


def fitted(features: np.ndarray, colours: np.ndarray) -> Head:
    """Fit a linear head that carries features to the corner of their colour."""
    linear = np.linalg.lstsq(features.astype(np.float64), np.eye(4)[colours], rcond=1e-6)[0].astype(np.float32)
    shapes = [(len(linear), 0), (0,), (0, 4), (4,)]
    zeros = [np.zeros(shape, np.float32) for shape in shapes]
    return Head(np.zeros(len(linear), np.float32), np.ones(len(linear), np.float32), linear, *zeros)


@pytest.fixture(scope="module")
def bundles(tiny_towers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write a bundle that knows colours, and one whose text head has its outputs shuffled."""
    rows = [product(number) for number in range(60)]
    colours = np.arange(60) % 3
    towers = {name: load_tower(folder) for name, folder in tiny_towers.items()}
    side = towers["picture"].spec.side
    assert side is not None
    pictures = np.stack([decode_picture(row["image"]["bytes"], side) for row in rows])
    texts = [*(row["name"] for row in rows), *(f"{colour} shirt" for colour in COLOURS)]
    good = {
        "picture": fitted(towers["picture"].encode(pictures), colours),
        "text": fitted(towers["text"].encode(texts), np.concatenate([colours, [0, 1, 2]])),
    }
    bad = good | {"text": dataclasses.replace(good["text"], linear=good["text"].linear[:, [2, 0, 1, 3]])}
    folder, fusion = tmp_path_factory.mktemp("bundles"), Fusion("concatenation", {"picture": 0.9, "text": 0.1})
    return {
        name: write_bundle(folder / name, tiny_towers, heads, fusion, {}, {}).folder
        for name, heads in (("good", good), ("bad", bad))
    }


@pytest.fixture
def flags(bundles: dict[str, Path], tmp_path: Path) -> dict[str, Any]:
    """Return the settings of a run by the good bundle that is evaluated by words and by photos."""
    write_shards(tmp_path / "shop", [product(number) for number in range(60)], 30)
    rows = ["query,photo,sku"]
    for which, colour in enumerate(COLOURS):
        shade = tuple(200 if place == which else 30 for place in range(3))
        (tmp_path / f"{colour}.jpg").write_bytes(jpeg(shade, 500 + which))  # type: ignore[arg-type]
        right = [f"P{number:05d}" for number in range(which, 60, 3)]
        rows += [f"{colour} shirt,,{name}" for name in right] + [f",{colour}.jpg,{name}" for name in right]
    (tmp_path / "q.csv").write_text("\n".join(rows) + "\n")
    return {
        "index": str(tmp_path / "index"), "catalogue": [f"{tmp_path}/shop/*.parquet"], "trees": 5, "bundle": str(bundles["good"]),
        "evaluation": str(tmp_path / "q.csv"), "evaluation_column": ["text=query", "image=photo", "product_id=sku"],
    }  # fmt: skip


def config(flags: dict[str, Any], **changes: Any) -> Config:
    return read_config(None, flags | changes)


def as_flags(settings: dict[str, Any]) -> list[str]:
    given = []
    for name, value in settings.items():
        for one in value if isinstance(value, list) else [value]:
            given += ["--" + name.replace("_", "-"), str(one)]
    return given


def test_a_version_that_finds_less_is_refused_with_both_figures(
    flags: dict[str, Any], bundles: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = Index(flags["index"])
    first = run(config(flags))
    evaluated = read_evaluated(index, first.version)
    assert evaluated is not None
    assert {kind: (told["queries"], told["ndcg@10"]["value"]) for kind, told in evaluated.kinds.items()} == {
        "text": (3, 1.0), "picture": (3, 1.0)
    }  # fmt: skip
    # Ten of twenty right ones can be among the first ten.
    assert evaluated.kinds["text"]["recall@10"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    line = f"evaluation by {tmp_path}/q.csv, 3 queries by text: nDCG@10 1.000 (1.000 to 1.000), recall@10 0.500 (0.500 to 0.500)"
    assert line in list(first.lines())
    summary = json.loads((tmp_path / "index" / "runs" / first.version / "summary.json").read_text())
    assert summary["evaluation"]["kinds"] == evaluated.kinds
    assert (summary["evaluation"]["since"], summary["evaluation"]["change"]) == (None, None)
    assert (summary["settings"]["evaluation"], summary["settings"]["max_evaluation_drop"]) == (str(tmp_path / "q.csv"), 0.02)

    capsys.readouterr()
    worse = ["run", *as_flags(flags | {"bundle": bundles["bad"]}), "--json"]
    assert cli.main(worse) == exit_codes.REFUSED
    out, _ = capsys.readouterr()
    told = json.loads(out)
    version = told["run"]
    reasons = [
        f"{name} of 3 queries by text is 0.0000, {before:.4f} below the {before:.4f} of version {first.version}, above "
        "--max-evaluation-drop 0.02: compare the two with catalogue-index evaluate --version"
        for name, before in (("nDCG@10", 1), ("recall@10", 0.5))
    ]
    assert read_refusal(index, version) == reasons
    assert (told["failed_stage"], told["exit_code"], told["published"]) == ("gate", 4, False)
    assert told["evaluation"]["since"] == first.version
    assert told["evaluation"]["change"] == {
        "text": {"ndcg@10": -1.0, "recall@10": -0.5}, "picture": {"ndcg@10": 0.0, "recall@10": 0.0}
    }  # fmt: skip
    assert told["message"].splitlines()[1:3] == [f"- {reason}" for reason in reasons]
    assert read_current(index) == first.version

    # Again: nothing is evaluated anew, and it is refused again; by its id, too, unless that is forced.
    kept = (tmp_path / "index" / "versions" / version / "evaluated.json").read_bytes()
    assert cli.main(worse) == exit_codes.REFUSED
    assert (tmp_path / "index" / "versions" / version / "evaluated.json").read_bytes() == kept
    assert cli.main(["publish", version, "--index", index.root]) == exit_codes.REFUSED
    assert reasons[0] in capsys.readouterr().err
    allowed = run(config(flags, bundle=str(bundles["bad"]), max_evaluation_drop=1.0))
    assert (allowed.version, allowed.published, read_refusal(index, version)) == (version, True, [])
    assert any("nDCG@10 0.000 (0.000 to 0.000; -1.000)" in line for line in allowed.lines())


def test_an_evaluation_that_was_stopped_is_done_again_and_nothing_else_is(flags: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "blue.jpg").rename(tmp_path / "hidden.jpg")
    with pytest.raises(LabelledQueriesError, match=r"the picture of query '#6' cannot be read: cannot read .*blue\.jpg"):
        run(config(flags))
    index = Index(flags["index"])
    (folder,) = (tmp_path / "index" / "versions").iterdir()
    assert (read_current(index), (folder / "evaluated.json").exists()) == (None, False)
    summary = json.loads((tmp_path / "index" / "runs" / folder.name / "summary.json").read_text())
    assert (summary["failed_stage"], summary["exit_code"], summary["evaluation"]) == ("gate", exit_codes.BAD_FLAG, None)
    (tmp_path / "hidden.jpg").rename(tmp_path / "blue.jpg")
    report = run(config(flags))
    assert (report.version, report.encoded, report.published) == (folder.name, {}, True)
    assert report.evaluated == read_evaluated(index, report.version)
    assert report.evaluated is not None


def test_versions_that_were_asked_other_things_are_not_compared(
    flags: dict[str, Any], bundles: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pipelines")
    first = run(config({name: value for name, value in flags.items() if not name.startswith("evaluation")}))
    worse = flags | {"bundle": str(bundles["bad"])}
    second = run(config(worse))
    assert (second.published, second.evaluated_before) == (True, None)
    assert (
        f"gate: version {first.version} was not evaluated: the figures of version {second.version} are not compared with its own"
        in caplog.messages
    )
    other = tmp_path / "other.csv"
    other.write_text("\n".join((tmp_path / "q.csv").read_text().splitlines()[:30]) + "\n")
    third = run(config(flags, evaluation=str(other)))
    assert third.published
    assert (
        f"gate: version {second.version} was evaluated by other queries ({tmp_path}/q.csv): the figures of version "
        f"{third.version} are not compared with its own" in caplog.messages
    )
    assert any(line.startswith(f"evaluation by {other}, 1 queries by picture: ") for line in third.lines())
    summary = json.loads((tmp_path / "index" / "runs" / third.version / "summary.json").read_text())
    assert summary["evaluation"]["change"] is None


def test_a_file_that_cannot_be_used_stops_the_night_at_its_beginning(
    flags: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for changes, message in (
        ({"evaluation": str(tmp_path / "none.csv")}, f"there is no file of queries {tmp_path}/none.csv"),
        ({"evaluation_column": ["text=words"]}, f"{tmp_path}/q.csv has no column 'words', which text is mapped to"),
        ({"max_evaluation_drop": 2}, "--max-evaluation-drop is 2.0; it is a share between 0 and 1"),
    ):
        assert cli.main(["run", *as_flags(flags | changes)]) == exit_codes.BAD_FLAG
        assert f"catalogue-index: {message}" in capsys.readouterr().err
    assert not (tmp_path / "index" / "runs").exists()


def figures(**values: float) -> dict[str, Any]:
    return {name.replace("_", "@"): {"value": value, "low": value, "high": value} for name, value in values.items()}


@pytest.mark.parametrize(
    ("now", "max_drop", "refused"),
    [({"ndcg_10": 0.78, "recall_10": 0.9}, 0.02, False), ({"ndcg_10": 0.7799, "recall_10": 0.9}, 0.02, True),
     ({"ndcg_10": 0.9, "recall_10": 0.87}, 0.02, True), ({"ndcg_10": 0.7999, "recall_10": 0.9}, 0.0, True),
     ({"ndcg_10": 0.9, "recall_10": 0.95}, 0.0, False)],
)  # fmt: skip
def test_the_tolerance_is_held_exactly(tmp_path: Path, now: dict[str, float], max_drop: float, refused: bool) -> None:
    index = Index(str(tmp_path))
    for version, values in (("v1", {"ndcg_10": 0.8, "recall_10": 0.9}), ("v2", now)):
        Evaluated(version, "q.csv", "same", {"text": {"queries": 9, "lacking": 0, **figures(**values)}}, 1.0).write(index)
    assert bool(reasons_of_evaluation(index, "v2", "v1", max_drop)) == refused
    assert reasons_of_evaluation(index, "v2", None, max_drop) == []


def test_damaged_figures_of_the_version_before_refuse_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    index = Index(str(tmp_path))
    for version in ("v1", "v2"):
        Evaluated(version, "q.csv", "same", {}, 1.0).write(index)
    path = tmp_path / "versions" / "v1" / "evaluated.json"
    path.write_text("{")
    assert reasons_of_evaluation(index, "v2", "v1", 0.0) == []
    assert f"{path} is damaged, and counts as not there" in caplog.text
