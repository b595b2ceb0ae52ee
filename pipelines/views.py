"""Which views an item's feature is made of: from the configuration to `encoders.pooling.Views`."""

from __future__ import annotations

from dataclasses import asdict, replace

from encoders.pooling import Views
from pipelines.config import Config, ConfigError
from transforms.views import PictureOperations, ViewError


def index_views(config: Config) -> dict[str, Views]:
    """Return modality -> the views that the index's features are made of.

    Raises:
        ConfigError: an operation is unknown, or its strength means nothing.
    """
    try:
        picture = asdict(PictureOperations.of(config.picture_operation))
    except ViewError as error:
        raise ConfigError(f"--picture-operation: {error}") from error
    return {
        "picture": Views(config.picture_views, config.view_pooling, picture, config.seed),
        "text": Views(config.text_views, config.view_pooling, {}, config.seed),
    }


def training_views(config: Config) -> dict[str, Views]:
    """Return modality -> the views that heads are trained on: those of the index, or --views of them side by side."""
    views = index_views(config)
    if config.views == 1:
        return views
    several = config.replace(picture_views=config.views, text_views=config.views)
    return {m: replace(of_m, pooling="concatenation") for m, of_m in index_views(several).items()}
