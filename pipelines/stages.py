"""Stages of a run: what each needs, its counts, and the marker that says it ended.

    catalogue-index ingest|encode|fuse|build|publish --catalogue 'shop/*.parquet' --index DIR

A run is found again by the hash of its plan: the input listing, the settings that matter, the bundle. The same
command goes on where the unfinished run of the same plan stopped.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import apache_beam as beam

from encoders.bundle import Bundle
from encoders.pooling import Views
from encoders.towers import TowerSpec
from pipelines import pictures, storage
from pipelines.build import build_version
from pipelines.catalogue import CatalogueOptions, CatalogueSchema, Shard, inspect, list_shards
from pipelines.collect import Collect, mark_collected, piles_of, uncollected
from pipelines.config import Config, fingerprint
from pipelines.encode import Encode, EncodeSettings
from pipelines.features import Space
from pipelines.fuse import Fuse, FuseSettings
from pipelines.ingest import Ingest, IngestSettings, ingest_first
from pipelines.layout import (
    FORMAT,
    PARTITION_ROWS,
    Index,
    Partition,
    Run,
    Stage,
    partition_bits,
    partitions,
    read_json,
    write_json,
)
from pipelines.plan import CutShards, Plan, PlanSettings, group_shards
from pipelines.publish import next_sequence, publish_version, read_current
from pipelines.runner import run_pipeline

_log = logging.getLogger(__name__)
STAGES: tuple[Stage, ...] = ("ingest", "plan", "encode", "collect", "fuse", "build", "publish")
GROUP_ROWS = 65_536


class RejectRateError(RuntimeError):
    """Too many rows were rejected."""


class StageError(RuntimeError):
    """A stage was asked for before the stage it builds on ended."""


@dataclass(frozen=True)
class Job:
    """One catalogue on its way through the stages of one run.

    Attributes:
        config: settings.
        run: paths of the run.
        shards: the catalogue's files.
        schema: what their columns mean.
        towers: folder of the tower of each modality that is encoded.
        spaces: feature space of each.
        bundle: folder of the bundle in the index; None while a bundle is being trained.
        flags: what goes to Beam.
        encoded: encoder items that went through a tower in this process, by modality.
    """

    config: Config
    run: Run
    shards: tuple[Shard, ...]
    schema: CatalogueSchema
    towers: Mapping[str, str]
    spaces: Mapping[str, Space]
    bundle: str | None
    flags: tuple[str, ...]
    encoded: dict[str, int] = field(default_factory=dict)

    @property
    def index(self) -> Index:
        """Paths of the index."""
        return Index(self.run.root)

    @property
    def uris(self) -> tuple[str, ...]:
        """URIs of the shards, by their numbers."""
        return tuple(shard.uri for shard in self.shards)

    def partitions(self) -> list[Partition]:
        """List the partitions of the run."""
        return partitions(self.ended("ingest")["partition_bits"])

    def ended(self, stage: Stage) -> Any:
        """Return the counts of a stage that ended.

        Raises:
            StageError: it has not.
        """
        path = self.run.ended(stage)
        if not storage.exists(path):
            raise StageError(
                f"{stage} has not ended for this catalogue and bundle: run 'catalogue-index {_command(stage)}' first"
            )
        return read_json(path)


def _command(stage: Stage) -> str:
    return {"plan": "encode", "collect": "fuse"}.get(stage, stage)


def catalogue_options(config: Config) -> CatalogueOptions:
    """Return what the reader of the catalogue needs of the configuration."""
    return CatalogueOptions(
        patterns=config.catalogue, columns=dict(config.column), text=config.text, keep=config.keep,
        max_pictures=config.max_pictures,
    )  # fmt: skip


def open_job(
    config: Config, kind: str, towers: Mapping[str, tuple[str, TowerSpec]], views: Mapping[str, Views],
    bundle: str | None, bundle_hash: str | None, flags: Iterable[str] = (),
) -> Job:  # fmt: skip
    """Look at the catalogue and find the unfinished run of the same plan, or start a new one.

    Args:
        config: settings.
        kind: "run" or "train".
        towers: modality -> (folder, specification).
        views: modality -> what views its features are made of.
        bundle: folder of the bundle, None in training.
        bundle_hash: its hash.
        flags: flags for Beam.

    Raises:
        CatalogueError: the catalogue cannot be read, or has nothing to encode.
    """
    shards = tuple(list_shards(config.catalogue, config.format))
    schema = inspect(shards, catalogue_options(config))
    spaces = {m: Space.of(spec, views[m]) for m, (_, spec) in towers.items() if _has(schema, m)}
    settings = {name: getattr(config, name) for name in _PLANNED}
    plan = {
        "format": FORMAT, "kind": kind, "bundle": bundle_hash, "settings": settings,
        "shards": [[shard.uri, shard.size, shard.fingerprint] for shard in shards],
        "spaces": {modality: space.id for modality, space in spaces.items()},
    }  # fmt: skip
    digest = fingerprint(plan)
    run = _find_run(Index(config.index), digest)
    if run is None:
        run = _new_run(Index(config.index), digest)
        write_json(run.plan, {**plan, "hash": digest})
    else:
        _log.info("going on with the unfinished run %s", run.id)
    for space in spaces.values():
        space.declare(Index(config.index))
    folders = {modality: towers[modality][0] for modality in spaces}
    return Job(config, run, shards, schema, folders, spaces, bundle, tuple(flags))


# The settings whose change makes another run; the others only say when to stop.
_PLANNED = ("format", "column", "text", "keep", "allow_root", "max_pictures", "max_pixels", "strict", "limit", "unit_items",
            "metric", "trees", "max_items_per_shard", "seed")  # fmt: skip


def _has(schema: CatalogueSchema, modality: str) -> bool:
    return schema.picture_kind is not None if modality == "picture" else bool(schema.text)


def _find_run(index: Index, digest: str) -> Run | None:
    plans = storage.list_folder(storage.join(index.root, "runs"), f"*-{digest[:12]}/plan.json")
    for info in reversed(plans):
        run = index.run(info.path.rsplit("/", 2)[-2])
        if read_json(run.plan)["hash"] == digest and not storage.exists(run.finished):
            return run
    return None


def _new_run(index: Index, digest: str) -> Run:
    started = datetime.now(UTC)
    while storage.exists((run := index.run(f"{started:%Y%m%dT%H%M%SZ}-{digest[:12]}")).plan):
        # The same plan ran and ended within this second: its name, and what lies under it, is taken.
        started += timedelta(seconds=1)
    return run


def timed(job: Job, stage: Stage, work: Callable[[], Any]) -> Any:
    """Run a stage unless it ended already; its counts say how long it took."""
    path = job.run.ended(stage)
    if storage.exists(path):
        return read_json(path)
    started = time.monotonic()
    counts = work()
    counts["seconds"] = round(time.monotonic() - started, 3)
    write_json(path, counts)
    _log.info("%s: %s in %.1f s", stage, _describe(counts), counts["seconds"])
    return counts


def _describe(counts: Mapping[str, Any]) -> str:
    parts = []
    for key, value in counts.items():
        if isinstance(value, int) and not isinstance(value, bool):
            parts.append(f"{value:,} {key}")
        elif isinstance(value, Mapping) and value and all(isinstance(v, int) for v in value.values()):
            parts += [f"{v:,} {name} {key}" for name, v in value.items()]
    return ", ".join(parts) or "done"


def ingest(job: Job) -> dict[str, Any]:
    """Read the catalogue into the run."""
    return timed(job, "ingest", lambda: _ingest(job))


def _ingest(job: Job) -> dict[str, Any]:
    settings = IngestSettings(job.run, job.schema, job.config.strict)
    if job.config.limit is not None:
        # A trial: one worker reads shard after shard, because what a text shard holds is known only when it is read.
        ingest_first(job.shards, settings, job.config.limit)
    else:
        run_pipeline(lambda p: p | "Shards" >> beam.Create(list(job.shards)) | Ingest(settings), job.flags)
    pieces = [read_json(info.path) for info in storage.list_folder(job.run.file("ingest"), "*.json")]
    per_shard = Counter({shard.index: 0 for shard in job.shards})
    currencies: Counter[str] = Counter()
    for piece in pieces:
        per_shard[piece["shard"]] += piece["rows"]
        currencies.update(piece["currencies"])
    if len(currencies) > 1:
        _log.warning("prices are in several currencies: %s", _counted(currencies))
    rows = sum(per_shard.values())
    counts = {
        "rows": rows, "rows_per_shard": [per_shard[shard.index] for shard in job.shards],
        "partition_bits": _fix_partitions(job, rows), "currencies": dict(currencies), **sum_rejects(pieces),
    }  # fmt: skip
    check_reject_rate(job, [counts], rows)
    return counts


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _fix_partitions(job: Job, rows: int) -> int:
    bits = partition_bits(rows, min(job.config.partition_rows, PARTITION_ROWS))
    path = job.index.settings
    if storage.exists(path):
        bits = max(bits, read_json(path)["partition_bits"])
    write_json(path, {"format": FORMAT, "partition_bits": bits})
    return bits


def sum_rejects(elements: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Add up what the elements of a stage rejected: products and fields by reason."""
    products: Counter[str] = Counter()
    fields: Counter[str] = Counter()
    for element in elements:
        products.update(element["rejected"]["products"])
        fields.update(element["rejected"]["fields"])
    return {"rejected": dict(products), "rejected_fields": dict(fields)}


