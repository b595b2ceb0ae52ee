"""Measures what a night costs on which one product in a hundred changed, next to the full run.

    python -m benchmarks.incremental --work DIR [--catalogue 'fashion/*.parquet'] [--bundle DIR] [--nights N]

The catalogue (by default the drawn sample) is written twice as Parquet with the pictures inside: the second time one
product in a hundred differs, a fifth each by title, picture and price, a fifth is new and a fifth gone. Each figure is
the real command as a process of its own: `run` on the first into an empty index, then on the second, on a copy of that
index for each night. What starting up takes is the same command on a catalogue of no rows, and is taken off both. The
bundle is trained on the catalogue once, unless one is given, and kept in DIR.
"""

from __future__ import annotations

import argparse
import glob
import io
import json
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from pipelines.layout import Index, read_json
from pipelines.sample import write_sample
from pipelines.schema import ALIASES
from pipelines.stages import STAGES

CHANGED, KINDS = 0.01, ("title", "picture", "price", "new", "gone")


@dataclass(frozen=True)
class Measured:
    """One run: its seconds from start to end, those of its stages, and the items it encoded."""

    seconds: float
    stages: dict[str, float]
    items: int

    @property
    def rest(self) -> float:
        """Seconds outside of the stages: starting Python, imports, opening the bundle, ending."""
        return self.seconds - sum(self.stages.values())


def column(table: pa.Table, name: str) -> str:
    """Return what a catalogue calls a column."""
    return next(alias for alias in ALIASES[name] if alias in table.column_names)


def read_catalogue(pattern: str) -> list[pa.Table]:
    """Read the shards, with a price where the catalogue has none."""
    tables = [pq.read_table(path) for path in sorted(glob.glob(pattern))]
    if "price" not in tables[0].column_names:
        tables = [t.append_column("price", pa.array([round(5 + n % 90 + 0.9, 2) for n in range(len(t))])) for t in tables]
    return tables


def other_picture(data: bytes) -> bytes:
    """Return the mirror image of a picture."""
    stream = io.BytesIO()
    with Image.open(io.BytesIO(data)) as picture:
        ImageOps.mirror(picture.convert("RGB")).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def write_days(tables: list[pa.Table], work: Path) -> dict[str, int]:
    """Write the catalogues of both nights, and one of no rows; returns how many products of each kind differ."""
    name, title, picture = (column(tables[0], kind) for kind in ("product_id", "title", "picture"))
    total = sum(len(table) for table in tables)
    drawn = np.random.default_rng(0).permutation(total)[: max(len(KINDS), round(CHANGED * total))]
    kind_of = {int(row): KINDS[number % len(KINDS)] for number, row in enumerate(drawn)}
    start = 0
    for number, table in enumerate(tables):
        days: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
        for place, row in enumerate(table.to_pylist()):
            kind = kind_of.get(start + place)
            after = dict(row)
            if kind == "title":
                after[title] = f"New {row[title]}"
            elif kind == "price":
                after["price"] = (row["price"] or 1.0) + 1
            elif kind == "picture" and row[picture]:
                try:
                    after[picture] = other_picture(row[picture])
                except OSError:  # the sample has pictures that are cut off
                    after[picture] = row[picture] + b"!"
            if kind != "new":
                days[0].append(row)
            if kind != "gone":
                days[1].append(after)
        for day, rows in zip(("first", "second"), days, strict=True):
            write(work / day / f"part-{number:05d}.parquet", pa.Table.from_pylist(rows, schema=table.schema))
        start += len(table)
    write(work / "none" / "part-00000.parquet", tables[0].slice(0, 0))
    print(f"{total:,} products in {len(tables)} shards; {name} {tables[0][name][0]} is the first")
    return {kind: list(kind_of.values()).count(kind) for kind in KINDS}


