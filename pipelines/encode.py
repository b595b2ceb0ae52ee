"""ENCODE: the stage that costs; its elements are units of items to encode, never rows.

    catalogue-index encode --catalogue 'shop/*.parquet' --index DIR --bundle DIR

RunInference runs `UnitHandler` on one unit at a time: it streams the unit's items, decodes ahead in threads,
fills batches for the tower and returns one Arrow table, which the next step of the same fused stage writes. So
units commit one by one, also in the in-process runner, and pixels never leave the worker that read them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import ModelHandler, RunInference

from encoders.bundle import REVIEWS
from encoders.towers import Tower, load_tower
from pipelines import ranges, storage
from pipelines.bundles import localise
from pipelines.catalogue import CatalogueSchema, Shard
from pipelines.features import REJECTED_TYPE, Space, pack, write_features
from pipelines.layout import FEATURE, KEY, KEY_BYTES, ORDER, PRESENT, PRODUCT_ID, REJECTED, Run, read_json
from pipelines.picture_batches import Batch, Findings, batches, one_ahead, read_inside, read_paths
from pipelines.views import text_maker
from transforms.reviews import Weighed, reviews_content

# Units are counted by listing them, so that on a first night of many that is not done after each.
PROGRESS_SECONDS = 60.0
TEXTS_AT_ONCE = 1024  # texts sorted by length for the tower; the views of as many are made meanwhile

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncodeSettings:
    """What the features of a unit depend on besides its rows.

    Attributes:
        run: paths of the run.
        stage: folder of the run that names the units; "single" gives a feature for each picture, the others one a product.
        output: folder that the features go to.
        space: their feature space.
        tower: folder of the tower.
        shards: the catalogue's files, by number.
        schema: what their columns mean; None where no picture lies inside them.
        max_pixels: pixels a picture may have.
        units: how many units the stage has of the modality.
    """

    run: Run
    stage: Literal["plan", "queries", "single"]
    output: str
    space: Space
    tower: str
    shards: tuple[Shard, ...]
    schema: CatalogueSchema | None
    max_pixels: int
    units: int

    def done(self) -> int:
        """Count the units whose features are there."""
        return len(storage.list_folder(self.output, "*.parquet"))

    def load_tower(self) -> Tower:
        """Load the tower."""
        return load_tower(localise(self.tower))

    def unit_file(self, unit: str) -> str:
        """File of the features of the unit whose work file is called `unit`."""
        return storage.join(self.output, f"{unit.rsplit('-', 1)[-1]}.parquet")


@dataclass(frozen=True)
class Encoded:
    """The features of one unit.

    Attributes:
        unit: name of the unit's work file.
        rows: the unit's rows of the feature store.
        items: encoder items that went through the tower.
        truncated: texts cut at the tower's limit.
        seconds: seconds the unit took, and how many of them the tower worked.
    """

    unit: str
    rows: pa.Table
    items: int
    truncated: int
    seconds: tuple[float, float]


def encode_texts(work: pa.Table, tower: Tower, space: Space) -> tuple[pa.Table, int]:
    """Encode the texts of a unit; returns its rows of the feature store and the number of items encoded.

    A text's feature is the mean over its views, or they stand side by side.
    """
    texts = work["text"].to_pylist()
    make, views = text_maker(space.views), space.views
    step = max(1, TEXTS_AT_ONCE // views.count)
    blocks = ([view for text in texts[start : start + step] for view in make(text)] for start in range(0, len(texts), step))
    features = [tower.encode(block).reshape(-1, views.count, tower.spec.dimension) for block in one_ahead(blocks)]
    pooled = [block.mean(axis=1) if views.slots == 1 else block.reshape(len(block), -1) for block in features]
    present = np.ones(len(texts), dtype=bool)
    keys = [space.key(text.encode()) for text in texts]
    return _rows(work, keys, np.concatenate(pooled), present, [None] * len(texts), space), len(texts) * views.count


def encode_reviews(work: pa.Table, tower: Tower, space: Space) -> tuple[pa.Table, int]:
    """Encode the reviews of a unit; returns its rows of the feature store and the number of items encoded.

    A product's feature is the mean over its reviews, weighted, each as it is written: of reviews no views are made.
    """
    rows = [[Weighed(**review) for review in row] for row in work[REVIEWS].to_pylist()]
    texts = [review.text for row in rows for review in row]
    owners = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    weights = np.array([review.weight for row in rows for review in row], dtype=np.float32)
    sums = np.zeros((len(rows), space.dimension), dtype=np.float32)
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        block = slice(start, start + TEXTS_AT_ONCE)
        np.add.at(sums, owners[block], weights[block, None] * tower.encode(texts[block]))
    features = sums / np.bincount(owners, weights, len(rows)).astype(np.float32)[:, None]
    keys = [space.key(reviews_content(row)) for row in rows]
    return _rows(work, keys, features, np.ones(len(rows), dtype=bool), [None] * len(rows), space), len(texts)


def encode_pictures(work: pa.Table, tower: Tower, settings: EncodeSettings) -> tuple[pa.Table, int]:
    """Encode the pictures of a unit; returns its rows of the feature store and the number of items encoded.

    A product's feature is the mean over its pictures, and over their views or with the views side by side.
    """
    views, findings = settings.space.views, Findings(work.num_rows)
    sums = np.zeros((work.num_rows, views.slots, tower.spec.dimension), dtype=np.float32)
    counts = np.zeros(work.num_rows, dtype=np.int64)
    started = reported = time.monotonic()
    for batch in _picture_batches(work, findings, tower, settings):
        np.add.at(sums, (batch.owners, [views.slot(view) for view in batch.views]), tower.encode(batch.pictures))
        np.add.at(counts, batch.owners, 1)
        now = time.monotonic()
        if now - reported > PROGRESS_SECONDS:
            reported, done = now, int(counts.sum())
            _log.info("encode: %d of %d items of a unit, %.0f/s", done, work.num_rows * views.count, done / (now - started))
    features = sums / np.maximum(counts // views.slots, 1)[:, None, None]
    keys = [settings.space.key(content) for content in findings.hashes]
    rows = _rows(work, keys, features.reshape(work.num_rows, -1), counts > 0, findings.rejected, settings.space)
    return rows, int(counts.sum())


def _picture_batches(work: pa.Table, findings: Findings, tower: Tower, settings: EncodeSettings) -> Iterator[Batch]:
    side, views = tower.spec.side, settings.space.views
    assert side is not None
    if "paths" in work.column_names:
        items = read_paths(work)
    else:
        assert settings.schema is not None
        items = read_inside(work, settings.shards, settings.schema)
    yield from batches(items, findings, side, tower.spec.batch, views, settings.max_pixels, tower.spec.decoding)


def encode_single_pictures(work: pa.Table, tower: Tower, settings: EncodeSettings) -> tuple[pa.Table, int]:
    """Encode the pictures of a unit, each a row of the product's order, id and key; returns them and their number.

    Those that cannot be read are left out: the run has rejected and counted them with their products.
    """
    features, owners = [np.zeros((0, tower.spec.dimension), dtype=np.float32)], []
    for batch in _picture_batches(work, Findings(work.num_rows), tower, settings):
        features.append(tower.encode(batch.pictures))
        owners += batch.owners
    of = work.take(pa.array(owners, pa.int64()))
    present = np.ones(len(owners), dtype=bool)
    return _rows(of, of[KEY].to_pylist(), np.concatenate(features), present, [None] * len(owners), settings.space), len(owners)


def encode_work(work: pa.Table, tower: Tower, settings: EncodeSettings) -> tuple[pa.Table, int]:
    """Encode a unit's rows of whatever modality; returns its rows of the feature store and the number of items encoded."""
    if settings.space.modality == "picture":
        return (encode_single_pictures if settings.stage == "single" else encode_pictures)(work, tower, settings)
    return (encode_reviews if settings.space.modality == REVIEWS else encode_texts)(work, tower, settings.space)


