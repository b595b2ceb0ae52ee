"""The parts of a filter, as functions of a batch that compute with pyarrow; `catalogue_lookup.where` parses them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Value = str | int | float | bool
Number = TypeVar("Number", bound=np.generic)
# Computes a part of a filter for a batch: an array of bool.
Node = Callable[[pa.RecordBatch], Any]

_SEPARATOR = "\x1f"


def kind_of(kind: pa.DataType) -> str:
    """Name what a column holds: text, texts, number, truth, or other, which no filter may name."""
    types = pa.types
    if types.is_boolean(kind):
        return "truth"
    if types.is_integer(kind) or types.is_floating(kind):
        return "number"
    if types.is_string(kind) or types.is_large_string(kind):
        return "text"
    if types.is_list(kind) and types.is_string(kind.value_type):
        return "texts"
    return "other"


def compare(operator: Callable[[Any, Any], Any], field: pa.Field, value: Value) -> Node:
    """Compare a column with a value as texts, truths, 64-bit integers, or floats where one of them is a float."""
    if kind_of(field.type) != "number":
        same = scalar(value)
        return lambda batch: operator(batch.column(field.name), same)
    whole = pa.types.is_integer(field.type) and isinstance(value, int)
    target = pa.int64() if whole else pa.float64()
    number = scalar(int(value) if whole else float(value))
    return lambda batch: operator(batch.column(field.name).cast(target, safe=False), number)


def among(field: pa.Field, values: Sequence[Value]) -> Node:
    """Ask whether a column's value, or one of its texts, is among the values; missing is neither true nor false."""
    if kind_of(field.type) != "texts":
        return fold(pc.or_kleene, [compare(pc.equal, field, value) for value in values])

    separator, empty = scalar(_SEPARATOR), scalar("")

    def framed(batch: pa.RecordBatch) -> Any:
        # pyarrow cannot look for a value in lists: they are joined, separators around each text, and searched.
        joined = pc.binary_join(batch.column(field.name), separator)
        return pc.binary_join_element_wise(empty, joined, empty, separator)

    def fits(value: Value) -> Node:
        return lambda batch: pc.match_substring(framed(batch), f"{_SEPARATOR}{value}{_SEPARATOR}")

    return fold(pc.or_kleene, [fits(value) for value in values])


def numbers_of(array: pa.Array, kind: type[Number]) -> npt.NDArray[Number]:
    """View an array of numbers without nulls as numpy does.

    `to_numpy`, like `pa.scalar`, imports pandas where it is installed, which takes longer than a whole query.
    """
    if not len(array):
        return np.zeros(0, kind)
    return np.frombuffer(array.buffers()[1], kind, len(array), array.offset * np.dtype(kind).itemsize)


def scalar(value: Value) -> pa.Scalar:
    """Make a scalar of text, truth, int64 or float64."""
    if isinstance(value, str):
        text = value.encode("utf-8", "replace")
        offsets = np.array([0, len(text)], np.int32)
        return pa.StringArray.from_buffers(1, pa.py_buffer(offsets), pa.py_buffer(text))[0]
    if isinstance(value, bool):
        return pa.Array.from_buffers(pa.bool_(), 1, [None, pa.py_buffer(bytes([value]))])[0]
    kind = pa.float64() if isinstance(value, float) else pa.int64()
    number = np.array([value], np.float64 if isinstance(value, float) else np.int64)
    return pa.Array.from_buffers(kind, 1, [None, pa.py_buffer(number)])[0]


def invert(node: Node) -> Node:
    """Turn true into false and the reverse; missing stays missing."""
    return lambda batch: pc.invert(node(batch))


def fold(operator: Callable[[Any, Any], Any], parts: Sequence[Node]) -> Node:
    """Join parts as a balanced tree: a chain of thousands would be as deep as it is long."""
    if len(parts) == 1:
        return parts[0]
    left, right = (fold(operator, half) for half in (parts[: len(parts) // 2], parts[len(parts) // 2 :]))
    return lambda batch: operator(left(batch), right(batch))
