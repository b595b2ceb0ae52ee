"""Structured features: price, rating, reviews, category and brand as one unit vector, by a tensorflow-transform graph.

    price           log(1 + price): its z-score as a point on a half circle, beside its quantile bucket (one-hot)
    rating          z-score as a point on a half circle
    review_count    log(1 + count): the same
    category        one-hot over the commonest; the others over hashed buckets. Of a list the path of its first three
    brand           the same

The point of a z-score z is (cos a, sin a) with a = pi/4 clip(z, -2, 2): the dot product of two of them is the cosine of
their difference, so nearer values are closer, and a value at the mean is as long a vector as any other. Each column
gives a block of norm 1 where its value is known; where it is missing, zeros and an indicator of 1/2. The blocks side by
side are brought to unit norm, so all columns weigh alike and a row of missing values only is the unit vector of its
indicators. Categories and brands beyond the vocabulary are hashed, not put in one bucket: there all rare brands would
be the same brand.

What a number is: finite and not negative as float32; text is read as a number where it is one. What a token is: the
text, trimmed, in lower case, its first 200 characters; an empty one is missing. Everything else is missing too.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

NUMBERS = ("price", "rating", "review_count")
TOKENS = ("category", "brand")
STRUCTURED_COLUMNS = (*NUMBERS, *TOKENS)
LOGARITHMIC = ("price", "review_count")

VERSION = 1
STATISTICS_FILE, GRAPH_FOLDER = "statistics.json", "transform_fn"
OUTPUT = "structured"
LIST_ENTRIES, TOKEN_CHARACTERS = 3, 200
BLOCK_ROWS = 1_024
CLIP, BUCKET_SHARE, MISSING = 2.0, 0.25, 0.5
_NUMBER = r"^[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?$"
# Written as one line of a vocabulary's file: TFT drops what has a line break, without a word.
_ESCAPES = (("\\", "\\\\"), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t"))


@dataclass(frozen=True)
class StructuredSettings:
    """What the transform depends on besides the catalogue.

    Attributes:
        columns: the columns it is fitted on, of `STRUCTURED_COLUMNS` and in their order.
        buckets: quantile buckets of the price.
        vocabulary: categories, and brands, that have a place of their own, at most.
        hashes: hashed buckets that the others fall into.
    """

    columns: tuple[str, ...]
    buckets: int = 10
    vocabulary: int = 64
    hashes: int = 16

    @classmethod
    def of(cls, names: Iterable[str]) -> StructuredSettings | None:
        """Return settings for those of a catalogue's columns that are known here; None where there is none."""
        there = set(names)
        columns = tuple(name for name in STRUCTURED_COLUMNS if name in there)
        return cls(columns) if columns else None


def prepare(columns: pa.StructArray, settings: StructuredSettings) -> pa.RecordBatch:
    """Turn products' columns of any type into what the graph takes.

    Args:
        columns: a field a column; one that is not there is missing in all rows.
        settings: names the columns.

    Returns:
        N rows: float32 of numbers, NaN where missing; binary of tokens, UTF-8 on one line, empty where missing.
    """
    there = dict(zip((field.name for field in columns.type), columns.flatten(), strict=True))
    nothing = pa.nulls(len(columns), pa.string())
    arrays = [(_numbers if name in NUMBERS else _tokens)(there.get(name, nothing)) for name in settings.columns]
    return pa.record_batch(arrays, list(settings.columns))


def _numbers(column: pa.Array) -> pa.Array:
    if pa.types.is_list(column.type):
        column = pa.array([next(iter(row or ()), None) for row in column.to_pylist()], column.type.value_type)
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        text = pc.utf8_trim_whitespace(column.cast(pa.string()))
        column = pc.if_else(pc.match_substring_regex(text, _NUMBER), text, None)
    with np.errstate(over="ignore"):
        numbers = column.cast(pa.float64(), safe=False).fill_null(math.nan).to_numpy(zero_copy_only=False).astype(np.float32)
    numbers[~np.isfinite(numbers) | (numbers < 0)] = np.nan
    return pa.array(numbers)


