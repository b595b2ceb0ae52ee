"""STATISTICS: what structured columns are like over a whole catalogue, fitted in one full pass.

    catalogue-index run --catalogue 'shop/*.parquet' --index DIR --refit-statistics

One element is a file of a run's products, read in Arrow record batches of at most 8,192 rows; tensorflow-transform
analyses them and leaves a graph. A bundle that is trained has one where its catalogue has such columns; `run
--refit-statistics` makes a bundle with new ones, of the same towers and heads, and encodes nothing.
"""

from __future__ import annotations

import logging
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from encoders.bundle import STATISTICS_FILE, Bundle, read_statistics
from encoders.fusion import STRUCTURED
from pipelines import ranges, stages, storage
from pipelines.bundles import derive, localise
from pipelines.catalogue import CatalogueSchema
from pipelines.config import Config, ConfigError
from pipelines.ingest import COLUMNS
from pipelines.job import Job, open_job
from pipelines.layout import ORDER, Index, write_json
from pipelines.named_values import chooses_share, given_weights
from pipelines.runner import run_pipeline
from transforms.structured import (
    NUMBERS,
    STRUCTURED_COLUMNS,
    StructuredSettings,
    StructuredTransform,
    load_transform,
    prepare,
    preprocess,
)

BATCH_ROWS = 8_192

_log = logging.getLogger(__name__)


def find_settings(schema: CatalogueSchema, config: Config) -> StructuredSettings | None:
    """Return what can be fitted on a catalogue, None where it keeps no structured column.

    Raises:
        ConfigError: it keeps none, and `--weight structured=` asks for them.
    """
    names = schema.kept.names
    settings = StructuredSettings.of(names)
    if settings is None and (given_weights(config).get(STRUCTURED) or chooses_share(config)):
        raise ConfigError(
            f"--weight {STRUCTURED}={config.weight[STRUCTURED]}: the catalogue keeps none of the columns "
            f"{', '.join(STRUCTURED_COLUMNS)} (it keeps {', '.join(names) or 'none'}): map one with --column price=COLUMN"
        )
    return settings


def read_batches(path: str, settings: StructuredSettings) -> Iterator[pa.RecordBatch]:
    """Read the structured columns of a file of products as the graph takes them, in lists of one value."""
    with storage.open_input(path) as source, pq.ParquetFile(source, pre_buffer=False) as file:
        wanted = [f"{COLUMNS}.{name}" for name in settings.columns]
        for batch in file.iter_batches(BATCH_ROWS, columns=wanted, use_threads=False):
            yield _as_lists(prepare(batch.column(COLUMNS), settings))


def _as_lists(batch: pa.RecordBatch) -> pa.RecordBatch:
    offsets = pa.array(np.arange(batch.num_rows + 1, dtype=np.int32))
    return pa.record_batch([pa.ListArray.from_arrays(offsets, column) for column in batch.columns], batch.schema.names)


def tensor_config(settings: StructuredSettings) -> Any:
    """Say how record batches of `read_batches` become tensors: a value a row, of each column."""
    from tensorflow_metadata.proto.v0 import schema_pb2
    from tfx_bsl.tfxio.tensor_adapter import TensorAdapterConfig

    types = {name: pa.float32() if name in NUMBERS else pa.binary() for name in settings.columns}
    tensors = {}
    for name in settings.columns:
        tensors[name] = schema_pb2.TensorRepresentation()
        tensors[name].dense_tensor.column_name = name
        tensors[name].dense_tensor.shape.SetInParent()
    return TensorAdapterConfig(pa.schema([(name, pa.list_(kind)) for name, kind in types.items()]), tensors)


@dataclass
class FitTransform(beam.PTransform):
    """Paths of files of products -> the fitted graph, which goes to the folder `output`.

    Attributes:
        settings: what the transform depends on besides the products.
        temporary: folder that the workers share.
        output: folder of the graph.
    """

    settings: StructuredSettings
    temporary: str
    output: str

    def expand(self, files: beam.PCollection[str]) -> Any:
        """Wire the transform."""
        import tensorflow_transform.beam as tft_beam

        batches = files | "SpreadFiles" >> beam.Reshuffle() | "ReadBatches" >> beam.FlatMap(read_batches, self.settings)
        with tft_beam.Context(temp_dir=self.temporary):
            analyse = tft_beam.AnalyzeDataset(partial(preprocess, settings=self.settings))
            graph = (batches, tensor_config(self.settings)) | "Analyse" >> analyse
            return graph | "WriteGraph" >> tft_beam.WriteTransformFn(self.output)


