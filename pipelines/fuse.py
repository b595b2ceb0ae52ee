"""FUSE: heads and fusion over every product's features; cheap, every night.

    catalogue-index fuse --catalogue 'shop/*.parquet' --index DIR --bundle DIR

One element is a partition. Its products are taken in blocks of 1,024 with one BLAS thread, so that the bits of a
vector depend on nothing but its features and the bundle. Peak memory is one partition's vectors file: about
65,536 x 3 kB = 200 MB for two modalities of 256 dimensions.

Structured columns go through the bundle's transform where they have a weight; it takes TensorFlow, is loaded once a
worker, and takes about 3 ms a block. Their vectors are then a column of their own, as those of the modalities are.
Without a weight nothing of this happens.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from encoders.bundle import STRUCTURED_FOLDER, Bundle, tower_of
from encoders.fusion import STRUCTURED
from pipelines import ranges, storage
from pipelines.bundles import open_at
from pipelines.features import FeatureReader, Space, Stored, stored
from pipelines.ingest import COLUMNS, NO_COLUMN, Rejects
from pipelines.layout import (
    KEY,
    ORDER,
    PRODUCT_ID,
    ROW_GROUP,
    VECTOR,
    Index,
    Partition,
    Run,
    modality_vector,
    read_json,
    write_json,
)
from transforms.structured import load_transform

CHANGED = "changed_while_reading"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FuseSettings:
    """What the vectors depend on besides products and features."""

    index: Index
    run: Run
    bundle: str
    spaces: Mapping[str, Space]
    shards: tuple[str, ...]
    strict: bool


def sort_out(products: pa.Table, held: Mapping[str, Stored], settings: FuseSettings, rejects: Rejects) -> np.ndarray:
    """Reject what ENCODE rejected or never got; returns bool[N], the products that stay."""
    stays = np.zeros(products.num_rows, dtype=bool)
    orders, ids = products[ORDER].to_pylist(), products[PRODUCT_ID].to_pylist()
    shards, rows = products["shard"].to_pylist(), products["row"].to_pylist()
    keys = {modality: products[f"{modality}_{KEY}"].to_pylist() for modality in held}
    for i, order in enumerate(orders):
        where = (ids[i], settings.shards[shards[i]], rows[i])
        bad: list[dict[str, str]] = []
        for modality, found in held.items():
            key = keys[modality][i]
            if key is None:
                continue
            pair = (order, key)
            problems = found.rejected.get(pair, [])
            if pair not in found.places:
                problems = [{"reason": CHANGED, "detail": f"the {modality} changed while the run was reading it"}]
            for problem in problems:
                rejects.add(*where, modality, problem["reason"], problem["detail"])
            bad += problems
            stays[i] |= found.place(pair) is not None
        if bad and settings.strict:
            rejects.add(*where, None, bad[0]["reason"], f"{bad[0]['detail']} (--strict)")
            stays[i] = False
        elif not stays[i]:
            rejects.add(*where, None, "nothing_to_encode", "no text and no picture of the row could be encoded")
    return stays


def fuse_products(products: pa.Table, held: Mapping[str, Stored], bundle: Bundle) -> pa.Table:
    """Compute the vectors of products that have at least one feature; returns rows of a vectors file."""
    dimension = next(iter(bundle.heads.values())).dimension_out
    size = products.num_rows
    fused = np.zeros((size, bundle.fusion.dimension(dimension)), dtype=np.float32)
    structured = np.zeros((size, bundle.fusion.structured_dimension), dtype=np.float16)
    kept = products[COLUMNS].combine_chunks() if size else pa.array([], products.schema.field(COLUMNS).type)
    single = {modality: np.zeros((size, dimension), dtype=np.float16) for modality in held}
    present = {modality: np.zeros(size, dtype=bool) for modality in held}
    orders = products[ORDER].to_pylist()
    places = {
        modality: [
            None if key is None else found.place((order, key))
            for order, key in zip(orders, products[f"{modality}_{KEY}"].to_pylist(), strict=True)
        ]
        for modality, found in held.items()
    }
    widths = {m: bundle.views_of(m).slots * bundle.towers[tower_of(m)].dimension for m in held}
    with threadpool_limits(1):
        for modality in held:
            present[modality][:] = [place is not None for place in places[modality]]
        readers = {m: FeatureReader(found.files, widths[m]) for m, found in held.items()}
        for start in range(0, size, ROW_GROUP):
            block = slice(start, min(start + ROW_GROUP, size))
            vectors: dict[str, np.ndarray] = {}
            for modality, reader in readers.items():
                vectors[modality] = bundle.vectors(modality, reader.read(places[modality][block]))
                vectors[modality][~present[modality][block]] = 0
                single[modality][block] = vectors[modality]
            own = None
            if bundle.fusion.structured_weight:
                own = load_transform(str(bundle.folder / STRUCTURED_FOLDER))(kept.slice(start, ROW_GROUP))
                structured[block] = own
            fused[block] = bundle.fusion.fuse(vectors, {m: present[m][block] for m in vectors}, own)
        for reader in readers.values():
            reader.close()
    columns: dict[str, pa.Array | pa.ChunkedArray] = {ORDER: products[ORDER], PRODUCT_ID: products[PRODUCT_ID]}
    columns[VECTOR] = fixed_size_list(fused)
    columns |= {modality_vector(m): nullable_list(single[m], present[m]) for m in held}
    if bundle.fusion.structured_weight:
        columns[modality_vector(STRUCTURED)] = nullable_list(structured, np.ones(size, dtype=bool))
    taken = {*columns, modality_vector(STRUCTURED)}
    for number, field in enumerate(kept.type):
        if field.name == NO_COLUMN:
            continue
        columns[f"{field.name}_" if field.name in taken else field.name] = kept.field(number)
    return pa.table(columns)


def fixed_size_list(vectors: np.ndarray) -> pa.Array:
    """Return float[N, D] as a column of fixed-size lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(vectors).reshape(-1)), vectors.shape[1])


