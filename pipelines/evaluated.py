"""What a version came to when it was evaluated, kept beside its manifest, and next to the version before it.

`versions/<id>/evaluated.json` is written whole, once all figures are known: being there is being evaluated. Figures of two
versions are compared where both were asked the same queries: texts, pictures by their content, right products and grades.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines import storage
from pipelines.layout import Index, read_json, write_json

EVALUATED_FILE = "evaluated.json"
# The measures that the gate looks at, and how people write them.
GATED = {"ndcg@10": "nDCG@10", "recall@10": "recall@10"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluated:
    """Figures of a version, as shoppers get its answers: by the fused vectors, through Annoy.

    Attributes:
        version: its id.
        queries: path of the file of labelled queries.
        digest: hash of what it asks.
        kinds: by kind of queries ("text", "picture", "both"): how many there are, "queries", how many of their right products
            the version does not have, "lacking", and for each measure "value", "low" and "high".
        seconds: what it took.
    """

    version: str
    queries: str
    digest: str
    kinds: Mapping[str, Mapping[str, Any]]
    seconds: float

    def write(self, index: Index) -> None:
        """Keep it beside the version's manifest."""
        write_json(_path(index, self.version), vars(self))

    def change_since(self, before: Evaluated | None) -> dict[str, dict[str, float]] | None:
        """Return by how much each gated measure of each kind is higher than before; None where they cannot be compared."""
        if before is None or before.digest != self.digest:
            return None
        return {
            kind: {name: round(told[name]["value"] - before.kinds[kind][name]["value"], 4) for name in GATED}
            for kind, told in self.kinds.items()
        }

    def lines(self, before: Evaluated | None) -> Iterable[str]:
        """Yield the figures for a person, a line for each kind, next to those of the version before it."""
        change = self.change_since(before)
        for kind, told in self.kinds.items():
            shown = [
                f"{shown} {told[name]['value']:.3f} ({told[name]['low']:.3f} to {told[name]['high']:.3f}"
                + (")" if change is None else f"; {change[kind][name]:+.3f})")
                for name, shown in GATED.items()
            ]
            lacking = f", {told['lacking']:,} right products lacking" if told["lacking"] else ""
            yield f"evaluation by {self.queries}, {told['queries']:,} queries by {kind}{lacking}: {', '.join(shown)}"


def read_evaluated(index: Index, version: str | None) -> Evaluated | None:
    """Return what a version came to; None where it was not evaluated, or what was kept is damaged, which is logged."""
    if version is None:
        return None
    path = _path(index, version)
    try:
        return Evaluated(**read_json(path))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        _log.warning("%s is damaged, and counts as not there: %s", path, error)
        return None


def reasons_of_evaluation(index: Index, version: str, previous: str | None, max_drop: float) -> list[str]:
    """Return why the figures of a version are too low next to those of another one, a sentence each.

    Args:
        index: paths of the index.
        version: the version.
        previous: the one whose place it would take, None for the first.
        max_drop: by how much nDCG@10 and recall@10 of each kind of queries may be lower.
    """
    now, before = read_evaluated(index, version), read_evaluated(index, previous)
    if now is None or previous is None:
        return []
    change = now.change_since(before)
    if change is None or before is None:
        why = "was not evaluated" if before is None else f"was evaluated by other queries ({before.queries})"
        _log.warning("gate: version %s %s: the figures of version %s are not compared with its own", previous, why, version)
        return []
    return [
        f"{shown} of {now.kinds[kind]['queries']:,} queries by {kind} is {now.kinds[kind][name]['value']:.4f}, "
        f"{-moved[name]:.4f} below the {before.kinds[kind][name]['value']:.4f} of version {previous}, above "
        f"--max-evaluation-drop {max_drop:g}: compare the two with catalogue-index evaluate --version"
        for kind, moved in change.items() for name, shown in GATED.items() if -moved[name] > max_drop + 1e-9
    ]  # fmt: skip


def _path(index: Index, version: str) -> str:
    return storage.join(index.version(version), EVALUATED_FILE)
