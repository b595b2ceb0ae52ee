"""The drawn sample catalogue: the same bytes from a seed, its columns, its languages, its broken rows."""

from __future__ import annotations

import io
import math
import re
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.sample import SCHEMA, defect_of, make_row, write_query_image, write_sample
from pipelines.sample_goods import COLOURS, PATTERNS, TYPES, Attributes, draw_attributes
from pipelines.sample_shapes import SHAPES, draw_product
from pipelines.sample_words import _CHINESE, _ENGLISH, write_texts
from transforms.decode import PictureError, decode_picture
from transforms.shop_words import ShopWords

PRODUCTS, SEED = 300, 5
CHINESE = re.compile("[\u4e00-\u9fff]")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_sample(str(tmp_path_factory.mktemp("shop")), PRODUCTS, SEED, rows_per_shard=140)


@pytest.fixture(scope="module")
def rows(shards: list[str]) -> list[dict[str, Any]]:
    return [row for shard in shards for row in pq.read_table(shard).to_pylist()]


@pytest.fixture(scope="module")
def sound(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for number, row in enumerate(rows) if not defect_of(SEED, number)]


def test_shards_are_named_by_their_number_and_hold_row_groups_of_128(shards: list[str]) -> None:
    assert [Path(shard).name for shard in shards] == [f"part-0000{index}-of-00003.parquet" for index in range(3)]
    files = [pq.ParquetFile(shard) for shard in shards]
    sizes = [[file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] for file in files]
    assert sizes == [[128, 12], [128, 12], [20]]
    assert all(file.schema_arrow.equals(SCHEMA) for file in files)
    assert files[0].metadata.row_group(0).column(0).compression == "ZSTD"


def test_columns_have_the_promised_types() -> None:
    types = {field.name: field.type for field in SCHEMA}
    assert types.pop("price") == types.pop("rating") == pa.float64()
    assert types.pop("review_count") == pa.int32()
    assert types.pop("reviews") == pa.list_(pa.string())
    assert types.pop("image") == pa.binary()
    assert set(types.values()) == {pa.string()}
    texts = "product_id title description category product_type colour pattern material brand currency"
    assert list(types) == texts.split()


def test_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    paths = [write_sample(str(tmp_path / name), 12, seed)[0] for name, seed in (("a", 5), ("b", 5), ("c", 6))]
    first, second, other = (Path(path).read_bytes() for path in paths)
    assert first == second
    assert first != other


def test_a_product_does_not_depend_on_the_size_of_the_catalogue(rows: list[dict[str, Any]]) -> None:
    for number in (0, 139, 140, 299):
        assert make_row(SEED, number) == rows[number]


def test_memory_is_that_of_one_shard_however_many_there_are(tmp_path: Path) -> None:
    peaks = []
    for per_shard in (80, 20):
        tracemalloc.start()
        shards = write_sample(str(tmp_path / str(per_shard)), 80, SEED, per_shard)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    of_60_rows = sum(Path(shard).stat().st_size for shard in shards[1:])
    assert peaks[1] < peaks[0] - of_60_rows


def test_every_type_colour_and_pattern_is_drawn(rows: list[dict[str, Any]]) -> None:
    assert set(SHAPES) == set(TYPES)
    assert len(TYPES) >= 12
    for column, known in (("product_type", TYPES), ("colour", COLOURS), ("pattern", PATTERNS)):
        assert {row[column] for row in rows} == set(known)


def test_colours_can_be_told_apart_by_their_values() -> None:
    values = np.array(list(COLOURS.values()), np.float64)
    distances = np.linalg.norm(values[:, None] - values[None], axis=2) + 1e3 * np.eye(len(values))
    assert distances.min() > 40


def test_pictures_are_jpegs_of_224_pixels_and_of_a_shop_photos_size(sound: list[dict[str, Any]]) -> None:
    pictures = [row["image"] for row in sound if row["image"]]
    for picture in pictures:
        image = Image.open(io.BytesIO(picture))
        image.load()
        assert (image.format, image.size, image.mode) == ("JPEG", (224, 224), "RGB")
    assert 8_000 < np.median([len(picture) for picture in pictures]) < 20_000
    assert max(len(picture) for picture in pictures) < 30_000


