"""The feature store: what towers gave for a product's picture or text, kept by content.

A row counts only where its key is the key the product has tonight; among equals the first file in name order
counts. So retries, leftovers and zombies are harmless and nothing has to be committed.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from encoders.pooling import Views
from encoders.tower_spec import TowerSpec
from pipelines import ranges, storage
from pipelines.layout import (
    FEATURE,
    KEY,
    KEY_BYTES,
    ORDER,
    PRESENT,
    PRODUCT_ID,
    REJECTED,
    ROW_GROUP,
    Index,
    Partition,
    read_json,
    write_json,
)
from transforms import decode

REJECTED_TYPE = pa.list_(pa.struct([("reason", pa.string()), ("detail", pa.string())]))


@dataclass(frozen=True)
class Space:
    """What the features of one modality depend on besides the content.

    Attributes:
        modality: "picture", "text" or "reviews".
        weights: the tower's hash of weights and preprocessing.
        views: the views of an item that its feature is made of.
        dimension: values of one stored feature, after pooling.
    """

    modality: str
    weights: str
    views: Views
    dimension: int

    @staticmethod
    def of(tower: TowerSpec, views: Views, modality: str | None = None) -> Space:
        """Return the space of a tower's features of these views, of the tower's own modality where none is named."""
        return Space(modality or tower.modality, tower.weights_hash, views, views.slots * tower.dimension)

    @functools.cached_property
    def id(self) -> str:
        """Name of the space's folder."""
        text = json.dumps(self._content(), sort_keys=True)
        return f"{self.modality}-{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"

    @property
    def decoding(self) -> int | None:
        """Version of the decoding of pictures; None for all else."""
        return decode.VERSION if self.modality == "picture" else None

    def _content(self) -> dict[str, Any]:
        content = {
            "modality": self.modality, "weights": self.weights, "views": self.views.to_json(), "dimension": self.dimension
        }  # fmt: skip
        return content if self.decoding is None else content | {"decoding": self.decoding}

    @property
    def schema(self) -> pa.Schema:
        """Columns of the space's files: a null feature says that the content gave none, and why."""
        return pa.schema(
            [
                pa.field(ORDER, pa.uint64()),
                pa.field(PRODUCT_ID, pa.string()),
                pa.field(KEY, pa.binary(KEY_BYTES)),
                pa.field(FEATURE, pa.binary(2 * self.dimension)),
                pa.field(PRESENT, pa.bool_()),
                pa.field(REJECTED, REJECTED_TYPE),
            ]
        )

    def key(self, content: bytes | Sequence[bytes]) -> bytes:
        """Return the key of a content in this space: BLAKE2b-128 over both.

        Args:
            content: a cleaned text in UTF-8, the content hashes of a product's pictures in order, or what
                `transforms.reviews` makes of its reviews.
        """
        parts = [content] if isinstance(content, bytes) else content
        return hashlib.blake2b(b"".join(parts), digest_size=KEY_BYTES, key=self.id.encode()[:64]).digest()

    def declare(self, index: Index) -> None:
        """Say in the space's folder what it holds."""
        path = storage.join(index.space(self.id), "space.json")
        content = self._content()
        if not storage.exists(path) or read_json(path) != content:
            write_json(path, content)


def content_hash(picture: bytes | memoryview) -> bytes:
    """Return the BLAKE2b-128 of a picture's bytes."""
    return hashlib.blake2b(picture, digest_size=KEY_BYTES).digest()


def pack(features: np.ndarray, present: np.ndarray) -> pa.Array:
    """Pack features float[N, D] as fixed-size binary of little-endian float16; null where not present."""
    data = np.ascontiguousarray(features, dtype="<f2")
    width = 2 * data.shape[1]
    validity = pa.py_buffer(np.packbits(present, bitorder="little").tobytes())
    return pa.Array.from_buffers(pa.binary(width), len(data), [validity, pa.py_buffer(data)])


def unpack(column: pa.Array) -> np.ndarray:
    """Return the features of a column without nulls as float16[N, D], a view where the array is one piece."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    width = column.type.byte_width
    data = np.frombuffer(column.buffers()[1], dtype="<f2")
    return data.reshape(-1, width // 2)[column.offset : column.offset + len(column)]


def part_files(index: Index, space: str, partition: Partition) -> list[str]:
    """List the files that may hold a partition's features, in name order."""
    found = [info.path for part in partition.lineage() for info in storage.list_folder(index.part(space, part), "*.parquet")]
    return sorted(found, key=name_order)


def name_order(path: str) -> tuple[str, str]:
    """Order the files of a partition: of rows of the same key that of the first file counts."""
    return path.rsplit("/", 1)[-1], path


def write_features(path: str, rows: pa.Table) -> None:
    """Write feature rows sorted by (order, product_id, key), uncompressed, in row groups of 1,024."""
    ordered = rows.sort_by([(ORDER, "ascending"), (PRODUCT_ID, "ascending"), (KEY, "ascending")])
    ranges.write_table(path, ordered, compression=None)


