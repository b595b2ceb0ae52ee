"""PRUNE: delete what nobody needs any more, and take withdrawn products out of what stays.

    catalogue-index prune --index DIR [--keep N] [--grace-hours H] [--dry-run]

`pipelines/retention.py` says what stays. Everything here may be killed at any point and run again: of a version the
manifest goes first, and without it the rest is no version; of a run the plan, of a bundle `bundle.json`. Files that are
replaced stay for the grace time beside those in their place.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import apache_beam as beam

from catalogue_lookup.manifest import MANIFEST_FILE, Manifest
from encoders.bundle import BUNDLE_FILE
from pipelines import storage
from pipelines.collect import COLLECTED
from pipelines.compaction import BASE, Compact, CompactSettings, Reader, superseded, survey
from pipelines.layout import TRAINED, TRAINING_FILE, Index, partition_named, read_json
from pipelines.retention import Kept, Rule, decide, newest, towers_of_bundle
from pipelines.rewrite import count_in_files, markers_of, rewrite_version
from pipelines.runner import run_pipeline
from pipelines.storage import FileInfo
from pipelines.withdraw import withdrawn_ids

_log = logging.getLogger(__name__)


@dataclass
class Pruned:
    """What was deleted, or with `dry_run` would be.

    Attributes:
        dry_run: whether nothing was done.
        files: files by kind.
        bytes: their bytes.
        versions: versions that went.
        rewritten: versions that are without withdrawn products now.
        compacted: partitions whose features were written anew; with `dry_run` those that would be looked into.
    """

    dry_run: bool = False
    files: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    versions: list[str] = field(default_factory=list)
    rewritten: list[str] = field(default_factory=list)
    compacted: int = 0

    @property
    def did_something(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self.files or self.versions or self.rewritten or self.compacted)

    def to_json(self) -> dict[str, Any]:
        """Return what was deleted as JSON values."""
        return {
            "versions": self.versions, "rewritten": self.rewritten, "compacted": self.compacted,
            "deleted": {kind: {"files": count, "bytes": self.bytes[kind]} for kind, count in sorted(self.files.items())},
        }  # fmt: skip

    def lines(self) -> Iterator[str]:
        """Yield the report for a person."""
        would = "would be " if self.dry_run else ""
        if not self.did_something:
            yield "nothing to prune"
        for version in self.versions:
            yield f"{would}deleted: version {version}"
        for version in self.rewritten:
            yield f"{would}written without withdrawn products: version {version}"
        for kind in sorted(self.files):
            yield f"{would}pruned {kind}: {self.files[kind]:,} files, {self.bytes[kind]:,} bytes"
        if self.compacted:
            yield f"{'to be looked into' if self.dry_run else 'compacted'}: {self.compacted:,} partitions of features"

    def delete(self, kind: str, files: Iterable[FileInfo]) -> None:
        """Delete files one by one, in the order given."""
        for info in files:
            if not self.dry_run:
                storage.remove([info.path])
            self.files[kind] += 1
            self.bytes[kind] += info.size

    def delete_folder(self, kind: str, folder: str, first: str | None = None, last: str | None = None) -> None:
        """Delete a folder: the file without which it counts for nothing first, the one that guards the others last."""
        infos = storage.list_folder(folder, "**")
        place = {first: 0, last: 2}
        self.delete(kind, sorted(infos, key=lambda info: place.get(info.path.removeprefix(f"{folder}/"), 1)))
        if not self.dry_run:
            storage.remove_folder(folder)


def prune(
    index: Index, keep: int = 7, grace_hours: float = 24.0, dry_run: bool = False, flags: Sequence[str] = ()
) -> Pruned:
    """Delete what nobody needs any more; the caller holds the lock.

    Args:
        index: paths of the index.
        keep: newest versions that stay, at least 1.
        grace_hours: hours that what is no longer needed stays for those who may still read it.
        dry_run: say what would be deleted only.
        flags: flags for Beam.

    Raises:
        StorageError: a file cannot be read, written or deleted; what was done stays done.
        IntegrityError: the list of withdrawn products cannot be read.
    """
    rule, pruned = Rule(keep, 3600 * grace_hours), Pruned(dry_run)
    withdrawn = withdrawn_ids(index)
    kept = decide(index, rule)
    _delete_versions_and_runs(index, kept, pruned)
    for manifest in kept.versions.values():
        _rewrite(index, manifest, withdrawn, flags, pruned)
        _sweep_version(index, manifest.id, rule, pruned)
    spaces = kept.spaces(index)
    _prune_spaces(index, kept, spaces, rule, pruned)
    _prune_features(index, kept, spaces, withdrawn, rule, flags, pruned)
    _prune_pictures(index, rule, pruned)
    named = kept.bundles(index)
    for name in storage.folder_names(index.bundles):
        folder = storage.join(index.bundles, name)
        if name not in named and rule.over(newest(folder)):
            pruned.delete_folder("bundles", folder, BUNDLE_FILE)
    _prune_towers(index, named, rule, pruned)
    if pruned.did_something and not dry_run:
        _log.info("prune: %d versions, %d files, %s bytes deleted", len(pruned.versions), pruned.files.total(),
                  f"{pruned.bytes.total():,}")  # fmt: skip
    return pruned


def _delete_versions_and_runs(index: Index, kept: Kept, pruned: Pruned) -> None:
    for name in kept.gone_runs:
        # Without its plan nobody goes on with it on files that are gone.
        plan = index.run(name).plan
        pruned.delete("runs", [info for info in storage.list_folder(index.run(name).folder, "plan.json") if info.path == plan])
    for name in kept.gone_versions:
        pruned.delete_folder("versions", index.version(name), MANIFEST_FILE)
        pruned.versions.append(name)
    for name in kept.gone_runs:
        pruned.delete_folder("runs", index.run(name).folder)


def _rewrite(index: Index, manifest: Manifest, withdrawn: frozenset[str], flags: Sequence[str], pruned: Pruned) -> None:
    if not withdrawn:
        return
    if pruned.dry_run:
        found = bool(count_in_files(index, manifest, withdrawn))
    else:
        found = rewrite_version(index, manifest, withdrawn, flags) is not None
    if found:
        pruned.rewritten.append(manifest.id)


def _sweep_version(index: Index, version: str, rule: Rule, pruned: Pruned) -> None:
    """Delete files that the manifest no longer lists, when it has not done so for the grace time."""
    folder = index.version(version)
    (info,) = storage.list_folder(folder, MANIFEST_FILE)
    if not rule.over(info.modified):
        return
    listed = read_json(info.path)["files"]
    # What lies beside the manifest and is not listed (`published.json` and the like) stays.
    found = [file for name in ("*/*", "items-*") for file in storage.list_folder(folder, name)]
    unlisted = [file for file in found if file.path.removeprefix(f"{folder}/") not in listed and rule.over(file.modified)]
    if unlisted and not pruned.dry_run:
        # What a killed rewriting made is named there.
        storage.remove_folder(markers_of(index, version))
    pruned.delete("replaced files of versions", unlisted)


def _prune_spaces(index: Index, kept: Kept, spaces: set[str], rule: Rule, pruned: Pruned) -> None:
    for space in storage.folder_names(index.features):
        folder = index.space(space)
        if space not in spaces:
            if rule.over(newest(folder)):
                pruned.delete_folder("features", folder)
            continue
        for name in storage.folder_names(storage.join(folder, "units")):
            run = index.run(name)
            needed = name in kept.runs and not storage.exists(run.finished) and not storage.exists(run.ended("collect"))
            if not needed and rule.over(newest(index.units(space, name))):
                pruned.delete_folder("units", index.units(space, name), last=COLLECTED)


def _prune_features(
    index: Index, kept: Kept, spaces: set[str], withdrawn: frozenset[str], rule: Rule, flags: Sequence[str], pruned: Pruned
) -> None:
    if not storage.exists(index.settings):
        return
    bits = read_json(index.settings)["partition_bits"]
    shelves = survey(index, spaces, bits)
    taken = {info.path.rpartition("/")[2] for shelf in shelves for info in shelf.files}
    settings = CompactSettings(index, _readers(index, kept), withdrawn, _base_name(taken), rule)
    due = [shelf for shelf in shelves if settings.is_due(shelf)]
    if due and pruned.dry_run:
        pruned.compacted = len(due)
    elif due:
        run_pipeline(lambda p: p | "Partitions" >> beam.Create(due, reshuffle=False) | Compact(settings), flags)
        shelves = survey(index, spaces, bits)
        written = {info.path for shelf in shelves for info in shelf.files if info.path.endswith(f"/{settings.name}")}
        pruned.compacted = len(written)
    pruned.delete("features", superseded(shelves, rule))


def _readers(index: Index, kept: Kept) -> dict[str, tuple[Reader, ...]]:
    readers: dict[str, list[Reader]] = {}
    for name, plan in kept.runs.items():
        ended = index.run(name).ended("ingest")
        if plan and storage.exists(ended):
            bits = read_json(ended)["partition_bits"]
            for modality, space in plan["spaces"].items():
                readers.setdefault(space, []).append(Reader(name, modality, bits))
    return {space: tuple(found) for space, found in readers.items()}


def _base_name(taken: set[str]) -> str:
    now = datetime.now(UTC)
    while (name := f"{now:%Y%m%dT%H%M%SZ}-prune{BASE}") in taken:
        now += timedelta(seconds=1)
    return name


def _prune_pictures(index: Index, rule: Rule, pruned: Pruned) -> None:
    """Delete what was remembered before a partition was split, when each of its parts has remembered since."""
    folder = storage.join(index.root, "pictures")
    infos = storage.list_folder(folder, "*/*.parquet")
    if not infos or not storage.exists(index.settings):
        return
    bits = read_json(index.settings)["partition_bits"]
    latest = {info.path.rsplit("/", 2)[-2]: info.path.rpartition("/")[2] for info in infos}
    for info in infos:
        part = partition_named(info.path.rsplit("/", 2)[-2])
        if part.bits < bits and rule.over(info.modified):
            run = info.path.rpartition("/")[2]
            if all(latest.get(cut.name, "") > run for cut in part.cut(bits)):
                pruned.delete("pictures", [info])


def _prune_towers(index: Index, bundles: Iterable[str], rule: Rule, pruned: Pruned) -> None:
    """Delete trained towers of which no bundle that stays has one; bundles have copies of theirs."""
    kept = {weights_hash[:16] for bundle in bundles for weights_hash in towers_of_bundle(index, bundle)}
    for name in storage.folder_names(index.towers):
        folder = storage.join(index.towers, name)
        if name.startswith(TRAINED) and rule.over(newest(folder)):
            hashes = {tower.rpartition("-")[2] for tower in storage.folder_names(folder)}
            if not hashes & kept:
                pruned.delete_folder("towers", folder, TRAINING_FILE)
