"""Features of single pictures, of products that have several: what training learns of how pictures of one product differ.

Elsewhere a product's feature is the mean over its pictures. Here each has its own, of one view, in the run's folder. Encoded are
those of the first 500 products that have several, among the first 20,000, in units like any other: 4,000 pictures at most by
default.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from encoders.pooling import Views
from encoders.whitening import LEAST_SEVERAL, SinglePictures
from pipelines import ranges, storage
from pipelines.encode import Encode, EncodeSettings
from pipelines.features import FeatureReader, Space
from pipelines.job import Job
from pipelines.layout import KEY, KEY_BYTES, ORDER, PRODUCT_ID, write_json
from pipelines.picture_rows import picture_rows, resolved
from pipelines.plan import ROW, SHARD, unit_id
from pipelines.runner import run_pipeline

MAX_SEEN, MAX_PRODUCTS = 20_000, 500

_log = logging.getLogger(__name__)


def single_pictures(job: Job, orders: Sequence[int]) -> SinglePictures | None:
    """Encode the pictures of products that have several, one by one, to features as heads take them.

    None where whitened values are not asked for, there are no pictures, or fewer than 20 such products.

    Args:
        job: a run whose PLAN ended.
        orders: orders of the products of the training; owners are their places.
    """
    if not job.config.whitened_dimension or "picture" not in job.spaces or len(orders) < LEAST_SEVERAL:
        return None
    rows = _several(job, orders)
    if rows.num_rows < LEAST_SEVERAL:
        return None
    views = job.spaces["picture"].views
    space = replace(job.spaces["picture"], views=Views(), dimension=job.spaces["picture"].dimension // views.slots)
    names = _cut(job, rows, space)
    _log.info("encode: %d products' pictures one by one, to train with", rows.num_rows)
    settings = EncodeSettings(
        job.run, "single", job.run.file("single"), space, job.towers["picture"], job.shards, job.schema, job.config.max_pixels,
        len(names),
    )  # fmt: skip
    run_pipeline(lambda p: p | "Pictures" >> beam.Create(["pictures"], reshuffle=False) | Encode(settings), job.flags)
    single = _gather([settings.unit_file(name) for name in names], space, orders)
    # With --views heads take one view of those that stand side by side.
    return single if job.config.views > 1 else replace(single, features=views.of_query(single.features))


def _several(job: Job, orders: Sequence[int]) -> pa.Table:
    """Return the rows of the first products that have several pictures, in the order of the catalogue's files."""
    rows, inside = picture_rows(job, orders[:MAX_SEEN]), job.schema.picture_kind == "bytes"
    if not inside:
        rows = resolved(job, rows)
    counts = pc.fill_null(pc.list_value_length(rows["pictures" if inside else "paths"]), 0)
    rows = rows.filter(pc.greater(counts, 1)).sort_by(ORDER).slice(0, MAX_PRODUCTS)
    rows = rows.sort_by([(SHARD, "ascending"), (ROW, "ascending")])
    return rows.select([ORDER, PRODUCT_ID, *([SHARD, ROW, "row_group"] if inside else ["paths"])])


def _cut(job: Job, rows: pa.Table, space: Space) -> list[str]:
    """Cut the rows into units of work and name them to ENCODE; returns their names."""
    keys = [space.key(product_id.encode("utf-8", "surrogatepass")) for product_id in rows[PRODUCT_ID].to_pylist()]
    work = rows.append_column(KEY, pa.array(keys, pa.binary(KEY_BYTES)))
    step, names = max(1, job.config.unit_items // job.config.max_pictures), []
    for number, start in enumerate(range(0, work.num_rows, step)):
        unit = work.slice(start, step)
        names.append(f"single-{number:05d}-{unit_id(unit)}")
        ranges.write_table(storage.join(job.run.work("picture"), f"{names[-1]}.parquet"), unit)
    write_json(job.run.done("single", "pictures"), {"units": {"picture": names}})
    return names


def _gather(files: Sequence[str], space: Space, orders: Sequence[int]) -> SinglePictures:
    place = {order: number for number, order in enumerate(orders)}
    owners = [[place[order] for order in ranges.read_table(file, [ORDER])[ORDER].to_pylist()] for file in files]
    with FeatureReader(files, space.dimension) as reader:
        features = [reader.read([(number, row) for row in range(len(own))]) for number, own in enumerate(owners)]
    return SinglePictures(np.concatenate(features), np.concatenate(owners).astype(np.int64))
