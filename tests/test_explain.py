"""Explaining what became of a product, on an index that a real run made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import product, write_shards
from shop_files import publish

from pipelines.cli import main
from pipelines.config import ConfigError
from pipelines.explain import Explainer
from pipelines.layout import Index
from pipelines.near_ids import near_ids
from pipelines.prune import prune
from pipelines.publish import read_current
from pipelines.withdraw import undo, withdraw

COUNT = 40


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    """Make an index of a catalogue with a duplicate, a row without an id, a bad picture and a row with nothing."""
    folder = tmp_path_factory.mktemp("made")
    rows = [product(number) for number in range(COUNT)]
    rows[3]["image"] = {"bytes": b"no picture", "path": None}
    rows[5] |= {"name": None, "body_html": None, "image": {"bytes": b"broken", "path": None}}
    rows[7]["image"] = None
    rows += [product(9) | {"name": "another"}, product(50) | {"sku": None}]
    publish(folder, tiny_bundle, write_shards(folder / "shop", rows, 14), column={"product_id": "sku", "title": "name"},
            max_reject_rate=1.0)  # fmt: skip
    return folder / "index"


@pytest.fixture
def index(made: Path, tmp_path: Path) -> Path:
    """Return a copy that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "index", symlinks=True))


def explain(index: Path, product_id: str) -> Any:
    with Explainer(str(index)) as explainer:
        return explainer.explain(product_id)


def facts(told: Any) -> dict[str, str]:
    return dict(told.facts())


def test_an_indexed_product_is_told_with_all_its_places(made: Path) -> None:
    told = explain(made, "P00012")
    assert (told.state, told.current, told.rejects, told.not_known) == ("indexed", True, [], [])
    assert told.verdict == f"'P00012' is indexed in version {told.version}"
    assert told.source["shard"].endswith("/shop/part-00000.parquet")
    assert (told.source["row"], told.columns["title"], told.columns["price"]) == (12, "red shirt number 12", 17.0)
    for one in told.features:
        assert (one["state"], (made / one["file"]).is_file(), one["run"]) == ("present", True, told.version)
    assert [one["modality"] for one in told.features] == ["picture", "text"]
    assert told.vectors["of"]["picture"]["weight"] == told.vectors["of"]["text"]["weight"] == 0.5
    assert told.vectors["norm"] == pytest.approx(1, abs=1e-5)
    folder = made / "versions" / told.version
    assert (folder / told.place["annoy"]).is_file()
    assert (folder / told.place["vectors"]).is_file()
    assert told.found["vector"] == {"rank": 1, "first": "P00012"}
    assert told.found["title"]["rank"] is not None
    assert [near["rank"] for near in told.neighbours] == [1, 2, 3, 4, 5]
    assert "P00012" not in {near["product_id"] for near in told.neighbours}


def test_the_row_of_a_feature_is_that_of_the_product(made: Path) -> None:
    for one in explain(made, "P00021").features:
        row = pq.read_table(made / one["file"]).slice(one["row"], 1).to_pylist()[0]
        assert (row["product_id"], row["key"].hex()) == ("P00021", one["key"])


