from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from transforms.phrases import canonical_values, find_roles, make_phrases, phrases_of, pool_phrases, product_attributes
from transforms.shop_words import LANGUAGES, ShopWords, singular

BOTH = {"en": 0.7, "zh": 0.3}
SHIRT = {"kind": "Shirts", "colour": "Navy Blue", "audience": "Men"}


@pytest.fixture(scope="module")
def words() -> ShopWords:
    return ShopWords.load()


def draw(
    attributes: Mapping[str, str | list[str]], words: ShopWords, shares: float | Mapping[str, float], count: int = 2000
) -> set[str]:
    """Draw phrases in the languages of the shares, or in English and that share of Chinese."""
    languages = {"en": 1 - shares, "zh": shares} if isinstance(shares, float | int) else shares
    return {phrase.text for phrase in make_phrases(attributes, count, np.random.default_rng(0), words, languages)}


@pytest.mark.parametrize(
    ("value", "chinese"),
    [
        ("Navy Blue", "海军蓝"),
        ("navy-blue", "海军蓝"),
        ("T-Shirt", "T恤"),
        ("tshirts", "T恤"),
        ("Tees", "T恤"),
        ("Dresses", "连衣裙"),
        ("women's", "女士"),
        ("F", "女士"),
        ("Accessories", "配饰"),
        ("glass", "玻璃"),
        ("glasses", "眼镜"),
        ("Dark Olive Shirts", "深橄榄色衬衫"),
        ("Hoodies & Sweatshirts", "连帽衫卫衣"),
        ("Perfume and Body Mist", "香水"),
    ],
)
def test_words_are_found_whatever_their_case_number_and_hyphens(words: ShopWords, value: str, chinese: str) -> None:
    assert words.translate(value, "zh") == chinese


def test_word_that_the_table_lacks_stays_english(words: ShopWords) -> None:
    assert words.translate("Flux Capacitor", "zh") == "Flux Capacitor"
    assert words.translate("Black Flux", "zh") == "Black Flux"
    assert words.variants("Flux Capacitor", "en") == ("Flux Capacitor",)


def test_table_covers_what_a_shop_sells(words: ShopWords) -> None:
    shop = "mug teapot lamp armchair umbrella cushion scarf handbag backpack sneakers boots heels watch necklace ring earrings "
    shop += "lipstick perfume sunglasses belt wallet hoodie jeans skirt dress coat sweater tracksuit sofa vase leather striped"
    assert [word for word in shop.split() if words.translate(word, "zh") == word] == []


def test_variants_are_drawn_and_the_usual_one_most_often(words: ShopWords) -> None:
    rng = np.random.default_rng(0)
    drawn = [words.translate("navy", "zh", rng) for _ in range(300)]
    assert set(drawn) == {"海军蓝", "藏青色", "海军蓝色"}
    assert drawn.count("海军蓝") > 150


@pytest.mark.parametrize(
    ("plural", "expected"),
    [("Casual Shoes", "Casual Shoe"), ("Dresses", "Dress"), ("Watches", "Watch"), ("Accessories", "Accessory"),
     ("Jeans", "Jeans"), ("Dress", "Dress"), ("Hat", "Hat"), ("Sunglasses", "Sunglasses")],
)  # fmt: skip
def test_plural_goes_by_rule(plural: str, expected: str) -> None:
    assert singular(plural) == expected


@pytest.mark.parametrize(
    ("columns", "roles"),
    [
        (["id", "articleType", "baseColour", "gender"], {"kind": "articleType", "colour": "baseColour", "audience": "gender"}),
        (["product_type", "subcategory", "Color", "Sex"], {"kind": "product_type", "colour": "Color", "audience": "Sex"}),
        (["category", "attributes.material", "brand"], {"kind": "category", "material": "attributes.material", "brand": "brand"}),
        (["product_type", "category"], {"kind": "product_type", "category": "category"}),
        (["title", "price"], {}),
    ],
)
def test_roles_are_found_by_the_names_of_columns(columns: list[str], roles: dict[str, str]) -> None:
    assert find_roles(columns) == roles


