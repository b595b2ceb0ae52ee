"""Vectors of the modalities beside an Annoy file whose fused vectors do not hold them.

`catalogue_lookup.modality_vectors` reads them. They take 2 x modalities x d bytes a product: 1,024 for two modalities of
256 dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.layout import modality_vector
from pipelines.recall import BATCH_ROWS, VectorsFile, open_vectors


def write_modality_vectors(
    files: Sequence[VectorsFile], modalities: Sequence[str], dimension: int, first: int, stop: int, path: Path
) -> None:
    """Write the vectors of items `first` to `stop - 1` as float16[items, modalities, dimension] in NumPy's format.

    Of a product that lacks a modality they are zeros. Memory is one batch of 1,024 rows.
    """
    shape = (stop - first, len(modalities), dimension)
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
        start = 0
        for source in files:
            if start < stop and start + source.rows > first:
                _copy(source, modalities, dimension, max(first - start, 0), min(stop - start, source.rows), file)
            start += source.rows


def _copy(
    source: VectorsFile, modalities: Sequence[str], dimension: int, first: int, stop: int, file: BinaryIO
) -> None:
    columns = [modality_vector(name) for name in modalities]
    with open_vectors(source.path) as parquet:
        start = 0
        there = [name for name in columns if name in parquet.schema_arrow.names]
        for batch in parquet.iter_batches(BATCH_ROWS, columns=there, use_threads=False):
            cut = batch.slice(max(first - start, 0), max(stop - max(start, first), 0))
            start += batch.num_rows
            rows = np.zeros((cut.num_rows, len(columns), dimension), "<f2")
            for number, name in enumerate(columns):
                if name in there:
                    rows[:, number] = _rows(cut.column(name), dimension)
            file.write(rows.data)


def _rows(column: pa.Array, dimension: int) -> npt.NDArray[np.float16]:
    rows = np.zeros((len(column), dimension), "<f2")
    present = column.is_valid().to_numpy(zero_copy_only=False)
    rows[present] = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, dimension)
    return rows
