"""The shop-word table: words that shops write in their columns, in six languages.

A table is a UTF-8 text file whose first line names its columns, `en` and at least one other of `LANGUAGES`, parted by tabs. A row
is one thing; a cell lists its words, parted by `|`, the usual one first, or is empty; `#` begins a comment:

    en	de	ja
    sneakers|trainers	Sneaker|Turnschuhe	スニーカー
    blender|mixer	Mixer	ミキサー

Ours, `words/shop_words.tsv`, is read first, then the user's in order. A row that lists an English word of a row before changes
that row: English words are added, filled cells take the place of its cells. Any other row is added.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TABLE = Path(__file__).parent / "words" / "shop_words.tsv"
LANGUAGES = ("en", "zh", "de", "es", "fr", "ja")
UNSPACED = frozenset({"zh", "ja"})  # that write words without spaces
_NOUN_FIRST = frozenset({"es", "fr"})
_SEPARATORS = re.compile(r"[\s\-_/,&+]+|\band\b")
# Words that name one thing in the plural: "jean" and "trouser" are no shop's words.
_PAIRS = frozenset(
    "jeans shorts trousers pants leggings tights sunglasses glasses capris trunks boxers briefs chinos joggers tracks "
    "goggles headphones earphones pyjamas pajamas sweatpants slacks overalls dungarees bottoms sports".split()
)


@dataclass(frozen=True)
class Word:
    """Hold one row of the tables.

    Attributes:
        variants: language -> its words, the usual one first; a language without a word is not in it.
    """

    variants: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class ShopWords:
    """Look English words up whatever their case, hyphens, accents and number ("T-Shirt", "tshirts").

    Attributes:
        rows: the rows of all tables, in order.
        exact: folded English word -> its row.
        loose: the same by the singular without spaces.
    """

    rows: tuple[Word, ...]
    exact: Mapping[str, Word]
    loose: Mapping[str, Word]

    @classmethod
    def load(cls, paths: Iterable[str | Path] = (), *, ours: bool = True) -> ShopWords:
        """Read our table and then the user's.

        Args:
            paths: the user's tables, in order.
            ours: whether our table is read at all.

        Raises:
            ValueError: a table cannot be read or a line is no row; the message names file and line.
        """
        rows: list[Word] = []
        places: dict[str, int] = {}
        for path in (*((TABLE,) if ours else ()), *paths):
            for word in _read(path):
                keys = [_key(variant) for variant in word.variants["en"]]
                place = next((places[key] for key in keys if key in places), len(rows))
                if place == len(rows):
                    rows.append(word)
                else:
                    before = rows[place].variants
                    english = tuple(dict.fromkeys((*before["en"], *word.variants["en"])))
                    rows[place] = Word({**before, **word.variants, "en": english})
                places.update(dict.fromkeys(keys, place))
        exact = {key: rows[place] for key, place in places.items()}
        loose: dict[str, Word] = {}
        for key, word in exact.items():
            loose.setdefault(_singular_key(key), word)
        return cls(tuple(rows), exact, loose)

    def find(self, value: str) -> Word | None:
        """Find the row whose English words list `value`; None where there is none."""
        key = _key(value)
        return self.exact.get(key) or self.loose.get(_singular_key(key))

    def variants(self, value: str, language: str) -> tuple[str, ...]:
        """Give the words of a language for a value, the usual one first; what has none stays as it is, alone."""
        word = self.find(value)
        if word:
            return word.variants.get(language, (value,))
        return (value,) if language == "en" else (self.translate(value, language),)

    def translate(self, value: str, language: str, rng: np.random.Generator | None = None) -> str:
        """Translate a value; what is not in the tables, or has no word in the language, stays as it is.

        A value that is no row of its own is put together from the longest rows that cover its words ("Dark Olive
        Shirts"). Without `rng` each row's usual variant is taken, with it the usual one most of the time.
        """
        word = self.find(value)
        if word:
            return _choose(word.variants.get(language, (value,)), rng)
        tokens = [token for token in _SEPARATORS.split(value) if token]
        parts: list[str] = []
        start = 0
        while start < len(tokens):
            for end in range(len(tokens), start, -1):
                word = self.find(" ".join(tokens[start:end]))
                if word and language in word.variants:
                    parts.append(_choose(word.variants[language], rng))
                    start = end
                    break
            else:
                return value
        if language in _NOUN_FIRST:
            parts.reverse()
        return ("" if language in UNSPACED else " ").join(parts) or value


def _read(path: str | Path) -> Iterator[Word]:
    """Give the rows of a table; raises ValueError that names the table and the line."""
    try:
        lines = Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf").decode("utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"word table '{path}' cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"word table '{path}' is not UTF-8: save the table in that encoding") from error
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip() and not line.startswith("#")]
    columns = numbered[0][1].split("\t") if numbered else []
    if "en" not in columns or len(columns) < 2 or len(set(columns)) < len(columns) or not set(columns) <= set(LANGUAGES):
        raise ValueError(
            f"word table '{path}' begins with the columns '{' '.join(columns)}': name 'en' and at least one other of "
            f"{', '.join(LANGUAGES)}, each once, parted by tabs"
        )
    seen: dict[str, int] = {}
    for number, line in numbered[1:]:
        where = f"word table '{path}', line {number}"
        cells = line.split("\t")
        if len(cells) != len(columns):
            raise ValueError(f"{where} has {len(cells)} cells, not {len(columns)} parted by tabs: '{line.expandtabs(2)}'")
        variants = {
            language: tuple(variant.strip() for variant in cell.split("|"))
            for language, cell in zip(columns, cells, strict=True)
            if cell.strip()
        }
        if "en" not in variants:
            raise ValueError(f"{where} has no English word, by which a row is found")
        if not all(variant for words in variants.values() for variant in words):
            raise ValueError(f"{where} has an empty word beside a '|': '{line.expandtabs(2)}'")
        for variant in variants["en"]:
            if seen.setdefault(_key(variant), number) != number:
                raise ValueError(f"{where} lists '{variant}', which line {seen[_key(variant)]} lists too")
        yield Word(variants)


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
