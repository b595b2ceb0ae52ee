"""Measures what asking sentences of descriptions in training does to search among products that training never saw.

    python -m benchmarks.training_texts --work DIR --catalogue 'shop/*.csv' [--seeds 0,1,2] [--shares 0,0.1,0.2,0.3]

A fifth of the products, by the hash of their ids, is held out. Of each held-out product with at least two sentences the last
one is held back: the indexed text is its title and its other sentences. Heads are trained once for each share of the batches
that ask sentences and each seed, and answers are searched among the held-out products: held-back sentences by the text,
and where there are pictures by the picture; titles by the picture, or by the text without the title. Equal queries are right
for all their products. Prints a Markdown table, mean over the seeds.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.quality import HOLDOUT, recall_at
from encoders.heads import Head, apply_head
from encoders.towers import load_tower
from encoders.training import TrainingSettings, train_heads
from pipelines import ranges
from pipelines.bundles import localise
from pipelines.config import read_config
from pipelines.ingest import COLUMNS
from pipelines.job import Job
from pipelines.layout import ORDER, PRODUCT_ID
from pipelines.train import ensure_towers
from pipelines.training_features import encode_products, gather_features, training_data
from pipelines.training_products import Products, hash_share
from transforms.sentences import sentences
from transforms.text import join_texts


class Unseen:
    """Held-out products with the features of their texts, pictures and queries."""

    def __init__(self, job: Job, folder: Path):
        tables = [ranges.read_table(job.run.products(part), [ORDER, PRODUCT_ID, COLUMNS]) for part in job.partitions()]
        rows = [row for row in pa.concat_tables(tables).to_pylist() if hash_share(row[ORDER]) < HOLDOUT]
        said = [(row, sentences(row[COLUMNS]["description"] or "", 100)) for row in rows]
        kept = [(row, own) for row, own in said if len(own) > 1 and row[COLUMNS]["title"]]
        self.titles = [row[COLUMNS]["title"] for row, _ in kept]
        self.quoted = [own[-1] for _, own in kept]
        tower = load_tower(localise(job.towers["text"]))
        self.queries = {"sentences": tower.encode(self.quoted), "titles": tower.encode(self.titles)}
        rest = [join_texts(own[:-1]) for _, own in kept]
        whole = [join_texts([title, text]) for title, text in zip(self.titles, rest, strict=True)]
        self.products = {("sentences", "text"): tower.encode(whole), ("titles", "text"): tower.encode(rest)}
        if "picture" in job.spaces:
            ids, orders = [row[PRODUCT_ID] for row, _ in kept], [row[ORDER] for row, _ in kept]
            products = Products(ids, orders, list(self.titles), [[] for _ in ids], [None] * len(ids))
            features, _ = gather_features(job, products, "picture", folder / "unseen.npy")
            self.products |= {(name, "picture"): features[:, 0] for name in self.queries}

    def measure(self, heads: dict[str, Head]) -> dict[str, float]:
        """Return recall@1 and recall@10 of each kind of query by each modality."""
        figures = {}
        for (name, modality), features in self.products.items():
            texts = np.array(self.quoted if name == "sentences" else self.titles)
            scores = apply_head(heads["text"], self.queries[name]) @ apply_head(heads[modality], features).T
            for k in (1, 10):
                figures[f"{name} -> {modality}, recall@{k}"] = recall_at(scores, texts[:, None] == texts, k)
        return figures


def measure(work: Path, catalogue: str, seeds: Sequence[int], shares: Sequence[float]) -> None:
    config = read_config(None, {"index": str(work / "texts"), "catalogue": [catalogue], "holdout": HOLDOUT})
    job, products = encode_products(config, "train", ensure_towers(config), ())
    with tempfile.TemporaryDirectory() as temporary:
        data, sizes = training_data(job, products, Path(temporary))
        unseen = Unseen(job, Path(temporary))
        print(f"trained on {sizes}; {len(unseen.titles)} unseen products", flush=True)
        dimensions = {name: features.shape[2] for name, features in data.features.items()}
        for number, share in enumerate(shares):
            found = []
            for seed in seeds:
                asked = data.product_sentences if share else None
                drawn = dataclasses.replace(data, sentence_share=share, product_sentences=asked, seed=seed)
                trained = train_heads(drawn, dimensions, TrainingSettings(seed=seed), lambda _: None)
                found.append(unseen.measure(dict(trained.heads)))
            if not number:
                print("| share | " + " | ".join(found[0]) + " |\n" + "|---" * (len(found[0]) + 1) + "|")
            means = [np.mean([one[name] for one in found]) for name in found[0]]
            print(f"| {share} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |", flush=True)


def main() -> None:
    """Run the measurement that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the index; features in it are used again")
    parser.add_argument("--catalogue", required=True, help="a catalogue with titles and descriptions")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--shares", default="0,0.1,0.2,0.3")
    given = parser.parse_args()
    seeds, shares = ([kind(part) for part in text.split(",")] for kind, text in ((int, given.seeds), (float, given.shares)))
    measure(given.work, given.catalogue, seeds, shares)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
