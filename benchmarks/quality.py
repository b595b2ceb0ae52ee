"""Measures search on products that training never saw, from a catalogue to its published vectors.

    python -m benchmarks.quality sample  --work DIR [--products N] [--weight M=W]
    python -m benchmarks.quality fashion --work DIR --catalogue 'fashion/*.parquet'
    python -m benchmarks.quality ranking --work DIR --catalogue 'fashion/*.parquet'

A fifth of the products, by the hash of their ids, is held out of training (`train --holdout 0.2`); queries are
answered among those alone. `sample` asks "<colour> <type>" in English and Chinese and counts how many of the first
ten answers (or of as many as exist) have both, also with raw 16 x 16 pixels in place of the picture tower.
`fashion` asks titles (recall@k; equal titles are all right answers), also those apart that products trained on have, and
those that none has, and "<colour> <sex> <kind>" in six languages (nDCG@10), each said once, by the usual words of the
shop-word table: by the vectors of pictures alone, by the fused ones, and by all products ranked with the weights that training
chose for texts, as a search ranks its candidates. `ranking` ranks the answers to these titles and phrases, and to the
pictures of products that they find, both, and such products, by cosine and by attention.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from encoders.bundle import Bundle
from encoders.heads import apply_head
from encoders.ranking import LEAST_CANDIDATES
from encoders.ranking_training import compare, pool_of
from pipelines.bundles import open_at, own_bundle
from pipelines.config import read_config
from pipelines.layout import Index
from pipelines.run import run
from pipelines.sample import write_sample
from pipelines.training_products import hash_share
from transforms.shop_words import LANGUAGES, ShopWords

HOLDOUT = 0.2
ROLES = ("colour", "audience", "kind")  # of a phrase about fashion
# Wordings that no training phrase has: of what was asked for, the words differ too, as "my wife" for women.
OTHER_WORDINGS = {
    "en": (
        "looking for {kind} to give to {person}, the colour should be {colour}",
        "{kind} that {audience} can wear in a {colour} tone",
        "{colour} coloured {kind}, {audience} size",
    ),
    "zh": (
        "想买一件{audience}穿的{kind}，颜色要{colour}",
        "{colour}系的{kind}，{audience}可以穿",
        "{audience}款{kind}，{colour}款式",
    ),
}
PERSONS = {"Men": "my husband", "Women": "my wife", "Boys": "my little son", "Girls": "my daughter", "Unisex": "anybody"}


def raw_pixel_tower(folder: Path) -> str:
    """Save a SavedModel whose feature is the picture itself, 16 x 16 pixels; returns its specification."""
    import tensorflow as tf

    class Pixels(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 16, 16, 3], tf.uint8)])
        def __call__(self, images: Any) -> Any:
            return {"features": tf.reshape(tf.cast(images, tf.float32) / 255.0, [-1, 16 * 16 * 3])}

    module = Pixels()
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.__call__})
    return f"saved-model:{folder}"


class Unseen:
    """The products of the current version that training never saw, with their vectors."""

    def __init__(self, index: str, version: str):
        folder = Path(Index(index).version(version)) / "vectors"
        table = pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("*.parquet"))])
        held_out = np.array([hash_share(order) < HOLDOUT for order in table["order"].to_pylist()])
        self.table, self.trained = table.filter(pa.array(held_out)), table.filter(pa.array(~held_out))
        folder_of_bundle = own_bundle(Index(index))
        assert folder_of_bundle is not None
        self.bundle: Bundle = open_at(folder_of_bundle)
        self.text_tower = self.bundle.load_tower("text")
        self.fused = np.stack(self.table["vector"].to_numpy())
        self.picture = self.vectors("picture_vector")
        self.text = self.vectors("text_vector")

    def vectors(self, column: str) -> np.ndarray:
        """Return a modality's vectors float32[N, d]; rows of zeros where it is missing."""
        zero = np.zeros(self.bundle.heads["text"].dimension_out, dtype=np.float32)
        return np.stack([zero if row is None else np.asarray(row, np.float32) for row in self.table[column].to_pylist()])

    def column(self, name: str) -> np.ndarray:
        """Return a column of the catalogue as text."""
        return np.array([value or "" for value in self.table[name].to_pylist()])

    def scores(self, queries: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the similarity of queries with all products: by picture alone, fused, and by the weights that rank texts."""
        asked = apply_head(self.bundle.heads["text"], self.text_tower.encode(queries))
        found = {"picture": asked @ self.picture.T, "fused": self.bundle.fusion.query({"text": asked}, {}) @ self.fused.T}
        ranking = self.bundle.fusion.for_query("text")
        if ranking is None:
            return found | {"ranked": found["fused"]}
        there = {"picture": np.any(self.picture, axis=1), "text": np.any(self.text, axis=1)}
        ranked = ranking.fuse({"picture": self.picture, "text": self.text}, there)
        return found | {"ranked": ranking.query({"text": asked}, {}) @ ranked.T}


def precision_at_10(scores: np.ndarray, relevant: np.ndarray) -> float:
    """Mean share of right answers among the first ten, or among as many as exist."""
    ranked = np.take_along_axis(relevant, np.argsort(-scores, axis=1, kind="stable"), axis=1)
    counts = np.minimum(relevant.sum(axis=1), 10)
    return float(np.mean([row[:count].mean() for row, count in zip(ranked, counts, strict=True)]))


def recall_at(scores: np.ndarray, relevant: np.ndarray, k: int) -> float:
    """Share of queries with a right answer among the first k."""
    ranked = np.take_along_axis(relevant, np.argsort(-scores, axis=1, kind="stable")[:, :k], axis=1)
    return float(ranked.any(axis=1).mean())


def ndcg_at_10(scores: np.ndarray, relevant: np.ndarray) -> float:
    """Mean nDCG@10 with binary gains (Jarvelin and Kekalainen, 2002)."""
    ranked = np.take_along_axis(relevant, np.argsort(-scores, axis=1, kind="stable")[:, :10], axis=1)
    discounts = 1 / np.log2(np.arange(2, 12))
    ideal = [discounts[: min(int(count), 10)].sum() for count in relevant.sum(axis=1)]
    return float(np.mean((ranked * discounts[: ranked.shape[1]]).sum(axis=1) / ideal))


def stand_in(titles: Sequence[str], others: Iterable[str | None]) -> np.ndarray:
    """Tell which titles, cleaned as INGEST cleans them all, stand among others: bool[N]."""
    known = set(others)
    return np.array([title in known for title in titles])


def combinations(columns: Sequence[np.ndarray]) -> list[tuple[str, ...]]:
    """Return the distinct combinations of values that products have, those without a gap."""
    return sorted({values for values in zip(*columns, strict=True) if all(values)})


def relevant_to(columns: Sequence[np.ndarray], asked: Iterable[tuple[str, ...]]) -> np.ndarray:
    """Return bool[Q, N]: which products have all values of a combination."""
    return np.stack([np.all([column == value for column, value in zip(columns, row, strict=True)], axis=0) for row in asked])


def build(catalogue: str, index: Path, **settings: Any) -> Unseen:
    """Train with a holdout, run the job, and return the unseen products."""
    started = time.monotonic()
    report = run(read_config(None, {"index": str(index), "catalogue": [catalogue], "holdout": HOLDOUT} | settings))
    print(f"  {index.name}: {report.indexed:,} products, train and run {time.monotonic() - started:.0f} s")
    return Unseen(str(index), report.version)


def measure_sample(work: Path, products: int, weights: Sequence[str]) -> None:
    """Print the share of right colours and types among the first ten answers, with weights as `run` takes them."""
    write_sample(str(work / "sample"), products, seed=0)
    catalogue = f"{work}/sample/*.parquet"
    pixels = raw_pixel_tower(work / "raw-pixels")
    for name, settings in (("default-towers", {}), ("raw-16x16-pixels", {"picture_tower": pixels})):
        unseen = build(catalogue, work / name, weight=weights, **settings)
        columns = [unseen.column("colour"), unseen.column("product_type")]
        asked, words = combinations(columns), ShopWords.load()
        relevant = relevant_to(columns, asked)
        print(f"  {name}: {len(asked)} queries on {len(columns[0])} unseen products, precision@10:")
        for language in ("en", "zh"):
            scores = unseen.scores([ask(("colour", "kind"), values, language, words) for values in asked])
            show(language, partial(precision_at_10, relevant=relevant), scores)


def measure_ranking(work: Path, catalogue: str) -> None:
    """Print nDCG@10 of every kind of query, ranked by cosine and by attention."""
    unseen = build(catalogue, work / "ranking", ranking="attention")
    told = unseen.bundle.training["ranking"]
    print(f"  validation, {told['seconds']:.0f} s: {told['kinds']}")
    if unseen.bundle.ranker is None:
        print("  the bundle has no ranker: it found no more than cosine on validation")
        return
    vectors = {"picture": unseen.picture, "text": unseen.text}
    pool = pool_of(vectors, {name: np.any(array, axis=1) for name, array in vectors.items()}, unseen.bundle.fusion)
    titles = unseen.column("title")
    columns = [unseen.column("colour"), unseen.column("gender"), unseen.column("product_type")]
    combined, words = combinations(columns), ShopWords.load()
    asked = {"titles": (sorted(set(titles)), np.stack([titles == title for title in sorted(set(titles))]))} | {
        f"phrases, {language}": ([ask(ROLES, values, language, words) for values in combined], relevant_to(columns, combined))
        for language in ("en", "zh")
    }
    for name, (texts, answers) in asked.items():
        encoded = apply_head(unseen.bundle.heads["text"], unseen.text_tower.encode(texts))
        for kind, found in compare(unseen.bundle.ranker, pool, encoded, answers, LEAST_CANDIDATES, 0).items():
            print(f"    {name}, by {kind}: {found}", flush=True)


def measure_fashion(work: Path, catalogue: str, languages: Sequence[str]) -> None:
    """Print recall of titles and nDCG of attribute phrases."""
    unseen = build(catalogue, work / "fashion", phrase_languages=languages)
    titles = unseen.column("title")
    asked = sorted(set(titles))
    relevant = np.stack([titles == title for title in asked])
    scores = unseen.scores(asked)
    trained = stand_in(asked, unseen.trained["title"].to_pylist())
    print(f"  titles of {len(titles)} unseen products -> picture:")
    for kind, rows in (("all", trained | True), ("those training never saw", ~trained), ("those training saw", trained)):
        shown = ", ".join(f"recall@{k} {recall_at(scores['picture'][rows], relevant[rows], k):.3f}" for k in (1, 10))
        print(f"    {kind}, {rows.sum()}: {shown}")
    columns = [unseen.column("colour"), unseen.column("gender"), unseen.column("product_type")]
    combined, words = combinations(columns), ShopWords.load()
    relevant = relevant_to(columns, combined)
    print(f"  {len(combined)} phrases '<colour> <sex> <kind>', nDCG@10:")
    for language in LANGUAGES:
        scores = unseen.scores([ask(ROLES, values, language, words) for values in combined])
        show(language, partial(ndcg_at_10, relevant=relevant), scores)
    print("  the same in wordings that no training phrase has:")
    for language, frames in OTHER_WORDINGS.items():
        for frame in frames:
            scores = unseen.scores([ask_otherwise(frame, values, language, words) for values in combined])
            show(f"{language} '{frame}'", partial(ndcg_at_10, relevant=relevant), scores)


def ask_otherwise(frame: str, values: Sequence[str], language: str, words: ShopWords) -> str:
    """Say colour, sex and kind by a frame."""
    said = [value.lower() if language == "en" else words.translate(value, language) for value in values]
    return frame.format(**dict(zip(ROLES, said, strict=True)), person=PERSONS[values[1]])


def ask(roles: Sequence[str], values: Sequence[str], language: str, words: ShopWords) -> str:
    """Say a product's values in a language: English ones as they are, in small letters, others by the usual word of the table.

    Spanish and French say the kind first and the sex last, as shoppers there do.
    """
    said = [value.lower() if language == "en" else words.translate(value, language) for value in values]
    spoken = dict(zip(roles, said, strict=True))
    order = ("kind", "colour", "audience") if language in ("es", "fr") else roles
    return ("" if language == "zh" else " ").join(spoken[role] for role in order if role in spoken)


def show(language: str, measure: Callable[[np.ndarray], float], scores: dict[str, np.ndarray]) -> None:
    """Print a figure for a language: by picture alone, fused, and as a search ranks texts."""
    named = {"picture": "picture alone", "fused": "fused", "ranked": "ranked as texts"}
    print(f"    {language}: " + ", ".join(f"{shown} {measure(scores[name]):.3f}" for name, shown in named.items()), flush=True)


def main() -> None:
    """Run the measurement that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("sample", "fashion", "ranking"))
    parser.add_argument("--work", type=Path, required=True, help="folder for indexes; features in it are used again")
    parser.add_argument("--products", type=int, default=3000, help="products of the sample (default: %(default)s)")
    parser.add_argument("--weight", action="append", default=[], metavar="M=W", help="as of `run`, for the sample")
    parser.add_argument("--catalogue", help="the fashion catalogue")
    parser.add_argument("--phrase-languages", action="append", default=[], help="as of `train`, for the fashion catalogue")
    given = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")
    if given.what == "sample":
        measure_sample(given.work, given.products, given.weight)
    elif not given.catalogue:
        parser.error(f"{given.what} needs --catalogue")
    elif given.what == "ranking":
        measure_ranking(given.work, given.catalogue)
    else:
        measure_fashion(given.work, given.catalogue, given.phrase_languages)


if __name__ == "__main__":
    main()
