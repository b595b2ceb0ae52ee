"""Seeded views of a text: itself, and copies with some words replaced, inserted, deleted, swapped or misspelt.

The four operations on words are those of EDA (Wei and Zou 2019, "EDA: Easy Data Augmentation Techniques for Boosting
Performance on Text Classification Tasks"); the fifth makes the typing errors of shoppers and of shops. What a view is
follows from the seed, the content's key and the view's number alone. Of Python's random numbers only
`Random.random` is used, which Python keeps the same from version to version.

Numbers with their units and labels, codes with digits, and sizes in letters stay as they are and where they are: 42,
1.5l, 250 ml, size 38, 42码, AB-1234, XL.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from random import Random
from typing import TypeVar
from unicodedata import normalize

from transforms.segment import models_hash, segment
from transforms.synonyms import Match, Synonyms, our_synonyms
from transforms.text_pieces import NEW, Kind, Piece, join_pieces, pieces_of, remove, spaced
from transforms.typing_errors import can_misspell, misspell

FORMAT = 1  # what a view is; a change of this module that changes views counts it up

# What views look at, spaces not counted: the head of a text. The rest is in no view but the first. Towers read 512
# tokens of their own, which are rarely longer than a word.
MAX_TOKENS = 1024
MAX_CHARACTERS = 16_384

KEY_BYTES = 16
UNSPACED_SHARE = 0.25  # of the rate of typing errors, for words of Han, kana and Thai: input methods offer whole words

Item = TypeVar("Item")


@dataclass(frozen=True)
class TextViewSettings:
    """How much of a text a view changes; rates are shares of its words, in [0, 1], by default EDA's alpha.

    Attributes:
        synonym_replacement: share of words replaced by a synonym, as far as the tables have any.
        random_insertion: inserted synonyms of the text's words, as a share of its words.
        random_deletion: share of words deleted; one stays.
        random_swap: share of words that change places, two by two.
        character_noise: share of words with one typing error; a quarter of it for words of Han, kana and Thai.
        operations_per_view: how many operations a view takes, drawn from those with a rate above 0 and applied in the
            order above; EDA takes one.
    """

    synonym_replacement: float = 0.1
    random_insertion: float = 0.1
    random_deletion: float = 0.1
    random_swap: float = 0.1
    character_noise: float = 0.05
    operations_per_view: int = 1

    def __post_init__(self) -> None:
        for name in OPERATIONS:
            rate = getattr(self, name)
            number = isinstance(rate, int | float) and not isinstance(rate, bool)
            if not number or not 0 <= rate <= 1:
                raise ValueError(f"{name} is {rate!r}; it must be a number from 0 to 1, a share of a text's words")
            object.__setattr__(self, name, float(rate))  # so that 0 and 0.0 have one JSON and one hash
        count = self.operations_per_view
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= len(OPERATIONS):
            raise ValueError(f"operations_per_view is {count!r}; it must be a whole number from 1 to {len(OPERATIONS)}")

    def to_json(self) -> str:
        """Return the settings as one line of JSON, names sorted."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> TextViewSettings:
        """Read what `to_json` wrote; what is left out has its default. Raises ValueError for anything else."""
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"text view settings are not JSON: {error}") from error
        if not isinstance(content, dict):
            raise ValueError(f"text view settings are {type(content).__name__}, not a JSON object: {text[:80]}")
        known = [field.name for field in fields(cls)]
        for name in content:
            if name not in known:
                raise ValueError(f"text view settings have no '{name}' (there are: {', '.join(known)})")
        return cls(**content)


def text_views(
    text: str, count: int, settings: TextViewSettings, seed: int, key: bytes | None = None, *, synonyms: Synonyms | None = None
) -> list[str]:
    """Return `count` views of a cleaned text; the first is the text itself.

    The others are of its first 1,024 tokens, spaces not counted, in at most 16,384 characters. They are clean as
    `clean_text` leaves a text (NFKC, single spaces), never empty where the text is not, and equal to it where an
    operation finds nothing to do.

    Args:
        text: a text as `clean_text` returns it.
        count: views, at least 1; view i is the same however many there are.
        settings: the operations and their rates.
        seed: any whole number.
        key: what stands for the content; by default the BLAKE2b-128 of the text in UTF-8.
        synonyms: tables for replacement and insertion, by default ours.

    Raises:
        ValueError: count is below 1.
    """
    if count < 1:
        raise ValueError(f"count is {count}; a text has at least one view, itself")
    enabled = [name for name in OPERATIONS if getattr(settings, name) > 0]
    if count == 1 or not enabled or not text:
        return [text] * count
    key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest() if key is None else key
    tables = our_synonyms() if synonyms is None else synonyms
    tokens = _head(text, tables)
    head = "".join(tokens)
    pieces, matches = pieces_of(tokens, tables.find(tokens))
    views = [text]
    for number in range(1, count):
        rng = view_random(seed, key, number)
        chosen = _sample(enabled, settings.operations_per_view, rng)
        changed = pieces
        for name, operation in OPERATIONS.items():
            if name in chosen:
                changed = operation(changed, getattr(settings, name), rng, matches)
        views.append(head if changed == pieces else _clean(join_pieces(changed)) or head)
    return views


def view_random(seed: int, key: bytes, number: int) -> Random:
    """Return the random numbers of one view: they follow from the seed, the content's key and the view's number."""
    content = f"text view {FORMAT} {seed} {number} ".encode() + key
    return Random(int.from_bytes(hashlib.blake2b(content, digest_size=32).digest(), "big"))