def check_reject_rate(job: Job, stages: Iterable[Mapping[str, Any]], rows: int) -> None:
    """Fail above `--max-reject-rate`.

    Raises:
        RejectRateError: naming the commonest reasons.
    """
    reasons: Counter[str] = Counter()
    for counts in stages:
        reasons.update(counts["rejected"])
        reasons.update(counts["rejected_fields"])
    rejected, most = sum(reasons.values()), job.config.max_reject_rate
    if rows and rejected > most * rows:
        named = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common(3))
        raise RejectRateError(
            f"{rejected:,} rejects in {rows:,} rows ({100 * rejected / rows:.1f} %) are more than --max-reject-rate "
            f"{100 * most:g} %: {named}; see {job.run.file('rejects')}"
        )


def plan(job: Job) -> dict[str, Any]:
    """Find out what is missing in the feature store and cut it into units."""
    job.ended("ingest")
    return timed(job, "plan", lambda: _plan(job))


def _plan(job: Job) -> dict[str, Any]:
    ingested = job.ended("ingest")
    roots = job.config.allow_root or pictures.catalogue_roots(job.uris)
    settings = PlanSettings(
        job.index, job.run, job.spaces, job.uris, tuple(roots), job.config.max_pictures, job.config.unit_items,
        job.config.strict,
    )  # fmt: skip
    _collect(job)
    parts = job.partitions()
    run_pipeline(lambda p: p | "Partitions" >> beam.Create(parts) | Plan(settings), job.flags)
    if job.schema.picture_kind == "bytes" and "picture" in job.spaces:
        groups = group_shards(ingested["rows_per_shard"], GROUP_ROWS)
        run_pipeline(lambda p: p | "ShardGroups" >> beam.Create(groups) | CutShards(settings), job.flags)
    planned = [read_json(job.run.done("plan", part.name)) for part in parts]
    counts = {
        "products": sum(element["products"] for element in planned),
        "missing": {m: sum(element["missing"].get(m, 0) for element in planned) for m in job.spaces},
        "known": {m: sum(element["known"].get(m, 0) for element in planned) for m in job.spaces},
        **sum_rejects(planned),
    }
    check_reject_rate(job, [ingested, counts], ingested["rows"])
    return counts


