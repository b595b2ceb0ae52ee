"""Filters: `price < 50 and colour in ('red', 'blue')`, parsed into pyarrow's functions, never run as Python.

    filter      = term ("or" term)*
    term        = factor ("and" factor)*
    factor      = "not" factor | "(" filter ")" | comparison
    comparison  = column ("=" | "==" | "!=" | "<" | "<=" | ">" | ">=") value
                | column ["not"] "in" "(" value ("," value)* ")"
                | column "is" ["not"] "null"
    column      = name | quoted name, where the name has spaces or signs
    value       = number | quoted text | "true" | "false"

Quotes are '...' or "..." (and `...` for columns); a quote inside is doubled. Words of the grammar may be in capitals.
A comparison with a missing value is neither true nor false, as in SQL. Of a column that holds several texts, `=` and
`in` ask whether one of them fits, `!=` whether none does.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from catalogue_lookup.filter_parts import Node, Value, among, compare, fold, invert, kind_of, numbers_of, scalar

MAX_CHARACTERS = 100_000
MAX_DEPTH = 100

_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))
      | (?P<name>[^\W\d][\w.]*)
      | (?P<quoted>'(?:[^']|'')*' | "(?:[^"]|"")*" | `(?:[^`]|``)*`)
      | (?P<operator>==|!=|<>|<=|>=|=|<|>)
      | (?P<mark>[(),])""",
    re.VERBOSE,
)
_OPERATORS = {
    "=": pc.equal, "==": pc.equal, "!=": pc.not_equal, "<>": pc.not_equal,
    "<": pc.less, "<=": pc.less_equal, ">": pc.greater, ">=": pc.greater_equal,
}  # fmt: skip
_WORDS = frozenset("and or not in is null".split())


class WhereError(ValueError):
    """A filter cannot be read, or does not fit the columns; the message gives the position."""


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    position: int

    @property
    def word(self) -> str:
        return self.text.lower() if self.kind == "name" and self.text.lower() in _WORDS else ""

    @property
    def unquoted(self) -> str:
        quote = self.text[0]
        return self.text[1:-1].replace(quote * 2, quote)


@dataclass(frozen=True)
class Filter:
    """A parsed filter."""

    _node: Node

    def mask(self, batch: pa.RecordBatch) -> npt.NDArray[np.bool_]:
        """Tell which rows of a batch fit: bool[N]."""
        fits = self._node(batch).fill_null(scalar(False)).cast(pa.uint8())
        return numbers_of(fits, np.uint8).astype(np.bool_)


def parse_where(text: str, schema: pa.Schema) -> Filter:
    """Parse a filter over the columns of `schema`.

    Raises:
        WhereError: naming the position (from 1), what was expected there, and for an unknown column those there are.
    """
    if len(text) > MAX_CHARACTERS:
        raise WhereError(f"the filter has {len(text):,} characters; it may have {MAX_CHARACTERS:,}")
    parser = _Parser(_tokens(text), schema)
    node = parser.filter(0)
    parser.expect_end()
    return Filter(node)


def columns_of(schema: pa.Schema) -> list[str]:
    """Return the names of the columns that a filter may name."""
    return [field.name for field in schema if kind_of(field.type) != "other"]


def _tokens(text: str) -> list[_Token]:
    tokens, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            if text[at] in "'\"`":
                raise WhereError(f"the quote at position {at + 1} of the filter is not closed")
            raise WhereError(f"'{text[at]}' at position {at + 1} of the filter means nothing here: put quotes around texts")
        if match.lastgroup != "space":
            tokens.append(_Token(str(match.lastgroup), match[0], at + 1))
        at = match.end()
    return [*tokens, _Token("end", "", len(text) + 1)]


