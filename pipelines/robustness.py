"""Queries as shoppers type and photograph them: with typing errors, out of focus, cut off, noisy, before another wall.

A photo of a product is its picture mirrored, turned by up to 15 degrees, lighter or darker by up to a tenth of the range from
black to white, and cropped to 85 % of the side: one of these alone, or all of them together, then mirrored every other time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial

from pipelines.evaluation import Change, Pixels, QuerySet
from transforms import distortions
from transforms.text_views import TextViewSettings, text_views
from transforms.views import PictureOperations, PictureViews

# A third of the words have a typing error.
_TYPING = TextViewSettings(0, 0, 0, 0, character_noise=1 / 3)
_STILL = PictureOperations(flip=0, rotate=0, zoom=0, shift=0, brightness=0, contrast=0, noise=0)
_MOVED = {
    "flip": replace(_STILL, flip=1.0), "rotate": replace(_STILL, rotate=15.0), "brightness": replace(_STILL, brightness=0.1)
}  # fmt: skip
_COMPOSED = replace(_STILL, flip=0.5, rotate=15.0, brightness=0.1)
_LEFT = (0.85, 0.85)


def changes_for(queries: QuerySet, seed: int) -> list[Change]:
    """Return what is done to queries one after the other, to see how much less they find.

    Args:
        queries: the queries.
        seed: of what is drawn.
    """
    first = queries.queries[0]
    found = [] if first.text is None else [Change("typos", texts=partial(_mistype, seed=seed))]
    if first.image is not None:
        found += [
            Change(name, pictures=partial(distort, seed=seed))
            for name, distort in (
                ("blur", distortions.blur), ("crop", distortions.crop), ("noise", distortions.noise),
                ("background", distortions.background),
            )
        ]  # fmt: skip
    return found


def photo(seed: int) -> Change:
    """Return what makes a photo of each picture, by all that is done to photos together."""
    return Change("photo", pictures=partial(_photograph, seed=seed))


def photo_parts(seed: int) -> list[Change]:
    """Return what is done to photos, each alone: flip, rotate, brightness, crop."""
    moved = [Change(name, pictures=partial(_move, seed=seed, operations=one)) for name, one in _MOVED.items()]
    return [*moved, Change("crop", pictures=partial(distortions.crop, seed=seed, sides=_LEFT))]


def _mistype(texts: Sequence[str], keys: Sequence[str], seed: int) -> list[str]:
    return [text_views(text, 2, _TYPING, seed, key.encode())[1] for text, key in zip(texts, keys, strict=True)]


def _photograph(pictures: Pixels, keys: Sequence[str], seed: int) -> Pixels:
    return distortions.crop(_move(pictures, keys, seed, _COMPOSED), keys, seed, _LEFT)


def _move(pictures: Pixels, keys: Sequence[str], seed: int, operations: PictureOperations) -> Pixels:
    return _views(pictures.shape[1], seed, operations).make(pictures, [key.encode() for key in keys], [1] * len(keys))


@lru_cache(4)
def _views(side: int, seed: int, operations: PictureOperations) -> PictureViews:
    return PictureViews(side, operations, seed)
