"""Cleaning of product texts and of queries: no markup, one spelling of equal characters, single spaces.

What a text becomes decides its key in the feature store, so everything here depends on the text alone. That
is why `html.parser` is left out: its answers changed between patch releases of one Python version, and it is
slow on hostile input. Every step here takes time linear in the text's length.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from html import unescape
from html.entities import html5

MAX_CHARACTERS = 1_000_000
MAX_MARKS = 30  # combining marks in a row: the Stream-Safe Text Format of Unicode Annex 15

PART_ENDS = tuple(".!?:;,。、،؛؟।॥")

# Elements of HTML, old ones too. Any other name is a tag only where an end tag says so: "<NEW>" is prose.
_ELEMENTS = frozenset(
    """a abbr acronym address applet area article aside audio b base basefont bdi bdo big blink
    blockquote body br button canvas caption center cite code col colgroup data datalist dd del
    details dfn dialog dir div dl dt em embed fieldset figcaption figure font footer form frame
    frameset h1 h2 h3 h4 h5 h6 head header hgroup hr html i iframe img input ins kbd label legend li
    link main map mark marquee menu meta meter nav nobr noscript object ol optgroup option output p
    param picture pre progress q rp rt ruby s samp script search section select slot small source
    span strike strong style sub summary sup svg table tbody td template textarea tfoot th thead
    time title tr track tt u ul var video wbr""".split()
)
# Elements that leave the words around them together ("m<sup>2</sup>"); any other one parts words.
_INLINE = frozenset(
    """a abbr acronym b bdi bdo big blink cite code del dfn em font i ins kbd mark nobr q s samp small
    span strike strong sub sup tt u var wbr""".split()
)
_HIDDEN = frozenset(("iframe", "script", "style", "svg", "template"))  # what lies inside is no text
_HIDDEN_TO_THE_END = frozenset(("script", "style"))  # even without an end tag, as in a browser

_NAME = re.compile(r"</?([a-zA-Z][a-zA-Z0-9:._-]*)(?=[\s/>]|\Z)")
_END_NAME = re.compile(r"</([a-zA-Z][a-zA-Z0-9:._-]*)")
_ATTRIBUTES = re.compile("[^<>]*+")
_QUOTED_ATTRIBUTES = re.compile(r"""(?:[^<>"'=]++|=\s*+"[^"]*+"|=\s*+'[^']*+'|["'=])*+""")
_ENTITY = re.compile(
    "&(?:#[0-9]{1,16}(?![0-9])|#[xX][0-9a-fA-F]{1,16}(?![0-9a-fA-F])|[a-zA-Z][a-zA-Z0-9]{1,31});?"
)

# Soft hyphens, zero-width spaces, byte order marks and invisible operators. The marks and embeddings of
# writing direction go too: they steer how a line is drawn, and a hidden one would give two keys to one title.
# ZWNJ and ZWJ stay: they spell words in Persian and the Indic scripts, and emoji. The trademark signs go
# because NFKC would write them as letters of the word before.
_INVISIBLE = re.compile(
    "[\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffc\u2120\u2122]+"
)
_JOINERS = "\u200c\u200d"
_FRACTION_AFTER_DIGIT = re.compile("(?<=[0-9])(?=[\u00bc-\u00be\u2150-\u215e])")  # as NFKC glues 2½ to 21/2
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f]+")


def clean_text(raw: str) -> str:
    """Return the words of a text: no markup, no control characters, Unicode NFKC, single spaces.

    Tags, comments, scripts and styles go, entities are decoded once, and "<" stays where it opens no tag
    ("a < b", "<3"). Any script stays as it is written; lone surrogates become U+FFFD. Of a text longer than
    1,000,000 characters the rest is dropped. Nothing but markup or invisible characters gives "".

    A cleaned text is not cleaned again: what its entities spelled ("&lt;b&gt;") would be taken for markup.
    """
    text = raw[:MAX_CHARACTERS]
    if text.isascii() and "<" not in text and "&" not in text:
        return " ".join((text if text.isprintable() else _CONTROLS.sub(" ", text)).split())
    text = _join_surrogates(text)
    if "<" in text:
        text = _strip_markup(text)
    if "&" in text:
        text = _ENTITY.sub(_decode_entity, text)
    if not text.isascii():
        text = _normalise(text)
    text = " ".join(_CONTROLS.sub(" ", text).split())
    return text.lstrip(_JOINERS + " ")[:MAX_CHARACTERS].rstrip()


def join_texts(parts: Sequence[str]) -> str:
    """Return one text of the cleaned parts in order, without the empty ones and exact repeats.

    Parts are joined by ". ", or by a space after one that ends in punctuation.
    """
    joined = ""
    for part in dict.fromkeys(parts):
        if part:
            joined += (" " if joined.endswith(PART_ENDS) else ". ") + part if joined else part
    return joined


def _join_surrogates(text: str) -> str:
    """Make characters of surrogate pairs, and U+FFFD of surrogates that have no partner."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _normalise(text: str) -> str:
    """Bring text to NFKC without its invisible characters."""
    text = _INVISIBLE.sub("", text).replace("\u00b4", "'")  # a bare acute accent stands for an apostrophe
    text = _FRACTION_AFTER_DIGIT.sub(" ", text)
    if len(text) > MAX_MARKS:  # sorting a run of combining marks takes time in the square of its length
        text = _long_run_of_marks().sub(r"\1", text)
    return unicodedata.normalize("NFKC", text)


