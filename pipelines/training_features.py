"""What a bundle's heads are trained on, as arrays: features of products and of what is asked, and who answers what.

Features are gathered in memory-mapped files.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa

from encoders.meanings import Meanings
from encoders.pooling import Views
from encoders.tower_spec import TowerSpec
from encoders.training_data import ArrayTrainingData
from pipelines import ranges, stages, storage
from pipelines.config import Config
from pipelines.encode import Encode, EncodeSettings
from pipelines.features import FeatureReader, Space, stored
from pipelines.job import Job, open_job
from pipelines.layout import KEY, KEY_BYTES, ORDER, PRODUCT_ID, order_of, write_json
from pipelines.plan import unit_id
from pipelines.runner import run_pipeline
from pipelines.statistics import find_settings
from pipelines.training_products import (
    PHRASES_PER_PRODUCT,
    SENTENCES_PER_PRODUCT,
    Products,
    group_column,
    phrase_roles,
    read_products,
    split_validation,
)
from pipelines.views import index_views, text_maker, training_views
from transforms.phrases import pool_phrases
from transforms.sentences import shared_by_many
from transforms.text import clean_text

_log = logging.getLogger(__name__)


def encode_products(
    config: Config, kind: str, towers: Mapping[str, tuple[str, TowerSpec]], flags: Iterable[str]
) -> tuple[Job, Products]:
    """Bring the catalogue's features into the store, those of the views that training asks for; return the products, too.

    Raises:
        ConfigError: the catalogue has not the columns that training is told to use; nothing has been encoded then.
    """
    job = open_job(config, kind, towers, training_views(config), None, None, flags)
    group_column(job.schema.kept.names, config)
    phrase_roles(job.schema.kept.names, config)
    find_settings(job.schema, config)
    for stage in (stages.ingest, stages.plan, stages.encode, stages.collect):
        stage(job)
    return job, read_products(job)


def query_space(job: Job) -> Space:
    """Return the space of queries' features: a query has one view."""
    space = job.spaces["text"]
    return replace(space, views=Views(), dimension=space.dimension // space.views.slots)


def encode_queries(job: Job, texts: Sequence[str]) -> dict[str, int] | None:
    """Encode distinct texts as queries, in units like any text; features go to the run's folder."""
    space = query_space(job)
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
        job.run, "queries", job.run.file("queries"), space, job.towers["text"], (), None, job.config.max_pixels, len(names)
    )  # fmt: skip
    _log.info("encode: %d titles, sentences and phrases to train with", len(texts))
    return run_pipeline(lambda p: p | "Queries" >> beam.Create(["texts"]) | Encode(settings), job.flags)


def gather_queries(job: Job, texts: Sequence[str], path: Path) -> np.ndarray:
    """Gather the features of queries in a memory-mapped float16[N, D]."""
    space = query_space(job)
    places: dict[bytes, tuple[int, int]] = {}
    files = [info.path for info in storage.list_folder(job.run.file("queries"), "*.parquet")]
    for number, file in enumerate(files):
        for row, key in enumerate(ranges.read_table(file, [KEY])[KEY].to_pylist()):
            places[key] = (number, row)
    wanted = [places[space.key(text.encode())] for text in texts]
    return _gather(path, files, wanted, space)


