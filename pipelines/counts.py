"""Counts that a stage leaves, told in the log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pipelines.layout import Stage


def shown(counts: Mapping[str, int]) -> str:
    """List counts with their names, in the order of those."""
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))


def plural(modality: str) -> str:
    """Name several items of a modality: pictures, texts, reviews."""
    return modality if modality.endswith("s") else f"{modality}s"


def each(counts: Mapping[str, int], named: Callable[[str], str]) -> str:
    """List what is not zero of counts by modality, `named` by a function: `plural` gives "3 pictures, 4 texts"."""
    return ", ".join(f"{count:,} {named(modality)}" for modality, count in counts.items() if count) or "nothing"


def moved(share: float | None, probes: int) -> str:
    """Say what moved, after a semicolon; nothing where that is not known."""
    if share is None:
        return ""
    return f"; {100 * share:.1f} % of the neighbours of {probes:,} products moved since the version before"


def told(stage: Stage, counts: Mapping[str, Any]) -> str:
    """Say for a person what a stage did, and what it rejected."""
    parts = [_done(stage, counts)]
    for name, what in (("rejected", "products"), ("rejected_fields", "fields")):
        if counts.get(name):
            parts.append(f"rejected {what}: {shown(counts[name])}")
    return "; ".join(parts)


def _done(stage: Stage, counts: Mapping[str, Any]) -> str:
    match stage:
        case "ingest":
            return f"{counts['rows']:,} rows"
        case "plan":
            return f"{counts['products']:,} products; to encode: {each(counts['missing'], plural)}"
        case "encode":
            cut = {name: count for name, count in counts["truncated"].items() if count}
            at_limit = f"; cut at the tower's limit: {each(cut, plural)}" if cut else ""
            return f"encoded {each(counts['items'], '{} items'.format)}{at_limit}"
        case "collect":
            return f"fresh features of {counts['collected'] or 'no'} spaces"
        case "fuse":
            return f"{counts['products']:,} products"
        case "build":
            recall = "no recall" if counts["recall@10"] is None else f"recall@10 {counts['recall@10']:g}"
            return f"{counts['items']:,} products, {recall}{moved(counts['moved_neighbours'], counts['probes'])}"
        case "publish":
            return f"version {counts['version']} is current: {counts['products']:,} products"
