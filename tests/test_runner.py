"""Running pipelines: what a worker raises reaches the caller as it was said."""

from __future__ import annotations

import apache_beam as beam
import pytest
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import DirectOptions

from pipelines.runner import run_pipeline
from pipelines.storage import StorageError

SENTENCE = "cannot write x: the disk is full; free some space and run it again"
TRACEBACK = f"Traceback ...\npipelines.storage.StorageError: {SENTENCE}"


def count_one(number: int) -> int:
    Metrics.counter("test", "seen").inc()
    return number


def fail(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("error", [StorageError(SENTENCE), RuntimeError(TRACEBACK)])
def test_an_error_of_ours_is_the_same_sentence_without_the_step_it_happened_in(error: Exception) -> None:
    with pytest.raises(StorageError) as caught:
        run_pipeline(lambda pipeline: pipeline | beam.Create([error]) | "Step" >> beam.Map(fail), ())
    assert str(caught.value) == SENTENCE


@pytest.mark.parametrize("mode", ["in_memory", "multi_threading"])
def test_flags_of_beam_reach_the_pipeline_and_work_is_spread(mode: str) -> None:
    flags = ["--direct_num_workers", "2", "--direct_running_mode", mode]
    seen = []

    def build(pipeline: beam.Pipeline) -> beam.PCollection:
        options = pipeline.options.view_as(DirectOptions)
        seen.append((options.direct_num_workers, options.direct_running_mode))
        options.direct_num_workers = 3
        seen.append((pipeline.options.view_as(DirectOptions).direct_num_workers, None))
        return pipeline | beam.Create(range(5), reshuffle=False) | beam.Reshuffle() | beam.Map(count_one)

    assert run_pipeline(build, flags) == {"seen": 5}
    assert seen == [(2, mode), (3, None)]


def test_another_error_stays_what_it_is() -> None:
    with pytest.raises(ZeroDivisionError, match="by nothing"):
        run_pipeline(lambda pipeline: pipeline | beam.Create([ZeroDivisionError("by nothing")]) | beam.Map(fail), ())