def write(path: Path, table: pa.Table) -> None:
    """Write a shard in small pages, as is right for pictures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=128, compression="zstd", write_batch_size=16)


def command(*arguments: str) -> float:
    """Run the command in a process of its own; returns its seconds."""
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "pipelines", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}\n{done.stderr[-3000:]}")
    return time.monotonic() - started


def night(work: Path, day: str, index: str, bundle: str) -> Measured:
    """Bring a day's catalogue into an index."""
    root = work / index
    seconds = command("run", "--catalogue", f"{work}/{day}/*.parquet", "--index", str(root), "--bundle", bundle)
    ended = root / "runs" / (root / "CURRENT").read_text().strip() / "ended"
    counts = {stage: read_json(str(ended / f"{stage}.json")) for stage in STAGES}
    return Measured(
        seconds, {stage: counts[stage]["seconds"] for stage in STAGES}, sum(counts["encode"]["items"].values())
    )  # fmt: skip


def trained_bundle(work: Path) -> str:
    """Train a bundle on the first day's catalogue, unless it is there; returns its folder."""
    index = Index(str(work / "trained"))
    if not (work / "trained" / "bundles" / "LATEST").exists():
        print("training a bundle first")
        command("train", "--catalogue", f"{work}/first/*.parquet", "--index", index.root)
    return f"{index.bundles}/{(work / 'trained' / 'bundles' / 'LATEST').read_text().strip()}"


def show(full: Measured, nights: list[Measured], empty: float) -> None:
    """Print the ratios, and where the time of a night goes."""
    items = statistics.median(one.items for one in nights)
    seconds = statistics.median(one.seconds for one in nights)
    print(f"encoder items: full run {full.items:,}, night {items:,.0f}: {100 * items / full.items:.2f} % (at most 1.5 wanted)")
    print(f"start-up {empty:.1f} s: the same command on a catalogue of no rows")
    ratio = (seconds - empty) / (full.seconds - empty)
    print(
        f"beyond it: full run {full.seconds - empty:.1f} s, night {seconds - empty:.1f} s (median of {len(nights)}): "
        f"{100 * ratio:.1f} % (at most 10 wanted)"
    )
    for stage in STAGES:
        print(f"  {stage:8}  full {full.stages[stage]:7.2f} s  night {statistics.median(n.stages[stage] for n in nights):6.2f} s")
    print(f"  {'rest':8}  full {full.rest:7.2f} s  night {statistics.median(n.rest for n in nights):6.2f} s")


def main() -> None:
    """Write the catalogues, run the nights, print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for catalogues and indexes")
    parser.add_argument("--catalogue", help="Parquet shards with pictures inside (default: the drawn sample)")
    parser.add_argument("--products", type=int, default=3000, help="products of the sample (default: %(default)s)")
    parser.add_argument("--bundle", help="folder of a bundle (default: one trained on the catalogue)")
    parser.add_argument("--nights", type=int, default=3, help="nights, of which the median counts (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="also print all figures as one line of JSON")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    if given.catalogue is None:
        write_sample(str(given.work / "sample"), given.products, seed=0)
    kinds = write_days(read_catalogue(given.catalogue or f"{given.work}/sample/*.parquet"), given.work)
    print("changed: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items()))
    bundle = given.bundle or trained_bundle(given.work)
    for name in ("empty", "index", "night"):
        shutil.rmtree(given.work / name, ignore_errors=True)
    empty = statistics.median(_empty(given.work, bundle) for _ in range(given.nights))
    full, nights = night(given.work, "first", "index", bundle), []
    for _ in range(given.nights):
        shutil.rmtree(given.work / "night", ignore_errors=True)
        shutil.copytree(given.work / "index", given.work / "night")
        nights.append(night(given.work, "second", "night", bundle))
    show(full, nights, empty)
    if given.json:
        print(json.dumps({"empty": empty, "full": vars(full), "nights": [vars(one) for one in nights]}))


def _empty(work: Path, bundle: str) -> float:
    shutil.rmtree(work / "empty", ignore_errors=True)
    return command("run", "--catalogue", f"{work}/none/*.parquet", "--index", str(work / "empty"), "--bundle", bundle)


if __name__ == "__main__":
    main()