def test_what_prune_took_out_is_told_beside_its_rejects(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    withdraw(str(index), ["P00009", "P00012"])
    assert prune(Index(str(index)), 1, 0).rewritten
    told = explain(index, "P00009")
    assert told.verdict == f"'P00009' was withdrawn, and prune took it out of version {told.version}"
    assert (told.state, told.source["row"]) == ("withdrawn", 9)
    assert [reject["reason"] for reject in told.rejects] == ["duplicate_product_id"]
    assert main(["explain", "P00012", "--index", str(index)]) == 7
    assert "'P00012' was withdrawn, and prune took it out of version" in capsys.readouterr().out


def test_a_picture_that_was_rejected_is_told_with_its_reason(made: Path) -> None:
    told = explain(made, "P00003")
    assert told.state == "indexed"
    (reject,) = told.rejects
    assert (reject["field"], reject["stage"], reject["row"]) == ("picture", "fuse", 3)
    assert told.features[0]["state"].startswith(f"absent: {reject['reason']}: ")
    assert told.vectors["of"]["picture"] is None
    assert told.vectors["of"]["text"]["weight"] == 1.0
    assert facts(told)["rejected picture"].startswith(f"{reject['reason']}: {reject['detail']}\nby fuse, row 3 of ")


def test_a_product_without_a_picture_says_so(made: Path) -> None:
    assert explain(made, "P00007").features[0]["state"] == "the product has no picture"


def test_a_rejected_product_is_told_with_stage_and_reason(made: Path) -> None:
    told = explain(made, "P00005")
    assert told.state == "rejected"
    assert told.verdict == f"'P00005' was rejected by the run of version {told.version}: nothing_to_encode"
    assert {row["field"] for row in told.rejects} == {None, "picture"}
    assert told.place is told.vectors is None


def test_a_duplicate_is_told_beside_the_product_that_stayed(made: Path) -> None:
    told = explain(made, "P00009")
    assert (told.state, told.columns["title"]) == ("indexed", "red shirt number 9")
    (reject,) = told.rejects
    assert (reject["field"], reject["reason"], reject["stage"]) == (None, "duplicate_product_id", "plan")


def test_a_withdrawn_product_is_told_with_its_reason_and_neighbours(index: Path) -> None:
    withdraw(str(index), ["P00012", "Q1"], "burns")
    told = explain(index, "P00012")
    assert told.state == "withdrawn"
    assert told.verdict.endswith(", but withdrawn: no answer holds it")
    assert facts(told)["withdrawn"].endswith(": burns")
    assert len(told.neighbours) == 5
    assert told.found == {}
    assert explain(index, "Q1").state == "unknown"
    assert explain(index, "Q1").withdrawn["reason"] == "burns"


def test_an_unknown_id_is_told_with_ids_like_it(made: Path) -> None:
    told = explain(made, " p-00012")
    assert (told.state, told.near[0]) == ("unknown", "P00012")
    assert told.verdict == f"' p-00012' is not in the catalogue that version {told.version} was made of"
    assert facts(told)["not known"] == "whether it is one of the 1 rows that were rejected for having no product id"
    assert "P00012" in explain(made, "P0012").near
    assert explain(made, "靴").near == []


def test_near_ids_ignore_zeros_in_front(made: Path) -> None:
    (items,) = made.glob("versions/*/items-*.arrow")
    assert [near_ids(one, str(items))[0] for one in ("000p00031", "P31", "p-031")] == ["P00031"] * 3
    assert near_ids("", str(items)) == near_ids("---", str(items)) == []


def test_what_prune_took_out_of_a_version_is_told_as_withdrawn(index: Path) -> None:
    opened = Index(str(index))
    withdraw(str(index), ["P00012", "Q1"], "burns")
    assert prune(opened, 1, 0).rewritten == [read_current(opened)]
    told = explain(index, "P00012")
    assert (told.state, told.place, told.vectors, told.neighbours, told.found) == ("withdrawn", None, None, [], {})
    assert told.verdict == f"'P00012' was withdrawn, and prune took it out of version {told.version}"
    assert (told.source["row"], told.near, told.not_known) == (12, [], [])
    assert [one["state"] for one in told.features] == ["not in the store", "not in the store"]
    assert explain(index, "Q1").state == "unknown"
    assert explain(index, "P00005").state == "rejected"
    undo(str(index), ["P00012"])
    assert (explain(index, "P00012").state, explain(index, "P00012").withdrawn) == ("withdrawn", None)
    shutil.rmtree(opened.runs)
    told = explain(index, "P00012")
    assert (told.state, told.not_known[1]) == (
        "unknown", "whether it was withdrawn and taken out of the version: its run alone tells"
    )


def test_after_prune_the_others_are_told_with_their_places_of_now(index: Path) -> None:
    withdraw(str(index), ["P00000", "P00012"], None)
    assert prune(Index(str(index)), 1, 0).compacted
    for number in (1, 3, 21, 39):
        told = explain(index, f"P{number:05d}")
        assert (told.state, told.columns["price"], told.found["vector"]["rank"]) == ("indexed", 5.0 + number, 1)
        folder = index / "versions" / told.version
        rows = pq.read_table(folder / told.place["vectors"]).slice(told.place["row"], 1).to_pylist()
        assert [row["product_id"] for row in rows] == [told.product_id]
        assert (folder / told.place["annoy"]).is_file()
        for one in told.features:
            assert one["run"] is None
            assert pq.read_table(index / one["file"]).slice(one["row"], 1)["product_id"].to_pylist() == [told.product_id]
        assert ", kept by prune\nfeatures/" in facts(told)["text feature"]


def test_without_the_folder_of_the_run_the_rest_is_told(index: Path) -> None:
    shutil.rmtree(index / "runs")
    told = explain(index, "P00012")
    assert (told.state, told.source, told.columns["title"]) == ("indexed", None, "red shirt number 12")
    assert [one["state"] for one in told.features] == ["present", "present"]
    assert told.not_known == [
        f"its shard, row and text, and which features were taken: {index}/runs/{told.version} is gone"
    ]
    assert explain(index, "P00005").state == "rejected"


def test_without_the_bundle_the_rest_is_told(index: Path) -> None:
    shutil.rmtree(index / "bundles")
    told = explain(index, "P00012")
    assert (told.state, told.features, told.found["vector"]["rank"]) == ("indexed", [], 1)
    assert [sentence.split(":")[0] for sentence in told.not_known] == [
        "towers and views of its features", "whether its title finds it"
    ]


def test_a_version_that_is_not_there_is_refused(made: Path) -> None:
    with pytest.raises(ConfigError, match="there is no version 'v9'"):
        Explainer(str(made), "v9")


def test_the_command_prints_tables_or_json_and_says_by_its_code(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "P00012", "--index", str(made)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("'P00012' is indexed in version ")
    assert "nearest to P00012" in shown
    assert main(["explain", "P00012", "P00005", "--index", str(made), "--json"]) == 7
    assert [one["state"] for one in json.loads(capsys.readouterr().out)] == ["indexed", "rejected"]
    assert main(["explain", "a\nb", "--index", str(made)]) == 2
    assert "'a\\nb' is no id of a product" in capsys.readouterr().err
