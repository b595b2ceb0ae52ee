"""What the stages of a run rejected, counted: no row may be lost, and no more rejected than is allowed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from pipelines.job import Job
from pipelines.layout import WITHDRAWN


class RejectRateError(RuntimeError):
    """Too many rows were rejected."""


def sum_rejects(elements: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Add up what the elements of a stage rejected: products and fields by reason."""
    products: Counter[str] = Counter()
    fields: Counter[str] = Counter()
    for element in elements:
        products.update(element["rejected"]["products"])
        fields.update(element["rejected"]["fields"])
    return {"rejected": dict(products), "rejected_fields": dict(fields)}


def check_reject_rate(job: Job, stages: Iterable[Mapping[str, Any]], rows: int) -> None:
    """Fail above `--max-reject-rate`; withdrawn products do not count.

    Raises:
        RejectRateError: naming the commonest reasons.
    """
    reasons: Counter[str] = Counter()
    for counts in stages:
        reasons.update(counts["rejected"])
        reasons.update(counts["rejected_fields"])
    del reasons[WITHDRAWN]
    rejected, most = sum(reasons.values()), job.config.max_reject_rate
    if rows and rejected > most * rows:
        named = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common(3))
        raise RejectRateError(
            f"{rejected:,} rejects in {rows:,} rows ({100 * rejected / rows:.1f} %) are more than --max-reject-rate "
            f"{100 * most:g} %: {named}; see {job.run.file('rejects')}"
        )


def check_sum(job: Job, stages: Iterable[Mapping[str, Any]], rows: int, indexed: int) -> None:
    """Check that what came in is what is indexed plus what is rejected.

    Raises:
        RuntimeError: it is not; the run's files are wrong and nothing may be published.
        RejectRateError: too much is rejected.
    """
    stages = list(stages)
    rejected = sum(sum(counts["rejected"].values()) for counts in stages)
    if rows != indexed + rejected:
        raise RuntimeError(
            f"{rows:,} rows came in, but {indexed:,} are indexed and {rejected:,} rejected: the run {job.run.id} is "
            "damaged; delete its folder and run again"
        )
    check_reject_rate(job, stages, rows)
