"""Doing harm to the real command: a small shop, the command in a process group of its own, what a version says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from conftest import product, write_shards

from catalogue_lookup import Hit, open_index
from pipelines.config import read_config
from pipelines.layout import Index, read_json
from pipelines.operations import verify
from pipelines.publish import read_current
from pipelines.run import Report, run

# What differs between two versions of the same content: names, times, and the place in the order.
_OWN = ("id", "created", "hash", "measured", "previous", "sequence")


@dataclass(frozen=True)
class Shop:
    """A catalogue, and the command that brings it into an index.

    Attributes:
        catalogue: the glob of its shards.
        bundle: folder of the bundle.
        index: folder of the index.
        flags: further flags.
    """

    catalogue: str
    bundle: Path
    index: Path
    flags: tuple[str, ...] = ("--unit-items", "16", "--partition-rows", "64", "--trees", "10", "--max-items-per-shard", "120")

    def at(self, index: Path, **changes: Any) -> Shop:
        """Return the same with another index."""
        return replace(self, index=index, **changes)

    @property
    def arguments(self) -> list[str]:
        """Give the command's arguments."""
        where = ["--index", str(self.index), "--catalogue", self.catalogue, "--bundle", str(self.bundle)]
        return ["run", *where, *self.flags]

    def start(self, **options: Any) -> subprocess.Popen[str]:
        """Start the command in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines", *self.arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True, env=os.environ | {"COLUMNS": "1000"} | options.pop("env", {}), **options,
        )  # fmt: skip

    def finish(self, **options: Any) -> tuple[int, str, str]:
        """Run the command to its end; returns exit code, output and the last line of its errors."""
        process = self.start(**options)
        output, errors = process.communicate(timeout=300)
        return process.returncode, output, errors

    def paths(self, pattern: str) -> list[Path]:
        """List paths below the index."""
        return sorted(self.index.glob(pattern))


def made_shop(folder: Path, bundle: Path, rows: Sequence[dict[str, Any]], per_shard: int = 75) -> Shop:
    """Write a catalogue of rows below a folder."""
    return Shop(write_shards(folder / "shop", list(rows), per_shard), bundle, folder / "index")


def products(count: int) -> list[dict[str, Any]]:
    """Return the first products of the small catalogue."""
    return [product(number) for number in range(count)]


def kill(process: subprocess.Popen[str]) -> int:
    """Kill a process group as nothing can prevent; returns the exit code of its leader."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    finally:
        process.communicate()
    return process.returncode


def wait_until(true: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 120) -> bool:
    """Wait until something is true of a running process; returns whether it became so before the process ended."""
    deadline = time.monotonic() + seconds
    while not true():
        if process.poll() is not None:
            return true()
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.001)
    return True


def encoded(output: str) -> int:
    """Return the items that a run says it encoded."""
    found = re.search(r"^version .*: encoded (.*)$", output, re.MULTILINE)
    assert found is not None, output
    return sum(int(number.replace(",", "")) for number in re.findall(r"([\d,]+) \w+s", found[1]))


def published(index: Path) -> str | None:
    """Return the version that is current."""
    return read_current(Index(str(index)))


def content(index: Path, version: str) -> dict[str, Any]:
    """Return what a version holds, byte for byte: its manifest but for names and times, all its files hashed."""
    assert verify(Index(str(index)), version)[1] == []
    manifest = read_json(f"{index}/versions/{version}/manifest.json")
    return {name: value for name, value in manifest.items() if name not in _OWN}


def answers(index: Path, titles: Iterable[str] = ("red shirt", "blue shirt number 8")) -> tuple[str, list[list[Hit]]]:
    """Open what is current as a new reader does, and return its version and answers to texts and a product."""
    with open_index(index) as opened:
        hits = [opened.search(text=title, k=5) for title in titles]
        return opened.version, [*hits, opened.search(product_id="P00030", k=5, where="price < 100")]


def night(folder: Path, bundle: Path, catalogue: Path, **settings: Any) -> Report:
    """Bring a catalogue of hostile rows into an index below a folder, whatever it rejects."""
    flags = {"index": str(folder / "index"), "catalogue": [str(catalogue)], "bundle": str(bundle), "trees": 5}
    return run(read_config(None, flags | {"max_reject_rate": 1.0, "min_recall": 0.0} | settings))


def indexed(folder: Path, report: Report) -> dict[str, dict[str, Any]]:
    """Return what is indexed, by product id."""
    files = sorted((folder / "index" / "versions" / report.version / "vectors").glob("*.parquet"))
    return {row["product_id"]: row for path in files for row in pq.read_table(path).to_pylist()}