def nullable_list(vectors: np.ndarray, present: np.ndarray) -> pa.Array:
    """Return float[N, D] as a column of lists, null where not present.

    Of fixed-size lists with nulls pyarrow writes files that it cannot read.
    """
    offsets = np.concatenate([[0], np.cumsum(np.where(present, vectors.shape[1], 0))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(vectors[present].reshape(-1)), mask=pa.array(~present))


def fuse_partition(partition: Partition, settings: FuseSettings) -> dict[str, Any]:
    """Fuse one partition: write its vectors and rejects, and return its counts."""
    done = settings.run.done("fuse", partition.name)
    if storage.exists(done):
        return read_json(done)
    rejects = Rejects("fuse")
    counts: dict[str, Any] = {"partition": partition.number, "rows": 0, "file": None}
    if storage.exists(settings.run.products(partition)):
        bundle = open_at(settings.bundle)
        products = ranges.read_table(settings.run.products(partition))
        held = {modality: _stored(products, space, partition, settings) for modality, space in settings.spaces.items()}
        stays = sort_out(products, held, settings, rejects)
        table = fuse_products(products.filter(pa.array(stays)), held, bundle)
        if table.num_rows:
            counts |= write_vectors(settings.index.version(settings.run.id), partition.number, table)
    rejects.write(settings.run.rejects("fuse", partition.name))
    counts["rejected"] = rejects.counts()
    write_json(done, counts)
    _log.info(
        "fuse: partition %d of %d done: %d products, %d rejected", partition.number + 1, 1 << partition.bits, counts["rows"],
        sum(counts["rejected"]["products"].values()),
    )  # fmt: skip
    return counts


def write_vectors(folder: str, number: int, table: pa.Table) -> dict[str, Any]:
    """Write the vectors of a partition to a version's folder; returns the file's name there, rows, size and sha256."""
    data = ranges.serialise(table)
    digest = hashlib.sha256(data).hexdigest()
    name = f"vectors/{number:05d}-{digest[:12]}.parquet"
    storage.write_whole(storage.join(folder, name), data)
    return {"rows": table.num_rows, "file": name, "size": data.size, "sha256": digest}


def _stored(products: pa.Table, space: Space, partition: Partition, settings: FuseSettings) -> Stored:
    keys = products[f"{space.modality}_{KEY}"].to_pylist()
    pairs = zip(products[ORDER].to_pylist(), keys, strict=True)
    return stored(settings.index, space.id, partition, ((order, key) for order, key in pairs if key is not None))


@dataclass
class Fuse(beam.PTransform):
    """Partitions -> counts of each; vectors go to the version's folder."""

    settings: FuseSettings

    def expand(self, partitions: beam.PCollection[Partition]) -> beam.PCollection[dict[str, Any]]:
        """Wire the transform."""
        return partitions | "SpreadPartitions" >> beam.Reshuffle() | "FusePartition" >> beam.Map(fuse_partition, self.settings)
