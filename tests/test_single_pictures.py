"""Training on catalogues whose products have several pictures: each is encoded by itself, and photos find products by it."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import SHARED, write_shards
from PIL import Image

from encoders.bundle import Bundle
from encoders.towers import load_tower
from pipelines import single_pictures
from pipelines.config import Config, ConfigError, read_config
from pipelines.job import Job
from pipelines.layout import order_of
from pipelines.train import ensure_towers, train
from pipelines.training_features import encode_products
from pipelines.training_products import Products
from transforms.decode import decode_picture

PRODUCTS = 130
COUNTS = [number % 3 + 1 for number in range(PRODUCTS)]


def picture(number: int, view: int) -> bytes:
    """Return a picture of a product: four colours of its own in a light of the moment."""
    own = np.random.default_rng(number).integers(40, 200, (4, 4, 3))
    light = np.random.default_rng((number, view)).integers(-40, 40, (1, 4, 3))
    stream = io.BytesIO()
    Image.fromarray(np.kron(own + light, np.ones((8, 8, 1))).clip(0, 255).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def catalogues(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Write one catalogue twice: pictures inside it, and named by path. One of product 2 is broken, one of product 5 missing."""
    folder = tmp_path_factory.mktemp("several")
    (folder / "paths").mkdir()
    inside, named = [], []
    for number in range(PRODUCTS):
        data = [picture(number, view) for view in range(COUNTS[number])]
        if number == 2:
            data[1] = b"no picture"
        paths = [f"{number}-{view}.png" for view in range(COUNTS[number])]
        for path, content in zip(paths, data, strict=True):
            if path != "5-1.png":
                (folder / "paths" / path).write_bytes(content)
        row = {"sku": f"P{number:05d}", "name": f"shirt number {number}"}
        inside.append({**row, "image": data})
        named.append({**row, "image": paths})
    pq.write_table(pa.Table.from_pylist(named), folder / "paths" / "part.parquet")
    return {"inside": write_shards(folder / "inside", inside, 50), "paths": f"{folder}/paths/*.parquet"}


def settings(tiny_towers: dict[str, Path], index: Path, catalogue: str, **changes: Any) -> Config:
    towers = {f"{m}_tower": f"saved-model:{path.parent / f'{m}-saved-model'}" for m, path in tiny_towers.items()}
    given = {"index": str(index), "catalogue": [catalogue], "column": ["title=name", "product_id=sku", "picture=image"]}
    return read_config(None, towers | given | {"dimension": SHARED, "epochs": 1, "max_reject_rate": 0.1} | changes)


def encoded(config: Config) -> tuple[Job, Products]:
    return encode_products(config, "train", ensure_towers(config), ())


@pytest.mark.parametrize("kind", ["inside", "paths"])
def test_each_picture_has_the_feature_of_itself(
    kind: str, tiny_towers: dict[str, Path], catalogues: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, products = encoded(settings(tiny_towers, tmp_path / "index", catalogues[kind], unit_items=100))
    made = single_pictures.single_pictures(job, products.orders)
    assert made is not None
    tower = load_tower(tiny_towers["picture"])
    side = tower.spec.side
    assert side is not None
    gone = {(2, 1), (5, 1)} if kind == "paths" else {(2, 1)}
    several = [number for number in range(PRODUCTS) if COUNTS[number] > 1]
    shown = {number: [view for view in range(COUNTS[number]) if (number, view) not in gone] for number in several}
    place = {order: number for number, order in enumerate(products.orders)}
    for number, views in shown.items():
        own = made.features[made.owners == place[order_of(f"P{number:05d}")]]
        expected = tower.encode(np.stack([decode_picture(picture(number, view), side) for view in views]))
        np.testing.assert_allclose(own.astype(np.float32), expected, rtol=2e-3, atol=2e-3)
    assert len(made.owners) == sum(map(len, shown.values()))
    monkeypatch.setattr(single_pictures, "MAX_PRODUCTS", 30)
    fewer = single_pictures.single_pictures(job, products.orders)
    assert fewer is not None
    assert set(fewer.owners) == set(sorted(set(made.owners))[:30])


def test_a_bundle_is_whitened_by_several_pictures_and_photos_find_products(
    tiny_towers: dict[str, Path], catalogues: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        bundle = train(settings(tiny_towers, tmp_path / "index", catalogues["inside"]))
    told = bundle.training["whitened"]
    assert (told["dimension"], told["products"], told["share"]) == (24, 124, 0.85)
    assert 70 < told["several"] < 87
    assert "whitened values fitted on the pictures of 124 products, those of" in caplog.text
    assert "encode: 86 products' pictures one by one, to train with" in caplog.text
    assert bundle.dimension == SHARED + 24
    (finished,) = (tmp_path / "index" / "runs").iterdir()
    assert not {"single", "queries", "work"} & {path.name for path in finished.iterdir()}
    without = train(settings(tiny_towers, tmp_path / "index", catalogues["inside"], whitened_dimension=0))
    assert without.training["whitened"] == {}
    assert without.dimension == SHARED
    other = train(settings(tiny_towers, tmp_path / "index", catalogues["inside"], whitened_share=0.6))
    assert other.training["whitened"]["share"] == other.heads["picture"].whitened_share == 0.6
    least = train(settings(tiny_towers, tmp_path / "index", catalogues["inside"], max_pictures=1))
    assert "several" not in least.training["whitened"]
    assert least.training["whitened"]["share"] == least.heads["picture"].whitened_share == 0.3
    assert found_first(bundle) > found_first(least) > found_first(without)


def found_first(bundle: Bundle) -> float:
    """Return how often another picture of a product finds its first one."""
    tower = bundle.load_tower("picture")
    side = tower.spec.side
    assert side is not None
    indexed, asked = (
        bundle.vectors("picture", tower.encode(np.stack([decode_picture(picture(n, view), side) for n in range(PRODUCTS)])))
        for view in (0, 7)
    )
    return float(np.mean((asked @ indexed.T).argmax(axis=1) == np.arange(PRODUCTS)))


def test_fewer_values_than_none_and_shares_of_all_are_refused(tiny_towers: dict[str, Path], tmp_path: Path) -> None:
    for share in (0, 1.0):
        with pytest.raises(ConfigError, match=r"--whitened-share is .*; it is a share above 0 and below 1"):
            settings(tiny_towers, tmp_path / "index", "nowhere", whitened_share=share)
    with pytest.raises(ConfigError, match="--whitened-dimension is -1; it must be at least 0"):
        settings(tiny_towers, tmp_path / "index", "nowhere", whitened_dimension=-1)
