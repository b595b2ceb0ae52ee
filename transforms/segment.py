"""Segmentation: the tokens of a text in any script.

A token is a word, a run of spaces, or one grapheme cluster of anything else (punctuation, a sign, an emoji).
Words of scripts that part them by spaces go by Unicode's letters, marks and digits and end where the script
changes. Han, kana and Thai write without spaces: there BudouX (a small linear model for each language) says where
words end, better where the words of a shop are known besides. Lao, Khmer and Burmese, for which BudouX has no
model, end at their spaces. Time and memory are linear in the text's length.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Literal

import regex

if TYPE_CHECKING:
    from budoux import Parser

Model = Literal["ja", "zh-hans", "zh-hant", "th"]
MODELS: tuple[Model, ...] = ("ja", "zh-hans", "zh-hant", "th")

# Han counters and units: after a number each is a token of its own ("42码白色" -> 42, 码, 白色).
HAN_UNITS = (
    "毫升 厘米 毫米 英寸 千克 公斤 公分 码 碼 号 號 寸 克 斤 升 米 件 双 雙 个 個 只 隻 片 支 瓶 盒 套 条 條 款 年 月 日 元 円 "
    "枚 足 本 人 度 色 层 層 级 級 寸 包 粒 卷 张 張 台 代 倍 折"
).split()

_HAN_AND_KANA = r"\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\u30fc\uff70\u3099\u309a"
_THAI = r"\u0e01-\u0e3a\u0e40-\u0e4e"
_ATTACHED = r"\p{M}\u200c\u200d"  # what belongs to the letter before it
# A script's name after a digit or a letter of it: "Nike운동화" has two words, "1.5l" and "t-shirt" one.
_SCRIPTS = ("Cyrillic", "Greek", "Hangul", "Arabic", "Hebrew", "Devanagari", "Bengali", "Tamil", "Telugu", "Armenian", "Georgian")
_TOKEN = regex.compile(
    rf"(?P<han>[{_HAN_AND_KANA}][{_HAN_AND_KANA}{_ATTACHED}]*)|(?P<thai>[{_THAI}]+)"
    rf"|[\p{{Latin}}\p{{Nd}}][\p{{Latin}}\p{{Nd}}{_ATTACHED}]*"
    rf"(?:(?:['’\-]|(?<=\p{{Nd}})[.,:/×](?=\p{{Nd}}))(?=[\p{{Latin}}\p{{Nd}}])[\p{{Latin}}\p{{Nd}}{_ATTACHED}]+)*"
    + "".join(
        rf"|\p{{{script}}}[\p{{{script}}}{_ATTACHED}]*(?:['’\-](?=\p{{{script}}})[\p{{{script}}}{_ATTACHED}]+)*"
        for script in _SCRIPTS
    )
    + rf"|[[\p{{L}}\p{{N}}]--[\p{{Latin}}\p{{Nd}}{_HAN_AND_KANA}{_THAI}]][[\p{{L}}\p{{N}}{_ATTACHED}]"
    rf"--[\p{{Latin}}\p{{Nd}}{_HAN_AND_KANA}{_THAI}]]*"
    r"|\s+|\X",
    regex.VERSION1,
)
# NFKC takes SARA AM of Thai and Lao apart, and Unicode's rule cuts between the halves; readers see one vowel.
_CLUSTER = regex.compile(r"\X(?:(?<=\u0e4d)(?=\u0e32)\X|(?<=\u0ecd)(?=\u0eb2)\X)?")
_MAY_CLUSTER = regex.compile(r"[^\p{GCB=Other}\p{GCB=Control}\p{GCB=LF}\p{GCB=LV}\p{GCB=LVT}]")
_UNSPACED = regex.compile(f"[{_HAN_AND_KANA}{_THAI}]")
_UNIT = regex.compile(f"(?:{'|'.join(HAN_UNITS)})")
_KANA = regex.compile(r"(?!の)[\p{Script=Hiragana}\p{Script=Katakana}]")  # Chinese shops write 日系の卫衣 for its looks
_KATAKANA_BORDER = regex.compile(
    r"(?<=[\p{Script=Katakana}\u30fc\u3099])(?![\p{Script=Katakana}\u30fc\u3099])"
    r"|(?<![\p{Script=Katakana}\u30fc\u3099])(?=\p{Script=Katakana})"
)


class KnownWords:
    """Words of unspaced scripts that segmentation knows besides what BudouX guesses.

    BudouX has learnt from news; "圆领短袖" it cuts into 圆, 领短 and 袖. Words of one character are not taken.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self.words = frozenset(word for word in words if len(word) > 1 and _UNSPACED.match(word))
        lengths: dict[str, set[int]] = {}
        for word in self.words:
            lengths.setdefault(word[:2], set()).add(len(word))
        self._lengths = {start: sorted(found, reverse=True) for start, found in lengths.items()}

    def borders(self, run: str, guessed: set[int]) -> set[int]:
        """Return where words of `run` end: the known ones, the longest first from left to right, else as guessed.

        A known word of two characters that lies across a guessed border, with neither of its own ends at a border, is
        taken for chance (大衣 in 加大|衣服).
        """
        borders = {0, len(run)}
        start, last = 0, 0
        inside: set[int] = set()
        while start < len(run):
            for length in self._lengths.get(run[start : start + 2], ()):
                end = start + length
                if end > len(run) or run[start:end] not in self.words:
                    continue
                across = length == 2 and start + 1 in guessed and start != last
                if across and start not in guessed and end not in guessed and end != len(run):
                    continue
                inside.update(range(start + 1, end))
                borders |= {start, end}
                start = last = end
                break
            else:
                start += 1
        return borders | (guessed - inside)