@pytest.mark.parametrize("product_type", list(SHAPES))
def test_a_products_place_and_surroundings_vary(product_type: str) -> None:
    rngs = (np.random.default_rng([9, index]) for index in range(6))
    pictures = [draw_product(product_type, COLOURS["teal"], "plain", rng) for rng in rngs]
    small = np.stack([decode_picture(picture, 16) for picture in pictures])
    assert small.astype(np.float64).std(0).mean() > 20


@pytest.mark.parametrize("colour", list(COLOURS))
def test_a_product_has_its_colour_in_the_photo(colour: str) -> None:
    found = 0
    for index, product_type in enumerate(("T-shirt", "armchair", "backpack", "dress", "teapot") * 2):
        picture = draw_product(product_type, COLOURS[colour], "plain", np.random.default_rng([3, index]))
        pixels = decode_picture(picture, 56).reshape(-1, 3).astype(np.float64)
        near = np.linalg.norm(pixels - COLOURS[colour], axis=1) < 70
        found += near.mean() > 0.04
    assert found >= 8


def test_a_product_is_described_in_the_language_asked_for() -> None:
    product = Attributes("mug", "red", "plain", "ceramic", "Hollis")
    for index in range(50):
        for chinese in (False, True):
            text = write_texts(product, chinese, 4.0, np.random.default_rng(index))
            assert bool(CHINESE.search(text.title)) == bool(CHINESE.search(text.description)) == chinese


def test_share_of_chinese_titles_is_near_a_tenth(rows: list[dict[str, Any]]) -> None:
    titles = [row["title"] for row in rows if row["title"]]
    assert 0.05 < sum(bool(CHINESE.search(title)) for title in titles) / len(titles) < 0.16


@pytest.mark.parametrize("product_type", list(TYPES))
def test_words_of_a_product_are_in_the_shop_word_table(product_type: str) -> None:
    table = ShopWords.load()
    for word in (product_type, *TYPES[product_type].names, *TYPES[product_type].materials, *COLOURS, *PATTERNS):
        assert table.find(word), word


@pytest.mark.parametrize("chinese", [False, True])
@pytest.mark.parametrize("product_type", list(TYPES))
def test_titles_name_colour_and_type_and_descriptions_have_two_to_four_sentences(
    product_type: str, chinese: bool
) -> None:
    table = ShopWords.load()
    for index, colour in enumerate(COLOURS):
        product = Attributes(product_type, colour, "striped", TYPES[product_type].materials[0], "Hollis")
        text = write_texts(product, chinese, 4.0, np.random.default_rng(index))
        kind, hue = table.find(product_type), table.find(colour)
        assert kind
        assert hue
        names, hues = (kind.variants["zh"], hue.variants["zh"]) if chinese else (TYPES[product_type].names, hue.variants["en"])
        title = text.title.casefold()
        assert any(name.casefold() in title for name in names), title
        assert any(word.casefold() in title for word in hues), title
        ends = re.findall("。" if chinese else r"[.](?: |$)", text.description)
        assert 2 <= len(ends) <= 4, text.description


def test_titles_say_the_colour_in_several_wordings() -> None:
    product = Attributes("sneakers", "navy blue", "plain", "mesh", "Hollis")
    titles = [write_texts(product, False, 4.0, np.random.default_rng(index)).title for index in range(60)]
    assert len(set(titles)) > 15
    assert any("navy blue" in title.lower() for title in titles)
    assert any("navy blue" not in title.lower() for title in titles)
    assert any("trainers" in title.lower() for title in titles)


@pytest.mark.parametrize("chinese", [False, True])
@pytest.mark.parametrize(("rating", "mood"), [(1.5, "bad"), (3.2, "middling"), (4.6, "good")])
def test_reviews_fit_the_rating(rating: float, mood: str, chinese: bool) -> None:
    fitting = {
        re.sub(r"\\{\w+\\}", ".+", re.escape(template))
        for template in getattr(_CHINESE if chinese else _ENGLISH, mood)
    }
    reviews: set[str] = set()
    for index in range(40):
        rng = np.random.default_rng(index)
        reviews.update(write_texts(draw_attributes(rng), chinese, rating, rng).reviews)
    assert len(reviews) >= 3
    for review in reviews:
        assert any(re.fullmatch(pattern, review, re.IGNORECASE) for pattern in fitting), review


