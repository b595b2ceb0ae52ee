"""KerasHub's backbones as towers: presets by name or folder, and Hugging Face's folders that KerasHub converts.

Pictures: ViT, DINOv2, DINOv3 (the class token), CLIP, SigLIP, MetaCLIP 2 (their own vectors), networks that give a map of
features (its mean). Texts: BERT, DistilBERT, RoBERTa, XLM-R (pooled over tokens), CLIP, SigLIP, MetaCLIP 2. Vectors of texts
and of pairs are of unit norm.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import keras_hub
import numpy as np
import tensorflow as tf

from encoders.conversion import PictureNetwork, TextNetwork
from encoders.depths import DepthsError, pyramid_depths, token_depths
from encoders.hugging_face import Folder, prepared_side, read_pixels
from encoders.tensors import padded, pool_tokens, unit, within
from encoders.tokenizer_files import begins, clip_file, roberta_file, wordpiece_file
from encoders.tower_spec import Decoding, Fit, Resample, TextForm, TowerError
from encoders.trainable import layers_of
from encoders.weights import combine_hashes, hash_arrays, reason_of

# Whatever changes a feature and is not in the weights: to be changed with the arithmetic below.
RECIPE = "keras hub backbone, 1"

DEFAULT_SIDE = 224
USUAL = ((0.5,) * 3, (0.5,) * 3)


def load_backbone(name: str, **options: Any) -> Any:
    """Load a backbone with its weights; raises TowerError where KerasHub has none of that name or cannot load it."""
    try:
        return keras_hub.models.Backbone.from_preset(name, dtype=keras.config.dtype_policy(), **options)
    except Exception as error:  # whatever KerasHub, Keras, h5py, safetensors and the network raise
        raise TowerError(
            f"KerasHub cannot load '{name}' ({reason_of(error)}): name a preset of KerasHub, which it downloads, or a preset's "
            "folder"
        ) from error


def picture_network(name: str, options: Mapping[str, str]) -> PictureNetwork:
    """Build the network for pictures of a preset: uint8[B, side, side, 3] -> float32[B, D].

    Args:
        name: a preset's name or folder.
        options: `side`, pixels of a side where the backbone leaves them open; `pooling`, "mean" over tokens in place of
            the class token; `depths`, "last" (default) or "all" of them side by side.

    Raises TowerError.
    """
    backbone = load_backbone(name)
    try:
        converter = keras_hub.layers.ImageConverter.from_preset(name)
    except (ValueError, FileNotFoundError) as error:
        raise TowerError(f"the preset '{name}' has no image converter, which says how pixels are prepared") from error
    side = _side(backbone, converter, options)
    scale, offset = (np.asarray(part, np.float32) for part in (converter.scale or 1.0, converter.offset or 0.0))
    fit: Fit = "crop" if converter.crop_to_aspect_ratio else "pad" if converter.pad_to_aspect_ratio else "stretch"
    resample: Resample = "bicubic" if converter.interpolation == "bicubic" else "bilinear"
    features = _picture_features(backbone, options, side)
    settings = [side, scale.tolist(), offset.tolist(), options.get("pooling"), *_depths(options)]
    return PictureNetwork(
        side=side,
        weights_hash=_hash(backbone, settings),
        features=lambda pictures: features(tf.cast(pictures, tf.float32) * scale + offset),
        decoding=Decoding(fit, resample),
        layers=layers_of(getattr(backbone, "vision_encoder", backbone)),
    )


def converted_picture_network(folder: Folder, options: Mapping[str, str]) -> PictureNetwork:
    """Build the network for pictures of a Hugging Face folder, its pixels prepared as the folder says.

    Raises TowerError.
    """
    prepared = prepared_side(folder)
    # DINOv2 was trained on more pixels than it is used with: its positions are interpolated.
    resized = {"image_shape": (prepared[0], prepared[0], 3)} if prepared and folder.kind.startswith("dino") else {}
    backbone = load_backbone(str(folder.path), **resized)
    if folder.kind in ("vit", "deit"):  # KerasHub takes 1e-6 whatever config.json says
        for layer in _norms(backbone):
            layer.epsilon = float(folder.config.get("layer_norm_eps", 1e-12))
    timm = folder.config.get("pretrained_cfg", {}).get("input_size")
    shape = getattr(backbone, "image_shape", None) or getattr(getattr(backbone, "vision_encoder", None), "image_shape", None)
    side = int(timm[-1]) if timm else int(shape[0]) if shape and shape[0] else DEFAULT_SIDE
    pixels = read_pixels(folder, side, *USUAL)
    features = _picture_features(backbone, options, pixels.side)
    return PictureNetwork(
        side=pixels.side,
        weights_hash=folder.digest(RECIPE, [keras_hub.__version__, options.get("pooling"), *_depths(options)]),
        features=lambda pictures: features(pixels.scale(pictures)),
        decoding=pixels.decoding,
        layers=layers_of(getattr(backbone, "vision_encoder", backbone)),
    )


def _norms(model: Any) -> list[Any]:
    layers = model._flatten_layers(include_self=False, recursive=True)
    return [layer for layer in layers if type(layer).__name__ == "LayerNormalization"]


def _side(backbone: Any, converter: Any, options: Mapping[str, str]) -> int:
    encoder = getattr(backbone, "vision_encoder", backbone)
    fixed = next((int(shape[0]) for shape in (getattr(encoder, "image_shape", None),) if shape and shape[0]), None)
    if fixed is not None and int(options.get("side", fixed)) != fixed:
        raise TowerError(f"the backbone takes pictures of {fixed} pixels a side, not of {options['side']}")
    return fixed or int(options.get("side", (converter.image_size or (DEFAULT_SIDE,))[0]))


def _depths(options: Mapping[str, str]) -> list[str]:
    """Return what the features depend on, too, where all depths are asked for."""
    return ["depths"] if options.get("depths") == "all" else []


def _picture_features(backbone: Any, options: Mapping[str, str], side: int) -> Callable[[tf.Tensor], tf.Tensor]:
    name = type(backbone).__name__
    if hasattr(backbone, "get_vision_embeddings"):
        _check_pooling(backbone, options, ())
        encoder, is_map = backbone.vision_encoder, False

        def features(pixels: tf.Tensor) -> tf.Tensor:
            return unit(tf.cast(backbone.get_vision_embeddings(pixels), tf.float32))
    else:
        names = list(backbone.input) if isinstance(backbone.input, dict) else None
        if names is not None and len(names) != 1:
            raise TowerError(f"a {name} takes {', '.join(names)}: of it no picture tower is made")
        encoder, is_map = backbone, len(backbone.output.shape) == 4
        _check_pooling(backbone, options, ("mean",) if is_map else ("cls", "mean"))

        def features(pixels: tf.Tensor) -> tf.Tensor:
            states = tf.cast(backbone(pixels if names is None else {names[0]: pixels}, training=False), tf.float32)
            if is_map:
                return tf.reduce_mean(states, [1, 2])
            return tf.reduce_mean(states, 1) if options.get("pooling") == "mean" else states[:, 0]

    if not _depths(options):
        return features
    try:
        return pyramid_depths(backbone) if is_map else token_depths(encoder, side, features)
    except DepthsError as error:
        raise TowerError(f"a {name} {error}") from None


def _check_pooling(backbone: Any, options: Mapping[str, str], known: Sequence[str]) -> None:
    """Raise TowerError for a pooling that the backbone's output cannot have."""
    if "pooling" in options and options["pooling"] not in known:
        may = f"it may be {' or '.join(known)}" if known else "leave it away"
        raise TowerError(f"a {type(backbone).__name__} has no pooling '{options['pooling']}': {may}")


