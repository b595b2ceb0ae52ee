"""Picture columns of catalogue batches: bytes inside the shard, or paths, one or several a product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.column_types import PATH_FIELDS, STRINGS, is_list
from pipelines.columns import CellProblems, Column, lists_of, plain, string_lists

BINARIES = pa.list_(pa.binary())
# How the files of pictures begin; of some, what stands at byte 4 or 8.
_PICTURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")


def is_picture(data: bytes) -> bool:
    """Tell whether bytes begin as a JPEG, PNG, GIF, TIFF, WebP, AVIF or BMP file does."""
    return (
        data.startswith(_PICTURES)
        or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")
        or data[4:12] in (b"ftypavif", b"ftypavis")
        or (data[:2] == b"BM" and data[6:10] == bytes(4))
    )


def path_lists(column: Column, most: int) -> tuple[pa.Array, CellProblems]:
    """Return the paths of pictures, the first `most` of each row: list<string>[N], null where there is none.

    A cell is a path, a struct with a `path`, `url` or `src`, or a list of either.
    """
    found = [_inner_paths(value) for value in column] if isinstance(column, list) else _field_of(column, PATH_FIELDS)
    lists, problems = string_lists(found)
    return pa.array([[path for path in row or () if path][:most] or None for row in lists.to_pylist()], STRINGS), problems


def _inner_paths(value: Any) -> Any:
    if isinstance(value, list):
        return [_inner_paths(item) for item in value]
    if isinstance(value, dict):
        return next((value[name] for name in PATH_FIELDS if name in value), value)
    return value


def picture_lists(column: Column, most: int) -> tuple[pa.Array, CellProblems]:
    """Return the pictures inside a column, the first `most` of each row: list<binary>[N], null where there is none.

    A cell is the bytes of a file, a struct with `bytes`, or a list of either; a text stands for its UTF-8. Bytes are
    not copied unless some are missing. A struct that has only a path, where others have bytes, is a problem.
    """
    if isinstance(column, list):
        lists = [value if isinstance(value, list) else [value] for value in column]
        cells = [[item.get("bytes") if isinstance(item, dict) else item for item in items] for items in lists]
        raw = [[data.encode() if isinstance(data, str) else data for data in items] for items in cells]
        found = [[data for data in items if isinstance(data, bytes)][:most] or None for items in raw]
        return pa.array(found, BINARIES), {}
    array, problems = _field_of(column, ("bytes",)), _only_paths(column)
    if not is_list(array.type):
        return _binary_lists(np.ones(len(array), dtype=np.int64), array), problems
    array = pc.list_slice(array, 0, most, return_fixed_size_list=False)
    return _binary_lists(_lengths(array), array.flatten()), problems


def _only_paths(array: pa.Array) -> CellProblems:
    kind = array.type
    if not pa.types.is_struct(kind) or min(kind.get_field_index("bytes"), kind.get_field_index("path")) < 0:
        return {}
    named = pc.and_(pc.is_null(pc.struct_field(array, "bytes")), pc.is_valid(pc.struct_field(array, "path")))
    rows = pc.indices_nonzero(named).to_pylist()
    return dict.fromkeys(rows, "the picture has a path and no bytes, where other rows have bytes")


def _lengths(array: pa.Array) -> np.ndarray:
    return pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)


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


def _field_of(array: pa.Array, names: Sequence[str]) -> pa.Array:
    """Return the first of these fields of an array of structs or of lists of structs; other arrays stay as they are."""
    kind = array.type
    if pa.types.is_struct(kind):
        name = next((name for name in names if kind.get_field_index(name) >= 0), None)
        return pa.nulls(len(array)) if name is None else pc.struct_field(array, name)
    if is_list(kind) and pa.types.is_struct(kind.value_type):
        return lists_of(_lengths(array), _field_of(array.flatten(), names))
    return array
