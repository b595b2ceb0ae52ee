"""What many tests need: tiny towers, a tiny bundle, a small catalogue. All real, all made here."""

from __future__ import annotations

import fcntl
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.pop("COLUMNS", None)  # which pytest-xdist sets: what the command prints would be folded

if TYPE_CHECKING:
    from encoders.heads import Head
    from pipelines.config import Config

MakeConfig = Callable[..., "Config"]
SIDE, DIMENSION, SHARED = 16, 24, 8
COLOURS = ("red", "green", "blue")


def least_cosine(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    """Give the least cosine between rows."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def cosine_distance(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    """Give the largest cosine distance between rows."""
    return 1 - least_cosine(a, b)


@pytest.fixture(autouse=True)
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep verdicts on verified files out of the user's cache."""
    monkeypatch.setenv("CATALOGUE_INDEX_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@contextmanager
def undone_logging() -> Iterator[None]:
    """Undo what the command does to the log of its process, here the process of all tests."""
    loggers = [logging.getLogger(name) for name in (None, "apache_beam", "pipelines", "encoders", "transforms")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    loggers[0].handlers[:] = [one for one in loggers[0].handlers if type(one).__module__.startswith("_pytest.")]


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Leave the log as it was before the test."""
    with undone_logging():
        yield


@pytest.fixture(scope="module", autouse=True)
def logging_as_it_was_before_the_file() -> Iterator[None]:
    """Leave the log as it was before what several tests of a file share, which may run the command too."""
    with undone_logging():
        yield


def jpeg(colour: tuple[int, int, int], seed: int, side: int = 32) -> bytes:
    """Return a noisy JPEG of one colour."""
    from PIL import Image

    noise = np.random.default_rng(seed).integers(-20, 20, (side, side, 3))
    pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def product(number: int) -> dict[str, Any]:
    """Return one product of the small catalogue."""
    colours = ((200, 30, 30), (30, 180, 40), (30, 40, 210))
    which = number % 3
    return {
        "sku": f"P{number:05d}",
        "name": f"{COLOURS[which]} shirt number {number}",
        "body_html": f"<p>A {COLOURS[which]} shirt &amp; more, no. {number}</p>",
        "price": 5.0 + number,
        "colour": COLOURS[which],
        "image": {"bytes": jpeg(colours[which], number), "path": None},
    }


def unpriced(number: int) -> dict[str, Any]:
    """Return a product without the column that training fits statistics of, where those are not what is looked at."""
    return {name: value for name, value in product(number).items() if name != "price"}


def write_pictures(folder: Path, count: int) -> list[dict[str, Any]]:
    """Write the pictures of products 0 to `count` - 1 as files below `folder`; returns the products without them."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(count):
        made = product(number)
        (folder / "images" / f"{number}.jpg").write_bytes(made["image"]["bytes"])
        rows.append({name: made[name] for name in ("sku", "name", "price")})
    return rows


def write_shards(folder: Path, rows: list[dict[str, Any]], per_shard: int) -> str:
    """Write rows as Parquet shards with small row groups; returns the glob."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, len(rows), per_shard)):
        table = pa.Table.from_pylist(rows[start : start + per_shard])
        pq.write_table(table, folder / f"part-{number:05d}.parquet", row_group_size=16)
    return f"{folder}/*.parquet"


@pytest.fixture(scope="session")
def tiny_towers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build a random tower for each modality from a SavedModel made here."""
    import tensorflow as tf

    from encoders.presets import build_tower

    folder = tmp_path_factory.mktemp("towers")
    rng = np.random.default_rng(7)
    pixels = tf.constant(rng.normal(size=(4 * 4 * 3, DIMENSION)).astype(np.float32))
    letters = tf.constant(rng.normal(size=(64, DIMENSION)).astype(np.float32))

    class Picture(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, SIDE, SIDE, 3], tf.uint8)])
        def __call__(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
            small = tf.nn.avg_pool2d(tf.cast(images, tf.float32) / 127.5 - 1.0, 4, 4, "VALID")
            return {"features": tf.matmul(tf.reshape(small, [-1, 4 * 4 * 3]), pixels)}

    class Text(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def __call__(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
            words = tf.strings.split(tf.strings.join(["^ ", texts]))
            buckets = tf.strings.to_hash_bucket_fast(words, 64)
            return {"features": tf.reduce_mean(tf.gather(letters, buckets), axis=1)}

    towers = {}
    for modality, module in (("picture", Picture()), ("text", Text())):
        source = folder / f"{modality}-saved-model"
        tf.saved_model.save(module, str(source), signatures={"serving_default": module.__call__})
        towers[modality] = folder / modality
        build_tower(f"saved-model:{source}", modality, towers[modality])  # type: ignore[arg-type]
    return towers


@pytest.fixture(scope="session")
def default_towers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build the default towers as a run does, once for all processes that run tests side by side."""
    from pipelines.config import read_config
    from pipelines.train import ensure_towers

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with (folder / "default-towers.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        built = ensure_towers(read_config(None, {"index": str(folder / "default-towers")}))
    return {modality: Path(tower) for modality, (tower, _) in built.items()}


@pytest.fixture(scope="session")
def tiny_bundle(tiny_towers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a bundle of the tiny towers with random heads."""
    from encoders.bundle import write_bundle
    from encoders.fusion import Fusion
    from encoders.heads import random_head

    heads = {modality: random_head(DIMENSION, SHARED, seed) for seed, modality in enumerate(tiny_towers)}
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    fusion = Fusion("concatenation", {"picture": 0.5, "text": 0.5})
    return write_bundle(folder, tiny_towers, heads, fusion, {}, {}).folder


def fitted_head(features: np.ndarray, colours: np.ndarray) -> Head:
    """Fit a linear head that carries features to the corner of their colour."""
    from encoders.heads import Head

    linear = np.linalg.lstsq(features.astype(np.float64), np.eye(4)[colours], rcond=1e-6)[0].astype(np.float32)
    hidden, hidden_bias, output, bias = (np.zeros(shape, np.float32) for shape in ((len(linear), 0), (0,), (0, 4), (4,)))
    mean, scale = np.zeros(len(linear), np.float32), np.ones(len(linear), np.float32)
    return Head(mean, scale, linear, hidden, hidden_bias, output, bias)


@pytest.fixture(scope="session")
def colour_bundles(tiny_towers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write a bundle that knows colours, and one whose text head has its outputs shuffled."""
    from encoders.bundle import write_bundle
    from encoders.fusion import Fusion
    from encoders.towers import load_tower
    from transforms.decode import decode_picture

    rows = [product(number) for number in range(60)]
    colours = np.arange(60) % 3
    towers = {name: load_tower(folder) for name, folder in tiny_towers.items()}
    side = towers["picture"].spec.side
    assert side is not None
    pictures = np.stack([decode_picture(row["image"]["bytes"], side) for row in rows])
    texts = [*(row["name"] for row in rows), *(f"{colour} shirt" for colour in COLOURS)]
    good = {
        "picture": fitted_head(towers["picture"].encode(pictures), colours),
        "text": fitted_head(towers["text"].encode(texts), np.concatenate([colours, [0, 1, 2]])),
    }
    bad = good | {"text": replace(good["text"], linear=good["text"].linear[:, [2, 0, 1, 3]])}
    folder, fusion = tmp_path_factory.mktemp("bundles"), Fusion("concatenation", {"picture": 0.9, "text": 0.1})
    return {
        name: write_bundle(folder / name, tiny_towers, heads, fusion, {}, {}).folder
        for name, heads in (("good", good), ("bad", bad))
    }


@pytest.fixture(scope="session")
def application_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save random weights of the smallest MobileNet without its top, which keep what they are given at its size."""
    import keras

    rng = np.random.default_rng(0)
    model = keras.applications.MobileNet(include_top=False, weights=None, alpha=0.25)
    for weight in model.weights:
        if weight.name == "kernel":
            inputs = np.prod(weight.shape[:2]) * (1 if weight.shape[3] == 1 else weight.shape[2])
            weight.assign(rng.normal(0, (2 / inputs) ** 0.5, weight.shape))
    path = tmp_path_factory.mktemp("weights") / "mobilenet.weights.h5"
    with warnings.catch_warnings():
        # numpy 2.4 on TensorFlow's variables, which Keras saves.
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        model.save_weights(path)
    return path


@pytest.fixture(scope="session")
def unpublished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an index of two versions without encoding anything, none of them current."""
    from version_maker import draw_products, make_version

    root = tmp_path_factory.mktemp("unpublished")
    make_version(root, "v1", draw_products(30))
    make_version(root, "v2", draw_products(40), sequence=2, previous="v1")
    return root


@pytest.fixture(scope="session")
def five_nights(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    """Make a shop and its index of five nights, of which nothing has been pruned."""
    from night_maker import write_nights

    folder = tmp_path_factory.mktemp("nights")
    write_nights(folder, tiny_bundle, 5)
    return folder


@pytest.fixture
def config(tmp_path: Path, tiny_bundle: Path) -> MakeConfig:
    """Return a function that makes the configuration of a run below the test's own folder."""
    from pipelines.config import read_config

    def make(rows: list[dict[str, Any]] | None = None, index: str = "index", per_shard: int = 40, **changes: Any) -> Config:
        folder = tmp_path / "catalogue"
        if rows is not None:
            for old in folder.glob("*.parquet"):
                old.unlink()
            write_shards(folder, rows, per_shard)
        flags = {"index": str(tmp_path / index), "catalogue": [f"{folder}/*.parquet"], "bundle": str(tiny_bundle)}
        given = flags | {"trees": 10} | changes
        return read_config(None, {name: value for name, value in given.items() if value is not None})

    return make


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real catalogues, or skip where there is none."""
    folder = os.environ.get("CATALOGUE_INDEX_TEST_DATA")
    if not folder:
        pytest.skip("CATALOGUE_INDEX_TEST_DATA names no folder of real catalogues")
    return Path(folder)
