"""Prune: what stays, and what goes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from night_maker import COUNT, configured, feature_files, hashes, index_of, row, vectors
from version_maker import draw_products, make_version

from catalogue_lookup import UnknownProductError, open_index
from pipelines import storage
from pipelines.cli import main
from pipelines.layout import Index, Partition, read_json, write_json
from pipelines.prune import prune
from pipelines.publish import list_versions, publish_version, read_current
from pipelines.run import run
from pipelines.withdraw import undo, withdraw


@pytest.fixture
def shop(five_nights: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(five_nights, tmp_path / "shop"))


# --- versions and runs ---


def test_the_newest_the_current_and_the_one_before_it_stay(tmp_path: Path) -> None:
    index = Index(str(tmp_path))
    for number in range(1, 7):
        before = f"v{number - 1}" if number > 1 else None
        make_version(tmp_path, f"v{number}", draw_products(20), sequence=number, previous=before)
    publish_version(index, "v3", None)
    assert list(prune(index, 2, 24).lines()) == ["nothing to prune"]
    told = prune(index, 2, 0, dry_run=True)
    assert (told.versions, len(list_versions(index))) == (["v1", "v4"], 6)
    assert prune(index, 2, 0).versions == ["v1", "v4"]
    assert [version.id for version in list_versions(index)] == ["v2", "v3", "v5", "v6"]
    assert not (tmp_path / "versions" / "v1").exists()
    assert not prune(index, 2, 0).did_something


def test_a_version_that_was_current_within_the_grace_time_stays(tmp_path: Path) -> None:
    index = Index(str(tmp_path))
    for number in range(1, 5):
        make_version(tmp_path, f"v{number}", draw_products(20), sequence=number)
        os.utime(tmp_path / "versions" / f"v{number}" / "manifest.json", (1, 1))
    publish_version(index, "v1", None)
    publish_version(index, "v4", "v1")
    assert prune(index, 1, 1).versions == ["v2", "v3"]
    assert [version.id for version in list_versions(index)] == ["v1", "v4"]


def test_an_unfinished_run_stays_while_it_is_the_newest_and_for_the_grace_time(shop: Path, tiny_bundle: Path) -> None:
    index, rows = index_of(shop), [row(number, "dress") for number in range(COUNT)]
    unpublished = run(configured(shop, tiny_bundle, rows, publish=False))
    shutil.rmtree(index.version(unpublished.version))
    prune(index, 1, 0)
    assert {path.name for path in Path(index.runs).iterdir()} >= {unpublished.version, read_current(index)}
    newer = run(configured(shop, tiny_bundle, rows, trees=6))
    os.utime(index.run(newer.version).plan)
    prune(index, 1, 1)
    assert Path(index.run(unpublished.version).folder).exists()
    prune(index, 1, 0)
    assert not Path(index.run(unpublished.version).folder).exists()
    assert not list(Path(index.root).glob(f"features/*/units/{unpublished.version}"))


# --- features ---


def test_compacted_features_give_the_same_bytes_and_hold_what_versions_name(
    shop: Path, five_nights: Path, tiny_bundle: Path
) -> None:
    index = index_of(shop)
    before = sum(pq.read_metadata(path).num_rows for path in feature_files(index))
    pruned = prune(index, 1, 0)
    assert pruned.compacted > 0
    after = sum(pq.read_metadata(path).num_rows for path in feature_files(index))
    # The current version and the one that it took the place of.
    assert COUNT <= after <= COUNT + COUNT // 8 + 1 < before
    assert not prune(index, 1, 0).did_something
    one = run(configured(shop, tiny_bundle, trees=6))
    two = run(configured(Path(shutil.copytree(five_nights, shop.parent / "unpruned")), tiny_bundle, trees=6))
    assert one.encoded == two.encoded == {}
    assert hashes(index, one.version) == hashes(index_of(shop.parent / "unpruned"), two.version)


def test_within_the_grace_time_old_files_stay_beside_the_base(shop: Path, tiny_bundle: Path) -> None:
    index = index_of(shop)
    before = feature_files(index)
    pruned = prune(index, 1, 1)
    assert (pruned.compacted > 0, pruned.files["features"]) == (True, 0)
    assert set(before) < set(feature_files(index))
    assert prune(index, 1, 1).compacted == 0
    assert run(configured(shop, tiny_bundle, trees=6)).encoded == {}
    assert prune(index, 1, 0).files["features"] >= len(before)
    assert run(configured(shop, tiny_bundle, trees=7)).encoded == {}


def test_files_of_a_split_partition_go_when_all_its_parts_have_bases(shop: Path, tiny_bundle: Path) -> None:
    index = index_of(shop)
    run(configured(shop, tiny_bundle, partition_rows=20, trees=6))
    bits = read_json(index.settings)["partition_bits"]
    assert bits > 2
    rows = [row(number, "coat") if number % 2 else row(number) for number in range(COUNT)]
    run(configured(shop, tiny_bundle, rows, partition_rows=20))
    prune(index, 1, 0)
    names = {path.parent.name for path in feature_files(index)}
    assert {Partition(int(name[:2]), 0).bits for name in names} == {bits}
    assert run(configured(shop, tiny_bundle, trees=7)).encoded == {}


def test_a_space_that_no_version_names_goes(shop: Path) -> None:
    index = index_of(shop)
    space = Path(index.features) / "text-0123456789abcdef"
    (space / "parts" / "00-00000").mkdir(parents=True)
    (space / "space.json").write_text("{}")
    prune(index, 1, 1)
    assert space.exists()
    prune(index, 1, 0)
    assert not space.exists()
    assert feature_files(index)


def test_pictures_remembered_before_a_split_go_when_all_parts_have_remembered_since(tmp_path: Path) -> None:
    index = Index(str(tmp_path))
    write_json(index.settings, {"partition_bits": 2})
    names = ("00-00000/r1", "01-00000/r2", "01-00001/r2", "02-00000/r3", "02-00001/r3", "02-00002/r3", "02-00003/r1")
    for name in names:
        storage.write_whole(f"{tmp_path}/pictures/{name}.parquet", b"")
    assert prune(index, 1, 1).files == {}
    assert prune(index, 1, 0).files == {"pictures": 1}
    left = {path.relative_to(tmp_path / "pictures").with_suffix("").as_posix() for path in tmp_path.rglob("*.parquet")}
    assert left == {*names} - {"01-00000/r2"}
    storage.write_whole(f"{tmp_path}/pictures/02-00003/r4.parquet", b"")
    assert prune(index, 1, 0).files == {"pictures": 2}


# --- withdrawn products ---


def test_withdrawn_products_go_out_of_versions_and_features_and_undo_brings_them_back(shop: Path, tiny_bundle: Path) -> None:
    index = index_of(shop)
    current = read_current(index)
    assert current is not None
    manifest = read_json(f"{index.version(current)}/manifest.json")
    withdraw(index.root, ["P00007", "P00009", "Q1"])
    with open_index(index.root) as reader:
        pruned = prune(index, 2, 0)
        assert sorted(pruned.rewritten) == sorted(version.id for version in list_versions(index))
        assert len(reader.search(vector=np.ones(16), k=5)) == 5
    renewed = read_json(f"{index.version(current)}/manifest.json")
    same = ("id", "sequence", "previous", "n_trees", "search_k", "rows", "bundle", "measured")
    assert {name: renewed[name] for name in same} == {name: manifest[name] for name in same}
    assert (renewed["items"], renewed["rejected"]) == (COUNT - 2, {"withdrawn": 2})
    assert main(["verify", "--index", index.root]) == 0
    on_disk = {str(path.relative_to(index.version(current))) for path in Path(index.version(current)).rglob("*.*")}
    assert {name for name in on_disk if "/" in name or name.startswith("items")} == set(renewed["files"])
    ids = {name for path in feature_files(index) for name in pq.read_table(path)["product_id"].to_pylist()}
    assert len(ids) == COUNT - 2
    undo(index.root, ["Q1"])
    withdraw(index.root, ["P00008"])
    report = run(configured(shop, tiny_bundle, max_reject_rate=0.0, max_shrink=0.0))
    assert (report.rejected, report.indexed, report.rows, report.encoded) == ({"withdrawn": 3}, COUNT - 3, COUNT, {})
    undo(index.root, ["P00007", "P00008", "P00009"])
    back = run(configured(shop, tiny_bundle))
    assert (back.indexed, back.encoded, back.rejected) == (COUNT, {"text": 2}, {})


def test_a_rewritten_version_is_not_taken_for_what_its_plan_says(shop: Path, tiny_bundle: Path) -> None:
    index = index_of(shop)
    withdraw(index.root, ["P00007"])
    prune(index, 1, 0)
    undo(index.root, ["P00007"])
    with open_index(index.root) as opened, pytest.raises(UnknownProductError):
        opened.search(product_id="P00007")
    assert run(configured(shop, tiny_bundle)).indexed == COUNT


def test_a_rewritten_version_is_what_a_build_without_the_product_is(tmp_path: Path, tiny_bundle: Path) -> None:
    rows = [row(number) for number in range(40)]
    whole, less = tmp_path / "whole", tmp_path / "less"
    first = run(configured(whole, tiny_bundle, rows))
    withdraw(str(whole / "index"), ["P00011"])
    prune(index_of(whole), 1, 0)
    second = run(configured(less, tiny_bundle, [r for r in rows if r["id"] != "P00011"]))
    one, two = (vectors(index_of(folder), report.version) for folder, report in ((whole, first), (less, second)))
    assert one.equals(two)


def test_vectors_beside_annoy_files_are_rewritten_and_swept_with_them(tmp_path: Path, tiny_bundle: Path) -> None:
    rows = [row(number) for number in range(40)]
    first = run(configured(tmp_path, tiny_bundle, rows, fusion="mean", max_items_per_shard=15))
    index = index_of(tmp_path)
    folder = Path(index.version(first.version))
    assert len(list(folder.glob("modalities/*.npy"))) == 3
    withdraw(index.root, ["P00011"])
    assert prune(index, 1, 0).files["replaced files of versions"] > 3
    files = read_json(f"{folder}/manifest.json")["files"]
    on_disk = {path.relative_to(folder).as_posix() for path in folder.glob("modalities/*.npy")}
    assert on_disk == {name for name in files if name.startswith("modalities/")}
    assert len(on_disk) == 3
    with open_index(index.root) as opened:
        hits = opened.search(product_id="P00012", weights={"text": 1.0}, k=40)
    assert {hit.product_id for hit in hits} == {f"P{n:05d}" for n in range(40) if n not in (11, 12)}
    assert main(["verify", "--index", index.root]) == 0


# --- nights ---


def test_run_prunes_after_publishing_and_a_failure_of_it_fails_no_night(
    shop: Path, tiny_bundle: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = index_of(shop)
    report = run(configured(shop, tiny_bundle, trees=6, keep_versions=3))
    assert report.pruned is not None
    assert (len(report.pruned.versions), len(list_versions(index))) == (3, 3)
    assert any(line.startswith("pruned versions: ") for line in report.lines())
    (path,) = list(Path(index.bundles).glob("*/bundle.json"))
    (Path(index.features) / "text-0" / "units").mkdir(parents=True)
    (Path(index.features) / "text-0" / "space.json").write_text("{}")

    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.name == "plan.json":
            raise PermissionError(13, "Permission denied", os.fspath(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    report = run(configured(shop, tiny_bundle, trees=7, keep_versions=2))
    assert report.published
    assert report.pruned is None
    told = f"version {report.version} is current, but pruning failed, and 'catalogue-index prune' goes on with it: "
    assert told in caplog.text
    assert path.exists()


def test_the_command_prunes_and_says_what(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = ["--index", str(shop / "index")]
    assert main(["prune", *index, "--keep", "0"]) == 2
    assert capsys.readouterr().err.strip() == (
        "catalogue-index: --keep is 0; it must be at least 1 (0 is for run, which then does not prune)"
    )
    assert main(["prune", *index, "--keep", "1", "--grace-hours", "0", "--dry-run"]) == 0
    assert "would be deleted: version " in capsys.readouterr().out
    assert len(list_versions(str(shop / "index"))) == 5
    assert main(["prune", *index, "--keep", "1", "--grace-hours", "0"]) == 0
    out = capsys.readouterr().out
    assert out.count("deleted: version ") == 3
    assert "pruned features: " in out
    assert main(["prune", *index]) == 0
    assert capsys.readouterr().out == "nothing to prune\n"