def segment(text: str, known: KnownWords | None = None) -> list[str]:
    """Cut a text into tokens, whose concatenation is the text again.

    Spaces and punctuation are tokens of their own: "Nike白色运动鞋 42码" gives Nike, 白色, 运动鞋, a space, 42, 码. Hyphens and
    apostrophes inside a word, and points, commas, colons and slashes between digits, belong to it ("t-shirt",
    "women's", "1.5l", "3/4"). No grapheme cluster is cut.

    Args:
        text: any text; how the words of Han are guessed depends on the language of all of it.
        known: words of Han, kana and Thai that are found before guessing.
    """
    model: Model | None = None
    tokens: list[str] = []
    for match in _TOKEN.finditer(text):
        token = match[0]
        kind = match.lastgroup
        if kind is None or len(token) == 1:
            tokens.append(token)
        elif kind == "thai":
            tokens += _words_of(token, "th", known)
        else:
            model = model or _language_of_han(text)
            unit = _UNIT.match(token) if tokens and tokens[-1][-1].isdigit() else None
            if unit is not None:
                tokens.append(unit[0])
                token = token[unit.end() :]
            if token:
                tokens += _words_of(token, model, known)
    return tokens if text.isascii() and "\r" not in text else _whole_clusters(tokens, text)


def clusters(text: str) -> list[str]:
    """Return the grapheme clusters of a text: what a reader takes for one character."""
    return list(text) if text.isascii() else [match[0] for match in _CLUSTER.finditer(text)]


def is_unspaced(character: str) -> bool:
    """Tell whether a character belongs to a script that BudouX cuts: Han, kana or Thai."""
    return _UNSPACED.match(character) is not None


@cache
def models_hash() -> str:
    """Return the BLAKE2b-128 of BudouX's models in hexadecimal digits: releases change where words end."""
    content = json.dumps([_parser(model).model for model in MODELS], sort_keys=True)
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


@cache
def _parser(model: Model) -> Parser:
    import budoux

    if model == "ja":
        return budoux.load_default_japanese_parser()
    if model == "th":
        return budoux.load_default_thai_parser()
    return (
        budoux.load_default_simplified_chinese_parser()
        if model == "zh-hans"
        else budoux.load_default_traditional_chinese_parser()
    )


def _language_of_han(text: str) -> Model:
    """Guess the language of a text with Han: kana says Japanese, characters that one Chinese charset lacks the other."""
    if _KANA.search(text):
        return "ja"
    lost = [len(text) - len(text.encode(charset, "ignore").decode(charset)) for charset in ("gb2312", "big5")]
    return "zh-hant" if lost[1] < lost[0] else "zh-hans"


def _words_of(run: str, model: Model, known: KnownWords | None) -> Iterator[str]:
    """Cut a run of an unspaced script into words."""
    halves = model == "th" and "\u0e4d\u0e32" in run and "\u0e33" not in run  # the model knows them as one
    borders: set[int] = set()
    end = 0
    for piece in _parser(model).parse(run.replace("\u0e4d\u0e32", "\u0e33") if halves else run):
        end += len(piece) + (piece.count("\u0e33") if halves else 0)
        borders.add(end)
    if model == "ja":  # whose model guesses phrases ("軽量ランニングシューズ"), not words
        borders |= {match.start() for match in _KATAKANA_BORDER.finditer(run)}
    if known is not None:
        borders = known.borders(run, borders)
    start = 0
    for end in sorted(borders - {0}):
        yield run[start:end]
        start = end


def _whole_clusters(tokens: list[str], text: str) -> list[str]:
    """Join tokens whose border lies inside a grapheme cluster."""
    if not _MAY_CLUSTER.search(text):
        return tokens
    inside = {at for match in _CLUSTER.finditer(text) for at in range(match.start() + 1, match.end())}
    whole: list[str] = []
    end = 0
    for token in tokens:
        if end in inside:
            whole[-1] += token
        else:
            whole.append(token)
        end += len(token)
    return whole