@dataclass(frozen=True)
class Stored:
    """What a partition of a space holds, without the features themselves.

    Attributes:
        files: files in name order.
        places: (order, key) -> (file, row) of the row that counts.
        absent: the (order, key) whose content gave no feature.
        rejected: (order, key) -> reasons and details of what was rejected of the content.
    """

    files: list[str]
    places: dict[tuple[int, bytes], tuple[int, int]]
    absent: set[tuple[int, bytes]]
    rejected: dict[tuple[int, bytes], list[dict[str, str]]]

    def place(self, pair: tuple[int, bytes]) -> tuple[int, int] | None:
        """Return where the feature of a pair is, None where there is none."""
        return None if pair in self.absent else self.places.get(pair)


def stored(index: Index, space: str, partition: Partition, wanted: Iterable[tuple[int, bytes]]) -> Stored:
    """Find which of the (order, key) pairs `wanted` the store has for a partition, and where."""
    return find(part_files(index, space, partition), wanted)


def find(files: Sequence[str], wanted: Iterable[tuple[int, bytes]]) -> Stored:
    """Find which of the (order, key) pairs `wanted` are in files, given in name order, and where."""
    result = Stored(list(files), {}, set(), {})
    asked = set(wanted)
    for number, path in enumerate(result.files):
        row = 0
        with storage.open_input(path) as source, pq.ParquetFile(source, pre_buffer=False) as file:
            columns = [ORDER, KEY, PRESENT, REJECTED]
            for batch in file.iter_batches(8 * ROW_GROUP, columns=columns, use_threads=False):
                orders, keys, present, rejected = (column.to_pylist() for column in batch.columns)
                for offset, pair in enumerate(zip(orders, keys, strict=True)):
                    if pair in asked and pair not in result.places:
                        result.places[pair] = (number, row + offset)
                        if not present[offset]:
                            result.absent.add(pair)
                        if rejected[offset]:
                            result.rejected[pair] = rejected[offset]
                row += batch.num_rows
    return result


class RowGroups:
    """Reads row groups of feature files; of each file the last one read is held."""

    def __init__(self, files: Sequence[str], columns: Sequence[str]):
        """Prepare for reading; files are opened when they are first needed."""
        self._paths = files
        self._columns = list(columns)
        self._open: dict[int, tuple[pa.NativeFile, pq.ParquetFile]] = {}
        self._held: dict[int, tuple[int, pa.Table]] = {}

    def group(self, file: int, number: int) -> pa.Table:
        """Return a row group of a file, both by their numbers."""
        held = self._held.get(file)
        if held is None or held[0] != number:
            if file not in self._open:
                source = storage.open_input(self._paths[file])
                self._open[file] = (source, pq.ParquetFile(source, pre_buffer=False))
            table = self._open[file][1].read_row_group(number, columns=self._columns, use_threads=False)
            held = self._held[file] = (number, table)
        return held[1]

    def rows(self, places: Sequence[tuple[int, int]]) -> pa.Table:
        """Return the rows at these places, (file, row) each; places that follow the order of the files are read once."""
        pieces, positions = [], []
        for (file, group), members in itertools.groupby(
            sorted(range(len(places)), key=places.__getitem__), key=lambda n: (places[n][0], places[n][1] // ROW_GROUP)
        ):
            numbers = list(members)
            pieces.append(self.group(file, group).take([places[n][1] % ROW_GROUP for n in numbers]).replace_schema_metadata(None))
            positions += numbers
        return pa.concat_tables(pieces).take(np.argsort(positions))

    def close(self) -> None:
        """Close the files."""
        for source, file in self._open.values():
            file.close()
            source.close()
        self._open.clear()
        self._held.clear()

    def __enter__(self) -> Self:
        """Return the reader."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files."""
        self.close()


class FeatureReader(RowGroups):
    """Reads the features at given places; places that follow the order of the files are read once."""

    def __init__(self, files: Sequence[str], dimension: int):
        """Prepare for reading; files are opened when they are first needed."""
        super().__init__(files, [FEATURE])
        self._dimension = dimension
        self._unpacked: dict[int, tuple[int, np.ndarray]] = {}

    def read(self, places: Sequence[tuple[int, int] | None]) -> np.ndarray:
        """Return float16[N, D]; rows of zeros where the place is None."""
        features = np.zeros((len(places), self._dimension), dtype="<f2")
        for position, place in enumerate(places):
            if place is not None:
                file, row = place
                group, offset = divmod(row, ROW_GROUP)
                features[position] = self._features(file, group)[offset]
        return features

    def _features(self, file: int, group: int) -> np.ndarray:
        held = self._unpacked.get(file)
        if held is None or held[0] != group:
            held = self._unpacked[file] = (group, unpack(self.group(file, group)[FEATURE]))
        return held[1]