def encode(job: Job) -> dict[str, Any]:
    """Encode what is missing."""
    job.ended("plan")
    return timed(job, "encode", lambda: _encode(job))


def _encode(job: Job) -> dict[str, Any]:
    missing = job.ended("plan")["missing"]
    names = [info.path.rsplit("/", 1)[-1].removesuffix(".json") for info in storage.list_folder(job.run.file("plan"), "*.json")]
    counts: dict[str, Any] = {"items": {}, "truncated": {}}
    for modality, space in job.spaces.items():
        if not missing[modality]:
            continue
        _log.info("encode: %d products' %ss are to be encoded", missing[modality], modality)
        settings = EncodeSettings(
            job.run, "plan", job.index.units(space.id, job.run.id), space, job.towers[modality], job.shards, job.schema,
            job.config.max_pixels,
        )  # fmt: skip
        elements = [name for name in names if modality == "picture" or not name.startswith("shards-")]
        counters = run_pipeline(partial(_encode_elements, elements=elements, settings=settings), job.flags)
        job.encoded[modality] = counts["items"][modality] = counters.get(f"{modality}_items", 0)
        counts["truncated"][modality] = counters.get(f"{modality}_truncated", 0)
    return counts


def _encode_elements(pipeline: beam.Pipeline, elements: Sequence[str], settings: EncodeSettings) -> object:
    return pipeline | "Elements" >> beam.Create(elements) | Encode(settings)