def test_attributes_come_from_strings_lists_and_paths(words: ShopWords) -> None:
    row = {"category": "Men/Tops/Jackets", "color": ["Red", "Blue", "Red"], "pattern": None, "brand": "  ", "size": 4}
    roles = find_roles(row)
    assert product_attributes(row, roles, words) == {"kind": ["Jackets"], "audience": ["Men"], "colour": ["Red", "Blue"]}


def test_column_for_the_audience_goes_before_a_path(words: ShopWords) -> None:
    row = {"category": "Men/Tops", "gender": "Unisex"}
    assert product_attributes(row, find_roles(row), words) == {"kind": ["Tops"], "audience": ["Unisex"]}


def test_english_phrases_have_the_wordings_of_shoppers(words: ShopWords) -> None:
    phrases = draw(SHIRT, words, 0)
    expected = {"navy blue men shirts", "shirts for men", "shirt in navy blue for men", "men's navy blue shirts"}
    assert expected | {"mens shirts", "shirts men navy blue", "Navy Blue Shirts"} <= phrases
    assert not any(char > "\u2fff" for phrase in phrases for char in phrase)


def test_chinese_phrases_have_the_wordings_of_shoppers(words: ShopWords) -> None:
    phrases = draw(SHIRT, words, 1, count=10_000)
    assert {"男士海军蓝衬衫", "海军蓝 男士 衬衫", "海军蓝男士衬衫", "男式 衬衫 海军蓝色", "海军蓝的衬衫"} <= phrases
    assert not any(char.isascii() and char.isalpha() for phrase in phrases for char in phrase)


def test_brands_and_unknown_words_stay_as_they_are_in_chinese_phrases(words: ShopWords) -> None:
    phrases = draw({"kind": "Tshirts", "brand": "Nike", "colour": "White"}, words, 1)
    assert {"Nike 白色T恤", "白色 Nike T恤"} <= phrases
    assert "白色 Zorb" in draw({"kind": "Zorb", "colour": "White"}, words, 1)


def test_code_for_an_audience_is_spoken_out(words: ShopWords) -> None:
    phrases = draw({"kind": "Shirts", "audience": "M"}, words, 0)
    assert "men shirts" in phrases
    assert "m shirts" not in phrases


def test_each_phrase_takes_one_value_of_a_list(words: ShopWords) -> None:
    phrases = draw({"kind": "Jackets", "colour": ["Red", "Blue"]}, words, 0)
    assert {"red jackets", "blue jackets"} <= phrases
    assert not any("red" in phrase.lower() and "blue" in phrase.lower() for phrase in phrases)


def test_share_of_chinese_is_kept(words: ShopWords) -> None:
    phrases = make_phrases(SHIRT, 1000, np.random.default_rng(0), words, BOTH)
    assert 240 < sum(not phrase.text.isascii() for phrase in phrases) < 360


def test_product_without_attributes_has_no_phrases(words: ShopWords) -> None:
    assert make_phrases({}, 5, np.random.default_rng(0), words, BOTH) == []
    assert make_phrases({"kind": []}, 5, np.random.default_rng(0), words, BOTH) == []


def test_phrase_tells_which_attributes_it_names(words: ShopWords) -> None:
    attributes = {"kind": "Shirts", "colour": ["Grey", "Navy Blue"], "brand": "Nike"}
    values = canonical_values(attributes, words)
    assert ("colour", "navy blue") in values
    assert len(values) == 4
    assert canonical_values({"colour": "gray"}, words) == canonical_values({"colour": ["GREY"]}, words) < values
    for phrase in make_phrases(attributes, 300, np.random.default_rng(0), words, BOTH):
        assert phrase.names <= values
        assert (("brand", "nike") in phrase.names) == ("nike" in phrase.text.casefold()), phrase.text
        assert sum(role == "colour" for role, _ in phrase.names) <= 1


def test_products_of_the_same_attributes_have_the_same_phrases(words: ShopWords) -> None:
    phrases = phrases_of(SHIRT, 8, 0, words, BOTH)
    assert phrases == phrases_of(dict(reversed(SHIRT.items())), 8, 0, words, BOTH)
    assert phrases != phrases_of(SHIRT, 8, 1, words, BOTH)
    assert len(set(phrases)) == len(phrases)