def _tokens(column: pa.Array) -> pa.Array:
    if pa.types.is_list(column.type):
        rows = ([part.strip() for part in row or () if part and part.strip()] for row in column.to_pylist())
        column = pa.array([" > ".join(row[:LIST_ENTRIES]) for row in rows], pa.string())
    text = pc.utf8_lower(pc.utf8_trim_whitespace(column.cast(pa.string())))
    text = pc.utf8_slice_codeunits(text, 0, TOKEN_CHARACTERS)
    for character, written in _ESCAPES:
        text = pc.replace_substring(text, character, written)
    return text.fill_null("").cast(pa.binary())


def preprocess(inputs: Mapping[str, Any], settings: StructuredSettings) -> dict[str, Any]:
    """Build the graph: tensorflow-transform's `preprocessing_fn`.

    Args:
        inputs: a tensor a column: float32[N] and string[N] as `prepare` makes them.
        settings: what it depends on.

    Returns:
        "structured": float32[N, S], unit norm; beside it the fitted statistics, the same in each row.
    """
    import tensorflow as tf

    blocks: list[Any] = []
    outputs: dict[str, Any] = {}
    for name in settings.columns:
        values = inputs[name]
        known = tf.math.is_finite(values) & (values >= 0) if name in NUMBERS else tf.not_equal(values, "")
        if name in NUMBERS:
            parts = _number_parts(name, values, known, settings, outputs)
        else:
            parts = [_one_hot_tokens(name, values, known, settings)]
        mask = tf.cast(known, tf.float32)[:, None]
        blocks += [mask * part for part in parts]
        blocks.append(MISSING * (1 - mask))
    side_by_side = tf.concat(blocks, axis=1)
    outputs[OUTPUT] = side_by_side / tf.norm(side_by_side, axis=1, keepdims=True)
    return outputs


def _number_parts(name: str, values: Any, known: Any, settings: StructuredSettings, outputs: dict[str, Any]) -> list[Any]:
    import tensorflow as tf
    import tensorflow_transform as tft

    values = tf.where(known, values, 0.0)
    if name in LOGARITHMIC:
        values = tf.math.log1p(values)
    fitted = tf.boolean_mask(values, known)
    mean, variance = tft.mean(fitted), tft.var(fitted)
    deviation = tf.sqrt(tf.maximum(variance, 0.0))
    # Equal values leave a rest of rounding, which is no deviation to divide by.
    spread = deviation > 1e-4 * tf.maximum(1.0, tf.abs(mean))
    z_score = tf.where(spread, (values - mean) / tf.where(spread, deviation, 1.0), 0.0)
    angle = math.pi / 2 / CLIP * tf.clip_by_value(z_score, -CLIP, CLIP)
    point = tf.stack([tf.cos(angle), tf.sin(angle)], axis=1)
    rows = tf.shape(values)
    outputs[f"{name}_mean"] = tf.fill(rows, mean)
    outputs[f"{name}_variance"] = tf.fill(rows, variance)
    if name != "price":
        return [point]
    boundaries = tft.quantiles(fitted, settings.buckets, epsilon=0.01)
    outputs[f"{name}_boundaries"] = tf.tile(boundaries, [tf.size(values), 1])
    buckets = tf.one_hot(tft.apply_buckets(values, boundaries), settings.buckets)
    return [math.sqrt(1 - BUCKET_SHARE) * point, math.sqrt(BUCKET_SHARE) * buckets]


