"""Picture columns of catalogue batches: bytes inside the shard, or paths, one or several a product."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.column_types import STRINGS, is_list
from pipelines.columns import CellProblems, Column, lists_of, plain, string_lists

BINARIES = pa.list_(pa.binary())


def path_lists(column: Column, most: int) -> tuple[pa.Array, CellProblems]:
    """Return the paths of pictures, the first `most` of each row: list<string>[N], null where there is none.

    A cell is a path, a list of them, or a struct with a `path`, or a list of those.
    """
    if isinstance(column, list):
        column = [_inner_paths(value) for value in column]
    else:
        column = _field_of(column, "path")
    lists, problems = string_lists(column)
    found = [[path for path in row or () if path][:most] or None for row in lists.to_pylist()]
    return pa.array(found, STRINGS), problems


def _inner_paths(value: Any) -> Any:
    if isinstance(value, dict) and "path" in value:
        return value["path"]
    return [_inner_paths(item) for item in value] if isinstance(value, list) else value


def picture_lists(column: Column, most: int) -> pa.Array:
    """Return the pictures inside a column, the first `most` of each row: list<binary>[N], null where there is none.

    A cell is the bytes of a file, a list of them, or a struct with `bytes`, or a list of those. Bytes are not copied
    unless some are missing.
    """
    if isinstance(column, list):
        lists = [value if isinstance(value, list) else [value] for value in column]
        bytes_of = (lambda item: item.get("bytes") if isinstance(item, dict) else item)  # noqa: E731
        found = [[data for data in map(bytes_of, items) if isinstance(data, bytes)][:most] or None for items in lists]
        return pa.array(found, BINARIES)
    array = _field_of(column, "bytes")
    if not is_list(array.type):
        return _binary_lists(np.ones(len(array), dtype=np.int64), array)
    array = pc.list_slice(array, 0, most, return_fixed_size_list=False)
    return _binary_lists(pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False), array.flatten())


def _binary_lists(lengths: np.ndarray, values: pa.Array) -> pa.Array:
    values = plain(values)
    if not pa.types.is_binary(values.type):
        values = values.cast(pa.binary())
    if values.null_count:
        valid = values.is_valid().to_numpy(zero_copy_only=False)
        owner = np.repeat(np.arange(len(lengths)), lengths)
        lengths = np.bincount(owner[valid], minlength=len(lengths))
        values = values.drop_null()
    return lists_of(lengths, values, pa.array(lengths == 0))


def _field_of(array: pa.Array, name: str) -> pa.Array:
    """Return a field of an array of structs, or of lists of structs; other arrays stay as they are."""
    if pa.types.is_struct(array.type):
        return pc.struct_field(array, name) if array.type.get_field_index(name) >= 0 else pa.nulls(len(array), pa.string())
    if is_list(array.type) and pa.types.is_struct(array.type.value_type):
        lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
        return lists_of(lengths, _field_of(array.flatten(), name))
    return array