def _rows(
    work: pa.Table, keys: Sequence[bytes], features: np.ndarray, present: np.ndarray,
    rejected: Sequence[list[dict[str, str]] | None], space: Space,
) -> pa.Table:  # fmt: skip
    columns = {
        ORDER: work[ORDER], PRODUCT_ID: work[PRODUCT_ID], KEY: pa.array(keys, pa.binary(KEY_BYTES)),
        FEATURE: pack(features, present), PRESENT: pa.array(present), REJECTED: pa.array(rejected, REJECTED_TYPE),
    }  # fmt: skip
    return pa.table(columns, schema=space.schema)


class UnitHandler(ModelHandler[str, Encoded, Tower]):
    """Runs a tower on one unit of work at a time."""

    def __init__(self, settings: EncodeSettings):
        """Keep the settings; nothing is loaded before a worker starts."""
        super().__init__()
        self._settings = settings
        self._counted: float | None = None

    def load_model(self) -> Tower:
        """Load the tower, once a worker."""
        tower = self._settings.load_tower()
        _log.info("encode: %s runs in %s", tower.spec.spec, tower.runs_in)
        return tower

    def batch_elements_kwargs(self) -> dict[str, int]:
        """Ask for one unit at a time."""
        return {"min_batch_size": 1, "max_batch_size": 1}

    def share_model_across_processes(self) -> bool:
        """Keep one tower a worker process: it uses all cores."""
        return False

    def run_inference(
        self, batch: Sequence[str], model: Tower, inference_args: dict[str, Any] | None = None
    ) -> Iterable[Encoded]:
        """Encode the units named in `batch`."""
        return [self._encode(unit, model) for unit in batch]

    def _encode(self, unit: str, tower: Tower) -> Encoded:
        settings, before = self._settings, (tower.truncated, tower.seconds)
        started = time.monotonic()
        if self._counted is None or started - self._counted >= PROGRESS_SECONDS:
            self._counted = started
            _log.info("encode: %d of %d %s units are done", settings.done(), settings.units, settings.space.modality)
        work = ranges.read_table(storage.join(settings.run.work(settings.space.modality), f"{unit}.parquet"))
        rows, items = encode_work(work, tower, settings)
        rows = rows.replace_schema_metadata({"form": tower.form})
        seconds = (time.monotonic() - started, tower.seconds - before[1])
        return Encoded(unit, rows, items, tower.truncated - before[0], seconds)


