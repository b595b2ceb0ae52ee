"""The whole job: a catalogue goes in, a published version comes out.

    catalogue-index run --catalogue 'shop/*.parquet' --index DIR

What is there already is skipped: features by their keys, elements and stages by their markers, and the whole run
where catalogue, settings and bundle are those of the published version: known at once where the files are, else when
PLAN has looked at the pictures.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from encoders.bundle import Bundle
from encoders.fusion import STRUCTURED
from pipelines import stages, storage
from pipelines.bundles import adopt, derive, open_at, own_bundle
from pipelines.config import Config, given_weights
from pipelines.gate import publish_command
from pipelines.job import Job, open_catalogue, open_job
from pipelines.layout import Index, read_json
from pipelines.prune import Pruned, prune
from pipelines.publish import read_current
from pipelines.statistics import find_settings, refit_statistics
from pipelines.unchanged import current_of_same_plan, current_of_same_products

_log = logging.getLogger(__name__)


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
        seconds: seconds a stage took.
        recall: recall@10 of the version, None before it is built, or where it has no products.
        moved: share of the neighbours of `probes` products that moved since the version before, None where none is known.
        probes: products whose neighbours were compared.
        published: whether the version is the current one.
        paths: what was written, by name.
        pruned: what was deleted afterwards, None where nothing was looked for.
    """

    version: str
    encoded: Mapping[str, int]
    rows: int
    indexed: int
    rejected: Mapping[str, int]
    rejected_fields: Mapping[str, int]
    currencies: Mapping[str, int]
    seconds: Mapping[str, float]
    recall: float | None
    moved: float | None
    probes: int
    published: bool
    paths: Mapping[str, str]
    pruned: Pruned | None = None

    def lines(self) -> Iterable[str]:
        """Yield the report for a person."""
        encoded = ", ".join(f"{count:,} {modality}s" for modality, count in self.encoded.items() if count) or "nothing"
        yield f"version {self.version}{' (current)' if self.published else ''}: encoded {encoded}"
        yield f"{self.rows:,} rows in = {self.indexed:,} products indexed + {sum(self.rejected.values()):,} rejected"
        for name, reasons in (("products", self.rejected), ("fields", self.rejected_fields)):
            if reasons:
                shown = ", ".join(f"{reason} {count:,}" for reason, count in sorted(reasons.items()))
                yield f"rejected {name}: {shown}"
        if len(self.currencies) > 1:
            shown = ", ".join(f"{name} {count:,}" for name, count in sorted(self.currencies.items()))
            yield f"prices in several currencies: {shown}; filter by the column currency to compare them"
        if self.recall is not None:
            moved = "" if self.moved is None else (
                f"; {100 * self.moved:.1f} % of the neighbours of {self.probes:,} products moved since the version before"
            )  # fmt: skip
            yield f"recall@10 {self.recall:g}{moved}"
        for name, path in self.paths.items():
            yield f"{name}: {path}"
        if self.pruned is not None and self.pruned.did_something:
            yield from self.pruned.lines()


def given_bundle(config: Config) -> Bundle | None:
    """Return the bundle that the configuration asks for, else the index's own; None where there is neither."""
    index = Index(config.index)
    if config.bundle is not None:
        return open_at(adopt(open_at(config.bundle), index))
    own = own_bundle(index)
    return None if own is None else open_at(own)


def resolve_bundle(config: Config, flags: Sequence[str]) -> Bundle:
    """Return the bundle of a run, in the index: the one given, with the fusion asked for, or one trained now."""
    given = given_bundle(config)
    if given is not None:
        share = given_weights(config).get(STRUCTURED, 0.0)
        if share and share != given.fusion.structured_weight:
            # What the catalogue has no columns for is refused before the index has another bundle.
            find_settings(open_catalogue(config)[1], config)
        return derive(given, Index(config.index), config)
    _log.info("the index has no bundle yet: training a default one on this catalogue first")
    from pipelines.train import train

    return train(config, flags)


