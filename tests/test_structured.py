"""Structured columns become unit vectors: what counts as missing, what is near what, and what the statistics say."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.statistics import fit_transform
from transforms.structured import (
    STRUCTURED_COLUMNS,
    StructuredSettings,
    StructuredTransform,
    load_transform,
    prepare,
    vocabulary_file,
)

SETTINGS = StructuredSettings(STRUCTURED_COLUMNS, vocabulary=12, hashes=8)
TYPES = pa.struct(
    [("price", pa.float64()), ("rating", pa.string()), ("review_count", pa.int64()), ("category", pa.list_(pa.string())),
     ("brand", pa.string())]
)  # fmt: skip
ODD_BRANDS = (
    "line\nbreak", "carriage\rreturn", "a\ttab", "back\\slash", "back\\nslash", "next\x85line\u2028end", "nul\0", "丝绸",
)  # fmt: skip
MISSING_ROW: dict[str, Any] = dict.fromkeys(STRUCTURED_COLUMNS)


def row(number: int) -> dict[str, Any]:
    return {
        "price": float(10 + number), "rating": str(1 + number % 5), "review_count": number * number,
        "category": ["Clothing", "Men" if number % 2 else "Women", f"kind {number % 3}", f"deeper {number}"],
        "brand": [*ODD_BRANDS, "Common", " COMMON "][number % 10],
    }  # fmt: skip


ROWS = [row(number) for number in range(200)]
ROWS[5] |= {"price": math.nan, "rating": "none", "review_count": None, "category": [], "brand": ""}
ROWS[6] |= {"price": math.inf, "rating": "-1", "review_count": -4, "category": None, "brand": None}
ROWS[7] |= {"price": -3.0, "rating": "inf", "review_count": None, "category": ["", " "], "brand": " \n "}


def struct(rows: Sequence[dict[str, Any] | None]) -> pa.StructArray:
    return pa.array(rows, TYPES)


def fit(folder: Path, rows: Sequence[dict[str, Any]], settings: StructuredSettings = SETTINGS, files: int = 3) -> Path:
    """Fit a transform on rows in several files with the columns' struct; returns its folder."""
    folder.mkdir()
    paths = []
    edges = np.linspace(0, len(rows), files + 1).astype(int)
    for number, (start, stop) in enumerate(itertools.pairwise(edges.tolist())):
        paths.append(str(folder / f"{number}.parquet"))
        pq.write_table(pa.table({"columns": struct(rows[start:stop])}), paths[-1], row_group_size=16)
    fit_transform(paths, settings, str(folder / "work"), folder / "out", [])
    return folder / "out"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tmp_path_factory.mktemp("fits") / "usual", ROWS)


@pytest.fixture(scope="module")
def transform(folder: Path) -> StructuredTransform:
    return load_transform(str(folder))


@pytest.fixture(scope="module")
def statistics(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "statistics.json").read_text("utf-8")))


def near(transform: StructuredTransform, product: dict[str, Any], others: Sequence[dict[str, Any]]) -> np.ndarray:
    vectors = transform(struct([product, *others]))
    return np.asarray(vectors[1:] @ vectors[0])


def test_what_is_no_number_and_no_token_is_missing() -> None:
    batch = prepare(struct([*ROWS[5:8], {}, None]), SETTINGS)
    for name in ("price", "rating", "review_count"):
        assert np.isnan(batch[name].to_numpy()).all()
    for name in ("category", "brand"):
        assert batch[name].to_pylist() == [b""] * 5


def test_a_column_of_any_type_is_read_as_numbers() -> None:
    kinds = pa.StructArray.from_arrays(
        [
            pa.array([" 4.50 ", "1e3", "1e999", "four", "0x10"]),
            pa.array([["3", "9"], [], None, ["x"], [None]]),
            pa.array([2**60 + 1, 0, None, -1, 7]),
            pa.array([True, False, None, True, True]),
        ],
        ["price", "rating", "review_count", "brand"],
    )
    batch = prepare(kinds, SETTINGS)
    np.testing.assert_array_equal(batch["price"].to_numpy(), np.array([4.5, 1000, np.nan, np.nan, np.nan], np.float32))
    np.testing.assert_array_equal(batch["rating"].to_numpy(), np.array([3, np.nan, np.nan, np.nan, np.nan], np.float32))
    np.testing.assert_array_equal(batch["review_count"].to_numpy(), np.array([2.0**60, 0, np.nan, np.nan, 7], np.float32))
    assert batch["brand"].to_pylist() == [b"true", b"false", b"", b"true", b"true"]
    assert batch["category"].to_pylist() == [b""] * 5
    flags = pa.StructArray.from_arrays([pa.array([True]), pa.array([3], pa.uint64())], ["price", "category"])
    assert np.isnan(prepare(flags, SETTINGS)["price"].to_numpy()).all()
    assert prepare(flags, SETTINGS)["category"].to_pylist() == [b"3"]


