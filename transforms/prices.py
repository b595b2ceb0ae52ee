"""Prices as shops write them: an amount, and the currency where one is written beside it.

A plain number is read as it stands: "1.299" is little more than one. Anything else is read by price-parser, which
knows currencies and both uses of comma and point: "1.299,00 €" and "$1,299.00" are the same amount.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

# What stands beside an amount -> ISO 4217. Signs that several countries share ("$", "¥", "kr") are kept as they are.
CURRENCIES = {
    "€": "EUR", "£": "GBP", "₹": "INR", "₩": "KRW", "₫": "VND", "₽": "RUB", "₺": "TRY", "₪": "ILS", "฿": "THB", "zł": "PLN",
    "US$": "USD", "CA$": "CAD", "C$": "CAD", "A$": "AUD", "AU$": "AUD", "HK$": "HKD", "NT$": "TWD", "R$": "BRL",
    "Rs": "INR", "元": "CNY", "人民币": "CNY", "円": "JPY",
}  # fmt: skip
_PLAIN = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_NEGATIVE = re.compile(r"\D*[-\u2212(]\s*\D{0,4}\d")  # a sign, or the bracket of an accountant, before the first digit
_FIRST_OF_RANGE = re.compile(r"\D{0,8}?(/|per\b|pro\b|je\b|[-\u2013\u2014~\u301c]|to\b|bis\b|until\b|至|到)", re.IGNORECASE)
_BESIDE = re.compile(r"元|人民币|円")


@dataclass(frozen=True)
class Price:
    """A price: its amount, finite and not negative, and its currency, ISO 4217 where that is beyond doubt."""

    amount: float
    currency: str | None


def parse_price(raw: str) -> Price:
    """Read a price; of a range ("$10 - $20") the first amount, of a price per unit ("2 € / 100 g") the price.

    Raises:
        ValueError: there is no amount, it is negative or not finite, or there are several ("3 for 10 €").
    """
    if _PLAIN.fullmatch(raw):
        return Price(_checked(float(raw), raw), None)
    from price_parser import Price as Parsed

    found = Parsed.fromstring(raw)
    if found.amount is None or _NEGATIVE.match(raw):
        raise ValueError(f"'{_shown(raw)}' is not a finite non-negative number")
    rest = raw.partition(found.amount_text or "")[2]
    if re.search(r"\d", rest) and not _FIRST_OF_RANGE.match(rest):
        raise ValueError(f"'{_shown(raw)}' holds more than one number")
    beside = _BESIDE.search(raw)
    currency = found.currency or (beside[0] if beside else None)
    return Price(_checked(float(found.amount), raw), CURRENCIES.get(currency, currency) if currency else None)


def _checked(amount: float, raw: str) -> float:
    if not math.isfinite(amount) or amount < 0:
        raise ValueError(f"'{_shown(raw)}' is not a finite non-negative number")
    return abs(amount)


def _shown(raw: str) -> str:
    return raw if len(raw) <= 100 else raw[:97] + "..."
