"""Nights on which nothing changed: a run that would make the current version again ends, and the version stays."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from catalogue_lookup.manifest import MANIFEST_FILE
from pipelines import storage
from pipelines.job import Job
from pipelines.layout import Run, read_json
from pipelines.publish import read_current
from pipelines.rewrite import is_rewritten


def current_of_same_plan(job: Job) -> Job | None:
    """Return the job of the current version where it has the same plan as `job`, which then has nothing to do.

    Pictures named by path may have changed where the catalogue has not: such a catalogue is always looked through.
    """
    run = _current_run(job)
    if run is None or job.schema.picture_kind == "path":
        return None
    return _instead(job, run) if read_json(run.plan)["hash"] == read_json(job.run.plan)["hash"] else None


def current_of_same_products(job: Job) -> Job | None:
    """Return the job of the current version where PLAN found its very products again and nothing to encode.

    Files of the catalogue may have been written anew meanwhile; what counts is what was read from them: products with
    the keys of their texts and pictures, and rejects.
    """
    run = _current_run(job)
    if run is None or any(job.ended("plan")["missing"].values()):
        return None
    same = (
        _comparable_plan(run) == _comparable_plan(job.run)
        and all(_counts(run, stage) == _counts(job.run, stage) for stage in ("ingest", "plan"))
        and all(_same_products(run, job.run, part.name) for part in job.partitions())
        and _rejects(run) == _rejects(job.run)
    )
    return _instead(job, run) if same else None


def _current_run(job: Job) -> Run | None:
    """Return the run of the current version, None where it is the job's own, or the version is not what the run made."""
    current = read_current(job.index)
    if current is None or current == job.run.id:
        return None
    run = job.index.run(current)
    needed = (run.plan, run.ended("ingest"), run.ended("plan"), storage.join(job.index.version(current), MANIFEST_FILE))
    if is_rewritten(job.index, current):
        return None
    return run if all(storage.exists(path) for path in needed) else None


def _instead(job: Job, run: Run) -> Job:
    storage.remove_folder(job.run.folder)
    return dataclasses.replace(job, run=run)


def _comparable_plan(run: Run) -> Mapping[str, Any]:
    plan = dict(read_json(run.plan))
    plan.pop("hash")
    return plan | {"shards": [uri for uri, _, _ in plan["shards"]]}


def _counts(run: Run, stage: str) -> Mapping[str, Any]:
    counts = read_json(run.file("ended", f"{stage}.json"))
    tonight = ("seconds", "since", "changes", "missing", "known", "items", "units")
    return {name: value for name, value in counts.items() if name not in tonight}


def _same_products(one: Run, other: Run, partition: str) -> bool:
    paths = [run.done("plan", partition) for run in (one, other)]
    if not all(storage.exists(path) for path in paths):
        return False
    first, second = (read_json(path) for path in paths)
    if first["products"] == second["products"] == 0:
        return True
    # A plan of an earlier version of this package does not say what its file is.
    return first.get("file") is not None and first.get("file") == second.get("file")


def _rejects(run: Run) -> dict[str, bytes]:
    """Return what was rejected before FUSE, file by file."""
    infos = storage.list_folder(run.file("rejects"), "*.parquet")
    names = {info.path: info.path.rsplit("/", 1)[-1] for info in infos}
    return {name: storage.read_bytes(path) for path, name in names.items() if name.startswith(("ingest-", "plan-"))}