def views_hash(settings: TextViewSettings, synonyms: Synonyms | None = None) -> str:
    """Return the BLAKE2b-128 in hexadecimal digits of all that views depend on but text, seed, key and number.

    That is the settings, the tables, BudouX's models and the format of this module: what the key of a feature needs.
    """
    tables = our_synonyms() if synonyms is None else synonyms
    content = f"{FORMAT} {settings.to_json()} {tables.hash} {models_hash()}"
    return hashlib.blake2b(content.encode(), digest_size=KEY_BYTES).hexdigest()


def _head(text: str, tables: Synonyms) -> list[str]:
    """Return the tokens that views look at."""
    tokens = segment(text[:MAX_CHARACTERS], tables.known)
    if len(text) > MAX_CHARACTERS and len(tokens) > 1:
        tokens.pop()  # its end is cut off
    counted = 0
    for place, token in enumerate(tokens):
        counted += not token.isspace()
        if counted > MAX_TOKENS:
            return tokens[:place]
    return tokens


def _clean(text: str) -> str:
    """Bring to the form of `clean_text` what may have left it where pieces met."""
    text = " ".join((text if text.isascii() else normalize("NFKC", text)).split())
    return text.lstrip("\u200c\u200d ")


def _replace_by_synonyms(pieces: list[Piece], rate: float, rng: Random, matches: Sequence[Match]) -> list[Piece]:
    """Replace terms of the tables; it is the first operation, so `matches` still are places of `pieces`."""
    count = min(_round(rate * len(_words(pieces)), rng), len(matches))
    changed: list[Piece] = []
    at = 0
    for match in sorted(_sample(matches, count, rng), key=lambda match: match.start):
        replaced = "".join(piece.text for piece in pieces[match.start : match.end])
        changed += pieces[at : match.start]
        changed.append(Piece(_in_case_of(replaced, _pick(match.alternatives, rng)), Kind.WORD, NEW))
        at = match.end
    return changed + pieces[at:]


def _insert_synonyms(pieces: list[Piece], rate: float, rng: Random, matches: Sequence[Match]) -> list[Piece]:
    """Insert synonyms of the text's terms before any word or after the last."""
    words = _words(pieces)
    if not matches or not words:
        return pieces
    inserted: dict[int, list[Piece]] = {}
    for _ in range(_round(rate * len(words), rng)):
        term = Piece(_pick(_pick(matches, rng).alternatives, rng), Kind.WORD, NEW)
        place = int(rng.random() * (len(words) + 1))
        anchor = words[min(place, len(words) - 1)]
        gap = [Piece(" ", Kind.SPACE, NEW)] if spaced(term.text) or spaced(pieces[anchor].text) else []
        if place < len(words):
            inserted.setdefault(anchor, []).extend([term, *gap])
        else:
            inserted.setdefault(anchor + 1, []).extend([*gap, term])
    changed: list[Piece] = []
    for at, piece in enumerate(pieces):
        changed += inserted.get(at, ())
        changed.append(piece)
    return changed + inserted.get(len(pieces), [])


def _delete(pieces: list[Piece], rate: float, rng: Random, matches: Sequence[Match]) -> list[Piece]:
    words = _words(pieces)
    count = min(_round(rate * len(words), rng), len(words) - 1)
    return remove(pieces, frozenset(_sample(words, count, rng))) if count > 0 else pieces


def _swap(pieces: list[Piece], rate: float, rng: Random, matches: Sequence[Match]) -> list[Piece]:
    words = _words(pieces)
    moved = _sample(words, 2 * min(_round(rate * len(words) / 2, rng), len(words) // 2), rng)
    changed = list(pieces)
    for one, other in zip(moved[::2], moved[1::2], strict=True):
        changed[one], changed[other] = changed[other], changed[one]
    return changed


def _misspell(pieces: list[Piece], rate: float, rng: Random, matches: Sequence[Match]) -> list[Piece]:
    changed = list(pieces)
    words = _words(pieces)
    for script, share in ((True, rate), (False, rate * UNSPACED_SHARE)):
        own = [place for place in words if spaced(pieces[place].text) == script]
        able = [place for place in own if can_misspell(pieces[place].text)]
        for place in _sample(able, min(_round(share * len(own), rng), len(able)), rng):
            changed[place] = pieces[place]._replace(text=misspell(pieces[place].text, rng))
    return changed


Operation = Callable[[list[Piece], float, Random, Sequence[Match]], list[Piece]]

# In the order in which they are applied.
OPERATIONS: Mapping[str, Operation] = {
    "synonym_replacement": _replace_by_synonyms,
    "random_insertion": _insert_synonyms,
    "random_deletion": _delete,
    "random_swap": _swap,
    "character_noise": _misspell,
}


def _words(pieces: Sequence[Piece]) -> list[int]:
    return [place for place, piece in enumerate(pieces) if piece.kind is Kind.WORD]


def _round(number: float, rng: Random) -> int:
    """Round up or down by chance, so that the mean over many texts is `number`, short texts too."""
    return int(number + rng.random())


def _pick(items: Sequence[Item], rng: Random) -> Item:
    return items[int(rng.random() * len(items))]


def _sample(items: Sequence[Item], count: int, rng: Random) -> list[Item]:
    """Draw `count` of the items, each once, in random order; all of them where there are fewer."""
    pool = list(items)
    count = min(count, len(pool))
    for place in range(count):
        other = place + int(rng.random() * (len(pool) - place))
        pool[place], pool[other] = pool[other], pool[place]
    return pool[:count]


def _in_case_of(replaced: str, term: str) -> str:
    """Write a term in capitals, or its words with capital letters, where what it replaces is written so."""
    if replaced.isupper() and sum(char.isupper() for char in replaced) > 1:
        return term.upper()
    if all(word[0].isupper() for word in replaced.split(" ")):
        return " ".join(word[:1].upper() + word[1:] for word in term.split(" "))
    return term[0].upper() + term[1:] if replaced[0].isupper() else term