def _one_hot_tokens(name: str, values: Any, known: Any, settings: StructuredSettings) -> Any:
    import tensorflow as tf
    import tensorflow_transform as tft

    file = vocabulary_file(name)
    path = tft.vocabulary(tf.boolean_mask(values, known), top_k=settings.vocabulary, vocab_filename=file)
    numbers = tft.apply_vocabulary(values, path, num_oov_buckets=settings.hashes)
    size = tf.cast(tft.experimental.get_vocabulary_size_by_name(file), tf.int32)
    return tf.one_hot(numbers, size + settings.hashes)


def vocabulary_file(column: str) -> str:
    """Name the file, among the graph's assets, of a column's vocabulary: a token a line, the commonest first."""
    return f"{column}_vocabulary"


class StructuredTransform:
    """A fitted graph, applied to batches; loaded once a worker by `load_transform`."""

    def __init__(self, folder: Path, settings: StructuredSettings) -> None:
        """Load the graph that lies in a folder; takes TensorFlow."""
        import tensorflow as tf

        self.settings = settings
        self._folder = folder
        self._tf = tf
        with tf.device("/CPU:0"):
            self._graph = tf.saved_model.load(str(folder / GRAPH_FOLDER))

    def __call__(self, columns: pa.StructArray) -> np.ndarray:
        """Return the vectors of products' columns (see `prepare`): float32[N, S], unit norm, never NaN.

        Rows are filled up to whole blocks: the last few of a batch would take another path through the processor, and
        a vector differ in its last bits by where its row stands.
        """
        batch = prepare(columns, self.settings)
        filled = [batch, prepare(pa.array([{}] * (-len(batch) % BLOCK_ROWS), pa.struct([])), self.settings)]
        return np.asarray(self._outputs(pa.concat_batches(filled))[OUTPUT], np.float32)[: len(batch)]

    def _outputs(self, batch: pa.RecordBatch) -> dict[str, np.ndarray]:
        tf = self._tf
        inputs = {}
        with tf.device("/CPU:0"):
            for name in self.settings.columns:
                column = batch.column(name)
                values = column.to_numpy() if name in NUMBERS else column.to_pylist()
                inputs[name] = tf.constant(values, tf.float32 if name in NUMBERS else tf.string)
            return {name: tensor.numpy() for name, tensor in self._graph.transform_fn(inputs).items()}

    def statistics(self) -> dict[str, Any]:
        """Return what was fitted, as JSON values that say all the graph computes.

        Numbers have six significant digits: equal fits give equal statistics, also where sums were taken in
        another order. An empty vocabulary holds one odd token.
        """
        nothing = pa.array([{}], pa.struct([]))
        outputs = self._outputs(prepare(nothing, self.settings))
        told: dict[str, Any] = {}
        for name in self.settings.columns:
            if name in NUMBERS:
                parts = ("mean", "variance", *(["boundaries"] if name == "price" else []))
                told[name] = {part: _rounded(outputs[f"{name}_{part}"][0]) for part in parts}
            else:
                assets = self._folder / GRAPH_FOLDER / "assets" / vocabulary_file(name)
                told[name] = {"vocabulary": assets.read_bytes().decode().rstrip("\n").split("\n")}
        settings = {**asdict(self.settings), "columns": list(self.settings.columns)}
        return {"version": VERSION, "settings": settings, "dimension": outputs[OUTPUT].shape[1], "fitted": told}


def _rounded(values: np.ndarray) -> Any:
    if values.ndim:
        return [_rounded(value) for value in values]
    return float(f"{float(values):.6g}")


@functools.lru_cache(maxsize=2)
def load_transform(folder: str) -> StructuredTransform:
    """Load the transform of a bundle's folder `structured/`; the same one when it is asked for again.

    Raises:
        ValueError: it was made by a newer version.
    """
    content = json.loads((Path(folder) / STATISTICS_FILE).read_text("utf-8"))
    if content["version"] != VERSION:
        raise ValueError(f"{folder} has version {content['version']}; this one reads {VERSION}: install a newer one")
    told = content["settings"]
    return StructuredTransform(Path(folder), StructuredSettings(**{**told, "columns": tuple(told["columns"])}))
