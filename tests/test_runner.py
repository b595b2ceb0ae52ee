"""Running pipelines: what a worker raises reaches the caller as it was said."""

from __future__ import annotations

import apache_beam as beam
import pytest

from pipelines.runner import run_pipeline
from pipelines.storage import StorageError

SENTENCE = "cannot write x: the disk is full; free some space and run it again"
TRACEBACK = f"Traceback ...\npipelines.storage.StorageError: {SENTENCE}"


def fail(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("error", [StorageError(SENTENCE), RuntimeError(TRACEBACK)])
def test_an_error_of_ours_is_the_same_sentence_without_the_step_it_happened_in(error: Exception) -> None:
    with pytest.raises(StorageError) as caught:
        run_pipeline(lambda pipeline: pipeline | beam.Create([error]) | "Step" >> beam.Map(fail), ())
    assert str(caught.value) == SENTENCE


def test_another_error_stays_what_it_is() -> None:
    with pytest.raises(ZeroDivisionError, match="by nothing"):
        run_pipeline(lambda pipeline: pipeline | beam.Create([ZeroDivisionError("by nothing")]) | beam.Map(fail), ())
