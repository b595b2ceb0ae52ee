"""Cells of shops' exports: lists by comma, and which of several written prices is the lowest."""

from __future__ import annotations

import pytest

from pipelines.shop_columns import distinct, lowest_price, split_list


@pytest.mark.parametrize(
    ("prices", "lowest"),
    [
        (["120.00", "99.50", "130"], "99.50"),
        (["1.299,00 €", "999,95 €"], "999,95 €"),
        (["1,299.00", "1,300"], "1,299.00"),
        (["12,50", "12.4"], "12.4"),
        (["1.000.000", "999999"], "999999"),
        (["USD 15.", "$14.99"], "$14.99"),
        (["on request", "8"], "8"),
        (["on request", "ask"], "on request"),
        ([None, "", "3"], "3"),
        ([None, ""], None),
        ([], None),
    ],
)
def test_the_lowest_price_is_found_and_left_as_it_is_written(prices: list[str | None], lowest: str | None) -> None:
    assert lowest_price(prices) == lowest


def test_lists_are_split_by_commas_that_are_not_escaped() -> None:
    assert split_list("A > B, C,, 红 ") == ["A > B", "C", "红"]
    assert split_list(r"a\,b.jpg, c.jpg") == ["a,b.jpg", "c.jpg"]
    assert split_list(None) == split_list(" ") == []
    assert distinct(["b", None, "a", "", "b"]) == ["b", "a"]
