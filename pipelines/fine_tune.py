"""FINE-TUNE: a tower trained further on the catalogue, or a compact one trained from scratch, before heads are fitted.

    catalogue-index train --catalogue 'shop/*.parquet' --index DIR --fine-tune picture=4
    catalogue-index train --catalogue 'shop/*.parquet' --index DIR --picture-tower compact:64

The towers that come of it have hashes of their own, so that the stages after it encode everything with them. A checkpoint in the
run's folder is replaced whole every 50 steps; the same command goes on from it.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from encoders.heads import random_head
from encoders.meanings import Ids
from encoders.presets import write_trained
from encoders.sources import COMPACT, check_trainable, load_network, read_source
from encoders.tower_data import Pixels, TowerItems, tokens_of
from encoders.tower_spec import SPEC_FILE, Modality, TowerSpec
from encoders.tower_trainer import TowerTrainingSettings
from encoders.tower_training import train_towers
from encoders.training import TrainingSettings, train_heads
from encoders.training_data import ArrayTrainingData
from pipelines import ranges, storage
from pipelines.bundles import localise, upload
from pipelines.config import TRAINING_SETTINGS, Config, ConfigError, fingerprint
from pipelines.job import PLANNED, Job, finish_run, open_catalogue
from pipelines.layout import ORDER, TRAINING_FILE, Index, read_json, write_json
from pipelines.named_values import fine_tuned_layers
from pipelines.training_features import encode_products, training_data
from pipelines.training_pictures import TrainingPictures
from pipelines.training_products import Products
from pipelines.training_watch import watch_training
from pipelines.withdraw import withdrawn_ids
from transforms.views import PictureOperations, PictureViews

Towers = Mapping[str, tuple[str, TowerSpec]]

FINE_TUNING = TowerTrainingSettings({})
FROM_SCRATCH = replace(FINE_TUNING, steps=3000, rounds=30, patience=8, learning_rate=1e-3, head_learning_rate=1e-3)
BATCH_ROWS, VIEW_BATCH, PIECE_ROWS = 64, 32, 512
# Settings of the training that say nothing of the towers.
LATER = ("query_bank", "whitened_dimension", "whitened_share", "fusion", "weight", "ranking", "remove_gap", "tensorboard")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredCheckpoint:
    """One checkpoint as a file that is replaced whole, on a disk or an object store."""

    path: str

    def read(self) -> bytes | None:
        """Return the checkpoint, None where there is none."""
        return storage.read_bytes(self.path) if storage.exists(self.path) else None

    def write(self, data: bytes) -> None:
        """Put a checkpoint in place of the one before it."""
        storage.write_whole(self.path, data)


def trained_layers(config: Config) -> dict[str, int | None]:
    """Return how many of the last layers are trained, by modality, None for all of a compact tower.

    Raises:
        ConfigError, TowerError: a tower that is to be trained cannot be.
    """
    given, layers = fine_tuned_layers(config), dict[str, int | None]()
    specs: tuple[tuple[Modality, str], ...] = (("picture", config.picture_tower), ("text", config.text_tower))
    for modality, spec in specs:
        if spec.startswith(f"{COMPACT}:") and "," not in spec:
            read_source(spec, modality)
            layers[modality] = None
        elif given.get(modality):
            if not spec:
                raise ConfigError(f"--fine-tune {modality}={given[modality]}: the bundle has no {modality} tower")
            check_trainable(spec, modality)
            layers[modality] = given[modality]
    return layers


def train_given_towers(config: Config, towers: Towers, flags: Iterable[str]) -> tuple[Towers, Mapping[str, Any]]:
    """Train the towers that the configuration wants trained, unless the index has them.

    Returns:
        All towers, folder and specification, and figures of the training, {} where there was none.
    """
    layers = trained_layers(config)
    if not layers:
        return towers, {}
    key = _key(config, towers, layers)
    home = Index(config.index).trained(key)
    if not storage.exists(storage.join(home, TRAINING_FILE)):
        _train(config, towers, layers, home, key, flags)
    told = read_json(storage.join(home, TRAINING_FILE))
    folders = {modality: storage.join(home, name) for modality, name in told["folders"].items()}
    read = {m: TowerSpec.from_json(storage.read_bytes(storage.join(f, SPEC_FILE)).decode()) for m, f in folders.items()}
    for modality, spec in read.items():
        if spec.weights_hash == towers[modality][1].weights_hash:
            _log.info("train: no round was better than the %s tower as it was: it is kept, nothing is encoded again", modality)
        else:
            _log.info("train: the %s tower was trained, its features are others: every %s is encoded again", modality, modality)
    return {**towers, **{modality: (folders[modality], spec) for modality, spec in read.items()}}, told["figures"]


def _key(config: Config, towers: Towers, layers: Mapping[str, int | None]) -> str:
    """Hash all that the trained towers depend on."""
    shards, _ = open_catalogue(config)
    return fingerprint({
        "shards": [[shard.uri, shard.size, shard.fingerprint] for shard in shards],
        "settings": {name: getattr(config, name) for name in (*PLANNED, *TRAINING_SETTINGS) if name not in LATER},
        "towers": {modality: spec.weights_hash for modality, (_, spec) in towers.items()},
        "layers": dict(layers), "withdrawn": sorted(withdrawn_ids(Index(config.index))),
    })  # fmt: skip


def _train(
    config: Config, towers: Towers, layers: Mapping[str, int | None], home: str, key: str, flags: Iterable[str]
) -> None:
    # What is made of nothing has no features worth storing.
    known = {modality: tower for modality, tower in towers.items() if layers.get(modality, 0) is not None}
    sources = {modality: read_source(towers[modality][1].spec, towers[modality][1].modality) for modality in layers}
    networks = {modality: load_network(source) for modality, source in sources.items()}
    for modality, network in networks.items():
        wanted, there = layers[modality] or 0, len(network.layers)
        if wanted > there:
            raise ConfigError(f"--fine-tune {modality}={wanted}: the tower has {there} layers that can be trained")
    job, products = encode_products(config, "fine-tune", known, flags)
    with tempfile.TemporaryDirectory() as temporary:
        data, _ = training_data(job, products, Path(temporary))
        if "text" in layers and not len(data.queries):
            raise ConfigError(f"--fine-tune text={layers['text']}: the catalogue has no titles or phrases to train it with")
        width = {name: features.shape[2] for name, features in data.features.items()}
        heads = dict(train_heads(data, width, _head_settings(config)).heads) if width else {}
        if layers.get("picture", 0) is None:
            heads["picture"] = random_head(towers["picture"][1].dimension, config.dimension, config.seed)
        items = _items(job, key, products, data, towers, layers)
        checkpoint = StoredCheckpoint(job.run.file("fine-tune", key, "checkpoint.npz"))
        with watch_training(config.tensorboard) as watch:
            trained = train_towers(networks, heads, items, _settings(config, layers), checkpoint, watch)
        # Other weights have another path, of which machines may have copies.
        folders = {modality: f"{modality}-{network.weights_hash[:16]}" for modality, network in trained.networks.items()}
        for modality, network in trained.networks.items():
            built = Path(temporary) / folders[modality]
            built.mkdir()
            write_trained(sources[modality], network, built)
            upload(built, storage.join(home, folders[modality]), SPEC_FILE)
        write_json(storage.join(home, TRAINING_FILE), {"folders": folders, "figures": trained.figures})
    finish_run(job.index, job.run)


def _head_settings(config: Config) -> TrainingSettings:
    return TrainingSettings(dimension=config.dimension, seed=config.seed, epochs=config.epochs or None, loss=config.loss)


def _settings(config: Config, layers: Mapping[str, int | None]) -> TowerTrainingSettings:
    base = FROM_SCRATCH if None in layers.values() else FINE_TUNING
    return replace(base, layers=dict(layers), steps=config.fine_tune_steps or base.steps, minutes=config.fine_tune_minutes,
                   loss=config.loss)  # fmt: skip


def _items(
    job: Job, key: str, products: Products, data: ArrayTrainingData, towers: Towers, layers: Mapping[str, int | None]
) -> TowerItems:
    """Say what batches are made of: pieces of decoded pictures, or rows of texts alone."""
    config = job.config
    items = TowerItems(replace(data, batch_rows=BATCH_ROWS), ())
    if "text" in layers:
        folder, spec = towers["text"]
        items = replace(items, tokens=tokens_of(spec, localise(folder)), texts=_texts(job, products))
    if "picture" not in layers:
        rows = np.flatnonzero(data.present["text"])
        pieces = [rows[start : start + PIECE_ROWS] for start in range(0, len(rows), PIECE_ROWS)]
        return replace(items, pieces=pieces, window=8)
    spec = towers["picture"][1]
    assert spec.side is not None
    folder = job.run.file("fine-tune", key, "pictures")
    shown = TrainingPictures(job, folder, products.orders, spec.side, spec.decoding)
    shown.copy()
    there = np.zeros(len(products.ids), bool)
    there[np.concatenate([*shown.rows, np.zeros(0, np.int64)])] = True
    if not there.any():
        raise ConfigError("no picture of the catalogue can be read: there is nothing to train the picture tower on")
    # The features of a tower in training are never looked at: they have no width.
    features = {**data.features, "picture": np.zeros((len(there), 1, 0), np.float16)}
    whole = replace(items.data, features=features, present={**data.present, "picture": there})
    maker = PictureViews(spec.side, PictureOperations.of(config.picture_operation), config.seed, VIEW_BATCH)

    def views(pictures: Pixels, rows: Ids, numbers: Ids) -> Pixels:
        return maker.make(pictures, [products.ids[row].encode() for row in rows.tolist()], numbers.tolist())

    count = None if layers["picture"] is None else config.views
    return replace(items, data=whole, pieces=shown.rows, window=shown.window, pixels=shown.pixels, views=views, view_count=count)


def _texts(job: Job, products: Products) -> Sequence[str | None]:
    texts: dict[int, str | None] = {}
    for partition in job.partitions():
        path = job.run.products(partition)
        if storage.exists(path):
            table = ranges.read_table(path, [ORDER, "text"])
            texts.update(zip(table[ORDER].to_pylist(), table["text"].to_pylist(), strict=True))
    return [texts[order] for order in products.orders]
