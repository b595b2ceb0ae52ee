"""Versions of an index made of drawn products, without encoding anything: for tests of what reads them."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from catalogue_lookup.manifest import Manifest, Metric
from encoders.bundle import Bundle, open_bundle, write_bundle
from encoders.fusion import Fusion
from encoders.heads import Head, random_head
from encoders.tower_spec import TowerSpec
from pipelines.build import build_version
from pipelines.layout import Index, order_of

SHARED = 16
DIMENSION = 2 * SHARED
COLOURS = ("red", "green", "blue", "it's black")


FUSION = Fusion("concatenation", {"picture": 0.5, "text": 0.5})


def write_towers(folder: Path, seed: int = 0) -> dict[str, Path]:
    """Write folders of towers that a bundle takes, but that hold nothing that runs."""
    specs = {
        "picture": TowerSpec("test:picture", "picture", 24, f"p{seed}", 16, None, 4, None, ("litert",)),
        "text": TowerSpec("test:text", "text", 24, f"t{seed}", None, 64, 4, "tokenizers", ("litert",)),
    }
    for modality, spec in specs.items():
        (folder / modality).mkdir(parents=True)
        (folder / modality / "tower.json").write_text(spec.to_json())
        (folder / modality / "model.tflite").write_bytes(bytes([seed]) * 1000)
    return {modality: folder / modality for modality in specs}


def write_heads(seed: int = 0) -> dict[str, Head]:
    """Return random heads for the towers."""
    return {modality: random_head(24, SHARED, seed + number) for number, modality in enumerate(("picture", "text"))}


def bundle_in(index: Path, seed: int = 0, fusion: Fusion = FUSION) -> Bundle:
    """Write a bundle of such towers into an index."""
    with tempfile.TemporaryDirectory() as folder:
        towers = write_towers(Path(folder) / "towers", seed)
        written = write_bundle(Path(folder) / "bundle", towers, write_heads(seed), fusion, {}, {})
        target = index / "bundles" / written.hash
        if not target.exists():
            shutil.copytree(written.folder, target)
    return open_bundle(target)


@dataclass(frozen=True)
class Products:
    """Drawn products in the one order, with their vectors: float32[N, D], and float32[N, d] of each modality."""

    rows: list[dict[str, Any]]
    fused: np.ndarray
    modalities: dict[str, np.ndarray]
    present: dict[str, np.ndarray]

    @cached_property
    def ids(self) -> list[str]:
        """Give the ids in order."""
        return [row["product_id"] for row in self.rows]


def draw_products(count: int, seed: int = 0) -> Products:
    """Draw products in clusters; every seventh has no picture, and some columns are missing here and there."""
    rng = np.random.default_rng(seed)
    ids = sorted((f"P{number:05d}" for number in range(count)), key=lambda name: (order_of(name), name))
    clusters = rng.standard_normal((max(1, count // 20), SHARED))
    which = rng.integers(0, len(clusters), count)
    modalities, present = {}, {}
    for modality in ("picture", "text"):
        drawn = clusters[which] + 0.5 * rng.standard_normal((count, SHARED))
        modalities[modality] = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
        present[modality] = np.ones(count, np.bool_)
    present["picture"][::7] = False
    rows = []
    for number, product_id in enumerate(ids):
        n = int(product_id[1:])
        rows.append(
            {
                "product_id": product_id,
                "title": f"thing {n}",
                "price": None if n % 11 == 0 else float(n),
                "colour": None if n % 13 == 0 else COLOURS[int(which[number]) % len(COLOURS)],
                "stock": n % 5,
                "tags": ["new", f"t{n % 3}"] if n % 2 else [],
                "sold out": n % 4 == 0,
            }
        )
    fused = FUSION.fuse(modalities, present) if count else np.zeros((0, DIMENSION), np.float32)
    return Products(rows, fused, modalities, present)


COLUMNS = pa.schema(
    [("title", pa.string()), ("price", pa.float64()), ("colour", pa.string()), ("stock", pa.int64()),
     ("tags", pa.list_(pa.string())), ("sold out", pa.bool_())]
)  # fmt: skip


def vectors_table(products: Products, start: int, stop: int) -> pa.Table:
    """Return rows of a vectors file."""
    part = slice(start, stop)
    rows = products.rows[part]
    columns: dict[str, Any] = {
        "order": pa.array([order_of(row["product_id"]) for row in rows], pa.uint64()),
        "product_id": pa.array([row["product_id"] for row in rows], pa.string()),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(products.fused[part].reshape(-1)), products.fused.shape[1]),
    }
    for modality, vectors in products.modalities.items():
        there = products.present[modality][part]
        values = [row.astype(np.float16) if here else None for row, here in zip(vectors[part], there, strict=True)]
        columns[f"{modality}_vector"] = pa.array(values, pa.list_(pa.float16()))
    for field in COLUMNS:
        columns[field.name] = pa.array([row[field.name] for row in rows], field.type)
    return pa.table(columns)


def write_vectors(folder: Path, products: Products, partitions: int = 3) -> list[dict[str, Any]]:
    """Write files of vectors as FUSE does; returns what it tells of them, one of them without products."""
    (folder / "vectors").mkdir(parents=True, exist_ok=True)
    told: list[dict[str, Any]] = []
    edges = np.linspace(0, len(products.rows), partitions + 1).astype(int)
    for number, (start, stop) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        if start == stop:
            told.append({"partition": number, "rows": 0, "file": None})
            continue
        sink = pa.BufferOutputStream()
        pq.write_table(vectors_table(products, start, stop), sink, row_group_size=64)
        data = sink.getvalue().to_pybytes()
        digest = hashlib.sha256(data).hexdigest()
        name = f"vectors/{number:05d}-{digest[:12]}.parquet"
        (folder / name).write_bytes(data)
        told.append({"partition": number, "rows": stop - start, "file": name, "size": len(data), "sha256": digest})
    return told


def make_version(root: Path, version: str, products: Products, **changes: Any) -> Manifest:
    """Build a version of products in the index at `root`."""
    index = Index(str(root))
    files = changes.pop("files", None) or write_vectors(Path(index.version(version)), products)
    settings: dict[str, Any] = {
        "bundle": bundle_in(root), "metric": "angular", "trees": 10, "max_items_per_shard": 10**7, "seed": 0,
        "rows_in": len(products.rows), "rejected": {}, "rejects": [], "previous": None, "sequence": 1,
    }  # fmt: skip
    return build_version(index, version, files, **(settings | changes))


def exact_order(products: Products, query: np.ndarray, metric: Metric = "angular") -> tuple[list[str], np.ndarray]:
    """Return ids from the closest on, and all scores in the order of products."""
    vectors, query = products.fused.astype(np.float64), query.astype(np.float64)
    if metric == "angular":
        scores = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
    elif metric == "dot":
        scores = vectors @ query
    else:
        scores = np.linalg.norm(vectors - query, ord=2 if metric == "euclidean" else 1, axis=1)
    order = np.argsort(-scores if metric in ("angular", "dot") else scores, kind="stable")
    return [products.ids[row] for row in order], scores


def near(products: Products, count: int) -> np.ndarray:
    """Return queries that lie near products, but on none."""
    noise = np.random.default_rng(5).standard_normal((count, DIMENSION)) / DIMENSION
    return (products.fused[:: len(products.ids) // count][:count] + noise).astype(np.float32)
