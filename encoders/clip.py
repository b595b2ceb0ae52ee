"""CLIP and SigLIP folders: their weights put into KerasHub's encoders, one side at a time.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021); Zhai et al., "Sigmoid Loss
for Language Image Pre-Training" (2023). The two sides share their space, so that heads need no training. Features are of
unit norm. Configuration and names of weights are those of `transformers`; `encoders.open_clip` brings others to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import keras_hub
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from encoders import open_clip
from encoders.conversion import PictureNetwork, TextNetwork
from encoders.depths import DepthsError, token_depths
from encoders.hugging_face import Arrays, Folder, read_pixels
from encoders.tensors import padded, unit
from encoders.tokenizer_files import begins, check_end, read_tokenizer, token_id
from encoders.tower_spec import TextForm, TowerError
from encoders.trainable import layers_of
from encoders.weights import WeightsError

# Whatever changes a feature and is not in the folder: to be changed with the arithmetic below.
RECIPE = "clip, 1"

# What `transformers` leaves out of config.json where it is as here.
_COMMON = {"num_hidden_layers": 12, "num_attention_heads": 12, "hidden_size": 768, "intermediate_size": 3072}
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "clip.text": {**_COMMON, "num_attention_heads": 8, "hidden_size": 512, "intermediate_size": 2048,
                  "vocab_size": 49408, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    "clip.vision": {**_COMMON, "image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    "siglip.text": {**_COMMON, "vocab_size": 32000, "max_position_embeddings": 64, "hidden_act": "gelu_pytorch_tanh",
                    "layer_norm_eps": 1e-6},
    "siglip.vision": {**_COMMON, "image_size": 224, "patch_size": 16, "hidden_act": "gelu_pytorch_tanh",
                      "layer_norm_eps": 1e-6},
}  # fmt: skip
ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_approximate"}
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
GEMMA_PIECES = 256_000  # the vocabulary of SigLIP 2, whose texts are in lower case


@dataclass(frozen=True)
class Side:
    """One of the two networks of a folder, as `transformers` describes it.

    Attributes:
        kind: "clip" or "siglip".
        settings: of the side, whole.
        arrays: weights of the folder by name.
    """

    kind: str
    settings: Mapping[str, Any]
    arrays: Arrays

    def take(self, name: str) -> npt.NDArray[Any]:
        """Return an array; raises WeightsError where it is missing."""
        if name not in self.arrays:
            raise WeightsError(f"the weights have no '{name}': they are not those of the model in config.json")
        return self.arrays[name]

    def put(self, variable: Any, name: str, array: npt.NDArray[Any] | None = None) -> None:
        """Set a variable of the network; raises WeightsError for an array of another shape."""
        array = self.take(name) if array is None else array
        if array.size != np.prod(variable.shape):
            raise WeightsError(f"'{name}' is of shape {list(array.shape)}; config.json asks for {list(variable.shape)}")
        variable.assign(array.reshape(variable.shape))

    def dense(self, layer: Any, name: str) -> None:
        """Set a dense layer, or a projection of an attention, whose kernel is [in, ...]."""
        self.put(layer.kernel, f"{name}.weight", self.take(f"{name}.weight").T)
        self.put(layer.bias, f"{name}.bias")

    def norm(self, layer: Any, name: str) -> None:
        """Set a layer normalisation."""
        self.put(layer.gamma, f"{name}.weight")
        self.put(layer.beta, f"{name}.bias")
        layer.epsilon = self.settings["layer_norm_eps"]

    def attention(self, layer: Any, name: str) -> None:
        """Set an attention of separate projections."""
        parts = zip("qkv", (layer.query_dense, layer.key_dense, layer.value_dense), strict=True)
        for part, dense in [*((f"{letter}_proj", dense) for letter, dense in parts), ("out_proj", layer.output_dense)]:
            self.dense(dense, f"{name}.{part}")

    def blocks(self, layers: list[Any], name: str) -> None:
        """Set the layers of an encoder."""
        for number, layer in enumerate(layers):
            block = f"{name}.encoder.layers.{number}"
            siglip = self.kind == "siglip"
            self.attention(layer.self_attn if siglip else layer.attention, f"{block}.self_attn")
            self.norm(layer.layer_norm1 if siglip else layer.layer_norm_1, f"{block}.layer_norm1")
            self.norm(layer.layer_norm2 if siglip else layer.layer_norm_2, f"{block}.layer_norm2")
            self.dense(layer.mlp.fc1 if siglip else layer.dense_1, f"{block}.mlp.fc1")
            self.dense(layer.mlp.fc2 if siglip else layer.dense_2, f"{block}.mlp.fc2")

    def encoder(self, encoder: Any, **more: Any) -> Any:
        """Build one of KerasHub's encoders of this side's size."""
        act = self.settings["hidden_act"]
        if act not in ACTIVATIONS:
            raise TowerError(f"config.json names the activation '{act}': known are {', '.join(ACTIVATIONS)}")
        return encoder(
            hidden_dim=self.settings["hidden_size"], num_layers=self.settings["num_hidden_layers"],
            num_heads=self.settings["num_attention_heads"], intermediate_dim=self.settings["intermediate_size"],
            intermediate_activation=ACTIVATIONS[act], dtype=keras.config.dtype_policy(), **more,
        )  # fmt: skip


def read_side(folder: Folder, side: str) -> Side:
    """Read one side, "text" or "vision", of a folder in either layout."""
    config, arrays = folder.config, folder.arrays()
    if open_clip.is_layout(arrays):
        config, arrays = open_clip.to_transformers(folder, arrays)
    kind = "siglip" if str(config.get("model_type")).startswith("siglip") else "clip"
    # Older files keep what differs in a second table.
    given = {**config.get(f"{side}_config", {}), **(config.get(f"{side}_config_dict") or {})}
    if side == "vision" and kind == "siglip" and not given.get("vision_use_head", True):
        raise TowerError(f"{folder.path} is a SigLIP without the head that makes one vector of a picture")
    return Side(kind, {**DEFAULTS[f"{kind}.{side}"], **given}, arrays)


def picture_network(folder: Folder, options: Mapping[str, str]) -> PictureNetwork:
    """Build a folder's network for pictures: uint8[B, side, side, 3] -> float32[B, D], unit norm.

    options: `depths`, "last" (default) or "all" of them side by side, each of unit norm, which texts have no part in.

    Raises TowerError and WeightsError.
    """
    side = read_side(folder, "vision")
    build = _siglip_picture if side.kind == "siglip" else _clip_picture
    usual = ((0.5,) * 3, (0.5,) * 3) if side.kind == "siglip" else (CLIP_MEAN, CLIP_STD)
    pixels = open_clip.read_pixels(folder, side.settings["image_size"]) or read_pixels(
        folder, side.settings["image_size"], *usual
    )
    encoder, embed = build(side)

    def features(scaled: tf.Tensor) -> tf.Tensor:
        return unit(embed(scaled))

    all_of_them = options.get("depths") == "all"
    try:
        whole = token_depths(encoder, pixels.side, features) if all_of_them else features
    except DepthsError as error:
        raise TowerError(f"{folder.path} {error}") from None

    def scaled(pictures: tf.Tensor) -> tf.Tensor:
        return whole(pixels.scale(pictures))

    digest = folder.digest(RECIPE, [keras_hub.__version__, "depths"] if all_of_them else keras_hub.__version__)
    return PictureNetwork(pixels.side, digest, scaled, pixels.decoding, layers_of(encoder))


def _clip_picture(side: Side) -> tuple[Any, Any]:
    size, patch = side.settings["image_size"], side.settings["patch_size"]
    encoder = side.encoder(keras_hub.models.CLIPVisionEncoder, patch_size=patch, image_shape=(size, size, 3))
    embedding, name = encoder.embedding, "vision_model.embeddings"
    side.put(embedding.class_embedding, f"{name}.class_embedding")
    kernel = side.take(f"{name}.patch_embedding.weight").transpose(2, 3, 1, 0)
    side.put(embedding.patch_embedding.kernel, f"{name}.patch_embedding.weight", kernel)
    side.put(embedding.position_embedding.embeddings, f"{name}.position_embedding.weight")
    embedding.position_ids.assign(np.arange(embedding.num_positions)[None])
    side.norm(encoder.pre_layer_norm, "vision_model.pre_layrnorm")  # sic
    side.blocks(encoder.encoder_layers, "vision_model")
    side.norm(encoder.layer_norm, "vision_model.post_layernorm")
    projection = side.take("visual_projection.weight").T
    return encoder, lambda pixels: tf.matmul(tf.cast(encoder({"images": pixels}, training=False)[:, 0], tf.float32), projection)


def _siglip_picture(side: Side) -> tuple[Any, Any]:
    size, patch = side.settings["image_size"], side.settings["patch_size"]
    encoder = side.encoder(keras_hub.models.SigLIPVisionEncoder, patch_size=patch, image_shape=(size, size, 3))
    embedding, name, head = encoder.embedding, "vision_model.embeddings", encoder.head
    kernel = side.take(f"{name}.patch_embedding.weight").transpose(2, 3, 1, 0)
    side.put(embedding.patch_embedding.kernel, f"{name}.patch_embedding.weight", kernel)
    side.put(embedding.patch_embedding.bias, f"{name}.patch_embedding.bias")
    side.put(embedding.position_embedding.embeddings, f"{name}.position_embedding.weight")
    side.blocks(encoder.encoder_layers, "vision_model")
    side.norm(encoder.post_layer_norm, "vision_model.post_layernorm")
    name = "vision_model.head"
    side.put(head.probe, f"{name}.probe")
    joined = {part: np.split(side.take(f"{name}.attention.in_proj_{part}"), 3) for part in ("weight", "bias")}
    split = {f"{name}.{'qkv'[i]}_proj.{part}": arrays[i] for part, arrays in joined.items() for i in range(3)}
    split |= {f"{name}.out_proj.{part}": side.take(f"{name}.attention.out_proj.{part}") for part in ("weight", "bias")}
    Side(side.kind, side.settings, split).attention(head.attention, name)
    side.norm(head.layer_norm, f"{name}.layernorm")
    side.dense(head.mlp.fc1, f"{name}.mlp.fc1")
    side.dense(head.mlp.fc2, f"{name}.mlp.fc2")
    return encoder, lambda pixels: tf.cast(encoder({"images": pixels}, training=False), tf.float32)


def text_network(folder: Folder) -> TextNetwork:
    """Build a folder's network for texts; features are of unit norm. Raises TowerError and WeightsError."""
    side = read_side(folder, "text")
    limit = side.settings["max_position_embeddings"]
    kind, content = read_tokenizer(folder, "clip" if side.kind == "clip" else "sentencepiece")
    if side.kind == "clip":
        if kind == "tokenizers":
            check_end(content, _end_of_clip(side, content), str(folder.path))
        encoder, features = clip_text_features(side)
    else:
        end = _special(folder, content, kind, "eos_token")
        if end is not None:
            check_end(content, end, str(folder.path))
        begun = begins(kind, content)
        encoder, features = siglip_text_features(side, _padding(folder, side, content, kind), begun)
        limit += begun
    return TextNetwork(
        token_limit=limit,
        weights_hash=folder.digest(RECIPE, keras_hub.__version__),
        weights={},
        features=lambda _, ids, lengths: features(ids, lengths),
        tokenise=None,
        resources={},
        tokenizer=kind,
        tokenizer_file=content,
        text_form=_text_form(folder, side),
        layers=layers_of(encoder),
    )