def test_a_price_too_large_for_float32_is_missing() -> None:
    assert np.isnan(prepare(struct([{"price": 1e300}]), SETTINGS)["price"].to_numpy()).all()


def test_a_list_of_categories_is_the_path_of_its_first_three() -> None:
    batch = prepare(struct([ROWS[0], {"category": [" A ", None, "", "b"]}]), SETTINGS)
    assert batch["category"].to_pylist() == [b"clothing > women > kind 0", b"a > b"]


def test_columns_are_taken_in_the_order_known_here_and_none_gives_no_settings() -> None:
    found = StructuredSettings.of(["brand", "title", "price"])
    assert found is not None
    assert found.columns == ("price", "brand")
    assert StructuredSettings.of(["title", "colour"]) is None


def test_every_row_is_a_unit_vector_without_nan(transform: StructuredTransform, statistics: dict[str, Any]) -> None:
    hard = [{"price": value, "review_count": 2**62, "rating": "1e38", "brand": "x" * 10_000} for value in (0.0, 1e-40, 3e38)]
    vectors = transform(struct([*ROWS, *hard, {}, None]))
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(ROWS) + 5, statistics["dimension"])
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_no_rows_give_no_vectors(transform: StructuredTransform, statistics: dict[str, Any]) -> None:
    assert transform(struct([])).shape == (0, statistics["dimension"])


def test_a_row_of_missing_values_is_the_unit_vector_of_its_indicators(transform: StructuredTransform) -> None:
    vectors = transform(struct([MISSING_ROW, *ROWS[5:8]]))
    assert (vectors == vectors[0]).all()
    np.testing.assert_allclose(vectors[0][vectors[0] != 0], [1 / math.sqrt(5)] * 5, atol=1e-6)


def test_a_vector_depends_on_its_row_alone(transform: StructuredTransform) -> None:
    whole = transform(struct(ROWS))
    single = np.concatenate([transform(struct([one])) for one in ROWS[:20]])
    np.testing.assert_array_equal(single, whole[:20])


def expected(statistics: dict[str, Any], product: dict[str, Any], hashed: int = 0) -> np.ndarray:
    """Compute a vector of known tokens from the statistics alone."""
    fitted, settings = statistics["fitted"], statistics["settings"]
    batch = prepare(struct([product]), SETTINGS)
    blocks = []
    for name in settings["columns"]:
        value = batch[name][0].as_py()
        if name in ("category", "brand"):
            vocabulary = fitted[name]["vocabulary"]
            one_hot = np.zeros(len(vocabulary) + settings["hashes"])
            known = value != b""
            if known:
                one_hot[vocabulary.index(value.decode())] = 1
            blocks += [one_hot, np.array([0 if known else 0.5])]
            continue
        known = not math.isnan(value)
        number = math.log1p(value) if known and name != "rating" else value if known else 0
        z = (number - fitted[name]["mean"]) / math.sqrt(fitted[name]["variance"])
        angle = math.pi / 4 * min(max(z, -2), 2)
        parts = [math.cos(angle), math.sin(angle)]
        if name == "price":
            bucket = np.eye(settings["buckets"])[np.searchsorted(fitted[name]["boundaries"], number, side="right")]
            parts = [*(math.sqrt(0.75) * np.array(parts)), *(0.5 * bucket)]
        blocks += [known * np.array(parts), np.array([0 if known else 0.5])]
    vector = np.concatenate(blocks)
    return np.asarray(vector / np.linalg.norm(vector))


def test_the_statistics_say_all_that_the_graph_computes(
    transform: StructuredTransform, statistics: dict[str, Any]
) -> None:
    # Prices that lie on a boundary may fall to either side once it has six digits.
    rows = [{**one, "price": one["price"] and one["price"] + 0.31} for one in ROWS[:60]]
    vectors = transform(struct(rows))
    for vector, one in zip(vectors, rows, strict=True):
        np.testing.assert_allclose(vector, expected(statistics, one), atol=2e-5)


