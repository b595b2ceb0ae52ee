"""Queries as shoppers type and photograph them: with typing errors, out of focus, cut off, noisy, before another wall."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial

from pipelines.evaluation import Change, Pixels, QuerySet
from transforms import distortions
from transforms.text_views import TextViewSettings, text_views
from transforms.views import PictureOperations, PictureViews

# A third of the words have a typing error.
_TYPING = TextViewSettings(0, 0, 0, 0, character_noise=1 / 3)


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


def augmented(seed: int) -> Change:
    """Return what makes a view of each picture, as training does: flipped, rotated, zoomed, shifted, lighter or darker."""
    return Change("augmented", pictures=partial(_augment, seed=seed))


def _mistype(texts: Sequence[str], keys: Sequence[str], seed: int) -> list[str]:
    return [text_views(text, 2, _TYPING, seed, key.encode())[1] for text, key in zip(texts, keys, strict=True)]


def _augment(pictures: Pixels, keys: Sequence[str], seed: int) -> Pixels:
    return _views(pictures.shape[1], seed).make(pictures, [key.encode() for key in keys], [1] * len(keys))


@lru_cache(1)
def _views(side: int, seed: int) -> PictureViews:
    return PictureViews(side, PictureOperations(), seed)
