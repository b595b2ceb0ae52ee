"""Measures the peak memory of the encode stage on one row group of 2,500 pictures of 1 MB each.

    python -m benchmarks.encode_memory --work DIR [--pictures N] [--views N] [--page-rows N]

A page of a Parquet file is decoded whole, and two of them are in memory where one follows another; pyarrow writes
pages of hundreds of pictures where they are large, unless `write_batch_size` is small: --page-rows.
INGEST and PLAN run first. Then one process loads the tower and encodes one batch, and another one runs the stage on
all pictures; printed are both peaks (VmHWM of /proc), and their difference.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SCRIPT = """
import json, re, sys
from pathlib import Path
import numpy as np
from pipelines import stages
from pipelines.config import read_config
from pipelines.job import open_job
from pipelines.train import ensure_towers
from pipelines.views import training_views
from encoders.towers import load_tower
from transforms.views import PictureOperations, PictureViews

what, flags = sys.argv[1], json.loads(sys.argv[2])
config = read_config(None, flags)
towers = ensure_towers(config)
if what == "build":
    sys.exit()
job = open_job(config, "train", towers, training_views(config), None, None)
if what == "prepare":
    stages.ingest(job)
    stages.plan(job)
elif what == "tower":
    tower = load_tower(Path(job.towers["picture"]))
    batch = np.zeros((tower.spec.batch, tower.spec.side, tower.spec.side, 3), np.uint8)
    if config.picture_views:
        batch = PictureViews(tower.spec.side, PictureOperations(), 0, tower.spec.batch).make(
            batch, [b"x"] * len(batch), [1] * len(batch))
    tower.encode(batch)
    print(json.dumps({"batch": batch.nbytes}))
else:
    print(json.dumps(stages.encode(job)["items"]))
peak = int(re.search("VmHWM:\\\\s+(\\\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
print(json.dumps({"peak": peak}))
"""


def picture(number: int, size: int) -> bytes:
    """Draw noise as a JPEG of about 1 MB."""
    noise = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def write_catalogue(path: Path, pictures: int, page_rows: int) -> None:
    """Write one row group; twenty pictures take turns, each time with other bytes after their end."""
    drawn = [picture(number, 1060) for number in range(20)]
    contents = pa.array([drawn[n % 20] + n.to_bytes(4, "big") for n in range(pictures)], pa.large_binary())
    size = sum(map(len, drawn)) / 20 / 1e6
    table = pa.table({"product_id": [f"P{n}" for n in range(pictures)], "image": contents})
    pq.write_table(table, path, row_group_size=pictures, compression="zstd", use_dictionary=False,
                   write_batch_size=page_rows)  # fmt: skip
    assert pq.read_metadata(path).num_row_groups == 1
    whole = path.stat().st_size / 1e9
    print(f"one row group of {pictures:,} pictures of {size:.2f} MB, written {page_rows} rows at a time: {whole:.2f} GB")


def measure(what: str, flags: dict[str, object]) -> dict[str, int]:
    """Run a step in a process of its own; returns what it printed."""
    command = [sys.executable, "-c", SCRIPT, what, json.dumps(flags)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found: dict[str, int] = {}
    for line in re.findall(r"^\{.*\}$", done.stdout, re.MULTILINE):
        found |= json.loads(line)
    return found


def main() -> None:
    """Print both peaks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="an empty folder with room for the pictures")
    parser.add_argument("--pictures", type=int, default=2500, help="(default: %(default)s)")
    parser.add_argument("--views", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--page-rows", type=int, default=16, help="rows of a page; pyarrow's own: 1024 (default: %(default)s)")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    path = given.work / "pictures.parquet"
    if not path.exists():
        write_catalogue(path, given.pictures, given.page_rows)
    flags: dict[str, object] = {"index": str(given.work / f"index-{given.views}"), "catalogue": [str(path)]}
    if given.views > 1:
        flags["picture_views"] = given.views
    measure("build", flags)
    prepared = measure("prepare", flags)
    print(f"ingest and plan: peak {prepared['peak'] / 1e6:,.0f} MB")
    tower, stage = measure("tower", flags), measure("encode", flags)
    print(f"tower loaded, one batch encoded: peak {tower['peak'] / 1e6:,.0f} MB, a batch is {tower['batch'] / 1e6:.1f} MB")
    more = stage["peak"] - tower["peak"]
    print(f"stage, {stage['picture']:,} items: peak {stage['peak'] / 1e6:,.0f} MB, {more / 1e6:,.0f} MB more, of which "
          f"{(more - 3 * tower['batch']) / 1e6:,.0f} MB beyond three batches (at most 500 wanted)")  # fmt: skip


if __name__ == "__main__":
    main()
