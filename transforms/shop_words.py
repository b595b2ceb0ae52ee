"""The shop-word table: words that shops write in their columns, in English and in Chinese.

`words/shop_words.tsv` has two columns, `en` and `zh`, each a list of variants parted by `|`, the usual one first.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TABLE = Path(__file__).parent / "words" / "shop_words.tsv"
_SEPARATORS = re.compile(r"[\s\-_/,&+]+|\band\b")
# Words that name one thing in the plural: "jean" and "trouser" are no shop's words.
_PAIRS = frozenset(
    "jeans shorts trousers pants leggings tights sunglasses glasses capris trunks boxers briefs chinos joggers tracks "
    "goggles headphones earphones pyjamas pajamas sweatpants slacks overalls dungarees bottoms sports".split()
)


@dataclass(frozen=True)
class Word:
    """Hold one row of the table: the variants in English and in Chinese."""

    english: tuple[str, ...]
    chinese: tuple[str, ...]


@dataclass(frozen=True)
class ShopWords:
    """Look words up whatever their case, hyphens, accents and number ("T-Shirt", "tshirts")."""

    exact: Mapping[str, Word]
    loose: Mapping[str, Word]

    @classmethod
    def load(cls, path: Path = TABLE) -> ShopWords:
        """Read a table, the package's own by default; raises ValueError for a row that is not two filled lists."""
        lines = path.read_text(encoding="utf-8").splitlines()
        if not lines or lines[0].split("\t") != ["en", "zh"]:
            raise ValueError(f"word table '{path}' does not begin with the columns 'en' and 'zh', parted by a tab")
        exact: dict[str, Word] = {}
        for number, line in enumerate(lines[1:], start=2):
            cells = [tuple(variant.strip() for variant in cell.split("|")) for cell in line.split("\t")]
            if len(cells) != 2 or not all(variant for cell in cells for variant in cell):
                raise ValueError(f"word table '{path}', line {number}: '{line}' is not two lists parted by a tab")
            word = Word(*cells)
            for variant in word.english:
                exact.setdefault(_key(variant), word)
        loose: dict[str, Word] = {}
        for key, word in exact.items():
            loose.setdefault(_singular_key(key), word)
        return cls(exact, loose)

    def find(self, value: str) -> Word | None:
        """Find the row that lists `value`; None where there is none."""
        key = _key(value)
        return self.exact.get(key) or self.loose.get(_singular_key(key))

    def english(self, value: str) -> tuple[str, ...]:
        """Give the English variants of a value, the usual one first; the value alone where it is unknown."""
        word = self.find(value)
        return word.english if word else (value,)

    def chinese(self, value: str, rng: np.random.Generator | None = None) -> str:
        """Translate a value; what is not in the table stays as it is.

        A value that is no row of its own is put together from the longest rows that cover its words ("Dark Olive
        Shirts"). Without `rng` each row's usual variant is taken, with it the usual one most of the time.
        """
        word = self.find(value)
        if word:
            return _choose(word.chinese, rng)
        tokens = [token for token in _SEPARATORS.split(value) if token]
        parts: list[str] = []
        start = 0
        while start < len(tokens):
            for end in range(len(tokens), start, -1):
                word = self.find(" ".join(tokens[start:end]))
                if word:
                    parts.append(_choose(word.chinese, rng))
                    start = end
                    break
            else:
                return value
        return "".join(parts) or value


def singular(value: str) -> str:
    """Take the plural off an English value's last word, by rule ("Dresses", "Accessories", "Casual Shoes")."""
    head, space, last = value.rpartition(" ")
    word = last.casefold()
    if word in _PAIRS or len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return value
    if word.endswith("ies"):
        last = last[:-3] + "y"
    elif word.endswith(("sses", "shes", "ches", "xes")):
        last = last[:-2]
    else:
        last = last[:-1]
    return head + space + last


def _choose(variants: tuple[str, ...], rng: np.random.Generator | None) -> str:
    if rng is None or len(variants) == 1 or rng.random() < 0.7:
        return variants[0]
    return variants[int(rng.integers(1, len(variants)))]


def _key(value: str) -> str:
    folded = unicodedata.normalize("NFKD", value.casefold())
    bare = "".join(char for char in folded if not unicodedata.combining(char)).replace("\u2019", "'")
    return " ".join(token for token in _SEPARATORS.split(bare) if token)


def _singular_key(key: str) -> str:
    bare = singular(key).replace(" ", "").replace("'", "")
    return bare[:-2] + "y" if bare.endswith("ie") else bare  # "hoodie" and "hoodies"
