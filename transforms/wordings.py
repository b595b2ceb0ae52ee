"""Wordings: how shoppers of a language put attributes into a phrase ("rote Schuhe für Damen", "zapatillas rojas para mujer").

Languages that part words by spaces differ in the frames of a `_Spaced`; Chinese and Japanese in those of an `_Unspaced`.
Frames, not a grammar: they say where a value goes and what stands beside it, and the table of words has its forms.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from transforms.shop_words import ShopWords, singular

_CJK = re.compile(r"[\u3000-\u9fff\uf900-\ufaff]")
Frames = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class _Spaced:
    """A language that parts words by spaces.

    Attributes:
        after: frames of a value after the kind, by role; {usual} is its usual word, {any} one that agrees with the kind.
        after_share: how often a value goes after the kind, and not before it as {any}.
        agreement: last letters that a describing word shares with the kind where one of its forms does.
        capitals: how often capitals stay.
        forms: usual word -> what is written before the kind in two of five cases.
    """

    after: Frames
    after_share: float
    agreement: int = 0
    capitals: float = 0.1
    forms: Frames = field(default_factory=dict)


@dataclass(frozen=True)
class _Unspaced:
    """A language that writes words without spaces.

    Attributes:
        particle: what may stand between the last describing word and the kind.
        adjectives: endings of describing words that take no particle.
        spaced: how often shoppers part the words by spaces all the same.
        particled: how often they write the particle.
    """

    particle: str
    adjectives: tuple[str, ...]
    spaced: float
    particled: float


_ALONE = ("{any}",)
_SPACED = {
    "en": _Spaced(
        after={
            "colour": ("in {usual}", "in {usual}", "{usual}"),
            "audience": ("for {usual}", "for {usual}", "{usual}"),
            "pattern": ("with {usual} pattern", "{usual}"),
            "material": ("in {usual}", "made of {usual}", "{usual}"),
            "brand": ("by {usual}", "from {usual}", "{usual}"),
            "season": ("for {usual}", "{usual}"),
        },
        after_share=0.4,
        forms={word: (word, f"{word}'s", f"{word}s") for word in ("men", "women", "boys", "girls", "kids")},
    ),
    "de": _Spaced(
        after={
            "colour": ("in {usual}", "in {usual}", "{usual}"),
            "audience": ("für {usual}", "für {usual}", "{usual}"),
            "material": ("aus {usual}", "aus {usual}", "{usual}"),
            "brand": ("von {usual}", "{usual}"),
            "season": ("für {usual}", "{usual}"),
        },
        after_share=0.4,
        capitals=0.4,
    ),
    "es": _Spaced(
        after={
            "colour": ("{any}", "{any}", "{any}", "color {usual}", "en {usual}"),
            "audience": ("para {usual}", "de {usual}", "{usual}"),
            "material": ("de {usual}", "de {usual}", "{usual}"),
            "brand": ("de {usual}", "{usual}", "{usual}"),
            "season": ("de {usual}", "para {usual}", "{usual}"),
        },
        after_share=0.95,
        agreement=2,
    ),
    "fr": _Spaced(
        after={
            "colour": ("{any}", "{any}", "{any}", "en {usual}"),
            "audience": ("pour {usual}", "{usual}", "{usual}"),
            "material": ("en {usual}", "en {usual}", "{usual}"),
        },
        after_share=0.95,
        agreement=2,
    ),
}
_UNSPACED = {
    "zh": _Unspaced(particle="的", adjectives=(), spaced=0.3, particled=0.15),
    "ja": _Unspaced(particle="の", adjectives=("い", "の"), spaced=0.6, particled=0.2),
}
# What shoppers say around a phrase when they ask for it, in one of five.
_REQUESTS: Frames = {
    "en": ("looking for {}", "i want {}", "i need {}", "buy {}", "show me {}", "{} please", "do you have {}", "{} online"),
    "zh": ("想买{}", "我要{}", "有没有{}", "找{}", "推荐{}", "请问有{}吗", "想要一个{}"),
    "de": ("suche {}", "ich möchte {}", "{} kaufen", "haben Sie {}", "zeig mir {}", "{} gesucht"),
    "es": ("busco {}", "quiero {}", "comprar {}", "tienen {}", "necesito {}", "{} por favor"),
    "fr": ("je cherche {}", "je voudrais {}", "acheter {}", "avez-vous {}", "montrez-moi {}", "{} s'il vous plaît"),
    "ja": ("{}が欲しい", "{}を探しています", "{}はありますか", "{} 通販", "{}をください"),
}
_REQUESTED = 0.2


def word_phrase(chosen: Mapping[str, str], language: str, rng: np.random.Generator, words: ShopWords) -> str:
    """Put values, one a role, into a phrase of a language of the tables; brands and unknown words stay as they are.

    One phrase of five is asked for in a few words more ("looking for red shoes").
    """
    phrase = (_unspaced if language in _UNSPACED else _spaced)(chosen, language, rng, words)
    return pick(_REQUESTS[language], rng).format(phrase) if rng.random() < _REQUESTED else phrase


def _spaced(chosen: Mapping[str, str], language: str, rng: np.random.Generator, words: ShopWords) -> str:
    """Put the kind in the middle, and every other value before or after it, in any order."""
    wording = _SPACED[language]
    before: list[tuple[str, Sequence[str]]] = []
    after: list[tuple[str, Sequence[str]]] = []
    for role, value in chosen.items():
        if role == "kind":
            continue
        spoken = _candidates(role, value, language, rng, words)
        if "kind" in chosen and rng.random() < wording.after_share:
            after.append((pick(wording.after.get(role, _ALONE), rng), spoken))
        else:
            forms = wording.forms.get(spoken[0]) if role == "audience" else None
            before.append(("{any}", (pick(forms, rng),) if forms and rng.random() < 0.4 else spoken))
    rng.shuffle(before)
    rng.shuffle(after)
    kind = [_kind(chosen["kind"], language, rng, words)] if "kind" in chosen else []
    endings = {kind[0][-wording.agreement :]} if kind and wording.agreement else set()

    def fill(frame: str, spoken: Sequence[str]) -> str:
        agreeing = [word for word in spoken if word[-wording.agreement :] in endings] or spoken
        return frame.format(usual=spoken[0], any=agreeing[0] if len(agreeing) == 1 else pick(agreeing, rng))

    phrase = " ".join([*(fill(*part) for part in before), *kind, *(fill(*part) for part in after)])
    return phrase if rng.random() < wording.capitals else phrase.lower()


def _candidates(role: str, value: str, language: str, rng: np.random.Generator, words: ShopWords) -> Sequence[str]:
    if language == "en":
        return (_english(role, value, rng, words),)
    return (value,) if role == "brand" else words.variants(value, language)


def _kind(value: str, language: str, rng: np.random.Generator, words: ShopWords) -> str:
    return _english("kind", value, rng, words) if language == "en" else words.translate(value, language, rng)


def _english(role: str, value: str, rng: np.random.Generator, words: ShopWords) -> str:
    """Say an English value, which the catalogue's own word is most of the time."""
    variants = [variant for variant in words.variants(value, "en") if len(variant) > 1]
    if role == "audience" and variants:
        value = variants[0]
    elif role != "brand" and rng.random() < 0.15:
        value = pick(variants or [value], rng)
    return singular(value) if role == "kind" and rng.random() < 0.3 else value