def test_the_statistics_are_those_of_the_catalogue(statistics: dict[str, Any]) -> None:
    prices = np.log1p([one["price"] for number, one in enumerate(ROWS) if number not in (5, 6, 7)])
    assert statistics["fitted"]["price"]["mean"] == pytest.approx(prices.mean(), abs=1e-4)
    assert statistics["fitted"]["price"]["variance"] == pytest.approx(prices.var(), abs=1e-4)
    wanted = np.quantile(prices, np.linspace(0, 1, 11)[1:-1])
    np.testing.assert_allclose(statistics["fitted"]["price"]["boundaries"], wanted, atol=0.05)
    assert statistics["fitted"]["rating"]["mean"] == pytest.approx(3, abs=0.05)


def test_a_brand_with_a_line_break_a_tab_or_a_nul_keeps_its_place(
    folder: Path, transform: StructuredTransform, statistics: dict[str, Any]
) -> None:
    vocabulary = statistics["fitted"]["brand"]["vocabulary"]
    assert vocabulary[0] == "common"
    assert sorted(vocabulary) == sorted(
        ["common", "line\\nbreak", "carriage\\rreturn", "a\\ttab", "back\\\\slash", "back\\\\nslash",
         "next\x85line\u2028end", "nul\0", "丝绸"]
    )  # fmt: skip
    lines = (folder / "transform_fn" / "assets" / vocabulary_file("brand")).read_bytes().decode().split("\n")
    assert lines[:-1] == vocabulary
    vectors = transform(struct([{"brand": brand} for brand in ODD_BRANDS]))
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(len(ODD_BRANDS)) * 0.5 + 0.5, atol=1e-6)


def test_a_nearer_price_is_closer_and_so_is_the_same_brand_or_category(transform: StructuredTransform) -> None:
    product = ROWS[100]
    prices = near(transform, product, [{**product, "price": product["price"] * step} for step in (1.0, 1.15, 1.5, 3.0)])
    assert (np.diff(prices) < 0).all()
    brands = near(transform, product, [product, {**product, "brand": "丝绸"}])
    assert brands[1] == pytest.approx(brands[0] - 0.2, abs=1e-5)  # one of five columns
    case = near(transform, product, [{**product, "brand": f" {product['brand'].upper()} "}])
    assert case[0] == pytest.approx(1, abs=1e-6)


def test_rare_brands_are_not_one_brand(transform: StructuredTransform, statistics: dict[str, Any]) -> None:
    vectors = transform(struct([{"brand": f"rare {number}"} for number in range(64)]))
    places = set(np.argmax(vectors[:, -9:-1], axis=1).tolist())
    assert len(places) == SETTINGS.hashes
    assert not vectors[:, -9 - len(statistics["fitted"]["brand"]["vocabulary"]) : -9].any()


def test_the_blocks_of_known_columns_weigh_alike(transform: StructuredTransform) -> None:
    vector = transform(struct([ROWS[50]]))[0].astype(float)
    sizes = [2 + 10 + 1, 2 + 1, 2 + 1]
    blocks = np.split(vector, np.cumsum(sizes))
    np.testing.assert_allclose([np.linalg.norm(block) ** 2 for block in blocks], [0.2, 0.2, 0.2, 0.4], atol=1e-6)


def test_equal_values_and_a_column_without_any_are_fitted_all_the_same(tmp_path: Path) -> None:
    settings = StructuredSettings(("price", "rating", "brand"), hashes=4)
    out = fit(tmp_path / "equal", [{**MISSING_ROW, "price": 7.3}] * 50, settings)
    statistics = json.loads((out / "statistics.json").read_text())
    assert statistics["fitted"]["price"]["mean"] == pytest.approx(math.log1p(7.3), abs=1e-5)
    assert statistics["fitted"]["rating"] == {"mean": 0, "variance": 0}
    vectors = load_transform(str(out))(struct([{"price": 7.3}, {"price": 900.0, "rating": "4", "brand": "new"}, {}]))
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_no_product_at_all_is_fitted_too(tmp_path: Path) -> None:
    out = fit(tmp_path / "empty", [], StructuredSettings(("price", "brand"), hashes=4), files=1)
    vectors = load_transform(str(out))(struct([{"price": 7.3, "brand": "new"}, {}]))
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_a_transform_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "statistics.json").write_text('{"version": 99}')
    with pytest.raises(ValueError, match=r"has version 99; this one reads 1: install a newer one"):
        load_transform(str(tmp_path))
