"""BUILD: Annoy files, ids and columns, recall, manifest: what makes files of vectors a version.

    catalogue-index build --catalogue 'shop/*.parquet' --index DIR

One element is an Annoy file, another one the items. Each is made on local disk, described, and put to the version's
folder whole under a name of its content. The manifest is written last: a version without one does not exist.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from annoy import AnnoyIndex

from catalogue_lookup.manifest import (
    MANIFEST_FILE,
    MODALITIES_FOLDER,
    AnnoyFile,
    ChosenFor,
    ItemsFile,
    Manifest,
    Measured,
    Metric,
    read_manifest,
)
from catalogue_lookup.shard import AnnoyShard
from encoders.bundle import Bundle
from encoders.fusion import Fusion
from encoders.integrity import FileEntry, describe_file
from pipelines import storage, tuning
from pipelines.gate import find_version
from pipelines.items import ITEMS_BATCH_ROWS, BuildError, write_items
from pipelines.layout import ORDER, PRODUCT_ID, Index, read_json, write_json
from pipelines.modality_vectors import write_modality_vectors
from pipelines.recall import VectorsFile, vector_blocks
from pipelines.runner import run_pipeline

ITEMS, TREES = "items", "trees"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuildSettings:
    """What the files of a version depend on besides the vectors.

    Attributes:
        folder: folder of the version.
        markers: folder of what says that a file is made.
        files: the files of vectors, in order.
        modalities: modalities that have vectors of their own in them.
        dimension: D, the dimension of the fused vectors.
        metric: distance of the Annoy files.
        trees: trees of each.
        seed: seed of the trees.
        modality_dimension: d of the modalities' vectors, where they have to lie beside the Annoy files; None where the fused
            vectors hold them.
    """

    folder: str
    markers: str
    files: tuple[VectorsFile, ...]
    modalities: tuple[str, ...]
    dimension: int
    metric: Metric
    trees: int
    seed: int
    modality_dimension: int | None

    def done(self, part: Part) -> str:
        """File that says that a part is made, and what it is."""
        return storage.join(self.markers, f"{part.name}.json")


@dataclass(frozen=True)
class Part:
    """One element: the Annoy file of consecutive items, or with `number` None the file of all ids and columns."""

    number: int | None
    first_item: int
    items: int

    @property
    def name(self) -> str:
        """Name of the part's marker."""
        return ITEMS if self.number is None else f"annoy-{self.number:05d}"


def cut_parts(items: int, most: int) -> list[Part]:
    """Cut items into Annoy files of at most `most`, beside the one file of ids and columns."""
    starts = range(0, items, most)
    shards = [Part(number, first, min(most, items - first)) for number, first in enumerate(starts)]
    return [*shards, Part(None, 0, items)]


def build_annoy(part: Part, settings: BuildSettings, path: Path) -> None:
    """Build the Annoy file of a part's items: ids dense from 0, the same bytes from the same vectors.

    Raises:
        BuildError: a vector is zero, not finite, or of another dimension.
    """
    annoy = AnnoyIndex(settings.dimension, settings.metric)
    annoy.set_seed(settings.seed)
    number = 0
    for first, block in vector_blocks(settings.files, part.first_item, part.first_item + part.items):
        _check_vectors(block, first, settings)
        for row in block.tolist():
            annoy.add_item(number, row)
            number += 1
    if number != part.items:
        raise BuildError(f"{number:,} vectors are in the files instead of {part.items:,}: fuse them again")
    # More than one job, and the bytes depend on which thread ends first.
    annoy.build(settings.trees, n_jobs=1)
    annoy.save(str(path))
    annoy.unload()


def _check_vectors(block: np.ndarray, first: int, settings: BuildSettings) -> None:
    if block.shape[1] != settings.dimension:
        raise BuildError(f"vectors have dimension {block.shape[1]}, the bundle's have {settings.dimension}: fuse them again")
    finite = np.isfinite(block).all(axis=1)
    bad = ~(finite & block.any(axis=1))
    if bad.any():
        item = first + int(np.argmax(bad))
        state = "is zero" if finite[np.argmax(bad)] else "has values that are not finite"
        file, row = _place(settings.files, item)
        raise BuildError(f"the vector in row {row} of {file.path} {state}: nothing can be close to it; fuse it again")


