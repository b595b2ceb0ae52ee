"""What a run did: summed up from what its stages left, for a person and for `summary.json`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines import storage
from pipelines.changes import Changes
from pipelines.counts import each, moved, plural, shown
from pipelines.evaluated import Evaluated, read_evaluated
from pipelines.job import Job
from pipelines.layout import Run, read_json
from pipelines.prune import Pruned
from pipelines.publish import read_current
from pipelines.stages import STAGES

# What the rows of a stage are, by the name they have among its counts.
_ROWS = {"ingest": "rows", "plan": "products", "encode": "items", "fuse": "products", "build": "items"}


@dataclass(frozen=True)
class Pace:
    """How long a stage took, and the rows, products or encoder items it went through; None where it has none."""

    seconds: float
    rows: int | None

    @property
    def rows_per_second(self) -> float | None:
        """Give how many it went through in a second."""
        return self.rows / self.seconds if self.rows and self.seconds else None


@dataclass(frozen=True)
class Report:
    """What a run did.

    Attributes:
        version: the version's id.
        encoded: items that went through a tower, by modality.
        rows: rows that came in.
        indexed: products in the version.
        rejected: products rejected, by reason.
        rejected_fields: fields rejected, by reason.
        currencies: products with a price, by its currency where one is named.
        stages: how long each stage took.
        recall: recall@10 of the version, None before it is built, or where it has no products.
        annoy: trees, what they were chosen for, and `search_k`; None before the version is built.
        moved: share of the neighbours of `probes` products that moved since the version before, None where none is known.
        probes: products whose neighbours were compared.
        published: whether the version is the current one.
        paths: what was written, by name.
        changes: what changed since the version that was current, None before PLAN has ended.
        to_encode: products and encoder items that PLAN found to be encoded, by modality.
        pruned: what was deleted afterwards, None where nothing was looked for.
        evaluated: what the version found for labelled queries, None where it was not asked.
        evaluated_before: what the version before it found, None where it was not asked.
    """

    version: str
    encoded: Mapping[str, int]
    rows: int
    indexed: int
    rejected: Mapping[str, int]
    rejected_fields: Mapping[str, int]
    currencies: Mapping[str, int]
    stages: Mapping[str, Pace]
    recall: float | None
    annoy: str | None
    moved: float | None
    probes: int
    published: bool
    paths: Mapping[str, str]
    changes: Changes | None = None
    to_encode: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    pruned: Pruned | None = None
    evaluated: Evaluated | None = None
    evaluated_before: Evaluated | None = None

    def lines(self) -> Iterable[str]:
        """Yield the report for a person."""
        stored = "" if any(self.encoded.values()) else ", all features were stored"
        yield f"version {self.version}{' (current)' if self.published else ''}: encoded {each(self.encoded, plural)}{stored}"
        yield from self.catalogue_lines()
        if self.recall is not None:
            yield f"recall@10 {self.recall:g}{moved(self.moved, self.probes)}"
        if self.evaluated is not None:
            yield from self.evaluated.lines(self.evaluated_before)
        if self.annoy is not None:
            yield f"Annoy: {self.annoy}"
        for name, path in self.paths.items():
            yield f"{name}: {path}"
        if self.pruned is not None and self.pruned.did_something:
            yield from self.pruned.lines()

    def catalogue_lines(self) -> Iterable[str]:
        """Yield what came in, what of it changed, and what was rejected."""
        rejected = sum(self.rejected.values())
        if self.changes is not None:
            yield f"{self.changes}; {rejected:,} rejected"
        if "fuse" in self.stages:
            yield f"{self.rows:,} rows in = {self.indexed:,} products indexed + {rejected:,} rejected"
        for name, reasons in (("products", self.rejected), ("fields", self.rejected_fields)):
            if reasons:
                yield f"rejected {name}: {shown(reasons)}"
        if len(self.currencies) > 1:
            yield f"prices in several currencies: {shown(self.currencies)}; filter by the column currency to compare them"

    def table(self) -> list[dict[str, Any]]:
        """Return a row for each stage: its seconds, its rows, and those a second."""
        return [
            {"stage": stage, "rows": "" if pace.rows is None else f"{pace.rows:,}", "seconds": f"{pace.seconds:.1f}",
             "rows/s": "" if pace.rows_per_second is None else f"{pace.rows_per_second:,.0f}"}
            for stage, pace in self.stages.items()
        ]  # fmt: skip


def read_counts(run: Run) -> dict[str, dict[str, Any]]:
    """Return the counts of the stages of a run that ended, by stage."""
    return {stage: read_json(path) for stage in STAGES if storage.exists(path := run.ended(stage))}


def report(job: Job) -> Report:
    """Sum up what is known of a run so far."""
    counts = read_counts(job.run)
    rejected: Counter[str] = Counter()
    fields: Counter[str] = Counter()
    for found in counts.values():
        rejected.update(found.get("rejected", {}))
        fields.update(found.get("rejected_fields", {}))
    ingested, planned, built = (counts.get(stage, {}) for stage in ("ingest", "plan", "build"))
    paths = {"run": job.run.folder}
    if "build" in counts:
        paths["version"] = job.index.version(job.run.id)
    return Report(
        version=job.run.id,
        encoded=job.encoded,
        rows=ingested.get("rows", 0),
        indexed=counts.get("fuse", {}).get("products", 0),
        rejected=dict(rejected),
        rejected_fields=dict(fields),
        currencies=ingested.get("currencies", {}),
        stages={stage: Pace(found["seconds"], _rows(stage, found)) for stage, found in counts.items()},
        recall=built.get("recall@10"),
        annoy=built.get("annoy"),
        moved=built.get("moved_neighbours"),
        probes=built.get("probes", 0),
        published=read_current(job.index) == job.run.id,
        paths=paths,
        changes=Changes(**planned["changes"]) if "changes" in planned else None,
        to_encode={
            modality: {"products": count, "items": planned["items"][modality]}
            for modality, count in planned.get("missing", {}).items() if "items" in planned
        },
        evaluated=read_evaluated(job.index, job.run.id),
        evaluated_before=read_evaluated(job.index, built.get("previous")),
    )  # fmt: skip


def _rows(stage: str, counts: Mapping[str, Any]) -> int | None:
    rows = counts.get(_ROWS.get(stage, ""))
    return sum(rows.values()) if isinstance(rows, Mapping) else rows
