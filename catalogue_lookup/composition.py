"""What a query is made of, and how it becomes one vector.

    t = unit(mean of the texts' vectors), p = unit(mean of the pictures'): one vector a modality, however many are given
    words     = what the fusion makes of t and p, as `encoders.fusion` says
    products  = unit(mean of the products' vectors)
    q         = unit(mean of words and products - 0.5 (mean of words and products in `minus`))

This is Rocchio's formula (1971) with alpha = beta = 1 and gamma = 0.5. As q is linear, products are ranked by their
similarity with what is wanted, less a share of that with what is not. `docs/lookup.md` says what the coefficient does.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from catalogue_lookup.query import Float32, Picture, QueryError, mean_of
from encoders.fusion import Fusion
from encoders.ranking import QueryKind

UNWANTED_WEIGHT = 0.5

Kind = TypeVar("Kind")
Ranking = Literal["cosine", "attention"]


class Minus(TypedDict, total=False):
    """What answers are not to be like."""

    text: str | Sequence[str]
    image: Picture | Sequence[Picture]
    product_id: str | Sequence[str]


def kind_of(asked_by: Iterable[str]) -> QueryKind | None:
    """Name the kind of a query by "text", "picture" or "product_id", or by several of them; None for other mixtures."""
    kinds: dict[frozenset[str], QueryKind] = {
        frozenset({"text"}): "text", frozenset({"picture"}): "picture", frozenset({"text", "picture"}): "text_picture",
        frozenset({"product_id"}): "product",
    }  # fmt: skip
    return kinds.get(frozenset(asked_by))


@dataclass(frozen=True)
class Inputs:
    """Texts, pictures and products that are asked by."""

    texts: tuple[str, ...] = ()
    images: tuple[Picture, ...] = ()
    product_ids: tuple[str, ...] = ()

    @staticmethod
    def of(
        text: str | Sequence[str] | None = None,
        image: Picture | Sequence[Picture] | None = None,
        product_id: str | Sequence[str] | None = None,
    ) -> Inputs:
        """Take each alone, as a list or tuple, or as None."""
        return Inputs(_several(text), _several(image), _several(product_id))

    @property
    def given(self) -> list[str]:
        """Name the kinds of inputs that there are."""
        kinds = {"text": self.texts, "image": self.images, "product_id": self.product_ids}
        return [name for name, inputs in kinds.items() if inputs]


def _several(value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list | tuple) else (value,)


@dataclass(frozen=True)
class Query:
    """One query.

    Attributes:
        wanted: what answers are to be like.
        unwanted: what they are not to be like.
        vector: what is looked for instead, float[D].
        weights: weights of the modalities for this query; None: those that the index was built with.
        ranking: what ranks the answers; None: what the version has for a query of its kind.
    """

    wanted: Inputs
    unwanted: Inputs
    vector: npt.ArrayLike | None
    weights: Mapping[str, float] | None
    ranking: Ranking | None = None

    @property
    def kind(self) -> QueryKind | None:
        """Name the kind of query, for which a version may have a ranking of its own; None where it has none for such a query."""
        if self.vector is not None or self.weights is not None or self.unwanted.given:
            return None
        return kind_of("picture" if name == "image" else name for name in self.wanted.given)

    @staticmethod
    def of(
        wanted: Inputs,
        vector: npt.ArrayLike | None,
        minus: Minus | None,
        weights: Mapping[str, float] | None,
        ranking: Ranking | None = None,
    ) -> Query:
        """Check what is given together.

        Raises:
            QueryError: there is nothing to look for, or too much.
        """
        unknown = set(minus or {}) - set(Minus.__annotations__)
        if unknown:
            named = ", ".join(sorted(map(repr, unknown)))
            raise QueryError(f"minus holds {named}; it may hold {', '.join(Minus.__annotations__)}")
        unwanted = Inputs.of(**(minus or {}))
        if vector is None and not wanted.given:
            alone = ": minus says only what not" if unwanted.given else ""
            raise QueryError(f"nothing to look for{alone}: give a text, a picture, both, a product or a vector")
        beside = [*wanted.given, *(["minus"] if unwanted.given else []), *(["weights"] if weights is not None else [])]
        if vector is not None and beside:
            raise QueryError(f"{' and '.join(beside)} and vector are given: a vector is looked for as it is, alone")
        for inputs in (wanted, unwanted):
            _check(inputs)
        if ranking not in (None, *get_args(Ranking)):
            raise QueryError(f"ranking is {ranking!r}; it may be {', '.join(get_args(Ranking))}")
        query = Query(wanted, unwanted, vector, weights, ranking)
        if ranking == "attention" and query.kind is None:
            given = " and ".join(beside or ["vector"])
            raise QueryError(
                f"attention cannot rank a query of {given}: it ranks queries by texts, pictures, both, or products, without "
                "minus and weights; leave ranking out"
            )
        return query


def _check(inputs: Inputs) -> None:
    for one in (*inputs.texts, *inputs.product_ids):
        if not isinstance(one, str):
            raise QueryError(f"text and product_id are texts, not {one!r}")
    for image in inputs.images:
        if not isinstance(image, str | bytes | bytearray | memoryview | os.PathLike) and not hasattr(image, "getexif"):
            raise QueryError(f"image is of type {type(image).__name__}: give the bytes or the path of a file, or a PIL picture")


@dataclass(frozen=True)
class Side:
    """One side of a query, encoded: vectors of its words, float32[d] a modality, and the items of its products."""

    words: Mapping[str, Float32]
    items: npt.NDArray[np.int64]

    def vector(self, fusion: Fusion, products: Float32) -> Float32 | None:
        """Return the mean of words and products: float32[D]; None where there is neither.

        Args:
            fusion: what made the products' vectors.
            products: vectors of the items, float32[N, D].
        """
        parts = []
        if self.words:
            parts.append(fusion.query({name: vector[None] for name, vector in self.words.items()}, {})[0])
        if len(self.items):
            parts.append(mean_of(products))
        return mean_of(np.stack(parts)) if parts else None


NOTHING = Side({}, np.zeros(0, np.int64))


@dataclass(frozen=True)
class Asked:
    """A query whose words are encoded.

    Attributes:
        wanted: what answers are to be like.
        unwanted: what they are not to be like.
        vector, weights, ranking, kind: as those of `Query`.
    """

    wanted: Side
    unwanted: Side = NOTHING
    vector: npt.ArrayLike | None = None
    weights: Mapping[str, float] | None = None
    ranking: Ranking | None = None
    kind: QueryKind | None = None


def compose(wanted: Float32 | None, unwanted: Float32 | None) -> Float32:
    """Return the vector of a query from those of its sides, float32[D]: float32[D].

    Raises:
        QueryError: nothing is left of it.
    """
    assert wanted is not None
    if unwanted is None:
        return wanted
    left: Float32 = wanted - np.float32(UNWANTED_WEIGHT) * unwanted
    norm = np.linalg.norm(left)
    if norm < np.finfo(np.float32).eps:
        raise QueryError("nothing is left of the query without what is in minus")
    return left / norm
