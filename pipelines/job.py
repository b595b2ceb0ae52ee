"""A job: one catalogue on its way through the stages of one run.

A run is found again by the hash of its plan: the input listing, the settings that matter, the bundle, the withdrawn
products. The same command goes on where the unfinished run of the same plan stopped.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from encoders.bundle import REVIEWS
from encoders.pooling import Views
from encoders.tower_spec import TowerSpec
from pipelines import storage
from pipelines.catalogue import CatalogueOptions, CatalogueSchema, Shard, inspect, list_shards
from pipelines.collect import piles_of
from pipelines.config import Config, fingerprint
from pipelines.features import Space
from pipelines.layout import FORMAT, Index, Partition, Run, Stage, partitions, read_json, write_json
from pipelines.outlook import Outlook
from pipelines.withdraw import withdrawn_ids

STARTED = "%Y%m%dT%H%M%SZ"

_log = logging.getLogger(__name__)


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
        withdrawn: ids of the products that are left out.
        encoded: encoder items that went through a tower in this process, by modality.
        outlook: what ENCODE had to do when it was last looked at, by modality.
    """

    config: Config
    run: Run
    shards: tuple[Shard, ...]
    schema: CatalogueSchema
    towers: Mapping[str, str]
    spaces: Mapping[str, Space]
    bundle: str | None
    flags: tuple[str, ...]
    withdrawn: frozenset[str] = frozenset()
    encoded: dict[str, int] = field(default_factory=dict)
    outlook: dict[str, Outlook] = field(default_factory=dict)

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


def open_catalogue(config: Config) -> tuple[tuple[Shard, ...], CatalogueSchema]:
    """Return the files of the catalogue that the configuration names, and what their columns mean.

    Raises:
        CatalogueError: the catalogue cannot be read, or has nothing to encode.
    """
    options = CatalogueOptions(
        patterns=config.catalogue, columns=dict(config.column), text=config.text, keep=config.keep,
        max_pictures=config.max_pictures, max_reviews=config.max_reviews,
    )  # fmt: skip
    shards = tuple(list_shards(config.catalogue, config.format))
    return shards, inspect(shards, options)


def open_job(
    config: Config, kind: str, towers: Mapping[str, tuple[str, TowerSpec]], views: Mapping[str, Views],
    bundle: str | None, bundle_hash: str | None, flags: Iterable[str] = (),
) -> Job:  # fmt: skip
    """Look at the catalogue and find the unfinished run of the same plan, or start a new one.

    Args:
        config: settings.
        kind: "run", "train" or "fine-tune".
        towers: modality -> (folder, specification).
        views: modality -> what views its features are made of.
        bundle: folder of the bundle, None in training.
        bundle_hash: its hash.
        flags: flags for Beam.

    Raises:
        CatalogueError: the catalogue cannot be read, or has nothing to encode.
        IntegrityError: the list of withdrawn products cannot be read.
    """
    shards, schema = open_catalogue(config)
    withdrawn = withdrawn_ids(Index(config.index))
    spaces = {m: Space.of(spec, views[m], m) for m, (_, spec) in towers.items() if _has(schema, m)}
    settings = {name: getattr(config, name) for name in PLANNED}
    if REVIEWS in spaces:
        settings["max_reviews"] = config.max_reviews
    else:
        schema = replace(schema, max_reviews=0)
    plan = {
        "format": FORMAT, "kind": kind, "bundle": bundle_hash, "settings": settings,
        "shards": [[shard.uri, shard.size, shard.fingerprint] for shard in shards],
        "spaces": {modality: space.id for modality, space in spaces.items()},
    }  # fmt: skip
    if withdrawn:
        plan["withdrawn"] = sorted(withdrawn)
    digest = fingerprint(plan)
    run = _find_run(Index(config.index), digest)
    if run is None:
        run = _new_run(Index(config.index), digest)
        write_json(run.plan, {**plan, "hash": digest})
        _log.info("new run %s", run.id)
    else:
        _log.info("going on with the unfinished run %s", run.id)
    for space in spaces.values():
        space.declare(Index(config.index))
    folders = {modality: towers[modality][0] for modality in spaces}
    return Job(config, run, shards, schema, folders, spaces, bundle, tuple(flags), withdrawn)


# The settings whose change makes another run; the others only say when to stop.
PLANNED = ("format", "column", "text", "keep", "allow_root", "max_pictures", "max_pixels", "strict", "limit", "unit_items",
            "metric", "trees", "max_index_bytes", "max_items_per_shard", "seed")  # fmt: skip


def _has(schema: CatalogueSchema, modality: str) -> bool:
    return {"picture": schema.picture_kind is not None, "text": bool(schema.text), REVIEWS: schema.reads_reviews}[modality]


def _find_run(index: Index, digest: str) -> Run | None:
    plans = storage.list_folder(index.runs, f"*-{digest[:12]}/plan.json")
    for info in reversed(plans):
        run = index.run(info.path.rsplit("/", 2)[-2])
        if read_json(run.plan)["hash"] == digest and not storage.exists(run.finished):
            return run
    return None


def _new_run(index: Index, digest: str) -> Run:
    """Name a run by when it starts, a second after the newest at the earliest: by their names runs are told old and new."""
    now = datetime.now(UTC).replace(microsecond=0)
    named = (info.path.rsplit("/", 2)[-2].partition("-")[0] for info in storage.list_folder(index.runs, "*/plan.json"))
    newest = max((name for name in named if re.fullmatch(r"\d{8}T\d{6}Z", name)), default="")
    if newest >= f"{now:{STARTED}}":
        now = datetime.strptime(newest, STARTED).replace(tzinfo=UTC) + timedelta(seconds=1)
    return index.run(f"{now:{STARTED}}-{digest[:12]}")


def finish_run(index: Index, run: Run) -> None:
    """Delete what only the stages of a run needed, and say that it is over; killed meanwhile, the next one goes on with it."""
    for pile in piles_of(index, read_json(run.plan)["spaces"].values(), run.id):
        pile.remove()
    for name in ("ingest", "work", "queries", "single", "statistics", "fine-tune"):
        storage.remove_folder(run.file(name))
    write_json(run.finished, {"finished": datetime.now(UTC).isoformat(timespec="seconds")})
