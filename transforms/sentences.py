"""Sentences of a description: what a shopper may quote of it, one by one.

A sentence ends at a full stop, a question or exclamation mark, also those of Chinese, Japanese, Arabic and Hindi, at a line
break, at a bullet, and where an element of HTML begins a new line or cell. A point inside a number, after a single letter, a
common abbreviation or the number of a list, and before a small letter ends none. In HTML line breaks of the source are spaces.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from transforms.segment import is_unspaced
from transforms.text import MAX_CHARACTERS, clean_text

LEAST_WORDS = 3  # two characters of a script without spaces count as one word
MOST_CHARACTERS = 240
SHARED_PRODUCTS, SHARED_SHARE = 5, 0.02

_BORDER = "\ue000"  # of private use: cleaning keeps it, and no text of a shop means anything by it
_PARTING = re.compile(
    r"</?(?:article|blockquote|br|caption|center|dd|div|dl|dt|figcaption|footer|h[1-6]|header|hr|li|ol|p|pre|section|table|td|th"
    r"|tr|ul)(?=[\s/>])[^<>]*>",
    re.IGNORECASE,
)
_LINE_END = re.compile(r"[\r\n\v\f\x85\u2028\u2029]+")
_BULLET = re.compile(r"[•‣⁃∙●○■□▪▫◆◇★☆✓✔➤►▶]|(?:^|(?<=\s))[*·–—-](?=\s)")
_END = re.compile(
    r"[。।॥؟۔]+[\"'”’»」』】)\]]*"  # ends in themselves
    r"|(?<![.!?])[.!?]++[\"'”’»」』】)\]]*+(?=\s)"
    r"|(?<![!?])[!?]++[”’」』】)\]]*+(?=[^\s\x00-\u2e7f])"  # written wide in Chinese and Japanese, where no space follows
)
_ABBREVIATIONS = frozenset(
    """abb approx art av bspw bzw ca cf cl co corp dr eg ej etc evtl fa ff fig ggf gr ie inc incl inkl jr ltd max min mind mr mrs
    ms no nos nr num oz p.ej pag pg pp prof ref sog sr st std tel u.a u.s usw vgl vol vs z.b d.h e.g i.e o.ä zzgl""".split()
)
_CLAUSE = re.compile(r"[,;:、،]\s*|\s+")
_LOOK_BACK = 40  # characters that an abbreviation is looked for in
_LAST_WORD = re.compile(r"(?:(\S+)\s+)?(\S+)\.$")


def sentences(raw: str, most: int) -> list[str]:
    """Return the first `most` different sentences of a description as it is written, HTML or not, each cleaned.

    Those of fewer than `LEAST_WORDS` words are left out; of one of more than `MOST_CHARACTERS` characters each part that a
    comma or a space allows counts. Takes time linear in the text's length.
    """
    found: dict[str, None] = {}
    for sentence in _sentences(raw):
        for part in _parts(sentence):
            if _words(part) >= LEAST_WORDS:
                found.setdefault(part)
            if len(found) == most:
                return list(found)
    return list(found)


def shared_by_many(products: Iterable[Sequence[str]], count: int) -> frozenset[str]:
    """Return the sentences of more than `SHARED_SHARE` of `count` products, at least of more than `SHARED_PRODUCTS`.

    They are of the shop ("Free shipping on all orders.") rather than of a product: a query that so many answer teaches nothing.
    """
    most = max(SHARED_PRODUCTS, SHARED_SHARE * count)
    return frozenset(text for text, number in Counter(text for own in products for text in set(own)).items() if number > most)


def _sentences(raw: str) -> Iterator[str]:
    text, parted = _PARTING.subn(_BORDER, raw[:MAX_CHARACTERS].replace(_BORDER, " "))
    if not parted:
        text = _LINE_END.sub(_BORDER, text)
    for line in clean_text(text).split(_BORDER):
        for item in _BULLET.split(line):
            yield from _of_line(item.strip())


def _of_line(line: str) -> Iterator[str]:
    start = 0
    for match in _END.finditer(line):
        if not _goes_on(line[max(start, match.end() - _LOOK_BACK) : match.end()], line[match.end() : match.end() + 2].lstrip()):
            yield line[start : match.end()].strip()
            start = match.end()
    yield line[start:].strip()


def _goes_on(before: str, after: str) -> bool:
    """Tell whether what looks like the end of a sentence is a point of something else."""
    if after[:1].islower() and before.endswith("."):
        return True
    word = _LAST_WORD.search(before)
    if word is None:
        return False
    name = word[2].lstrip("(\"'“‘[").lower()
    numbered = name.isdigit() and len(name) <= 2 and word[1] is None and before.strip() == word[0]
    unit = word[1] is not None and word[1][-1].isdigit()
    return numbered or name in _ABBREVIATIONS or (len(name) == 1 and name.isalpha() and not unit and not is_unspaced(name))


def _parts(sentence: str) -> Iterator[str]:
    start = 0
    while len(sentence) - start > MOST_CHARACTERS:
        ends = list(_CLAUSE.finditer(sentence, start + MOST_CHARACTERS // 2, start + MOST_CHARACTERS))
        clauses = [match for match in ends if not match[0].isspace()]
        end = (clauses or ends)[-1].end() if ends else start + MOST_CHARACTERS
        yield sentence[start:end].strip()
        start = end
    yield sentence[start:].strip()


def _words(sentence: str) -> float:
    unspaced = sum(map(is_unspaced, sentence))
    return unspaced / 2 + sum(any(c.isalnum() and not is_unspaced(c) for c in word) for word in sentence.split())
