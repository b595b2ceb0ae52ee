"""What the sample shop writes of its products: titles, descriptions and reviews, in English and in Chinese.

Types, colours, patterns and materials are words of the shop-word table, which gives their synonyms and translations.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipelines.sample_goods import TYPES, Attributes, pick
from transforms.shop_words import ShopWords

NO_REVIEWS, MOST_REVIEWS = 0.1, 4
GOOD, BAD = 3.8, 2.6  # ratings from which reviews praise, up to which they complain

_PLURAL = frozenset({"trousers", "sneakers", "boots", "sunglasses"})
# Titles name a pattern before the type, or not at all where it is plain.
_PATTERN_NAMES: Mapping[str, tuple[str, ...]] = {
    "plain": ("", "", "", "", "plain"),
    "striped": ("striped",),
    "dotted": ("dotted", "polka dot", "spotted"),
    "checked": ("checked", "check", "plaid"),
    "floral": ("floral", "flowered"),
}
_FIRST_LETTERS = re.compile(r"(?<![\w'-])(?!(?:in|by)\b)[a-z]")


@dataclass(frozen=True)
class _Templates:
    """What a language's texts are filled in from; reviews by mood: bad, middling, good."""

    titles: tuple[str, ...]
    openings: tuple[str, ...]
    uses: tuple[str, ...]
    closings: tuple[str, ...]
    bad: tuple[str, ...]
    middling: tuple[str, ...]
    good: tuple[str, ...]


_ENGLISH = _Templates(
    titles=(
        "{brand} {colour} {pattern} {name}",
        "{colour} {pattern} {name}",
        "{pattern} {name} in {colour}",
        "{brand} {pattern} {name}, {colour} {material}",
        "{colour} {pattern} {name} by {brand}",
        "{pattern} {material} {name} - {colour}",
        "{brand} {pattern} {name} ({colour})",
        "New: {colour} {material} {name}",
    ),
    openings=(
        "{this} {pattern} {name} in {colour} {is_} made of {material}.",
        "{this} {colour} {name} {is_} made of {material}.",
        "{brand} makes {this} {pattern} {name} of {material}, in {colour}.",
        "The {name} everybody asks for, now in {colour}.",
        "{colour} {material} and a classic shape: our {pattern} {name}.",
        "A new colour for an old favourite: the {pattern} {name} by {brand} in {colour}.",
    ),
    uses=("Made for {use}.", "Just right for {use}.", "A favourite for {use}.", "Our choice for {use}."),
    closings=(
        "Easy to care for.",
        "Ships within two days.",
        "Carefully finished by hand.",
        "Makes a good gift.",
        "Comes with a two-year warranty.",
        "Made in small batches.",
        "Also available in other colours.",
    ),
    bad=(
        "The colour is nothing like the picture.",
        "The {material} feels cheap.",
        "Sent back the same day.",
        "Arrived damaged, and nobody answers.",
        "Not worth the price.",
    ),
    middling=(
        "All right for the money.",
        "Smaller than I expected.",
        "Nice {colour}, but slow delivery.",
        "Looks good, though the {material} could be better.",
    ),
    good=(
        "Exactly as pictured.",
        "The {colour} is lovely.",
        "A good {thing} for the price.",
        "The {material} feels solid.",
        "Would buy again.",
        "I own more {brand} already.",
        "Better than I hoped for.",
    ),
)
_CHINESE = _Templates(
    titles=(
        "{brand} {colour}{pattern}{name}",
        "{colour}{pattern}{name}",
        "{pattern}{name} {colour}",
        "{brand}{material}{name}（{colour}）",
        "新款{colour}{material}{name}",
        "{material}{pattern}{name} {colour} {brand}",
    ),
    openings=(
        "这款{colour}{name}采用{material}制成。",
        "{brand}出品的{pattern}{name}，颜色为{colour}。",
        "{colour}{material}{name}，经典设计。",
    ),
    uses=("适合{use}。", "{use}的好选择。", "{use}之选。"),
    closings=("做工精细。", "送礼佳品。", "易于打理。", "两天内发货。", "两年质保。"),
    bad=("颜色和图片不一样。", "{material}质量差。", "已经退货。", "不值这个价。"),
    middling=("一般。", "比想象的小。", "物流有点慢。"),
    good=("和图片一样。", "{colour}很好看。", "性价比很高的{name}。", "会再次购买。"),
)


@dataclass(frozen=True)
class ProductText:
    """The texts of one product."""

    title: str
    description: str
    reviews: tuple[str, ...]


def write_texts(product: Attributes, chinese: bool, rating: float, rng: np.random.Generator) -> ProductText:
    """Write the title of a product, its description of two to four sentences, and its reviews, four at most.

    rating: 1 to 5; the reviews fit it.
    """
    texts = _CHINESE if chinese else _ENGLISH
    values = _chinese_values(product, rng) if chinese else _english_values(product, rng)
    feature = TYPES[product.product_type].features[int(rng.integers(3))][int(chinese)]
    sentences = [pick(texts.openings, rng)]
    if rng.random() < 0.7:
        sentences.append(feature)
    sentences.append(pick(texts.uses, rng))
    if rng.random() < 0.5:
        sentences.append(pick(texts.closings, rng))
    mood = texts.good if rating >= GOOD else texts.bad if rating <= BAD else texts.middling
    count = 0 if rng.random() < NO_REVIEWS else min(int(rng.integers(1, MOST_REVIEWS + 1)), len(mood))
    title = _fill(pick(texts.titles, rng), values)
    return ProductText(
        title if chinese or rng.random() < 0.5 else _FIRST_LETTERS.sub(lambda match: match.group().upper(), title),
        ("" if chinese else " ").join(_fill(sentence, values) for sentence in sentences),
        tuple(_fill(mood[index], values) for index in rng.permutation(len(mood))[:count].tolist()),
    )


@functools.cache
def _words() -> ShopWords:
    return ShopWords.load()


def _english_values(product: Attributes, rng: np.random.Generator) -> dict[str, str]:
    kind = TYPES[product.product_type]
    name = pick(kind.names, rng)
    plural = product.product_type in _PLURAL
    return {
        "name": name,
        "thing": f"pair of {name}" if plural else name,
        "this": "these" if plural else "this",
        "is_": "are" if plural else "is",
        "colour": product.colour if rng.random() < 0.6 else pick(_words().variants(product.colour, "en"), rng),
        "pattern": pick(_PATTERN_NAMES[product.pattern], rng),
        "material": product.material,
        "brand": product.brand,
        "use": kind.uses[int(rng.integers(len(kind.uses)))][0],
    }


def _chinese_values(product: Attributes, rng: np.random.Generator) -> dict[str, str]:
    kind = TYPES[product.product_type]
    named = product.pattern != "plain" or rng.random() < 0.3
    return {
        "name": _words().translate(product.product_type, "zh", rng),
        "colour": _words().translate(product.colour, "zh", rng),
        "pattern": _words().translate(product.pattern, "zh", rng) if named else "",
        "material": _words().translate(product.material, "zh", rng),
        "brand": product.brand,
        "use": kind.uses[int(rng.integers(len(kind.uses)))][1],
    }


def _fill(template: str, values: Mapping[str, str]) -> str:
    text = " ".join(template.format_map(values).split())
    return text[:1].upper() + text[1:]
