"""A drawn shop catalogue to try the pipeline with: photos, texts in two languages, some broken rows.

    python -m pipelines sample --output /tmp/shop --products 20000

Any number of products in the memory of one shard; product i is the same in every catalogue of its seed.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import storage
from pipelines.sample_goods import COLOURS, TYPES, draw_attributes
from pipelines.sample_shapes import draw_product
from pipelines.sample_words import write_texts

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("product_id", "title", "description", "category", "product_type")),
        *((name, pa.string()) for name in ("colour", "pattern", "material", "brand")),
        ("price", pa.float64()),
        ("currency", pa.string()),
        ("rating", pa.float64()),
        ("review_count", pa.int32()),
        ("reviews", pa.list_(pa.string())),
        ("image", pa.binary()),
    ]
)
ROW_GROUP = 128
CHINESE_SHARE, NO_PICTURE, NO_TEXT, NO_RATING, BROKEN = 0.1, 0.02, 0.02, 0.05, 0.004

Defect = Literal["truncated_picture", "missing_id", "duplicate_id", "bad_price"]
_DEFECTS: tuple[Defect, ...] = ("truncated_picture", "missing_id", "duplicate_id", "bad_price")
# A catalogue of a hundred products already holds one of each.
_CERTAIN: Mapping[int, Defect] = MappingProxyType(dict(zip((17, 43, 71, 97), _DEFECTS, strict=True)))
_PRODUCT, _QUERY = 0, 1  # streams of randomness of one seed


def write_sample(output: str, products: int, seed: int, rows_per_shard: int = 1000) -> list[str]:
    """Write a catalogue of drawn products as Parquet shards into a folder, and return their paths.

    The same arguments write the same bytes. Two products in a hundred have no picture, two no texts, and
    about one in two hundred is broken: a truncated picture, a missing or repeated product_id, or a price
    that is negative or NaN.

    Raises:
        ValueError: for a number out of range, or a folder that holds shards of another catalogue.
    """
    bounds = (("products", products, 1), ("seed", seed, 0), ("rows_per_shard", rows_per_shard, 1))
    for name, value, least in bounds:
        if value < least:
            raise ValueError(f"{name} is {value}: give {least} or more")
    shards = math.ceil(products / rows_per_shard)
    paths = [storage.join(output, f"part-{index:05d}-of-{shards:05d}.parquet") for index in range(shards)]
    for found in storage.list_folder(output, "part-*.parquet"):
        if not found.path.endswith(f"-of-{shards:05d}.parquet"):
            raise ValueError(
                f"folder {output} holds {found.path}, of another catalogue: remove it or name another folder"
            )
    for index, path in enumerate(paths):
        first = index * rows_per_shard
        rows = [make_row(seed, number) for number in range(first, min(first + rows_per_shard, products))]
        storage.write_whole(path, _serialise(rows))
    return paths


def write_query_image(path: str, seed: int, product_type: str = "sneakers", colour: str = "red") -> None:
    """Write the photo of a plain product to search with, a JPEG that no catalogue of the sample holds.

    Raises:
        ValueError: for a type or colour that the sample does not have.
    """
    for name, value, known in (("product_type", product_type, TYPES), ("colour", colour, COLOURS)):
        if value not in known:
            raise ValueError(f"{name} is '{value}': give one of {', '.join(known)}")
    rng = np.random.default_rng([seed, _QUERY])
    storage.write_whole(path, draw_product(product_type, COLOURS[colour], "plain", rng))


def make_row(seed: int, number: int) -> dict[str, Any]:
    """Make the row of product `number`, from 0; a value for every column of `SCHEMA`."""
    rng = np.random.default_rng([seed, _PRODUCT, number])
    product = draw_attributes(rng)
    kind, colour = TYPES[product.product_type], COLOURS[product.colour]
    rating = round(float(np.clip(rng.normal(3.9, 0.8), 1, 5)), 1)
    text = write_texts(product, bool(rng.random() < CHINESE_SHARE), rating, rng)
    gap = rng.random()
    pictured, described = gap >= NO_PICTURE, not NO_PICTURE <= gap < NO_PICTURE + NO_TEXT
    row = {
        "product_id": product_id(number),
        "title": text.title if described else None,
        "description": text.description if described else None,
        "category": kind.category,
        **asdict(product),
        "price": round(float(kind.price * np.exp(rng.normal(0, kind.spread))), 2),
        "currency": "EUR",
        "rating": rating if text.reviews and rng.random() >= NO_RATING else None,
        "review_count": len(text.reviews) + int(rng.lognormal(2, 1.5)) if text.reviews else 0,
        "reviews": list(text.reviews),
        "image": draw_product(product.product_type, colour, product.pattern, rng) if pictured else None,
    }
    defect = defect_of(seed, number)
    return row if defect is None else _damage(row, defect, number)


def product_id(number: int) -> str:
    """Give the identifier of a product."""
    return f"S{number:08d}"


def defect_of(seed: int, number: int) -> Defect | None:
    """Tell what is wrong with a product's row; None for nearly all."""
    if number in _CERTAIN:
        return _CERTAIN[number]
    rng = np.random.default_rng([seed, _PRODUCT, number, 1])
    if number < 100 or rng.random() >= BROKEN:
        return None
    return _DEFECTS[int(rng.integers(len(_DEFECTS)))]


def _damage(row: dict[str, Any], defect: Defect, number: int) -> dict[str, Any]:
    if defect == "truncated_picture":
        rng = np.random.default_rng(number)
        picture = row["image"] or draw_product(row["product_type"], COLOURS[row["colour"]], row["pattern"], rng)
        return {**row, "image": picture[: len(picture) // 3]}
    if defect == "missing_id":
        return {**row, "product_id": None}
    if defect == "duplicate_id":
        return {**row, "product_id": product_id(number - 1)}
    return {**row, "price": math.nan if number % 2 == 0 else -row["price"]}


def _serialise(rows: list[dict[str, Any]]) -> bytes:
    stream = io.BytesIO()
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    pq.write_table(table, stream, row_group_size=ROW_GROUP, compression="zstd")
    return stream.getvalue()