def gather_features(job: Job, products: Products, modality: str, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Gather the products' features of a modality in a memory-mapped float16[N, V, D]; with bool[N], which have one.

    V is 1, or the number of views where they stand side by side to be trained on one by one.
    """
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
    views = space.views.count if job.config.views > 1 else 1
    return features.reshape(len(features), views, -1), present


def _gather(path: Path, files: Sequence[str], places: Sequence[tuple[int, int]], space: Space) -> np.ndarray:
    features = np.lib.format.open_memmap(path, mode="w+", dtype="<f2", shape=(len(places), space.dimension))
    by_file = sorted(range(len(places)), key=lambda number: places[number])
    with FeatureReader(files, space.dimension) as reader:
        for start in range(0, len(by_file), 1024):
            block = by_file[start : start + 1024]
            features[block] = reader.read([places[number] for number in block])
    return features


def _titles_as_asked(titles: Sequence[str], job: Job) -> dict[str, list[str]]:
    """Return each title with the views of it that are asked for in training: itself first."""
    if job.config.views == 1 or "text" not in job.spaces:
        return {title: [title] for title in titles}
    make = text_maker(job.spaces["text"].views)
    return {title: make(clean_text(title)) for title in titles}


def _numbers(texts: Sequence[Sequence[str]], pool: Sequence[str], number: Mapping[str, int], most: int) -> np.ndarray:
    """Return the numbers of each product's texts that are in the pool: int32[N, most], filled up with -1."""
    numbers = np.full((len(texts), most), -1, dtype=np.int32)
    known = {text: number[text] for text in pool if text in number}
    for row, own in enumerate(texts):
        found = [known[text] for text in own if text in known][:most]
        numbers[row, : len(found)] = found
    return numbers


def _meanings(products: Products, number: Mapping[str, int]) -> Meanings:
    """Gather what products have and what the phrases of these numbers name."""
    meant = sorted((number[text], names) for text in number for names in products.meanings[text])
    padded = np.full((len(meant), max((len(names) for _, names in meant), default=1)), -1, dtype=np.int32)
    roles = {value: role for (role, _), value in products.numbers.items()}
    sets: dict[frozenset[str], int] = {}
    attributes = []
    for row, (_, names) in enumerate(meant):
        padded[row, : len(names)] = names
        attributes.append(sets.setdefault(frozenset(roles[value] for value in names), len(sets)))
    return Meanings(
        names=padded,
        attributes=np.array(attributes, dtype=np.int64),
        queries=np.array([query for query, _ in meant], dtype=np.int64),
        values=np.fromiter(chain.from_iterable(products.values), dtype=np.int32),
        starts=np.cumsum([0, *map(len, products.values)], dtype=np.int64),
    )


def training_data(job: Job, products: Products, folder: Path) -> tuple[ArrayTrainingData, dict[str, int]]:
    """Encode titles, sentences and phrases, gather all features, and split off the validation products."""
    config = job.config
    features, present = {}, {}
    for modality in job.spaces:
        features[modality], present[modality] = gather_features(job, products, modality, folder / f"{modality}.npy")
    phrases = pool_phrases(zip(products.ids, products.phrases, strict=True), config.max_phrases, config.seed)
    shared = shared_by_many(products.sentences, len(products.ids))
    own = [[text for text in texts if text not in shared] for texts in products.sentences]
    most = config.max_sentences if config.sentence_share else 0
    quoted = pool_phrases(zip(products.ids, own, strict=False), most, config.seed)
    titles = sorted({title for title in products.titles if title})
    asked = _titles_as_asked(titles, job)
    texts = sorted({*phrases, *quoted, *(view for views in asked.values() for view in views)}) if "text" in job.spaces else []
    encoded = np.zeros((0, job.spaces["text"].dimension if "text" in job.spaces else 1), dtype="<f2")
    if texts:
        encode_queries(job, texts)
        encoded = gather_queries(job, texts, folder / "queries.npy")
        if config.views == 1:
            encoded = job.spaces["text"].views.of_query(encoded)
    number = {text: i for i, text in enumerate(texts)}
    fits = _numbers(products.phrases, phrases, number, PHRASES_PER_PRODUCT)
    said = _numbers(own, quoted, number, SENTENCES_PER_PRODUCT) if quoted else None
    none = [-1] * max(map(len, asked.values()), default=1)
    title_ids = np.array(
        [[number.get(view, -1) for view in asked[title]] if title else none for title in products.titles], dtype=np.int64
    ).reshape(len(products.titles), -1)
    data = ArrayTrainingData(
        features=features,
        present=present,
        queries=encoded,
        query_texts=texts,
        title_ids=title_ids,
        product_phrases=fits,
        meanings=_meanings(products, {text: number[text] for text in phrases if text in number}),
        product_sentences=said,
        sentence_share=config.sentence_share,
        validation_rows=split_validation(products),
        index_views={name: min(views.count, config.views) for name, views in index_views(config).items()},
        seed=config.seed,
    )
    return data, {"products": len(products.ids), "titles": len(titles), "phrases": len(phrases), "sentences": len(quoted)}
