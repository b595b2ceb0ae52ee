"""The summary of a run: what it holds after each way a run may end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeConfig, product

from pipelines.cli import main
from pipelines.gate import RefusedError
from pipelines.layout import Index, read_json
from pipelines.publish import read_current
from pipelines.reject_counts import RejectRateError
from pipelines.run import run

PRODUCTS = 40


def products() -> list[dict[str, Any]]:
    return [product(number) for number in range(PRODUCTS)]


def summaries(index: str) -> dict[str, dict[str, Any]]:
    return {path.parent.name: read_json(str(path)) for path in Path(index).glob("runs/*/summary.json")}


def test_a_published_run_leaves_what_it_did(config: MakeConfig) -> None:
    report = run(settings := config(products()))
    (summary,) = summaries(settings.index).values()
    assert (summary["exit_code"], summary["failed_stage"], summary["dry_run"]) == (0, None, False)
    assert summary["message"] == f"version {report.version} is published"
    assert (summary["version"], summary["run"], summary["published"]) == (report.version, report.version, True)
    assert (summary["rows"], summary["indexed"], summary["changes"]["new"]) == (PRODUCTS, PRODUCTS, PRODUCTS)
    assert summary["encoded"] == {"picture": PRODUCTS, "text": PRODUCTS}
    assert summary["to_encode"]["picture"] == {"products": PRODUCTS, "items": PRODUCTS}
    assert set(summary["stages"]) == {"ingest", "plan", "encode", "collect", "fuse", "build", "publish"}
    assert [summary["stages"][s]["rows"] for s in ("ingest", "encode", "build")] == [PRODUCTS, 2 * PRODUCTS, PRODUCTS]
    assert summary["estimate"]["text"]["items"] == PRODUCTS
    assert summary["recall@10"] == report.recall
    assert summary["pruned"] == {"versions": [], "rewritten": [], "compacted": 0, "deleted": {}}
    assert summary["settings"]["trees"] == 10
    assert summary["started"] <= summary["ended"]


def test_a_refused_run_and_a_failed_one_say_why_and_where(config: MakeConfig) -> None:
    run(config(products()))
    with pytest.raises(RefusedError) as refused:
        run(settings := config(products()[:20]))
    told = summaries(settings.index)[refused.value.version]
    assert (told["exit_code"], told["failed_stage"], told["published"]) == (4, "gate", False)
    assert told["message"] == str(refused.value)
    assert told["changes"]["gone"] == 20
    rows = [{**row, "sku": None} for row in products()]
    with pytest.raises(RejectRateError) as rejected:
        run(config(rows))
    (told,) = [one for one in summaries(settings.index).values() if one["exit_code"] == 5]
    assert (told["failed_stage"], told["message"], told["version"]) == ("ingest", str(rejected.value), None)


def test_a_night_with_nothing_to_do_leaves_its_own_summary(config: MakeConfig) -> None:
    first = run(settings := config(products()))
    run(config())
    found = summaries(settings.index)
    assert found[first.version]["message"] == f"version {first.version} is published"
    (told,) = [one for run_id, one in found.items() if run_id != first.version]
    assert (told["exit_code"], told["version"], told["stages"], told["encoded"]) == (0, first.version, {}, {})
    assert told["changes"]["unchanged"] == PRODUCTS


def test_json_is_the_summary_whatever_comes_of_the_run(
    config: MakeConfig, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = config(products())
    command = ["run", "--index", settings.index, "--catalogue", settings.catalogue[0], "--bundle", str(tiny_bundle), "--json"]
    assert main([*command, "--dry-run"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["dry_run"], told["published"], told["changes"]["new"]) == (True, False, PRODUCTS)
    assert read_current(Index(settings.index)) is None
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == summaries(settings.index)[told["version"]]
    assert main([*command, "--catalogue", "nowhere/*.parquet"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert (told["exit_code"], told["failed_stage"], told["run"]) == (2, "open", None)
    assert told["message"].startswith("no file of a catalogue matches 'nowhere/*.parquet'")
    assert main(command[:-1]) == 0
    shown = capsys.readouterr().out
    assert f"since version {read_current(Index(settings.index))}: 40 unchanged" in shown
