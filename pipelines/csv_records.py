"""Records of CSV and TSV text, one by one, with those that cannot be read kept in their place.

Quoting is RFC 4180's, with line breaks inside quotes; the text is UTF-8 with or without a byte order mark; blank
lines are no records; a record has at most 64 MB. Where a quote stays open until the end of the file (or for 64 MB),
the record is unreadable and reading goes on with the next line, so that one quote cannot swallow a catalogue.
"""

from __future__ import annotations

import csv
import io
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

MAX_ROW_BYTES = 64 << 20
_SURROGATE = re.compile("[\udc80-\udcff]")


@dataclass(frozen=True)
class Unreadable:
    """Stands for a row that cannot be read."""

    detail: str


def has_bad_bytes(cell: str) -> bool:
    """Tell whether a cell, as `read_records` gives it, has bytes that are not UTF-8."""
    return _SURROGATE.search(cell) is not None


class _Lines:
    """Lines of a text stream as the CSV reader takes them, counted, with those of the current record at hand."""

    def __init__(self, stream: BinaryIO) -> None:
        self._text = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
        self._again: deque[str] = deque()
        self.number = 0
        self.size = 0
        self.record: list[str] = []
        self.too_long = False

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else self._text.readline(MAX_ROW_BYTES)
        if not line:
            raise StopIteration
        self.number += 1
        self.size += len(line)
        self.record.append(line)
        if self.size >= MAX_ROW_BYTES:
            self.too_long = True
            raise StopIteration
        return line

    def start(self) -> None:
        self.size, self.too_long = 0, False
        self.record.clear()

    def skip_to_second(self) -> None:
        """Go on behind the first line of the current record."""
        first, *others = self.record
        while not first.endswith(("\n", "\r")) and len(first) >= MAX_ROW_BYTES - 1:
            first = self._text.readline(MAX_ROW_BYTES)
        self._again.extendleft(reversed(others))
        self.number -= len(others)


def read_records(stream: BinaryIO, delimiter: str) -> Iterator[tuple[list[str] | Unreadable, int]]:
    """Yield each record's cells, or why it cannot be read, with its length in characters."""
    # The limit on cells is the process's; the one on rows, here, is what holds.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW_BYTES))
    lines = _Lines(stream)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        lines.start()
        begin = lines.number + 1
        try:
            cells = next(reader)
        except StopIteration:
            if not lines.too_long:
                return
            lines.skip_to_second()
            yield Unreadable(f"line {begin} is longer than {MAX_ROW_BYTES >> 20} MB"), MAX_ROW_BYTES
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            continue
        except csv.Error as error:
            open_quote = lines.too_long or "unexpected end of data" in str(error)
            if open_quote:
                size = len(lines.record[0])
                lines.skip_to_second()
                reader = csv.reader(lines, delimiter=delimiter, strict=True)
                yield Unreadable(f"line {begin}: a quote is opened and never closed"), size
            else:
                yield Unreadable(f"line {begin}: {error}"), lines.size
            continue
        if cells:
            yield cells, lines.size
