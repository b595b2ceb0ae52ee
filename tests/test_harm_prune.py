"""Prune: what a kill leaves, what a night in between does, and what fifty nights cost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from night_maker import COUNT, answers, changed, configured, feature_files, hashes, index_of, row, vectors

from catalogue_lookup import open_index
from encoders.integrity import IntegrityError
from pipelines import storage
from pipelines.cli import main
from pipelines.compaction import BASE
from pipelines.prune import prune
from pipelines.publish import list_versions, read_current
from pipelines.run import run
from pipelines.withdraw import withdraw


@pytest.fixture
def shop(five_nights: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(five_nights, tmp_path / "shop"))


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
    shop: Path, five_nights: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
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
    print(f"prune cut at {cuts} of its steps, every eleventh; {runs} times a run came in between")


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
        print(f"{told}, {stored[night]:,} rows of them")
    few = np.median(seconds[1:11]), np.median(seconds[-10:])
    print(f"{count} nights: {compacted} bases written; median of the first and last ten {few[0]:.2f} and {few[1]:.2f} s")
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