class _Parser:
    def __init__(self, tokens: Sequence[_Token], schema: pa.Schema) -> None:
        self.tokens = tokens
        self.schema = schema
        self.at = 0

    @property
    def token(self) -> _Token:
        return self.tokens[self.at]

    def take(self) -> _Token:
        token = self.token
        self.at += token.kind != "end"
        return token

    def accept(self, text: str) -> bool:
        found = self.token.word == text or (self.token.kind == "mark" and self.token.text == text)
        self.at += found
        return found

    def fail(self, expected: str) -> WhereError:
        token = self.token
        found = f"'{token.text}'" if token.text else "the end"
        return WhereError(f"{found} at position {token.position} of the filter: {expected} was expected there")

    def expect(self, text: str) -> None:
        if not self.accept(text):
            raise self.fail(f"'{text}'")

    def expect_end(self) -> None:
        if self.token.kind != "end":
            raise self.fail("'and', 'or' or the end")

    def filter(self, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise WhereError(f"the filter is nested deeper than {MAX_DEPTH} parentheses at position {self.token.position}")
        terms = [self.term(depth)]
        while self.accept("or"):
            terms.append(self.term(depth))
        return fold(pc.or_kleene, terms)

    def term(self, depth: int) -> Node:
        factors = [self.factor(depth)]
        while self.accept("and"):
            factors.append(self.factor(depth))
        return fold(pc.and_kleene, factors)

    def factor(self, depth: int) -> Node:
        negated = False
        while self.accept("not"):
            negated = not negated
        if self.accept("("):
            node = self.filter(depth + 1)
            self.expect(")")
        else:
            node = self.comparison()
        return invert(node) if negated else node

    def comparison(self) -> Node:
        field = self.column()
        if self.accept("is"):
            negated = self.accept("not")
            self.expect("null")
            is_null = pc.is_valid if negated else pc.is_null
            return lambda batch: is_null(batch.column(field.name))
        negated = self.accept("not")
        if self.accept("in"):
            found = among(field, self.values(field))
            return invert(found) if negated else found
        if negated or self.token.kind != "operator":
            raise self.fail("'in'" if negated else "=, !=, <, <=, >, >=, 'in', 'not in' or 'is'")
        operator = self.take()
        value = self.value(field)
        if kind_of(field.type) == "texts":
            if operator.text not in ("=", "==", "!=", "<>"):
                raise WhereError(
                    f"column '{field.name}' holds several texts: '{operator.text}' at position {operator.position} of "
                    "the filter may be =, != or in"
                )
            found = among(field, [value])
            return found if operator.text in ("=", "==") else invert(found)
        return compare(_OPERATORS[operator.text], field, value)

    def column(self) -> pa.Field:
        token = self.token
        if token.kind not in ("name", "quoted") or token.word:
            raise self.fail("a column")
        name = token.unquoted if token.kind == "quoted" else token.text
        known = columns_of(self.schema)
        if name not in known:
            folded = [column for column in known if column.casefold() == name.casefold()]
            if len(folded) != 1:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean '{near[0]}'?" if near else ""
                raise WhereError(
                    f"there is no column '{name}' (position {token.position} of the filter; columns: {', '.join(known)}){hint}"
                )
            (name,) = folded
        self.take()
        return self.schema.field(name)

    def values(self, field: pa.Field) -> list[Value]:
        self.expect("(")
        values = [self.value(field)]
        while self.accept(","):
            values.append(self.value(field))
        if not self.accept(")"):
            raise self.fail("',' or ')'")
        return values

    def value(self, field: pa.Field) -> Value:
        token = self.token
        value = _literal(token)
        if value is None:
            bare = token.kind == "name" and not token.word
            raise self.fail("a value in quotes" if bare else "a value (a number, or a text in quotes)")
        kind, given = kind_of(field.type), _kind_of_value(value)
        if given != kind.removesuffix("s"):
            holds = {"text": "text", "texts": "texts", "number": "numbers", "truth": "true or false"}[kind]
            remedy = ": write it in quotes" if kind in ("text", "texts") else ""
            raise WhereError(
                f"column '{field.name}' holds {holds}, not {token.text} (position {token.position} of the filter){remedy}"
            )
        self.take()
        return value


def _literal(token: _Token) -> Value | None:
    if token.kind == "number":
        whole = re.fullmatch(r"[-+]?\d{1,19}", token.text) and -(1 << 63) <= int(token.text) < 1 << 63
        return int(token.text) if whole else float(token.text)
    if token.kind == "quoted" and token.text[0] != "`":
        return token.unquoted
    if token.kind == "name" and token.text.lower() in ("true", "false"):
        return token.text.lower() == "true"
    return None


def _kind_of_value(value: Value) -> str:
    return "truth" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"
