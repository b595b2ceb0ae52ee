"""Folders as Hugging Face keeps models: read, and turned into the network of a tower.

    config.json                     what the model is; open_clip_config.json for the layout of open_clip
    model.safetensors               weights, or several files with model.safetensors.index.json
    preprocessor_config.json        how pictures are prepared
    tokenizer.json                  or vocab.txt, vocab.json with merges.txt, spiece.model, sentencepiece.bpe.model
    1_Pooling/, modules.json ...    what sentence-transformers adds

Texts of BERT, RoBERTa, XLM-R and DistilBERT run in the exact arithmetic of `encoders.bert`; CLIP and SigLIP in KerasHub's
encoders (`encoders.clip`); ViT, DINOv2, DINOv3, MetaCLIP 2 and timm's networks are converted by KerasHub, ResNeXt-50 by
`encoders.resnext`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from encoders.conversion import PictureNetwork, TextNetwork
from encoders.integrity import hash_file
from encoders.tower_spec import Decoding, Resample, TowerError
from encoders.weights import WeightsError, combine_hashes

WEIGHTS = ("model.safetensors", "open_clip_model.safetensors")
WEIGHTS_INDEX = "model.safetensors.index.json"
# What the features of a folder may depend on, besides the weights.
READ = (
    "config.json", "open_clip_config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt",
    "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "1_Pooling/config.json", "modules.json",
    "sentence_bert_config.json", "config_sentence_transformers.json",
)  # fmt: skip
BERT_LIKE = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert")
CONVERTED = ("vit", "deit", "dinov2", "dinov2_with_registers", "dinov3_vit")
PILLOW_FILTERS: Mapping[int, Resample] = {2: "bilinear", 3: "bicubic"}

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Folder:
    """A model's folder.

    Attributes:
        path: where it lies.
    """

    path: Path

    @classmethod
    def open(cls, name: str) -> Folder:
        """Open a folder; raises TowerError where it holds no model's configuration."""
        folder = cls(Path(name))
        if not any((folder.path / file).is_file() for file in ("config.json", "open_clip_config.json")):
            raise TowerError(f"{name} holds no config.json: name a model's folder in Hugging Face's layout")
        return folder

    def has(self, name: str) -> bool:
        """Tell whether a file is there."""
        return (self.path / name).is_file()

    def json(self, name: str) -> dict[str, Any]:
        """Read a JSON file, {} where there is none; raises TowerError where it is broken."""
        if not self.has(name):
            return {}
        try:
            content = json.loads((self.path / name).read_text("utf-8"))
        except ValueError as error:
            raise TowerError(f"{self.path / name} is not JSON ({error}): download it again") from None
        return content if isinstance(content, dict) else {"": content}

    @cached_property
    def config(self) -> dict[str, Any]:
        """Give config.json."""
        return self.json("config.json")

    @property
    def kind(self) -> str:
        """Give the model's type as `transformers` calls it, or timm's architecture."""
        return str(self.config.get("model_type") or self.config.get("architecture") or "unknown")

    @cached_property
    def weight_files(self) -> list[Path]:
        """Find the files of the weights; raises WeightsError where there are none in safetensors."""
        if self.has(WEIGHTS_INDEX):
            return [self.path / name for name in sorted(set(self.json(WEIGHTS_INDEX)["weight_map"].values()))]
        found = [self.path / name for name in WEIGHTS if self.has(name)]
        if not found:
            raise WeightsError(
                f"{self.path} holds no {WEIGHTS[0]}: weights are read in that format only; transformers writes it by "
                "model.save_pretrained(folder)"
            )
        return found[:1]

    def arrays(self) -> Arrays:
        """Read all weights, floats as float32; raises WeightsError for files that are cut short or foreign."""
        from safetensors import SafetensorError, safe_open

        arrays: Arrays = {}
        for path in self.weight_files:
            try:
                with safe_open(path, framework="np") as file:
                    arrays |= {name: _as_float32(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
            except (SafetensorError, OSError, TypeError, AttributeError) as error:
                raise WeightsError(
                    f"weights file {path} cannot be read ({error}): download it again, or save it as float32"
                ) from error
        return arrays

    def digest(self, recipe: str, settings: Any = None) -> str:
        """Hash all that the features of the folder may depend on, with a recipe and settings."""
        names = [name for name in READ if self.has(name)]
        files = [(name, hash_file(self.path / name)) for name in names]
        weights = [(path.name, hash_file(path)) for path in self.weight_files]
        return combine_hashes(recipe, json.dumps([settings, files, weights], sort_keys=True))


def _as_float32(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return array.astype(np.float32) if array.dtype.kind not in "iub" else array


def picture_network(name: str, options: Mapping[str, str]) -> PictureNetwork:
    """Build the network for pictures of a folder.

    Raises:
        TowerError: there is none, or of a kind that is unknown here, or has no such option.
        WeightsError: the weights are missing, or do not fit.
    """
    folder = Folder.open(name)
    if is_clip(folder):
        from encoders import clip

        _refuse(folder, {name: value for name, value in options.items() if name != "depths"})
        return clip.picture_network(folder, options)
    if folder.kind.startswith("resnext50_32x4d"):
        from encoders import resnext

        _refuse(folder, options)
        return resnext.picture_network(folder)
    if folder.kind in (*CONVERTED, "metaclip_2") or "architecture" in folder.config:
        from encoders import keras_hub_backbone

        folder.weight_files  # noqa: B018 - KerasHub would name another file
        return keras_hub_backbone.converted_picture_network(folder, options)
    raise TowerError(
        f"{name} is a model of type '{folder.kind}', of which no picture tower is made: known are clip, siglip, metaclip_2, "
        f"{', '.join(CONVERTED)} and networks of timm"
    )


def text_network(name: str, options: Mapping[str, str]) -> TextNetwork:
    """Build the network for texts of a folder, as `picture_network` does."""
    folder = Folder.open(name)
    if is_clip(folder):
        from encoders import clip

        _refuse(folder, options)
        return clip.text_network(folder)
    if folder.kind in BERT_LIKE:
        from encoders import bert

        return bert.folder_network(folder, options)
    if folder.kind == "metaclip_2":
        from encoders import keras_hub_backbone

        return keras_hub_backbone.text_network(name, options)
    raise TowerError(
        f"{name} is a model of type '{folder.kind}', of which no text tower is made: known are clip, siglip, metaclip_2, "
        f"{', '.join(BERT_LIKE)}"
    )


def _refuse(folder: Folder, options: Mapping[str, str]) -> None:
    """Raise TowerError for options of a network that is used as it was trained, and has none."""
    if options:
        raise TowerError(f"{folder.path} is a model of type '{folder.kind}', which has no option '{min(options)}': leave it away")


def is_clip(folder: Folder) -> bool:
    """Tell whether a folder holds CLIP or SigLIP, in the layout of `transformers` or of open_clip."""
    return folder.kind in ("clip", "siglip") or folder.has("open_clip_config.json")


@dataclass(frozen=True)
class Pixels:
    """How pixels are prepared: (x / 255 - mean) / std, of pictures that were decoded to `side` as `decoding` says."""

    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    decoding: Decoding

    def scale(self, pictures: Any) -> Any:
        """Turn uint8[B, side, side, 3] into what the network takes."""
        import tensorflow as tf

        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        return (tf.cast(pictures, tf.float32) - 255.0 * mean) / (255.0 * std)


def read_pixels(folder: Folder, side: int, mean: Sequence[float], std: Sequence[float]) -> Pixels:
    """Read how a folder's pictures are prepared: from `transformers`' processor or timm's configuration.

    Args:
        folder: the model's.
        side: pixels of a side that the network takes.
        mean: mean of each channel, in 0..1, where the folder does not say it.
        std: deviation of each, likewise.

    Raises:
        TowerError: the pictures are prepared for another size than the network takes.
    """
    resample: Resample
    timm = folder.config.get("pretrained_cfg")
    if isinstance(timm, dict):
        ratio = float(timm.get("crop_pct", 0.875))
        resample = "bicubic" if timm.get("interpolation") == "bicubic" else "bilinear"
        decoding = Decoding("crop", resample, ratio)
        return Pixels(side, tuple(timm.get("mean", mean)), tuple(timm.get("std", std)), decoding)
    found = folder.json("preprocessor_config.json")
    resample = PILLOW_FILTERS.get(found.get("resample", 3), "bicubic")
    if found.get("do_normalize", True):
        mean, std = found.get("image_mean", mean), found.get("image_std", std)
    else:
        mean, std = (0.0,) * 3, (1.0,) * 3
    given, shortest = prepared_side(folder) or (side, None)
    if given != side:
        raise TowerError(
            f"{folder.path} prepares pictures of {given} pixels (preprocessor_config.json) for a network that takes {side}"
        )
    decoding = Decoding("stretch", resample) if shortest is None else Decoding("crop", resample, given / max(shortest, given))
    return Pixels(side, tuple(mean), tuple(std), decoding)


def prepared_side(folder: Folder) -> tuple[int, int | None] | None:
    """Return the pixels of a side that `transformers` prepares, and those of the shorter one before it crops.

    None where the folder does not say it; the second is None where pictures are stretched.
    """
    found = folder.json("preprocessor_config.json")
    size, crop = found.get("size"), found.get("crop_size")
    shortest = size.get("shortest_edge", size.get("height")) if isinstance(size, dict) else size
    if shortest is None:
        return None
    if not found.get("do_center_crop", isinstance(size, dict) and "shortest_edge" in size):
        return int(shortest), None
    cropped = crop.get("height") if isinstance(crop, dict) else crop
    return int(cropped or shortest), int(shortest)
