"""Pieces of a text: tokens that know whether they may be changed, taken apart and put together again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

from transforms.segment import HAN_UNITS, is_unspaced
from transforms.synonyms import Match

NEW = -2  # the origin of a piece that the text did not have

# What follows a number belongs to it.
UNITS = frozenset(
    """g gr kg mg µg lb lbs oz ml cl dl l ltr litre litres liter liters gal nm mm cm dm m km inch inches in ft feet yd
    w kw kwh v kv mv a ma mah ah hz khz mhz ghz kb mb gb tb mp px dpi fps k ip denier den gsm tog mmhg bar psi rpm db
    °c °f c f s sec min h hr hrs pcs pc pieces piece pack packs pair pairs ply count ct ctn set sets eu uk us
    size sizes years year months month days day percent см мм м кг г мл л вт шт""".split()
) | frozenset(HAN_UNITS)

# And what names it, before it.
LABELS = frozenset("size sizes sz no nr art eu uk us ref sku model item размер № 尺码 尺寸 型号 货号 サイズ ขนาด ไซส์".split())

_SIZES = frozenset("XXS XS S M L XL XXL XXXL XXXXL".split())
_SEPARATORS = frozenset(",;:/|·•、-–—&+")
_BRACKETS = {"(": ")", "[": "]", "【": "】", "「": "」", "《": "》", "«": "»", "“": "”"}
_CLOSING = frozenset(".!?。…") | frozenset(_BRACKETS.values())
_MARKS = _SEPARATORS | _CLOSING
_ATTACHED_LEFT = _CLOSING | frozenset(",;:、")


class Kind(IntEnum):
    """What a piece is: a word; a number, its unit or label, a code with digits or a size; spaces; anything else."""

    WORD = 0
    FIXED = 1
    SPACE = 2
    OTHER = 3


class Piece(NamedTuple):
    """A part of a text; `origin` is its place among the text's pieces."""

    text: str
    kind: Kind
    origin: int


def pieces_of(tokens: Sequence[str], matches: Sequence[Match]) -> tuple[list[Piece], list[Match]]:
    """Make pieces of a text's tokens, and of matches among tokens matches among pieces.

    A matched term without spaces is one piece ("T恤", whose letters lie in two scripts).
    """
    pieces: list[Piece] = []
    moved: list[Match] = []
    ahead = iter(matches)
    match = next(ahead, None)
    at = 0
    number = False  # whether a number is what comes before, spaces aside
    while at < len(tokens):
        text = tokens[at]
        end = at + 1
        if match is not None and match.start == at:
            term = "".join(tokens[at : match.end])
            if " " not in term:
                text, end = term, match.end
            moved.append(Match(len(pieces), len(pieces) + (match.end - at if end == at + 1 else 1), match.alternatives))
            match = next(ahead, None)
        kind = _kind(text)
        if kind is Kind.WORD and number and text.lower() in UNITS:
            kind = Kind.FIXED
        if kind is Kind.FIXED:
            _fix_label(pieces)
        if kind is not Kind.SPACE:
            number = text[-1].isdigit()
        pieces.append(Piece(text, kind, len(pieces)))
        at = end
    return pieces, moved


def _fix_label(before: list[Piece]) -> None:
    """Fix the label of a number, from which a space and a mark may part it ("size 42", "Art. 1234")."""
    for place in range(len(before) - 1, max(-1, len(before) - 4), -1):
        piece = before[place]
        if piece.kind is Kind.WORD:
            if piece.text.lower() in LABELS:
                before[place] = piece._replace(kind=Kind.FIXED)
            return


@lru_cache(maxsize=1 << 16)
def _kind(text: str) -> Kind:
    if text.isspace():
        return Kind.SPACE
    if any(char.isdigit() for char in text) or text in _SIZES:
        return Kind.FIXED
    return Kind.WORD if any(char.isalnum() for char in text) else Kind.OTHER


def spaced(text: str) -> bool:
    """Tell whether a word begins in a script that parts words by spaces."""
    return not is_unspaced(text[0])


def join_pieces(pieces: Sequence[Piece]) -> str:
    """Put pieces together, with a space between words that were not neighbours where their scripts write one."""
    parts: list[str] = []
    last: Piece | None = None
    for piece in pieces:
        if last is not None and last.kind <= Kind.FIXED and piece.kind <= Kind.FIXED:
            neighbours = last.origin != NEW and piece.origin == last.origin + 1
            if not neighbours and not is_unspaced(last.text[-1]) and not is_unspaced(piece.text[0]):
                parts.append(" ")
        parts.append(piece.text)
        last = piece
    return "".join(parts)


def remove(pieces: Sequence[Piece], places: Collection[int]) -> list[Piece]:
    """Return pieces without those at `places`, nor the spaces, commas and brackets left with nothing to part or hold."""
    kept: list[Piece] = []
    hole = False
    for place, piece in enumerate(pieces):
        if place in places:
            hole = True
            continue
        if hole:
            if piece.kind is Kind.SPACE:
                if kept and kept[-1].kind is not Kind.SPACE and kept[-1].text not in _BRACKETS:
                    kept.append(piece)
                continue
            if piece.text in _MARKS and _closes_gap(kept, piece.text):
                continue
            hole = False
        kept.append(piece)
    while hole and kept and (kept[-1].kind is Kind.SPACE or kept[-1].text in _SEPARATORS):
        kept.pop()
    return kept


def _closes_gap(kept: list[Piece], mark: str) -> bool:
    """Fit what is before a gap to the mark after it; tells whether the mark goes."""
    if mark in _ATTACHED_LEFT:
        _drop_spaces(kept)
    last = next((piece.text for piece in reversed(kept) if piece.kind is not Kind.SPACE), None)
    if mark in _SEPARATORS:
        return last is None or last in _SEPARATORS or last in _BRACKETS
    if last is not None and (_BRACKETS.get(last) == mark or last in _SEPARATORS):
        _drop_spaces(kept)
        kept.pop()
        if last in _BRACKETS:
            return True
        _drop_spaces(kept)
        return False
    return last is None and mark not in _BRACKETS.values()


def _drop_spaces(kept: list[Piece]) -> None:
    while kept and kept[-1].kind is Kind.SPACE:
        kept.pop()
