"""TRAIN: features of a catalogue in, a new bundle out: towers, heads, fusion.

    catalogue-index train --catalogue 'shop/*.parquet' --index DIR

Features are encoded where they are missing, by the stages of a run; training reads them from memory-mapped files,
so memory is bounded by the batches.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from encoders.bundle import Bundle, write_bundle
from encoders.presets import build_tower
from encoders.tower_spec import SPEC_FILE, Modality, TowerSpec
from encoders.training import TrainingSettings, train_heads
from pipelines import stages, storage
from pipelines.bundles import adopt, fusion_for, localise, open_at, upload
from pipelines.config import Config
from pipelines.job import finish_run, open_job
from pipelines.layout import Index
from pipelines.statistics import find_settings, fit_statistics
from pipelines.training_features import read_products, shop_words, training_data
from pipelines.views import index_views, training_views

_log = logging.getLogger(__name__)


def ensure_towers(config: Config) -> dict[str, tuple[str, TowerSpec]]:
    """Build the towers the configuration names, unless the index has them; returns folder and specification of each."""
    towers: dict[str, tuple[str, TowerSpec]] = {}
    wanted: tuple[tuple[Modality, str], ...] = (("picture", config.picture_tower), ("text", config.text_tower))
    for modality, spec in wanted:
        if spec:
            name = f"{modality}-{hashlib.blake2b(spec.encode(), digest_size=8).hexdigest()}"
            folder = storage.join(Index(config.index).towers, name)
            if not storage.exists(storage.join(folder, SPEC_FILE)):
                _log.info("building the %s tower %s", modality, spec)
                _build(spec, modality, folder)
            text = storage.read_bytes(storage.join(folder, SPEC_FILE)).decode()
            towers[modality] = (folder, TowerSpec.from_json(text))
    return towers


def _build(spec: str, modality: Modality, folder: str) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        built = Path(temporary) / "tower"
        build_tower(spec, modality, built)
        upload(built, folder, SPEC_FILE)


def train(config: Config, flags: Iterable[str] = ()) -> Bundle:
    """Train a bundle on a catalogue and make it the index's own.

    Returns:
        The bundle, at `config.bundle` where that is given, else in the index.
    """
    shop_words(config)  # as everything that is refused: before anything is built or encoded
    views, towers = index_views(config), ensure_towers(config)
    job = open_job(config, "train", towers, training_views(config), None, None, flags)
    find_settings(job.schema, config)  # what it refuses is refused before anything is encoded
    for stage in (stages.ingest, stages.plan, stages.encode, stages.collect):
        stage(job)
    products = read_products(job)
    used = {modality: towers[modality] for modality in job.spaces}
    settings = TrainingSettings(dimension=config.dimension, seed=config.seed, epochs=config.epochs or None)
    with tempfile.TemporaryDirectory() as temporary:
        data, sizes = training_data(job, products, Path(temporary))
        trained = train_heads(data, {modality: features.shape[2] for modality, features in data.features.items()}, settings)
        structured = fit_statistics(job, Path(temporary) / "structured")
        bundle = write_bundle(
            Path(config.bundle) if config.bundle else Path(temporary) / "bundle",
            {modality: localise(folder) for modality, (folder, _) in used.items()},
            trained.heads,
            fusion_for(config, tuple(used), structured),
            views,
            {**trained.figures, **sizes},
            structured,
        )
        own = adopt(bundle, Index(config.index))
    _report(trained.figures)
    finish_run(job.index, job.run)
    return bundle if config.bundle else open_at(own)


def _report(figures: Mapping[str, Any]) -> None:
    for modality, recalls in figures.get("validation", {}).items():
        shown = ", ".join(f"{name} {value:.3f}" for name, value in recalls.items())
        _log.info("train: on products held out for validation, text -> %s %s", modality, shown)
