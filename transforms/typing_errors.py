"""Typing errors: what a hurried shopper, or a shop's clerk, makes of a word."""

from __future__ import annotations

from functools import lru_cache
from random import Random

from transforms.segment import clusters, is_unspaced

MIN_LETTERS = 4  # shorter words of letters would become others
MIN_CHARACTERS = 2  # of Han, kana and Thai
MAX_CODE = 5  # letters of what is a code where it is in capitals: USB, HDMI, XL

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def _neighbours() -> dict[str, str]:
    """Return for each Latin letter those beside, above and below it on a QWERTY keyboard, whose rows are staggered."""
    near: dict[str, str] = {}
    for number, row in enumerate(_ROWS):
        for place, letter in enumerate(row):
            found = row[max(0, place - 1) : place] + row[place + 1 : place + 2]
            if number > 0:
                found += _ROWS[number - 1][place : place + 2]
            if number + 1 < len(_ROWS):
                found += _ROWS[number + 1][max(0, place - 1) : place + 1]
            near[letter] = found
    return near


NEIGHBOURS = _neighbours()


@lru_cache(maxsize=1 << 16)
def can_misspell(word: str) -> bool:
    """Tell whether a word may have a typing error: it is long enough, has no digit, and is no code ("USB-C")."""
    if any(char.isdigit() for char in word):
        return False
    if is_unspaced(word[0]):
        return len(clusters(word)) >= MIN_CHARACTERS
    letters = sum(char.isalpha() for char in word)
    code = word.isupper() and letters <= MAX_CODE
    return letters >= MIN_LETTERS and not code and not any(part.isupper() for part in word.split("-")[1:])


def misspell(word: str, rng: Random) -> str:
    """Make one typing error in a word that `can_misspell`; the result always differs.

    Two neighbours change places, or a character is dropped; in words of letters one may also be doubled or, if Latin,
    replaced by a neighbour on the keyboard, and the first letter stays.
    """
    units = clusters(word)
    letters = [place for place, unit in enumerate(units) if unit[0].isalpha()]
    if is_unspaced(word[0]):
        errors = ["swap", "drop"]
        letters = letters or list(range(len(units)))
    else:
        errors = ["swap", "drop", "double", "keyboard"]
        letters = letters[1:] or letters
    error = errors[int(rng.random() * len(errors))]
    pairs = [at for at in letters if at + 1 in letters and units[at] != units[at + 1]]
    typed = [at for at in letters if units[at].lower() in NEIGHBOURS]
    if error == "swap" and pairs:
        at = _pick(pairs, rng)
        units[at : at + 2] = units[at + 1], units[at]
    elif error == "double":
        units[_pick(letters, rng)] *= 2
    elif error == "keyboard" and typed:
        at = _pick(typed, rng)
        near = NEIGHBOURS[units[at].lower()]
        letter = near[int(rng.random() * len(near))]
        units[at] = letter.upper() if units[at].isupper() else letter
    else:
        del units[_pick(letters, rng)]
    return "".join(units)


def _pick(places: list[int], rng: Random) -> int:
    return places[int(rng.random() * len(places))]
