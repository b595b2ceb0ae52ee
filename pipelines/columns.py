"""Columns of catalogue batches: cells of whatever type become texts, numbers, lists and pictures.

A column is an Arrow array (Parquet, CSV) or a list of Python values (JSON, and what is addressed inside lists). Each
conversion has a path over whole arrays and one value by value; where both apply they agree.
"""

from __future__ import annotations

import datetime
import decimal
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.column_types import STRINGS, Path, is_list, value_at

Column: TypeAlias = pa.Array | list[Any]

# Row of the batch and what is wrong with its cell.
CellProblems = dict[int, str]


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a shard, as its format gives them.

    Attributes:
        first_row: number of the first one.
        row_group: the row group they are in, of Parquet.
        length: how many.
        columns: what lies at each place that was asked for.
        unreadable: why a row, counted from the first of the block, could not be read.
        bad_texts: rows whose text at a place is not UTF-8, and null here.
        rows: the rows' numbers, where they do not follow one another.
    """

    first_row: int
    row_group: int | None
    length: int
    columns: Mapping[Path, Column]
    unreadable: Mapping[int, str] = field(default_factory=dict)
    bad_texts: Mapping[Path, Sequence[int]] = field(default_factory=dict)
    rows: Sequence[int] | None = None


def plain(array: pa.Array) -> pa.Array:
    """Return an array without dictionary or extension type, of types whose values Python has."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        if kind.extension_name == "arrow.uuid":
            return pa.array([None if value is None else str(value) for value in array.to_pylist()], pa.string())
        return plain(array.storage)
    if pa.types.is_dictionary(kind):
        return plain(array.dictionary_decode())
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return array.cast(pa.string())
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return array.cast(pa.timestamp("us", kind.tz), safe=False)
    if pa.types.is_float32(kind) or pa.types.is_float16(kind):
        # By the shortest text, so that a float32 19.99 is 19.99 and not 19.989999771118164.
        return array.cast(pa.float32()).cast(pa.string()).cast(pa.float64())
    return array


def descend(array: pa.Array, path: Path) -> Column:
    """Return what lies at `path` below an array; from the first list or map on as Python values."""
    for place, name in enumerate(path):
        if not pa.types.is_struct(array.type):
            if is_list(array.type) or pa.types.is_map(array.type):
                return [value_at(value, path[place:]) for value in array.to_pylist()]
            return pa.nulls(len(array))
        if array.type.get_field_index(name) < 0:
            return pa.nulls(len(array))
        array = pc.struct_field(array, name)
    return array


def _values(column: Column) -> list[Any]:
    return column if isinstance(column, list) else plain(column).to_pylist()


def as_text(value: Any) -> str | None:
    """Return a scalar as text: 12.0 as "12", bytes as UTF-8, NaN as nothing, lone surrogates as U+FFFD.

    Raises:
        ValueError: it is no scalar.
    """
    if value is None or isinstance(value, str):
        return value if value is None else mend(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, int | uuid.UUID):
        return str(value)
    if isinstance(value, decimal.Decimal):
        text = f"{value:f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return repr(value.total_seconds())
    raise ValueError(f"{_shown(value)} is {_kind_of(value)}, not a text")


def mend(text: str) -> str:
    """Return a text that UTF-8 can hold: surrogate pairs joined, lone surrogates replaced by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _kind_of(value: Any) -> str:
    return "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else f"a {type(value).__name__}"


def _convert(column: Column, convert: Callable[[Any], Any], kind: pa.DataType) -> tuple[pa.Array, CellProblems]:
    problems: CellProblems = {}
    found: list[Any] = []
    for row, value in enumerate(_values(column)):
        try:
            found.append(convert(value))
        except (ValueError, OverflowError) as error:
            problems[row] = str(error)
            found.append(None)
    return pa.array(found, kind), problems


def texts(column: Column) -> tuple[pa.Array, CellProblems]:
    """Return a column as text; returns string[N] and the cells that are no scalars, null there."""
    if isinstance(column, list):
        try:
            if all(value is None or isinstance(value, str) for value in column):
                return pa.array(column, pa.string()), {}
        except UnicodeEncodeError:
            pass
        return _convert(column, as_text, pa.string())
    array = plain(column)
    kind = array.type
    if pa.types.is_string(kind):
        return array, {}
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind):
        return array.cast(pa.string()), {}
    return _convert(array, as_text, pa.string())


def prices(column: Column) -> tuple[pa.Array, CellProblems]:
    """Return prices as text; string[N]. NaN is "nan": a price that is no number, where nothing would be no price."""

    def price_text(value: Any) -> str | None:
        return "nan" if isinstance(value, float) and math.isnan(value) else as_text(value)

    return _convert(column if isinstance(column, list) else plain(column), price_text, pa.string())


def ids(column: Column) -> tuple[pa.Array, CellProblems]:
    """Return product ids as text; string[N], null where there is none or it is blank."""
    found, problems = texts(column)
    blank = pc.equal(pc.utf8_trim_whitespace(found), "")
    return pc.if_else(blank, pa.scalar(None, pa.string()), found), problems


def parts(columns: Sequence[Column], length: int) -> tuple[pa.Array, list[CellProblems]]:
    """Return the texts of several columns row by row: list<string>[length], in the columns' order, nulls dropped.

    A list of texts gives several parts.
    """
    if any(isinstance(column, list) or is_list(column.type) for column in columns):
        found: list[list[str]] = [[] for _ in range(length)]
        problems: list[CellProblems] = []
        for column in columns:
            lists, bad = string_lists(column)
            problems.append(bad)
            for row, more in zip(found, lists.to_pylist(), strict=True):
                row.extend(more or ())
        return pa.array(found, STRINGS), problems
    each = [texts(column) for column in columns]
    if not each:
        return pa.array([[]] * length, STRINGS), []
    valid = np.stack([array.is_valid().to_numpy(zero_copy_only=False) for array, _ in each], axis=1)
    place = (np.arange(len(each)) * length + np.arange(length)[:, None])[valid]
    return lists_of(valid.sum(axis=1), pa.concat_arrays([array for array, _ in each]).take(pa.array(place))), [
        bad for _, bad in each
    ]


def lists_of(lengths: np.ndarray, values: pa.Array, absent: pa.Array | None = None) -> pa.ListArray:
    """Return lists of these lengths made of consecutive values; where `absent`, the list is null."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values, mask=absent)


