"""Views in the jobs: from the configuration to what a feature is made of, and from that to the views of a text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
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


def index_views(config: Config) -> dict[str, Views]:
    """Return modality -> the views that the index's features are made of.

    Raises:
        ConfigError: an operation is unknown, its strength means nothing, or a table of synonyms cannot be read.
    """
    try:
        picture = asdict(PictureOperations.of(config.picture_operation))
    except ViewError as error:
        raise ConfigError(f"--picture-operation: {error}") from error
    try:
        text = asdict(TextViewSettings(**_rates(config)))
    except ValueError as error:
        raise ConfigError(f"--text-operation: {error}") from error
    try:
        tables = tuple((Path(path).name, Path(path).read_text("utf-8")) for path in config.synonyms)
        synonyms = Synonyms.load(config.synonyms, cross_language=config.cross_language)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--synonyms: {error}") from error
    digest = views_hash(TextViewSettings(**text), synonyms)
    return {
        "picture": Views(config.picture_views, config.view_pooling, picture, config.seed, digest=str(picture_views.FORMAT)),
        "text": Views(
            config.text_views, config.view_pooling, text, config.seed, tables, config.cross_language, digest
        ),
    }  # fmt: skip


def _rates(config: Config) -> dict[str, Any]:
    rates: dict[str, Any] = dict(read_strengths(TextViewSettings, config.text_operation, "text"))
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
    settings = TextViewSettings(**_known(views))
    synonyms = Synonyms.merge(((name, table.encode()) for name, table in views.tables), cross_language=views.cross_language)
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


def _known(views: Views) -> dict[str, Any]:
    rates: dict[str, Any] = dict(views.operations)
    return rates | {"operations_per_view": int(rates["operations_per_view"])}
