"""Types of catalogue columns: found from values, merged across shards, addressed by dotted names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

Path = tuple[str, ...]

STRINGS = pa.list_(pa.string())
# An entry of a list of structs such as {name, values} is addressed by its name.
NAME_FIELDS = ("name", "key", "code", "attribute_code", "label")
VALUE_FIELDS = ("values", "value")
# And in a struct that stands for a picture, these are its path.
PATH_FIELDS = ("path", "url", "src")
_INTEGER = re.compile(r"-?(0|[1-9]\d{0,17})")
_NUMBER = re.compile(r"-?(0|[1-9]\d*)?(\.\d+)?")
_SCALARS = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string(), bytes: pa.binary()}
_INT64 = range(-(2**63), 2**63)


def infer_type(values: Iterable[Any]) -> pa.DataType:
    """Return the type that fits all values of a column, of JSON or bytes; objects give structs with the fields of all of them."""
    values = list(values)
    kinds = set(map(type, values))
    found = pa.null()
    for kind in kinds & _SCALARS.keys():
        found = merge_types(found, _SCALARS[kind])
    if int in kinds and any(type(value) is int and value not in _INT64 for value in values):
        found = pa.string()
    if dict in kinds:
        objects = [value for value in values if isinstance(value, dict)]
        names = dict.fromkeys(name for value in objects for name in value)
        fields = [(name, infer_type(value.get(name) for value in objects)) for name in names]
        found = merge_types(found, pa.struct(fields))
    if list in kinds:
        items = infer_type(item for value in values if isinstance(value, list) for item in value)
        found = merge_types(found, pa.list_(items))
    return found


def infer_text_type(cells: Iterable[str | None]) -> pa.DataType:
    """Return the type that fits all cells of a CSV column: int64, double, bool or string; null where all are empty.

    Leading zeros, exponents and dates stay text: they are codes as often as not.
    """
    kinds: set[type] = set()
    for cell in cells:
        if not cell:
            continue
        if _INTEGER.fullmatch(cell):
            kinds.add(int)
        elif _NUMBER.fullmatch(cell) and cell != "-":
            kinds.add(float)
        elif cell.lower() in ("true", "false"):
            kinds.add(bool)
        else:
            return pa.string()
    found = pa.null()
    for kind in kinds:
        found = merge_types(found, _SCALARS[kind])
    return found


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return a type as the product keeps it: one width of each, no dictionaries, no extension types."""
    if isinstance(kind, pa.BaseExtensionType):
        return pa.string() if kind.extension_name == "arrow.uuid" else plain_type(kind.storage_type)
    types = pa.types
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if is_list(kind):
        return pa.list_(plain_type(kind.value_type))
    if types.is_map(kind):
        return pa.map_(plain_type(kind.key_type), plain_type(kind.item_type))
    if types.is_struct(kind):
        return pa.struct([(field.name, plain_type(field.type)) for field in kind])
    if types.is_decimal(kind):
        return pa.int64() if kind.scale == 0 and kind.precision <= 18 else pa.float64()
    if types.is_uint64(kind) or types.is_null(kind) or types.is_boolean(kind):
        return kind
    if types.is_integer(kind):
        return pa.int64()
    if types.is_floating(kind):
        return pa.float64()
    if types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    if types.is_date(kind):
        return pa.date32()
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind) or types.is_binary_view(kind):
        return pa.binary()
    return pa.string()


def merge_types(a: pa.DataType, b: pa.DataType) -> pa.DataType:
    """Return the type that holds the values of both; where nothing else does, text does.

    Structs win over scalars, lists over what they are lists of.
    """
    a, b = plain_type(a), plain_type(b)
    types = pa.types
    if a.equals(b) or types.is_null(b):
        return a
    if types.is_null(a):
        return b
    if is_list(a) or is_list(b):
        return pa.list_(merge_types(*(kind.value_type if is_list(kind) else kind for kind in (a, b))))
    if types.is_struct(a) or types.is_struct(b):
        if types.is_struct(a) and types.is_struct(b):
            return _merge_structs(a, b)
        return a if types.is_struct(a) else b
    if types.is_integer(a) and types.is_integer(b):
        return pa.float64()  # one of them is uint64
    if (types.is_integer(a) or types.is_floating(a)) and (types.is_integer(b) or types.is_floating(b)):
        return pa.float64()
    if types.is_temporal(a) and types.is_temporal(b):
        zones = {kind.tz for kind in (a, b) if types.is_timestamp(kind)}
        return pa.timestamp("us", zones.pop() if len(zones) == 1 else "UTC")
    return pa.string()