def fit_transform(files: Sequence[str], settings: StructuredSettings, work: str, folder: Path, flags: Sequence[str]) -> None:
    """Fit the transform on files of products and write it to a local folder, as a bundle takes it.

    Args:
        files: Parquet files with a struct column `columns`.
        settings: what the transform depends on besides them.
        work: folder that the workers share; what they leave there is not needed afterwards.
        folder: gets `transform_fn/`, `transformed_metadata/` and `statistics.json`.
        flags: flags for Beam.
    """
    output = storage.join(work, "graph")
    fit = FitTransform(settings, storage.join(work, "temporary"), output)
    run_pipeline(lambda p: p | "Files" >> beam.Create(list(files), reshuffle=False) | fit, flags)
    shutil.copytree(localise(output), folder)
    write_json(str(folder / STATISTICS_FILE), StructuredTransform(folder, settings).statistics())


def fit_statistics(job: Job, folder: Path) -> Path | None:
    """Fit structured columns on all products of a job whose PLAN ended; returns the folder.

    None where the catalogue keeps no such column.

    Raises:
        ConfigError: as `find_settings`.
    """
    settings = find_settings(job.schema, job.config)
    if settings is None:
        return None
    files = [path for part in job.partitions() if storage.exists(path := job.run.products(part))]
    _log.info("statistics: fitting %s", ", ".join(settings.columns))
    # A folder of its own for each attempt: what a killed one left is of no use to the next.
    work = storage.join(job.run.file("statistics"), secrets.token_hex(4))
    fit_transform(files, settings, work, folder, job.flags)
    return folder


def structured_values(job: Job, folder: Path, orders: Sequence[int]) -> npt.NDArray[np.float32]:
    """Return the structured features of products of a job whose PLAN ended, by their orders: float32[N, D], unit norm.

    One partition's columns are in memory at once.
    """
    transform, wanted = load_transform(str(folder)), pa.array(orders, pa.uint64())
    place = {order: number for number, order in enumerate(orders)}
    values = np.zeros((len(orders), read_statistics(folder)["dimension"]), np.float32)
    for partition in job.partitions():
        path = job.run.products(partition)
        if not storage.exists(path):
            continue
        table = ranges.read_table(path, [ORDER, COLUMNS])
        table = table.filter(pc.is_in(table[ORDER], wanted))
        for start in range(0, table.num_rows, BATCH_ROWS):
            block = table.slice(start, BATCH_ROWS)
            values[[place[order] for order in block[ORDER].to_pylist()]] = transform(block[COLUMNS].combine_chunks())
    return values


def refit_statistics(config: Config, bundle: Bundle, flags: Sequence[str]) -> Bundle:
    """Make a bundle of the same towers and heads with statistics of today's catalogue the index's own.

    The catalogue is read and planned for it; nothing is encoded.

    Raises:
        ConfigError: the catalogue keeps no structured column.
    """
    index = Index(config.index)
    source = storage.join(index.bundles, bundle.hash)
    towers = {m: (storage.join(source, "towers", m), spec) for m, spec in bundle.towers.items()}
    job = open_job(config, "statistics", towers, bundle.views, None, bundle.hash, flags)
    if find_settings(job.schema, config) is None:
        raise ConfigError(
            f"--refit-statistics: the catalogue keeps none of the columns {', '.join(STRUCTURED_COLUMNS)}: map one with "
            "--column price=COLUMN"
        )
    stages.ingest(job)
    stages.plan(job)
    with tempfile.TemporaryDirectory() as temporary:
        made = derive(bundle, index, config, fit_statistics(job, Path(temporary) / STRUCTURED))
    _log.info("statistics: bundle %s has the towers and heads of %s", made.hash[:12], bundle.hash[:12])
    storage.remove_folder(job.run.folder)
    return made