def _place(files: Sequence[VectorsFile], item: int) -> tuple[VectorsFile, int]:
    for file in files:
        if item < file.rows:
            return file, item
        item -= file.rows
    raise IndexError(item)


def build_part(part: Part, settings: BuildSettings) -> dict[str, Any]:
    """Make one file of the version, and return its name, rows, size and hash; what is there is not made again."""
    done = settings.done(part)
    if storage.exists(done):
        return read_json(done)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / part.name
        with storage.named_errors("write", str(path)):
            if part.number is None:
                rows = write_items(settings.files, settings.modalities, path)
                name = "items-{}.arrow"
            else:
                build_annoy(part, settings, path)
                rows = part.items
                name = f"annoy/{part.number:05d}-{{}}.ann"
        entry = describe_file(path)
        name = name.format(entry.sha256[:12])
        storage.put_file(path, storage.join(settings.folder, name))
        beside = _put_modalities(part, settings, Path(temporary) / "modalities")
    counts = {**asdict(part), "rows": rows, "file": name, **asdict(entry), "beside": beside}
    write_json(done, counts)
    _log.info("build: %s done: %d items, %d bytes", part.name, rows, entry.size)
    return counts


def beside_dimension(fusion: Fusion, modalities: Sequence[str], dimension: int) -> int | None:
    """Return d of the modalities' vectors that have to lie beside fused ones of `dimension`, None where those hold them."""
    return None if fusion.keeps(modalities) else fusion.shared_dimension(dimension)


def _put_modalities(part: Part, settings: BuildSettings, path: Path) -> list[dict[str, Any]]:
    """Put vectors of the modalities beside an Annoy file whose vectors do not hold them; returns name, size and hash."""
    if part.number is None or settings.modality_dimension is None:
        return []
    first, stop = part.first_item, part.first_item + part.items
    write_modality_vectors(settings.files, settings.modalities, settings.modality_dimension, first, stop, path)
    entry = describe_file(path)
    name = f"{MODALITIES_FOLDER}/{part.number:05d}-{entry.sha256[:12]}.npy"
    storage.put_file(path, storage.join(settings.folder, name))
    return [{"file": name, **asdict(entry)}]


@dataclass
class Build(beam.PTransform):
    """Parts -> what is told of each; files go to the version's folder."""

    settings: BuildSettings

    def expand(self, parts: beam.PCollection[Part]) -> beam.PCollection[dict[str, Any]]:
        """Wire the transform."""
        return parts | "SpreadParts" >> beam.Reshuffle() | "BuildPart" >> beam.Map(build_part, self.settings)


@dataclass(frozen=True)
class Built:
    """The files made of vectors.

    Attributes:
        annoy: the Annoy files, in order.
        items_file: ids and columns.
        items: how many there are.
        columns: columns to show and filter by.
        files: size and sha256 of each file.
    """

    annoy: tuple[AnnoyFile, ...]
    items_file: ItemsFile
    items: int
    columns: tuple[str, ...]
    files: Mapping[str, FileEntry]


def build_files(settings: BuildSettings, max_items_per_shard: int, flags: Sequence[str]) -> Built:
    """Make the Annoy files and the items of a version of its files of vectors.

    Args:
        settings: what they depend on.
        max_items_per_shard: items of one Annoy file, at most.
        flags: flags for Beam.

    Raises:
        BuildError: the vectors cannot be indexed.
    """
    parts = cut_parts(sum(file.rows for file in settings.files), max_items_per_shard)
    run_pipeline(lambda p: p | "Parts" >> beam.Create(parts) | Build(settings), flags)
    *shards, items = [read_json(settings.done(part)) for part in parts]
    beside = [file for shard in shards for file in shard.get("beside", [])]
    if items["rows"] != items["items"]:
        raise BuildError(f"the files of vectors have {items['rows']:,} rows instead of {items['items']:,}: fuse them again")
    return Built(
        tuple(AnnoyFile(shard["file"], shard["first_item"], shard["items"]) for shard in shards),
        ItemsFile(items["file"], ITEMS_BATCH_ROWS), items["items"], _columns(settings.folder, items["file"]),
        {made["file"]: FileEntry(made["size"], made["sha256"]) for made in (*shards, *beside, items)},
    )  # fmt: skip


