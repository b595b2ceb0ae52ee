"""KerasHub's backbones as towers: tiny random presets, against KerasHub's own preprocessing and network."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np
import numpy.typing as npt
import pytest
import sentencepiece
import tensorflow as tf
from conftest import least_cosine

from encoders import keras_hub_backbone
from encoders.presets import build_tower
from encoders.tower_spec import TowerError
from encoders.towers import load_tower

# KerasHub leaves the vocabulary it read to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file .*vocabulary.spm:ResourceWarning")

TEXTS = ["red shoes", "a blue shirt, size m", "", "shirt red shirt blue"]
WORDS = ["red", "shoes", "a", "blue", "shirt", ",", "size", "m"]
LETTERS = [*"abcdefghijklmnopqrstuvwxyz", ","]


def images(side: int) -> npt.NDArray[np.uint8]:
    """Draw three pictures, uint8[3, side, side, 3]."""
    return np.random.default_rng(2).integers(0, 256, (3, side, side, 3), dtype=np.uint8)


def sentence_pieces(**special: Any) -> bytes:
    """Train a tiny SentencePiece model."""
    stream = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*TEXTS, *WORDS] * 5), model_writer=stream, vocab_size=40, hard_vocab_limit=False,
        model_type="unigram", minloglevel=2, **special,
    )  # fmt: skip
    return stream.getvalue()


def save_preset(folder: Path, backbone: Any, *parts: Any) -> str:
    """Save a random backbone with what prepares its items; returns the specification."""
    keras.utils.set_random_seed(4)
    for weight in backbone.weights:
        if "position_ids" not in weight.name and weight.dtype.startswith("float"):
            weight.assign(np.random.default_rng(len(weight.shape)).normal(0.1, 0.3, weight.shape))
    with warnings.catch_warnings():
        # numpy 2.4 on TensorFlow's variables, which Keras saves.
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        for part in (backbone, *parts):
            part.save_to_preset(str(folder))
    return str(folder)


def vit() -> Any:
    return keras_hub.models.ViTBackbone(
        image_shape=(32, 32, 3), patch_size=16, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32
    )  # fmt: skip


def dinov2() -> Any:
    return keras_hub.models.DINOV2Backbone(
        patch_size=16, num_layers=2, hidden_dim=16, num_heads=2, intermediate_dim=32, image_shape=(32, 32, 3),
        position_embedding_shape=(32, 32),
    )  # fmt: skip


def dinov3() -> Any:
    return keras_hub.models.DINOV3Backbone(
        patch_size=16, num_layers=2, hidden_dim=16, num_heads=2, intermediate_dim=32, image_shape=(32, 32, 3)
    )  # fmt: skip


CONVERTERS = {vit: keras_hub.layers.ViTImageConverter, dinov2: keras_hub.layers.DINOV2ImageConverter,
              dinov3: keras_hub.layers.DINOV3ImageConverter}  # fmt: skip


@pytest.mark.parametrize("make", [vit, dinov2, dinov3], ids=lambda make: make.__name__)
def test_a_vision_transformer_gives_its_class_token_of_pixels_as_its_converter_makes_them(make: Any, tmp_path: Path) -> None:
    backbone = make()
    converter = CONVERTERS[make](image_size=(32, 32), scale=[0.02, 0.015, 0.01], offset=[-2.0, -1.5, -1.0],
                                 interpolation="bicubic", crop_to_aspect_ratio=False)  # fmt: skip
    name = save_preset(tmp_path / "preset", backbone, converter)
    network = keras_hub_backbone.picture_network(name, {})
    assert (network.side, network.decoding.fit, network.decoding.resample) == (32, "stretch", "bicubic")
    pixels = converter(images(32).astype(np.float32))
    given = {next(iter(backbone.input)): pixels} if isinstance(backbone.input, dict) else pixels
    expected = np.asarray(backbone(given, training=False))
    found = network.features(tf.constant(images(32))).numpy()
    np.testing.assert_allclose(found, expected[:, 0], atol=1e-4)
    mean = keras_hub_backbone.picture_network(name, {"pooling": "mean"})
    np.testing.assert_allclose(mean.features(tf.constant(images(32))).numpy(), expected.mean(1), atol=1e-4)
    assert mean.weights_hash != network.weights_hash
    with pytest.raises(TowerError, match=rf"^a {type(backbone).__name__} has no pooling 'max': it may be cls or mean$"):
        keras_hub_backbone.picture_network(name, {"pooling": "max"})


def clip_pair(folder: Path) -> tuple[str, Any, Any]:
    """Save a tiny random CLIP; returns the preset, the backbone and the preprocessor."""
    tokens = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "re", "red</w>", "<|startoftext|>", "<|endoftext|>"]
    tokenizer = keras_hub.models.CLIPTokenizer({token: i for i, token in enumerate(tokens)}, ["r e", "re d</w>"])
    converter = keras_hub.layers.CLIPImageConverter(image_size=(32, 32), scale=1 / 127.5, offset=-1.0)
    backbone = keras_hub.models.CLIPBackbone(
        keras_hub.models.CLIPVisionEncoder(16, 16, 2, 2, 32, image_shape=(32, 32, 3)),
        keras_hub.models.CLIPTextEncoder(len(tokens), 16, 16, 2, 2, 32, max_sequence_length=12),
        projection_dim=8,
    )
    backbone.vision_encoder.embedding.position_ids.assign(np.arange(5)[None])
    preprocessor = keras_hub.models.CLIPPreprocessor(tokenizer, converter, sequence_length=12)
    return save_preset(folder, backbone, preprocessor), backbone, preprocessor


def siglip_pair(folder: Path) -> tuple[str, Any, Any]:
    """Save a tiny random SigLIP, whose pieces have no begin, as clip_pair does."""
    proto = sentence_pieces(pad_id=3, eos_id=1, unk_id=2, bos_id=-1)
    tokenizer = keras_hub.models.SigLIPTokenizer(proto)
    converter = keras_hub.layers.SigLIPImageConverter(image_size=(32, 32), scale=1 / 127.5, offset=-1.0)
    backbone = keras_hub.models.SigLIPBackbone(
        keras_hub.models.SigLIPVisionEncoder(16, 16, 2, 2, 32, image_shape=(32, 32, 3)),
        keras_hub.models.SigLIPTextEncoder(tokenizer.vocabulary_size(), 16, 16, 2, 2, 32, max_sequence_length=12),
    )
    preprocessor = keras_hub.models.SigLIPPreprocessor(tokenizer, converter, sequence_length=12)
    return save_preset(folder, backbone, preprocessor), backbone, preprocessor


@pytest.mark.parametrize("make", [clip_pair, siglip_pair], ids=["clip", "siglip"])
def test_both_sides_of_a_pair_answer_as_kerashub_prepares_and_encodes(make: Any, tmp_path: Path) -> None:
    name, backbone, preprocessor = make(tmp_path / "preset")
    texts = [*TEXTS, "RED Shoes!", "shirt " * 30]
    given = preprocessor({"prompts": texts, "images": np.repeat(images(32), 2, 0).astype(np.float32)})
    built = build_tower(f"keras-hub:{name}", "text", tmp_path / "text")
    assert built.forms == ("litert", "saved_model")
    expected = np.asarray(backbone.get_text_embeddings(given["token_ids"]))
    for form in built.forms:
        tower = load_tower(tmp_path / "text", form)
        found = tower.encode(texts)
        assert least_cosine(found[:5], expected[:5]) > 0.99999
        assert tower.truncated > 0
    network = keras_hub_backbone.picture_network(name, {})
    vectors = np.asarray(backbone.get_vision_embeddings(given["images"]))[::2]
    assert least_cosine(network.features(tf.constant(images(32))).numpy(), vectors) > 0.99999
    with pytest.raises(TowerError, match=r"was trained on texts of 12 tokens: leave the option tokens away$"):
        keras_hub_backbone.text_network(name, {"tokens": "8"})


def encoder_sizes(vocabulary: int) -> dict[str, Any]:
    return {"vocabulary_size": vocabulary, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 32,
            "max_sequence_length": 24}  # fmt: skip


def bert() -> tuple[Any, Any]:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys([*WORDS, *LETTERS]), *(f"##{one}" for one in LETTERS)]
    tokenizer = keras_hub.models.BertTokenizer(pieces, lowercase=True)
    return (
        keras_hub.models.BertBackbone(**encoder_sizes(len(pieces))),
        keras_hub.models.BertTextClassifierPreprocessor(tokenizer, sequence_length=24),
    )


def distilbert() -> tuple[Any, Any]:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys([*WORDS, *LETTERS]), *(f"##{one}" for one in LETTERS)]
    tokenizer = keras_hub.models.DistilBertTokenizer(pieces, lowercase=True)
    return (
        keras_hub.models.DistilBertBackbone(**encoder_sizes(len(pieces))),
        keras_hub.models.DistilBertTextClassifierPreprocessor(tokenizer, sequence_length=24),
    )


def roberta() -> tuple[Any, Any]:
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *LETTERS, "Ġ", "re", "red", "Ġs", "<mask>"]
    tokenizer = keras_hub.models.RobertaTokenizer({token: i for i, token in enumerate(tokens)}, ["r e", "re d", "Ġ s"])
    return (
        keras_hub.models.RobertaBackbone(**encoder_sizes(len(tokens))),
        keras_hub.models.RobertaTextClassifierPreprocessor(tokenizer, sequence_length=24),
    )


def xlm_roberta() -> tuple[Any, Any]:
    tokenizer = keras_hub.models.XLMRobertaTokenizer(sentence_pieces(unk_id=0, bos_id=1, eos_id=2, pad_id=-1))
    return (
        keras_hub.models.XLMRobertaBackbone(**encoder_sizes(tokenizer.vocabulary_size())),
        keras_hub.models.XLMRobertaTextClassifierPreprocessor(tokenizer, sequence_length=24),
    )


def pooled(states: Any, given: Mapping[str, Any]) -> npt.NDArray[Any]:
    """Give the mean over tokens."""
    array = np.asarray(states["sequence_output"] if isinstance(states, dict) else states)
    mask = np.asarray(given["padding_mask"])[..., None]
    return (array * mask).sum(1) / mask.sum(1)


@pytest.mark.parametrize("make", [bert, distilbert, roberta, xlm_roberta], ids=lambda make: make.__name__)
def test_a_text_encoder_answers_as_kerashub_prepares_and_encodes(make: Any, tmp_path: Path) -> None:
    backbone, preprocessor = make()
    name = save_preset(tmp_path / "preset", backbone, preprocessor.tokenizer)
    network = keras_hub_backbone.text_network(name, {})
    given = preprocessor(TEXTS)
    expected = pooled(backbone(given, training=False), given)
    (tmp_path / ("tokenizer.model" if network.tokenizer == "sentencepiece" else "tokenizer.json")).write_bytes(
        network.tokenizer_file
    )
    from encoders.tokens import load_tokenizer
    from encoders.tower_spec import TowerSpec

    tokenise = load_tokenizer(TowerSpec("x", "text", 16, "", None, 24, 8, network.tokenizer, ()), tmp_path)
    rows = tokenise(TEXTS)
    lengths = np.array([len(row) for row in rows], np.int32)
    np.testing.assert_array_equal(lengths, np.asarray(given["padding_mask"]).sum(1))
    ids = np.zeros((len(rows), lengths.max()), np.int32)
    for target, row in zip(ids, rows, strict=True):
        target[: len(row)] = row
    found = network.features({}, tf.constant(ids), tf.constant(lengths)).numpy()
    assert least_cosine(found, expected) > 0.99999
    first = keras_hub_backbone.text_network(name, {"pooling": "cls", "tokens": "20"})
    assert first.token_limit == 20
    assert first.weights_hash != network.weights_hash


def test_a_text_encoder_of_kerashub_becomes_a_tower(tmp_path: Path) -> None:
    backbone, preprocessor = bert()
    name = save_preset(tmp_path / "preset", backbone, preprocessor.tokenizer)
    built = build_tower(f"keras-hub:{name}", "text", tmp_path / "tower")
    given = preprocessor(TEXTS)
    for form in built.forms:
        found = load_tower(tmp_path / "tower", form).encode(TEXTS)
        assert least_cosine(found, pooled(backbone(given, training=False), given)) > 0.99999
    assert built.forms == ("litert", "saved_model")


def test_what_kerashub_does_not_have_is_refused(tmp_path: Path) -> None:
    (tmp_path / "preset").mkdir()
    with pytest.raises(TowerError, match=rf"^KerasHub cannot load '{tmp_path}/preset' \(.*\): name a preset of KerasHub, which"):
        keras_hub_backbone.text_network(str(tmp_path / "preset"), {})
    backbone, preprocessor = roberta()
    name = save_preset(tmp_path / "roberta", backbone, preprocessor.tokenizer)
    with pytest.raises(TowerError, match=r"roberta' has 24 positions: texts cannot have 25 tokens$"):
        keras_hub_backbone.text_network(name, {"tokens": "25"})
