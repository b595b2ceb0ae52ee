"""What one run of the command comes to, for who watches over nights: `runs/<id>/summary.json`, and `--json`.

docs/operations.md, "The summary of a run", says what each field means. The file is written whole when the command ends,
whatever it ends with; while a run is at work, and after it was killed, there is none.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from pipelines import storage
from pipelines.changes import Changes
from pipelines.config import Config
from pipelines.exit_codes import DONE, FAILED, INTERRUPTED, exit_code
from pipelines.gate import RefusedError
from pipelines.job import Job
from pipelines.labelled_queries import LabelledQueriesError
from pipelines.layout import write_json
from pipelines.prune import Pruned
from pipelines.report import Report, report
from pipelines.stages import STAGES

SUMMARY_FILE = "summary.json"
FORMAT = 1
# The settings that say what a run makes, and what stops it; flags and paths of training are the bundle's business.
_SETTINGS = ("catalogue", "format", "column", "text", "keep", "limit", "strict", "max_reject_rate", "metric", "trees",
             "max_index_bytes", "max_items_per_shard", "seed", "unit_items", "partition_rows", "publish", "min_recall",
             "max_shrink", "evaluation", "max_evaluation_drop", "keep_versions", "grace_hours")  # fmt: skip

_log = logging.getLogger(__name__)


class Night:
    """One run of the command; as a context it writes its summary at the end.

    Attributes:
        job: the job, once it is opened.
        report: what it did, once it is done.
        message: what became of it, in a sentence.
        content: the summary, once the context has ended.
    """

    def __init__(self, command: str, config: Config, dry_run: bool = False):
        """Begin now."""
        self.command, self.config, self.dry_run = command, config, dry_run
        self.started = datetime.now(UTC)
        self.job: Job | None = None
        self.report: Report | None = None
        self.message = ""
        self.content: dict[str, Any] = {}

    def open(self, job: Job) -> None:
        """Take the job that is run; what an earlier attempt said of it counts no more."""
        self.job = job
        storage.remove([job.run.file(SUMMARY_FILE)])

    def done(self, message: str) -> Report:
        """Sum up a job that has come to its end."""
        assert self.job is not None
        self.report, self.message = report(self.job), message
        return self.report

    def prune(self, pruned: Pruned) -> Report:
        """Add to the report what was deleted after it was made."""
        assert self.report is not None
        self.report = replace(self.report, pruned=pruned)
        return self.report

    def keep(self, current: Job, planned: Report | None, message: str) -> Report:
        """Sum up a night on which the current version stays.

        Args:
            current: the job of the current version.
            planned: what tonight's run had found out before it was given up; None: it had not begun to read.
            message: why it stays.
        """
        kept = report(current)
        products = kept.stages["plan"].rows or 0
        self.report = replace(
            kept, changes=Changes.none(kept.version, products), stages={} if planned is None else planned.stages, to_encode={}
        )
        self.message = message
        return self.report

    def __enter__(self) -> Night:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        code = _code(error)
        if error is not None:
            self.message = str(error) or type(error).__name__
        if self.report is None and self.job is not None and storage.exists(self.job.run.plan):
            self.report = report(self.job)
        self.content = self._content(code, None if error is None else self._stage(error))
        if self.job is not None and (not self.dry_run or storage.exists(self.job.run.plan)):
            try:
                write_json(self.job.run.file(SUMMARY_FILE), self.content)
            except storage.StorageError as failure:
                _log.error("the summary of the run is not kept: %s", failure)

    def _stage(self, error: BaseException) -> str:
        """Name the stage that an error came from."""
        if self.job is None:
            return "open"
        if isinstance(error, RefusedError | LabelledQueriesError):
            return "gate"
        return next((stage for stage in STAGES if not storage.exists(self.job.run.ended(stage))), "report")

    def _content(self, code: int, failed: str | None) -> dict[str, Any]:
        ended, told = datetime.now(UTC), self.report
        job = self.job
        content: dict[str, Any] = {
            "format": FORMAT, "command": self.command, "dry_run": self.dry_run, "exit_code": code, "message": self.message,
            "failed_stage": failed, "run": None if job is None else job.run.id, "index": self.config.index,
            "started": self.started.isoformat(timespec="seconds"), "ended": ended.isoformat(timespec="seconds"),
            "seconds": round((ended - self.started).total_seconds(), 3), "pruned": None,
            "settings": {name: getattr(self.config, name) for name in _SETTINGS},
            "bundle": None if job is None or job.bundle is None else job.bundle.rsplit("/", 1)[-1],
            "spaces": {} if job is None else {modality: space.id for modality, space in job.spaces.items()},
            "estimate": {} if job is None else {modality: outlook.to_json() for modality, outlook in job.outlook.items()},
            "version": None, "published": False, "rows": 0, "indexed": 0, "changes": None, "rejected": {}, "rejected_fields": {},
            "to_encode": {}, "encoded": {}, "stages": {}, "recall@10": None, "annoy": None,
            "moved_neighbours": None, "probes": 0, "evaluation": None,
        }  # fmt: skip
        if told is not None:
            content |= {
                "pruned": None if told.pruned is None else told.pruned.to_json(),
                "version": told.version if "version" in told.paths else None, "published": told.published, "rows": told.rows,
                "indexed": told.indexed, "changes": None if told.changes is None else told.changes.to_json(),
                "rejected": told.rejected, "rejected_fields": told.rejected_fields, "to_encode": told.to_encode,
                "encoded": told.encoded, "recall@10": told.recall, "annoy": told.annoy,
                "moved_neighbours": told.moved, "probes": told.probes, "evaluation": _evaluation(told),
                "stages": {
                    stage: {"seconds": pace.seconds, "rows": pace.rows, "rows_per_second": _rounded(pace.rows_per_second)}
                    for stage, pace in told.stages.items()
                },
            }  # fmt: skip
        return content


def _evaluation(told: Report) -> dict[str, Any] | None:
    if told.evaluated is None:
        return None
    change = told.evaluated.change_since(told.evaluated_before)
    since = None if change is None or told.evaluated_before is None else told.evaluated_before.version
    return {**vars(told.evaluated), "since": since, "change": change}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def _code(error: BaseException | None) -> int:
    if error is None:
        return DONE
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    known = exit_code(error) if isinstance(error, Exception) else None
    return FAILED if known is None else known
