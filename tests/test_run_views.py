"""The job with views: what is stored is made of them, costs what it says, and answers queries."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import DIMENSION, SHARED, SIDE, product, unpriced, write_shards

from catalogue_lookup import open_index
from encoders.bundle import BundleError, open_bundle, write_bundle
from encoders.fusion import Fusion
from encoders.heads import random_head
from encoders.pooling import PoolingError, Views
from encoders.towers import load_tower
from pipelines.config import Config, ConfigError, read_config
from pipelines.features import content_hash
from pipelines.run import run
from pipelines.train import train
from pipelines.views import ViewVersionError, index_views, text_maker, training_views
from transforms.decode import decode_picture
from transforms.text import join_texts
from transforms.views import PictureOperations, PictureViews

PRODUCTS = 60


@pytest.fixture
def catalogue(tmp_path: Path) -> str:
    rows = [unpriced(number) for number in range(PRODUCTS)]
    rows[7]["image"]["bytes"] = b"no picture"
    return write_shards(tmp_path / "catalogue", rows, 25)


def settings(tmp_path: Path, catalogue: str, **changes: Any) -> Config:
    flags = {"index": str(tmp_path / "index"), "catalogue": [catalogue], "trees": 10, "unit_items": 50, "seed": 5}
    return read_config(None, flags | changes)


def bundle_with(views: dict[str, Views], towers: dict[str, Path], folder: Path) -> str:
    heads = {m: random_head(DIMENSION * views[m].slots, SHARED, n) for n, m in enumerate(towers)}
    fusion = Fusion("concatenation", {"picture": 0.5, "text": 0.5})
    return str(write_bundle(folder, towers, heads, fusion, views, {}).folder)


def stored_features(index: Path, modality: str) -> dict[str, np.ndarray]:
    tables = [pq.read_table(path) for path in sorted(index.glob(f"features/{modality}-*/parts/*/*.parquet"))]
    table = pa.concat_tables(tables)
    rows = zip(table["product_id"].to_pylist(), table["feature"].to_pylist(), strict=True)
    return {product_id: np.frombuffer(data, "<f2") for product_id, data in rows if data is not None}


@pytest.mark.parametrize("pooling", ["mean", "concatenation"])
def test_features_are_pooled_over_the_views_and_a_second_run_encodes_none(
    pooling: str, tmp_path: Path, catalogue: str, tiny_towers: dict[str, Path]
) -> None:
    config = settings(tmp_path, catalogue, picture_views=3, text_views=2, view_pooling=pooling)
    views = index_views(config)
    config = config.replace(bundle=bundle_with(views, tiny_towers, tmp_path / "bundle"))
    report = run(config)
    assert report.encoded == {"picture": 3 * (PRODUCTS - 1), "text": 2 * PRODUCTS}
    assert report.rejected_fields == {"undecodable_picture": 1}

    pictures, maker = stored_features(tmp_path / "index", "picture"), PictureViews(SIDE, PictureOperations(), 5, 8)
    texts, make = stored_features(tmp_path / "index", "text"), text_maker(views["text"])
    for number in (0, 33, 59):
        row = product(number)
        data = row["image"]["bytes"]
        made = maker.make(np.stack([decode_picture(data, SIDE)] * 3), [content_hash(data)] * 3, [0, 1, 2])
        each = load_tower(tiny_towers["picture"]).encode(made)
        assert len({feature.tobytes() for feature in each}) == 3
        expected = each.mean(axis=0) if pooling == "mean" else each.reshape(-1)
        np.testing.assert_allclose(pictures[row["sku"]], expected, atol=0.02, rtol=2e-3)
        text = join_texts([row["name"], f"A {row['colour']} shirt & more, no. {number}"])
        each = load_tower(tiny_towers["text"]).encode(make(text))
        expected = each.mean(axis=0) if pooling == "mean" else each.reshape(-1)
        np.testing.assert_allclose(texts[row["sku"]], expected, atol=0.01)

    assert run(config).encoded == {}
    with open_index(tmp_path / "index") as index:
        assert len(index.search(image=product(12)["image"]["bytes"], text="green shirt number 13", k=3)) == 3


def test_other_view_settings_are_other_features_and_one_view_has_none(tmp_path: Path, catalogue: str) -> None:
    config = settings(tmp_path, catalogue, picture_views=2)
    others = [config.replace(seed=6), config.replace(picture_operation={"rotate": "3"}), config.replace(picture_views=3),
              config.replace(view_pooling="concatenation")]  # fmt: skip
    assert all(index_views(other)["picture"] != index_views(config)["picture"] for other in others)
    plain = config.replace(picture_views=1)
    assert index_views(plain) == index_views(plain.replace(seed=9, picture_operation={"rotate": "3"}))
    assert asdict(index_views(plain)["text"]) == asdict(Views())


def test_heads_are_trained_on_views_and_serve_an_index_of_others(
    tmp_path: Path, catalogue: str, tiny_towers: dict[str, Path]
) -> None:
    towers = {f"{m}_tower": f"saved-model:{folder.parent / f'{m}-saved-model'}" for m, folder in tiny_towers.items()}
    config = settings(tmp_path, catalogue, views=3, picture_views=2, dimension=SHARED, epochs=2, **towers)
    assert training_views(config)["picture"] == replace(index_views(config)["picture"], count=3, pooling="concatenation")
    bundle = train(config)
    assert bundle.views == {"picture": index_views(config)["picture"], "text": Views()}
    assert {m: head.dimension_in for m, head in bundle.heads.items()} == {"picture": DIMENSION, "text": DIMENSION}
    report = run(config)
    assert report.encoded == {"picture": 2 * (PRODUCTS - 1), "text": PRODUCTS}
    assert open_bundle(Path(tmp_path / "index" / "bundles" / bundle.hash)).views == bundle.views


def test_views_that_this_version_does_not_make_are_refused(tmp_path: Path, catalogue: str, tiny_towers: dict[str, Path]) -> None:
    views = {m: replace(v, digest="older") for m, v in index_views(settings(tmp_path, catalogue, text_views=2)).items()}
    config = settings(tmp_path, catalogue, bundle=bundle_with(views, tiny_towers, tmp_path / "bundle"))
    with pytest.raises(ViewVersionError, match="this version makes other views than the bundle was trained with"):
        text_maker(views["text"])
    with pytest.raises(ViewVersionError, match="this version makes other views than the bundle was trained with"):
        run(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"picture_operation": {"spin": "1"}}, "--picture-operation: there is no picture operation 'spin'"),
        ({"text_operation": {"random_swap": "2"}}, "--text-operation: random_swap is 2.0; it must be a number from 0 to 1"),
        ({"text_operation": {"swap": "2"}}, "there is no text operation 'swap'; it may be synonym_replacement, random_ins"),
        ({"synonyms": "no/such.tsv"}, "--synonyms: .*no/such.tsv"),
        ({"views": 2, "view_pooling": "concatenation"}, "--views takes views apart to train on them"),
        ({"picture_views": 0}, "--picture-views is 0; it must be at least 1"),
    ],
)
def test_settings_of_views_that_mean_nothing_are_refused_by_flag(tmp_path: Path, changes: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        index_views(settings(tmp_path, "shop/*.parquet", **changes))


def test_crossed_languages_survive_json_and_none_are_written_as_before() -> None:
    crossed = Views(2, cross_language=("en", "de"))
    assert Views.from_json(json.loads(json.dumps(crossed.to_json()))) == crossed
    assert Views(2).to_json()["cross_language"] is False
    assert Views.from_json(json.loads(json.dumps(Views(2).to_json()))) == Views(2)


def test_a_bundle_stored_with_crossed_languages_unnamed_is_read_and_keeps_its_features() -> None:
    crossed, apart = (Views(2).to_json() | {"cross_language": told} for told in (True, False))
    assert Views.from_json(crossed) == Views(2, cross_language=("en", "zh"))
    assert Views.from_json(apart) == Views(2)
    assert [Views.from_json(told).to_json() for told in (crossed, apart)] == [crossed, apart]
    assert Views.from_json(crossed | {"cross_language": ["en", "zh"]}) == Views.from_json(crossed)


def test_views_say_what_is_wrong_with_them() -> None:
    with pytest.raises(PoolingError, match="0 views mean nothing; there must be at least 1"):
        Views(0)
    with pytest.raises(PoolingError, match="unknown pooling 'max' of views; it may be mean, concatenation"):
        Views(2, "max")  # type: ignore[arg-type]
    assert Views.from_json(Views(2, tables=(("a.tsv", "x\ty"),)).to_json()) == Views(2, tables=(("a.tsv", "x\ty"),))


def test_a_run_with_other_views_than_its_bundle_makes_another_bundle_and_encodes_them(
    tmp_path: Path, catalogue: str, tiny_towers: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    bundle = bundle_with({m: Views() for m in tiny_towers}, tiny_towers, tmp_path / "bundle")
    config = settings(tmp_path, catalogue, bundle=bundle)
    assert run(config).encoded == {"picture": PRODUCTS - 1, "text": PRODUCTS}
    config = config.replace(bundle=None)
    assert run(config).encoded == {}
    with caplog.at_level("INFO"):
        assert run(config.replace(picture_views=2)).encoded == {"picture": 2 * (PRODUCTS - 1)}
    assert "picture views differ from the bundle's: every picture is encoded again, 2 views each" in caplog.text
    assert run(config).encoded == {}  # what is not given stays as it is
    assert run(config.replace(picture_views=1)).encoded == {}  # the features of one view are still there
    with pytest.raises(BundleError, match="the picture head takes features of dimension 24, its tower gives 48"):
        run(config.replace(picture_views=2, view_pooling="concatenation"))