def string_lists(column: Column) -> tuple[pa.Array, CellProblems]:
    """Return a column of texts or lists of texts as list<string>[N], with the cells that are neither, null there."""
    if isinstance(column, list):
        return _convert(column, _string_list, STRINGS)
    if not is_list(column.type):
        array, problems = texts(column)
        return lists_of(array.is_valid().to_numpy(zero_copy_only=False), array.drop_null(), array.is_null()), problems
    if column.type.equals(STRINGS) and not column.flatten().null_count:
        return column, {}
    return _convert(column, _string_list, STRINGS)


def _string_list(value: Any) -> list[str] | None:
    if not isinstance(value, list):
        text = as_text(value)
        return None if text is None else [text]
    found = [as_text(item) for item in value]
    return [item for item in found if item is not None]


def kept(column: Column, kind: pa.DataType) -> tuple[pa.Array, CellProblems]:
    """Return a column under its kept type, with the cells that do not fit it, null there; NaN is null.

    Texts are read as numbers where the type is a number; only CSV and prices have such.
    """
    if pa.types.is_string(kind):
        return texts(column)
    if is_list(kind):
        return string_lists(column)
    array, problems = _kept_fast(column, kind)
    if array is None:
        array, problems = _convert(column, lambda value: _fit(value, kind), kind)
    if pa.types.is_float64(kind):
        array = pc.if_else(pc.is_nan(array), pa.scalar(None, kind), array)
    return array, problems


# Values that Arrow takes as they are.
_OWN_TYPES: dict[pa.DataType, set[type]] = {
    pa.bool_(): {bool, NoneType},
    pa.int64(): {int, NoneType},
    pa.float64(): {int, float, NoneType},
}


def _kept_fast(column: Column, kind: pa.DataType) -> tuple[pa.Array | None, CellProblems]:
    if isinstance(column, list):
        own = set(map(type, column)) <= _OWN_TYPES.get(kind, set())
        try:
            return (pa.array(column, kind) if own else None), {}
        except OverflowError:
            return None, {}
    array = plain(column)
    if pa.types.is_string(array.type) and pa.types.is_integer(kind):
        # Arrow reads "0x10" as 16.
        if pc.any(pc.match_substring_regex(array, "[^-0-9]")).as_py():
            return None, {}
    elif is_list(array.type) or pa.types.is_struct(array.type) or pa.types.is_binary(array.type):
        return None, {}
    try:
        return array.cast(kind, safe=not pa.types.is_floating(kind)), {}
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None, {}


def _fit(value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return None
    types = pa.types
    found: Any = None
    if types.is_boolean(kind):
        found = value if isinstance(value, bool) else {"true": True, "false": False}.get(str(value).lower())
    elif types.is_integer(kind) and not isinstance(value, bool):
        found = _integer(value)
    elif types.is_floating(kind) and isinstance(value, int | float | decimal.Decimal | str) and not isinstance(value, bool):
        found = _number(value)
    elif types.is_temporal(kind) and isinstance(value, datetime.date):
        found = value
    if found is None:
        raise ValueError(f"{_shown(value)} is no {kind}, as other rows have it")
    return pa.scalar(found, kind).as_py()


def _integer(value: Any) -> int | None:
    try:
        found = int(value)
        return found if isinstance(value, str) or found == value else None
    except (ValueError, TypeError, OverflowError, decimal.InvalidOperation):
        return None


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
