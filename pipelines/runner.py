"""Running Beam pipelines: options, the runner by default, and errors of workers as sentences."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from encoders.bundle import BundleError
from encoders.integrity import IntegrityError
from encoders.pooling import PoolingError
from encoders.tower_spec import TowerError
from pipelines.catalogue import CatalogueError
from pipelines.config import ConfigError
from pipelines.items import BuildError
from pipelines.storage import StorageError
from pipelines.views import ViewVersionError

# The errors of ours that a worker may raise; Beam hands them to the driver as text.
_OURS: dict[str, type[Exception]] = {
    error.__name__: error
    for error in (BuildError, BundleError, CatalogueError, ConfigError, IntegrityError, PoolingError, StorageError, TowerError,
                  ViewVersionError)
}
# What the system refuses there is storage, too.
_OURS |= dict.fromkeys(
    ("OSError", "PermissionError", "FileNotFoundError", "IsADirectoryError", "NotADirectoryError", "TimeoutError"), StorageError
)
_RAISED = re.compile(r"^(?:[\w.]*\.)?(?P<name>\w+): (?P<text>.*?)(?: \[while running '[^']*'\])?$", re.DOTALL)
_View = TypeVar("_View", bound=PipelineOptions)


class _Options(PipelineOptions):
    """Options that make each of their views once: Beam asks for some hundred a pipeline, and parses the flags for each."""

    def view_as(self, cls: type[_View]) -> _View:
        """Return the options as a class of Beam has them; all views share their values."""
        views: dict[type[PipelineOptions], Any] = self.__dict__.setdefault("_views", {})
        if cls not in views:
            views[cls] = super().view_as(cls)
        return views[cls]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_views"}


def check_flags(flags: Sequence[str]) -> None:
    """Refuse flags that Beam does not know either.

    Raises:
        ConfigError: naming the first of them.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for options in _option_classes(PipelineOptions):
        try:
            options._add_argparse_args(cast(Any, parser))
        except argparse.ArgumentError:
            # A class that declares a flag again keeps the first declaration, as in Beam itself.
            continue
    _, unknown = parser.parse_known_args(list(flags))
    if unknown:
        raise ConfigError(f"unknown flag '{unknown[0]}': neither this command nor Beam has it (see --help)")


def _option_classes(parent: type[PipelineOptions]) -> list[type[PipelineOptions]]:
    return [found for child in parent.__subclasses__() for found in (child, *_option_classes(child))]


def run_pipeline(build: Callable[[beam.Pipeline], object], flags: Sequence[str]) -> dict[str, int]:
    """Build and run one pipeline and return its counters by name.

    Without `--runner` it runs in this process, chosen explicitly: the DirectRunner would look for a binary of
    another runner first.

    Raises:
        CatalogueError, StorageError: as a worker raised them.
    """
    options = _Options(list(flags))
    runner = options.view_as(StandardOptions).runner or FnApiRunner()
    pipeline = beam.Pipeline(runner=runner, options=options)
    build(pipeline)
    try:
        result = pipeline.run()
        result.wait_until_finish()
    except Exception as error:
        # This process gets the worker's own error back, its text marked with the step; from elsewhere comes a traceback.
        ours = _as_ours(f"{type(error).__name__}: {error}")
        if ours is None:
            raise
        raise ours from error
    counters = result.metrics().query()["counters"]
    return {counter.key.metric.name: counter.committed or counter.attempted or 0 for counter in counters}


def _as_ours(text: str) -> Exception | None:
    for start in re.finditer(rf"^(?:[\w.]*\.)?(?:{'|'.join(_OURS)}): ", text, re.MULTILINE):
        raised = _RAISED.match(text[start.start() :].split("\n\n")[0].strip())
        if raised is not None:
            return _OURS[raised["name"]](raised["text"].split(" [while running")[0])
    return None
