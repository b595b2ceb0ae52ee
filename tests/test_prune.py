"""Prune: what stays, what goes, what a kill leaves, and what nights cost then."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from version_maker import draw_products, make_version

from catalogue_lookup import UnknownProductError, open_index
from encoders.integrity import IntegrityError
from pipelines import storage
from pipelines.cli import main
from pipelines.compaction import BASE
from pipelines.config import Config, read_config
from pipelines.layout import Index, Partition, read_json, write_json
from pipelines.prune import prune
from pipelines.publish import list_versions, publish_version, read_current
from pipelines.run import Report, run
from pipelines.withdraw import undo, withdraw

COUNT = 200

Night = Callable[..., Report]


def row(number: int, words: str = "shirt") -> dict[str, Any]:
    return {"id": f"P{number:05d}", "title": f"{words} number {number}", "price": float(number)}


def configured(folder: Path, bundle: Path, rows: list[dict[str, Any]] | None = None, **changes: Any) -> Config:
    if rows is not None:
        folder.mkdir(exist_ok=True, parents=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / "shop.parquet")
    flags = {"index": str(folder / "index"), "catalogue": [f"{folder}/shop.parquet"], "bundle": str(bundle)}
    settings = {"trees": 5, "partition_rows": 64, "keep_versions": 0, "grace_hours": 0.0}
    return read_config(None, flags | settings | changes)


def changed(rows: list[dict[str, Any]], night: int, share: int = 20) -> list[dict[str, Any]]:
    """Return the catalogue of a night: one in `share` products has another title."""
    return [row(n, f"night{night}") if n % share == night % share else old for n, old in enumerate(rows)]


def vectors(index: Index, version: str) -> pa.Table:
    manifest = read_json(f"{index.version(version)}/manifest.json")
    return pa.concat_tables([pq.read_table(f"{index.version(version)}/{name}") for name in manifest["vectors"]])


def hashes(index: Index, version: str) -> dict[str, str]:
    files = read_json(f"{index.version(version)}/manifest.json")["files"]
    return {name: entry["sha256"] for name, entry in files.items()}


def answers(index: Index) -> list[list[float]]:
    """Return the scores of answers: an Annoy file that is made anew has others among equals."""
    with open_index(index.root) as opened:
        ids = [f"P{number:05d}" for number in range(1, 60, 7)]
        found = [opened.search(product_id=name, k=5, search_k=10**6) for name in ids]
        return [[round(hit.score, 4) for hit in hits] for hits in found]


def feature_files(index: Index) -> list[Path]:
    return sorted(Path(index.root).glob("features/*/parts/*/*.parquet"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    """Make an index of five nights, of which nothing has been pruned."""
    folder = tmp_path_factory.mktemp("nights")
    rows = [row(number) for number in range(COUNT)]
    for night in range(5):
        rows = changed(rows, night, 8) if night else rows
        run(configured(folder, tiny_bundle, rows))
    return folder


@pytest.fixture
def shop(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "shop"))


def index_of(folder: Path) -> Index:
    return Index(str(folder / "index"))


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


def test_compacted_features_give_the_same_bytes_and_hold_what_versions_name(shop: Path, made: Path, tiny_bundle: Path) -> None:
    index = index_of(shop)
    before = sum(pq.read_metadata(path).num_rows for path in feature_files(index))
    pruned = prune(index, 1, 0)
    assert pruned.compacted > 0
    after = sum(pq.read_metadata(path).num_rows for path in feature_files(index))
    # The current version and the one that it took the place of.
    assert COUNT <= after <= COUNT + COUNT // 8 + 1 < before
    assert not prune(index, 1, 0).did_something
    one = run(configured(shop, tiny_bundle, trees=6))
    two = run(configured(Path(shutil.copytree(made, shop.parent / "unpruned")), tiny_bundle, trees=6))
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


# --- kills ---


@pytest.mark.parametrize("unlinked", [0, 1, 5])
def test_a_version_that_prune_was_deleting_when_it_was_killed_is_no_version_to_any_command(
    shop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], unlinked: int
) -> None:
    index, version = index_of(shop), min(version.id for version in list_versions(index_of(shop)))
    folder, where = Path(index.version(version)), ["--index", index.root]
    unlink, left = Path.unlink, unlinked

    def cut(path: Path, missing_ok: bool = False) -> None:
        nonlocal left
        if folder in path.parents:
            if not left:
                raise PermissionError(13, "Permission denied", os.fspath(path))
            left -= 1
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", cut)
    assert main(["prune", *where, "--keep", "1", "--grace-hours", "0"]) == 6
    monkeypatch.undo()
    assert not Path(index.run(version).plan).exists()
    capsys.readouterr()
    commands = (["publish", version, "--force"], ["verify", "--version", version], ["explain", "P00001", "--version", version])
    codes = [main([command[0], *where, *command[1:]]) for command in commands]
    if unlinked:
        assert codes == [2, 2, 2]
        told = f"there is no version '{version}' in {index.root}: 'catalogue-index versions' lists those there are"
        assert capsys.readouterr().err.splitlines() == 3 * [f"catalogue-index: {told}"]
        with pytest.raises(IntegrityError, match=f"{version}/manifest.json is missing: there is no version {version}; see"):
            open_index(index.root, version=version)
        assert version not in {one.id for one in list_versions(index)}
    else:
        assert codes == [0, 0, 0]  # only its run is gone: it is whole
        assert read_current(index) == version
    prune(index, 1, 0)
    assert folder.exists() is not bool(unlinked)


@pytest.mark.parametrize("gone", ["vectors/*.parquet", "annoy/*.ann", "items-*.arrow", "rejects/*"])
def test_a_version_of_which_a_file_is_gone_is_not_published_nor_rolled_back_to(
    shop: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str], gone: str
) -> None:
    index = index_of(shop)
    rows = [*(row(number) for number in range(COUNT - 1)), {"id": None, "title": "no id", "price": 1.0}]
    before = run(configured(shop, tiny_bundle, rows, max_reject_rate=1.0)).version
    current = run(configured(shop, tiny_bundle, rows, max_reject_rate=1.0, trees=6)).version
    path = sorted(Path(index.version(before)).glob(gone))[0]
    path.unlink()
    where = ["--index", index.root]
    for command in (["publish", before, *where, "--force"], ["rollback", *where]):
        capsys.readouterr()
        assert main(command) == 4
        assert f"catalogue-index: version {before} is not published: {path} is missing" in capsys.readouterr().err
    assert main(["verify", *where, "--version", before]) == 6
    assert f"{path} is missing" in capsys.readouterr().out
    assert read_current(index) == current
    assert prune(index, 1, 0).versions
    assert answers(index)
    shutil.rmtree(index.version(before))
    assert main(["rollback", *where]) == 4
    told = f"version {before}, whose place {current} took, is gone: publish another one by its id"
    assert told in capsys.readouterr().err


@pytest.mark.harm
def test_prune_cut_at_each_of_its_steps_leaves_what_opens_and_is_finished_later(
    shop: Path, made: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = index_of(shop)
    withdraw(index.root, ["P00007"])
    prepared = Path(shutil.copytree(shop, shop.parent / "prepared"))
    expected = answers(index)
    prune(index, 1, 0)
    goal = {str(path.relative_to(index.root)) for path in Path(index.root).rglob("*") if "-prune-" not in path.name}
    never = Path(shutil.copytree(prepared, shop.parent / "never-pruned"))
    tonight: dict[str, Any] = {"trees": 6, "catalogue": [f"{shop}/shop.parquet"]}  # rejects name the shard
    unpruned = run(configured(never, tiny_bundle, **tonight))
    next_night = hashes(index_of(never), unpruned.version)
    replace, unlink, step, cuts, runs = os.replace, Path.unlink, 0, 0, 0
    while True:
        step += 11 if step else 1
        shutil.rmtree(shop)
        shutil.copytree(prepared, shop)
        left = step

        def count() -> None:
            nonlocal left
            left -= 1
            if left <= 0:
                raise OSError(5, "Input/output error")

        def cut_replace(source: Any, target: Any) -> None:
            if str(shop) in os.fspath(target):
                count()
            replace(source, target)

        def cut_unlink(path: Path, missing_ok: bool = False) -> None:
            if str(shop) in os.fspath(path):
                count()
            unlink(path, missing_ok)

        monkeypatch.setattr(os, "replace", cut_replace)
        monkeypatch.setattr(Path, "unlink", cut_unlink)
        try:
            prune(index, 1, 0)
        except (OSError, RuntimeError):
            cut = True
            cuts += 1
        else:
            cut = False
        monkeypatch.undo()
        assert answers(index) == expected
        if step % 3 == 1 and cut:
            torn = Path(shutil.copytree(shop, shop.parent / f"torn-{step}"))
            after = run(configured(torn, tiny_bundle, **tonight))
            runs += 1
            assert after.encoded == {}
            assert hashes(index_of(torn), after.version) == next_night
        prune(index, 1, 0)
        found = {str(path.relative_to(index.root)) for path in Path(index.root).rglob("*") if "-prune-" not in path.name}
        assert found == goal
        if not cut:
            break
    assert cuts > 2
    assert runs > 2
    print(f"prune cut at {cuts} of its steps, every eleventh; {runs} times a run came in between")  # noqa: T201


def test_a_killed_prune_is_finished_by_the_next(shop: Path) -> None:
    index = index_of(shop)
    expected = answers(index)
    for wait in (0.0, 0.05, 0.15):
        command = [sys.executable, "-m", "pipelines", "prune", "--index", index.root, "--keep", "1", "--grace-hours", "0"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
        plans = len(list(Path(index.runs).glob("*/plan.json")))
        deadline = time.monotonic() + 60
        while len(list(Path(index.runs).glob("*/plan.json"))) == plans and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.001)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert answers(index) == expected
    prune(index, 1, 0)
    assert len(list_versions(index)) == 2
    assert not list(Path(index.root).rglob("*.tmp"))


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


def nights(folder: Path, bundle: Path, count: int, share: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run nights on which one in `share` products changes, and hold the last ones to what the second took."""
    index, rows = index_of(folder), [row(number) for number in range(1_000)]
    opened: list[str] = []
    open_input = storage.open_input

    def counted(path: str) -> Any:
        if "/features/" in path:
            opened.append(path)
        return open_input(path)

    monkeypatch.setattr(storage, "open_input", counted)
    sizes, reads, stored, seconds, compacted = [], [], [], [], 0
    for night in range(count):
        rows = changed(rows, night, share) if night else rows
        opened.clear()
        started = time.monotonic()
        report = run(configured(folder, bundle, rows, partition_rows=256, keep_versions=3))
        seconds.append(time.monotonic() - started)
        assert sum(report.encoded.values()) == (1_000 // share if night else 1_000)
        assert report.pruned is not None
        compacted += report.pruned.compacted
        reads.append(len(opened))
        sizes.append(sum(path.stat().st_size for path in Path(index.root).rglob("*") if path.is_file()))
        stored.append(sum(pq.read_metadata(path).num_rows for path in feature_files(index)))
    monkeypatch.undo()
    for night in sorted({1, 3, count // 2 - 1, count - 1}):
        told = f"night {night + 1}: {seconds[night]:.2f} s, {sizes[night]:,} bytes on disk, {reads[night]:,} reads of features"
        print(f"{told}, {stored[night]:,} rows of them")  # noqa: T201
    few = np.median(seconds[1:11]), np.median(seconds[-10:])
    print(f"{count} nights: {compacted} bases written; median of the first and last ten {few[0]:.2f} and {few[1]:.2f} s")  # noqa: T201
    fresh = run(configured(folder.parent / "fresh", bundle, rows, partition_rows=256))
    one, two = vectors(index, report.version), vectors(index_of(folder.parent / "fresh"), fresh.version)
    assert one["product_id"].equals(two["product_id"])
    difference = np.abs(np.array(one["vector"].to_pylist()) - np.array(two["vector"].to_pylist())).max()
    assert difference < 1e-3
    assert len(list_versions(index)) == 3
    assert compacted >= 4, "each of the four partitions was to be written anew"
    assert {path.parent.name for path in feature_files(index) if path.name.endswith(BASE)} == {f"02-0000{n}" for n in range(4)}
    # Three versions are kept, of which the second night has two; a partition's deltas are at most 3/8 of its base.
    assert max(sizes) < 2 * sizes[1]
    assert max(stored) <= 1_000 * (1 + 3 / 8) + 4 * (1_000 // share)
    assert len(feature_files(index)) <= 60, "of each partition a base, and fewer than fifteen deltas"


@pytest.mark.harm
def test_six_nights_cost_what_the_second_did(tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nights(tmp_path / "shop", tiny_bundle, 6, 20, monkeypatch)


@pytest.mark.harm
def test_fifty_nights_cost_what_the_second_did(tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nights(tmp_path / "shop", tiny_bundle, 50, 100, monkeypatch)


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
