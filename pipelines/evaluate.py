"""EVALUATE: what a version finds for queries whose right answers are known.

catalogue-index evaluate --index DIR --queries FILE [--version ID] [--json]
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

from pipelines.evaluated import Evaluated, read_evaluated
from pipelines.evaluation import Result, evaluate, labelled_sets, of_fused, open_version
from pipelines.labelled_queries import LabelledQueriesError, read_labelled_queries
from pipelines.layout import Index
from pipelines.measures import NAMES

_log = logging.getLogger(__name__)


def evaluate_labelled(
    root: str, version: str | None, path: str, columns: Mapping[str, str]
) -> tuple[str, list[Result]]:
    """Evaluate a version on a file of labelled queries; returns its id and the results.

    Args:
        root: of the index.
        version: which one, None for the current one.
        path: the file.
        columns: its columns of other names, as `read_labelled_queries` takes them.

    Raises:
        LabelledQueriesError: the file cannot be used, or the version has none of its products.
        IntegrityError, BundleError: as `evaluation.open_version` says.
    """
    labelled = read_labelled_queries(path, columns)
    with open_version(Index(root), version) as opened:
        sets = labelled_sets(opened, labelled)
        if not any((judged.items >= 0).any() for queries in sets for judged in queries.judgements):
            raise LabelledQueriesError(f"{path} names no product of version {opened.manifest.id} as right")
        return opened.manifest.id, [result for queries in sets for result in evaluate(opened, queries)]


def evaluate_version(index: Index, version: str, path: str, columns: Mapping[str, str], seed: int) -> Evaluated:
    """Evaluate a version by labelled queries and keep that beside its manifest, unless it is there already.

    Raises:
        LabelledQueriesError: the file cannot be used.
        IntegrityError, BundleError: as `evaluation.open_version` says.
    """
    labelled = read_labelled_queries(path, columns)
    digest, known = labelled.digest(), read_evaluated(index, version)
    if known is not None and known.digest == digest:
        return known
    started = time.monotonic()
    with open_version(index, version) as opened:
        found = of_fused(result for queries in labelled_sets(opened, labelled) for result in evaluate(opened, queries))
    kinds = {
        kind: {"queries": len(result.queries.queries), "lacking": result.queries.lacking}
        | {name: figure.to_json() for name, figure in result.figures(seed).items()}
        for kind, result in found.items()
    }
    evaluated = Evaluated(version, path, digest, kinds, round(time.monotonic() - started, 3))
    evaluated.write(index)
    for line in evaluated.lines(None):
        _log.info("%s; %.1f s", line, evaluated.seconds)
    return evaluated


TABLE = ("queries", "by", *NAMES)


def table(results: Sequence[Result], seed: int) -> list[dict[str, str]]:
    """Return rows for people: of each measure the figure, and below it the ends of its interval."""
    return [
        {"queries": _named(result), "by": f"{result.by}, {result.search}"}
        | {name: f"{one.value:.3f}\n{one.low:.2f}-{one.high:.2f}" for name, one in result.figures(seed).items()}
        for result in results
    ]


def _named(result: Result) -> str:
    changed = f", {result.changed}" if result.changed else ""
    return f"{result.queries.name}{changed} ({len(result.queries.queries):,})"
