"""Encoding queries: texts and pictures become vectors of their modalities, without TensorFlow."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Union

import numpy as np
import numpy.typing as npt

from encoders.bundle import Bundle
from encoders.heads import apply_head
from encoders.towers import Tower
from transforms.decode import PictureError, decode_picture
from transforms.text import clean_text

if TYPE_CHECKING:
    import PIL.Image

Float32 = npt.NDArray[np.float32]
Picture = Union[bytes, str, "os.PathLike[str]", "PIL.Image.Image"]

# What Pillow writes as PNG without changing a pixel.
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


class QueryError(ValueError):
    """A query that cannot be answered; the message says why and what to give."""


def mean_of(vectors: Float32) -> Float32:
    """Return the mean of vectors, float32[N, D], brought to unit norm; of a single one, the vector as it is."""
    if len(vectors) == 1:
        return vectors[0]
    mean: Float32 = vectors.mean(axis=0)
    return mean / max(np.linalg.norm(mean), np.finfo(np.float32).tiny)


class QueryEncoder:
    """Encodes queries with a bundle; a tower is loaded when the first query needs it, in its LiteRT form."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._towers: dict[str, Tower] = {}
        self._loading = Lock()

    @property
    def loaded(self) -> tuple[str, ...]:
        """Name the modalities of the towers that are loaded."""
        return tuple(self._towers)

    def load(self, modalities: Iterable[str]) -> None:
        """Load towers before a query needs them, those of modalities that the bundle has."""
        for modality in modalities:
            if modality in self.bundle.heads:
                self._tower(modality)

    def vectors(self, texts: Sequence[str], images: Sequence[Picture]) -> dict[str, Float32]:
        """Return the vector of each modality that is asked by: float32[d], unit norm.

        Of several texts, and of several pictures, it is the mean of their vectors, brought to unit norm.

        Raises:
            QueryError: a text is empty, or a picture cannot be read.
            BundleError: the bundle has no tower for it.
            ModuleNotFoundError: a package is missing; the message names the extra that brings it.
        """
        cleaned = clean_texts(texts)
        found = {}
        if images:
            found["picture"] = mean_of(self.encode("picture", self.decode(images)))
        if cleaned:
            found["text"] = mean_of(self.encode("text", cleaned))
        return found

    def encode(self, modality: str, items: Any) -> Float32:
        """Return the vectors of cleaned texts, or of pictures uint8[N, side, side, 3]: float32[N, d], unit norm."""
        features = self.bundle.views[modality].of_query(self._tower(modality).encode(items))
        return apply_head(self.bundle.heads[modality], features, block=1)

    def _tower(self, modality: str) -> Tower:
        with self._loading:
            if modality not in self._towers:
                self._towers[modality] = self.bundle.load_tower(modality)
            return self._towers[modality]

    def decode(self, images: Sequence[Picture]) -> npt.NDArray[np.uint8]:
        """Return pictures as the tower takes them: uint8[N, side, side, 3].

        Raises:
            QueryError: one cannot be read.
        """
        return np.concatenate([self._decode(image) for image in images])

    def _decode(self, image: Picture) -> npt.NDArray[np.uint8]:
        spec = self._tower("picture").spec
        assert spec.side is not None
        try:
            return decode_picture(_content(image), spec.side, **asdict(spec.decoding))[None]
        except PictureError as error:
            name = f" {os.fspath(image)}" if isinstance(image, str | os.PathLike) else ""
            raise QueryError(f"the picture{name} cannot be searched with: {error}") from error


def clean_texts(texts: Iterable[str]) -> list[str]:
    """Clean texts as those of products are; raises QueryError where nothing is left of one."""
    cleaned = [clean_text(text) for text in texts]
    if not all(cleaned):
        raise QueryError("the text is empty once it is cleaned: say what to look for")
    return cleaned


def _content(image: Picture) -> bytes:
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | os.PathLike):
        try:
            return Path(image).read_bytes()
        except OSError as error:
            raise QueryError(f"cannot read the picture {os.fspath(image)}: {error.strerror}") from error
    stream = io.BytesIO()
    flat = image if image.mode in _PNG_MODES else image.convert("RGB")
    flat.save(stream, "PNG", exif=image.getexif())
    return stream.getvalue()
