"""Cells of whatever type become texts, numbers and lists; whole arrays and single values agree."""

from __future__ import annotations

import datetime
import decimal
import uuid
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines import columns
from pipelines.column_types import find_path, infer_text_type, infer_type, kept_type, merge_types, value_at

MOMENT = datetime.datetime(2024, 5, 6, 7, 8, 9, 123456)
ARRAYS: dict[str, pa.Array] = {
    "int8": pa.array([1, None, -3], pa.int8()),
    "int64": pa.array([2**62, None, 0]),
    "uint64": pa.array([2**63, None, 0], pa.uint64()),
    "double": pa.array([12.0, None, float("nan"), 1e22, -0.5, float("inf")][:5]),
    "bool": pa.array([True, None, False]),
    "decimal": pa.array([decimal.Decimal("12.50"), None, decimal.Decimal("-3.00")]),
    "whole decimal": pa.array([decimal.Decimal("12"), None], pa.decimal128(9, 0)),
    "string": pa.array(["a", None, "", "中 é"]),
    "dictionary": pa.array(["a", None, "a"]).dictionary_encode(),
    "numbers in a dictionary": pa.array([7, None, 7]).dictionary_encode(),
    "date": pa.array([MOMENT.date(), None]),
    "timestamp": pa.array([MOMENT, None], pa.timestamp("us", "UTC")),
    "null": pa.nulls(3),
    "strings": pa.array([["a", None], None, []], pa.list_(pa.string())),
    "numbers in lists": pa.array([[1, None], None, []], pa.list_(pa.int64())),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_and_single_values_become_the_same(name: str) -> None:
    array, values = ARRAYS[name], ARRAYS[name].to_pylist()
    if kept_type(array.type) is not None and not isinstance(values[0], list):
        for convert in (columns.texts, columns.ids):
            assert convert(array)[0].equals(convert(values)[0])
        kind = kept_type(array.type)
        assert columns.kept(array, kind)[0].equals(columns.kept(values, kind)[0])
    assert columns.string_lists(array)[0].equals(columns.string_lists(values)[0])
    both = [columns.parts([column, column], len(array))[0] for column in (array, values)]
    assert both[0].equals(both[1])
    sliced = array.slice(1)
    assert columns.string_lists(sliced)[0].equals(columns.string_lists(values[1:])[0])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12.0, "12"), (12.5, "12.5"), (float("nan"), None), (1e20, "100000000000000000000"), (0.1, "0.1"), (True, "true"),
        (decimal.Decimal("1200"), "1200"), (decimal.Decimal("1E+3"), "1000"), (decimal.Decimal("0.00"), "0"),
        (b"caf\xc3\xa9", "café"), (MOMENT, "2024-05-06T07:08:09.123456"), (uuid.UUID(int=1), str(uuid.UUID(int=1))),
        ("\ud83d\ude00", "\U0001f600"), ("a\ud83d", "a\ufffd"), (None, None), (datetime.timedelta(seconds=90), "90.0"),
    ],
)  # fmt: skip
def test_scalars_become_text(value: Any, text: str | None) -> None:
    assert columns.as_text(value) == text


def test_values_that_are_no_text_are_problems() -> None:
    array, problems = columns.texts(["a", {"x": 1}, [1]])
    assert array.to_pylist() == ["a", None, None]
    assert problems == {1: "{'x': 1} is an object, not a text", 2: "[1] is a list, not a text"}


@pytest.mark.parametrize(
    ("cells", "kind", "found", "bad"),
    [
        (["5", "-3", None, "x", "1.0", "0x10", "99999999999999999999"], pa.int64(), [5, -3] + [None] * 5, [3, 4, 5, 6]),
        (["5", "1.25", "x", "1e3", None], pa.float64(), [5.0, 1.25, None, 1000.0, None], [2]),
        (["true", "FALSE", "yes", None], pa.bool_(), [True, False, None, None], [2]),
    ],
)  # fmt: skip
def test_cells_of_csv_are_read_as_their_columns_type(cells: Any, kind: Any, found: Any, bad: Any) -> None:
    for column in (cells, pa.array(cells)):
        array, problems = columns.kept(column, kind)
        assert array.to_pylist() == found
        assert list(problems) == bad


def test_json_values_that_do_not_fit_are_null() -> None:
    array, problems = columns.kept([1, 2.0, 2.5, True, "7", 2**70, None, [1]], pa.int64())
    assert array.to_pylist() == [1, 2, None, None, 7, None, None, None]
    assert list(problems) == [2, 3, 5, 7]
    array, problems = columns.kept([1, "x", True, float("nan")], pa.float64())
    assert array.to_pylist() == [1.0, None, None, None]
    assert list(problems) == [1, 2]


def test_a_cell_that_arrow_would_read_as_hexadecimal_is_no_number() -> None:
    array, problems = columns.kept(pa.array(["7", "0x10"]), pa.int64())
    assert array.to_pylist() == [7, None]
    assert problems == {1: "'0x10' is no int64, as other rows have it"}


