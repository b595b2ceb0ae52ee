"""What a tower is: the content of its `tower.json`, and what lies beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Literal

Modality = Literal["picture", "text"]
TextForm = Literal["as_is", "lower", "canonical"]
Fit = Literal["crop", "pad", "stretch"]
Resample = Literal["bicubic", "bilinear"]
Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]

LITERT, SAVED_MODEL = "litert", "saved_model"
FORM_FILES = {LITERT: "model.tflite", SAVED_MODEL: "saved_model"}
TOKENIZER_FILES = {"sentencepiece": "tokenizer.model", "tokenizers": "tokenizer.json"}
SPEC_FILE = "tower.json"


class TowerError(ValueError):
    """A tower's folder cannot be read or run, or items do not fit it."""


@dataclass(frozen=True)
class Decoding:
    """How a picture's file becomes the square that a tower takes: arguments of `transforms.decode.decode_picture`."""

    fit: Fit = "stretch"
    resample: Resample = "bicubic"
    crop_ratio: float = 1.0


@dataclass(frozen=True)
class TowerSpec:
    """What a tower is: the content of `tower.json`, where fields that have their default are left out.

    Attributes:
        spec: where it comes from, as given to `encoders.presets.build_tower`.
        modality: what it encodes.
        dimension: D, the dimension of its features.
        weights_hash: hex digest of all that determines a feature besides the item.
        side: pixels of the square that pictures arrive in; None for texts.
        token_limit: tokens a text is cut at; None for pictures and where the tower does not tell.
        batch: pictures that are best encoded at once; texts a batch at most.
        tokenizer: tokenizer of a form that takes ids, a key of TOKENIZER_FILES.
        forms: what the folder holds, keys of FORM_FILES.
        decoding: how a picture's file becomes the square.
        prefix: what is written before each text.
        text_form: what is done to a text then: "lower" case, or "canonical": that, and no ASCII punctuation.
        pixel_mean: what is taken from each pixel where a form takes float32,
        pixel_std: and what it is divided by then.
        precision: Keras's policy of what is computed in 16 bits; weights stay float32, and so do features.
        xla: whether the SavedModel is compiled by XLA, and is the form that jobs run; it changes features by rounding only.
        parts: towers whose features stand side by side, in folders 0, 1 and so on; 0: the tower is one itself.
    """

    spec: str
    modality: Modality
    dimension: int
    weights_hash: str
    side: int | None
    token_limit: int | None
    batch: int
    tokenizer: str | None
    forms: tuple[str, ...]
    decoding: Decoding = Decoding()
    prefix: str = ""
    text_form: TextForm = "as_is"
    pixel_mean: float = 0.0
    pixel_std: float = 1.0
    precision: Precision = "float32"
    xla: bool = False
    parts: int = 0

    def to_json(self) -> str:
        """Write the fields as JSON, always the same text for the same fields."""
        told = {field.name for field in fields(self) if getattr(self, field.name) != field.default}
        content = {name: value for name, value in asdict(self).items() if name in told}
        return json.dumps(content, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> TowerSpec:
        """Read what `to_json` wrote; raises TowerError where fields are missing or unknown."""
        try:
            content = json.loads(text)
        except ValueError as error:
            raise TowerError(f"{SPEC_FILE} is not JSON ({error}): build the tower again") from None
        needed = {field.name for field in fields(cls) if field.default is MISSING}
        known = {field.name for field in fields(cls)}
        if not isinstance(content, dict) or not needed <= set(content) <= known:
            raise TowerError(f"{SPEC_FILE} does not have the fields {sorted(needed)}: build the tower again")
        decoding = Decoding(**_mapping(content.get("decoding", {})))
        return cls(**content | {"forms": tuple(content["forms"]), "decoding": decoding})


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict) or not set(value) <= {field.name for field in fields(Decoding)}:
        raise TowerError(f"{SPEC_FILE} has the decoding {value!r}, which is unknown here: build the tower again")
    return value