class Tokens(NamedTuple):
    """A tokenizer for forms that take ids.

    Attributes:
        kind: a key of `tower_spec.TOKENIZER_FILES`.
        content: of its file.
        table: the backbone's id of each of the tokenizer's; None where they are the same.
        padding: the backbone's id for what is no text.
    """

    kind: str
    content: bytes
    table: Sequence[int] | None
    padding: int


def text_network(name: str, options: Mapping[str, str]) -> TextNetwork:
    """Build the network for texts of a preset, or of a folder that KerasHub converts; features are of unit norm.

    Args:
        name: a preset's name or folder.
        options: `pooling` over tokens, "mean" (default), "cls" or "max"; `tokens`, those a text is cut at.

    Raises TowerError.
    """
    backbone = load_backbone(name)
    encoder = getattr(backbone, "text_encoder", backbone)
    positions = getattr(encoder, "max_sequence_length", None)
    if positions is None:
        raise TowerError(f"a {type(backbone).__name__} has no text encoder of a kind that is read here")
    limit = int(options.get("tokens", positions))
    if limit > positions:
        raise TowerError(f"'{name}' has {positions} positions: texts cannot have {limit} tokens")
    tokenizer = keras_hub.models.Tokenizer.from_preset(name)
    tokens = read_tokens(tokenizer)
    pair = hasattr(backbone, "get_text_embeddings")
    siglip = type(backbone).__name__ == "SigLIPBackbone"
    _check_pooling(backbone, options, () if pair else ("mean", "cls", "max"))
    if pair and limit != positions:
        raise TowerError(f"'{name}' was trained on texts of {positions} tokens: leave the option tokens away")
    begun = siglip and begins(tokens.kind, tokens.content)
    pooled = _pair_features(backbone, limit, tokens, begun) if pair else _pooled_features(backbone, tokens, options)
    form: TextForm = "as_is"
    if siglip:
        form = "canonical" if _canonical(name) else "lower"
    return TextNetwork(
        token_limit=limit + begun,  # a token before the first is taken away again
        weights_hash=_hash(backbone, [limit, options.get("pooling"), combine_hashes(tokens.content.hex())]),
        weights={},
        features=lambda _, ids, lengths: pooled(ids, lengths),
        tokenise=None,
        resources={},
        tokenizer=tokens.kind,
        tokenizer_file=tokens.content,
        text_form=form,
        layers=layers_of(encoder),
    )


