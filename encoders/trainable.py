"""What of a Keras network can be trained further: its layers, from the first to the last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

Layers = tuple[tuple[Any, ...], ...]


def layers_of(network: Any) -> Layers:
    """List the trainable variables of each layer of a network, from the first to the last.

    A layer is what has a kernel (a convolution, a dense map, an embedding) or a whole block of a transformer. What has
    none, like a normalisation, belongs to the layer before it; statistics of batches are never trained.
    """
    layers: list[tuple[Any, ...]] = []
    for variables in _parts(network):
        if layers and not any(len(variable.shape) > 1 for variable in variables):
            layers[-1] += variables
        else:
            layers.append(variables)
    return tuple(layers)


def last_variables(layers: Sequence[Sequence[Any]], count: int | None) -> list[Any]:
    """Return the variables of the last `count` layers, of all of them where it is None."""
    chosen = layers if count is None else layers[max(len(layers) - count, 0) :]
    return [variable for layer in chosen for variable in layer]


def value_of(variable: Any) -> npt.NDArray[Any]:
    """Copy the value of a variable of Keras."""
    return np.array(variable.numpy())


def _parts(layer: Any) -> Iterator[tuple[Any, ...]]:
    children = [child for child in layer._layers if child.trainable_variables]
    kinds = Counter(type(child) for child in children if any(part.trainable_variables for part in child._layers))
    # A row of blocks is taken apart, a block is not.
    if isinstance(layer, keras.Model) or max(kinds.values(), default=0) > 1:
        inside = {id(variable) for child in children for variable in child.trainable_variables}
        own = tuple(variable for variable in layer.trainable_variables if id(variable) not in inside)
        if own:
            yield own
        for child in children:
            yield from _parts(child)
    else:
        yield tuple(layer.trainable_variables)
