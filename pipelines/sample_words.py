"""What the sample shop writes of its products: titles, descriptions and reviews, in English and in Chinese.

Values are canonical words of the shop-word table, which also gives their synonyms and translations.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from transforms.shop_words import ShopWords


@dataclass(frozen=True)
class ProductType:
    """What is said of a type of product.

    Attributes:
        category: where the shop lists it.
        names: what titles call it, all of them rows of the shop-word table.
        materials: what it may be made of.
        median_price, spread: of the log-normal price.
        uses: ends of the sentence "Good for ..."; known to the shop-word table.
    """

    category: str
    names: tuple[str, ...]
    materials: tuple[str, ...]
    median_price: float
    spread: float
    uses: tuple[str, ...]


_SHOE = ("leather", "suede", "canvas", "mesh")
_CLOTH = ("cotton", "linen", "polyester", "organic cotton")
_WEAR = ("casual", "office", "party", "travel")
_HOME = ("home", "kitchen", "office")

TYPES: Mapping[str, ProductType] = {
    "T-shirt": ProductType(
        "apparel", ("T-shirt", "tee", "tshirt"), _CLOTH, 18, 0.4, ("gym", "casual", "travel")
    ),
    "dress": ProductType(
        "apparel", ("dress", "frock"), ("silk", "cotton", "chiffon", "linen"), 52, 0.5, _WEAR
    ),
    "trousers": ProductType("apparel", ("trousers", "pants", "slacks"), ("wool", *_CLOTH), 44, 0.4, _WEAR),
    "sneakers": ProductType(
        "footwear", ("sneakers", "trainers"), _SHOE, 68, 0.45, ("running", "gym", "casual")
    ),
    "boots": ProductType(
        "footwear", ("boots",), ("leather", "suede", "rubber"), 95, 0.45, ("hiking", "winter")
    ),
    "handbag": ProductType(
        "bags", ("handbag", "hand bag"), ("leather", "faux leather", "suede"), 78, 0.7, _WEAR
    ),
    "backpack": ProductType(
        "bags",
        ("backpack", "rucksack", "knapsack"),
        ("nylon", "canvas", "leather"),
        55,
        0.45,
        ("school", "hiking", "travel"),
    ),
    "mug": ProductType(
        "kitchen", ("mug", "coffee mug"), ("ceramic", "porcelain", "stoneware"), 11, 0.35, _HOME
    ),
    "teapot": ProductType(
        "kitchen", ("teapot",), ("ceramic", "porcelain", "cast iron"), 34, 0.5, ("home", "kitchen")
    ),
    "table lamp": ProductType(
        "lighting", ("table lamp", "desk lamp"), ("linen", "silk", "paper"), 48, 0.55, _HOME
    ),
    "armchair": ProductType(
        "furniture", ("armchair",), ("velvet", "leather", "corduroy"), 320, 0.5, ("home", "office")
    ),
    "watch": ProductType(
        "accessories",
        ("watch", "wristwatch", "timepiece"),
        ("leather", "silicone", "nylon"),
        120,
        0.8,
        ("office", "sports"),
    ),
    "sunglasses": ProductType(
        "accessories", ("sunglasses",), ("acrylic", "plastic", "metal"), 38, 0.7, ("beach", "travel")
    ),
    "umbrella": ProductType(
        "accessories", ("umbrella",), ("polyester", "nylon"), 22, 0.4, ("travel", "outdoor", "office")
    ),
    "hat": ProductType(
        "accessories", ("hat",), ("wool", "straw", "cotton", "suede"), 29, 0.45, ("beach", "summer", "party")
    ),
}

COLOURS: Mapping[str, tuple[int, int, int]] = {
    "black": (32, 32, 36),
    "grey": (138, 141, 146),
    "white": (242, 241, 238),
    "beige": (214, 192, 152),
    "brown": (112, 70, 42),
    "orange": (236, 122, 34),
    "red": (206, 34, 38),
    "maroon": (118, 24, 48),
    "pink": (240, 146, 178),
    "purple": (118, 62, 156),
    "navy blue": (28, 40, 92),
    "blue": (44, 104, 204),
    "teal": (12, 128, 128),
    "green": (52, 142, 66),
}

PATTERNS: Mapping[str, float] = {
    "plain": 0.5,
    "striped": 0.16,
    "dotted": 0.12,
    "checked": 0.14,
    "floral": 0.08,
}
_PATTERN_NAMES: Mapping[str, tuple[str, ...]] = {
    "plain": ("",) * 5 + ("plain", "solid"),
    "striped": ("striped",),
    "dotted": ("dotted", "polka dot", "spotted"),
    "checked": ("checked", "check", "plaid"),
    "floral": ("floral", "flowered"),
}

_PLURAL = frozenset({"trousers", "sneakers", "boots", "sunglasses"})

BRANDS = (
    "Alderway",
    "Brindle & Co",
    "Casa Lumen",
    "Dovetail",
    "Everfold",
    "Fennimore",
    "Greyharbor",
    "Hollis",
    "Ivorline",
    "Juniper Lane",
    "Kestrel",
    "Larkhill",
    "Marlowe",
    "Northmere",
    "Oakenfield",
    "Pell & Rowan",
    "Quillon",
    "Rivermoor",
    "Sable Street",
    "Thornby",
    "Umbra Vale",
    "Vantero",
    "Westbrook",
    "Yarrow",
)

_TITLES = (
    "{brand} {colour} {pattern} {name}",
    "{colour} {pattern} {name}",
    "{pattern} {name} in {colour}",
    "{brand} {material} {name}, {colour} {pattern}",
    "{name} {colour} {pattern} by {brand}",
    "{material} {pattern} {name} - {colour}",
    "{brand} {name} ({colour})",
    "New {colour} {material} {name} {pattern}",
)
_OPENINGS = (
    "{this} {pattern} {name} in {colour} {verb} made of {material}.",
    "{this} {colour} {name} {verb} made of {material}.",
    "{brand} makes {this} {pattern} {name} of {material}, in {colour}.",
    "The {name} everybody asks for, now in {colour}.",
    "{colour} {material} and a classic cut: our {pattern} {name}.",
)
_MIDDLES = (
    "Good for {use} and much more.",
    "Made for {use}.",
    "You will like it for {use}.",
    "Our choice for {use} this year.",
)
_CLOSINGS = (
    "Easy to care for.",
    "Ships within two days.",
    "Carefully finished by hand.",
    "A good gift.",
    "Comes with a two-year warranty.",
    "Wipe clean with a damp cloth.",
    "Designed in small batches.",
)
_REVIEWS = (
    "Exactly as pictured.",
    "The {colour} is lovely.",
    "Good {name} for the price.",
    "Smaller than I expected.",
    "Arrived quickly.",
    "The {material} feels solid.",
    "I own more {brand} already.",
    "Colour is a bit off.",
    "Would buy again.",
)
_TITLES_ZH = (
    "{brand} {colour}{pattern}{name}",
    "{colour}{pattern}{name}",
    "{pattern}{name} {colour}",
    "{brand}{material}{name}（{colour}）",
    "新款{colour}{material}{name}",
    "{material}{pattern}{name} {colour} {brand}",
)
_OPENINGS_ZH = (
    "这款{colour}{name}采用{material}制成。",
    "{brand}出品的{pattern}{name}，颜色为{colour}。",
    "{colour}{material}{name}，经典设计。",
)
_MIDDLES_ZH = ("适合{use}。", "非常适合{use}使用。", "{use}的好选择。")
_CLOSINGS_ZH = ("做工精细。", "送礼佳品。", "易于打理。", "两天内发货。")
_REVIEWS_ZH = ("和图片一样。", "{colour}很好看。", "性价比很高的{name}。", "物流很快。", "会再次购买。")


@dataclass(frozen=True)
class ProductText:
    """The texts of one product."""

    title: str
    description: str
    reviews: tuple[str, ...]


@functools.cache
def _words() -> ShopWords:
    return ShopWords.load()


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def write_texts(
    product_type: str,
    colour: str,
    pattern: str,
    material: str,
    brand: str,
    chinese: bool,
    rng: np.random.Generator,
) -> ProductText:
    """Write the title, a description of two or three sentences and up to four reviews of a product."""
    kind = TYPES[product_type]
    if chinese:
        values = {
            "name": _words().chinese(product_type, rng),
            "colour": _words().chinese(colour, rng),
            "pattern": "" if pattern == "plain" and rng.random() < 0.6 else _words().chinese(pattern, rng),
            "material": _words().chinese(material, rng),
            "use": _words().chinese(_pick(kind.uses, rng), rng),
        }
        groups = (_TITLES_ZH, _OPENINGS_ZH, _MIDDLES_ZH, _CLOSINGS_ZH, _REVIEWS_ZH)
    else:
        names = _words().english(colour)
        values = {
            "name": _pick(kind.names, rng),
            "colour": colour if rng.random() < 0.6 else _pick(names, rng),
            "pattern": _pick(_PATTERN_NAMES[pattern], rng),
            "material": material,
            "use": _pick(kind.uses, rng),
            "this": "these" if product_type in _PLURAL else "this",
            "verb": "are" if product_type in _PLURAL else "is",
        }
        groups = (_TITLES, _OPENINGS, _MIDDLES, _CLOSINGS, _REVIEWS)
    values["brand"] = brand
    titles, openings, middles, closings, reviews = groups
    sentences = [_pick(openings, rng), _pick(middles, rng)]
    if rng.random() < 0.6:
        sentences.append(_pick(closings, rng))
    picked = rng.choice(len(reviews), int(rng.integers(0, 5)), replace=False)
    return ProductText(
        _title_case(_fill(_pick(titles, rng), values), chinese, rng),
        ("" if chinese else " ").join(_fill(sentence, values) for sentence in sentences),
        tuple(_fill(reviews[int(index)], values) for index in picked),
    )


def _fill(template: str, values: Mapping[str, str]) -> str:
    text = " ".join(template.format_map(values).split()).strip(" ,-")
    return text[:1].upper() + text[1:]


def _title_case(title: str, chinese: bool, rng: np.random.Generator) -> str:
    if chinese or rng.random() < 0.5:
        return title
    return " ".join(
        word if word in ("in", "by") else word[:1].upper() + word[1:] for word in title.split(" ")
    )
