"""Phrases: what shoppers might type for a product, made from its columns ("navy blue shirts for men", "男士海军蓝衬衫").

Heads learn from them beside the titles. Everything is drawn by seeds from values, never from the order of rows, so
that the same catalogue gives the same phrases however it is cut into shards.
"""

from __future__ import annotations

import hashlib
import heapq
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from transforms.shop_words import ShopWords
from transforms.wordings import pick, word_phrase

Attributes = Mapping[str, str | Sequence[str]]


class Phrase(NamedTuple):
    """What shoppers might type, and which of a product's attributes it names, as `canonical_values` gives them."""

    text: str
    names: frozenset[tuple[str, str]]


# By role: the columns that play it, in order of preference, without case, hyphens and underscores.
ROLES: Mapping[str, Sequence[str]] = {
    "kind": (
        "producttype articletype itemtype type productcategory subcategory subtype category categories categorypath"
    ).split(),
    "colour": "colour color basecolour basecolor maincolour maincolor primarycolor colourname colorname colors".split(),
    "audience": "audience gender sex targetgender targetaudience department agegroup".split(),
    "pattern": "pattern print design".split(),
    "material": "material fabric materials composition".split(),
    "brand": "brand brandname manufacturer vendor".split(),
    "usage": "usage occasion use activity".split(),
    "season": "season".split(),
    "style": "style styles stylegeneral".split(),
}
# How often a phrase names an attribute that the product has.
_SHARES = {
    "kind": 0.97,
    "colour": 0.8,
    "audience": 0.65,
    "pattern": 0.4,
    "material": 0.3,
    "brand": 0.3,
    "usage": 0.15,
    "season": 0.08,
    "style": 0.15,
}
_AUDIENCES = frozenset({"men", "women", "unisex", "boys", "girls", "kids", "baby", "teen", "adult"})
_PATH = re.compile(r"\s*[/>|]\s*")


def find_roles(columns: Iterable[str]) -> dict[str, str]:
    """Find which columns say the kind, colour, audience, pattern … of products: role -> column, by their names."""
    plain: dict[str, str] = {}
    for column in columns:
        plain.setdefault(re.sub(r"[^a-z]", "", column.rpartition(".")[2].casefold()), column)
    roles: dict[str, str] = {}
    for role, names in ROLES.items():
        found = next((plain[name] for name in names if name in plain), None)
        if found is not None:
            roles[role] = found
    for name in ("category", "categories", "categorypath"):
        if name in plain and plain[name] != roles.get("kind"):
            roles.setdefault("category", plain[name])
    return roles


def product_attributes(row: Mapping[str, object], roles: Mapping[str, str], words: ShopWords) -> dict[str, list[str]]:
    """Take a product's values by role from a row of columns: role -> values, those that are empty left out.

    Values may be strings or lists of strings. Of a category path ("Men/Tops/Jackets") the last element is the kind,
    and an element that names an audience is one where no column does.
    """
    attributes: dict[str, list[str]] = {}
    for role, column in roles.items():
        value = row.get(column)
        values = [value] if isinstance(value, str) else list(value) if isinstance(value, list | tuple) else []
        texts = [text.strip() for text in values if isinstance(text, str) and text.strip()]
        if role in ("kind", "category"):
            paths = [[part for part in _PATH.split(text) if part] for text in texts]
            texts = [path[-1] for path in paths if path]
            spoken = [part for path in paths for part in path if _audience(part, words)]
            if spoken and "audience" not in roles:
                attributes["audience"] = spoken[:1]
        if texts and role != "category":
            attributes[role] = list(dict.fromkeys(texts))
    return attributes


def make_phrases(
    attributes: Attributes, count: int, rng: np.random.Generator, words: ShopWords, languages: Mapping[str, float]
) -> list[Phrase]:
    """Make `count` phrases of a product, in each language about its share of them; repeats are possible.

    `attributes`: role -> value, or values of which each phrase takes one. Each phrase names some of them in some order and
    wording. `languages`: language -> share, at least one above 0. Returns an empty list where there are no attributes.
    """
    filled = {role: [value] if isinstance(value, str) else list(value) for role, value in attributes.items() if value}
    if not filled:
        return []
    meant = {role: {value: _canonical(value, words) for value in values} for role, values in filled.items()}
    phrases = []
    for _ in range(count):
        chosen = {role: pick(values, rng) for role, values in filled.items() if rng.random() < _SHARES.get(role, 0.2)}
        if not chosen:
            role = "kind" if "kind" in filled else next(iter(filled))
            chosen = {role: pick(filled[role], rng)}
        text = word_phrase(chosen, _language(languages, rng.random()), rng, words)
        phrases.append(Phrase(text, frozenset((role, meant[role][value]) for role, value in chosen.items())))
    return phrases


def canonical_values(attributes: Attributes, words: ShopWords) -> frozenset[tuple[str, str]]:
    """Return attributes as pairs of role and word; values that are one thing to the table of words ("Grey", "gray") are one.

    A phrase fits every product that has all that it names.
    """
    return frozenset(
        (role, _canonical(value, words))
        for role, values in attributes.items()
        for value in ([values] if isinstance(values, str) else values)
    )


def phrases_of(attributes: Attributes, count: int, seed: int, words: ShopWords, languages: Mapping[str, float]) -> list[Phrase]:
    """Make the phrases of a product that follow from its attributes and `seed` alone, each once."""
    ordered = {role: attributes[role] for role in sorted(attributes)}
    canonical = repr((seed, list(ordered.items())))
    digest = hashlib.blake2b(canonical.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "big"))
    return list(dict.fromkeys(make_phrases(ordered, count, rng, words, languages)))


def pool_phrases(phrases: Iterable[tuple[str, Iterable[str]]], limit: int, seed: int) -> list[str]:
    """Choose at most `limit` distinct phrases from a stream of (product id, its phrases), sorted.

    Memory is bounded by the limit. A phrase is the likelier to stay the more products have it, and which ones stay
    depends on the set of products and the seed, not on their order.
    """
    smallest: dict[str, int] = {}
    heap: list[tuple[int, str]] = []
    for product_id, texts in phrases:
        for text in texts:
            rank = _rank(seed, product_id, text)
            known = smallest.get(text)
            if known is not None and known <= rank:
                continue
            if known is None and len(smallest) >= limit:
                while heap and smallest.get(heap[0][1]) != -heap[0][0]:
                    heapq.heappop(heap)
                if not heap or rank >= -heap[0][0]:
                    continue
                del smallest[heapq.heappop(heap)[1]]
            smallest[text] = rank
            heapq.heappush(heap, (-rank, text))
            if len(heap) > 4 * limit + 64:
                heap = [(-rank, text) for text, rank in smallest.items()]
                heapq.heapify(heap)
    return sorted(smallest)


def _canonical(value: str, words: ShopWords) -> str:
    return words.variants(value, "en")[0].casefold()


def _language(languages: Mapping[str, float], draw: float) -> str:
    """Choose a language by its share, draw being in [0, 1); the first takes what the others leave."""
    total = sum(languages.values())
    for language, share in reversed(list(languages.items())):
        draw -= share / total
        if draw < 0:
            return language
    return next(iter(languages))


def _audience(value: str, words: ShopWords) -> bool:
    return words.variants(value, "en")[0] in _AUDIENCES


def _rank(seed: int, product_id: str, text: str) -> int:
    content = f"{seed}\0{product_id}\0{text}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")
