"""Measures the encode stage against the bare tower, and against RunInference as Beam's documentation shows it.

    python -m benchmarks.encode [--pictures N] [--catalogue 'shop/*.parquet'] [--rounds N]

stage     units of work to written features: the Beam stage of a run, on planned work
limit     the same tower over the same pictures, which lie in memory, decoded in threads; nothing else
textbook  rows of Parquet as dicts, a picture decoded in a Map, RunInference with the SavedModel's graph in
          the batch size that was best of three, features as lists to Parquet; oneDNN on
handler   the same with the Keras model called as Beam's handler for TensorFlow tensors calls it
tower     the tower alone, on pictures that are decoded already: what part of the limit decoding is

In turns in one process. All are measured in their steady state, from the first quarter's end: models are loaded and
graphs compiled. With 4 views the limit encodes each decoded picture four times and makes no view, and so does the
textbook. Prints the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import glob
import itertools
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.parquetio import ReadFromParquet, WriteToParquet
from apache_beam.ml.inference.base import ModelHandler, PredictionResult, RunInference
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from threadpoolctl import threadpool_info

from encoders.bundle import write_bundle
from encoders.efficientnet_lite import picture_network
from encoders.fusion import Fusion
from encoders.heads import random_head
from encoders.towers import Tower, load_tower
from pipelines import stages, storage
from pipelines.config import read_config
from pipelines.encode import Encode, EncodeSettings
from pipelines.run import open_run
from pipelines.runner import run_pipeline
from pipelines.sample import write_sample
from pipelines.train import ensure_towers
from pipelines.views import index_views, text_maker
from transforms.decode import decode_picture
from transforms.views import PictureOperations, PictureViews

QUARTERS = 4


def steady(marks: Sequence[tuple[float, int]]) -> float:
    """Return items a second after the first quarter, from (time, items so far)."""
    total = marks[-1][1]
    first = next(mark for mark in marks if mark[1] >= total / QUARTERS)
    return (total - first[1]) / (marks[-1][0] - first[0])


class Work:
    """A catalogue, ingested and planned, whose pictures and texts wait to be encoded."""

    def __init__(self, folder: Path, catalogue: str, limit: int, views: int):
        flags: dict[str, Any] = {"index": str(folder / "index"), "catalogue": [catalogue], "limit": limit, "max_reject_rate": 1.0}
        config = read_config(None, flags | {"picture_views": views, "text_views": views})
        towers = ensure_towers(config)
        folders = {modality: Path(place) for modality, (place, _) in towers.items()}
        heads = {modality: random_head(spec.dimension, 64, 0) for modality, (_, spec) in towers.items()}
        fusion = Fusion("concatenation", {"picture": 0.4, "text": 0.6})
        bundle = write_bundle(folder / "bundle", folders, heads, fusion, index_views(config), {})
        # Four units: the first is the one that is not in the steady state.
        config = config.replace(bundle=str(bundle.folder), unit_items=max(1, limit * views // QUARTERS))
        self.job, _ = open_run(config, ())
        stages.ingest(self.job)
        stages.plan(self.job)
        self.views = views
        self.output = folder / "features"

    def tower(self, modality: str) -> Tower:
        """Load a tower as a worker does."""
        return load_tower(Path(self.job.towers[modality]))

    def encode(self, modality: str) -> tuple[float, float]:
        """Run the stage; returns items a second and the share of the time in which the tower worked."""
        job = self.job
        shutil.rmtree(self.output, ignore_errors=True)
        space = job.spaces[modality]
        settings = EncodeSettings(
            job.run, "plan", str(self.output), space, job.towers[modality], job.shards, job.schema, job.config.max_pixels,
            job.ended("plan")["units"][modality],
        )  # fmt: skip
        names = [Path(info.path).stem for info in storage.list_folder(job.run.file("plan"), "*.json")]
        elements = [name for name in names if modality == "picture" or not name.startswith("shards-")]
        counters = run_pipeline(lambda p: p | beam.Create(elements) | Encode(settings), ())
        done = sorted((path.stat().st_mtime_ns / 1e9, pq.read_metadata(path).num_rows) for path in self.output.glob("*.parquet"))
        items = np.cumsum([rows * space.views.count for _, rows in done]).tolist()
        rate = steady([(moment, number) for (moment, _), number in zip(done, items, strict=True)])
        return rate, counters[f"{modality}_tower_ms"] / 1000 / (counters[f"{modality}_items"] / rate)


def decoded_ahead(pictures: Iterable[bytes], side: int, ahead: int) -> Iterator[np.ndarray]:
    """Decode in a thread a core."""
    waiting: deque[Future[np.ndarray]] = deque()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for data in pictures:
            waiting.append(pool.submit(decode_picture, data, side))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def limit(tower: Tower, pictures: Sequence[bytes] | np.ndarray, views: int) -> float:
    """Encode pictures with nothing around the tower; returns items a second."""
    side, size = tower.spec.side, tower.spec.batch
    assert side is not None
    batch = np.empty((size, side, side, 3), np.uint8)
    filled = done = 0
    marks: list[tuple[float, int]] = []
    decoded = pictures if isinstance(pictures, np.ndarray) else decoded_ahead(pictures, side, 3 * size)
    for picture in decoded:
        for _ in range(views):
            batch[filled] = picture
            filled += 1
            if filled == size:
                tower.encode(batch)
                done, filled = done + size, 0
                marks.append((time.perf_counter(), done))
    return steady(marks)


class TextbookHandler(ModelHandler[np.ndarray, PredictionResult, Any]):
    """Runs the tower on stacked pictures, as Beam's handler for TensorFlow tensors does.

    That one itself cannot be imported here: it asks for tensorflow_hub.
    """

    def __init__(self, folder: str | None, batch: int, marks: str):
        super().__init__()
        self._folder, self._batch, self._marks = folder, batch, marks

    def load_model(self) -> Any:
        """Load the graph of the SavedModel, or without a folder build the Keras model of the default tower."""
        import tensorflow as tf

        if self._folder is None:
            return picture_network().features
        loaded = tf.saved_model.load(self._folder)
        serve = loaded.signatures["serving_default"]
        (name,) = serve.structured_input_signature[1]

        def run(pictures: Any) -> Any:
            assert loaded is not None  # a signature holds its resources only weakly
            (features,) = serve(**{name: pictures}).values()
            return features

        return run

    def batch_elements_kwargs(self) -> dict[str, int]:
        """Ask for one batch size."""
        return {"min_batch_size": self._batch, "max_batch_size": self._batch}

    def run_inference(self, batch: Sequence[np.ndarray], model: Any, inference_args: Any = None) -> Iterable[PredictionResult]:
        """Encode a batch."""
        import tensorflow as tf

        features = model(tf.stack([tf.convert_to_tensor(picture) for picture in batch]))
        results = [PredictionResult(picture, feature) for picture, feature in zip(batch, features, strict=True)]
        with Path(self._marks).open("a") as file:
            file.write(f"{time.time()} {len(batch)}\n")
        return results


def textbook(catalogue: str, column: str, saved_model: str | None, side: int, batch: int, views: int, folder: Path) -> float:
    """Run the pipeline of the documentation; returns pictures a second."""
    marks = folder / "marks.txt"
    marks.unlink(missing_ok=True)
    runner = FnApiRunner()
    with beam.Pipeline(runner=runner) as pipeline:
        (
            pipeline
            | ReadFromParquet(catalogue)
            | beam.Filter(lambda row: row[column] is not None)
            | beam.Map(lambda row: decode_picture(row[column], side))
            | beam.FlatMap(lambda picture: [picture] * views)
            | RunInference(TextbookHandler(saved_model, batch, str(marks)))
            | beam.Map(lambda result: {"feature": result.inference.numpy().tolist()})
            | WriteToParquet(str(folder / "textbook"), pa.schema([("feature", pa.list_(pa.float32()))]))
        )
    read = [line.split() for line in marks.read_text().splitlines()]
    numbers = np.cumsum([int(count) for _, count in read]).tolist()
    return steady([(float(moment), number) for (moment, _), number in zip(read, numbers, strict=True)])


def plain_catalogue(catalogue: str, folder: Path, count: int) -> tuple[str, list[bytes]]:
    """Write the pictures that can be decoded, the first `count`, as one catalogue of ids, titles and pictures."""

    def sound() -> Iterator[dict[str, Any]]:
        for path in sorted(glob.glob(catalogue)):
            for batch in pq.ParquetFile(path).iter_batches(256):
                for row in batch.to_pylist():
                    try:
                        decode_picture(row["image"], 32)
                    except (ValueError, TypeError):
                        continue
                    yield {"product_id": row["product_id"], "title": row["title"] or "no title", "image": row["image"]}

    rows = list(itertools.islice(sound(), count))
    folder.mkdir(parents=True)
    half = -(-len(rows) // 2)
    for number in range(2):
        table = pa.Table.from_pylist(rows[number * half : (number + 1) * half])
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=256)
    return f"{folder}/*.parquet", [row["image"] for row in rows]


def in_turns(rounds: int, sides: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Measure the sides in turns and print every figure."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, measure in sides.items():
            rates[name].append(measure())
        print(f"    round {number + 1}: " + ", ".join(f"{name} {found[-1]:.0f}/s" for name, found in rates.items()), flush=True)
    return rates


def ratio(rates: dict[str, list[float]], one: str, other: str) -> float:
    """Return the median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(rates[one], rates[other], strict=True))


