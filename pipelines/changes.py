"""What changed since the version that is current: tonight's products next to those of its run.

docs/operations.md, "What changed", says what each count means. A partition is compared with the rows of the same range
of the one order that the current version's run left, whether or not partitions were cut in half in between: memory is
that of a partition's products twice, without their features.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import ranges, storage
from pipelines.ingest import COLUMNS
from pipelines.layout import CONTENT, ORDER, PRODUCT_ID, Index, Partition, partitions, read_json

_log = logging.getLogger(__name__)

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Changes:
    """How tonight's products differ from those of another version's run.

    Each of tonight's products is one of unchanged, changed, stale and new.

    Attributes:
        since: the version; None where there is nothing to compare with, and all products are new.
        unchanged: as before, all their features valid.
        changed: of another text, picture or column than before.
        stale: as before, but a feature is to be encoded again.
        new: ids that the version's run did not have.
        gone: ids of it that tonight's products do not have.
        changed_by: products by what changed of them, "text", "picture", "reviews" or "columns"; one may count several times.
        stale_by: products by modality whose content is as before and its feature to be encoded again.
    """

    since: str | None
    unchanged: int = 0
    changed: int = 0
    stale: int = 0
    new: int = 0
    gone: int = 0
    changed_by: Mapping[str, int] = field(default_factory=dict)
    stale_by: Mapping[str, int] = field(default_factory=dict)

    @staticmethod
    def total(since: str | None, parts: Iterable[Mapping[str, Any]]) -> Changes:
        """Add up what partitions counted."""
        counts: Counter[str] = Counter()
        changed_by: Counter[str] = Counter()
        stale_by: Counter[str] = Counter()
        for part in parts:
            counts.update({name: part[name] for name in ("unchanged", "changed", "stale", "new", "gone")})
            changed_by.update(part["changed_by"])
            stale_by.update(part["stale_by"])
        return Changes(
            since, counts["unchanged"], counts["changed"], counts["stale"], counts["new"], counts["gone"],
            dict(sorted(changed_by.items())), dict(sorted(stale_by.items())),
        )  # fmt: skip

    @staticmethod
    def none(since: str, products: int) -> Changes:
        """Say that all products are those of a version."""
        return Changes(since, unchanged=products)

    def to_json(self) -> dict[str, Any]:
        """Give the counts as JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        parts = [
            f"{self.unchanged:,} unchanged",
            f"{self.changed:,} changed{_listed(self.changed_by)}",
            f"{self.new:,} new",
            f"{self.gone:,} gone",
        ]
        if self.stale or self.stale_by:
            parts.append(f"{self.stale:,} stale{_listed(self.stale_by)}")
        first = "nothing to compare with" if self.since is None else f"since version {self.since}"
        return f"{first}: {', '.join(parts)}"


def _listed(counts: Mapping[str, int]) -> str:
    return f" ({', '.join(f'{name} {count:,}' for name, count in counts.items() if count)})" if any(counts.values()) else ""


def comparable(index: Index, version: str | None) -> str | None:
    """Return the version if the products of its run are there to be compared with, else None, which is logged."""
    if version is None:
        return None
    run = index.run(version)
    with contextlib.suppress(FileNotFoundError):
        parts = partitions(read_json(run.ended("ingest"))["partition_bits"])
        filled = [part for part in parts if read_json(run.done("plan", part.name))["products"]]
        if all(storage.exists(run.products(part)) for part in filled) and (not filled or _tells(run.products(filled[0]))):
            return version
    _log.warning("what changed since version %s is not known: the products of its run are not there; all count as new", version)
    return None


def _tells(path: str) -> bool:
    with storage.open_input(path) as source, pq.ParquetFile(source) as file:
        return any(name.endswith(f"_{CONTENT}") for name in file.schema_arrow.names)


