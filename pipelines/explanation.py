"""What became of a product, and how it is told to people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

SHOWN_CHARACTERS = 200

INDEXED, WITHDRAWN, REJECTED_ROW, UNKNOWN = "indexed", "withdrawn", "rejected", "unknown"


@dataclass
class Explanation:
    """What became of one product.

    Attributes:
        product_id: the product.
        version: id of the version.
        current: whether that is the version served.
        state: "indexed", "withdrawn" (no answer holds it, and prune may have taken it out), "rejected" or "unknown".
        withdrawn: reason and since, where it is on the list of withdrawn products.
        place: where it is in the version: item, Annoy file and id, file and row of vectors.
        source: shard, row and text, as the run read them.
        rejects: rows and fields of it that were rejected: stage, field (None: the row), reason, detail, shard, row.
        features: what the store holds of each modality.
        columns: columns to show and filter by.
        vectors: norm and dimension of the fused vector; norm and weight of each modality's.
        neighbours: the nearest other products.
        found: by its own "vector" and by its "title": rank of the product among the first hundred answers (None: not among
            them), and which product is the first.
        near: ids of the version that are like the one asked for.
        not_known: what could not be found out, and why.
    """

    product_id: str
    version: str
    current: bool
    state: str = UNKNOWN
    withdrawn: Mapping[str, str] | None = None
    place: Mapping[str, Any] | None = None
    source: Mapping[str, Any] | None = None
    rejects: list[dict[str, Any]] = field(default_factory=list)
    features: list[dict[str, Any]] = field(default_factory=list)
    columns: Mapping[str, Any] = field(default_factory=dict)
    vectors: Mapping[str, Any] | None = None
    neighbours: list[dict[str, Any]] = field(default_factory=list)
    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    near: list[str] = field(default_factory=list)
    not_known: list[str] = field(default_factory=list)

    @property
    def row_reject(self) -> Mapping[str, Any] | None:
        """The reject of the whole product, None where it has none."""
        return next((row for row in self.rejects if row["field"] is None), None)

    @property
    def verdict(self) -> str:
        """Say in a sentence whether the product is found."""
        version = f"version {self.version}" + ("" if self.current else ", which is not the current one")
        if self.state == INDEXED:
            return f"'{self.product_id}' is indexed in {version}"
        if self.state == WITHDRAWN and self.place is None:
            return f"'{self.product_id}' was withdrawn, and prune took it out of {version}"
        if self.state == WITHDRAWN:
            return f"'{self.product_id}' is in {version}, but withdrawn: no answer holds it"
        if self.row_reject is not None:
            return f"'{self.product_id}' was rejected by the run of {version}: {self.row_reject['reason']}"
        return f"'{self.product_id}' is not in the catalogue that {version} was made of"

    def facts(self) -> Iterator[tuple[str, str]]:
        """Yield what there is to tell but for the neighbours, each with its name."""
        if self.withdrawn is not None:
            yield "withdrawn", f"since {self.withdrawn['since']}" + _after(self.withdrawn["reason"])
        for row in self.rejects:
            name = f"rejected {row['field'] or 'row'}"
            yield name, f"{row['reason']}{_after(row['detail'])}\nby {row['stage']}, row {row['row']} of {row['shard']}"
        for name, found in self.found.items():
            rank = "not among the first 100 answers" if found["rank"] is None else f"rank {found['rank']}"
            first = "" if found["rank"] == 1 or found["first"] is None else f"; the first is {found['first']}"
            yield f"search by its {name}", rank + first
        if self.source is not None:
            yield "read from", f"row {self.source['row']} of {self.source['shard']}"
            yield "text", _short(self.source["text"]) or "none"
        for one in self.features:
            yield from _feature(one)
        if self.vectors is not None:
            yield "fused vector", f"{self.vectors['fusion']}, {self.vectors['dimension']} values, norm {self.vectors['norm']:.3f}"
            for name, vector in self.vectors["of"].items():
                yield f"{name} vector", "none" if vector is None else f"norm {vector['norm']:.3f}{_weight(vector['weight'])}"
        if self.place is not None:
            yield "lies in", (
                f"{self.place['annoy']}, id {self.place['annoy_id']}\n{self.place['vectors']}, row {self.place['row']}"
            )
        for name, value in self.columns.items():
            yield f"column {name}", "missing" if value is None else _short(value)
        if self.near:
            yield "ids like it", ", ".join(self.near)
        for sentence in self.not_known:
            yield "not known", sentence


def _weight(weight: float | None) -> str:
    return "" if weight is None else f", weight {weight:.2f} in the fused one"


def _feature(one: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    views = one["views"]
    told = "1 view" if views["count"] == 1 else f"{views['count']} views, {views['pooling']}"
    changes = ", ".join(f"{name} {strength:g}" for name, strength in views["operations"].items() if strength)
    lines = [one["state"] + (", cut at the tower's limit" if one.get("truncated") else "")]
    lines.append(f"by {one['tower']}, {told}" + (f" ({changes})" if changes else ""))
    if "file" in one:
        by = "kept by prune" if one["run"] is None else f"written by run {one['run']}"
        lines += [f"key {one['key']}, {by}", f"{one['file']}, row {one['row']}"]
    else:
        lines.append(f"key {one['key']}, space {one['space']}" if "key" in one else f"space {one['space']}")
    yield f"{one['modality']} feature", "\n".join(lines)


def _after(text: str | None) -> str:
    return f": {text}" if text else ""


def _short(value: Any) -> str:
    text = str(value or "") if not isinstance(value, int | float) else str(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}... ({len(text):,} characters)"
