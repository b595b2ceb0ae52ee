"""Measures whether a photo finds the product that it shows, by other pictures of products than the one that is indexed.

    python -m benchmarks.other_views --work DIR --catalogue shop.jsonl.gz [--folds 5] [--rows 0,1,2]

The catalogue is JSON lines with a list of paths, `images`, of which the first is the main one; where it has `colour_images`
(`[{"colour": ..., "images": [...]}]`), pictures of the colour of the main one are counted apart from those of other colours.

The other pictures are dealt into folds and those of a fold are asked for, by `Index.search(image=...)`: neither training nor the
index has seen them. What training has seen (`Seen`) is the other folds' pictures of all products ("all but asked"); or, with
folds of whole products, the fold's products by their main picture alone ("main"), or not at all ("new"). The index has the
main picture of each product, or all that are not asked for. Prints recall@1 and @10 among all products as a Markdown table.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from catalogue_lookup import open_index
from pipelines.config import read_config
from pipelines.run import run
from pipelines.train import train

Seen = Literal["all but asked", "main", "new"]


@dataclass(frozen=True)
class Row:
    """What training has seen of the products asked for, its settings, and whether the index has main pictures alone."""

    seen: Seen
    settings: Mapping[str, Any] = field(default_factory=dict)
    main_alone: bool = True


ROWS: Mapping[str, Row] = {
    "known products (the default)": Row("main"),
    "known products, learned values only": Row("main", {"whitened_dimension": 0}),
    "known products, a share of .3": Row("main", {"whitened_share": 0.3}),
    "new products": Row("new"),
    "new products, learned values only": Row("new", {"whitened_dimension": 0}),
    "trained on all other pictures": Row("all but asked"),
    "the same, and all these indexed, a share of .7": Row("all but asked", {"whitened_share": 0.7}, main_alone=False),
    "known products, a share of .7": Row("main", {"whitened_share": 0.7}),
}
COLUMN = {"picture": "images"}
Product = dict[str, Any]


@dataclass(frozen=True)
class Fold:
    """Hold what training and the index see of a catalogue, and which pictures of a product are asked for, by its id."""

    trained: Sequence[Product]
    indexed: Sequence[Product]
    asked: Mapping[str, Sequence[str]]


def read_products(path: Path) -> list[Product]:
    """Read the products of a file of JSON lines, also gzipped."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def write_products(path: Path, products: Sequence[Mapping[str, Any]]) -> str:
    """Write products as JSON lines; returns where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(product)}\n" for product in products), encoding="utf-8")
    return str(path)


def of_main_colour(product: Mapping[str, Any]) -> set[str]:
    """Return the pictures that have the colour of the main one, all where the catalogue does not say."""
    groups = [colour["images"] for colour in product.get("colour_images") or []]
    return set(next((group for group in groups if product["images"][0] in group), product["images"]))


def deal(products: Sequence[Product], folds: int, row: Row) -> Iterator[Fold]:
    """Deal the pictures that are not the main ones into folds, those of a product together where training has none of them."""
    random = np.random.default_rng(0)
    dealt = random.permutation(len(products)) % folds
    single = [{**product, "images": product["images"][:1]} for product in products]
    others = np.repeat(dealt, [len(product["images"]) - 1 for product in products])
    apart = row.seen == "all but asked"
    if apart:
        others = random.permutation(len(others)) % folds
    for fold in range(folds):
        places = iter(others)
        asked = {one["product_id"]: [path for path in one["images"][1:] if next(places) == fold] for one in products}
        if apart:
            kept = [
                {**one, "images": [path for path in one["images"] if path not in asked[one["product_id"]]]} for one in products
            ]
            yield Fold(kept, single if row.main_alone else kept, asked)
        else:
            known = row.seen == "main"
            trained = [single[place] if at == fold else products[place] for place, at in enumerate(dealt) if known or at != fold]
            yield Fold(trained, single, asked)


def ask(index: str, products: Sequence[Product], asked: Mapping[str, Sequence[str]]) -> list[tuple[bool, int]]:
    """Ask pictures of products; returns whether each has the main one's colour, and the product's rank or 0."""
    found = []
    with open_index(index) as opened:
        for product in products:
            alike = of_main_colour(product)
            for path in asked[product["product_id"]]:
                ids = [hit.product_id for hit in opened.search(image=path, k=10)]
                rank = ids.index(product["product_id"]) + 1 if product["product_id"] in ids else 0
                found.append((path in alike, rank))
    return found


def measure(work: Path, products: Sequence[Product], folds: int, root: str, row: Row) -> str:
    """Train and index once a fold; returns the figures of all folds together as cells of a table."""
    common = {"column": COLUMN, "allow_root": [root], "min_recall": 0.0}
    found = []
    for number, fold in enumerate(deal(products, folds, row)):
        folder = work / f"fold-{number}"
        trained = write_products(folder / "train.jsonl", fold.trained)
        indexed = write_products(folder / "indexed.jsonl", fold.indexed)
        index = str(folder / "index")
        bundle = train(read_config(None, {"catalogue": [trained], "index": index, **common, **row.settings}))
        run(read_config(None, {"catalogue": [indexed], "index": index, "bundle": str(bundle.folder), **common}))
        found += ask(index, products, fold.asked)
    alike, ranks = (np.array(column) for column in zip(*found, strict=True))
    parts = [rows for rows in (alike | True, alike, ~alike) if rows.any()]
    return " | ".join(f"{np.mean(ranks[rows] == 1):.3f} / {np.mean(ranks[rows] > 0):.3f} ({rows.sum()})" for rows in parts)


def main() -> None:
    """Run the measurement that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the indexes; features in it are used again")
    parser.add_argument("--catalogue", type=Path, required=True, help="a catalogue of products with several pictures")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--rows", default=",".join(str(number) for number in range(len(ROWS))))
    given = parser.parse_args()
    root = str(given.catalogue.resolve().parent)
    products = read_products(given.catalogue)
    for product in products:
        for pictured in (product, *(product.get("colour_images") or [])):
            pictured["images"] = [str(Path(root, path)) for path in pictured["images"]]
    print("| heads | others, recall@1 / @10 (pictures) | of the main one's colour | of other colours |\n|---|---|---|---|")
    for name, row in [list(ROWS.items())[int(number)] for number in given.rows.split(",")]:
        print(f"| {name} | {measure(given.work, products, given.folds, root, row)} |", flush=True)


if __name__ == "__main__":
    main()