def read_before(index: Index, version: str, partition: Partition) -> pa.Table | None:
    """Read a partition's products of another run: ids, content and columns; None where it had none."""
    paths = [index.run(version).products(part) for part in partition.lineage()]
    tables = ranges.read_ranges([path for path in paths if storage.exists(path)], ORDER, partition.first, partition.last)
    return pa.concat_tables(tables) if tables else None


def compare(
    now: pa.Table | None, before: pa.Table | None, missing: Mapping[str, Mask], content_columns: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Count what differs between a partition's products of tonight and those before.

    Args:
        now: products with the columns of runs/<id>/products/; None: there are none.
        before: the same of another run.
        missing: bool[N] by modality, which of tonight's products are to be encoded.
        content_columns: kept columns that a modality's content is made of; they count as columns only where that is as
            before.
    """
    sizes = [0 if table is None else table.num_rows for table in (now, before)]
    counts: dict[str, Any] = {"unchanged": 0, "changed": 0, "stale": 0, "new": sizes[0], "gone": sizes[1],
                              "changed_by": {}, "stale_by": {}}  # fmt: skip
    if now is None or before is None:
        return counts
    place = pc.index_in(now[PRODUCT_ID].combine_chunks(), value_set=before[PRODUCT_ID].combine_chunks())
    known = place.is_valid()
    mine, theirs = now.filter(known), before.take(place.drop_null())
    differs, stale = {}, {}
    for modality, gone in missing.items():
        name = f"{modality}_{CONTENT}"
        # What the run before did not encode, and so did not look at, is not known to differ.
        differs[modality] = _differs(mine[name], theirs[name]) if name in theirs.column_names else np.zeros(len(mine), bool)
        stale[modality] = gone[known.to_numpy(zero_copy_only=False)] & ~differs[modality]
    differs[COLUMNS] = _columns_differ(
        mine[COLUMNS], theirs[COLUMNS],
        {name: differs[modality] for modality, names in content_columns.items() if modality in differs for name in names},
    )  # fmt: skip
    changed, old = (np.any(list(masks.values()), axis=0) for masks in (differs, stale))
    counts |= {
        "unchanged": int((~changed & ~old).sum()), "changed": int(changed.sum()), "stale": int((~changed & old).sum()),
        "new": sizes[0] - len(mine), "gone": sizes[1] - len(mine),
        "changed_by": {name: int(mask.sum()) for name, mask in differs.items() if mask.any()},
        "stale_by": {name: int(mask.sum()) for name, mask in stale.items() if mask.any()},
    }  # fmt: skip
    return counts


def _columns_differ(now: pa.ChunkedArray, before: pa.ChunkedArray, content: Mapping[str, Mask]) -> Mask:
    """Tell where any column differs but those whose content is said to; `content`: bool[N] by column."""
    mine, theirs = now.combine_chunks(), before.combine_chunks()
    result = np.zeros(len(mine), dtype=bool)
    for name in dict.fromkeys(one.name for side in (mine, theirs) for one in side.type):
        sides = [side.field(name) if side.type.get_field_index(name) >= 0 else pa.nulls(len(side)) for side in (mine, theirs)]
        differs = _differs(*sides)
        result |= differs & ~content[name] if name in content else differs
    return result


def _differs(now: pa.Array, before: pa.Array) -> Mask:
    """Tell where two columns differ: null and null, and NaN and NaN, do not."""
    if pa.types.is_null(now.type) or pa.types.is_null(before.type):
        return np.asarray(pc.xor(pc.is_null(now), pc.is_null(before)))
    if now.type != before.type or pa.types.is_nested(now.type):
        rows = zip(now.to_pylist(), before.to_pylist(), strict=True)
        return np.fromiter((one != other for one, other in rows), dtype=bool, count=len(now))
    differs = pc.fill_null(pc.not_equal(now, before), False)
    if pa.types.is_floating(now.type):
        differs = pc.and_(differs, pc.invert(pc.fill_null(pc.and_(pc.is_nan(now), pc.is_nan(before)), False)))
    return np.asarray(pc.or_(differs, pc.xor(pc.is_null(now), pc.is_null(before))))
