"""Measures queries with minus and queries with weights of their own, on an index of a public fashion catalogue.

    catalogue-index run --catalogue 'fashion/*.parquet' --index DIR
    python -m benchmarks.lookup minus   --index DIR
    python -m benchmarks.lookup weights --index DIR [--version ID]

`minus` asks "<kind>" minus "<colour>", and for products like one minus its colour, and counts the colour and the kind
among the first ten answers for several coefficients. `weights` compares the first ten answers with those of looking at
all products, for several numbers of candidates an answer.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np

from catalogue_lookup import Hit, Index, composition, open_index, version

COEFFICIENTS = (0.0, 0.15, 0.25, 0.5, 0.75, 1.0)
CANDIDATES = (1, 2, 5, 10, 20, 50)
WEIGHTS = ({"picture": 0.9, "text": 0.1}, {"picture": 0.5, "text": 0.5}, {"picture": 0.1, "text": 0.9}, {"picture": 1.0})
LEAST_PRODUCTS = 20
PRODUCTS = 200


def columns_of(index: Index) -> list[dict[str, str]]:
    """Return the columns of all products, the product id among them."""
    hits = index.search(vector=np.ones(index.manifest.dimension), k=len(index))
    return [{"product_id": hit.product_id, **hit.columns} for hit in hits]


def shares(hits: Sequence[Hit], **wanted: str) -> np.ndarray:
    """Return the share of answers that have each of the values."""
    return np.array([np.mean([hit.columns[name] == value for hit in hits]) for name, value in wanted.items()])


def measure_minus(index: Index) -> None:
    """Print the shares of the colour that is not wanted and of the kind that is, for each coefficient."""
    rows = [row for row in columns_of(index) if row["colour"] and row["product_type"]]
    pairs = [
        pair for pair, count in sorted(Counter((row["product_type"], row["colour"]) for row in rows).items())
        if count >= LEAST_PRODUCTS
    ]  # fmt: skip
    drawn = [rows[number] for number in np.random.default_rng(0).choice(len(rows), min(PRODUCTS, len(rows)), replace=False)]
    print(f"{len(pairs)} pairs of kind and colour of {LEAST_PRODUCTS} products or more; {len(drawn)} products")
    print("coefficient | kind minus colour: colour, kind | kind in that colour minus colour | like a product minus its colour")
    for coefficient in COEFFICIENTS:
        composition.UNWANTED_WEIGHT = coefficient
        by_kind = [
            shares(index.search(text=kind.lower(), minus={"text": colour.lower()}), colour=colour, product_type=kind)
            for kind, colour in pairs
        ]
        by_both = [
            shares(index.search(text=f"{colour} {kind}".lower(), minus={"text": colour.lower()}),
                   colour=colour, product_type=kind)
            for kind, colour in pairs
        ]  # fmt: skip
        like = [
            shares(index.search(product_id=row["product_id"], minus={"text": row["colour"].lower()}),
                   colour=row["colour"], product_type=row["product_type"])
            for row in drawn
        ]  # fmt: skip
        figures = [np.mean(found, axis=0) for found in (by_kind, by_both, like)]
        print(f"{coefficient:4.2f} | " + " | ".join(f"{colour:.3f}, {kind:.3f}" for colour, kind in figures))


def measure_weights(index: Index) -> None:
    """Print recall@10 against looking at all products, and milliseconds a query."""
    rows = columns_of(index)
    drawn = [rows[number] for number in np.random.default_rng(0).choice(len(rows), min(PRODUCTS, len(rows)), replace=False)]
    print(f"version {index.version}: {len(index):,} products, {index.manifest.fusion}; {len(drawn)} products, texts of as many")
    for weights in WEIGHTS:
        asked = [{"product_id": row["product_id"]} for row in drawn] + [{"text": row["title"]} for row in drawn]
        version.CANDIDATES = len(index)
        exact = [{hit.product_id for hit in index.search(**query, weights=weights, search_k=10**9)} for query in asked]
        for candidates in CANDIDATES:
            version.CANDIDATES = candidates
            started = time.perf_counter()
            found = [{hit.product_id for hit in index.search(**query, weights=weights)} for query in asked]
            took = (time.perf_counter() - started) / len(asked)
            same = [len(one & other) / len(one) for one, other in zip(exact, found, strict=True)]
            like, words = np.mean(same[: len(drawn)]), np.mean(same[len(drawn) :])
            print(f"{weights} {candidates:3d} candidates an answer: product {like:.3f}, text {words:.3f}, {1000 * took:.1f} ms")


def main() -> None:
    """Run the measurement that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("minus", "weights"))
    parser.add_argument("--index", required=True, help="folder of the index")
    parser.add_argument("--version", help="another version than the current one")
    given = parser.parse_args()
    with open_index(given.index, version=given.version) as index:
        measure_minus(index) if given.what == "minus" else measure_weights(index)


if __name__ == "__main__":
    main()