def units_of(element: str, settings: EncodeSettings) -> list[str]:
    """List the units an element of the plan cut for this modality that have no features yet."""
    names = read_json(settings.run.done(settings.stage, element))["units"].get(settings.space.modality, [])
    return [name for name in names if not storage.exists(settings.unit_file(name))]


def write_unit(encoded: Encoded, settings: EncodeSettings) -> dict[str, Any]:
    """Write the features of a unit; their being there is the unit's being done."""
    write_features(settings.unit_file(encoded.unit), encoded.rows)
    Metrics.counter("encode", f"{settings.space.modality}_items").inc(encoded.items)
    Metrics.counter("encode", f"{settings.space.modality}_truncated").inc(encoded.truncated)
    Metrics.counter("encode", f"{settings.space.modality}_unit_ms").inc(round(1000 * encoded.seconds[0]))
    Metrics.counter("encode", f"{settings.space.modality}_tower_ms").inc(round(1000 * encoded.seconds[1]))
    whole, tower = encoded.seconds
    _log.info(
        "encode: unit %s done: %d %s items, %.0f/s, %.0f %% of the time in the tower", encoded.unit, encoded.items,
        settings.space.modality, encoded.items / max(whole, 1e-6), 100 * tower / max(whole, 1e-6),
    )  # fmt: skip
    return {"unit": encoded.unit, "items": encoded.items, "truncated": encoded.truncated}


@dataclass
class Encode(beam.PTransform):
    """Names of planned elements -> counts of each unit encoded now; features go to the feature store."""

    settings: EncodeSettings

    def expand(self, elements: beam.PCollection[str]) -> beam.PCollection[dict[str, Any]]:
        """Wire the transform."""
        return (
            elements
            | "ListUnits" >> beam.FlatMap(units_of, self.settings)
            | "SpreadUnits" >> beam.Reshuffle()
            | "EncodeUnit" >> RunInference(UnitHandler(self.settings))
            | "WriteUnit" >> beam.Map(write_unit, self.settings)
        )
