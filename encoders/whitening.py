"""Whitened features: what of a picture's feature tells products apart that are alike in words.

Heads learn from texts, and what no text says (the cut, the print, the sole) is lost in their vectors. Beside them stands the
feature itself, brought to its m principal components and whitened there, so that a photo finds the very product it shows (PCA and
whitening of image descriptors: Jegou and Chum, 2012). Texts have zeros there: which pictures a text finds does not change.

Where products have several pictures, what differs between those of one product (the angle, the model, the colour) is measured and
weighed down: whitening by the covariance within products (within-class covariance normalization: Hatch, Kajarekar and
Stolcke, 2006), estimated with the shrinkage of Ledoit and Wolf (2004). Elsewhere each component is divided by the fourth root
of its variance, half way to full whitening.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse.linalg import eigsh

from encoders.heads import BLOCK_ROWS, Head
from encoders.trained_heads import TrainedHeads
from encoders.training_data import ArrayTrainingData

WHITENED = "picture"
# Without knowing how pictures of one product differ, photos find what has their background (docs/quality.md).
SHARE, SHARE_OF_SEVERAL = 0.3, 0.85
LEAST_PRODUCTS = 100
LEAST_SEVERAL = 20
MOST_ROWS = 20_000

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SinglePictures:
    """Features of single pictures of products that have several.

    features: float16 or float32[P, D]; owners: int[P], which of the training's products each shows, sorted.
    """

    features: npt.NDArray[np.floating[Any]]
    owners: npt.NDArray[np.int64]


def whiten(
    trained: TrainedHeads, data: ArrayTrainingData, pictures: SinglePictures | None, dimension: int, share: float | None = None
) -> TrainedHeads:
    """Give the head of pictures `dimension` whitened values beside its learned ones, the other heads as many zeros.

    They are fitted on the first 20,000 products with a picture and on single `pictures`, of products that are not held out.
    There are fewer values where the features vary in fewer directions, and none where fewer than 100 products have pictures.
    Differences within products count where at least 20 have several pictures. The values' share is .85 then, and .3 elsewhere,
    where none is given. Memory is that of two matrices of D x D float64.

    Figures: the `dimension`, `share`, number of `products`, the share of the features' `variance` that is kept, and where it was
    measured within products: how many have `several` pictures, these `pictures`, the `shrinkage`.
    """
    heads, gate = trained.heads, trained.gate
    head = heads.get(WHITENED)
    if head is None or not dimension:
        return TrainedHeads(heads, gate)
    rows = np.flatnonzero(data.present[WHITENED] & ~data.validation_rows)[:MOST_ROWS]
    if len(rows) < LEAST_PRODUCTS:
        return TrainedHeads(heads, gate)
    shown = _of_trained(pictures, data)
    mean, covariance = _moments(chain(_standardised(head, data, rows), _blocks(head, shown.features)))
    variances, components = principal(covariance, dimension)
    told: dict[str, Any] = {"products": len(rows), "variance": round(float(variances.sum() / np.trace(covariance)), 4)}
    differences, several = _differences(head, components, shown)
    if share is None:
        share = SHARE_OF_SEVERAL if several >= LEAST_SEVERAL else SHARE
    if several >= LEAST_SEVERAL:
        within, shrinkage = shrunk_covariance(differences)
        told |= {"several": several, "pictures": len(differences), "shrinkage": round(shrinkage, 4)}
        values, vectors = np.linalg.eigh(within)
        whitening = components @ (vectors / np.sqrt(values)) @ vectors.T
    else:
        whitening = components / variances**0.25
    values = whitening.shape[1]
    made = {name: other.widened(values) for name, other in heads.items()}
    made[WHITENED] = replace(head, whitening=whitening, whitening_bias=-mean @ whitening, whitened_share=share)
    return TrainedHeads(made, None if gate is None else gate.widened(values), {"dimension": values, "share": share, **told})


def principal(covariance: Float64, most: int) -> tuple[Float64, Float64]:
    """Return the largest eigenvalues of a covariance, at most so many, descending, and their vectors: float64[m], float64[D, m].

    Directions with less than a millionth of the largest variance are left out. Each vector's largest value is positive.
    """
    if most < len(covariance) // 2:
        values, vectors = eigsh(covariance, most, which="LA", v0=np.ones(len(covariance)))
    else:
        values, vectors = np.linalg.eigh(covariance)
    order = np.argsort(-values)[:most]
    values, vectors = values[order], vectors[:, order]
    kept = values > 1e-6 * values[0]
    values, vectors = values[kept], vectors[:, kept]
    signs = np.sign(np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0))
    return values, vectors * signs


def shrunk_covariance(differences: Float64) -> tuple[Float64, float]:
    """Return the covariance of rows with mean 0, float64[N, m], drawn towards a multiple of the identity, and the share of that.

    The share is the one of Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices" (2004).
    """
    rows, size = differences.shape
    sample = differences.T @ differences / rows
    scale = np.trace(sample) / size
    distance = float(np.square(sample - scale * np.eye(size)).sum())
    squares = np.square(differences)
    error = float((squares.T @ squares / rows - np.square(sample)).sum()) / rows
    share = min(error, distance) / distance if distance else 1.0
    return (1 - share) * sample + share * scale * np.eye(size), share


def _of_trained(pictures: SinglePictures | None, data: ArrayTrainingData) -> SinglePictures:
    """Return the single pictures of products that are not held out for validation."""
    if pictures is None:
        return SinglePictures(np.zeros((0, 1), np.float32), np.zeros(0, np.int64))
    taken = ~data.validation_rows[pictures.owners]
    return SinglePictures(pictures.features[taken], pictures.owners[taken])


def _standardised(head: Head, data: ArrayTrainingData, rows: npt.NDArray[np.int64]) -> Iterator[Float32]:
    for start in range(0, len(rows), BLOCK_ROWS):
        yield from _blocks(head, data.product_features(WHITENED, rows[start : start + BLOCK_ROWS]))


def _blocks(head: Head, features: npt.NDArray[np.floating[Any]]) -> Iterator[Float32]:
    for start in range(0, len(features), BLOCK_ROWS):
        yield (features[start : start + BLOCK_ROWS].astype(np.float32) - head.mean) / head.scale


def _moments(blocks: Iterable[Float32]) -> tuple[Float64, Float64]:
    """Return mean and covariance of the rows of all blocks, float32[n, D]: float64[D], float64[D, D]."""
    count, total, products = 0, np.zeros(1), np.zeros((1, 1))
    for block in blocks:
        count, total, products = count + len(block), total + block.sum(axis=0, dtype=np.float64), products + block.T @ block
    mean = total / count
    products /= count
    products -= np.outer(mean, mean)
    return mean, products


def _differences(head: Head, components: Float64, pictures: SinglePictures) -> tuple[Float64, int]:
    """Return how pictures differ from the mean of their product's, in the components: float64[P, m]; with the number of products.

    They are scaled as an unbiased covariance asks.
    """
    if not len(pictures.owners):
        return np.zeros((0, components.shape[1])), 0
    reduced = np.concatenate([block @ components for block in _blocks(head, pictures.features)])
    products, place, counts = np.unique(pictures.owners, return_inverse=True, return_counts=True)
    means = np.zeros((len(products), components.shape[1]))
    np.add.at(means, place, reduced)
    means /= counts[:, None]
    of = counts[place]
    there = of > 1
    scale = np.sqrt(of[there] / (of[there] - 1))
    return scale[:, None] * (reduced - means[place])[there], int((counts > 1).sum())
