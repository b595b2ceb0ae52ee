"""The main job on slices of real shops, with the default towers; needs CATALOGUE_INDEX_TEST_DATA."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from catalogue_lookup import open_index
from pipelines.config import read_config
from pipelines.layout import Index
from pipelines.run import Report, run

SLICE = 160


@pytest.fixture(scope="module")
def fashion(
    real_data: Path, default_towers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Report]:
    """Train the default bundle on a slice of the fashion shop and publish it; the index has its towers already."""
    index = str(tmp_path_factory.mktemp("fashion") / "index")
    for tower in default_towers.values():
        shutil.copytree(tower, Path(Index(index).towers) / tower.name)
    return index, job(index, f"{real_data}/fashion224/*.parquet", limit=SLICE, epochs=8, max_phrases=500)


def job(index: str, catalogue: str, **settings: Any) -> Report:
    return run(read_config(None, {"index": index, "catalogue": [catalogue]} | settings))


def bundle_of(index: str) -> str:
    (bundle,) = (path for path in Path(Index(index).bundles).iterdir() if path.is_dir())
    return str(bundle)


def test_a_slice_of_the_fashion_shop_trains_a_bundle_and_answers_titles(fashion: tuple[str, Report], real_data: Path) -> None:
    index, report = fashion
    assert (report.rows, report.indexed, dict(report.rejected)) == (SLICE, SLICE, {})
    rows = pq.read_table(f"{real_data}/fashion224/part-00000-of-00008.parquet").slice(0, SLICE).to_pylist()
    found = 0
    with open_index(index) as opened:
        for row in rows[:40]:
            hits = opened.search(text=row["title"], k=3)
            found += row["title"] in [hit.columns["title"] for hit in hits]
        photo = opened.search(image=rows[7]["image"], k=10)
    assert found >= 36
    assert rows[7]["product_id"] in [hit.product_id for hit in photo]


def test_the_magento_shop_is_indexed_with_its_html_several_pictures_and_reviews(
    fashion: tuple[str, Report], real_data: Path, tmp_path: Path
) -> None:
    index = str(tmp_path / "index")
    report = job(index, f"{real_data}/magento/catalogue.jsonl.gz", bundle=bundle_of(fashion[0]), max_pictures=2,
                 weight={"reviews": "0.2"})  # fmt: skip
    assert (report.rows, report.indexed) == (185, 185)
    assert report.encoded["text"] == 185
    assert 185 < report.encoded["picture"] <= 370
    assert report.encoded["reviews"] == 348 - 2  # two repeat another of their product
    with open_index(index) as opened:
        (best,) = opened.search(text="Chaz Kangeroo Hoodie", k=1)
        assert best.columns["title"] == "Chaz Kangeroo Hoodie"
        cheap = opened.search(text="hoodie", k=10, where="price < 50")
        assert cheap
        assert all(hit.columns["price"] < 50 for hit in cheap)
        titles = [hit.columns["title"] for hit in opened.search(text="yoga", k=185)]
    assert not any("&" in title and ";" in title for title in titles)


def test_the_text_only_shop_is_indexed_without_pictures(
    fashion: tuple[str, Report], real_data: Path, tmp_path: Path
) -> None:
    index = str(tmp_path / "index")
    report = job(index, f"{real_data}/retail/products.csv", bundle=bundle_of(fashion[0]), limit=400)
    assert (report.rows, report.indexed) == (400, 400)
    assert report.encoded == {"text": 400}
    with open_index(index) as opened:
        hits = opened.search(text="something for the garden", k=5, where="price >= 10 and price < 200")
        assert hits
        assert all(10 <= hit.columns["price"] < 200 for hit in hits)
        with (real_data / "retail" / "products.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows[:20]:
            found = opened.search(text=f"{row['title']}. {row['description']}", k=3)
            assert row["title"] in [hit.columns["title"] for hit in found]
