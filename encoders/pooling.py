"""Views of an item, and how their features become the one feature that is stored of it.

    mean            F = (F_0 + ... + F_{n-1}) / n       D values
    concatenation   F = [F_0, ..., F_{n-1}]             n D values

A query has one view, the item itself; in place of the others its own feature is repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

Pooling = Literal["mean", "concatenation"]
# What bundles and spaces were written with before languages had names; hashes of theirs rest on it.
UNNAMED: Mapping[bool, tuple[str, ...]] = {False: (), True: ("en", "zh")}
Float32 = npt.NDArray[np.float32]


class PoolingError(ValueError):
    """Settings of views that mean nothing."""


@dataclass(frozen=True)
class Views:
    """The seeded views of one modality's items that a feature is made of; part of every feature's key.

    Attributes:
        count: views, the item itself being the first.
        pooling: how their features become one.
        operations: strength of each operation by name, as `transforms` reads it.
        seed: seed of everything random.
        tables: name and content of the user's synonym tables, in order.
        cross_language: languages whose shop words stand for one another.
        digest: what the views of an item depend on besides all this: the version of the code and its own tables.

    With one view nothing else matters, and all of it takes its default.
    """

    count: int = 1
    pooling: Pooling = "mean"
    operations: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    tables: tuple[tuple[str, str], ...] = ()
    cross_language: tuple[str, ...] = ()
    digest: str = ""

    def __post_init__(self) -> None:
        """Check, and forget what one view does not depend on."""
        if self.count < 1:
            raise PoolingError(f"{self.count} views mean nothing; there must be at least 1")
        if self.pooling not in get_args(Pooling):
            raise PoolingError(f"unknown pooling '{self.pooling}' of views; it may be {', '.join(get_args(Pooling))}")
        tables = tuple((name, content) for name, content in self.tables)
        kept: dict[str, Any] = {"operations": dict(sorted(self.operations.items())), "tables": tables}
        kept["cross_language"] = tuple(self.cross_language)
        if self.count == 1:
            kept = {f.name: f.default for f in fields(self) if f.name != "count"} | {"operations": {}}
        for name, value in kept.items():
            object.__setattr__(self, name, value)

    @property
    def slots(self) -> int:
        """Give how often a feature of D values stands in the stored one."""
        return self.count if self.pooling == "concatenation" else 1

    def slot(self, view: int) -> int:
        """Give where the feature of a view goes."""
        return view if self.pooling == "concatenation" else 0

    def of_query(self, features: Float32) -> Float32:
        """Turn features of queries, float32[N, D], into ones like those stored, float32[N, slots * D]."""
        return np.tile(features, (1, self.slots))

    def to_json(self) -> dict[str, Any]:
        """Give the settings as JSON values; crossed languages are `false` for none, `true` for en and zh, else a list."""
        crossed = next((told for told, names in UNNAMED.items() if names == self.cross_language), list(self.cross_language))
        return {**asdict(self), "tables": [list(table) for table in self.tables], "cross_language": crossed}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Views:
        """Read what `to_json` gave; raises TypeError for settings unknown here."""
        crossed = value["cross_language"]
        return cls(**{**value, "cross_language": UNNAMED[crossed] if isinstance(crossed, bool) else crossed})
