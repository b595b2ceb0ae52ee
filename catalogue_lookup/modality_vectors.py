"""Vectors of the modalities of a version's items, for weights that are chosen by the query and for ranking by attention.

Where the fusion is a concatenation of all modalities, the fused vectors in the Annoy files hold them. For the other
fusions each Annoy file has beside it `modalities/00000-<sha12>.npy`, float16[items, modalities, d] in the order of the
manifest's modalities, zeros where a product lacks one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from catalogue_lookup.manifest import Manifest
from catalogue_lookup.query import Float32, QueryError
from catalogue_lookup.shard import AnnoyShard
from encoders.fusion import Fusion
from encoders.integrity import IntegrityError

Mask = npt.NDArray[np.bool_]


def map_modality_file(path: Path, items: int, modalities: int) -> npt.NDArray[np.float16]:
    """Map a verified file of modality vectors: float16[items, modalities, d].

    Raises:
        IntegrityError: it is no such file, or has another number of items or modalities.
    """
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise IntegrityError(f"{path} holds no modality vectors ({error}): copy the version again") from None
    if mapped.dtype != np.float16 or mapped.ndim != 3 or mapped.shape[:2] != (items, modalities):
        found = f"{mapped.dtype}{list(mapped.shape)}"
        raise IntegrityError(f"{path} holds {found} instead of float16[{items}, {modalities}, d]: copy the version again")
    return mapped


class ModalityVectors:
    """Reads them, and fuses them anew."""

    def __init__(
        self, manifest: Manifest, shards: Sequence[AnnoyShard], files: Sequence[npt.NDArray[np.float16] | None]
    ) -> None:
        """Hold the opened files; `files` are those beside the shards, None where a shard has none."""
        self._manifest = manifest
        self.fusion = Fusion.from_json(manifest.fusion)
        self._shards = list(zip(shards, files, strict=True))

    def close(self) -> None:
        """Let go of the files."""
        self._shards = []

    def check(self) -> None:
        """Raise QueryError where the version does not hold them."""
        if not self.fusion.keeps(self._manifest.modalities) and any(file is None for _, file in self._shards):
            raise QueryError(
                f"version {self._manifest.id} holds no vectors of its modalities beside the fused ones (fusion "
                f"{self.fusion.kind}): build it again to choose weights by the query or to rank by attention"
            )

    def fuse(self, items: npt.NDArray[np.int64], fusion: Fusion) -> Float32:
        """Return the vectors that another fusion makes of items, which are all in the shards: float32[N, D']."""
        fused: Float32 | None = None
        for inside, vectors, structured in self._by_shard(items):
            made = fusion.fuse(vectors, _there(vectors), structured)
            if fused is None:
                fused = np.zeros((len(items), made.shape[1]), np.float32)
            fused[inside] = made
        return np.zeros((0, 0), np.float32) if fused is None else fused

    def of(self, items: npt.NDArray[np.int64]) -> tuple[dict[str, Float32], dict[str, Mask]]:
        """Return the vectors of items, which are all in the shards: float32[N, d] a modality, and which have one, bool[N]."""
        gathered: dict[str, Float32] = {}
        for inside, vectors, _ in self._by_shard(items):
            for name, own in vectors.items():
                gathered.setdefault(name, np.zeros((len(items), own.shape[1]), np.float32))[inside] = own
        return gathered, _there(gathered)

    def _by_shard(
        self, items: npt.NDArray[np.int64]
    ) -> Iterator[tuple[npt.NDArray[np.int64], dict[str, Float32], Float32]]:
        """Yield, for each shard that has any of the items, their places among them, their vectors and structured features."""
        for shard, file in self._shards:
            inside = np.flatnonzero((items >= shard.first_item) & (items < shard.first_item + shard.items))
            if not len(inside):
                continue
            own = shard.vectors(items[inside])
            if file is None:
                vectors, _, structured = self.fusion.split(own)
            else:
                rows = np.asarray(file[items[inside] - shard.first_item], np.float32)
                vectors = {name: rows[:, number] for number, name in enumerate(self._manifest.modalities)}
                structured = self.fusion.structured_of(own)
            yield inside, vectors, structured


def _there(vectors: Mapping[str, Float32]) -> dict[str, Mask]:
    return {name: np.any(block, axis=1) for name, block in vectors.items()}