def test_nanoseconds_are_cut_to_microseconds() -> None:
    array = pa.array([1_234_567_891], pa.timestamp("ns"))
    assert columns.kept(array, pa.timestamp("us"))[0].cast(pa.int64()).to_pylist() == [1_234_567]
    assert columns.texts(array)[0].to_pylist() == ["1970-01-01T00:00:01.234567"]


def test_uuids_and_float32_are_told_as_people_write_them() -> None:
    ids = pa.array([uuid.UUID(int=5).bytes, None], pa.binary(16)).cast(pa.binary(16))
    array = pa.ExtensionArray.from_storage(pa.uuid(), ids)
    assert columns.ids(array)[0].to_pylist() == [str(uuid.UUID(int=5)), None]
    prices = pa.array([19.99, 0.1, 3], pa.float32())
    assert columns.texts(prices)[0].to_pylist() == ["19.99", "0.1", "3"]
    assert columns.kept(prices, pa.float64())[0].to_pylist() == [19.99, 0.1, 3.0]


@pytest.mark.parametrize(
    ("a", "b", "merged"),
    [
        (pa.null(), pa.int8(), pa.int64()),
        (pa.int32(), pa.float32(), pa.float64()),
        (pa.int64(), pa.uint64(), pa.float64()),
        (pa.uint64(), pa.uint64(), pa.uint64()),
        (pa.int64(), pa.string(), pa.string()),
        (pa.bool_(), pa.int64(), pa.string()),
        (pa.decimal128(10, 2), pa.int64(), pa.float64()),
        (pa.decimal128(10, 0), pa.int64(), pa.int64()),
        (pa.date32(), pa.timestamp("ns"), pa.timestamp("us")),
        (pa.timestamp("s", "UTC"), pa.timestamp("ns"), pa.timestamp("us", "UTC")),
        (pa.timestamp("s"), pa.string(), pa.string()),
        (pa.time32("s"), pa.time64("us"), pa.string()),
        (pa.dictionary(pa.int8(), pa.string()), pa.large_string(), pa.string()),
        (pa.list_(pa.string()), pa.string(), pa.list_(pa.string())),
        (pa.list_(pa.null()), pa.large_list(pa.string()), pa.list_(pa.string())),
        (pa.struct([("a", pa.int8())]), pa.string(), pa.struct([("a", pa.int64())])),
        (pa.struct([("a", pa.int8())]), pa.struct([("a", pa.string()), ("b", pa.bool_())]), "struct<a: string, b: bool>"),
    ],
)
def test_types_merge_to_what_holds_both(a: pa.DataType, b: pa.DataType, merged: Any) -> None:
    assert str(merge_types(a, b)) == str(merged)
    assert str(merge_types(b, a)) == str(merged)


def test_types_of_text_and_json_are_those_of_all_values() -> None:
    assert infer_text_type(["1", "-20", "", None]) == pa.int64()
    assert infer_text_type(["1", "2.5", ".5"]) == pa.float64()
    for code in ("007", "1e5", "-", ".", "1 000", "2024-01-01", "12345678901234567890123.x"):
        assert infer_text_type(["1", code]) == pa.string(), code
    assert infer_text_type(["true", "False"]) == pa.bool_()
    assert infer_text_type(["", None]) == pa.null()
    assert infer_type([1, None, 2.5]) == pa.float64()
    assert infer_type([2**70]) == pa.string()
    assert infer_type([{"a": 1}, {"a": "x", "b": [1]}]) == pa.struct([("a", pa.string()), ("b", pa.list_(pa.int64()))])
    assert infer_type([[], "a"]) == pa.list_(pa.string())


def test_names_with_dots_of_their_own_come_before_nested_ones() -> None:
    fields = [
        pa.field("a.b", pa.int8()), pa.field("a", pa.struct([("b", pa.string()), ("c.d", pa.struct([("e", pa.bool_())]))])),
    ]  # fmt: skip
    assert find_path(fields, "a.b") == (("a.b",), pa.int64())
    assert find_path(fields, "a.c.d.e") == (("a", "c.d", "e"), pa.bool_())
    assert find_path(fields, "a.x") is None
    assert value_at({"a": {"c.d": {"e": True}}}, ("a", "c.d", "e")) is True
    assert value_at({"a": "no struct"}, ("a", "b")) is None


def test_descending_gives_null_where_structs_are_null_or_fields_missing() -> None:
    array = pa.array([{"a": {"b": 1}}, None, {"a": None}])
    found = columns.descend(array, ("a", "b"))
    assert isinstance(found, pa.Array)
    assert found.to_pylist() == [1, None, None]
    missing = columns.descend(array, ("x", "y"))
    assert isinstance(missing, pa.Array)
    assert missing.null_count == 3


def test_parts_of_many_columns_come_row_by_row() -> None:
    rng = np.random.default_rng(1)
    cells = [[str(value) if value > 2 else None for value in rng.integers(0, 9, 50)] for _ in range(4)]
    expected = [[column[row] for column in cells if column[row] is not None] for row in range(50)]
    assert columns.parts([pa.array(column) for column in cells], 50)[0].to_pylist() == expected
    assert columns.parts([cells[0], *map(pa.array, cells[1:])], 50)[0].to_pylist() == expected
    assert columns.parts([], 2)[0].to_pylist() == [[], []]
