"""Names of the files and columns of an index, each spelled once.

CURRENT                                   id of the published version
WITHDRAWN                                 products that no answer holds
index.json                                how many partitions there are
bundles/<hash>/                           towers, heads and fusion the index was made with
towers/<modality>-<digest>/                a tower that training was asked for, as it was built
towers/trained-<key>/                     towers that a training made, and training.json
features/<space>/space.json               what the features of the space depend on
features/<space>/units/<run>/<unit>       features one unit of work gave
features/<space>/parts/<partition>/       the same features in their place: deltas of runs, and bases that prune made of them
pictures/<partition>/<run>.parquet        content hashes of pictures read by path, with their fingerprints
runs/<run>/                               all a run makes before it is published
versions/<run>/                           a whole version: manifest, vectors, Annoy files, items, rejects
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from catalogue_lookup.withdrawn import WITHDRAWN_FILE
from pipelines import storage

FORMAT = 1
PARTITION_ROWS = 65_536
ROW_GROUP = 1_024
Stage = Literal["ingest", "plan", "encode", "collect", "fuse", "build", "publish"]

ORDER, PRODUCT_ID, KEY, FEATURE, PRESENT, REJECTED = "order", "product_id", "key", "feature", "present", "rejected"
VECTOR, CONTENT = "vector", "content"
KEY_BYTES = 16
# The reason of products that are rejected because they are withdrawn; limits do not count them.
WITHDRAWN = "withdrawn"
# Folders of trained towers, and what is written to each last: which towers it holds, and figures of their training.
TRAINED, TRAINING_FILE = "trained-", "training.json"

REJECT_SCHEMA = pa.schema(
    [
        ("product_id", pa.string()),
        ("shard", pa.string()),
        ("row", pa.int64()),
        ("stage", pa.string()),
        # Null where the whole product is rejected, else the field that was.
        ("field", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)


def modality_vector(modality: str) -> str:
    """Name the column of a modality's own vector."""
    return f"{modality}_vector"


def order_of(product_id: str) -> int:
    """Return the place of a product in the one order of all files: uint64 of BLAKE2b of its id."""
    return int.from_bytes(hashlib.blake2b(product_id.encode(), digest_size=8).digest(), "big")


@dataclass(frozen=True, order=True)
class Partition:
    """The products whose order begins with the `bits` top bits of `number`."""

    bits: int
    number: int

    @property
    def name(self) -> str:
        """Name of the partition in paths; a partition and its halves have different names."""
        return f"{self.bits:02d}-{self.number:05d}"

    @property
    def first(self) -> int:
        """Smallest order inside."""
        return self.number << (64 - self.bits)

    @property
    def last(self) -> int:
        """Largest order inside."""
        return ((self.number + 1) << (64 - self.bits)) - 1

    def lineage(self) -> Iterator[Partition]:
        """Yield the partition and those it was cut out of: files of all of them may hold its rows."""
        for bits in range(self.bits, -1, -1):
            yield Partition(bits, self.number >> (self.bits - bits))

    def cut(self, bits: int) -> Iterator[Partition]:
        """Yield the partitions at a greater depth that it is cut into."""
        for number in range(self.number << (bits - self.bits), (self.number + 1) << (bits - self.bits)):
            yield Partition(bits, number)


def partition_named(name: str) -> Partition:
    """Return the partition of that name in paths."""
    bits, _, number = name.partition("-")
    return Partition(int(bits), int(number))


def partitions(bits: int) -> list[Partition]:
    """List all partitions at that depth, in order."""
    return [Partition(bits, number) for number in range(1 << bits)]


def partition_bits(products: int, rows: int = PARTITION_ROWS) -> int:
    """Return the least depth at which a partition is expected to hold at most `rows` products."""
    return max(0, (max(products, 1) - 1) // rows).bit_length()


@dataclass(frozen=True)
class Index:
    """Paths below the root of an index."""

    root: str

    @property
    def current(self) -> str:
        """File that names the published version."""
        return storage.join(self.root, "CURRENT")

    @property
    def withdrawn(self) -> str:
        """File that lists the products that no answer holds."""
        return storage.join(self.root, WITHDRAWN_FILE)

    @property
    def settings(self) -> str:
        """File that says how many partitions there are."""
        return storage.join(self.root, "index.json")

    @property
    def bundles(self) -> str:
        """Folder of bundles, each named by its hash."""
        return storage.join(self.root, "bundles")

    @property
    def towers(self) -> str:
        """Folder of towers built for training, each named by its specification, and of trained ones."""
        return storage.join(self.root, "towers")

    def trained(self, key: str) -> str:
        """Folder of the towers that one training made, which depend on what is hashed to `key`."""
        return storage.join(self.towers, f"{TRAINED}{key[:16]}")

    @property
    def features(self) -> str:
        """Folder of the feature store: a folder a space."""
        return storage.join(self.root, "features")

    @property
    def runs(self) -> str:
        """Folder of runs."""
        return storage.join(self.root, "runs")

    @property
    def versions(self) -> str:
        """Folder of versions."""
        return storage.join(self.root, "versions")

    def space(self, space: str) -> str:
        """Folder of the features of one space."""
        return storage.join(self.features, space)

    def units(self, space: str, run: str) -> str:
        """Folder of the unit files a run wrote to a space."""
        return storage.join(self.space(space), "units", run)

    def part(self, space: str, partition: Partition) -> str:
        """Folder of one partition's features."""
        return storage.join(self.space(space), "parts", partition.name)

    def pictures(self, partition: Partition) -> str:
        """Folder of the content hashes of pictures read by path."""
        return storage.join(self.root, "pictures", partition.name)

    def version(self, version: str) -> str:
        """Folder of a version."""
        return storage.join(self.versions, version)

    def run(self, run: str) -> Run:
        """Return the paths of a run."""
        return Run(self.root, run)


@dataclass(frozen=True)
class Run:
    """Paths of one run."""

    root: str
    id: str

    @property
    def folder(self) -> str:
        """Folder of all the run makes before publishing."""
        return storage.join(self.root, "runs", self.id)

    @property
    def plan(self) -> str:
        """File with what the run depends on."""
        return self.file("plan.json")

    @property
    def finished(self) -> str:
        """File that says that the run is over."""
        return self.file("finished.json")

    def file(self, *names: str) -> str:
        """Path below the run's folder."""
        return storage.join(self.folder, *names)

    def ended(self, stage: Stage) -> str:
        """File that says that a stage ended, with its counts."""
        return self.file("ended", f"{stage}.json")

    def done(self, stage: str, element: str) -> str:
        """File that says that one element of a stage is done, with its counts."""
        return self.file(stage, f"{element}.json")

    def products(self, partition: Partition) -> str:
        """File of a partition's products: columns and keys, no pixels."""
        return self.file("products", f"{partition.name}.parquet")

    def rejects(self, stage: Stage, element: str) -> str:
        """File of what one element of a stage rejected."""
        return self.file("rejects", f"{stage}-{element}.parquet")

    def work(self, modality: str) -> str:
        """Folder of the units of work of a modality."""
        return self.file("work", modality)


def write_json(path: str, content: Any) -> None:
    """Write a JSON file whole, keys sorted."""
    storage.write_whole(path, (json.dumps(content, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: str) -> Any:
    """Read a JSON file."""
    return json.loads(storage.read_bytes(path))
