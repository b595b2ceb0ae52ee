"""COLLECT: bring the features that units of work gave to their partitions.

The first half of FUSE, and of planning where an earlier run left units behind. One element is a partition of one
space: it reads its range of every unit file of a run and writes `<run>-delta.parquet`. Peak memory is the fresh
features of one partition: 65,536 products x 5.9 kB = 385 MB for the default picture tower on the first night.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa

from pipelines import ranges, storage
from pipelines.features import write_features
from pipelines.layout import ORDER, Index, Partition, read_json, write_json

COLLECTED = "collected.json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pile:
    """The unit files one run left in one space."""

    index: Index
    space: str
    run: str

    @property
    def folder(self) -> str:
        """Folder of the unit files."""
        return self.index.units(self.space, self.run)

    @property
    def marker(self) -> str:
        """File that says that all units of the pile are in their places."""
        return storage.join(self.folder, COLLECTED)

    def remove(self) -> None:
        """Delete the unit files and last the marker: what a kill leaves of a pile is not collected over what it gave."""
        storage.remove(_unit_files(self))
        storage.remove_folder(self.folder)


def uncollected(index: Index, spaces: Iterable[str]) -> list[Pile]:
    """List the piles of unit files that are not in their places yet, oldest run first."""
    piles = []
    for space in spaces:
        runs = {info.path.rsplit("/", 2)[-2] for info in storage.list_folder(index.units(space, ""), "*/*.parquet")}
        piles += [Pile(index, space, run) for run in sorted(runs)]
    return [pile for pile in piles if not _is_collected(pile)]


def piles_of(index: Index, spaces: Iterable[str], run: str) -> list[Pile]:
    """Return the piles of one run that are in their places."""
    return [pile for pile in (Pile(index, space, run) for space in spaces) if _is_collected(pile)]


def _is_collected(pile: Pile) -> bool:
    if not storage.exists(pile.marker):
        return False
    return read_json(pile.marker)["units"] >= len(_unit_files(pile))


def _unit_files(pile: Pile) -> list[str]:
    return [info.path for info in storage.list_folder(pile.folder, "*.parquet")]


def collect_partition(work: tuple[Pile, Partition]) -> int:
    """Write the delta of one partition and return its rows."""
    pile, partition = work
    tables = ranges.read_ranges(_unit_files(pile), ORDER, partition.first, partition.last)
    if not tables:
        return 0
    rows = pa.concat_tables(tables)
    write_features(storage.join(pile.index.part(pile.space, partition), f"{pile.run}-delta.parquet"), rows)
    _log.info(
        "collect: partition %d of %d: %d new features of %s", partition.number + 1, 1 << partition.bits, rows.num_rows, pile.space
    )
    return rows.num_rows


def mark_collected(pile: Pile) -> None:
    """Say that all units of a pile are in their places."""
    write_json(pile.marker, {"units": len(_unit_files(pile))})


@dataclass
class Collect(beam.PTransform):
    """(pile, partition) -> rows of the delta."""

    def expand(self, work: beam.PCollection[tuple[Pile, Partition]]) -> beam.PCollection[int]:
        """Wire the transform."""
        return work | "SpreadPartitions" >> beam.Reshuffle() | "CollectPartition" >> beam.Map(collect_partition)
