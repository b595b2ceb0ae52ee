"""One setting: how it is declared, its flag, and how the value that a flag or a TOML key gives is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, Literal, get_args, get_origin


class ConfigError(ValueError):
    """A flag or a key of the configuration file is wrong; nothing has been done yet."""


def setting(default: Any, does: str) -> Any:
    """Declare one setting: its default and what it does."""
    factory = {"default_factory": lambda: default} if isinstance(default, Mapping) else {"default": default}
    return field(**factory, metadata={"help": does})


def flag(name: str) -> str:
    """Return the flag of a setting."""
    return "--" + name.replace("_", "-")


def choices(kind: Any) -> tuple[str, ...] | None:
    """Return the values that a setting may have where its type lists them."""
    kind = next((part for part in get_args(kind) if get_origin(part) is Literal), kind)
    return get_args(kind) if get_origin(kind) is Literal else None


def base_type(kind: Any) -> Any:
    """Return what a setting holds beside None: bool, int, float, str, tuple or Mapping."""
    if choices(kind):
        return str
    if type(None) in get_args(kind):
        kind = next(part for part in get_args(kind) if part is not type(None))
    origin = get_origin(kind)
    return Mapping if origin is not None and issubclass(origin, Mapping) else origin or kind


def convert(kind: Any, value: Any, where: str, whole: bool = False) -> Any:
    """Turn what a flag or a TOML key gives into a value of a setting's type.

    Args:
        kind: the type.
        value: what is given.
        where: flag or file and key, for messages.
        whole: whether each text of several is one name, though there are commas in it.

    Raises:
        ConfigError: the value is of another type.
    """
    base = base_type(kind)
    if base is Mapping:
        if isinstance(value, Mapping):
            return {str(key): str(part) for key, part in value.items()}
        return named_values(value, where)
    if base is tuple:
        items = list(value) if isinstance(value, list | tuple) else [value]
        if not all(isinstance(item, str) for item in items):
            raise ConfigError(f"{where} takes names, not {value!r}")
        split = items if whole else [part for item in items for part in item.split(",")]
        return tuple(part.strip() for part in split if part.strip())
    if base is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, base) or (base is int and isinstance(value, bool)):
        raise ConfigError(f"{where} takes {base.__name__}, not {value!r}")
    return value


def named_values(given: Sequence[Any], where: str) -> dict[str, str]:
    """Read NAME=VALUE as often as it is given.

    Raises:
        ConfigError: one is of another form; the message says where.
    """
    pairs = [item.partition("=") for item in given if isinstance(item, str)]
    bad = next((key for key, equals, part in pairs if not (key and equals and part)), None)
    if bad is not None or len(pairs) != len(given):
        raise ConfigError(f"{where} takes NAME=VALUE, not '{bad}'")
    return {key.strip(): part.strip() for key, _, part in pairs}
