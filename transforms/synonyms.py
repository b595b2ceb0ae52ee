"""Synonyms: tables of words that may stand for each other in a product's text.

A table is a UTF-8 text file with one group of synonyms a line, its terms parted by tabs, `#` before comments:

    # shoes
    sneakers	trainers	运动鞋
    =sole	outsole

A term that several lines list has the other terms of all of them. A line that begins with `=` replaces: what lines
before it said of its terms is forgotten, and the line is their only group; with one term alone (`=sole`) that term
leaves the tables. Our tables are read first, then the user's in order, so a user adds by plain lines and replaces by `=`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from transforms.segment import KnownWords
from transforms.shop_words import ShopWords, singular
from transforms.text import clean_text

TABLES = tuple(Path(__file__).parent / "words" / f"synonyms_{language}.tsv" for language in ("en", "zh"))

# Words of the shop-word table that are clear in a column of colours or kinds, and not in a sentence ("made in China",
# "work boots", "compact design"), or not in one of another language ("or", "bad", "kind"). Words of one character are
# left out besides.
_UNCLEAR = frozenset(
    """business camel check checks china clear compact dark down fall flats fluorescent formal foundation frames full sleeve
    gift glasses home keys kit knit light loose male man mask medium mini mouse mules office outdoors pale pins plain plates
    pots primer print prints regular rose sand set sheets skin slim small solid star stars steel stone straw strings
    studs tan tea thongs throws top tops tracks trunk trunks vests wear weights wind work wraps
    ante bad bank bas branche cuero été fell fer fin haut hut kind lit media mono or pain pan pot pull punto real rock rot
    short stern suspension uni""".split()
)


@dataclass(frozen=True)
class Match:
    """A term found in a text: tokens [start, end), and what may stand for them, as tables write it."""

    start: int
    end: int
    alternatives: tuple[str, ...]


@dataclass(frozen=True)
class Synonyms:
    """Merged tables.

    Attributes:
        alternatives: folded term -> the terms that may stand for it, in the order of the tables.
        known: words of Han, kana and Thai for segmentation: the tables' and the shop-word table's.
        hash: BLAKE2b-128 of both in hexadecimal digits: equal tables have equal hashes, whatever their comments and paths.
    """

    alternatives: Mapping[str, tuple[str, ...]]
    known: KnownWords
    hash: str
    _lengths: Mapping[str, Sequence[int]]

    @classmethod
    def load(cls, paths: Iterable[str | Path] = (), *, cross_language: Sequence[str] = (), ours: bool = True) -> Synonyms:
        """Read our tables and merge the user's into them.

        Args:
            paths: the user's tables, in order.
            cross_language: languages of the shop-word table whose words stand for each other too.
            ours: whether our tables are read at all.

        Raises:
            ValueError: a table cannot be read or a line is no group; the message names file and line.
        """
        tables = []
        for path in paths:
            try:
                tables.append((str(path), Path(path).read_bytes()))
            except OSError as error:
                raise ValueError(f"synonym table '{path}' cannot be read: {error.strerror}") from error
        return cls.merge(tables, cross_language=cross_language, ours=ours)

    @classmethod
    def merge(cls, tables: Iterable[tuple[str, bytes]], *, cross_language: Sequence[str] = (), ours: bool = True) -> Synonyms:
        """Merge tables given as (name, content) into our tables; see `load`."""
        merged: dict[str, dict[str, str]] = {}  # folded term -> folded alternative -> as written
        unclear = _UNCLEAR | _false_friends(cross_language)
        for row in _shop_words() if cross_language else ():
            _cross(merged, [row[language] for language in cross_language if language in row], unclear)
        for path in TABLES if ours else ():
            _read(merged, path.name, path.read_bytes())
        for name, table in tables:
            _read(merged, name, table)
        alternatives = {term: tuple(others.values()) for term, others in merged.items() if others}
        known = KnownWords([*alternatives, *(fold(word) for row in _shop_words() for word in row["zh"])])
        content = json.dumps([sorted(alternatives.items()), sorted(known.words)])
        digest = hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
        lengths: dict[str, set[int]] = {}
        for term in alternatives:
            lengths.setdefault(term[:2], set()).add(len(term))
        return cls(alternatives, known, digest, {start: sorted(found, reverse=True) for start, found in lengths.items()})

    def find(self, tokens: Sequence[str]) -> list[Match]:
        """Find terms in the tokens of a text, from left to right, the longest first, none inside another.

        A term begins and ends where tokens do; letters match whatever their case, plurals only where a table lists them.
        """
        text = fold("".join(tokens))
        starts = [0]
        for token in tokens:
            starts.append(starts[-1] + len(token))
        index = {start: number for number, start in enumerate(starts)}
        matches: list[Match] = []
        number = 0
        while number < len(tokens):
            start = starts[number]
            match = None
            for length in self._lengths.get(text[start : start + 2], ()):
                end = index.get(start + length)
                if end is not None and (others := self.alternatives.get(text[start : start + length])):
                    match = Match(number, end, others)
                    break
            if match is None and text[start] in self.alternatives and len(tokens[number]) == 1:
                match = Match(number, number + 1, self.alternatives[text[start]])
            if match is not None:
                matches.append(match)
            number = match.end if match else number + 1
        return matches


@cache
def our_synonyms() -> Synonyms:
    """Return our tables alone, read once."""
    return Synonyms.load()


def fold(text: str) -> str:
    """Return text in small letters with straight apostrophes, as long as it was."""
    small = text.lower()
    if len(small) != len(text):
        small = "".join(lower if len(lower := char.lower()) == 1 else char for char in text)
    return small.replace("’", "'")


@cache
def _shop_words() -> tuple[Mapping[str, tuple[str, ...]], ...]:
    """Return the rows of the shop-word table: language -> variants."""
    return tuple(row.variants for row in ShopWords.load().rows)


def _false_friends(languages: Sequence[str]) -> set[str]:
    """Return the words that two languages use of different things ("robe", a bathrobe and a dress)."""
    places: dict[str, set[int]] = {}
    found: set[str] = set()
    for language in languages:
        own: dict[str, set[int]] = {}
        for number, row in enumerate(_shop_words()):
            terms = row.get(language, ())
            for term in (*terms, *map(singular, terms)) if language == "en" else terms:
                own.setdefault(fold(term), set()).add(number)
        found.update(term for term, numbers in own.items() if not places.setdefault(term, numbers) & numbers)
    return found


def _cross(merged: dict[str, dict[str, str]], languages: Sequence[Sequence[str]], unclear: Set[str]) -> None:
    """Let each variant of a row stand for the usual one of every other language."""
    for terms in languages:
        for term in terms:
            if len(term) > 1 and fold(term) not in unclear:
                for other in languages:
                    if other is not terms and fold(other[0]) != fold(term):
                        merged.setdefault(fold(term), {}).setdefault(fold(other[0]), other[0])


def _add(merged: dict[str, dict[str, str]], group: Sequence[str]) -> None:
    for term in group:
        others = merged.setdefault(fold(term), {})
        for other in group:
            if fold(other) != fold(term):
                others.setdefault(fold(other), other)


def _forget(merged: dict[str, dict[str, str]], term: str) -> None:
    merged.pop(fold(term), None)
    for others in merged.values():
        others.pop(fold(term), None)


def _read(merged: dict[str, dict[str, str]], name: str, content: bytes) -> None:
    """Add the groups of a table; raises ValueError that names the table and the line."""
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        where = f"synonym table '{name}', line {number}"
        try:
            line = raw.decode("utf-8").strip(" \r")
        except UnicodeDecodeError as error:
            raise ValueError(f"{where} is not UTF-8: save the table in that encoding") from error
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        replaces = line.startswith("=")
        group = [clean_text(term) for term in line.removeprefix("=").split("\t")]
        if not all(group):
            raise ValueError(f"{where} has an empty term: part the terms by one tab each")
        if len({fold(term) for term in group}) < len(group):
            raise ValueError(f"{where} lists a term twice: '{line.expandtabs(2)}'")
        if len(group) == 1 and not replaces:
            raise ValueError(
                f"{where} has one term, '{group[0]}': a group has two or more, parted by tabs, "
                "and a line that takes a term out begins with '='"
            )
        for term in group if replaces else ():
            _forget(merged, term)
        _add(merged, group)
