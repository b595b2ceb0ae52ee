"""COMPACTION: a partition's base and deltas become one base, of the rows that versions and runs that stay name.

    catalogue-index prune --index DIR

One element is a partition of one space. It is compacted where its files but the largest exceed 1/8 to 3/8 of that one,
rising with the partition's number: a quarter on average, and not all partitions in the same night. It is also where a
withdrawn product lies in it, and where files that a base stands for are to go and hold a row that the base lacks.

A base names the files that it stands for in its footer. They stay for the grace time, and the first of them in name order
counts as before: the base holds those very rows. A file of a partition that was split goes when all its parts' bases
stand for it. Memory is the keys of one partition, and one row group of each of its files.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import ranges, storage
from pipelines.features import RowGroups, find, name_order
from pipelines.layout import KEY, ORDER, PRODUCT_ID, ROW_GROUP, Index, Partition, order_of, partition_named, partitions
from pipelines.retention import Rule
from pipelines.storage import FileInfo

BASE = "-base.parquet"
REPLACES = b"replaces"
LEAST_SHARE, SPREAD = 1 / 8, 1 / 4


@dataclass(frozen=True)
class Shelf:
    """The files of a partition of a space.

    Attributes:
        space: the space.
        partition: the partition.
        files: all that may hold its rows, those of partitions it was cut out of too, in name order.
        hidden: when a base that stands for a file was written, by the file's path.
    """

    space: str
    partition: Partition
    files: tuple[FileInfo, ...]
    hidden: Mapping[str, float]

    @property
    def visible(self) -> tuple[FileInfo, ...]:
        """The files that no base stands for."""
        return tuple(file for file in self.files if file.path not in self.hidden)

    @property
    def is_overgrown(self) -> bool:
        """Whether its deltas are too large beside its base: the largest file, be it called so or not."""
        sizes = [file.size >> (self.partition.bits - _partition_of(file.path).bits) for file in self.visible]
        if len(sizes) < 2:
            return False
        share = LEAST_SHARE + SPREAD * self.partition.number / (1 << self.partition.bits)
        return sum(sizes) - max(sizes) > share * max(sizes)


def _partition_of(path: str) -> Partition:
    return partition_named(path.rsplit("/", 2)[-2])


def survey(index: Index, spaces: Iterable[str], bits: int) -> list[Shelf]:
    """Look at the files of all partitions; of bases the footers are read."""
    shelves = []
    for space in sorted(spaces):
        folder = storage.join(index.space(space), "parts")
        infos = storage.list_folder(folder, "*/*.parquet")
        there = {info.path: info for info in infos}
        replaced = {info.path: _replaced(info.path, folder) for info in infos if info.path.endswith(BASE)}
        own: dict[str, list[FileInfo]] = {}
        for info in infos:
            own.setdefault(info.path.rsplit("/", 2)[-2], []).append(info)
        for partition in partitions(bits):
            files = [info for part in partition.lineage() for info in own.get(part.name, ())]
            hidden: dict[str, float] = {}
            for base in files:
                for path, fingerprint in replaced.get(base.path, {}).items():
                    if path in there and there[path].fingerprint == fingerprint:
                        hidden[path] = min(hidden.get(path, base.modified), base.modified)
            if files:
                shelves.append(Shelf(space, partition, tuple(sorted(files, key=lambda f: name_order(f.path))), hidden))
    return shelves


def _replaced(path: str, folder: str) -> dict[str, str]:
    """Return the files that a base stands for, by path, with their fingerprints then."""
    try:
        with storage.open_input(path) as source, pq.ParquetFile(source, pre_buffer=False) as file:
            told = (file.schema_arrow.metadata or {}).get(REPLACES)
    except pa.ArrowInvalid as error:
        raise storage.StorageError(f"{path} cannot be read: {error}; delete it, what it holds is encoded again") from error
    return {} if told is None else {storage.join(folder, name): mark for name, mark in json.loads(told).items()}


@dataclass(frozen=True)
class Reader:
    """A run whose features stay: its products name them.

    Attributes:
        run: its id.
        modality: modality of the space.
        bits: depth of its partitions.
    """

    run: str
    modality: str
    bits: int


@dataclass(frozen=True)
class CompactSettings:
    """What a base depends on besides the files that it is made of.

    Attributes:
        index: paths of the index.
        readers: the runs whose features stay, by space.
        withdrawn: products whose features go.
        name: name of the bases.
        rule: how long files stay that a base stands for.
    """

    index: Index
    readers: Mapping[str, tuple[Reader, ...]]
    withdrawn: frozenset[str]
    name: str
    rule: Rule

    def wanted(self, shelf: Shelf) -> set[tuple[int, bytes]]:
        """Return the (order, key) pairs of a partition that stay."""
        pairs: set[tuple[int, bytes]] = set()
        part = shelf.partition
        for reader in self.readers.get(shelf.space, ()):
            path = self.index.run(reader.run).products(Partition(reader.bits, part.number >> (part.bits - reader.bits)))
            if storage.exists(path):
                names = [ORDER, PRODUCT_ID, f"{reader.modality}_{KEY}"]
                table = ranges.read_range(path, ORDER, part.first, part.last, names)
                pairs |= {
                    (order, key)
                    for order, product_id, key in zip(*(table[name].to_pylist() for name in names), strict=True)
                    if key is not None and product_id not in self.withdrawn
                }
        return pairs

    def is_due(self, shelf: Shelf) -> bool:
        """Tell whether a partition is to be looked into."""
        orders = (order_of(product_id) for product_id in self.withdrawn)
        return (
            shelf.is_overgrown
            or any(self.rule.over(written) for written in shelf.hidden.values())
            or any(shelf.partition.first <= order <= shelf.partition.last for order in orders)
        )


def compact(shelf: Shelf, settings: CompactSettings) -> int:
    """Write a base for a partition that needs one; returns its bytes, 0 where it needs none."""
    wanted = settings.wanted(shelf)
    held = find([file.path for file in shelf.files], wanted)
    if not (shelf.is_overgrown or _holds(shelf, settings.withdrawn) or _would_lose(shelf, wanted, len(held.places))):
        return 0
    folder = storage.join(settings.index.space(shelf.space), "parts")
    replaces = {file.path.removeprefix(f"{folder}/"): file.fingerprint for file in shelf.files}
    with storage.open_input(held.files[0]) as source, pq.ParquetFile(source, pre_buffer=False) as file:
        schema = file.schema_arrow.with_metadata({REPLACES: json.dumps(replaces, sort_keys=True).encode()})
    places = [held.places[pair] for pair in sorted(held.places)]
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / settings.name
        with RowGroups(held.files, schema.names) as groups, pq.ParquetWriter(
            path, schema, compression="none", use_dictionary=False, store_schema=True
        ) as writer:
            for start in range(0, len(places), ROW_GROUP):
                rows = groups.rows(places[start : start + ROW_GROUP])
                writer.write_table(rows.replace_schema_metadata(schema.metadata), row_group_size=ROW_GROUP)
        storage.put_file(path, storage.join(settings.index.part(shelf.space, shelf.partition), settings.name))
        return path.stat().st_size


def _holds(shelf: Shelf, product_ids: frozenset[str]) -> bool:
    part = shelf.partition
    orders = {order for product_id in product_ids if part.first <= (order := order_of(product_id)) <= part.last}
    if not orders:
        return False
    tables = (ranges.read_matching(file.path, ORDER, orders, [PRODUCT_ID]) for file in shelf.visible)
    return any(product_id in product_ids for table in tables for product_id in table[PRODUCT_ID].to_pylist())


def _would_lose(shelf: Shelf, wanted: set[tuple[int, bytes]], held: int) -> bool:
    """Tell whether rows that stay lie only in files that bases stand for."""
    return bool(shelf.hidden) and len(find([file.path for file in shelf.visible], wanted).places) < held


@dataclass
class Compact(beam.PTransform):
    """Partitions of spaces -> bytes of the base written for each; bases go to the feature store."""

    settings: CompactSettings

    def expand(self, shelves: beam.PCollection[Shelf]) -> beam.PCollection[int]:
        """Wire the transform."""
        return shelves | "SpreadPartitions" >> beam.Reshuffle() | "CompactPartition" >> beam.Map(compact, self.settings)


def superseded(shelves: Sequence[Shelf], rule: Rule) -> list[FileInfo]:
    """List the files that may go because bases stand for all their rows, the last in name order first.

    In that order the row that counts is at each moment the one that counted before.
    """
    files = {file.path: file for shelf in shelves for file in shelf.files}
    needed = {
        file.path
        for shelf in shelves
        for file in shelf.files
        if file.path not in shelf.hidden or not rule.over(shelf.hidden[file.path])
    }
    return [files[path] for path in sorted(files.keys() - needed, key=name_order, reverse=True)]
