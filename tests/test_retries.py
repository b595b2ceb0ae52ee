"""Every step that writes, run again and after attempts cut in mid-write: runners retry bundles."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import product, write_shards

from pipelines import collect, fuse, ingest, stages, storage
from pipelines.catalogue import pieces
from pipelines.config import read_config
from pipelines.job import Job
from pipelines.layout import Run, read_json
from pipelines.run import open_run


def made_job(folder: Path, catalogue: str, bundle: Path) -> tuple[Job, Any]:
    flags = {"index": str(folder), "catalogue": [catalogue], "bundle": str(bundle), "unit_items": 8, "trees": 5}
    return open_run(read_config(None, flags), ())


def run_all(job: Job, bundle: Any) -> None:
    for stage in (stages.ingest, stages.plan, stages.encode, stages.fuse):
        stage(job)
    stages.build(job, bundle)
    stages.publish(job)


def hashes(job: Job) -> dict[str, str]:
    manifest = read_json(storage.join(job.index.version(job.run.id), "manifest.json"))
    return {name: entry["sha256"] for name, entry in manifest["files"].items()}


def contents(run: Run) -> dict[str, bytes]:
    """Return the files of a run but for its markers, which say how long a stage took."""
    return {
        str(path.relative_to(run.folder)): path.read_bytes()
        for path in Path(run.folder).rglob("*")
        if path.is_file() and "ended" not in path.parts
    }


@pytest.fixture
def catalogue(tmp_path: Path) -> str:
    rows = [product(number) for number in range(24)]
    rows[5]["image"] = {"bytes": b"no picture", "path": None}
    return write_shards(tmp_path / "catalogue", rows, 12)


@pytest.fixture
def whole(tmp_path: Path, catalogue: str, tiny_bundle: Path) -> Job:
    """Run the job through without a cut."""
    job, bundle = made_job(tmp_path / "whole", catalogue, tiny_bundle)
    run_all(job, bundle)
    return job


def test_a_run_cut_at_each_of_its_writes_gives_the_same_bytes(
    tmp_path: Path, catalogue: str, tiny_bundle: Path, whole: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, bundle = made_job(tmp_path / "cut", catalogue, tiny_bundle)
    replace: Callable[..., None] = os.replace
    cut_once: set[str] = set()

    def cut(source: str, target: str) -> None:
        if "/cut/" in os.fspath(target) and os.fspath(target) not in cut_once:
            cut_once.add(os.fspath(target))
            raise OSError(5, "Input/output error", os.fspath(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", cut)
    attempts = 0
    for attempts in range(200):  # noqa: B007
        try:
            run_all(job, bundle)
            break
        except (storage.StorageError, RuntimeError, OSError):
            continue
    monkeypatch.undo()
    assert 20 < attempts < 199
    assert len(cut_once) >= attempts
    assert hashes(job) == hashes(whole)
    assert not list(Path(job.run.root).rglob("*.tmp"))


def test_a_run_cut_in_each_of_its_deletions_goes_on_with_them_and_keeps_its_features(
    tmp_path: Path, catalogue: str, tiny_bundle: Path, whole: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, bundle = made_job(tmp_path / "cut", catalogue, tiny_bundle)
    unlink, rmtree, cut_once = Path.unlink, shutil.rmtree, set()

    def cut(path: Any) -> None:
        if "/cut/" in str(path) and str(path) not in cut_once:
            cut_once.add(str(path))
            raise OSError(5, "Input/output error", str(path))

    def cut_unlink(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok)
        cut(path)

    def cut_rmtree(path: Any, **options: Any) -> None:
        cut(path)
        rmtree(path, **options)

    monkeypatch.setattr(Path, "unlink", cut_unlink)
    monkeypatch.setattr(shutil, "rmtree", cut_rmtree)
    for _ in range(200):
        try:
            run_all(job, bundle)
            break
        except storage.StorageError:
            assert not storage.exists(job.run.finished)
    monkeypatch.undo()
    assert {Path(path).name for path in cut_once} >= {"ingest", "work"}
    assert sum(path.endswith(".parquet") for path in cut_once) >= 4  # units
    assert storage.exists(job.run.finished)
    assert hashes(job) == hashes(whole)
    parts = {root: {p.relative_to(root).name[-14:]: p.stat().st_size for p in Path(root).glob("features/*/parts/*/*")}
             for root in (job.run.root, whole.run.root)}  # fmt: skip
    assert parts[job.run.root] == parts[whole.run.root]
    assert not list(Path(job.run.root).glob("features/*/units/*/*"))


def test_each_step_run_twice_writes_the_same_bytes(tmp_path: Path, catalogue: str, tiny_bundle: Path) -> None:
    job, _ = made_job(tmp_path / "index", catalogue, tiny_bundle)
    settings = ingest.IngestSettings(job.run, job.schema, strict=False, shards=len(job.shards))
    for stage in (stages.ingest, stages.plan, stages.encode, stages.fuse):
        stage(job)
    before, features = contents(job.run), sorted(Path(job.run.root).glob("features/*/parts/*/*"))
    stored = {path: path.read_bytes() for path in features}
    part = job.partitions()[0]
    for name in ("ingest", "plan", "fuse"):
        for marker in Path(job.run.file(name)).glob("*.json"):
            if not marker.name.startswith("inside"):
                marker.unlink()
    for shard in job.shards:
        for piece in pieces(shard):
            ingest.ingest_piece(piece, settings)
    for pile in [collect.Pile(job.index, space.id, job.run.id) for space in job.spaces.values()]:
        collect.collect_partition((pile, part))
    assert {path: path.read_bytes() for path in features} == stored
    # What FUSE and the plan of an index with all its features say is again what they said.
    fused = fuse.FuseSettings(job.index, job.run, str(job.bundle), job.spaces, job.uris, strict=False)
    fuse.fuse_partition(part, fused)
    after = contents(job.run)
    again = {name: data for name, data in before.items() if not name.startswith(("plan", "work"))}
    assert {name: after[name] for name in again} == again
