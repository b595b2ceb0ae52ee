"""Parts of a version: Annoy files, vectors of modalities beside them, ids and columns, made of files of vectors.

One element is an Annoy file, another one the items. Each is made on local disk, described, and put to the version's
folder whole under a name of its content.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from annoy import AnnoyIndex

from catalogue_lookup.manifest import MODALITIES_FOLDER, AnnoyFile, ItemsFile, Metric
from encoders.fusion import Fusion
from encoders.integrity import FileEntry, describe_file
from pipelines import storage
from pipelines.items import ITEMS_BATCH_ROWS, BuildError, write_items
from pipelines.layout import ORDER, PRODUCT_ID, read_json, write_json
from pipelines.modality_vectors import write_modality_vectors
from pipelines.recall import VectorsFile, vector_blocks
from pipelines.runner import run_pipeline

ITEMS = "items"

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
    _log.info("build: %s done: %s products, %s bytes", part.name, f"{rows:,}", f"{entry.size:,}")
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
    run_pipeline(lambda p: p | "Parts" >> beam.Create(parts, reshuffle=False) | Build(settings), flags)
    *shards, items = [read_json(settings.done(part)) for part in parts]
    beside = [file for shard in shards for file in shard.get("beside", [])]
    if items["rows"] != items["items"]:
        raise BuildError(f"the files of vectors have {items['rows']:,} rows instead of {items['items']:,}: fuse them again")
    return Built(
        tuple(AnnoyFile(shard["file"], shard["first_item"], shard["items"]) for shard in shards),
        ItemsFile(items["file"], ITEMS_BATCH_ROWS), items["items"], _columns(settings.folder, items["file"]),
        {made["file"]: FileEntry(made["size"], made["sha256"]) for made in (*shards, *beside, items)},
    )  # fmt: skip


def _columns(folder: str, items: str) -> tuple[str, ...]:
    with storage.open_input(storage.join(folder, items)) as source:
        names = pa.ipc.open_file(source).schema.names
    return tuple(name for name in names if name not in (PRODUCT_ID, ORDER))