def test_pool_is_bounded_favours_common_phrases_and_knows_no_order() -> None:
    rng = np.random.default_rng(0)
    products = [(str(i), ["common", f"rare {i}", f"group {i % 20}"]) for i in range(2000)]
    pool = pool_phrases(products, 100, seed=0)
    assert len(pool) == len(set(pool)) == 100
    assert pool == pool_phrases([products[i] for i in rng.permutation(2000)], 100, seed=0)
    assert {"common", *(f"group {i}" for i in range(20))} <= set(pool)
    assert pool != pool_phrases(products, 100, seed=1)


def test_pool_takes_all_phrases_where_there_are_few() -> None:
    assert pool_phrases([("a", ["x", "y"]), ("b", ["x"])], 100, seed=0) == ["x", "y"]
    assert pool_phrases([("a", ["x", "y"])], 0, seed=0) == []


@pytest.mark.parametrize(
    ("language", "expected", "never"),
    [
        ("de", {"rote Damen Stiefel", "stiefel für damen in rot", "stiefel aus leder", "Stiefel in rot für Damen"}, "in rote"),
        ("es", {"botas rojas para mujer", "botas de cuero", "botas rojas", "botas mujer"}, "botas rojos"),
        ("fr", {"bottes rouges pour femme", "bottes en cuir", "bottes femme rouges"}, "boots for"),
        ("ja", {"レディース 赤 ブーツ", "赤いブーツ", "赤のブーツ", "レディースブーツ"}, "赤いの"),
    ],
)
def test_phrases_of_a_language_have_the_wordings_of_its_shoppers(
    words: ShopWords, language: str, expected: set[str], never: str
) -> None:
    phrases = draw({"kind": "Boots", "colour": "Red", "audience": "Women", "material": "leather"}, words, {language: 1.0}, 20_000)
    assert expected <= phrases
    assert not any(never in phrase for phrase in phrases)


def test_brands_and_unknown_words_stay_as_they_are_in_every_language(words: ShopWords) -> None:
    for language in LANGUAGES:
        phrases = draw({"kind": "Zorb", "brand": "Nike"}, words, {language: 1.0})
        assert any("nike" in phrase.lower() and "zorb" in phrase.lower() for phrase in phrases), language


def test_shares_of_languages_are_kept(words: ShopWords) -> None:
    shares = {"en": 2.0, "zh": 1.0, "ja": 1.0}
    phrases = [phrase.text for phrase in make_phrases({"kind": "Sneakers"}, 2000, np.random.default_rng(0), words, shares)]
    assert sum("スニーカー" in phrase for phrase in phrases) in range(430, 570)
    assert sum(phrase.isascii() for phrase in phrases) in range(930, 1070)


@pytest.mark.parametrize(("language", "asked"), [("en", "looking for"), ("zh", "有没有"), ("de", "suche")])
def test_one_phrase_of_five_is_asked_for_in_a_few_words_more(words: ShopWords, language: str, asked: str) -> None:
    drawn = make_phrases({"kind": "Sneakers"}, 2000, np.random.default_rng(0), words, {language: 1.0})
    phrases = [phrase.text for phrase in drawn]
    plain = {phrase for phrase in phrases if phrases.count(phrase) > 60}
    requests = [phrase for phrase in phrases if phrase not in plain and any(one in phrase for one in plain)]
    assert len(requests) in range(300, 500)
    assert any(asked in phrase for phrase in requests)
    assert not any("{" in phrase for phrase in phrases)


@pytest.mark.skipif("CATALOGUE_INDEX_TEST_DATA" not in os.environ, reason="CATALOGUE_INDEX_TEST_DATA is not set")
def test_every_value_of_a_fashion_shop_has_words_in_all_languages(words: ShopWords) -> None:
    folder = Path(os.environ["CATALOGUE_INDEX_TEST_DATA"])
    table = pq.read_table(folder / "fashion60", columns=["product_type", "colour", "gender", "usage", "season"])
    for column in table.columns:
        values = [value for value in column.unique().to_pylist() if value]
        assert [value for value in values if words.translate(value, "zh") == value] == []
        for language in LANGUAGES:
            assert [value for value in values if words.translate(value, language, np.random.default_rng(0)) == ""] == []