def measure_pictures(folder: Path, catalogue: str, count: int, views: int, rounds: int) -> None:
    """Print the stage, the limit and the textbook for pictures."""
    plain, pictures = plain_catalogue(catalogue, folder / "plain", count // views)
    work = Work(folder, plain, len(pictures), views)
    tower = work.tower("picture")
    side = tower.spec.side
    assert side is not None
    saved_model = str(Path(work.job.towers["picture"]) / "saved_model")
    shares: list[float] = []

    def stage() -> float:
        rate, share = work.encode("picture")
        shares.append(share)
        return rate

    probe = {batch: textbook(plain, "image", saved_model, side, batch, views, folder) for batch in (16, 32, 64)}
    best = max(probe, key=probe.__getitem__)
    size = np.mean([len(picture) for picture in pictures]) / 1000
    print(f"  pictures, {views} view{'s' * (views > 1)}, {len(pictures)} pictures of {size:.0f} kB; textbook in batches of "
          + ", ".join(f"{size}: {rate:.0f}/s" for size, rate in probe.items()))  # fmt: skip
    decoded = np.stack([decode_picture(data, side) for data in pictures[: max(4 * tower.spec.batch, count // 4)]])
    rates = in_turns(rounds, {
        "stage": stage,
        "limit": lambda: limit(tower, pictures, views),
        "textbook": lambda: textbook(plain, "image", saved_model, side, best, views, folder),
        "handler": lambda: textbook(plain, "image", None, side, 64, views, folder),
        "tower": lambda: limit(tower, decoded, 1),
    })  # fmt: skip
    print("    " + ", ".join(f"stage / {name} {ratio(rates, 'stage', name):.2f}" for name in rates if name != "stage"))
    spent = where_time_goes(pictures, decoded, views, side)
    busy = 100 * statistics.median(shares)
    print(f"    the tower worked {busy:.0f} % of the stage's time; beside it, on the same cores, {spent}")


def where_time_goes(pictures: Sequence[bytes], decoded: np.ndarray, views: int, side: int) -> str:
    """Measure what the stage does beside the tower, alone, in CPU milliseconds an item."""
    started = time.process_time()
    for data in pictures[:200]:
        decode_picture(data, side)
    decoding = (time.process_time() - started) * 1000 / min(200, len(pictures)) / views
    if views == 1:
        return f"decoding {decoding:.2f} ms of CPU an item"
    maker, keys = PictureViews(side, PictureOperations(), 0), [bytes([n]) for n in range(32)]
    maker.make(decoded[:32], keys, [1] * 32)
    started = time.process_time()
    for number in range(5):
        maker.make(decoded[:32], keys, [number + 1] * 32)
    making = (time.process_time() - started) * 1000 / 160 * (views - 1) / views
    return f"decoding {decoding:.2f} and making views {making:.2f} ms of CPU an item"


def measure_texts(folder: Path, catalogue: str, count: int, views: int, rounds: int) -> None:
    """Print the stage and the limit for texts."""
    found = [row for path in sorted(glob.glob(catalogue)) for row in pq.read_table(path, columns=["title"])["title"].to_pylist()]
    titles = list(itertools.islice(itertools.cycle(title for title in found if title), count // views))
    folder.mkdir()
    rows = {"product_id": [str(number) for number in range(len(titles))], "title": titles}
    pq.write_table(pa.table(rows), folder / "titles.parquet")
    work = Work(folder, str(folder / "titles.parquet"), len(titles), views)
    tower = work.tower("text")
    make = text_maker(work.job.spaces["text"].views)
    items = [view for title in titles for view in make(title)]
    shares: list[float] = []

    def stage() -> float:
        rate, share = work.encode("text")
        shares.append(share)
        return rate

    def bare() -> float:
        size = -(-len(items) // QUARTERS)
        marks = []
        for start in range(0, len(items), size):
            tower.encode(items[start : start + size])
            marks.append((time.perf_counter(), min(start + size, len(items))))
        return steady(marks)

    print(f"  texts, {views} view{'s' * (views > 1)}, {len(titles)} titles of {np.mean([len(t) for t in titles]):.0f} characters")
    rates = in_turns(rounds, {"stage": stage, "limit": bare})
    busy = 100 * statistics.median(shares)
    print(f"    stage / limit {ratio(rates, 'stage', 'limit'):.3f}; the tower worked {busy:.0f} % of the time")


def main() -> None:
    """Measure pictures with 1 and 4 views, and texts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=2048, help="items to encode a measurement (default: %(default)s)")
    parser.add_argument("--texts", type=int, default=16384, help="texts to encode a measurement (default: %(default)s)")
    parser.add_argument("--only", choices=("pictures-1", "pictures-4", "texts-1", "texts-4"), help="measure one of the four")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--catalogue", help="Parquet files with product_id, title and image (default: the drawn sample)")
    given = parser.parse_args()
    cores, blas = os.cpu_count(), ", ".join(sorted({str(info.get("internal_api")) for info in threadpool_info()}))
    print(f"{platform.processor() or platform.machine()}, {cores} cores, Python {platform.python_version()}, {blas}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        catalogue = given.catalogue
        if catalogue is None:
            write_sample(str(folder / "sample"), int(given.pictures * 1.1), seed=0)
            catalogue = f"{folder}/sample/*.parquet"
        for measure, items in ((measure_pictures, given.pictures), (measure_texts, given.texts)):
            for views in (1, 4):
                name = f"{measure.__name__.removeprefix('measure_')}-{views}"
                if given.only in (None, name):
                    measure(folder / name, catalogue, items, views, given.rounds)


if __name__ == "__main__":
    main()
