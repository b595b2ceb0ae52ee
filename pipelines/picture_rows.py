"""Rows of a run whose pictures training looks at one by one: where they lie, and the places of pictures named by path."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import pictures, ranges, storage
from pipelines.job import Job
from pipelines.layout import ORDER, PRODUCT_ID
from pipelines.plan import ROW, SHARD


def picture_rows(job: Job, orders: Sequence[int]) -> pa.Table:
    """Say where the pictures of products lie, of those that have any, in the order of the catalogue's files.

    Args:
        job: a run whose PLAN ended.
        orders: orders of the products, sorted; nothing beyond the last is read.

    Returns:
        `order`, `product_id`, `shard`, `row`, `row_group`, `pictures` (hashes of those inside a shard), `paths` (as they are
        written, or null).
    """
    wanted, found = pa.array(orders, pa.uint64()), []
    chunks = [info.path for info in storage.list_folder(job.run.file("ingest"), "*.parquet")]
    names = [ORDER, PRODUCT_ID, SHARD, ROW, "row_group", "pictures", "paths"]
    for partition in job.partitions():
        path = job.run.products(partition)
        if not orders or partition.first > orders[-1]:
            break
        if not storage.exists(path):
            continue
        products = ranges.read_table(path, [ORDER, SHARD, ROW])
        products = products.filter(pc.is_in(products[ORDER], wanted))
        last = min(partition.last, orders[-1])
        ingested = pa.concat_tables(ranges.read_ranges(chunks, ORDER, partition.first, last, names))
        joined = ingested.filter(pc.is_in(ingested[ORDER], wanted))
        kept = set(zip(products[SHARD].to_pylist(), products[ROW].to_pylist(), strict=True))
        places = zip(joined[SHARD].to_pylist(), joined[ROW].to_pylist(), strict=True)
        found.append(joined.filter(pa.array([place in kept for place in places], pa.bool_())))
    table = pa.concat_tables(found)
    there = pc.or_(pc.is_valid(table["pictures"]), pc.is_valid(table["paths"]))
    return table.filter(there).sort_by([(SHARD, "ascending"), (ROW, "ascending")])


def resolved(job: Job, rows: pa.Table) -> pa.Table:
    """Return the rows with the places of their pictures as `paths`, without those that PLAN has rejected."""
    roots = job.config.allow_root or pictures.catalogue_roots(job.uris)
    places: list[list[str]] = []
    for paths, shard in zip(rows["paths"].to_pylist(), rows[SHARD].to_pylist(), strict=True):
        places.append([])
        for path in (paths or ())[: job.config.max_pictures]:
            try:
                places[-1].append(pictures.resolve(path, job.uris[shard], roots))
            except pictures.PathError:
                continue
    return rows.set_column(rows.schema.get_field_index("paths"), "paths", pa.array(places, pa.list_(pa.string())))
