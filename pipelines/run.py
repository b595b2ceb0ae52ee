"""The whole job: a catalogue goes in, a published version comes out.

    catalogue-index run --catalogue 'shop/*.parquet' --index DIR [--dry-run]

What is there already is skipped: features by their keys, elements and stages by their markers, and the whole run
where catalogue, settings and bundle are those of the published version: known at once where the files are, else when
PLAN has looked at the pictures. A dry run ends there, and the run goes on from what it read.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from encoders.bundle import REVIEWS, Bundle, tower_of
from encoders.fusion import STRUCTURED
from pipelines import stages, storage
from pipelines.bundles import adopt, derive, install, open_at, own_bundle
from pipelines.catalogue import pieces
from pipelines.config import Config, ConfigError
from pipelines.gate import publish_command
from pipelines.job import Job, open_catalogue, open_job
from pipelines.labelled_queries import read_labelled_queries
from pipelines.layout import Index
from pipelines.named_values import given_weights
from pipelines.outlook import shown_total
from pipelines.prune import prune
from pipelines.publish import read_current
from pipelines.report import Report, report
from pipelines.statistics import find_settings, refit_statistics
from pipelines.summary import Night
from pipelines.unchanged import current_of_same_plan, current_of_same_products

_log = logging.getLogger(__name__)


def given_bundle(config: Config, take: bool = True) -> Bundle | None:
    """Return the bundle that the configuration asks for, else the index's own; None where there is neither.

    Args:
        config: settings.
        take: whether a bundle that is asked for becomes the index's own.
    """
    index = Index(config.index)
    if config.bundle is not None:
        given = open_at(config.bundle)
        return open_at(adopt(given, index) if take else install(given, index))
    own = own_bundle(index)
    return None if own is None else open_at(own)


def resolve_bundle(config: Config, flags: Sequence[str]) -> Bundle:
    """Return the bundle of a run, in the index: the one given, with the fusion asked for, or one trained now."""
    given = given_bundle(config)
    if given is not None:
        return adapt_bundle(given, config)
    _log.info("the index has no bundle yet: training a default one on this catalogue first")
    from pipelines.train import train

    return train(config, flags)


def adapt_bundle(given: Bundle, config: Config, take: bool = True) -> Bundle:
    """Return the bundle that the configuration makes of another one.

    Args:
        given: the other one.
        config: settings.
        take: whether it becomes the index's own.
    """
    share = given_weights(config).get(STRUCTURED, 0.0)
    if share and share != given.fusion.structured_weight:
        # What the catalogue has no columns for is refused before the index has another bundle.
        find_settings(open_catalogue(config)[1], config)
    return derive(given, Index(config.index), config, take=take)


def open_run(config: Config, flags: Sequence[str], bundle: Bundle | None = None) -> tuple[Job, Bundle]:
    """Find the bundle, unless it is given, and the unfinished run of this catalogue, or start a new one."""
    if config.evaluation is not None:
        # What cannot be used at the end of the night is refused at its beginning.
        read_labelled_queries(config.evaluation, config.evaluation_column)
    bundle = bundle or resolve_bundle(config, flags)
    folder = storage.join(Index(config.index).bundles, bundle.hash)
    towers = {m: (storage.join(folder, "towers", tower_of(m)), bundle.towers[tower_of(m)]) for m in bundle.modalities}
    views = {m: bundle.views_of(m) for m in bundle.modalities}
    job = open_job(config, "run", towers, views, folder, bundle.hash, flags)
    if REVIEWS in bundle.modalities and REVIEWS not in job.spaces:
        _log.warning("the bundle weighs reviews, but the catalogue has none: map a column of them with --column reviews=COLUMN")
    if REVIEWS not in bundle.modalities and REVIEWS in config.column:
        _log.warning("--column reviews=%s has no effect: reviews have no weight, which --weight reviews=0.2 gives them",
                     config.column[REVIEWS])  # fmt: skip
    if bundle.fusion.structured_weight and find_settings(job.schema, config) is None:
        _log.warning("the bundle weighs structured columns, but the catalogue keeps none of them: all count as missing")
    return job, bundle


def run(config: Config, flags: Sequence[str] = (), night: Night | None = None) -> Report:
    """Bring a catalogue into a published version."""
    if night is None:
        with Night("run", config) as night:
            return run(config, flags, night)
    given = given_bundle(config) if config.refit_statistics else None
    if given is not None:
        refit_statistics(config, given, flags)
        config = config.replace(bundle=None)
    job, bundle = open_run(config, flags)
    night.open(job)
    kept = _unchanged(job, night)
    if kept is not None:
        return _pruned(job, night, kept)
    stages.encode(job)
    stages.fuse(job)
    stages.build(job, bundle)
    if config.publish:
        stages.publish(job)
        return _pruned(job, night, night.done(f"version {job.run.id} is published"))
    stages.gate(job)
    if read_current(job.index) != job.run.id:
        _log.info("it is not published: %s does that", publish_command(job.index, job.run.id))
    return night.done(f"version {job.run.id} is built and not published")


def _pruned(job: Job, night: Night, told: Report) -> Report:
    """Prune the index; the version is published whatever becomes of that."""
    if not job.config.keep_versions:
        return told
    try:
        return night.prune(prune(job.index, job.config.keep_versions, job.config.grace_hours, flags=job.flags))
    except Exception as error:  # a night whose version is published has not failed
        _log.warning("version %s is current, but pruning failed, and 'catalogue-index prune' goes on with it: %s",
                     told.version, error)  # fmt: skip
        return told


def _unchanged(job: Job, night: Night) -> Report | None:
    """Read and plan; returns the report of a night on which the current version stays."""
    current = current_of_same_plan(job)
    if current is not None:
        message = f"catalogue, settings and bundle are those of the current version {current.run.id}: nothing to do"
        _log.info("%s", message)
        return night.keep(current, None, message)
    stages.ingest(job)
    stages.plan(job)
    planned = report(job)
    current = current_of_same_products(job)
    if current is None:
        return None
    message = (
        f"products, pictures, settings and bundle are those of the current version {current.run.id}, and nothing is to be "
        "encoded: it stays"
    )
    _log.info("%s", message)
    return night.keep(current, planned, message)


def dry_run(config: Config, flags: Sequence[str], night: Night) -> list[str]:
    """Read and plan as a run would, and return what it would do, in lines; nothing is encoded or published.

    The run that it began is there for the real one to go on with, unless that would have nothing to do.

    Raises:
        ConfigError: statistics were to be fitted, which makes another bundle.
    """
    if config.refit_statistics:
        raise ConfigError("--refit-statistics makes another bundle: leave it out of --dry-run; it changes no feature")
    given = given_bundle(config, take=False)
    if given is None:
        night.message = "the index has no bundle: a run trains one first"
        return _untrained(config)
    job, _ = open_run(config, flags, adapt_bundle(given, config, take=False))
    night.open(job)
    kept = _unchanged(job, night)
    if kept is not None:
        return [f"dry run: {night.message}", *kept.catalogue_lines()]
    stages.forecast(job)
    planned = night.done(shown_total(job.outlook))
    return [
        f"dry run: {night.message}", *planned.catalogue_lines(), *stages.reencoded(job),
        "a run goes on from here: nothing was encoded or published",
    ]  # fmt: skip


def _untrained(config: Config) -> list[str]:
    """Say what is known of a run that has to train a bundle first."""
    shards, schema = open_catalogue(config)
    rows = [piece.rows for shard in shards for piece in pieces(shard)]
    counted = f"{sum(row or 0 for row in rows):,} rows" if None not in rows else "rows that only reading counts"
    encoded = [f"pictures ({config.picture_tower})"] if schema.picture_kind and config.picture_tower else []
    encoded += [f"texts ({config.text_tower})"] if schema.text and config.text_tower else []
    return [
        "dry run: the index has no bundle: a run trains one on this catalogue first (or takes one by --bundle DIR)",
        f"{len(shards):,} files with {counted}: all products would be new, and all their {' and '.join(encoded)} encoded",
        "how long that takes is known once there is a bundle: catalogue-index train",
    ]


def run_stage(config: Config, stage: str, flags: Sequence[str] = (), night: Night | None = None) -> Report:
    """Run one stage of the job on what the stages before it left."""
    if night is None:
        with Night(stage, config) as night:
            return run_stage(config, stage, flags, night)
    job, bundle = open_run(config, flags)
    night.open(job)
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
    return night.done(f"{stage} has ended")
