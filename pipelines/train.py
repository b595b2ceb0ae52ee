"""TRAIN: features of a catalogue in, a new bundle out: towers, heads, fusion.

    catalogue-index train --catalogue 'shop/*.parquet' --index DIR

Features are encoded where they are missing, by the stages of a run. The products trained on are the first of the
one order, which is a random sample; their features are gathered in memory-mapped files, so memory is bounded by
the batches.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from encoders.bundle import Bundle, ViewSettings, write_bundle
from encoders.presets import build_tower
from encoders.towers import Modality, TowerSpec
from encoders.training import TrainingSettings, train_heads
from encoders.training_data import ArrayTrainingData
from pipelines import ranges, stages, storage
from pipelines.bundles import adopt, fusion_for, localise, open_at
from pipelines.config import Config
from pipelines.encode import Encode, EncodeSettings
from pipelines.features import FeatureReader, Space, stored
from pipelines.ingest import COLUMNS
from pipelines.layout import KEY, KEY_BYTES, ORDER, PRODUCT_ID, Index, order_of, write_json
from pipelines.plan import unit_id
from pipelines.runner import run_pipeline
from pipelines.statistics import find_settings, fit_statistics
from transforms.phrases import ShopWords, find_roles, phrases_of, pool_phrases, product_attributes

PHRASES_PER_PRODUCT = 8
CHINESE_SHARE = 0.35
VALIDATION_SHARE = 0.05

_log = logging.getLogger(__name__)


def ensure_towers(config: Config) -> dict[str, tuple[str, TowerSpec]]:
    """Build the towers the configuration names, unless the index has them; returns folder and specification of each."""
    towers: dict[str, tuple[str, TowerSpec]] = {}
    wanted: tuple[tuple[Modality, str], ...] = (("picture", config.picture_tower), ("text", config.text_tower))
    for modality, spec in wanted:
        if spec:
            name = f"{modality}-{hashlib.blake2b(spec.encode(), digest_size=8).hexdigest()}"
            folder = storage.join(Index(config.index).towers, name)
            if not storage.exists(storage.join(folder, "tower.json")):
                _log.info("building the %s tower %s", modality, spec)
                _build(spec, modality, folder)
            text = storage.read_bytes(storage.join(folder, "tower.json")).decode()
            towers[modality] = (folder, TowerSpec.from_json(text))
    return towers


def _build(spec: str, modality: Modality, folder: str) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        built = Path(temporary) / "tower"
        build_tower(spec, modality, built)
        files = [path for path in built.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: path.name == "tower.json"):
            storage.put_file(path, storage.join(folder, path.relative_to(built).as_posix()))


@dataclass(frozen=True)
class Products:
    """The products trained on, in the one order, without their features.

    Attributes:
        ids: product ids.
        orders: their orders.
        titles: cleaned titles, None where there is none.
        phrases: phrases that fit each product.
    """

    ids: list[str]
    orders: list[int]
    titles: list[str | None]
    phrases: list[list[str]]


def read_products(job: stages.Job) -> Products:
    """Read the products to train on, with the phrases made from their columns."""
    config, words = job.config, ShopWords.load()
    products = Products([], [], [], [])
    for table in _tables(job, config.max_training_products):
        columns = table[COLUMNS].combine_chunks()
        names = [field.name for field in columns.type]
        roles = {name: name for name in config.phrases} if config.phrases else find_roles(names)
        for product_id, order, row, text in zip(
            table[PRODUCT_ID].to_pylist(), table[ORDER].to_pylist(), columns.to_pylist(), table["text"].to_pylist(),
            strict=True,
        ):  # fmt: skip
            if config.holdout and hash_share(order) < config.holdout:
                continue
            products.ids.append(product_id)
            products.orders.append(order)
            products.titles.append(row.get("title") or (text if "title" not in names else None))
            attributes = product_attributes(row, roles, words)
            products.phrases.append(phrases_of(attributes, PHRASES_PER_PRODUCT, config.seed, words, CHINESE_SHARE))
    return products


def hash_share(order: int) -> float:
    """Return where the low bits of an order fall in [0, 1): they say nothing about its place."""
    return (order & 0xFFFF) / 0x10000


def _tables(job: stages.Job, limit: int) -> Iterator[pa.Table]:
    left = limit
    for partition in job.partitions():
        path = job.run.products(partition)
        if left > 0 and storage.exists(path):
            table = ranges.read_table(path).slice(0, left)
            left -= table.num_rows
            yield table


def encode_queries(job: stages.Job, texts: Sequence[str]) -> dict[str, int] | None:
    """Encode distinct texts as queries, in units like any text; features go to the run's folder."""
    space = job.spaces["text"]
    keys = [space.key(text.encode()) for text in texts]
    work = pa.table(
        {
            ORDER: pa.array([order_of(text) for text in texts], pa.uint64()),
            PRODUCT_ID: pa.array([""] * len(texts), pa.string()),
            KEY: pa.array(keys, pa.binary(KEY_BYTES)),
            "text": pa.array(texts, pa.string()),
        }
    )
    names = []
    for number, start in enumerate(range(0, len(texts), job.config.unit_items)):
        unit = work.slice(start, job.config.unit_items)
        names.append(f"queries-{number:05d}-{unit_id(unit)}")
        ranges.write_table(storage.join(job.run.work("text"), f"{names[-1]}.parquet"), unit)
    write_json(job.run.done("queries", "texts"), {"units": {"text": names}})
    settings = EncodeSettings(
        job.run, "queries", job.run.file("queries"), space, job.towers["text"], (), None, job.config.max_pixels
    )  # fmt: skip
    _log.info("encode: %d titles and phrases to train with", len(texts))
    return run_pipeline(lambda p: p | "Queries" >> beam.Create(["texts"]) | Encode(settings), job.flags)


