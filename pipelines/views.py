"""Views in the jobs: from the configuration to what a feature is made of, and from that to the views of a text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from encoders.pooling import Views
from pipelines.config import Config, ConfigError
from transforms import views as picture_views
from transforms.synonyms import Synonyms
from transforms.text_views import TextViewSettings, text_views, views_hash
from transforms.views import PictureOperations, ViewError, read_strengths


class ViewVersionError(ValueError):
    """Views of a bundle are not those that this version makes."""


def index_views(config: Config, base: Mapping[str, Views] | None = None) -> dict[str, Views]:
    """Return modality -> the views that the index's features are made of.

    Args:
        config: settings; what they do not give is as in `base`, or the default.
        base: the views of a bundle.

    Raises:
        ConfigError: an operation is unknown, its strength means nothing, or a table of synonyms cannot be read.
    """
    before = base or {}
    made = {
        "picture": _picture_views(config, before.get("picture", Views())),
        "text": _text_views(config, before.get("text", Views())),
    }
    if base is None:
        return made
    common = config.view_pooling is not None
    given = {
        "picture": common or config.picture_views is not None or bool(config.picture_operation),
        "text": common or config.text_views is not None or bool(config.text_operation or config.synonyms)
        or config.cross_language is not None,
    }  # fmt: skip
    return {modality: made[modality] if given[modality] else views for modality, views in base.items()}


def _picture_views(config: Config, before: Views) -> Views:
    try:
        operations = asdict(PictureOperations.of({**before.operations, **config.picture_operation}))
    except ViewError as error:
        raise ConfigError(f"--picture-operation: {error}") from error
    return replace(_counted(config, config.picture_views, before), operations=operations, digest=str(picture_views.FORMAT))


def _text_views(config: Config, before: Views) -> Views:
    try:
        operations = asdict(TextViewSettings(**_rates({**before.operations, **config.text_operation})))
    except ValueError as error:
        raise ConfigError(f"--text-operation: {error}") from error
    crossed = before.cross_language if config.cross_language is None else config.cross_language
    try:
        added = tuple((Path(path).name, Path(path).read_text("utf-8")) for path in config.synonyms)
        counted = _counted(config, config.text_views, before)
        views = replace(counted, operations=operations, tables=added or before.tables, cross_language=crossed)
        synonyms = _synonyms(views)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--synonyms: {error}") from error
    return replace(views, digest=views_hash(TextViewSettings(**operations), synonyms))


def _counted(config: Config, count: int | None, before: Views) -> Views:
    """Return views of another count, pooling and seed; those of one view have forgotten what they were made by."""
    count = before.count if count is None else count
    seed = config.seed if before.count == 1 else before.seed
    return replace(before, count=count, pooling=config.view_pooling or before.pooling, seed=seed)


def _synonyms(views: Views) -> Synonyms:
    return _merged(views.tables, views.cross_language)


@lru_cache(maxsize=4)  # asked for by each unit and by each run
def _merged(tables: tuple[tuple[str, str], ...], cross_language: tuple[str, ...]) -> Synonyms:
    return Synonyms.merge(((name, table.encode()) for name, table in tables), cross_language=cross_language)


def _rates(operations: Mapping[str, Any]) -> dict[str, Any]:
    rates: dict[str, Any] = dict(read_strengths(TextViewSettings, operations, "text"))
    if "operations_per_view" in rates:
        rates["operations_per_view"] = int(rates["operations_per_view"])
    return rates


def training_views(config: Config) -> dict[str, Views]:
    """Return modality -> the views that heads are trained on: those of the index, or --views of them side by side."""
    if config.views == 1:
        return index_views(config)
    several = config.replace(picture_views=config.views, text_views=config.views)
    return {modality: replace(of_it, pooling="concatenation") for modality, of_it in index_views(several).items()}


def text_maker(views: Views) -> Callable[[str], list[str]]:
    """Return the function from a cleaned text to its views.

    Raises:
        ViewVersionError: this version of the code, or of its tables, makes other views than those asked for.
    """
    if views.count == 1:
        return lambda text: [text]
    settings, synonyms = TextViewSettings(**_rates(views.operations)), _synonyms(views)
    check_version(views, views_hash(settings, synonyms))
    return partial(text_views, count=views.count, settings=settings, seed=views.seed, synonyms=synonyms)


def check_version(views: Views, digest: str) -> None:
    """Refuse to make views that differ from those the features in store were made of.

    Raises:
        ViewVersionError: they do.
    """
    if views.count > 1 and views.digest != digest:
        raise ViewVersionError(
            "this version makes other views than the bundle was trained with: train a new bundle, or go on with the "
            "version that wrote it"
        )