def _unspaced(chosen: Mapping[str, str], language: str, rng: np.random.Generator, words: ShopWords) -> str:
    """Put the kind last (or, parted by spaces, anywhere), what it is like before it."""
    wording = _UNSPACED[language]
    spoken = {
        role: value if role == "brand" else words.translate(value, language, rng)
        for role, value in chosen.items()
        if role != "kind"
    }
    parts = list(spoken.values())
    rng.shuffle(parts)
    kind = [words.translate(chosen["kind"], language, rng)] if "kind" in chosen else []
    form = rng.random()
    if form < wording.spaced:
        parts += kind
        if rng.random() < 0.3:
            rng.shuffle(parts)
        return " ".join(parts)
    if form < wording.spaced + wording.particled and parts and kind and not parts[-1].endswith(wording.adjectives):
        return _join([*parts[:-1], parts[-1] + wording.particle, *kind])
    return _join(parts + kind)


def _join(parts: Sequence[str]) -> str:
    """Join without spaces, but around a part of another script ("Nike 男士白T恤")."""
    text = ""
    previous = True
    for part in parts:
        unspaced = bool(_CJK.search(part))
        text += part if unspaced and previous else f" {part}"
        previous = unspaced
    return text.strip()


def pick(values: Sequence[str], rng: np.random.Generator) -> str:
    """Draw one of the values, each being as likely."""
    return values[int(rng.integers(len(values)))]
