"""Towers of one modality whose features stand side by side: one specification, one hash, one feature."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from encoders.tower_spec import FORM_FILES, TowerError, TowerSpec
from encoders.towers import Float32, Tower

MIXED = "mixed"


def join_specs(spec: str, parts: Sequence[TowerSpec]) -> TowerSpec:
    """Describe towers side by side; pictures are decoded to the largest side, and made smaller for the others.

    Raises TowerError where pictures would have to be decoded in several ways.
    """
    decodings = {part.decoding for part in parts}
    if len(decodings) > 1:
        shown = ", ".join(f"{part.spec}: {', '.join(map(str, asdict(part.decoding).values()))}" for part in parts)
        raise TowerError(
            f"towers side by side see the same pixels, but these decode pictures otherwise ({shown}): give them the same "
            "options fit, resample and crop_ratio"
        )
    sides = [part.side for part in parts if part.side is not None]
    digest = hashlib.sha256(json.dumps([part.weights_hash for part in parts]).encode()).hexdigest()
    return TowerSpec(
        spec=spec, modality=parts[0].modality, dimension=sum(part.dimension for part in parts), weights_hash=digest,
        side=max(sides, default=None), token_limit=None, batch=min(part.batch for part in parts), tokenizer=None,
        forms=tuple(form for form in FORM_FILES if all(form in part.forms for part in parts)), decoding=parts[0].decoding,
        parts=len(parts),
    )  # fmt: skip


class SideBySide(Tower):
    """Loaded towers that encode the same items."""

    def __init__(self, spec: TowerSpec, parts: Sequence[Tower]):
        """Keep the parts, in their order."""
        forms = {part.form for part in parts}
        super().__init__(spec, forms.pop() if len(forms) == 1 else MIXED)
        self._parts = parts

    @property
    def runs_in(self) -> str:
        """Say what the parts run in."""
        return " and ".join(dict.fromkeys(part.runs_in for part in self._parts))

    def _encode(self, items: Any) -> Iterator[tuple[slice, Float32]]:
        features = [part.encode(_resized(items, part.spec)) for part in self._parts]
        self.truncated = max(part.truncated for part in self._parts)
        yield slice(None), np.concatenate(features, axis=1)


def _resized(items: Any, spec: TowerSpec) -> Any:
    """Make pictures smaller by the filter they are decoded with; texts and pictures of that size stay as they are."""
    side = spec.side
    if side is None or not len(items) or np.shape(items)[1] == side:
        return items
    from PIL import Image

    resample = Image.Resampling[spec.decoding.resample.upper()]
    resized = [Image.fromarray(picture).resize((side, side), resample) for picture in items]
    return np.stack([np.asarray(picture) for picture in resized])
