"""Columns of a catalogue: which one means what, which type holds the values of all shards, and their conversion."""

from __future__ import annotations

import decimal
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa

# What a column holds, over all shards. "structs" are lists of {name, values}.
Kind = Literal["null", "bool", "int", "float", "string", "strings", "bytes", "struct", "structs"]

ALIASES: Mapping[str, tuple[str, ...]] = {
    "product_id": ("product_id", "id", "sku", "item_id", "asin", "article_id", "product_code", "handle", "uuid"),
    "title": ("title", "product_title", "name", "product_name", "product_display_name", "display_name", "item_name"),
    "description": ("description", "product_description", "long_description", "body_html", "body", "desc", "details"),
    "picture": (
        "image", "images", "picture", "pictures", "image_bytes", "picture_bytes", "photo", "photos", "img", "image_path",
        "image_paths", "image_file", "image_url", "image_urls", "image_link", "main_image", "picture_url", "filename",
    ),
    "price": ("price", "sale_price", "unit_price", "amount"),
    "rating": ("rating", "average_rating", "avg_rating", "stars"),
    "review_count": ("review_count", "reviews_count", "num_reviews", "rating_count"),
    "category": ("category", "categories", "master_category", "product_category", "category_path"),
    "brand": ("brand", "brand_name", "vendor", "manufacturer"),
}  # fmt: skip

ARROW: Mapping[str, pa.DataType] = {
    "null": pa.string(), "bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(), "string": pa.string(),
    "strings": pa.list_(pa.string()),
}  # fmt: skip

_SURROGATES = re.compile(r"[\ud800-\udfff]")


def plain(name: str) -> str:
    """Return a column name without case, spaces and signs."""
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def find_alias(canonical: str, names: Iterable[str]) -> str | None:
    """Return the column that commonly goes by another name, the best-known alias first."""
    known: dict[str, str] = {}
    for name in names:
        known.setdefault(plain(name), name)
    return next((known[plain(alias)] for alias in ALIASES[canonical] if plain(alias) in known), None)


def kind_of_type(kind: pa.DataType) -> Kind:
    """Return what an Arrow type holds."""
    types = pa.types
    if types.is_dictionary(kind):
        return kind_of_type(kind.value_type)
    if types.is_null(kind):
        return "null"
    if types.is_boolean(kind):
        return "bool"
    if types.is_integer(kind):
        return "int"
    if types.is_floating(kind) or types.is_decimal(kind):
        return "float"
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind) or types.is_binary_view(kind):
        return "bytes"
    if types.is_struct(kind):
        return "struct"
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = kind_of_type(kind.value_type)
        return "structs" if inner == "struct" else "bytes" if inner == "bytes" else "strings"
    return "string"


def kind_of_value(value: Any) -> Kind:
    """Return what a value read from JSON holds."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if -(1 << 63) <= value < 1 << 63 else "string"
    if isinstance(value, float):
        return "float"
    if isinstance(value, dict):
        return "struct"
    if isinstance(value, list):
        return "structs" if any(isinstance(part, dict) for part in value) else "strings"
    return "string"


def kind_of_text(text: str) -> Kind:
    """Return what a cell of a CSV file looks like: empty, a number, or text."""
    if text == "":
        return "null"
    if text in ("true", "false", "True", "False", "TRUE", "FALSE"):
        return "bool"
    # A leading zero or plus marks a code, not a number.
    if re.fullmatch(r"-?(0|[1-9]\d{0,17})", text):
        return "int"
    if re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?|-?\.\d+|nan|NaN|-?inf", text):
        return "float"
    return "string"


def merge(first: Kind, second: Kind) -> Kind:
    """Return what holds the values of both."""
    if first == second or second == "null":
        return first
    if first == "null":
        return second
    kinds = {first, second}
    if kinds == {"int", "float"}:
        return "float"
    if "bytes" in kinds or "struct" in kinds or "structs" in kinds:
        return first if second in ("string", "strings") else second
    return "strings" if "strings" in kinds else "string"


def reach(value: Any, path: Sequence[str]) -> Any:
    """Follow a dotted path into nested values; None where it ends nowhere.

    Of a list of {name, values} the entry of that name is meant, of any other list the values of all entries.
    """
    for number, name in enumerate(path):
        if isinstance(value, Mapping):
            value = value.get(name)
        elif isinstance(value, list):
            named = [part for part in value if isinstance(part, Mapping) and part.get("name") == name]
            if named:
                found = named[0].get("values", named[0].get("value"))
                return reach(found, path[number + 1 :])
            parts = [reach(part, path[number:]) for part in value if isinstance(part, Mapping)]
            return [p for part in parts if part is not None for p in (part if isinstance(part, list) else [part])] or None
        else:
            return None
    return value


def as_text(value: Any) -> str:
    """Return a value as text: whole floats and decimals without a fraction, lone surrogates replaced."""
    if isinstance(value, str):
        return _SURROGATES.sub("\ufffd", value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e16:
        return str(int(value))
    if isinstance(value, decimal.Decimal):
        return format(value.normalize(), "f") if value == value.to_integral_value() else format(value, "f")
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=True, default=str)
    return str(value)


def convert(value: Any, kind: Kind) -> Any:
    """Convert a value to what its column holds.

    Raises:
        ValueError: it does not fit.
    """
    if value is None or (value == "" and kind != "string"):
        return None
    if kind == "strings":
        parts = value if isinstance(value, list | tuple) else [value]
        return [as_text(part) for part in parts if part is not None]
    if kind in ("string", "null"):
        return as_text(value)
    if kind == "bool":
        if isinstance(value, bool):
            return value
        return {"true": True, "false": False}[as_text(value).lower()]
    if isinstance(value, bool | list | dict):
        raise ValueError(f"{as_text(value)[:100]} is no number")
    if kind == "int":
        number = int(value) if not isinstance(value, float) or value.is_integer() else None
        if number is None or not -(1 << 63) <= number < 1 << 63:
            raise ValueError(f"{value} is no 64-bit integer")
        return number
    return float(value)


def convert_column(values: pa.Array | Sequence[Any], kind: Kind) -> tuple[pa.Array, dict[int, str]]:
    """Convert a column to the Arrow type of its kind.

    Returns:
        The array, and for each value that does not fit, by its position, what it was; it is null in the array.
    """
    target = ARROW[kind]
    if isinstance(values, pa.Array):
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        simple = pa.types.is_string(values.type) or pa.types.is_large_string(values.type) or kind in ("int", "float", "bool")
        if values.type == target or (simple and kind != "strings"):
            try:
                return values.cast(target), {}
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                pass
        values = values.to_pylist()
    converted, bad = [], {}
    for position, value in enumerate(values):
        try:
            converted.append(convert(value, kind))
        except (ValueError, KeyError, TypeError, OverflowError):
            converted.append(None)
            bad[position] = f"'{as_text(value)[:100]}' is no {kind}"
    return pa.array(converted, target), bad
