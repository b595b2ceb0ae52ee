"""Prices as shops write them."""

from __future__ import annotations

import pytest

from transforms.prices import parse_price


@pytest.mark.parametrize(
    ("raw", "amount", "currency"),
    [
        ("$1,299.00", 1299.0, "$"),
        ("1.299,00 €", 1299.0, "EUR"),
        ("1.299 €", 1299.0, "EUR"),
        ("1 299,50 kr", 1299.5, "kr"),
        ("¥ 99", 99.0, "¥"),
        ("15.00 USD", 15.0, "USD"),
        ("USD 15", 15.0, "USD"),
        ("US$ 12.5", 12.5, "USD"),
        ("£12.99", 12.99, "GBP"),
        ("₹ 1,29,999", 129999.0, "INR"),
        ("Rs. 500", 500.0, "INR"),
        ("CHF 1'299.50", 1299.5, "CHF"),
        ("1.299.000 ₫", 1299000.0, "VND"),
        ("99元", 99.0, "CNY"),
        ("人民币 1,299.50", 1299.5, "CNY"),
        ("12,5", 12.5, None),
        ("1.234.567,89", 1234567.89, None),
        ("1,299", 1299.0, None),
        ("1.299", 1.299, None),
        ("12.0", 12.0, None),
        ("  7 ", 7.0, None),
        ("1e3", 1000.0, None),
        ("0", 0.0, None),
        ("-0.0", 0.0, None),
        ("free", 0.0, None),
        ("$10 - $20", 10.0, "$"),
        ("10 € bis 20 €", 10.0, "EUR"),
        ("2,50 € / 100 g", 2.5, "EUR"),
    ],
)
def test_amount_and_currency(raw: str, amount: float, currency: str | None) -> None:
    found = parse_price(raw)
    assert (found.amount, found.currency) == (amount, currency)
    assert str(found.amount)[0] != "-"


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        ("-5", "is not a finite non-negative number"),
        ("-5 €", "is not a finite non-negative number"),
        ("€ -5", "is not a finite non-negative number"),
        ("\u22125 €", "is not a finite non-negative number"),
        ("(5.00)", "is not a finite non-negative number"),
        ("NaN", "is not a finite non-negative number"),
        ("inf", "is not a finite non-negative number"),
        ("1e999", "is not a finite non-negative number"),
        ("", "is not a finite non-negative number"),
        ("on request", "is not a finite non-negative number"),
        ("3 for 10 €", "holds more than one number"),
        ("was 20 € now 10 €", "holds more than one number"),
    ],
)
def test_what_is_no_price_is_refused(raw: str, why: str) -> None:
    with pytest.raises(ValueError, match="^'.*' " + why) as caught:
        parse_price(raw)
    assert str(caught.value) == f"'{raw}' {why}"


def test_a_long_text_is_cut_in_the_sentence() -> None:
    with pytest.raises(ValueError, match=r"^'x{97}\.\.\.' is not"):
        parse_price("x" * 5000)