def build_version(
    index: Index, version: str, files: Sequence[Mapping[str, Any]], bundle: Bundle, *, metric: Metric, trees: int | None,
    max_items_per_shard: int, seed: int, rows_in: int, rejected: Mapping[str, int], rejects: Sequence[str],
    previous: str | None, sequence: int, min_recall: float = tuning.LEAST_RECALL,
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
        tuple(bundle.towers), bundle.dimension, metric, trees or 1, seed,
        beside_dimension(bundle.fusion, tuple(bundle.towers), bundle.dimension),
    )  # fmt: skip
    parts = cut_parts(sum(file["rows"] for file in present), max_items_per_shard)
    wanted = ChosenFor(parts[-1].items, max(min_recall, tuning.LEAST_RECALL), max_index_bytes)
    choice = decide_trees(
        settings, parts, bundle.fusion, wanted, tuning.given(trees) if trees else None, find_version(index, previous)
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
    )  # fmt: skip
    storage.write_whole(storage.join(folder, MANIFEST_FILE), manifest.to_json())
    return manifest


def decide_trees(
    settings: BuildSettings, parts: Sequence[Part], fusion: Fusion, wanted: ChosenFor, given: tuning.Choice | None,
    previous: Manifest | None,
) -> tuning.Choice:  # fmt: skip
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
        return tuning.Choice.from_json(read_json(done))
    choice = given
    if choice is None:
        sizes = [part.items for part in parts if part.number is not None]
        fit = tuning.fitting(sizes, settings.dimension, settings.metric, wanted.max_bytes)
        choice = tuning.kept(previous, wanted, settings.metric, settings.dimension)
        if choice is None or choice.trees not in fit:
            choice = _choose(settings, fusion, fit, wanted)
    _log.info("build: %d trees, %s", choice.trees, choice.why)
    write_json(done, choice.to_json())
    return choice


def _choose(settings: BuildSettings, fusion: Fusion, fit: Sequence[int], wanted: ChosenFor) -> tuning.Choice:
    sample = tuning.Sample.draw(
        settings.files, settings.modalities, fusion, settings.metric, settings.seed, tuning.TRIED_ITEMS
    )

    def build(trees: int, path: Path) -> None:
        build_annoy(Part(0, 0, sample.items), dataclasses.replace(settings, trees=trees), path)

    return tuning.choose(sample, fit, wanted, settings.metric, settings.dimension, build)


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
    settings: BuildSettings, annoy: Sequence[AnnoyFile], fusion: Fusion, least: float, choice: tuning.Choice
) -> tuple[int, Measured]:
    sample = tuning.Sample.draw(settings.files, settings.modalities, fusion, settings.metric, settings.seed)
    with tempfile.TemporaryDirectory() as temporary:
        shards = []
        try:
            for told in annoy:
                path = _local_copy(storage.join(settings.folder, told.file), Path(temporary))
                shards.append(AnnoyShard(path, told.first_item, told.items, settings.metric, settings.dimension))
            found = tuning.measure(shards, sample, least, choice.start, choice.chosen_for)
        finally:
            for shard in shards:
                shard.close()
    search_k, measured = found
    if measured.recall is not None:
        _log.info("build: recall@10 %.3f at %.2f ms a query (search_k %d)", measured.recall, measured.p50_ms, search_k)
    return found


def _local_copy(path: str, folder: Path) -> Path:
    local = storage.local_path(path)
    if local is not None:
        return local
    copy = folder / path.rsplit("/", 1)[-1]
    with storage.open_input(path) as source, open(copy, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 22)
    return copy


def _columns(folder: str, items: str) -> tuple[str, ...]:
    with storage.open_input(storage.join(folder, items)) as source:
        names = pa.ipc.open_file(source).schema.names
    return tuple(name for name in names if name not in (PRODUCT_ID, ORDER))


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
