"""Nights on which nothing changed write no version, and those on which a picture or a row did write one."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import product, write_pictures

from pipelines.config import Config, read_config
from pipelines.run import Report, run


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Return the folder of a catalogue whose pictures are named by path."""
    folder = tmp_path / "shop"
    write(folder, [row | {"image": f"images/{number}.jpg"} for number, row in enumerate(write_pictures(folder, 12))])
    return folder


def write(folder: Path, rows: list[dict[str, Any]]) -> None:
    (folder / "shop.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "shop.jsonl").read_text().splitlines()]


@pytest.fixture
def configured(tmp_path: Path, shop: Path, tiny_bundle: Path) -> Callable[..., Config]:
    def make(**changes: Any) -> Config:
        flags = {"index": str(tmp_path / "index"), "catalogue": [f"{shop}/shop.jsonl"], "bundle": str(tiny_bundle)}
        return read_config(None, flags | {"trees": 5, "max_reject_rate": 0.5} | changes)

    return make


@pytest.fixture
def first(configured: Callable[..., Config]) -> Report:
    return run(configured())


def folders(config: Config) -> dict[str, set[str]]:
    found = {"versions": "manifest.json", "runs": "plan.json"}  # of a night that kept the version only its summary is left
    return {name: {path.parent.name for path in (Path(config.index) / name).glob(f"*/{file}")} for name, file in found.items()}


def test_the_same_pictures_by_path_keep_the_version(
    configured: Callable[..., Config], first: Report, caplog: pytest.LogCaptureFixture
) -> None:
    before = folders(configured())
    caplog.set_level(logging.INFO)
    report = run(configured())
    assert report.version == first.version
    assert (report.published, report.encoded, report.indexed) == (True, {}, 12)
    assert folders(configured()) == before == {"versions": {first.version}, "runs": {first.version}}
    assert (
        f"products, pictures, settings and bundle are those of the current version {first.version}, and nothing is to be "
        "encoded: it stays"
    ) in caplog.text


def test_a_catalogue_written_again_as_it_was_keeps_the_version(
    configured: Callable[..., Config], first: Report, shop: Path
) -> None:
    write(shop, read(shop))
    os.utime(shop / "shop.jsonl", (1, 1))
    os.utime(shop / "images" / "3.jpg", (1, 1))
    assert run(configured()).version == first.version


def test_a_changed_picture_behind_the_same_path_makes_a_version(
    configured: Callable[..., Config], first: Report, shop: Path
) -> None:
    (shop / "images" / "5.jpg").write_bytes(product(50)["image"]["bytes"])
    report = run(configured())
    assert report.version != first.version
    assert report.encoded == {"picture": 1}
    assert (Path(configured().index) / "CURRENT").read_text().strip() == report.version
    assert run(configured()).version == report.version


def test_a_picture_that_is_gone_makes_a_version(configured: Callable[..., Config], first: Report, shop: Path) -> None:
    (shop / "images" / "5.jpg").unlink()
    report = run(configured())
    assert report.version != first.version
    assert report.rejected_fields == {"unreadable_path": 1}
    assert run(configured()).version == report.version


def test_a_picture_that_comes_back_to_what_it_was_makes_a_version_that_encodes_nothing(
    configured: Callable[..., Config], first: Report, shop: Path
) -> None:
    (shop / "images" / "5.jpg").write_bytes(product(50)["image"]["bytes"])
    second = run(configured())
    (shop / "images" / "5.jpg").write_bytes(product(5)["image"]["bytes"])
    third = run(configured())
    assert len({first.version, second.version, third.version}) == 3
    assert third.encoded == {}


def test_another_price_or_reject_or_setting_makes_a_version(
    configured: Callable[..., Config], first: Report, shop: Path
) -> None:
    rows = read(shop)
    rows[2]["price"] = 999.0
    write(shop, rows)
    second = run(configured())
    rows.append({**rows[0], "sku": None})
    write(shop, rows)
    third = run(configured())
    fourth = run(configured(seed=1))
    assert len({first.version, second.version, third.version, fourth.version}) == 4
    assert third.rejected == {"missing_product_id": 1}
    assert [sum(report.encoded.values()) for report in (second, third, fourth)] == [0, 0, 0]


def test_a_version_whose_manifest_is_gone_is_made_again(configured: Callable[..., Config], first: Report) -> None:
    (Path(configured().index) / "versions" / first.version / "manifest.json").unlink()
    assert run(configured()).version != first.version
