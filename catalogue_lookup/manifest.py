"""The manifest of a version: all that opening it needs, and what every file must be.

The lookup owns the format; the jobs write it. Files are named by their content, so that a late duplicate has a name
that nobody lists:

    manifest.json                       this
    annoy/00000-<sha12>.ann             items 0 to n, by their place in the one order; ids inside are dense from 0
    modalities/00000-<sha12>.npy        vectors of the modalities of the same items, where the fused ones don't hold them
    items-<sha12>.arrow                 product_id, order and the columns to show and filter by, a row an item
    vectors/00000-<sha12>.parquet       the vectors of a partition, for other engines
    rejects/<stage>-<sha12>.parquet     what the run rejected
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from encoders.integrity import FileEntry, IntegrityError, SealedJson, read_entries

FORMAT = 1
MANIFEST_FILE = "manifest.json"
CURRENT_FILE = "CURRENT"
VERSIONS_FOLDER, BUNDLES_FOLDER, MODALITIES_FOLDER = "versions", "bundles", "modalities"
PRODUCT_ID, ORDER = "product_id", "order"

Metric = Literal["angular", "euclidean", "manhattan", "dot"]
_VERSION_ID = re.compile(r"(?!\.{1,2}$)[\w.-]{1,255}", re.ASCII)
METRICS: tuple[Metric, ...] = get_args(Metric)


class ManifestError(IntegrityError):
    """A manifest cannot be read; the message names it."""


_SEALED = SealedJson("manifest of an index", FORMAT, ManifestError, "copy the version again")


@dataclass(frozen=True)
class AnnoyFile:
    """One Annoy file: items `first_item` to `first_item + items - 1` of the version have the ids 0 to `items - 1`."""

    file: str
    first_item: int
    items: int


@dataclass(frozen=True)
class ItemsFile:
    """The Arrow IPC file of ids and columns; every batch but the last has `batch_rows` rows."""

    file: str
    batch_rows: int


@dataclass(frozen=True)
class ChosenFor:
    """What the number of trees was chosen for.

    Attributes:
        items: products there were then.
        recall: recall@10 that was wanted.
        max_bytes: bytes that the Annoy files were allowed, None for any.
    """

    items: int
    recall: float
    max_bytes: int | None


@dataclass(frozen=True)
class Measured:
    """What searching the version gave on a sample, one query at a time.

    Attributes:
        recall: share of the ten nearest by exact search that were found, the least over the kinds of queries;
            None for an index of no items.
        by_query: the same for each kind: "product" (a product's own vector), or a modality (what a query of that
            modality alone would be, made of a product's).
        queries: queries of each kind.
        p50_ms: milliseconds a query took, the median.
        p95_ms: the 95th percentile.
        chosen_for: what `n_trees` was chosen for, None where it was given.
    """

    recall: float | None
    by_query: Mapping[str, float]
    queries: int
    p50_ms: float
    p95_ms: float
    chosen_for: ChosenFor | None = None


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`.

    Attributes:
        id: the version's id.
        sequence: its place in the order of versions.
        previous: the version that was current when this one was built.
        created: UTC time of writing, ISO 8601.
        metric: distance of the Annoy files.
        dimension: D, the dimension of the fused vectors.
        items: products in the index.
        rows: rows that the run read.
        rejected: rows rejected, by reason.
        fusion: how the vectors of the modalities became one.
        modalities: modalities of the bundle.
        bundle: hash of the bundle.
        n_trees: trees of each Annoy file.
        search_k: nodes to look at for ten answers, a file.
        measured: recall and latency.
        columns: columns to show and filter by.
        annoy: the Annoy files, in order.
        items_file: ids and columns.
        vectors: the files of vectors, in order.
        files: every file's size and sha256.
        ranking: the kinds of queries whose answers the bundle's ranker ranks by attention; not written where there are none.
    """

    id: str
    sequence: int
    previous: str | None
    created: str
    metric: Metric
    dimension: int
    items: int
    rows: int
    rejected: Mapping[str, int]
    fusion: Mapping[str, Any]
    modalities: tuple[str, ...]
    bundle: str
    n_trees: int
    search_k: int
    measured: Measured
    columns: tuple[str, ...]
    annoy: tuple[AnnoyFile, ...]
    items_file: ItemsFile
    vectors: tuple[str, ...]
    files: Mapping[str, FileEntry]
    ranking: tuple[str, ...] = ()

    @property
    def annoy_bytes(self) -> int:
        """Give the bytes of all Annoy files."""
        return sum(self.files[shard.file].size for shard in self.annoy)

    @property
    def recall(self) -> float | None:
        """Give the measured recall@10, None for an index of no items."""
        return self.measured.recall

    def modality_file(self, number: int) -> str | None:
        """Name the file of modality vectors beside an Annoy file, None where there is none."""
        return next((name for name in self.files if name.startswith(f"{MODALITIES_FOLDER}/{number:05d}-")), None)

    def to_json(self) -> bytes:
        """Write the manifest as JSON, with the hash of its own content."""
        content = asdict(self)
        if not self.ranking:
            del content["ranking"]
        return _SEALED.write(content)


def parse_current(data: bytes, path: str) -> str:
    """Return the id of the version that `CURRENT` names.

    Args:
        data: content of the file.
        path: where it lies, for messages.

    Raises:
        ManifestError: it names none.
    """
    name = data.decode("ascii", "replace").strip()
    if not _VERSION_ID.fullmatch(name):
        raise ManifestError(f"{path} is altered: it names no version; delete it and publish one by its id")
    return name


def read_manifest(data: bytes, path: str) -> Manifest:
    """Read what `Manifest.to_json` wrote.

    Args:
        data: content of the file.
        path: where it lies, for messages.

    Raises:
        ManifestError: it is of a newer format, truncated or altered.
    """
    content = _SEALED.read(data, path)
    del content["format"], content["hash"]
    content.setdefault("ranking", ())
    missing = {field.name for field in fields(Manifest)} ^ set(content)
    if missing:
        raise ManifestError(f"{path} does not have the fields of format {FORMAT} ({', '.join(sorted(missing))}): build it again")
    measured = content["measured"]
    if measured.get("chosen_for") is not None:
        measured["chosen_for"] = ChosenFor(**measured["chosen_for"])
    content |= {
        "measured": Measured(**measured),
        "annoy": tuple(AnnoyFile(**shard) for shard in content["annoy"]),
        "items_file": ItemsFile(**content["items_file"]),
        "files": read_entries(content["files"]),
        **{name: tuple(content[name]) for name in ("modalities", "columns", "vectors", "ranking")},
    }
    return Manifest(**content)
