"""Stages of a run: what each needs, its counts, and the marker that says it ended.

    catalogue-index ingest|encode|fuse|build|publish --catalogue 'shop/*.parquet' --index DIR

Each takes a job, does what its marker does not say is done, and leaves its counts.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import apache_beam as beam

from catalogue_lookup.manifest import Manifest
from encoders.bundle import Bundle
from pipelines import pictures, storage
from pipelines.build import TREES, build_version
from pipelines.changes import Changes, comparable
from pipelines.collect import Collect, mark_collected, uncollected
from pipelines.counts import plural, shown, told
from pipelines.drift import drift_since
from pipelines.encode import Encode, EncodeSettings
from pipelines.evaluate import evaluate_version
from pipelines.fuse import Fuse, FuseSettings
from pipelines.gate import Limits, RefusedError, judge
from pipelines.ingest import Ingest, IngestSettings, ingest_first
from pipelines.job import Job, finish_run
from pipelines.layout import FORMAT, PARTITION_ROWS, Stage, partition_bits, read_json, write_json
from pipelines.outlook import keep_speed, look_ahead, other_spaces, shown_total
from pipelines.plan import CutShards, Plan, PlanSettings, group_shards
from pipelines.publish import next_sequence, publish_version, read_current
from pipelines.reject_counts import check_reject_rate, check_sum, sum_rejects
from pipelines.runner import run_pipeline

_log = logging.getLogger(__name__)
STAGES: tuple[Stage, ...] = ("ingest", "plan", "encode", "collect", "fuse", "build", "publish")
GROUP_ROWS = 65_536


def timed(job: Job, stage: Stage, work: Callable[[], Any]) -> Any:
    """Run a stage unless it ended already; its counts say how long it took."""
    path = job.run.ended(stage)
    if storage.exists(path):
        return read_json(path)
    started = time.monotonic()
    counts = work()
    counts["seconds"] = round(time.monotonic() - started, 3)
    write_json(path, counts)
    _log.info("%s: %s; %.1f s", stage, told(stage, counts), counts["seconds"])
    return counts


def ingest(job: Job) -> dict[str, Any]:
    """Read the catalogue into the run."""
    return timed(job, "ingest", lambda: _ingest(job))


def _ingest(job: Job) -> dict[str, Any]:
    settings = IngestSettings(job.run, job.schema, job.config.strict, len(job.shards))
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
        _log.warning("prices are in several currencies: %s", shown(currencies))
    rows = sum(per_shard.values())
    counts = {
        "rows": rows, "rows_per_shard": [per_shard[shard.index] for shard in job.shards],
        "partition_bits": _fix_partitions(job, rows), "currencies": dict(currencies), **sum_rejects(pieces),
        # PLAN compares all partitions with the same version, whatever becomes current meanwhile.
        "since": comparable(job.index, read_current(job.index)),
    }  # fmt: skip
    check_reject_rate(job, [counts], rows)
    return counts


def _fix_partitions(job: Job, rows: int) -> int:
    bits = partition_bits(rows, min(job.config.partition_rows, PARTITION_ROWS))
    path = job.index.settings
    if storage.exists(path):
        bits = max(bits, read_json(path)["partition_bits"])
    write_json(path, {"format": FORMAT, "partition_bits": bits})
    return bits


def plan(job: Job) -> dict[str, Any]:
    """Find out what is missing in the feature store and cut it into units."""
    job.ended("ingest")
    return timed(job, "plan", lambda: _plan(job))


def _plan(job: Job) -> dict[str, Any]:
    ingested = job.ended("ingest")
    roots = job.config.allow_root or pictures.catalogue_roots(job.uris)
    # Where it was read long ago, the version may have been pruned meanwhile.
    since = comparable(job.index, ingested["since"])
    settings = PlanSettings(
        job.index, job.run, job.spaces, job.uris, tuple(roots), job.config.max_pictures, job.config.unit_items,
        job.config.strict, since, job.schema.content_columns, job.withdrawn, job.schema.max_reviews,
    )  # fmt: skip
    _collect(job)
    parts = job.partitions()
    run_pipeline(lambda p: p | "Partitions" >> beam.Create(parts, reshuffle=False) | Plan(settings), job.flags)
    planned = [read_json(job.run.done("plan", part.name)) for part in parts]
    groups = []
    if job.schema.picture_kind == "bytes" and any(element["missing"].get("picture") for element in planned):
        groups = group_shards(ingested["rows_per_shard"], GROUP_ROWS)
        run_pipeline(lambda p: p | "ShardGroups" >> beam.Create(groups, reshuffle=False) | CutShards(settings), job.flags)
    cut = [element["units"] for element in (*planned, *(read_json(job.run.done("plan", group.name)) for group in groups))]
    changes = Changes.total(since, (element["changes"] for element in planned))
    _log.info("plan: %s", changes)
    counts = {
        "products": sum(element["products"] for element in planned),
        "missing": {m: sum(element["missing"].get(m, 0) for element in planned) for m in job.spaces},
        "known": {m: sum(element["known"].get(m, 0) for element in planned) for m in job.spaces},
        "items": {m: sum(element["items"].get(m, 0) for element in planned) for m in job.spaces},
        "units": {m: sum(len(units.get(m, ())) for units in cut) for m in job.spaces},
        "changes": changes.to_json(),
        **sum_rejects(planned),
    }
    check_reject_rate(job, [ingested, counts], ingested["rows"])
    return counts


def forecast(job: Job) -> None:
    """Find out what is to be encoded and how long that will take, for `job.outlook`; nothing of it is kept."""
    elements = _planned_elements(job)
    job.outlook.clear()
    job.outlook.update(look_ahead(job.index, job.ended("plan"), _encoders(job), elements))


def reencoded(job: Job) -> list[str]:
    """Say of each modality whose tower or views are others than the current version's what that comes to."""
    since = job.ended("ingest")["since"]
    if since is None:
        return []
    lines = []
    for modality, why in other_spaces(job.index, since, job.spaces, job.towers).items():
        outlook = job.outlook.get(modality)
        cost = "they are in store: nothing is encoded again" if outlook is None else (
            f"{outlook.products:,} products' {plural(modality)} are encoded again: {outlook}"
        )  # fmt: skip
        lines.append(f"{modality} features are others than those of version {since}: {why}; {cost}")
    return lines


