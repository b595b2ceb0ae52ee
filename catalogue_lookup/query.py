"""Queries: a text, a picture, or both become one vector of the index, without TensorFlow."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
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

    def encode(self, text: str | None = None, image: Picture | None = None) -> Float32:
        """Return the vector of a query: float32[D], unit norm.

        A text and a picture together are pooled by the weights that the bundle fuses with.

        Raises:
            QueryError: the text is empty, or the picture cannot be read.
            BundleError: the bundle has no tower for it.
            ModuleNotFoundError: a package is missing; the message names the extra that brings it.
        """
        if text is None and image is None:
            raise QueryError("nothing to look for: give a text, a picture or both")
        return self.encode_many(None if text is None else [text], None if image is None else [image])[0]

    def encode_many(self, texts: Sequence[str] | None, images: Sequence[Picture] | None) -> Float32:
        """Return the vectors of queries of one kind, of which all have a text, or a picture, or both: float32[N, D].

        Raises:
            QueryError, BundleError, ModuleNotFoundError: as `encode` does.
        """
        vectors = {}
        if images is not None:
            vectors["picture"] = self.vectors("picture", np.stack([self._decode(image) for image in images]))
        if texts is not None:
            vectors["text"] = self.vectors("text", [_cleaned(text) for text in texts])
        return self.bundle.fusion.query(vectors, {})

    def vectors(self, modality: str, items: Any) -> Float32:
        """Return vectors of the shared space, float32[N, d], of cleaned texts or decoded pictures."""
        features = self.bundle.views[modality].of_query(self._tower(modality).encode(items))
        return apply_head(self.bundle.heads[modality], features, block=1)

    def _tower(self, modality: str) -> Tower:
        with self._loading:
            if modality not in self._towers:
                self._towers[modality] = self.bundle.load_tower(modality)
            return self._towers[modality]

    def _decode(self, image: Picture) -> npt.NDArray[np.uint8]:
        side = self._tower("picture").spec.side
        assert side is not None
        try:
            return decode_picture(_content(image), side)
        except PictureError as error:
            name = f" {os.fspath(image)}" if isinstance(image, str | os.PathLike) else ""
            raise QueryError(f"the picture{name} cannot be searched with: {error}") from error


def _cleaned(text: str) -> str:
    cleaned = clean_text(text)
    if not cleaned:
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