def gather_queries(job: stages.Job, texts: Sequence[str], path: Path) -> np.ndarray:
    """Gather the features of queries in a memory-mapped float16[N, D]."""
    space = job.spaces["text"]
    places: dict[bytes, tuple[int, int]] = {}
    files = [info.path for info in storage.list_folder(job.run.file("queries"), "*.parquet")]
    for number, file in enumerate(files):
        for row, key in enumerate(ranges.read_table(file, [KEY])[KEY].to_pylist()):
            places[key] = (number, row)
    wanted = [places[space.key(text.encode())] for text in texts]
    return _gather(path, files, wanted, space)


def gather_features(job: stages.Job, products: Products, modality: str, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Gather the products' features of a modality in a memory-mapped float16[N, D]; with bool[N], which have one."""
    space = job.spaces[modality]
    position = {order: number for number, order in enumerate(products.orders)}
    features = np.lib.format.open_memmap(path, mode="w+", dtype="<f2", shape=(len(products.ids), space.dimension))
    present = np.zeros(len(products.ids), dtype=bool)
    for partition in job.partitions():
        if not storage.exists(job.run.products(partition)):
            continue
        table = ranges.read_table(job.run.products(partition), [ORDER, f"{modality}_{KEY}"])
        pairs = [
            (order, key)
            for order, key in zip(table[0].to_pylist(), table[1].to_pylist(), strict=True)
            if key is not None and order in position
        ]
        held = stored(job.index, space.id, partition, pairs)
        found = [(position[pair[0]], place) for pair in pairs if (place := held.place(pair)) is not None]
        rows = [row for row, _ in found]
        with FeatureReader(held.files, space.dimension) as reader:
            for start in range(0, len(found), 1024):
                block = found[start : start + 1024]
                features[[row for row, _ in block]] = reader.read([place for _, place in block])
        present[rows] = True
    return features, present


def _gather(path: Path, files: Sequence[str], places: Sequence[tuple[int, int]], space: Space) -> np.ndarray:
    features = np.lib.format.open_memmap(path, mode="w+", dtype="<f2", shape=(len(places), space.dimension))
    by_file = sorted(range(len(places)), key=lambda number: places[number])
    with FeatureReader(files, space.dimension) as reader:
        for start in range(0, len(by_file), 1024):
            block = by_file[start : start + 1024]
            features[block] = reader.read([places[number] for number in block])
    return features


def training_data(job: stages.Job, products: Products, folder: Path) -> tuple[ArrayTrainingData, dict[str, int]]:
    """Encode titles and phrases, gather all features, and split off the validation products."""
    config = job.config
    features, present = {}, {}
    for modality in job.spaces:
        features[modality], present[modality] = gather_features(job, products, modality, folder / f"{modality}.npy")
    phrases = pool_phrases(zip(products.ids, products.phrases, strict=True), config.max_phrases, config.seed)
    titles = sorted({title for title in products.titles if title})
    texts = sorted({*phrases, *titles}) if "text" in job.spaces else []
    width = job.spaces["text"].dimension if "text" in job.spaces else 1
    encoded = np.zeros((0, width), dtype="<f2")
    if texts:
        encode_queries(job, texts)
        encoded = gather_queries(job, texts, folder / "queries.npy")
    number = {text: i for i, text in enumerate(texts)}
    fits = np.full((len(products.ids), PHRASES_PER_PRODUCT), -1, dtype=np.int32)
    pool = set(phrases)
    for row, own in enumerate(products.phrases):
        known = [number[text] for text in own if text in pool and text in number][:PHRASES_PER_PRODUCT]
        fits[row, : len(known)] = known
    title_ids = np.array([number.get(title, -1) if title else -1 for title in products.titles], dtype=np.int64)
    data = ArrayTrainingData(
        features=features,
        present=present,
        queries=encoded,
        title_ids=title_ids,
        product_phrases=fits,
        validation_rows=np.array([hash_share(order) >= 1 - VALIDATION_SHARE for order in products.orders], dtype=bool),
        # With two phrases beside each title, titles found pictures worse (recall@10 .78) and phrases no better.
        phrases_per_product=1,
        seed=config.seed,
    )
    return data, {"products": len(products.ids), "titles": len(titles), "phrases": len(phrases)}


def train(config: Config, flags: Iterable[str] = ()) -> Bundle:
    """Train a bundle on a catalogue and make it the index's own.

    Returns:
        The bundle, at `config.bundle` where that is given, else in the index.
    """
    towers, views = ensure_towers(config), ViewSettings(seed=config.seed)
    job = stages.open_job(config, "train", towers, views, None, None, flags)
    find_settings(job.schema, config)  # what it refuses is refused before anything is encoded
    for stage in (stages.ingest, stages.plan, stages.encode, stages.collect):
        stage(job)
    products = read_products(job)
    used = {modality: towers[modality] for modality in job.spaces}
    settings = TrainingSettings(dimension=config.dimension, seed=config.seed)
    if config.epochs:
        settings = TrainingSettings(dimension=config.dimension, seed=config.seed, epochs=config.epochs)
    with tempfile.TemporaryDirectory() as temporary:
        data, sizes = training_data(job, products, Path(temporary))
        trained = train_heads(data, {modality: spec.dimension for modality, (_, spec) in used.items()}, settings)
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
    stages.finish(job)
    return bundle if config.bundle else open_at(own)


def _report(figures: Mapping[str, Any]) -> None:
    for modality, recalls in figures.get("validation", {}).items():
        shown = ", ".join(f"{name} {value:.3f}" for name, value in recalls.items())
        _log.info("train: on products held out for validation, text -> %s %s", modality, shown)
