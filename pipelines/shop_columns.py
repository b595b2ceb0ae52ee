"""What exports of shop systems have in common: cells that are lists, prices to compare, rows that are one product."""

from __future__ import annotations

import re
from collections.abc import Iterable

_UNESCAPED_COMMA = re.compile(r"(?<!\\),")
_NOT_OF_A_NUMBER = re.compile(r"[^0-9.,-]")


def split_list(cell: str | None) -> list[str]:
    r"""Return the entries of a cell that lists them by comma; `\,` is a comma of an entry."""
    parts = _UNESCAPED_COMMA.split(cell or "")
    return [part.strip().replace("\\,", ",") for part in parts if part.strip()]


def distinct(values: Iterable[str | None]) -> list[str]:
    """Return the values that are there, each once, in their order."""
    return list(dict.fromkeys(value for value in values if value))


def lowest_price(prices: Iterable[str | None]) -> str | None:
    """Return the lowest of several prices as it is written; the first where none is a number."""
    written = [price for price in prices if price]
    amounts = [(amount, price) for price in written if (amount := _amount(price)) is not None]
    return min(amounts, key=lambda pair: pair[0])[1] if amounts else next(iter(written), None)


def _amount(price: str) -> float | None:
    """Return how much a price is, for comparison with others of its product only: "1.299,00 €" is 1299."""
    digits = _NOT_OF_A_NUMBER.sub("", price)
    whole, mark, rest = digits.rpartition(max(".,", key=digits.rfind))
    if mark and len(rest) == 3 and (whole.count(mark) or mark == ","):  # groups of thousands
        whole, rest = whole + rest, ""
    whole = whole.replace(".", "").replace(",", "")
    try:
        return float(f"{whole or '0'}.{rest or '0'}") if mark else float(digits)
    except ValueError:
        return None