def test_pictures_texts_ratings_and_reviews_are_sometimes_missing(rows: list[dict[str, Any]]) -> None:
    missing = Counter(column for row in rows for column, value in row.items() if value is None)
    assert 1 <= missing["image"] <= 18
    assert 1 <= missing["title"] == missing["description"] <= 18
    assert 15 <= missing["rating"] <= 75
    assert not any(row["image"] is None and row["title"] is None for row in rows)
    assert set(missing) == {"image", "title", "description", "rating", "product_id"}
    assert any(row["reviews"] == [] and row["review_count"] == 0 for row in rows)
    assert all((row["review_count"] == 0) == (row["reviews"] == []) for row in rows)
    assert all(len(row["reviews"]) <= row["review_count"] for row in rows)


def test_a_hundred_products_hold_one_broken_row_of_each_kind(rows: list[dict[str, Any]]) -> None:
    kinds = {kind: number for number in range(100) if (kind := defect_of(SEED, number))}
    assert sorted(kinds) == ["bad_price", "duplicate_id", "missing_id", "truncated_picture"]
    with pytest.raises(PictureError):
        decode_picture(rows[kinds["truncated_picture"]]["image"], 224)
    assert rows[kinds["missing_id"]]["product_id"] is None
    twice = kinds["duplicate_id"]
    assert rows[twice]["product_id"] == rows[twice - 1]["product_id"]
    assert rows[twice]["image"] != rows[twice - 1]["image"]
    price = rows[kinds["bad_price"]]["price"]
    assert math.isnan(price) or price < 0


def test_about_one_row_in_two_hundred_is_broken() -> None:
    broken = sum(defect_of(1, number) is not None for number in range(20_000))
    assert 0.003 < broken / 20_000 < 0.006


def test_sound_rows_have_a_price_in_cents_and_an_identifier_of_their_own(sound: list[dict[str, Any]]) -> None:
    assert all(row["price"] > 0 and row["price"] == round(row["price"], 2) for row in sound)
    assert len({row["product_id"] for row in sound}) == len(sound)
    assert all(row["rating"] is None or 1 <= row["rating"] <= 5 for row in sound)
    prices = {kind: np.median([row["price"] for row in sound if row["product_type"] == kind]) for kind in TYPES}
    assert prices["armchair"] > 3 * prices["T-shirt"]


def test_query_image_is_a_photo_that_the_catalogue_lacks(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    path, again, boots = (tmp_path / name for name in ("query.jpg", "again.jpg", "boots.jpg"))
    write_query_image(str(path), SEED)
    write_query_image(str(again), SEED)
    write_query_image(str(boots), SEED, "boots", "teal")
    assert path.read_bytes() == again.read_bytes()
    assert path.read_bytes() != boots.read_bytes()
    assert Image.open(io.BytesIO(path.read_bytes())).size == (224, 224)
    assert path.read_bytes() not in [row["image"] for row in rows]


def test_query_image_of_an_unknown_type_or_colour_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="product_type is 'spoon': give one of T-shirt, dress"):
        write_query_image(str(tmp_path / "query.jpg"), SEED, "spoon")
    with pytest.raises(ValueError, match="colour is 'mauve': give one of black, white"):
        write_query_image(str(tmp_path / "query.jpg"), SEED, "mug", "mauve")


@pytest.mark.parametrize(
    ("products", "seed", "per_shard", "message"),
    [
        (0, 0, 10, "products is 0: give 1 or more"),
        (5, -1, 10, "seed is -1: give 0 or more"),
        (5, 0, 0, "rows_per_shard is 0: give 1 or more"),
    ],
)
def test_numbers_out_of_range_are_refused(
    products: int, seed: int, per_shard: int, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        write_sample(str(tmp_path), products, seed, per_shard)


def test_a_folder_with_shards_of_another_catalogue_is_refused(tmp_path: Path) -> None:
    write_sample(str(tmp_path), 4, 0, 2)
    with pytest.raises(ValueError, match="of another catalogue: remove it or name another folder"):
        write_sample(str(tmp_path), 2, 0, 2)
