"""The layout of open_clip: its configuration and names of weights, brought to those of `transformers`.

Marqo-FashionCLIP, Marqo-FashionSigLIP and LAION's models come as this. The vision side of a SigLIP is timm's there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from encoders.tower_spec import Decoding, Fit, Resample, TowerError

if TYPE_CHECKING:
    from encoders.hugging_face import Arrays, Folder, Pixels

CONFIG = "open_clip_config.json"
HEADS = {1152: 16}  # of a width, where a head has not 64 values

# Longest first; what a block holds comes after.
NAMES = (
    ("visual.trunk.patch_embed.proj.", "vision_model.embeddings.patch_embedding."),
    ("visual.trunk.attn_pool.latent", "vision_model.head.probe"),
    ("visual.trunk.attn_pool.proj.", "vision_model.head.attention.out_proj."),
    ("visual.trunk.attn_pool.norm.", "vision_model.head.layernorm."),
    ("visual.trunk.attn_pool.mlp.", "vision_model.head.mlp."),
    ("visual.trunk.pos_embed", "vision_model.embeddings.position_embedding.weight"),
    ("visual.trunk.norm.", "vision_model.post_layernorm."),
    ("visual.trunk.blocks.", "vision_model.encoder.layers."),
    ("visual.transformer.resblocks.", "vision_model.encoder.layers."),
    ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
    ("visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight"),
    ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    ("visual.ln_pre.", "vision_model.pre_layrnorm."),
    ("visual.ln_post.", "vision_model.post_layernorm."),
    ("transformer.resblocks.", "text_model.encoder.layers."),
    ("token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
    ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    ("ln_final.", "text_model.final_layer_norm."),
    ("text_projection.", "text_model.head."),
)
IN_BLOCKS = (
    (".attn.out_proj.", ".self_attn.out_proj."), (".attn.proj.", ".self_attn.out_proj."), (".ln_1.", ".layer_norm1."),
    (".ln_2.", ".layer_norm2."), (".norm1.", ".layer_norm1."), (".norm2.", ".layer_norm2."),
    (".mlp.c_fc.", ".mlp.fc1."), (".mlp.c_proj.", ".mlp.fc2."),
)  # fmt: skip
JOINED = re.compile(r"(?P<block>.*\.layers\.\d+)\.attn\.(in_proj_|qkv\.)(?P<part>weight|bias)")


def is_layout(arrays: Arrays) -> bool:
    """Tell whether weights are named as open_clip does."""
    return any(name.removeprefix("model.").startswith("visual.") for name in arrays)


def to_transformers(folder: Folder, arrays: Arrays) -> tuple[dict[str, Any], Arrays]:
    """Return a folder's configuration and weights as `transformers` would have them.

    Raises TowerError for networks of other kinds than CLIP's and SigLIP's transformers.
    """
    named = dict(_rename(arrays))
    return _read_config(folder, named), named


def _rename(arrays: Arrays) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    for given, array in arrays.items():
        name = given.removeprefix("model.")
        if name in ("visual.proj", "text_projection"):
            yield {"visual.proj": "visual_projection.weight"}.get(name, "text_projection.weight"), array.T
            continue
        name = name.removeprefix("text.")
        name = next((ours + name.removeprefix(theirs) for theirs, ours in NAMES if name.startswith(theirs)), name)
        for theirs, ours in IN_BLOCKS:
            name = name.replace(theirs, ours)
        joined = JOINED.fullmatch(name)
        if joined:
            for letter, part in zip("qkv", np.split(array, 3), strict=True):
                yield f"{joined['block']}.self_attn.{letter}_proj.{joined['part']}", part
        elif name.startswith("visual.trunk.attn_pool.kv."):
            query = arrays[given.replace(".kv.", ".q.")]
            yield f"vision_model.head.attention.in_proj_{name.rpartition('.')[2]}", np.concatenate([query, array])
        else:
            yield name, array


def _read_config(folder: Folder, arrays: Arrays) -> dict[str, Any]:
    model = folder.json(CONFIG).get("model_cfg")
    if model is None:
        raise TowerError(f"{folder.path} has weights as open_clip names them, and no {CONFIG}: download that file, too")
    vision, text = model["vision_cfg"], model["text_cfg"]
    if text.get("hf_model_name") or isinstance(vision.get("layers"), list):
        raise TowerError(f"{folder.path} is an open_clip model with another text encoder or a ResNet: it is not read here")
    siglip = "timm_model_name" in vision
    if siglip and "vision_model.head.probe" not in arrays:
        raise TowerError(f"{folder.path} has the vision network {vision['timm_model_name']}: of timm's only SigLIP's is read")
    act = "gelu_pytorch_tanh" if siglip else "quick_gelu" if model.get("quick_gelu") else "gelu"
    sides = {
        "vision_config": _measure(arrays, "vision_model", vision.get("head_width", 64)) | {"hidden_act": act},
        "text_config": _measure(arrays, "text_model", 64) | {"hidden_act": act},
    }
    table = arrays["text_model.embeddings.token_embedding.weight"]
    positions = arrays["text_model.embeddings.position_embedding.weight"]
    patch = arrays["vision_model.embeddings.patch_embedding.weight"].shape[-1]
    sides["text_config"] |= {"vocab_size": len(table), "max_position_embeddings": positions.shape[-2]}
    sides["text_config"]["num_attention_heads"] = text.get("heads", sides["text_config"]["num_attention_heads"])
    places = arrays["vision_model.embeddings.position_embedding.weight"].shape[-2] - (not siglip)
    sides["vision_config"] |= {"image_size": round(places**0.5) * patch, "patch_size": patch}
    return {"model_type": "siglip" if siglip else "clip", **sides}


def _measure(arrays: Arrays, side: str, head: int) -> dict[str, Any]:
    blocks = {name.split(".")[3] for name in arrays if name.startswith(f"{side}.encoder.layers.")}
    wide, width = arrays[f"{side}.encoder.layers.0.mlp.fc1.weight"].shape
    heads = HEADS.get(width, width // head)
    return {
        "hidden_size": width, "intermediate_size": wide, "num_hidden_layers": len(blocks), "num_attention_heads": heads
    }  # fmt: skip


def read_pixels(folder: Folder, side: int) -> Pixels | None:
    """Read how open_clip prepares pictures; None where the folder does not say it."""
    from encoders.hugging_face import Pixels

    found = folder.json(CONFIG).get("preprocess_cfg")
    if not found:
        return None
    fits: Mapping[str, Fit] = {"shortest": "crop", "squash": "stretch", "longest": "pad"}
    fit = fits.get(found.get("resize_mode", "shortest"), "crop")
    resample: Resample = "bilinear" if found.get("interpolation") == "bilinear" else "bicubic"
    return Pixels(side, tuple(found["mean"]), tuple(found["std"]), Decoding(fit, resample))
