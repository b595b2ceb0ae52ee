"""Measures what views do to search and what they cost, in training and at index time.

    python -m benchmarks.views --work DIR --catalogue 'fashion/*.parquet' [--seeds 0,1]

Encodes eight views of every picture, text and title once. Every row of the table then trains heads on four fifths
of the products and asks the rest, as `benchmarks.quality fashion` does, with the views it names: n views at index
time are the mean of the first n features; n views in training are n samples of a product. Prints a Markdown table,
mean over the seeds, with the items that a full run encodes; --rows A,B measures some rows only.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.quality import HOLDOUT, ROLES, ask, combinations, ndcg_at_10, recall_at, relevant_to
from encoders.heads import Head, apply_head
from encoders.training import TrainingSettings, train_heads
from encoders.training_data import ArrayTrainingData
from pipelines import ranges, stages
from pipelines.config import read_config
from pipelines.ingest import COLUMNS
from pipelines.job import open_job
from pipelines.layout import PRODUCT_ID
from pipelines.named_values import DEFAULT_WEIGHTS
from pipelines.train import ensure_towers
from pipelines.training_features import encode_queries, gather_queries, training_data
from pipelines.training_products import Products, hash_share, read_products
from pipelines.views import training_views
from transforms.shop_words import ShopWords

VIEWS, WEIGHTS = 8, {modality: DEFAULT_WEIGHTS[modality] for modality in ("picture", "text")}


@dataclasses.dataclass(frozen=True)
class Row:
    """Views of a row of the table: at index time, and in training of pictures, indexed texts, and asked titles."""

    name: str
    picture: int = 1
    text: int = 1
    trained_pictures: int = 1
    trained_texts: int = 1
    asked_titles: int = 1


ROWS = (
    Row("one view"),
    *(Row(f"{n} picture views at index time", picture=n) for n in (2, 4, 8)),
    *(Row(f"{n} picture views in training", trained_pictures=n) for n in (2, 4, 8)),
    Row("4 picture views in training and at index time", picture=4, trained_pictures=4),
    Row("4 text views at index time", text=4),
    Row("4 text views in training", trained_texts=4),
    Row("4 views of asked titles in training", asked_titles=4),
    Row("4 views of all in training (--views 4)", trained_pictures=4, trained_texts=4, asked_titles=4),
)


class Catalogue:
    """Products with the features of eight views, four fifths of them to train on."""

    def __init__(self, work: Path, catalogue: str, folder: Path):
        config = read_config(None, {"index": str(work / "views"), "catalogue": [catalogue], "views": VIEWS})
        self.job = open_job(config, "train", ensure_towers(config), training_views(config), None, None)
        for stage in (stages.ingest, stages.plan, stages.encode, stages.collect):
            stage(self.job)
        self.products = read_products(self.job)
        self.data, _ = training_data(self.job, self.products, folder)
        self.unseen = np.array([hash_share(order) < HOLDOUT for order in self.products.orders])
        tables = [ranges.read_table(self.job.run.products(part), [PRODUCT_ID, COLUMNS]) for part in self.job.partitions()]
        rows = pa.concat_tables(tables).to_pylist()
        self.columns = {row[PRODUCT_ID]: row[COLUMNS] for row in rows}
        self.folder = folder

    def training(self, row: Row, seed: int) -> ArrayTrainingData:
        """Return what the row trains on."""
        data, seen = self.data, ~self.unseen
        features = {
            name: (data.features[name][:, :trained] if trained > 1 else mean_of(data.features[name], indexed)[:, None])[seen]
            for name, trained, indexed in (
                ("picture", row.trained_pictures, row.picture), ("text", row.trained_texts, row.text))
        }  # fmt: skip
        meanings = None if data.meanings is None else data.meanings.of_products(np.flatnonzero(seen))
        return dataclasses.replace(
            data, features=features, meanings=meanings, present={name: mask[seen] for name, mask in data.present.items()},
            title_ids=data.title_ids[seen, : row.asked_titles], product_phrases=data.product_phrases[seen],
            validation_rows=data.validation_rows[seen], seed=seed,
            index_views={"picture": min(row.picture, row.trained_pictures), "text": min(row.text, row.trained_texts)},
        )  # fmt: skip


def mean_of(features: np.ndarray, views: int) -> np.ndarray:
    """Return the mean over the first views, float32[N, D]."""
    return np.asarray(features[:, :views]).mean(axis=1, dtype=np.float32)


class Questions:
    """What is asked of the unseen products: titles, and phrases in two languages, as features of the text tower."""

    def __init__(self, catalogue: Catalogue):
        products: Products = catalogue.products
        rows = [catalogue.columns[products.ids[place]] for place in np.flatnonzero(catalogue.unseen)]
        titles = np.array([row["title"] or "" for row in rows])
        asked = sorted(set(titles))
        columns = [np.array([row[name] or "" for row in rows]) for name in ("colour", "gender", "product_type")]
        combined, words = combinations(columns), ShopWords.load()
        texts = {
            "titles": asked,
            "English": [ask(ROLES, values, "en", words) for values in combined],
            "Chinese": [ask(ROLES, values, "zh", words) for values in combined],
        }
        together = sorted({text for group in texts.values() for text in group})
        encode_queries(catalogue.job, together)
        features = gather_queries(catalogue.job, together, catalogue.folder / "asked.npy")
        place = {text: number for number, text in enumerate(together)}
        self.features = {name: np.asarray(features[[place[text] for text in group]]) for name, group in texts.items()}
        self.titles = np.stack([titles == title for title in asked])
        self.phrases = relevant_to(columns, combined)

    def figures(self, heads: dict[str, Head], features: dict[str, np.ndarray]) -> list[float]:
        """Return recall@1 and @10 of titles -> pictures, nDCG@10 of English (by picture, fused) and of Chinese phrases."""
        vectors = {name: apply_head(heads[name], array) for name, array in features.items()}
        asked = {name: apply_head(heads["text"], array) for name, array in self.features.items()}
        titles = asked["titles"] @ vectors["picture"].T

        def fused(name: str) -> np.ndarray:
            return np.add(*(weight * (asked[name] @ vectors[modality].T) for modality, weight in WEIGHTS.items()))

        return [
            recall_at(titles, self.titles, 1), recall_at(titles, self.titles, 10),
            ndcg_at_10(asked["English"] @ vectors["picture"].T, self.phrases), ndcg_at_10(fused("English"), self.phrases),
            ndcg_at_10(fused("Chinese"), self.phrases),
        ]  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the index; features in it are used again")
    parser.add_argument("--catalogue", required=True)
    parser.add_argument("--seeds", default="0", help="(default: %(default)s)")
    parser.add_argument("--rows", help="numbers of rows, from 0 (default: all)")
    given = parser.parse_args()
    rows: Sequence[Row] = [ROWS[int(number)] for number in given.rows.split(",")] if given.rows else ROWS
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}\n")
    with tempfile.TemporaryDirectory() as temporary:
        catalogue = Catalogue(given.work, given.catalogue, Path(temporary))
        questions = Questions(catalogue)
        dimensions: dict[str, Any] = {name: array.shape[2] for name, array in catalogue.data.features.items()}
        print("| views | title -> picture recall@1 | recall@10 | phrases, picture alone nDCG@10 | fused | Chinese, fused "
              "| pictures encoded | texts encoded | training |")  # fmt: skip
        print("|---|---|---|---|---|---|---|---|---|")
        for row in rows:
            found, started = [], time.monotonic()
            for seed in given.seeds.split(","):
                trained = train_heads(catalogue.training(row, int(seed)), dimensions, TrainingSettings(seed=int(seed)))
                features = {
                    name: mean_of(catalogue.data.features[name], views)[catalogue.unseen]
                    for name, views in (("picture", row.picture), ("text", row.text))
                }
                found.append(questions.figures(dict(trained.heads), features))
            seconds = (time.monotonic() - started) / len(found)
            pictures = max(row.picture, row.trained_pictures) * int(catalogue.data.present["picture"].sum())
            texts = max(row.text, row.trained_texts) * int(catalogue.data.present["text"].sum())
            shown = " | ".join(f"{value:.3f}" for value in np.mean(found, axis=0))
            print(f"| {row.name} | {shown} | {pictures:,} | {texts:,} | {seconds:.0f} s |", flush=True)


if __name__ == "__main__":
    main()
