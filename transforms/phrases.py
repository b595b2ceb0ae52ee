"""Phrases: what shoppers might type for a product, made from its columns ("navy blue shirts for men", "男士海军蓝衬衫").

Heads learn from them beside the titles. Everything is drawn by seeds from values, never from the order of rows, so
that the same catalogue gives the same phrases however it is cut into shards.
"""

from __future__ import annotations

import hashlib
import heapq
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from transforms.shop_words import ShopWords, singular

Attributes = Mapping[str, str | Sequence[str]]

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
_AFTER_KIND = {
    "colour": ("in {}", "in {}", "{}"),
    "audience": ("for {}", "for {}", "{}"),
    "pattern": ("with {} pattern", "{}"),
    "material": ("in {}", "made of {}", "{}"),
    "brand": ("by {}", "from {}", "{}"),
    "season": ("for {}", "{}"),
}
_AUDIENCES = frozenset({"men", "women", "unisex", "boys", "girls", "kids", "baby", "teen", "adult"})
_PATH = re.compile(r"\s*[/>|]\s*")
_CJK = re.compile(r"[\u3000-\u9fff\uf900-\ufaff]")


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
    attributes: Attributes, count: int, rng: np.random.Generator, words: ShopWords, chinese_share: float
) -> list[str]:
    """Make `count` phrases of a product, about `chinese_share` of them Chinese; repeats are possible.

    `attributes`: role -> value, or values of which each phrase takes one. Each phrase names some of them in some order and
    wording. Returns an empty list where there are none.
    """
    filled = {role: [value] if isinstance(value, str) else list(value) for role, value in attributes.items() if value}
    if not filled:
        return []
    phrases = []
    for _ in range(count):
        chosen = {role: _pick(values, rng) for role, values in filled.items() if rng.random() < _SHARES.get(role, 0.2)}
        if not chosen:
            role = "kind" if "kind" in filled else next(iter(filled))
            chosen = {role: _pick(filled[role], rng)}
        phrases.append((_chinese if rng.random() < chinese_share else _english)(chosen, rng, words))
    return phrases


def phrases_of(attributes: Attributes, count: int, seed: int, words: ShopWords, chinese_share: float) -> list[str]:
    """Make the phrases of a product that follow from its attributes and `seed` alone, each once."""
    ordered = {role: attributes[role] for role in sorted(attributes)}
    canonical = repr((seed, list(ordered.items())))
    digest = hashlib.blake2b(canonical.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "big"))
    return list(dict.fromkeys(make_phrases(ordered, count, rng, words, chinese_share)))


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


def _english(chosen: Mapping[str, str], rng: np.random.Generator, words: ShopWords) -> str:
    """Put the kind in the middle, and every other value before or after it, in any order."""
    before: list[str] = []
    after: list[str] = []
    for role, value in chosen.items():
        if role == "kind":
            continue
        spoken = _english_value(role, value, rng, words)
        if "kind" in chosen and rng.random() < 0.4:
            frame = _pick(_AFTER_KIND.get(role, ("{}",)), rng)
            after.append(frame.format(spoken))
        else:
            possessive = role == "audience" and spoken in ("men", "women", "boys", "girls", "kids")
            before.append(spoken + _pick(("", "'s", "s"), rng) if possessive and rng.random() < 0.4 else spoken)
    rng.shuffle(before)
    rng.shuffle(after)
    middle = [_english_value("kind", chosen["kind"], rng, words)] if "kind" in chosen else []
    phrase = " ".join(before + middle + after)
    return phrase if rng.random() < 0.1 else phrase.lower()


def _english_value(role: str, value: str, rng: np.random.Generator, words: ShopWords) -> str:
    variants = [variant for variant in words.english(value) if len(variant) > 1]
    if role == "audience" and variants:
        value = variants[0]
    elif role != "brand" and rng.random() < 0.15:
        value = _pick(variants or [value], rng)
    return singular(value) if role == "kind" and rng.random() < 0.3 else value


def _chinese(chosen: Mapping[str, str], rng: np.random.Generator, words: ShopWords) -> str:
    """Put the kind last (or, parted by spaces, anywhere), what it is like before it; brands stay as they are."""
    spoken = {role: value if role == "brand" else words.chinese(value, rng) for role, value in chosen.items() if role != "kind"}
    parts = list(spoken.values())
    rng.shuffle(parts)
    kind = [words.chinese(chosen["kind"], rng)] if "kind" in chosen else []
    form = rng.random()
    if form < 0.3:
        parts += kind
        if rng.random() < 0.3:
            rng.shuffle(parts)
        return " ".join(parts)
    if form < 0.45 and parts and kind:
        return _join_chinese([*parts[:-1], parts[-1] + "的", *kind])
    return _join_chinese(parts + kind)


def _join_chinese(parts: Sequence[str]) -> str:
    """Join without spaces, but around a part of another script ("Nike 男士白T恤")."""
    text = ""
    previous = True
    for part in parts:
        chinese = bool(_CJK.search(part))
        text += part if chinese and previous else f" {part}"
        previous = chinese
    return text.strip()


def _audience(value: str, words: ShopWords) -> bool:
    return words.english(value)[0] in _AUDIENCES


def _pick(values: Sequence[str], rng: np.random.Generator) -> str:
    return values[int(rng.integers(len(values)))]


def _rank(seed: int, product_id: str, text: str) -> int:
    content = f"{seed}\0{product_id}\0{text}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")
