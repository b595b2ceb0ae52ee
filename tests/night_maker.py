"""Nights of a shop of texts, for tests of what pruning leaves of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from catalogue_lookup import open_index
from pipelines.config import Config, read_config
from pipelines.layout import Index, read_json
from pipelines.run import run

COUNT = 200


def row(number: int, words: str = "shirt") -> dict[str, Any]:
    return {"id": f"P{number:05d}", "title": f"{words} number {number}", "price": float(number)}


def configured(folder: Path, bundle: Path, rows: list[dict[str, Any]] | None = None, **changes: Any) -> Config:
    if rows is not None:
        folder.mkdir(exist_ok=True, parents=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / "shop.parquet")
    flags = {"index": str(folder / "index"), "catalogue": [f"{folder}/shop.parquet"], "bundle": str(bundle)}
    settings = {"trees": 5, "partition_rows": 64, "keep_versions": 0, "grace_hours": 0.0}
    return read_config(None, flags | settings | changes)


def changed(rows: list[dict[str, Any]], night: int, share: int = 20) -> list[dict[str, Any]]:
    """Return the catalogue of a night: one in `share` products has another title."""
    return [row(n, f"night{night}") if n % share == night % share else old for n, old in enumerate(rows)]


def vectors(index: Index, version: str) -> pa.Table:
    manifest = read_json(f"{index.version(version)}/manifest.json")
    return pa.concat_tables([pq.read_table(f"{index.version(version)}/{name}") for name in manifest["vectors"]])


def hashes(index: Index, version: str) -> dict[str, str]:
    files = read_json(f"{index.version(version)}/manifest.json")["files"]
    return {name: entry["sha256"] for name, entry in files.items()}


def answers(index: Index) -> list[list[float]]:
    """Return the scores of answers: an Annoy file that is made anew has others among equals."""
    with open_index(index.root) as opened:
        ids = [f"P{number:05d}" for number in range(1, 60, 7)]
        found = [opened.search(product_id=name, k=5, search_k=10**6) for name in ids]
        return [[round(hit.score, 4) for hit in hits] for hits in found]


def feature_files(index: Index) -> list[Path]:
    return sorted(Path(index.root).glob("features/*/parts/*/*.parquet"))


def index_of(folder: Path) -> Index:
    return Index(str(folder / "index"))


def write_nights(folder: Path, bundle: Path, count: int) -> None:
    """Run nights, after the first one with another title for one product in eight."""
    rows = [row(number) for number in range(COUNT)]
    for night in range(count):
        rows = changed(rows, night, 8) if night else rows
        run(configured(folder, bundle, rows))
