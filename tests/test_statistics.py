"""Statistics of structured columns: fitted by a run, kept in the bundle, fused, searched by; and other fusions of a bundle."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import SHARED, product, write_shards

from catalogue_lookup import open_index
from encoders.bundle import Bundle, open_bundle
from encoders.heads import Head
from pipelines import stages
from pipelines.bundles import own_bundle
from pipelines.config import Config, ConfigError, read_config
from pipelines.job import open_job
from pipelines.layout import Index, read_json
from pipelines.run import Report, run
from pipelines.train import train
from transforms.structured import load_transform

PRODUCTS = 60
SHARE = 0.95
# Two products of one brand, category and nearly one price that look and read unlike.
ONE, TWIN = "P00000", "P00049"


def rows() -> list[dict[str, Any]]:
    made = [product(number) for number in range(PRODUCTS)]
    for number, row in enumerate(made):
        row |= {"brand": f"Brand {number % 7}", "category": ["Clothing", f"Kind {number % 4}"], "rating": number % 5 + 0.5}
    made[49] |= {"price": made[0]["price"] + 0.1, "rating": made[0]["rating"], "category": made[0]["category"]}
    for number in (0, 49):
        made[number]["brand"] = "Casa Twin"
    made[7] |= {"price": None, "rating": None, "category": [], "brand": ""}
    return made


@dataclass(frozen=True)
class Shop:
    """An index with two versions: the plain one, and the one that weighs structured columns."""

    index: Path
    catalogue: str
    plain: Report
    weighed: Report

    def bundle(self, report: Report) -> Bundle:
        manifest = read_json(str(self.index / "versions" / report.version / "manifest.json"))
        return open_bundle(self.index / "bundles" / manifest["bundle"])

    def vectors(self, report: Report) -> pa.Table:
        folder = self.index / "versions" / report.version / "vectors"
        return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("*.parquet"))])


def settings(index: Path, catalogue: str, **changes: Any) -> Config:
    return read_config(None, {"index": str(index), "catalogue": [catalogue], "trees": 10} | changes)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Shop:
    folder = tmp_path_factory.mktemp("shop")
    catalogue = write_shards(folder / "catalogue", rows(), 25)
    index = folder / "index"
    plain = run(settings(index, catalogue, bundle=str(tiny_bundle), partition_rows=16))
    asked = settings(index, catalogue, refit_statistics=True, weight=[f"structured={SHARE}"])
    return Shop(index, catalogue, plain, run(asked))


@pytest.fixture
def copy(shop: Shop, tmp_path: Path) -> Callable[..., Config]:
    """Return a function that makes the configuration of a run in a copy of the index."""
    shutil.copytree(shop.index, tmp_path / "index")
    return lambda catalogue=shop.catalogue, **changes: settings(tmp_path / "index", catalogue, **changes)


def same_heads(one: dict[str, Head], other: dict[str, Head]) -> bool:
    return all(np.array_equal(one[m].linear, other[m].linear) for m in one)


def test_refitting_makes_a_bundle_of_the_same_towers_and_heads_and_encodes_nothing(shop: Shop) -> None:
    before, after = shop.bundle(shop.plain), shop.bundle(shop.weighed)
    assert shop.weighed.encoded == {}
    assert shop.weighed.published
    assert before.structured is None
    assert after.structured is not None
    assert after.structured["settings"]["columns"] == ["price", "rating", "category", "brand"]
    assert after.structured["fitted"]["brand"]["vocabulary"][-1] == "casa twin"
    assert (after.towers, after.views) == (before.towers, before.views)
    assert same_heads(dict(before.heads), dict(after.heads))
    assert after.fusion.weights == {"picture": 0.5, "text": 0.5, "structured": SHARE}
    assert after.dimension == before.dimension + after.structured["dimension"]
    assert Path(own_bundle(Index(str(shop.index))) or "").name == after.hash


def test_what_was_fitted_is_what_one_pass_over_the_catalogue_gives(shop: Shop) -> None:
    prices = np.log1p([row["price"] for row in rows() if row["price"] is not None])
    structured = shop.bundle(shop.weighed).structured
    assert structured is not None
    assert structured["fitted"]["price"]["mean"] == pytest.approx(prices.mean(), abs=1e-4)
    assert structured["fitted"]["price"]["variance"] == pytest.approx(prices.var(), abs=1e-4)


def test_the_fused_vector_has_the_structured_one_beside_it(shop: Shop) -> None:
    before, after = shop.vectors(shop.plain), shop.vectors(shop.weighed)
    assert before["product_id"].to_pylist() == after["product_id"].to_pylist()
    assert "structured_vector" not in before.column_names
    fused = np.array(after["vector"].to_pylist(), np.float32)
    z = np.array(before["vector"].to_pylist(), np.float32)
    columns = pa.StructArray.from_arrays(
        [after[name].combine_chunks() for name in ("price", "rating", "category", "brand")],
        ["price", "rating", "category", "brand"],
    )
    s = load_transform(str(shop.bundle(shop.weighed).folder / "structured"))(columns)
    assert z.shape[1] == 2 * SHARED
    np.testing.assert_allclose(fused, np.hstack([np.sqrt(1 - SHARE) * z, np.sqrt(SHARE) * s]), atol=1e-6)
    np.testing.assert_allclose(np.array(after["structured_vector"].to_pylist()), s, atol=1e-3)


def test_an_item_does_not_show_its_vectors(shop: Shop) -> None:
    with open_index(shop.index) as index:
        assert "structured_vector" not in index.search(product_id=ONE, k=1)[0].columns


def test_a_product_of_the_same_brand_and_price_is_first_with_a_high_weight_only(shop: Shop) -> None:
    with open_index(shop.index, version=shop.weighed.version) as index:
        assert index.search(product_id=ONE, k=1)[0].product_id == TWIN
        assert index.search(product_id=TWIN, k=1)[0].product_id == ONE
    with open_index(shop.index, version=shop.plain.version) as index:
        assert TWIN not in [hit.product_id for hit in index.search(product_id=ONE, k=5)]


@pytest.mark.parametrize("query", ["red shirt", "a blue one"])
def test_a_text_ranks_products_as_before(shop: Shop, query: str) -> None:
    found = []
    for report in (shop.plain, shop.weighed):
        with open_index(shop.index, version=report.version) as index:
            found.append(index.search(text=query, k=PRODUCTS, search_k=10**6))
    before, after = ({hit.product_id: hit.score for hit in hits} for hits in found)
    assert len(before) == len(after) == PRODUCTS
    ratios = np.array([after[name] for name in before]) - np.sqrt(1 - SHARE) * np.array(list(before.values()))
    np.testing.assert_allclose(ratios, 0, atol=1e-5)
    assert [hit.product_id for hit in found[0]][:5] == [hit.product_id for hit in found[1]][:5]


def test_refitting_an_unchanged_catalogue_gives_the_same_bundle_and_keeps_the_version(
    shop: Shop, copy: Callable[..., Config], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bundle = shop.bundle(shop.weighed)
    towers = {m: (str(bundle.folder / "towers" / m), spec) for m, spec in bundle.towers.items()}
    begun = open_job(copy(), "statistics", towers, bundle.views, None, bundle.hash)
    stages.ingest(begun)
    report = run(copy(refit_statistics=True))
    assert f"going on with the unfinished run {begun.run.id}" in caplog.text
    assert report.version == shop.weighed.version
    assert "nothing to do" in caplog.text
    folder = Path(copy().index)
    assert len(list((folder / "versions").iterdir())) == 2
    assert len(list((folder / "bundles").glob("*/bundle.json"))) == 2
    assert {path.parent.name for path in (folder / "runs").glob("*/plan.json")} == {shop.plain.version, shop.weighed.version}


def test_the_same_bundle_gives_the_same_bytes_again(shop: Shop, copy: Callable[..., Config]) -> None:
    folder, version = Path(copy().index), shop.weighed.version
    names = {path.name for path in (folder / "versions" / version / "vectors").iterdir()}
    shutil.rmtree(folder / "versions" / version)
    shutil.rmtree(folder / "runs" / version)
    (folder / "CURRENT").write_text(f"{shop.plain.version}\n")
    again = run(copy())
    assert {path.name for path in (folder / "versions" / again.version / "vectors").iterdir()} == names


def test_another_weight_makes_a_bundle_of_the_same_statistics_and_is_kept(
    shop: Shop, copy: Callable[..., Config], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    report = run(copy(weight=["structured=0.5", "picture=1"]))
    assert report.encoded == {}
    assert (
        "fusion concatenation (picture 1, text 0.5, structured 0.5) in place of the bundle's concatenation (picture 0.5, "
        "text 0.5, structured 0.95): a new bundle of the same towers and heads; nothing is encoded again"
    ) in caplog.text
    own = open_bundle(Path(own_bundle(Index(copy().index)) or ""))
    assert own.structured == shop.bundle(shop.weighed).structured
    assert own.hash != shop.bundle(shop.weighed).hash
    assert run(copy(weight=["structured=0.5", "picture=1"])).version == report.version
    assert run(copy()).version == report.version


def test_weight_zero_takes_the_dimensions_away_and_keeps_the_statistics(shop: Shop, copy: Callable[..., Config]) -> None:
    run(copy(weight=["structured=0"], fusion="mean"))
    own = open_bundle(Path(own_bundle(Index(copy().index)) or ""))
    assert (own.fusion.kind, own.dimension) == ("mean", SHARED)
    assert own.structured == shop.bundle(shop.weighed).structured
    with open_index(copy().index) as index:
        assert index.manifest.dimension == SHARED
        assert index.search(product_id=ONE, k=1)[0].product_id != TWIN


def test_flags_that_say_what_the_bundle_has_change_nothing(shop: Shop, copy: Callable[..., Config]) -> None:
    report = run(copy(weight=["text=0.5", f"structured={SHARE}"], fusion="concatenation"))
    assert report.version == shop.weighed.version


def test_a_catalogue_that_lost_its_columns_is_told_and_indexed(
    copy: Callable[..., Config], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bare = [{key: row[key] for key in ("sku", "name", "image")} | {"structured_vector": "the shop's own"} for row in rows()]
    report = run(copy(write_shards(tmp_path / "bare", bare, 100)))
    assert report.indexed == PRODUCTS
    assert "the bundle weighs structured columns, but the catalogue keeps none of them: all count as missing" in caplog.text
    found = Path(copy().index) / "versions" / report.version / "vectors"
    structured = np.array(pq.read_table(next(found.iterdir()))["structured_vector"].to_pylist())
    assert (structured == structured[0]).all()
    own = own_bundle(Index(copy().index))
    for share in (0.5, SHARE):
        with pytest.raises(ConfigError, match=f"--weight structured={share}: the catalogue keeps none of the columns"):
            run(copy(f"{tmp_path}/bare/*.parquet", weight=[f"structured={share}"]))
    assert own_bundle(Index(copy().index)) == own
    with open_index(copy().index) as index:
        assert index.search(product_id=ONE, k=1)[0].columns["structured_vector_"] == "the shop's own"


def test_a_real_shop_s_prices_and_categories_are_fitted(real_data: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    asked = {"bundle": str(tiny_bundle), "refit_statistics": True, "weight": [f"structured={SHARE}"]}
    catalogue = str(real_data / "retail" / "products.csv")
    run(settings(tmp_path / "index", catalogue, **asked))
    structured = open_bundle(Path(own_bundle(Index(str(tmp_path / "index"))) or "")).structured
    assert structured is not None
    assert structured["settings"]["columns"] == ["price", "category"]
    assert {"furniture", "apparel", "electronics"} < set(structured["fitted"]["category"]["vocabulary"])
    with open_index(tmp_path / "index") as index:
        hit = index.search(text="mug", k=1, where="category in ('furniture', 'Furniture')")[0]
        like = index.search(product_id=hit.product_id, k=5)
        assert {one.columns["category"] for one in like} == {hit.columns["category"]}


def no_columns(folder: Path) -> str:
    made = [{key: row[key] for key in ("sku", "name", "image")} for row in rows()]
    return write_shards(folder, made, 100)


def test_a_weight_without_statistics_or_columns_is_refused(shop: Shop, tmp_path: Path, tiny_bundle: Path) -> None:
    catalogue = no_columns(tmp_path / "catalogue")
    with pytest.raises(ConfigError, match=r"--weight structured=0.2: the bundle has no statistics of structured columns: fit "
                                          r"them with run --refit-statistics"):  # fmt: skip
        run(settings(tmp_path / "index", shop.catalogue, bundle=str(tiny_bundle), weight=["structured=0.2"]))
    for refit in (False, True):
        asked = {"bundle": str(tiny_bundle), "weight": ["structured=0.2"], "refit_statistics": refit}
        with pytest.raises(ConfigError, match=r"--weight structured=0.2: the catalogue keeps none of the columns price, rating, "
                                              r"review_count, category, brand \(it keeps title\): map one with"):  # fmt: skip
            run(settings(tmp_path / "index", catalogue, **asked))
    with pytest.raises(ConfigError, match=r"--refit-statistics: the catalogue keeps none of the columns price"):
        run(settings(tmp_path / "index", catalogue, bundle=str(tiny_bundle), refit_statistics=True))
    assert not (tmp_path / "index" / "versions").exists()


@pytest.mark.parametrize("weight", ["structured=1", "structured=-0.1", "structured=nan", "structured=x"])
def test_a_weight_that_is_no_share_is_refused(weight: str) -> None:
    with pytest.raises(ConfigError, match=f"--weight {weight} "):
        read_config(None, {"weight": [weight]})


def training(tiny_towers: dict[str, Path], index: Path, catalogue: str, **changes: Any) -> Config:
    towers = {f"{m}_tower": f"saved-model:{path.parent / f'{m}-saved-model'}" for m, path in tiny_towers.items()}
    return settings(index, catalogue, **(towers | {"dimension": SHARED, "epochs": 1} | changes))


def test_training_fits_what_the_catalogue_has(shop: Shop, tiny_towers: dict[str, Path], tmp_path: Path) -> None:
    bundle = train(training(tiny_towers, tmp_path / "index", shop.catalogue, weight=["structured=0.2"]))
    assert bundle.structured == shop.bundle(shop.weighed).structured
    assert bundle.fusion.weights == {"picture": 0.4, "text": 0.6, "structured": 0.2}
    assert (bundle.folder / "structured" / "transform_fn" / "saved_model.pb").exists()
    assert not list((tmp_path / "index" / "runs").glob("*/statistics"))


def test_training_without_such_columns_has_no_statistics_and_refuses_a_weight_before_it_encodes(
    tiny_towers: dict[str, Path], tmp_path: Path
) -> None:
    catalogue = no_columns(tmp_path / "catalogue")
    with pytest.raises(ConfigError, match=r"--weight structured=0.2: the catalogue keeps none of the columns price, rating"):
        train(training(tiny_towers, tmp_path / "index", catalogue, weight=["structured=0.2"]))
    assert not list((tmp_path / "index" / "features").glob("*/units/*/*.parquet"))
    bundle = train(training(tiny_towers, tmp_path / "index", catalogue))
    assert bundle.structured is None
    assert not (bundle.folder / "structured").exists()
    assert bundle.dimension == SHARED