def _canonical(name: str) -> bool:
    """Tell whether a SigLIP preset's texts lose their punctuation: those of SigLIP 2 do not."""
    try:
        return bool(keras_hub.models.SigLIPPreprocessor.from_preset(name).canonicalize_text)
    except (ValueError, FileNotFoundError):
        return True


def read_tokens(tokenizer: Any) -> Tokens:
    """Turn a tokenizer of KerasHub into one that its own wheel runs; raises TowerError for other kinds."""
    padding = int(getattr(tokenizer, "pad_token_id", 0) or 0)
    if isinstance(tokenizer, keras_hub.tokenizers.WordPieceTokenizer):
        pieces = tokenizer.get_vocabulary()
        return Tokens("tokenizers", wordpiece_file(pieces, tokenizer.lowercase, tokenizer.strip_accents), None, padding)
    if isinstance(tokenizer, keras_hub.tokenizers.BytePairTokenizer):
        make = clip_file if type(tokenizer).__name__ == "CLIPTokenizer" else roberta_file
        return Tokens("tokenizers", make(tokenizer.vocabulary, tokenizer.merges), None, padding)
    if isinstance(tokenizer, keras_hub.tokenizers.SentencePieceTokenizer):
        from sentencepiece import SentencePieceProcessor

        processor = SentencePieceProcessor(model_proto=tokenizer.proto)
        pieces = [processor.id_to_piece(number) for number in range(processor.get_piece_size())]
        table = [int(tokenizer.token_to_id(piece)) for piece in pieces]
        same = table == list(range(len(table)))
        return Tokens("sentencepiece", tokenizer.proto, None if same else table, padding)
    raise TowerError(f"a {type(tokenizer).__name__} of KerasHub has no counterpart that runs without TensorFlow")


def _pair_features(backbone: Any, limit: int, tokens: Tokens, begun: bool) -> Callable[..., tf.Tensor]:
    def features(ids: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
        if begun:
            ids, lengths = ids[:, 1:], lengths - 1
        own = padded(_own(ids, tokens), lengths, limit, tokens.padding)
        return unit(tf.cast(backbone.get_text_embeddings(own), tf.float32))

    return features


def _pooled_features(backbone: Any, tokens: Tokens, options: Mapping[str, str]) -> Callable[..., tf.Tensor]:
    names = list(backbone.input)

    def features(ids: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
        real = within(lengths, tf.shape(ids)[1])
        given = {
            "token_ids": tf.where(real, _own(ids, tokens), tokens.padding), "padding_mask": tf.cast(real, tf.int32),
            "segment_ids": tf.zeros_like(ids),
        }  # fmt: skip
        states = backbone({name: given[name] for name in names}, training=False)
        states = states["sequence_output"] if isinstance(states, dict) else states
        return pool_tokens(tf.cast(states, tf.float32), lengths, options.get("pooling", "mean"))

    return features


def _own(ids: tf.Tensor, tokens: Tokens) -> tf.Tensor:
    return ids if tokens.table is None else tf.gather(tf.constant(tokens.table, tf.int32), ids)


def _hash(backbone: Any, settings: Any) -> str:
    config = json.dumps([type(backbone).__name__, backbone.get_config(), settings], sort_keys=True, default=str)
    return combine_hashes(RECIPE, keras_hub.__version__, config, hash_arrays(backbone.get_weights()))
