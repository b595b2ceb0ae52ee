"""REWRITE: take withdrawn products out of a version that is there.

    catalogue-index prune --index DIR

The files of vectors that hold such a product are written without it, Annoy files and items are made anew of all, under
new names of their content in the same folder; then the manifest is replaced in one step. Who has the version open goes on
with the files that it had, which stay for the grace time. Id, sequence, predecessor, trees, `search_k` and what was
measured stay; the manifest counts the products as rejected. `rewritten.json` beside it says when.

Memory is that of FUSE (one partition's vectors file a worker) and of BUILD.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from catalogue_lookup.manifest import MANIFEST_FILE, MODALITIES_FOLDER, Manifest
from encoders.fusion import Fusion
from encoders.integrity import FileEntry, hash_content
from pipelines import ranges, storage
from pipelines.fuse import write_vectors
from pipelines.job import finish_run
from pipelines.layout import ORDER, PRODUCT_ID, WITHDRAWN, Index, order_of, read_json, write_json
from pipelines.parts import BuildSettings, beside_dimension, build_files
from pipelines.recall import described
from pipelines.runner import run_pipeline

REWRITTEN_FILE = "rewritten.json"
READERS = 16

_log = logging.getLogger(__name__)


def is_rewritten(index: Index, version: str) -> bool:
    """Tell whether a version is no longer what its run made."""
    return storage.exists(storage.join(index.version(version), REWRITTEN_FILE))


def markers_of(index: Index, version: str) -> str:
    """Folder of what a rewriting made so far."""
    return index.run(version).file("rewrite")


def count_in_files(index: Index, manifest: Manifest, product_ids: frozenset[str]) -> dict[str, int]:
    """Count products in a version's files of vectors: by file, those that hold some.

    Products that the version's run left out are not looked for. Of most files the footer alone is read.
    """
    plan = index.run(manifest.id).plan
    left_out = read_json(plan).get("withdrawn", ()) if storage.exists(plan) else ()
    wanted = product_ids.difference(left_out)
    if not wanted:
        return {}
    orders = {order_of(product_id) for product_id in wanted}

    def count(name: str) -> int:
        found = ranges.read_matching(storage.join(index.version(manifest.id), name), ORDER, orders, [PRODUCT_ID])
        return sum(product_id in wanted for product_id in found[PRODUCT_ID].to_pylist())

    with ThreadPoolExecutor(READERS) as threads:
        counts = dict(zip(manifest.vectors, threads.map(count, manifest.vectors), strict=True))
    return {name: held for name, held in counts.items() if held}


def write_without(name: str, folder: str, product_ids: frozenset[str]) -> dict[str, Any]:
    """Write a file of vectors without some products; tells of the new file as FUSE does, `file` None where none are left."""
    table = ranges.read_table(storage.join(folder, name))
    gone = pc.is_in(table[PRODUCT_ID], pa.array(sorted(product_ids), pa.string()))
    left = table.filter(pc.invert(gone))
    told: dict[str, Any] = {"instead_of": name, "file": None, "rows": 0}
    if left.num_rows:
        told |= write_vectors(folder, int(name.removeprefix("vectors/").partition("-")[0]), left)
    return told | {"gone": table.num_rows - left.num_rows}


@dataclass
class WriteWithout(beam.PTransform):
    """Names of files of vectors -> what is told of the files in their place, as a marker each.

    Attributes:
        folder: folder of the version.
        markers: folder of the markers.
        product_ids: products to leave out.
    """

    folder: str
    markers: str
    product_ids: frozenset[str]

    def expand(self, names: beam.PCollection[str]) -> beam.PCollection[None]:
        """Wire the transform."""
        return names | "SpreadFiles" >> beam.Reshuffle() | "WriteWithout" >> beam.Map(self.write)

    def write(self, name: str) -> None:
        """Write one file and its marker, unless it is there."""
        marker = _marker(self.markers, name)
        if not storage.exists(marker):
            write_json(marker, write_without(name, self.folder, self.product_ids))


def _marker(markers: str, name: str) -> str:
    return storage.join(markers, f"{name.rpartition('/')[2]}.json")


def rewrite_version(
    index: Index, manifest: Manifest, product_ids: frozenset[str], flags: Sequence[str] = ()
) -> Manifest | None:
    """Take products out of a version; returns its new manifest, None where it holds none of them.

    Raises:
        StorageError: a file of the version cannot be read or written.
    """
    held = count_in_files(index, manifest, product_ids)
    if not held:
        return None
    folder = index.version(manifest.id)
    markers = storage.join(markers_of(index, manifest.id), hash_content({"held": held, "without": sorted(product_ids)})[:12])
    write = WriteWithout(folder, markers, product_ids)
    run_pipeline(lambda p: p | "Files" >> beam.Create(list(held), reshuffle=False) | write, flags)
    told = {name: read_json(_marker(markers, name)) for name in held}
    vectors: dict[str, FileEntry] = {}
    for name in manifest.vectors:
        if name not in told:
            vectors[name] = manifest.files[name]
        elif told[name]["file"] is not None:
            vectors[told[name]["file"]] = FileEntry(told[name]["size"], told[name]["sha256"])
    run = index.run(manifest.id)
    planned = storage.exists(run.plan)
    settings = BuildSettings(
        folder, storage.join(markers, "build"),
        tuple(described(storage.join(folder, name)) for name in vectors),
        manifest.modalities, manifest.dimension, manifest.metric, manifest.n_trees,
        read_json(run.plan)["settings"]["seed"] if planned else 0,
        beside_dimension(Fusion.from_json(manifest.fusion), manifest.modalities, manifest.dimension),
    )  # fmt: skip
    built = build_files(settings, max(shard.items for shard in manifest.annoy), flags)
    gone = sum(told[name]["gone"] for name in held)
    dropped = {*manifest.vectors, *(shard.file for shard in manifest.annoy), manifest.items_file.file}
    dropped.update(name for name in manifest.files if name.startswith(f"{MODALITIES_FOLDER}/"))
    renewed = replace(
        manifest, items=built.items, columns=built.columns or manifest.columns, annoy=built.annoy, items_file=built.items_file,
        rejected=dict(sorted({**manifest.rejected, WITHDRAWN: manifest.rejected.get(WITHDRAWN, 0) + gone}.items())),
        vectors=tuple(vectors),
        files={**vectors, **built.files, **{name: entry for name, entry in manifest.files.items() if name not in dropped}},
    )  # fmt: skip
    if planned and not storage.exists(run.finished):
        # Its markers tell of other files than the version's: the same plan is to be another run.
        finish_run(index, run)
    _note(index, manifest.id, gone)
    storage.write_whole(storage.join(folder, MANIFEST_FILE), renewed.to_json())
    storage.remove_folder(markers_of(index, manifest.id))
    _log.info("prune: version %s is without %d withdrawn products now", manifest.id, gone)
    return renewed


def _note(index: Index, version: str, products: int) -> None:
    """Say beside the manifest that the version is rewritten; before it is, because a run must not take it for its own."""
    path = storage.join(index.version(version), REWRITTEN_FILE)
    try:
        before = read_json(path)["rewritten"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        before = []
    entry = {"when": datetime.now(UTC).isoformat(timespec="seconds"), "withdrawn": products}
    write_json(path, {"version": version, "rewritten": [*before, entry]})