def _planned_elements(job: Job) -> list[str]:
    return [info.path.rsplit("/", 1)[-1].removesuffix(".json") for info in storage.list_folder(job.run.file("plan"), "*.json")]


def _encoders(job: Job) -> dict[str, EncodeSettings]:
    units = job.ended("plan")["units"]
    return {
        modality: EncodeSettings(
            job.run, "plan", job.index.units(space.id, job.run.id), space, job.towers[modality], job.shards, job.schema,
            job.config.max_pixels, units[modality],
        )
        for modality, space in job.spaces.items()
    }  # fmt: skip


def encode(job: Job) -> dict[str, Any]:
    """Encode what is missing."""
    job.ended("plan")
    return timed(job, "encode", lambda: _encode(job))


def _encode(job: Job) -> dict[str, Any]:
    missing, names = job.ended("plan")["missing"], _planned_elements(job)
    forecast(job)
    for line in [*reencoded(job), shown_total(job.outlook)]:
        _log.info("encode: %s", line)
    counts: dict[str, Any] = {"items": {}, "truncated": {}, "outlook": {m: one.to_json() for m, one in job.outlook.items()}}
    for modality, settings in _encoders(job).items():
        if not missing[modality]:
            continue
        elements = [name for name in names if modality == "picture" or not name.startswith("shards-")]
        started = time.monotonic()
        counters = run_pipeline(partial(_encode_elements, elements=elements, settings=settings), job.flags)
        items = job.encoded[modality] = counts["items"][modality] = counters.get(f"{modality}_items", 0)
        counts["truncated"][modality] = counters.get(f"{modality}_truncated", 0)
        # What units take together is more than the time that passed where several workers encode.
        seconds = min(time.monotonic() - started, counters.get(f"{modality}_unit_ms", 0) / 1000)
        keep_speed(job.index, settings.space, job.run.id, items, seconds)
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
        run_pipeline(lambda p: p | "Partitions" >> beam.Create(work, reshuffle=False) | Collect(), job.flags)
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
    run_pipeline(lambda p: p | "Partitions" >> beam.Create(parts, reshuffle=False) | Fuse(settings), job.flags)
    fused = [read_json(job.run.done("fuse", part.name)) for part in parts]
    counts = {"products": sum(element["rows"] for element in fused), "files": fused, **sum_rejects(fused)}
    earlier = [job.ended("ingest"), job.ended("plan")]
    check_sum(job, [*earlier, counts], earlier[0]["rows"], counts["products"])
    return counts


def build(job: Job, bundle: Bundle) -> dict[str, Any]:
    """Build the Annoy files and the manifest of the version."""
    fused = job.ended("fuse")
    marker, current = job.run.ended("build"), read_current(job.index)
    # A version that was refused, or overtaken, is to take the place of the one that is current now.
    if current != job.run.id and storage.exists(marker) and read_json(marker)["previous"] != current:
        storage.remove([marker])
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
        previous=current, sequence=next_sequence(job.index), min_recall=config.min_recall,
        max_index_bytes=config.max_index_bytes, flags=job.flags,
    )  # fmt: skip
    drift = drift_since(job.index, manifest)
    return {
        "items": manifest.items, "previous": current, "recall@10": manifest.recall, "annoy": _tuning(job, manifest),
        "probes": drift.probes, "moved_neighbours": drift.moved,
    }  # fmt: skip


def _tuning(job: Job, manifest: Manifest) -> str:
    why = read_json(job.run.done("build", TREES))["why"]
    return (
        f"{manifest.n_trees} trees ({why}), {manifest.annoy_bytes:,} bytes; search_k {manifest.search_k}, "
        f"{manifest.measured.p50_ms:.2f} ms a query"
    )


def gate(job: Job) -> None:
    """Evaluate the version where there are labelled queries, and hold it to the limits; nothing is held against the current one.

    Raises:
        LabelledQueriesError: the queries cannot be used.
        RefusedError: naming all reasons, which are kept beside its manifest.
    """
    previous = job.ended("build")["previous"]
    if read_current(job.index) == job.run.id:
        return
    config = job.config
    if config.evaluation is not None:
        evaluate_version(job.index, job.run.id, config.evaluation, config.evaluation_column, config.seed)
    reasons = judge(job.index, job.run.id, previous, Limits.of(config))
    if reasons:
        raise RefusedError(job.index, job.run.id, reasons)


def publish(job: Job) -> dict[str, Any]:
    """Check the version and make it the current one, if the gate lets it."""
    built = job.ended("build")
    counts: dict[str, Any] = timed(job, "publish", lambda: _publish(job, built["previous"]))
    finish_run(job.index, job.run)  # last, so that a run that is over has the marks of all its stages
    return counts


def _publish(job: Job, previous: str | None) -> dict[str, Any]:
    gate(job)
    manifest = publish_version(job.index, job.run.id, previous)
    return {"version": manifest.id, "products": manifest.items}
