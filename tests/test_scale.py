"""A million products in this process, within 2 GB."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

PRODUCTS = 1_000_000
SHARD = 100_000

# Runs as a process of its own, so that its peak is the peak of the run and of nothing else. Linux hands ru_maxrss of
# the parent, here pytest after all other tests, on to the child; VmHWM begins anew with the program.
SCRIPT = """
import json, re, sys
from pipelines.config import read_config
from pipelines.run import run

index, catalogue, bundle = sys.argv[1:]
report = run(read_config(None, {"index": index, "catalogue": [catalogue], "bundle": bundle, "trees": 5}))
peak = int(re.search("VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
print(json.dumps({"rows": report.rows, "indexed": report.indexed, "encoded": dict(report.encoded), "peak": peak}))
"""


def test_a_million_products_are_indexed_in_less_than_2_gb(tmp_path: Path, tiny_bundle: Path) -> None:
    for number in range(PRODUCTS // SHARD):
        ids = range(number * SHARD, (number + 1) * SHARD)
        table = pa.table(
            {
                "id": pa.array([f"P{i:07d}" for i in ids]),
                "title": pa.array([f"product number {i} of a large shop" for i in ids]),
                "price": pa.array([float(i % 1000) for i in ids]),
            }
        )
        pq.write_table(table, tmp_path / f"part-{number:05d}.parquet", row_group_size=20_000)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "index"), f"{tmp_path}/*.parquet", str(tiny_bundle)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts["rows"] == counts["indexed"] == counts["encoded"]["text"] == PRODUCTS
    assert len(list((tmp_path / "index").glob("versions/*/vectors/*.parquet"))) == 16
    assert counts["peak"] < 2e9, f"peak memory {counts['peak'] / 1e9:.2f} GB"
