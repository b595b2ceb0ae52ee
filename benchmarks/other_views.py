"""Measures whether a photo finds the product that it shows, by other pictures of products than the one that is indexed.

    python -m benchmarks.other_views --work DIR --catalogue shop.jsonl.gz [--folds 5] [--rows 0,1,2]

The catalogue is JSON lines with a list of paths, `images`, of which the first is the main one; where it has `colour_images`
(`[{"colour": ..., "images": [...]}]`), pictures of the colour of the main one are counted apart from those of other colours.

The products are dealt into folds. For each fold heads are trained on the products of the others with all their pictures, and on
the fold's own with the main one alone, as a shop trains on what it sells ("known"), or without these ("new"). Then all products
are indexed by text and main picture, and each other picture of the fold's products is asked for, by `Index.search(image=...)`:
neither training nor the index has seen it. Prints recall@1 and @10 among all products as a Markdown table.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from catalogue_lookup import open_index
from pipelines.config import read_config
from pipelines.run import run
from pipelines.train import train

# Name -> whether training knows the products asked for, and its settings.
ROWS: Mapping[str, tuple[bool, Mapping[str, Any]]] = {
    "known products (the default)": (True, {}),
    "known products, learned values only": (True, {"whitened_dimension": 0}),
    "known products, a share of .3": (True, {"whitened_share": 0.3}),
    "new products": (False, {}),
    "new products, learned values only": (False, {"whitened_dimension": 0}),
}
COLUMN = {"picture": "images"}


def read_products(path: Path) -> list[dict[str, Any]]:
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


def ask(index: str, products: Sequence[Mapping[str, Any]]) -> list[tuple[bool, int]]:
    """Ask every picture but the main one; returns whether it has the main one's colour, and the product's rank or 0."""
    found = []
    with open_index(index) as opened:
        for product in products:
            alike = of_main_colour(product)
            for path in product["images"][1:]:
                ids = [hit.product_id for hit in opened.search(image=path, k=10)]
                rank = ids.index(product["product_id"]) + 1 if product["product_id"] in ids else 0
                found.append((path in alike, rank))
    return found


def measure(
    work: Path, products: Sequence[Mapping[str, Any]], folds: int, root: str, known: bool, settings: Mapping[str, Any]
) -> str:
    """Train and index once a fold; returns the figures of all folds together as cells of a table."""
    dealt = np.random.default_rng(0).permutation(len(products)) % folds
    common = {"column": COLUMN, "allow_root": [root], "min_recall": 0.0}
    found = []
    for fold in range(folds):
        folder = work / f"fold-{fold}"
        single = [{**product, "images": product["images"][:1]} for product in products]
        taken = [single[place] if at == fold else products[place] for place, at in enumerate(dealt) if known or at != fold]
        seen = write_products(folder / "train.jsonl", taken)
        indexed = write_products(folder / "indexed.jsonl", single)
        index = str(folder / "index")
        bundle = train(read_config(None, {"catalogue": [seen], "index": index, **common, **settings}))
        run(read_config(None, {"catalogue": [indexed], "index": index, "bundle": str(bundle.folder), **common}))
        found += ask(index, [one for one, at in zip(products, dealt, strict=True) if at == fold])
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
    for name, (known, settings) in [list(ROWS.items())[int(row)] for row in given.rows.split(",")]:
        print(f"| {name} | {measure(given.work, products, given.folds, root, known, settings)} |", flush=True)


if __name__ == "__main__":
    main()