def open_run(config: Config, flags: Sequence[str]) -> tuple[Job, Bundle]:
    """Find the bundle and the unfinished run of this catalogue, or start a new one."""
    bundle = resolve_bundle(config, flags)
    folder = storage.join(Index(config.index).bundles, bundle.hash)
    towers = {m: (storage.join(folder, "towers", m), spec) for m, spec in bundle.towers.items()}
    job = open_job(config, "run", towers, bundle.views, folder, bundle.hash, flags)
    if bundle.fusion.structured_weight and find_settings(job.schema, config) is None:
        _log.warning("the bundle weighs structured columns, but the catalogue keeps none of them: all count as missing")
    return job, bundle


def run(config: Config, flags: Sequence[str] = ()) -> Report:
    """Bring a catalogue into a published version."""
    given = given_bundle(config) if config.refit_statistics else None
    if given is not None:
        refit_statistics(config, given, flags)
        config = config.replace(bundle=None)
    job, bundle = open_run(config, flags)
    current = current_of_same_plan(job)
    if current is not None:
        _log.info("catalogue, settings and bundle are those of the current version %s: nothing to do", current.run.id)
        return _pruned(current)
    stages.ingest(job)
    stages.plan(job)
    current = current_of_same_products(job)
    if current is not None:
        _log.info(
            "products, pictures, settings and bundle are those of the current version %s, and nothing is to be encoded: "
            "it stays", current.run.id,
        )  # fmt: skip
        return _pruned(current)
    stages.encode(job)
    stages.fuse(job)
    stages.build(job, bundle)
    if config.publish:
        stages.publish(job)
        return _pruned(job)
    stages.gate(job)
    if read_current(job.index) != job.run.id:
        _log.info("it is not published: %s does that", publish_command(job.index, job.run.id))
    return report(job)


def _pruned(job: Job) -> Report:
    """Prune the index and report; the version is published whatever becomes of that."""
    if not job.config.keep_versions:
        return report(job)
    try:
        pruned = prune(job.index, job.config.keep_versions, job.config.grace_hours, flags=job.flags)
    except Exception as error:  # a night whose version is published has not failed
        _log.warning("version %s is current, but pruning failed, and 'catalogue-index prune' goes on with it: %s",
                     job.run.id, error)  # fmt: skip
        return report(job)
    return dataclasses.replace(report(job), pruned=pruned)


def run_stage(config: Config, stage: str, flags: Sequence[str] = ()) -> Report:
    """Run one stage of the job on what the stages before it left."""
    job, bundle = open_run(config, flags)
    if stage == "ingest":
        stages.ingest(job)
    elif stage == "encode":
        stages.plan(job)
        stages.encode(job)
    elif stage == "fuse":
        stages.fuse(job)
    elif stage == "build":
        stages.build(job, bundle)
        stages.gate(job)
    else:
        stages.publish(job)
    return report(job)


def report(job: Job) -> Report:
    """Sum up what is known of a run so far."""
    counts: dict[str, dict[str, Any]] = {}
    for stage in stages.STAGES:
        path = job.run.ended(stage)
        if storage.exists(path):
            counts[stage] = read_json(path)
    rejected: dict[str, int] = {}
    fields: dict[str, int] = {}
    for found in counts.values():
        for reason, count in found.get("rejected", {}).items():
            rejected[reason] = rejected.get(reason, 0) + count
        for reason, count in found.get("rejected_fields", {}).items():
            fields[reason] = fields.get(reason, 0) + count
    built = counts.get("build", {})
    paths = {"run": job.run.folder}
    if "build" in counts:
        paths["version"] = job.index.version(job.run.id)
    return Report(
        version=job.run.id,
        encoded=job.encoded,
        rows=counts.get("ingest", {}).get("rows", 0),
        indexed=counts.get("fuse", {}).get("products", 0),
        rejected=rejected,
        rejected_fields=fields,
        currencies=counts.get("ingest", {}).get("currencies", {}),
        seconds={stage: found["seconds"] for stage, found in counts.items()},
        recall=built.get("recall@10"),
        moved=built.get("moved_neighbours"),
        probes=built.get("probes", 0),
        published=read_current(job.index) == job.run.id,
        paths=paths,
    )
