"""PLAN: by partition, take duplicates out, join with the feature store, cut what is missing into units.

    catalogue-index encode ... plans first; there is nothing to plan without encoding.

One element is a partition; it leaves runs/<id>/products/<partition> (columns and keys, no pixels) and units of
work for what has no path through a shard. Pictures inside shards are cut into units afterwards, by neighbouring
shards, so that a unit reads each row group once.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from encoders.bundle import REVIEWS
from pipelines import pictures, ranges, storage
from pipelines.changes import Mask, compare, read_before
from pipelines.counts import each, plural
from pipelines.features import Space, content_hash, stored
from pipelines.ingest import COLUMNS, Rejects
from pipelines.layout import (
    CONTENT,
    KEY,
    KEY_BYTES,
    ORDER,
    PRODUCT_ID,
    WITHDRAWN,
    Index,
    Partition,
    Run,
    read_json,
    write_json,
)
from transforms.reviews import Weighed, reviews_content

SHARD, ROW = "shard", "row"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlanSettings:
    """What a plan depends on besides the ingested rows and the feature store.

    Attributes:
        index: paths of the index.
        run: paths of the run.
        spaces: feature space of each modality.
        shards: URIs of the shards, by number.
        roots: what pictures may be read from.
        max_pictures: pictures of a product, at most.
        unit_items: encoder items of a unit, at most.
        strict: whether a bad picture rejects its product.
        since: the version to compare with, None for none.
        content_columns: kept columns that the text, and the reviews, are made of, by modality.
        withdrawn: ids of products that are left out.
        max_reviews: reviews of a product, at most.
    """

    index: Index
    run: Run
    spaces: Mapping[str, Space]
    shards: tuple[str, ...]
    roots: tuple[str, ...]
    max_pictures: int
    unit_items: int
    strict: bool
    since: str | None
    content_columns: Mapping[str, tuple[str, ...]]
    withdrawn: frozenset[str] = frozenset()
    max_reviews: int = 0


def drop_duplicates(rows: pa.Table, shards: Sequence[str], rejects: Rejects) -> pa.Table:
    """Keep of each product id the first row by shard and row; reject the others.

    Args:
        rows: sorted by (order, product_id, shard, row).
        shards: URIs of the shards, by number.
        rejects: gets what is dropped.
    """
    ids = rows[PRODUCT_ID]
    if rows.num_rows < 2:
        return rows
    again = np.concatenate([[False], pc.equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)])
    first = np.maximum.accumulate(np.where(again, 0, np.arange(len(again))))
    for position in np.flatnonzero(again).tolist():
        kept, row = rows.slice(int(first[position]), 1), rows.slice(position, 1)
        rejects.add(
            ids[position].as_py(), shards[row[SHARD][0].as_py()], row[ROW][0].as_py(), None, "duplicate_product_id",
            f"row {kept[ROW][0]} of {shards[kept[SHARD][0].as_py()]} has the same product id",
        )  # fmt: skip
    return rows.filter(pa.array(~again))


def drop_withdrawn(rows: pa.Table, withdrawn: frozenset[str], shards: Sequence[str], rejects: Rejects) -> pa.Table:
    """Reject the rows of withdrawn products; the arguments are those of `drop_duplicates`."""
    gone = np.array([product_id in withdrawn for product_id in rows[PRODUCT_ID].to_pylist()], dtype=bool)
    for position in np.flatnonzero(gone).tolist():
        product_id, shard, row = (rows[name][position].as_py() for name in (PRODUCT_ID, SHARD, ROW))
        rejects.add(product_id, shards[shard], row, None, WITHDRAWN, "the product is withdrawn: see withdraw --list")
    return rows.filter(pa.array(~gone)) if gone.any() else rows


def _resolve_pictures(rows: pa.Table, partition: Partition, settings: PlanSettings, rejects: Rejects) -> pa.Table:
    """Replace `paths` by the places of readable pictures, and `pictures` by their content hashes."""
    known = pictures.remembered(settings.index, partition)
    places: list[list[str]] = []
    bad: list[list[pictures.PathError]] = []
    for paths, shard in zip(rows["paths"].to_pylist(), rows[SHARD].to_pylist(), strict=True):
        places.append([])
        bad.append([])
        for path in (paths or ())[: settings.max_pictures]:
            try:
                places[-1].append(pictures.resolve(path, settings.shards[shard], settings.roots))
            except pictures.PathError as error:
                bad[-1].append(error)
    seen = pictures.look((place for row in places for place in row), known)
    hashes: list[list[bytes] | None] = []
    for number, row in enumerate(places):
        found = [(place, seen[place]) for place in row]
        bad[number] += [content for _, content in found if isinstance(content, pictures.PathError)]
        readable = [(place, content) for place, content in found if isinstance(content, pictures.Seen)]
        places[number] = [place for place, _ in readable]
        hashes.append([content.content for _, content in readable] or None)
    keep = np.ones(rows.num_rows, dtype=bool)
    for number in np.flatnonzero([bool(errors) for errors in bad]).tolist():
        keep[number] = _reject_pictures(rows, number, bad[number], bool(hashes[number]), settings, rejects)
    pictures.remember(settings.index, partition, settings.run.id,
                      {place: content for place, content in seen.items() if isinstance(content, pictures.Seen)})  # fmt: skip
    position = rows.schema.get_field_index("pictures")
    rows = rows.set_column(position, rows.schema.field(position), pa.array(hashes, rows.schema.field(position).type))
    position = rows.schema.get_field_index("paths")
    rows = rows.set_column(position, rows.schema.field(position), pa.array(places, rows.schema.field(position).type))
    return rows.filter(pa.array(keep))


def _reject_pictures(
    rows: pa.Table, number: int, errors: Sequence[pictures.PathError], others: bool, settings: PlanSettings,
    rejects: Rejects,
) -> bool:  # fmt: skip
    row = rows.slice(number, 1)
    where = (row[PRODUCT_ID][0].as_py(), settings.shards[row[SHARD][0].as_py()], row[ROW][0].as_py())
    for error in errors:
        rejects.add(*where, "picture", error.reason, str(error))
    if settings.strict:
        rejects.add(*where, None, errors[0].reason, f"{errors[0]} (--strict)")
        return False
    if not others and row["text"][0].as_py() is None and row[REVIEWS][0].as_py() is None:
        rejects.add(*where, None, "nothing_to_encode", "the row has no text and no readable picture")
        return False
    return True


def _contents(rows: pa.Table, modality: str) -> list[bytes | None]:
    """Return what the key of each row is made of besides the space."""
    if modality == "text":
        return [None if text is None else text.encode() for text in rows["text"].to_pylist()]
    if modality == REVIEWS:
        return [reviews_content(Weighed(**review) for review in row) if row else None for row in rows[REVIEWS].to_pylist()]
    return [b"".join(hashes) if hashes else None for hashes in rows["pictures"].to_pylist()]


def plan_partition(partition: Partition, settings: PlanSettings) -> dict[str, Any]:
    """Plan one partition and return its counts and the names of its units of work."""
    done = settings.run.done("plan", partition.name)
    if storage.exists(done):
        return read_json(done)
    rejects = Rejects("plan")
    chunks = [info.path for info in storage.list_folder(settings.run.file("ingest"), "*.parquet")]
    tables = ranges.read_ranges(chunks, ORDER, partition.first, partition.last)
    counts: dict[str, Any] = {"rows": 0, "products": 0, "missing": {}, "known": {}, "items": {}, "units": {}}
    products, missing = None, {}
    if tables:
        rows = pa.concat_tables(tables)
        counts["rows"] = rows.num_rows
        rows = rows.sort_by([(name, "ascending") for name in (ORDER, PRODUCT_ID, SHARD, ROW)])
        rows = drop_duplicates(rows, settings.shards, rejects)
        rows = drop_withdrawn(rows, settings.withdrawn, settings.shards, rejects)
        if "picture" in settings.spaces and rows["paths"].null_count < rows.num_rows:
            rows = _resolve_pictures(rows, partition, settings, rejects)
        for modality, space in settings.spaces.items():
            contents = _contents(rows, modality)
            keys = [None if content is None else space.key(content) for content in contents]
            digests = [None if content is None else content_hash(content) for content in contents]
            rows = rows.append_column(f"{modality}_{KEY}", pa.array(keys, pa.binary(KEY_BYTES)))
            rows = rows.append_column(f"{modality}_{CONTENT}", pa.array(digests, pa.binary(KEY_BYTES)))
            missing[modality] = _plan_modality(rows, keys, space, partition, settings, counts)
        counts["products"] = rows.num_rows
        own = [f"{modality}_{name}" for name in (KEY, CONTENT) for modality in settings.spaces]
        products = rows.select([ORDER, PRODUCT_ID, SHARD, ROW, "text", *own, COLUMNS])
        counts["file"] = asdict(ranges.write_table(settings.run.products(partition), products))
    before = None if settings.since is None else read_before(settings.index, settings.since, partition)
    counts["changes"] = compare(products, before, missing, settings.content_columns)
    rejects.write(settings.run.rejects("plan", partition.name))
    counts["rejected"] = rejects.counts()
    write_json(done, counts)
    _log.info(
        "plan: partition %d of %d done: %d products, to encode: %s", partition.number + 1, 1 << partition.bits,
        counts["products"], each(counts["missing"], plural),
    )  # fmt: skip
    return counts


def _plan_modality(
    rows: pa.Table, keys: Sequence[bytes | None], space: Space, partition: Partition, settings: PlanSettings,
    counts: dict[str, Any],
) -> Mask:  # fmt: skip
    """Cut what the store lacks of a modality into units; returns bool[N], which rows those are."""
    pairs = list(zip(rows[ORDER].to_pylist(), keys, strict=True))
    held = stored(settings.index, space.id, partition, ((order, key) for order, key in pairs if key is not None))
    missing = np.array([key is not None and (order, key) not in held.places for order, key in pairs], dtype=bool)
    counts["missing"][space.modality] = int(missing.sum())
    counts["known"][space.modality] = sum(key is not None for key in keys) - int(missing.sum())
    work = rows.filter(pa.array(missing)).append_column(
        KEY, pa.array([key for key, gone in zip(keys, missing, strict=True) if gone], pa.binary(KEY_BYTES))
    )
    several = {"picture": "pictures", REVIEWS: REVIEWS}.get(space.modality)
    each = None if several is None else work[several].combine_chunks().value_lengths()
    pieces = work.num_rows if each is None else pc.sum(each).as_py() or 0
    counts["items"][space.modality] = pieces * space.views.count
    inside = work.slice(0, 0)
    if space.modality == "picture":
        in_shard = pc.is_null(work["paths"])
        inside = work.filter(in_shard).select([ORDER, PRODUCT_ID, KEY, SHARD, ROW, "row_group"])
        work = work.filter(pc.invert(in_shard)).select([ORDER, PRODUCT_ID, KEY, "paths"])
    else:
        work = work.select([ORDER, PRODUCT_ID, KEY, space.modality])
    # Pictures and reviews of a product count at most; products with fewer make a unit smaller than it could be.
    most = {"paths": settings.max_pictures, REVIEWS: settings.max_reviews}
    items = space.views.count * next((count for name, count in most.items() if name in work.column_names), 1)
    counts["units"][space.modality] = cut(work, partition.name, items, space, settings)
    if inside.num_rows:
        path = settings.run.file("plan", f"inside-{partition.name}.parquet")
        ranges.write_table(path, inside.sort_by([(SHARD, "ascending"), (ROW, "ascending")]))
    return missing


def cut(work: pa.Table, name: str, items: int, space: Space, settings: PlanSettings) -> list[str]:
    """Cut rows of work into units and return the names of their files, which end in the units' ids."""
    rows = max(1, settings.unit_items // max(items, 1))
    names = []
    for number, start in enumerate(range(0, work.num_rows, rows)):
        unit = work.slice(start, rows)
        names.append(f"{name}-{number:05d}-{unit_id(unit)}")
        ranges.write_table(storage.join(settings.run.work(space.modality), f"{names[-1]}.parquet"), unit)
    return names


def unit_id(unit: pa.Table) -> str:
    """Return the id of a unit: a hash of its (order, key) pairs, whatever their order."""
    pairs = sorted(zip(unit[ORDER].to_pylist(), unit[KEY].to_pylist(), strict=True))
    digest = hashlib.blake2b(digest_size=8)
    for order, key in pairs:
        digest.update(order.to_bytes(8, "big") + key)
    return digest.hexdigest()


@dataclass(frozen=True)
class ShardGroup:
    """Neighbouring shards whose pictures are cut into units together."""

    first: int
    last: int

    @property
    def name(self) -> str:
        """Name of the group in paths."""
        return f"shards-{self.first:05d}-{self.last:05d}"


def group_shards(rows_per_shard: Sequence[int], rows: int) -> list[ShardGroup]:
    """Group neighbouring shards so that a group has about `rows` rows."""
    groups, first, held = [], 0, 0
    for shard, count in enumerate(rows_per_shard):
        held += count
        if held >= rows or shard == len(rows_per_shard) - 1:
            groups.append(ShardGroup(first, shard))
            first, held = shard + 1, 0
    return groups


def cut_shards(group: ShardGroup, settings: PlanSettings) -> dict[str, Any]:
    """Cut the missing pictures inside a group of shards into units, in the order of the shards."""
    done = settings.run.done("plan", group.name)
    if storage.exists(done):
        return read_json(done)
    files = [info.path for info in storage.list_folder(settings.run.file("plan"), "inside-*.parquet")]
    tables = ranges.read_ranges(files, SHARD, group.first, group.last)
    space = settings.spaces["picture"]
    names: list[str] = []
    if tables:
        work = pa.concat_tables(tables).sort_by([(SHARD, "ascending"), (ROW, "ascending")])
        names = cut(work, group.name, space.views.count, space, settings)
    counts = {"units": {"picture": names}}
    write_json(done, counts)
    if names:
        _log.info("plan: shards %d to %d: pictures cut into %d units", group.first + 1, group.last + 1, len(names))
    return counts


@dataclass
class Plan(beam.PTransform):
    """Partitions -> counts of each; products, rejects and work go to the run's folder."""

    settings: PlanSettings

    def expand(self, partitions: beam.PCollection[Partition]) -> beam.PCollection[dict[str, Any]]:
        """Wire the transform."""
        return partitions | "SpreadPartitions" >> beam.Reshuffle() | "PlanPartition" >> beam.Map(plan_partition, self.settings)


@dataclass
class CutShards(beam.PTransform):
    """Groups of shards -> names of the units cut for their pictures."""

    settings: PlanSettings

    def expand(self, groups: beam.PCollection[ShardGroup]) -> beam.PCollection[dict[str, Any]]:
        """Wire the transform."""
        return groups | "SpreadGroups" >> beam.Reshuffle() | "CutGroup" >> beam.Map(cut_shards, self.settings)
