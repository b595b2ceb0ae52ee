"""Versions of an index made of random vectors, for the tests of building, publishing and searching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catalogue_lookup.manifest import Manifest
from encoders.bundle import Bundle, ViewSettings
from encoders.fusion import Fusion
from encoders.heads import random_head
from encoders.towers import TowerSpec
from pipelines import ranges, storage
from pipelines.build import build_version
from pipelines.fuse import fixed_size_list, nullable_list
from pipelines.layout import Index, order_of
from pipelines.publish import next_sequence, read_current

SHARED = 8
COLOURS = ("red", "green", "blue", "rare")

Float32 = npt.NDArray[np.float32]


def made_bundle() -> Bundle:
    """Return a bundle of which only the settings are used: two modalities, concatenated."""
    towers = {
        modality: TowerSpec(f"package:{modality}", modality, 12, "0", None, None, 8, None, ())  # type: ignore[arg-type]
        for modality in ("picture", "text")
    }
    heads = {modality: random_head(12, SHARED, seed) for seed, modality in enumerate(towers)}
    fusion = Fusion("concatenation", {"picture": 0.5, "text": 0.5})
    return Bundle(Path("nowhere"), "b" * 64, towers, heads, fusion, ViewSettings(), {})


def made_vectors(products: int, seed: int = 0) -> tuple[Float32, dict[str, Float32], npt.NDArray[np.bool_]]:
    """Draw products in clusters: fused float32[N, D], single float32[N, d] by modality, bool[N]: has a picture."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(12, SHARED))
    which = rng.integers(0, len(centres), products)
    single = {}
    for modality in ("picture", "text"):
        drawn = (centres[which] + 0.6 * rng.normal(size=(products, SHARED))).astype(np.float32)
        single[modality] = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    pictured = rng.random(products) > 0.1
    fused = made_bundle().fusion.fuse(single, {"picture": pictured})
    return fused, single, pictured


def made_columns(products: int) -> dict[str, Any]:
    """Return columns to show: one product in ten is rare."""
    numbers = range(products)
    return {
        "title": [f"product {n}" for n in numbers],
        "price": [float(n % 100) if n % 7 else None for n in numbers],
        "colour": pa.array([COLOURS[3 if n % 10 == 0 else n % 3] for n in numbers]).dictionary_encode(),
        "tags": [[f"t{n % 5}"] for n in numbers],
    }


def ids_in_order(products: int) -> list[str]:
    """Return that many ids in the one order of all files."""
    return sorted((f"P{n}" for n in range(products)), key=order_of)


def write_fused(
    index: Index, version: str, vectors: Float32, single: Mapping[str, Float32] | None = None,
    pictured: npt.NDArray[np.bool_] | None = None, partitions: int = 2,
) -> list[dict[str, Any]]:  # fmt: skip
    """Write vectors files as FUSE does and return what it says of them."""
    ids, columns, fused = ids_in_order(len(vectors)), made_columns(len(vectors)), []
    for partition in range(partitions):
        part = slice(len(vectors) * partition // partitions, len(vectors) * (partition + 1) // partitions)
        if part.start == part.stop:
            fused.append({"partition": partition, "file": None, "rows": 0})
            continue
        named = {
            "order": pa.array([order_of(name) for name in ids[part]], pa.uint64()),
            "product_id": pa.array(ids[part]),
            "vector": fixed_size_list(vectors[part]),
        }
        for modality, rows in (single or {}).items():
            there = np.ones(len(vectors), np.bool_) if modality == "text" or pictured is None else pictured
            named[f"{modality}_vector"] = nullable_list(rows[part].astype(np.float16), there[part])
        named |= {name: column[part] for name, column in columns.items()}
        table = pa.table(named)
        name = f"vectors/{partition:05d}-abc.parquet"
        entry = ranges.write_table(storage.join(index.version(version), name), table)
        fused.append({"partition": partition, "file": name, "rows": table.num_rows, "size": entry.size,
                      "sha256": entry.sha256})  # fmt: skip
    return fused


def build(
    root: Path, version: str = "v1", vectors: Float32 | None = None, fused: Sequence[Mapping[str, Any]] | None = None,
    bundle: Bundle | None = None, **changes: Any,
) -> Manifest:  # fmt: skip
    """Build a version below `root`, of the given vectors or vectors files."""
    index = Index(str(root))
    if fused is None:
        fused = write_fused(index, version, made_vectors(100)[0] if vectors is None else vectors)
    settings: dict[str, Any] = {
        "metric": "angular", "trees": 10, "max_items_per_shard": 10_000, "seed": 0,
        "rows_in": sum(entry["rows"] for entry in fused), "rejected": {}, "rejects": [],
        "previous": read_current(index), "sequence": next_sequence(index),
    }  # fmt: skip
    return build_version(index, version, fused, bundle or made_bundle(), **{**settings, **changes})
