"""Reviews of a product: cleaned, the most helpful of them chosen, and what each of them weighs.

    feature of a product = sum_r weight_r T(r) / sum_r weight_r         over its chosen reviews r, T the text tower
    weight_r             = binary digits of 1 + votes_r                 1, 2, 2, 3, 3, 3, 3, 4 ... for 0, 1, 2 ... votes

So a review that nobody voted for still counts, a hundred votes weigh as much as seven such reviews, and a vote more a night
hardly ever changes anything, so that hardly anything is encoded again for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NamedTuple

from transforms.text import clean_text, join_texts

MAX_CHARACTERS = 1_000  # of a review, behind which the rest is dropped


class Review(NamedTuple):
    """A review as the catalogue has it: its title and text, and how many found it helpful."""

    title: str
    text: str
    votes: int = 0


class Weighed(NamedTuple):
    """A review that counts: its cleaned text, and its weight in the mean."""

    text: str
    weight: int


def choose_reviews(reviews: Iterable[Review], most: int) -> list[Weighed]:
    """Return the `most` most helpful reviews, in the order of their texts.

    Of equally helpful ones the first count, and of equal texts the most helpful one. Since their order is that of the texts,
    the same reviews in another order are the same.
    """
    votes: dict[str, int] = {}
    for review in reviews:
        text = join_texts([clean_text(review.title), clean_text(review.text)])[:MAX_CHARACTERS].rstrip()
        if text:
            votes[text] = max(votes.get(text, 0), review.votes)
    chosen = sorted(votes, key=lambda text: -votes[text])[:most]
    return [Weighed(text, (1 + votes[text]).bit_length()) for text in sorted(chosen)]


def reviews_content(reviews: Iterable[Weighed]) -> bytes:
    """Return what the feature of a product's reviews depends on: other texts or weights give other bytes."""
    return json.dumps([[review.weight, review.text] for review in reviews], ensure_ascii=False).encode()
