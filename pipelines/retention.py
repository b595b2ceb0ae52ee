"""RETENTION: which versions, runs, spaces and bundles an index keeps; `prune` deletes the others.

A version stays while it is the current one, the one that `rollback` would go to, one of the newest N, or younger than the
grace time; and where it was current within the grace time, because a reader may be about to open it. Versions that were
refused count like others. A version whose manifest is damaged stays: nobody can say what it is.

A run stays with its version. One that is not finished stays while it is the newest of all, and for the grace time after
its last write, so that the same command can go on; one that is finished without a version (training) for the grace time.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from catalogue_lookup.manifest import MANIFEST_FILE, Manifest, ManifestError
from encoders.bundle import BUNDLE_FILE, REVIEWS, tower_of
from encoders.pooling import Views
from encoders.tower_spec import TowerSpec
from pipelines import storage
from pipelines.bundles import own_bundle
from pipelines.features import Space
from pipelines.gate import read_version
from pipelines.layout import Index, Run, read_json
from pipelines.publish import read_current, read_publications

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rule:
    """How much is kept.

    Attributes:
        keep: newest versions that stay.
        grace_seconds: how long what is no longer needed stays for those who may still read it.
    """

    keep: int
    grace_seconds: float

    def over(self, modified: float) -> bool:
        """Tell whether the grace time of what was last written then (seconds since 1970) is over."""
        return modified <= time.time() - self.grace_seconds


@dataclass(frozen=True)
class Kept:
    """What stays, and what goes.

    Attributes:
        versions: manifests of the versions that stay; one that is damaged is not among them.
        runs: plans of the runs that stay, by id; empty for a folder without a plan.
        gone_versions: folders of versions that go.
        gone_runs: folders of runs that go.
    """

    versions: Mapping[str, Manifest]
    runs: Mapping[str, Mapping[str, Any]]
    gone_versions: tuple[str, ...]
    gone_runs: tuple[str, ...]

    def spaces(self, index: Index) -> set[str]:
        """Name the spaces that runs or bundles that stay read or write."""
        named = {space for plan in self.runs.values() for space in plan.get("spaces", {}).values()}
        for bundle in self.bundles(index):
            named |= spaces_of_bundle(index, bundle)
        return named

    def bundles(self, index: Index) -> set[str]:
        """Name the bundles of versions and runs that stay, and the index's own."""
        own = own_bundle(index)
        named = {manifest.bundle for manifest in self.versions.values()}
        named |= {plan["bundle"] for plan in self.runs.values() if plan.get("bundle") is not None}
        return named if own is None else named | {own.rpartition("/")[2]}


def towers_of_bundle(index: Index, bundle: str) -> set[str]:
    """Give the hashes of the weights of a bundle's towers; none where the bundle is not there or cannot be read."""
    try:
        content = read_json(storage.join(index.bundles, bundle, BUNDLE_FILE))
        return {TowerSpec.from_json(json.dumps(spec)).weights_hash for spec in content["towers"].values()}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return set()


def spaces_of_bundle(index: Index, bundle: str) -> set[str]:
    """Name the spaces of a bundle's features; none where the bundle is not there or cannot be read."""
    try:
        content = read_json(storage.join(index.bundles, bundle, BUNDLE_FILE))
        towers = {m: TowerSpec.from_json(json.dumps(spec)) for m, spec in content["towers"].items()}
        spaces = {Space.of(tower, Views.from_json(content["views"][m])).id for m, tower in towers.items()}
        reviewed = content["fusion"]["weights"].get(REVIEWS)
        return spaces | ({Space.of(towers[tower_of(REVIEWS)], Views(), REVIEWS).id} if reviewed else set())
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return set()


def newest(folder: str) -> float:
    """Return when a file below a folder was last written, 0 where there is none."""
    return max((info.modified for info in storage.list_folder(folder, "**")), default=0.0)


def decide(index: Index, rule: Rule) -> Kept:
    """Decide what stays and what goes."""
    built: dict[str, float] = {}
    manifests: dict[str, Manifest] = {}
    for info in storage.list_folder(index.versions, f"*/{MANIFEST_FILE}"):
        version = info.path.rsplit("/", 2)[-2]
        built[version] = info.modified
        try:
            manifests[version] = read_version(index, version)
        except ManifestError as error:
            _log.warning("prune: version %s stays: %s", version, error)
    staying = _staying_versions(index, rule, manifests, built)
    runs = _staying_runs(index, rule, staying, built)
    gone_versions = [
        name
        for name in storage.folder_names(index.versions)
        if name not in staying
        and (name in built or (name not in runs and rule.over(newest(index.version(name)))))
    ]
    gone_runs = [name for name in storage.folder_names(index.runs) if name not in runs]
    plans = {name: read_json(index.run(name).plan) if storage.exists(index.run(name).plan) else {} for name in sorted(runs)}
    kept = {version: manifest for version, manifest in manifests.items() if version in staying}
    return Kept(kept, plans, tuple(gone_versions), tuple(gone_runs))


def _staying_versions(index: Index, rule: Rule, manifests: Mapping[str, Manifest], built: Mapping[str, float]) -> set[str]:
    current = read_current(index)
    order = sorted(manifests, key=lambda version: (manifests[version].sequence, version))
    staying = {*order[len(order) - min(rule.keep, len(order)) :], *(built.keys() - manifests.keys())}
    if current is not None:
        before = manifests[current].previous if current in manifests else None
        staying |= {current, before or current}
    staying |= {version for version in built if not rule.over(built[version])}
    for version in manifests:
        for entry in read_publications(index, version):
            if not rule.over(datetime.fromisoformat(entry["when"]).timestamp()):
                # Until then the other one was current.
                staying |= {version, str(entry["instead_of"] or version)}
    return staying


def _staying_runs(index: Index, rule: Rule, versions: set[str], built: Mapping[str, float]) -> set[str]:
    planned = {info.path.rsplit("/", 2)[-2] for info in storage.list_folder(index.runs, "*/plan.json")}
    finished = {info.path.rsplit("/", 2)[-2]: info.modified for info in storage.list_folder(index.runs, "*/finished.json")}
    staying = set()
    for name in storage.folder_names(index.runs):
        run = index.run(name)
        if name in versions:
            stays = True
        elif name in built:
            stays = False
        elif name not in planned:
            stays = not rule.over(newest(run.folder))
        elif name in finished:
            stays = not rule.over(finished[name])
        else:
            stays = name == max(planned) or not rule.over(_last_write(index, run))
        if stays:
            staying.add(name)
    return staying


def _last_write(index: Index, run: Run) -> float:
    units = [index.units(space, run.id) for space in read_json(run.plan)["spaces"].values()]
    return max(newest(folder) for folder in (run.folder, index.version(run.id), *units))