def clip_text_features(side: Side) -> tuple[Any, Any]:
    """Return the encoder and the function from ids int32[B, L], padded anyhow, and lengths int32[B] to float32[B, D], unit norm.

    A text's vector is the state of its last token; no token looks at those after it.
    """
    limit, pieces = side.settings["max_position_embeddings"], side.settings["vocab_size"]
    encoder = side.encoder(
        keras_hub.models.CLIPTextEncoder, vocabulary_size=pieces, embedding_dim=side.settings["hidden_size"],
        max_sequence_length=limit,
    )  # fmt: skip
    name = "text_model.embeddings"
    side.put(encoder.embedding.token_embedding.embeddings, f"{name}.token_embedding.weight")
    side.put(encoder.embedding.position_embedding.position_embeddings, f"{name}.position_embedding.weight")
    side.blocks(encoder.encoder_layers, "text_model")
    side.norm(encoder.layer_norm, "text_model.final_layer_norm")
    projection = side.take("text_projection.weight").T

    def features(ids: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
        states = tf.cast(encoder({"token_ids": padded(ids, lengths, limit, 0)}, training=False), tf.float32)
        return unit(tf.matmul(tf.gather(states, lengths - 1, batch_dims=1), projection))

    return encoder, features


def siglip_text_features(side: Side, padding: int, begun: bool) -> tuple[Any, Any]:
    """Return the encoder and the function from ids int32[B, L], padded anyhow, and lengths int32[B] to float32[B, D], unit norm.

    SigLIP looks at the padding, too, and takes the state of the last of all places. `begun`: texts come with a token
    before their first, which it was not trained with.
    """
    limit, pieces = side.settings["max_position_embeddings"], side.settings["vocab_size"]
    width = side.take("text_model.head.weight").shape[0]
    encoder = side.encoder(
        keras_hub.models.SigLIPTextEncoder, vocabulary_size=pieces, embedding_dim=side.settings["hidden_size"],
        max_sequence_length=limit, projection_dim=width,
    )  # fmt: skip
    embedding, name = encoder.embedding, "text_model.embeddings"
    side.put(embedding.token_embedding.embeddings, f"{name}.token_embedding.weight")
    side.put(embedding.position_embedding.embeddings, f"{name}.position_embedding.weight")
    side.blocks(encoder.encoder_layers, "text_model")
    side.norm(encoder.post_layer_norm, "text_model.final_layer_norm")
    side.dense(encoder.head, "text_model.head")

    def features(ids: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
        if begun:
            ids, lengths = ids[:, 1:], lengths - 1
        return unit(tf.cast(encoder({"token_ids": padded(ids, lengths, limit, padding)}, training=False), tf.float32))

    return encoder, features


def _end_of_clip(side: Side, content: bytes) -> int:
    found = token_id(content, "<|endoftext|>")
    return side.settings["vocab_size"] - 1 if found is None else found


def _padding(folder: Folder, side: Side, content: bytes, kind: str) -> int:
    found = _special(folder, content, kind, "pad_token")
    usual = 0 if side.settings["vocab_size"] >= GEMMA_PIECES else 1
    return int(side.settings.get("pad_token_id", usual)) if found is None else found


def _special(folder: Folder, content: bytes, kind: str, name: str) -> int | None:
    """Look up the id of the token that tokenizer_config.json gives a role."""
    token = folder.json("tokenizer_config.json").get(name)
    token = token.get("content") if isinstance(token, dict) else token
    return token_id(content, token) if token and kind == "tokenizers" else None


def _text_form(folder: Folder, side: Side) -> TextForm:
    if side.kind == "clip":
        return "as_is"  # its tokenizer does what is to be done
    return "lower" if side.settings["vocab_size"] >= GEMMA_PIECES else "canonical"