@cache
def _long_run_of_marks() -> re.Pattern[str]:
    """Match the marks of a run that may stay, as group 1, and those that follow them."""
    combining, normalize = unicodedata.combining, unicodedata.normalize
    marks = "".join(c for c in map(chr, range(0x300, 0x1F000)) if combining(normalize("NFKD", c)[0]))
    return re.compile(f"([{marks}]{{{MAX_MARKS}}})[{marks}]+")


def _decode_entity(match: re.Match[str]) -> str:
    """Return what an entity stands for; a name unknown to HTML stays, whatever it begins with."""
    entity = match[0]
    return unescape(entity) if entity[1] == "#" or entity[1:] in html5 else entity


def _strip_markup(text: str) -> str:
    """Return text without tags, comments, declarations and hidden elements; what parts words is a space."""
    markup = _Markup(text)
    kept: list[str] = []
    start, at = 0, text.find("<")
    while at >= 0:
        found = markup.end(at)
        if found is None:
            at = text.find("<", at + 1)
            continue
        end, gap = found
        kept += (text[start:at], gap)
        start, at = end, text.find("<", end)
    kept.append(text[start:])
    stripped = "".join(kept)
    return stripped.replace("]]>", " ") if "<![CDATA[" in text else stripped


class _Markup:
    """Finds where markup ends; what it looked for in vain it remembers, which keeps the time linear."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.last_close = text.rfind(">")
        self.unbalanced = 0  # before this place quotes are known not to balance
        self.without_end: set[str] = set()
        self.end_names: set[str] | None = None

    def end(self, at: int) -> tuple[int, str] | None:
        """Return where the markup that begins at `at` ends and what it leaves; None: it is no markup."""
        text = self.text
        if text.startswith(("<!", "<?"), at):
            return self._declaration_end(at)
        match = _NAME.match(text, at)
        if match is None:
            return (at + 3, "") if text.startswith("</>", at) else None
        name, after = match[1].lower(), match.end()
        gap = "" if name in _INLINE else " "
        if text.startswith("</", at):
            end = _end_of(_ATTRIBUTES, text, after)
            return end + text.startswith(">", end), gap
        if name not in _ELEMENTS and not self._has_end_tag(name):
            return None
        tag_end = self._tag_end(name, after)
        if tag_end is not None and name in _HIDDEN and not text.startswith("/>", tag_end - 2):
            return self._hidden_end(name, tag_end), gap
        return None if tag_end is None else (tag_end, gap)

    def _declaration_end(self, at: int) -> tuple[int, str] | None:
        text = self.text
        if text.startswith("<!--", at):
            end = text.find("-->", at + 2)  # "<!-->" is a whole comment
            return (len(text) if end < 0 else end + 3), " "
        if text.startswith("<![CDATA[", at):
            return at + len("<![CDATA["), " "
        follower = text[at + 2 : at + 3]
        if at > self.last_close or not (follower.isalpha() or follower == "["):
            return None
        return text.index(">", at) + 1, " "

    def _tag_end(self, name: str, at: int) -> int | None:
        text = self.text
        end = at
        if at >= self.unbalanced:
            end = _end_of(_QUOTED_ATTRIBUTES, text, at)
            if not text.startswith(">", end):
                self.unbalanced = end
        if at < self.unbalanced:
            end = _end_of(_ATTRIBUTES, text, at)
        if text.startswith(">", end):
            return end + 1 if _may_have(name, text[at:end]) else None
        cut_short = "=" in text[at:end] or (at == len(text) and len(name) > 1)
        return end if cut_short else None

    def _hidden_end(self, name: str, at: int) -> int:
        if name not in self.without_end:
            match = re.compile(rf"</{name}(?=[\s/>])[^>]*>?", re.IGNORECASE).search(self.text, at)
            if match is not None:
                return match.end()
            self.without_end.add(name)
        return len(self.text) if name in _HIDDEN_TO_THE_END else at

    def _has_end_tag(self, name: str) -> bool:
        if self.end_names is None:
            self.end_names = {found.lower() for found in _END_NAME.findall(self.text)}
        return name in self.end_names


def _end_of(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return at if match is None else match.end()


def _may_have(name: str, attributes: str) -> bool:
    """Tell a tag from prose such as "a <b and c> d": tags of one letter are bare or have values."""
    return len(name) > 1 or "=" in attributes or not attributes.strip(" \t\r\n\f/")