def collect(job: Job) -> dict[str, Any]:
    """Bring fresh features to their partitions."""
    job.ended("encode")
    return timed(job, "collect", lambda: {"collected": _collect(job)})


def _collect(job: Job) -> int:
    piles = uncollected(job.index, [space.id for space in job.spaces.values()])
    if piles:
        work = [(pile, part) for pile in piles for part in job.partitions()]
        run_pipeline(lambda p: p | "Partitions" >> beam.Create(work) | Collect(), job.flags)
        for pile in piles:
            mark_collected(pile)
    return len(piles)


def fuse(job: Job) -> dict[str, Any]:
    """Compute every product's vectors."""
    collect(job)
    return timed(job, "fuse", lambda: _fuse(job))


def _fuse(job: Job) -> dict[str, Any]:
    assert job.bundle is not None
    settings = FuseSettings(job.index, job.run, job.bundle, job.spaces, job.uris, job.config.strict)
    parts = job.partitions()
    run_pipeline(lambda p: p | "Partitions" >> beam.Create(parts) | Fuse(settings), job.flags)
    fused = [read_json(job.run.done("fuse", part.name)) for part in parts]
    counts = {"products": sum(element["rows"] for element in fused), "files": fused, **sum_rejects(fused)}
    earlier = [job.ended("ingest"), job.ended("plan")]
    check_sum(job, [*earlier, counts], earlier[0]["rows"], counts["products"])
    return counts


def check_sum(job: Job, stages: Iterable[Mapping[str, Any]], rows: int, indexed: int) -> None:
    """Check that what came in is what is indexed plus what is rejected.

    Raises:
        RuntimeError: it is not; the run's files are wrong and nothing may be published.
        RejectRateError: too much is rejected.
    """
    stages = list(stages)
    rejected = sum(sum(counts["rejected"].values()) for counts in stages)
    if rows != indexed + rejected:
        raise RuntimeError(
            f"{rows:,} rows came in, but {indexed:,} are indexed and {rejected:,} rejected: the run {job.run.id} is "
            "damaged; delete its folder and run again"
        )
    check_reject_rate(job, stages, rows)


def build(job: Job, bundle: Bundle) -> dict[str, Any]:
    """Build the Annoy files and the manifest of the version."""
    fused = job.ended("fuse")
    return timed(job, "build", lambda: _build(job, bundle, fused))


def _build(job: Job, bundle: Bundle, fused: Mapping[str, Any]) -> dict[str, Any]:
    config = job.config
    earlier = [job.ended("ingest"), job.ended("plan"), fused]
    rejected: Counter[str] = Counter()
    for counts in earlier:
        rejected.update(counts["rejected"])
    current = read_current(job.index)
    manifest = build_version(
        job.index, job.run.id, fused["files"], bundle, metric=config.metric, trees=config.trees,
        max_items_per_shard=config.max_items_per_shard, seed=config.seed, rows_in=earlier[0]["rows"],
        rejected=dict(rejected), rejects=[info.path for info in storage.list_folder(job.run.file("rejects"), "*.parquet")],
        previous=current, sequence=next_sequence(job.index), flags=job.flags,
    )  # fmt: skip
    return {"items": manifest.items, "previous": current, "recall@10": manifest.recall}


def publish(job: Job) -> dict[str, Any]:
    """Check the version and make it the current one."""
    built = job.ended("build")
    return timed(job, "publish", lambda: _publish(job, built["previous"]))


def _publish(job: Job, previous: str | None) -> dict[str, Any]:
    publish_version(job.index, job.run.id, previous)
    finish(job)
    return {"version": job.run.id}


def finish(job: Job) -> None:
    """Say that a run is over and delete what only its stages needed."""
    write_json(job.run.finished, {"finished": datetime.now(UTC).isoformat(timespec="seconds")})
    for pile in piles_of(job.index, [space.id for space in job.spaces.values()], job.run.id):
        storage.remove_folder(pile.folder)
    for name in ("ingest", "work", "queries", "statistics"):
        storage.remove_folder(job.run.file(name))
