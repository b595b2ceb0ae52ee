"""Filters: what they keep, and what they say when they cannot be read."""

from __future__ import annotations

import pyarrow as pa
import pytest

from catalogue_lookup.where import MAX_DEPTH, WhereError, parse_where

BATCH = pa.RecordBatch.from_pydict(
    {
        "id": pa.array(["a", "b", "c", "d", "e"]),
        "price": pa.array([1.0, 50.0, None, 60.5, 7.0]),
        "stock": pa.array([1, 2, 3, None, -5], pa.int32()),
        "code": pa.array([2**60 + 1, 2**60, 0, 0, 0]),
        "colour": pa.array(["red", "blue", None, "it's black", "青"]),
        "new": pa.array([True, False, None, True, False]),
        "tags": pa.array([["a", "b"], [], None, ["b c", "a"], [""]], pa.list_(pa.string())),
        "Base Colour": pa.array(["x", "x", "y", 'a "b"', "y"]),
        "nested": pa.array([{"x": 1}] * 5),
    }
)


def kept(where: str) -> str:
    mask = parse_where(where, BATCH.schema).mask(BATCH)
    return "".join(name for name, fits in zip(BATCH["id"].to_pylist(), mask, strict=True) if fits)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("price < 50", "ae"),
        ("price <= 50", "abe"),
        ("price > 50", "d"),
        ("price >= 50.0", "bd"),
        ("price = 50", "b"),
        ("price == 5e1", "b"),
        ("price != 50", "ade"),
        ("price <> 50", "ade"),
        ("price > -1 and price < +8", "ae"),
        ("stock = -5", "e"),
        ("stock < 2.5", "abe"),
        ("stock in (1, 3.0)", "ac"),
        ("stock not in (1)", "bce"),
        ("code = 1152921504606846977", "a"),
        ("code = 1152921504606846976", "b"),
        ("stock < 99999999999999999999", "abce"),
        ("colour = 'red'", "a"),
        ('colour = "red"', "a"),
        ("colour = 'it''s black'", "d"),
        ('colour = "it\'s black"', "d"),
        ("colour in ('red', '青')", "ae"),
        ("colour not in ('red', 'blue')", "de"),
        ("colour > 'r'", "ae"),
        ("new = true", "ad"),
        ("new != TRUE", "be"),
        ("new in (false)", "be"),
        ("tags = 'a'", "ad"),
        ("tags in ('b', '')", "abe"),
        ("tags != 'a'", "be"),
        ("tags = 'b c'", "d"),
        ("tags = 'b'", "a"),
        ("tags not in ('a', 'b')", "be"),
        ("`Base Colour` = 'x'", "ab"),
        ("'Base Colour' = 'x'", "ab"),
        ('"base colour" = "a ""b"""', "d"),
        ("PRICE < 50 AND Colour IS NOT NULL", "ae"),
        ("price is null", "c"),
        ("price is not null", "abde"),
        ("not price < 50", "bd"),
        ("not not price < 50", "ae"),
        ("not (price < 50 or stock = 2)", ""),
        ("price < 2 or stock = 3", "ac"),
        ("price > 5 and new = true or id = 'c'", "cd"),
        ("price > 5 and (new = true or id = 'c')", "d"),
        ("id='a'or id='b'", "ab"),
    ],
)
def test_a_filter_keeps_the_rows_that_fit(where: str, expected: str) -> None:
    assert kept(where) == expected


COLUMNS = "id, price, stock, code, colour, new, tags, Base Colour"


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("", "the end at position 1 of the filter: a column was expected there"),
        ("price", "the end at position 6 of the filter: =, !=, <, <=, >, >=, 'in', 'not in' or 'is' was expected there"),
        ("price <", "the end at position 8 of the filter: a value (a number, or a text in quotes) was expected there"),
        ("colour = red", "'red' at position 10 of the filter: a value in quotes was expected there"),
        ("prise < 1", f"there is no column 'prise' (position 1 of the filter; columns: {COLUMNS}); did you mean 'price'?"),
        ("new = true and w = 1", f"there is no column 'w' (position 16 of the filter; columns: {COLUMNS})"),
        ("nested = 1", f"there is no column 'nested' (position 1 of the filter; columns: {COLUMNS})"),
        ("__import__('os')", f"there is no column '__import__' (position 1 of the filter; columns: {COLUMNS})"),
        ("price < '5'", "column 'price' holds numbers, not '5' (position 9 of the filter)"),
        ("colour = 5", "column 'colour' holds text, not 5 (position 10 of the filter): write it in quotes"),
        ("new = 1", "column 'new' holds true or false, not 1 (position 7 of the filter)"),
        ("tags < 'a'", "column 'tags' holds several texts: '<' at position 6 of the filter may be =, != or in"),
        ("price < 5 and", "the end at position 14 of the filter: a column was expected there"),
        ("(price < 5", "the end at position 11 of the filter: ')' was expected there"),
        ("price < 5)", "')' at position 10 of the filter: 'and', 'or' or the end was expected there"),
        ("price < 5 price > 3", "'price' at position 11 of the filter: 'and', 'or' or the end was expected there"),
        ("price not 5", "'5' at position 11 of the filter: 'in' was expected there"),
        ("price is 5", "'5' at position 10 of the filter: 'null' was expected there"),
        ("stock in 5", "'5' at position 10 of the filter: '(' was expected there"),
        ("stock in ()", "')' at position 11 of the filter: a value (a number, or a text in quotes) was expected there"),
        ("stock in (1 2)", "'2' at position 13 of the filter: ',' or ')' was expected there"),
        ("5 < price", "'5' at position 1 of the filter: a column was expected there"),
        ("colour = 'red", "the quote at position 10 of the filter is not closed"),
        ("price < 5; 1", "';' at position 10 of the filter means nothing here: put quotes around texts"),
        ("price = 5euro", "'5' at position 9 of the filter means nothing here: put quotes around texts"),
        ("(" * 200, f"the filter is nested deeper than {MAX_DEPTH} parentheses at position {MAX_DEPTH + 2}"),
        ("price < 1" + " " * 100_000, "the filter has 100,009 characters; it may have 100,000"),
    ],
)
def test_a_filter_that_cannot_be_read_says_where_and_what_was_expected(where: str, message: str) -> None:
    with pytest.raises(WhereError) as caught:
        parse_where(where, BATCH.schema)
    assert str(caught.value) == message


def test_a_long_filter_is_read() -> None:
    assert kept(" or ".join(f"stock = {number}" for number in range(2, 3000))) == "bc"
    assert kept("stock in (" + ", ".join(str(number) for number in range(2, 3000)) + ")") == "bc"
    assert kept("not " * 1001 + "new = true") == "be"


def test_a_slice_of_a_batch_and_an_empty_one_are_filtered() -> None:
    fits = parse_where("price < 50 and tags = 'a'", BATCH.schema)
    assert fits.mask(BATCH.slice(0, 0)).tolist() == []
    assert parse_where("new = true", BATCH.schema).mask(BATCH.slice(3)).tolist() == [True, False]