def _merge_structs(a: pa.StructType, b: pa.StructType) -> pa.StructType:
    fields = {field.name: field.type for field in a}
    for field in b:
        fields[field.name] = merge_types(fields[field.name], field.type) if field.name in fields else field.type
    return pa.struct(list(fields.items()))


def kept_type(kind: pa.DataType) -> pa.DataType | None:
    """Return the type under which a column is kept to show and filter by; None where it is not kept.

    Kept are scalars but binary ones, and lists of strings.
    """
    kind = plain_type(kind)
    if is_list(kind):
        inner = kind.value_type
        return STRINGS if pa.types.is_string(inner) or pa.types.is_null(inner) else None
    if pa.types.is_null(kind):
        return pa.string()
    nested = pa.types.is_struct(kind) or pa.types.is_map(kind)
    return None if nested or pa.types.is_binary(kind) else kind


def is_list(kind: pa.DataType) -> bool:
    """Tell whether a type is some form of list."""
    types = pa.types
    return (
        types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
        or types.is_list_view(kind) or types.is_large_list_view(kind)
    )  # fmt: skip


def named_value(kind: pa.StructType) -> tuple[str, str] | None:
    """Return the names of the fields that make a struct an entry {name, values}, or None."""
    names = [field.name for field in kind]
    name = next((name for name in NAME_FIELDS if name in names), None)
    value = next((name for name in VALUE_FIELDS if name in names), None)
    return (name, value) if name and value else None


def find_path(fields: Iterable[pa.Field], dotted: str) -> tuple[Path, pa.DataType] | None:
    """Find the column that a dotted name addresses; a column whose own name has dots comes first.

    Below a list of structs a name addresses that field of every entry, or else the values of the entry {name,
    values} so called; below a map, the value of that key.

    Returns:
        The path and the type of what lies there, or None.
    """
    columns = {field.name: field.type for field in fields}
    for cut in _cuts(dotted):
        if (kind := columns.get(dotted[:cut])) is not None:
            found = _below(plain_type(kind), dotted[cut + 1 :])
            if found is not None:
                return (dotted[:cut], *found[0]), found[1]
    return None


def _cuts(dotted: str) -> Sequence[int]:
    return [len(dotted), *(i for i in range(len(dotted) - 1, 0, -1) if dotted[i] == ".")]


def _below(kind: pa.DataType, rest: str) -> tuple[Path, pa.DataType] | None:
    if not rest:
        return (), kind
    if pa.types.is_struct(kind):
        return find_path(kind, rest)
    if pa.types.is_map(kind):
        return (rest,), kind.item_type
    if is_list(kind) and pa.types.is_struct(kind.value_type):
        inner = find_path(kind.value_type, rest)
        if inner is not None:
            return inner[0], inner[1] if is_list(inner[1]) else pa.list_(inner[1])
        entry = named_value(kind.value_type)
        if entry is not None:
            return (rest,), kind.value_type.field(entry[1]).type
    return None


def value_at(value: Any, path: Path) -> Any:
    """Return what lies at `path` below a value made of dicts, lists and scalars; None where nothing does."""
    for place, name in enumerate(path):
        if isinstance(value, list):
            return _values_of_entries(value, path[place:])
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def _values_of_entries(entries: list[Any], path: Path) -> Any:
    if entries and isinstance(entries[0], tuple):  # a map, as Arrow gives it
        return value_at(dict(entries), path)
    dicts = [entry for entry in entries if isinstance(entry, dict)]
    if any(path[0] in entry for entry in dicts):
        found = [value_at(entry, path) for entry in dicts]
    else:
        found = [value_at(_entry_values(entry), path[1:]) for entry in dicts if _entry_name(entry) == path[0]]
        if len(found) < 2:
            return found[0] if found else None
    flat: list[Any] = []
    for item in found:
        flat.extend(item if isinstance(item, list) else [item])
    return [item for item in flat if item is not None]


def _entry_name(entry: dict[str, Any]) -> Any:
    return next((entry[name] for name in NAME_FIELDS if entry.get(name) is not None), None)


def _entry_values(entry: dict[str, Any]) -> Any:
    return next((entry[name] for name in VALUE_FIELDS if entry.get(name) is not None), None)
