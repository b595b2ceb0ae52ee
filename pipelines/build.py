"""BUILD: what makes files of vectors a version: trees, the parts, recall, and the manifest.

    catalogue-index build --catalogue 'shop/*.parquet' --index DIR

The manifest is written last: a version without one does not exist.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from catalogue_lookup.manifest import MANIFEST_FILE, AnnoyFile, ChosenFor, Manifest, Measured, Metric, read_manifest
from catalogue_lookup.shard import AnnoyShard
from encoders.bundle import Bundle
from encoders.fusion import Fusion
from encoders.integrity import FileEntry, describe_file
from pipelines import storage
from pipelines.gate import find_version
from pipelines.layout import Index, read_json, write_json
from pipelines.parts import BuildSettings, Part, beside_dimension, build_annoy, build_files, cut_parts
from pipelines.recall import VectorsFile
from pipelines.search_k import Sample, measure
from pipelines.trees import LEAST_RECALL, TRIED_ITEMS, Choice, choose, fitting, given, kept

TREES = "trees"

_log = logging.getLogger(__name__)


def build_version(
    index: Index, version: str, files: Sequence[Mapping[str, Any]], bundle: Bundle, *, metric: Metric, trees: int | None,
    max_items_per_shard: int, seed: int, rows_in: int, rejected: Mapping[str, int], rejects: Sequence[str],
    previous: str | None, sequence: int, min_recall: float = LEAST_RECALL,
    max_index_bytes: int | None = None, flags: Sequence[str] = (),
) -> Manifest:  # fmt: skip
    """Make a version of files of vectors: trees chosen, Annoy files, items, recall, and last the manifest.

    Args:
        index: paths of the index.
        version: id of the run and of the version; its vectors lie in the version's folder.
        files: of each partition in order: file (relative; None where it has no products), rows, size, sha256.
        bundle: bundle that the vectors were made with.
        metric: distance of the Annoy files.
        trees: trees of each, None to choose.
        max_items_per_shard: items of one Annoy file, at most.
        seed: seed of trees and sample.
        rows_in: rows that the run read.
        rejected: rows rejected, by reason.
        rejects: files of rejects, which are copied to the version.
        previous: the version that is current now.
        sequence: place of this one in the order of versions.
        min_recall: recall that is aimed at where it is above the usual one; what is reached is in the manifest.
        max_index_bytes: bytes that the Annoy files may take where trees are chosen.
        flags: flags for Beam.

    Raises:
        BuildError: the vectors cannot be indexed.
        IndexTooLargeError: no number of trees keeps within `max_index_bytes`.
    """
    folder = index.version(version)
    ready = _written_before(folder, previous, sequence)
    if ready is not None:
        return ready
    present = [file for file in files if file["file"] is not None]
    settings = BuildSettings(
        folder, index.run(version).file("build"),
        tuple(VectorsFile(storage.join(folder, file["file"]), file["rows"]) for file in present),
        bundle.modalities, bundle.dimension, metric, trees or 1, seed,
        beside_dimension(bundle.fusion, bundle.modalities, bundle.dimension),
    )  # fmt: skip
    parts = cut_parts(sum(file["rows"] for file in present), max_items_per_shard)
    wanted = ChosenFor(parts[-1].items, max(min_recall, LEAST_RECALL), max_index_bytes)
    choice = decide_trees(
        settings, parts, bundle.fusion, wanted, given(trees) if trees else None, find_version(index, previous)
    )
    settings = dataclasses.replace(settings, trees=choice.trees)
    built = build_files(settings, max_items_per_shard, flags)
    search_k, measured = _measure(settings, built.annoy, bundle.fusion, wanted.recall, choice)
    vectors = {file["file"]: FileEntry(file["size"], file["sha256"]) for file in present}
    manifest = Manifest(
        id=version, sequence=sequence, previous=previous, created=datetime.now(UTC).isoformat(timespec="seconds"),
        metric=metric, dimension=settings.dimension, items=built.items, rows=rows_in, rejected=dict(sorted(rejected.items())),
        fusion=bundle.fusion.to_json(), modalities=settings.modalities, bundle=bundle.hash, n_trees=choice.trees,
        search_k=search_k, measured=measured, columns=built.columns, annoy=built.annoy, items_file=built.items_file,
        vectors=tuple(file["file"] for file in present), files={**vectors, **built.files, **_copy_rejects(rejects, folder)},
        ranking=bundle.ranker.kinds if bundle.ranker is not None else (),
    )  # fmt: skip
    storage.write_whole(storage.join(folder, MANIFEST_FILE), manifest.to_json())
    return manifest


def decide_trees(
    settings: BuildSettings, parts: Sequence[Part], fusion: Fusion, wanted: ChosenFor, given: Choice | None,
    previous: Manifest | None,
) -> Choice:  # fmt: skip
    """Decide on the trees of a version and write that down in its run; what was written is decided.

    Args:
        settings: what the version depends on, but the trees.
        parts: its files.
        fusion: fusion of the bundle.
        wanted: what trees are chosen for.
        given: the choice of the settings, None to keep the one of the version before or make one.
        previous: manifest of the version that is current now.

    Raises:
        IndexTooLargeError: no number of trees keeps the Annoy files within the bytes wanted.
    """
    done = storage.join(settings.markers, f"{TREES}.json")
    if storage.exists(done):
        return Choice.from_json(read_json(done))
    choice = given
    if choice is None:
        sizes = [part.items for part in parts if part.number is not None]
        fit = fitting(sizes, settings.dimension, settings.metric, wanted.max_bytes)
        choice = kept(previous, wanted, settings.metric, settings.dimension)
        if choice is None or choice.trees not in fit:
            choice = _choose(settings, fusion, fit, wanted)
    _log.info("build: %d trees, %s", choice.trees, choice.why)
    write_json(done, choice.to_json())
    return choice


def _choose(settings: BuildSettings, fusion: Fusion, fit: Sequence[int], wanted: ChosenFor) -> Choice:
    sample = Sample.draw(
        settings.files, settings.modalities, fusion, settings.metric, settings.seed, TRIED_ITEMS
    )

    def build(trees: int, path: Path) -> None:
        build_annoy(Part(0, 0, sample.items), dataclasses.replace(settings, trees=trees), path)

    return choose(sample, fit, wanted, settings.metric, settings.dimension, build)


def _written_before(folder: str, previous: str | None, sequence: int) -> Manifest | None:
    """Return the manifest that a killed attempt got to write, as it is to be now."""
    path = storage.join(folder, MANIFEST_FILE)
    if not storage.exists(path):
        return None
    found = read_manifest(storage.read_bytes(path), path)
    if found.previous == previous:
        return found
    renewed = dataclasses.replace(found, previous=previous, sequence=sequence)
    storage.write_whole(path, renewed.to_json())
    return renewed


def _measure(
    settings: BuildSettings, annoy: Sequence[AnnoyFile], fusion: Fusion, least: float, choice: Choice
) -> tuple[int, Measured]:
    sample = Sample.draw(settings.files, settings.modalities, fusion, settings.metric, settings.seed)
    with tempfile.TemporaryDirectory() as temporary:
        shards = []
        try:
            for told in annoy:
                path = _local_copy(storage.join(settings.folder, told.file), Path(temporary))
                shards.append(AnnoyShard(path, told.first_item, told.items, settings.metric, settings.dimension))
            found = measure(shards, sample, least, choice.start, choice.chosen_for)
        finally:
            for shard in shards:
                shard.close()
    search_k, measured = found
    if measured.recall is not None:
        _log.info("build: search_k %d, %.2f ms a query", search_k, measured.p50_ms)
    return found


def _local_copy(path: str, folder: Path) -> Path:
    local = storage.local_path(path)
    if local is not None:
        return local
    copy = folder / path.rsplit("/", 1)[-1]
    with storage.open_input(path) as source, open(copy, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 22)
    return copy


def _copy_rejects(paths: Sequence[str], folder: str) -> dict[str, FileEntry]:
    entries = {}
    with tempfile.TemporaryDirectory() as temporary:
        for path in paths:
            copy = Path(temporary) / "rejects"
            copy.write_bytes(storage.read_bytes(path))
            entry = describe_file(copy)
            name = f"rejects/{path.rsplit('/', 1)[-1].removesuffix('.parquet')}-{entry.sha256[:12]}.parquet"
            storage.put_file(copy, storage.join(folder, name))
            entries[name] = entry
    return entries
