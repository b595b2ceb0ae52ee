"""EVALUATE: what a version finds for queries whose right answers are known.

    catalogue-index evaluate --index DIR [--queries FILE | --sample N] [--robustness] [--version ID] [--json]

Without labelled queries they are made of the catalogue itself: pipelines/self_supervised.py.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.evaluated import Evaluated, read_evaluated
from pipelines.evaluation import Change, QuerySet, Result, Version, as_shopped, evaluate, labelled_sets, open_version
from pipelines.labelled_queries import LabelledQueriesError, read_labelled_queries
from pipelines.layout import Index
from pipelines.measures import NAMES, Figure, difference
from pipelines.robustness import changes_for
from pipelines.self_supervised import make_sets

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """What a version found for all sets of queries.

    Attributes:
        version: its id.
        results: of each set and kind of search; of changed queries after those of the same queries as they are.
        missing: sentences on queries that could not be made.
    """

    version: str
    results: tuple[Result, ...]
    missing: tuple[str, ...] = ()

    def to_json(self, seed: int) -> dict[str, Any]:
        """Give the figures as JSON values; those of changed queries with the change from the same queries as they are."""
        return {
            "version": self.version, "missing": list(self.missing),
            "results": [
                result.to_json(seed)
                | ({} if moved is None else {"change": {name: one.to_json() for name, one in moved.items()}})
                for result, moved in self._with_change(seed)
            ],
        }  # fmt: skip

    def table(self, seed: int) -> list[dict[str, str]]:
        """Return rows for people: each measure, and below it the ends of its interval, or of changed queries the change."""
        return [
            {
                "queries": f"  + {result.changes[-1].name}" if moved else f"{result.queries.name} ({len(result.values):,})",
                "by": f"{result.by}, {result.search}",
            }
            | {
                name: f"{one.value:.3f}\n" + (f"{one.low:.2f}-{one.high:.2f}" if moved is None else f"{moved[name].value:+.3f}")
                for name, one in result.figures(seed).items()
            }
            for result, moved in self._with_change(seed)
        ]

    def _with_change(self, seed: int) -> Iterator[tuple[Result, dict[str, Figure] | None]]:
        clean: dict[tuple[str, str, str], Result] = {}
        for result in self.results:
            before = clean.setdefault((result.queries.name, result.by, result.search), result)
            yield result, None if before is result else difference(before.values, result.values, seed)


def evaluate_labelled(
    root: str, version: str | None, path: str, columns: Mapping[str, str], robustness: int | None = None
) -> Evaluation:
    """Evaluate a version on a file of labelled queries.

    Args:
        root: of the index.
        version: which one, None for the current one.
        path: the file.
        columns: its columns of other names, as `read_labelled_queries` takes them.
        robustness: seed of changes that the queries are asked with, too; None: they are not.

    Raises:
        LabelledQueriesError: the file cannot be used, or the version has none of its products.
        IntegrityError, BundleError: as `evaluation.open_version` says.
    """
    labelled = read_labelled_queries(path, columns)
    with open_version(Index(root), version) as opened:
        sets = labelled_sets(opened, labelled)
        if not any((judged.items >= 0).any() for queries in sets for judged in queries.judgements):
            raise LabelledQueriesError(f"{path} names no product of version {opened.manifest.id} as right")
        return Evaluation(opened.manifest.id, tuple(_ask(opened, [(queries, ()) for queries in sets], robustness)))


def evaluate_itself(
    root: str, version: str | None, sample: int, seed: int, catalogue: Sequence[str] = (), robust: bool = False
) -> Evaluation:
    """Evaluate a version on queries made of its own catalogue.

    Args:
        root: of the index.
        version: which one, None for the current one.
        sample: products that queries of a kind are made of, at most.
        seed: of everything random.
        catalogue: where the files of the catalogue lie now; empty: where the version's run read them.
        robust: whether the queries are asked with changes, too.

    Raises:
        IntegrityError, BundleError: as `evaluation.open_version` says.
    """
    with open_version(Index(root), version) as opened, tempfile.TemporaryDirectory() as folder:
        made = make_sets(opened, sample, seed, catalogue, Path(folder))
        results = tuple(_ask(opened, made.sets, seed if robust else None))
        return Evaluation(opened.manifest.id, results, made.missing)


def _ask(
    version: Version, sets: Iterable[tuple[QuerySet, tuple[Change, ...]]], robustness: int | None
) -> Iterator[Result]:
    for queries, changes in sets:
        yield from evaluate(version, queries, *changes)
        for change in changes_for(queries, robustness) if robustness is not None else ():
            yield from evaluate(version, queries, *changes, change)


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
        found = as_shopped(result for queries in labelled_sets(opened, labelled) for result in evaluate(opened, queries))
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
