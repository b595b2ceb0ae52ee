"""Towers: pretrained encoders run on pictures or texts, from a folder that `encoders.presets` built.

A folder holds `tower.json` and one or two forms: `model.tflite`, run by LiteRT without TensorFlow, and
`saved_model/`, for which TensorFlow is imported when it is loaded.
"""

from __future__ import annotations

import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from encoders.tokens import load_tokenizer, missing_package, shape_text
from encoders.tower_spec import FORM_FILES, LITERT, SAVED_MODEL, SPEC_FILE, TowerError, TowerSpec

Float32 = npt.NDArray[np.float32]

# Larger batches leave the caches of a CPU: 256 tokens or 4 pictures a call run up to twice as fast in LiteRT.
TOKENS_PER_CALL = {LITERT: 256, SAVED_MODEL: 8192}
PICTURES_PER_LITERT_CALL = 4

_log = logging.getLogger(__name__)


class Tower(ABC):
    """A loaded tower, to be used by one thread at a time or by several that then take turns.

    Attributes:
        spec: what it is.
        form: the form that was loaded.
        truncated: texts cut at the token limit so far.
        seconds: seconds spent in `encode` so far.
    """

    def __init__(self, spec: TowerSpec, form: str):
        """Keep what both modalities need."""
        self.spec = spec
        self.form = form
        self.truncated = 0
        self.seconds = 0.0
        self._turn = Lock()

    @property
    def runs_in(self) -> str:
        """Say what it runs in, and on what: TensorFlow's own word on a GPU that it cannot use is silenced."""
        if self.form == LITERT:
            return "LiteRT on the CPU"
        by = "TensorFlow, compiled by XLA," if self.spec.xla else "TensorFlow"
        gpus = len(load_tensorflow().config.list_physical_devices("GPU"))
        return f"{by} on {gpus} GPU{'s' if gpus > 1 else ''}" if gpus else f"{by} on the CPU, without a GPU"

    def encode(self, items: npt.NDArray[Any] | Sequence[str]) -> Float32:
        """Encode pictures uint8[B, side, side, 3] or B texts: float32[B, D], whatever else is in the batch.

        Raises TowerError for pictures of another shape or type and for a feature that is not finite.
        """
        features = np.empty((len(items), self.spec.dimension), np.float32)
        with self._turn:
            started = time.perf_counter()
            for rows, values in self._encode(items):
                features[rows] = values
            self.seconds += time.perf_counter() - started
        finite = np.isfinite(features).all(axis=1)
        if not finite.all():
            item = int(np.argmin(finite))
            raise TowerError(
                f"the feature of item {item} by {self.spec.spec} is not finite: check its weights"
            )
        return features

    @abstractmethod
    def _encode(self, items: Any) -> Iterator[tuple[Any, Float32]]:
        """Yield row numbers and their features."""


class _PictureTower(Tower):
    def __init__(self, spec: TowerSpec, form: str, run: Callable[[npt.NDArray[np.uint8]], Float32]):
        super().__init__(spec, form)
        self._run = run

    def _encode(self, items: Any) -> Iterator[tuple[slice, Float32]]:
        side = self.spec.side
        pictures = np.asarray(items)
        if len(pictures) and (pictures.shape[1:] != (side, side, 3) or pictures.dtype != np.uint8):
            raise TowerError(
                f"pictures are {pictures.dtype}{list(pictures.shape)}, but {self.spec.spec} takes "
                f"uint8[B, {side}, {side}, 3]: decode them to side {side}"
            )
        # LiteRT gives the same bits whatever the batch; TensorFlow only in batches of one size.
        size = min(PICTURES_PER_LITERT_CALL, self.spec.batch) if self.form == LITERT else self.spec.batch
        for start in range(0, len(pictures), size):
            batch = pictures[start : start + size]
            rows = len(batch)
            if self.form != LITERT and rows < size:
                batch = np.concatenate([batch, np.zeros((size - rows, *batch.shape[1:]), np.uint8)])
            yield slice(start, start + rows), self._run(batch)[:rows]


class _TextTower(Tower):
    def __init__(
        self,
        spec: TowerSpec,
        form: str,
        measure: Callable[[list[str]], tuple[Sequence[Any], npt.NDArray[np.int64]]],
        run: Callable[[list[Any]], Float32],
    ):
        super().__init__(spec, form)
        self._measure = measure
        self._run = run

    def _encode(self, items: Any) -> Iterator[tuple[npt.NDArray[np.int64], Float32]]:
        texts = [shape_text(text, self.spec) for text in items]
        if not texts:
            return
        prepared, lengths = self._measure(texts)
        limit = self.spec.token_limit
        if limit is not None:
            self.truncated += int((lengths > limit).sum())
            lengths = np.minimum(lengths, limit)
        for rows in batches_by_length(lengths, self.spec.batch, TOKENS_PER_CALL[self.form]):
            yield rows, self._run([prepared[row] for row in rows])


def batches_by_length(
    lengths: npt.NDArray[np.int64], texts: int, tokens: int
) -> Iterator[npt.NDArray[np.int64]]:
    """Cut items into batches of similar length: row numbers, at most `texts` a batch and B x L <= `tokens`.

    An item longer than `tokens` is a batch of its own.
    """
    order = np.argsort(lengths, kind="stable")
    start = 0
    for stop in range(1, len(order) + 1):
        rows = stop - start
        if stop == len(order) or rows == texts or (rows + 1) * lengths[order[stop]] > tokens:
            yield order[start:stop]
            start = stop


def load_tower(folder: Path, form: str | None = None, threads: int | None = None) -> Tower:
    """Load a tower from its folder, by default in its LiteRT form where it has one and XLA is not to compile it.

    Args:
        folder: what `build_tower` wrote.
        form: "litert" or "saved_model".
        threads: threads to run on, by default one a core; TensorFlow takes it only before its first use.

    Raises:
        TowerError: no tower there, or not in that form.
        ModuleNotFoundError: a package that the form needs is not installed; the message names the extra.
    """
    path = folder / SPEC_FILE
    if not path.is_file():
        raise TowerError(f"{folder} holds no {SPEC_FILE}: build a tower there first")
    spec = TowerSpec.from_json(path.read_text("utf-8"))
    if spec.parts:
        from encoders.side_by_side import SideBySide

        return SideBySide(spec, [load_tower(folder / str(part), form, threads) for part in range(spec.parts)])
    form = form or (LITERT if LITERT in spec.forms and not spec.xla else SAVED_MODEL)
    if form not in spec.forms:
        raise TowerError(f"{spec.spec} has no form '{form}' in {folder} (forms: {', '.join(spec.forms)})")
    threads = threads or available_cores()
    model = folder / FORM_FILES[form]
    if form == SAVED_MODEL:
        return _load_saved_model(spec, model, folder, threads)
    return _load_litert(spec, model, folder, threads)


def available_cores() -> int:
    """Count the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _load_litert(spec: TowerSpec, model: Path, folder: Path, threads: int) -> Tower:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ModuleNotFoundError as error:
        raise missing_package("ai-edge-litert", "query") from error
    interpreter = Interpreter(model_path=str(model), num_threads=threads)
    if spec.modality == "picture":
        return _PictureTower(spec, LITERT, _picture_runner(spec, interpreter))
    runner = interpreter.get_signature_runner()
    return _numeric_text_tower(spec, LITERT, folder, lambda ids, lengths: _only(runner(ids=ids, lengths=lengths)))


def _picture_runner(spec: TowerSpec, interpreter: Any) -> Callable[[npt.NDArray[np.uint8]], Float32]:
    """Return the function that a LiteRT model of one input and one output is."""
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    fixed = int(taken["shape_signature"][0])
    scale, zero = given["quantization"]
    allocated = 0

    def run(pictures: npt.NDArray[np.uint8]) -> Float32:
        nonlocal allocated
        rows, batch = len(pictures), max(fixed, len(pictures))
        if allocated != batch:
            interpreter.resize_tensor_input(taken["index"], (batch, *pictures.shape[1:]))
            interpreter.allocate_tensors()
            allocated = batch
        if rows < batch:
            pictures = np.concatenate([pictures, np.zeros((batch - rows, *pictures.shape[1:]), np.uint8)])
        interpreter.set_tensor(taken["index"], _as_taken(spec, pictures, taken["dtype"]))
        interpreter.invoke()
        values = interpreter.get_tensor(given["index"]).reshape(batch, -1).astype(np.float32)[:rows]
        return (values - zero) * np.float32(scale) if scale else values

    return run


def _as_taken(spec: TowerSpec, pictures: npt.NDArray[np.uint8], kind: Any) -> npt.NDArray[Any]:
    if kind == np.uint8:
        return pictures
    if kind == np.int8:
        return (pictures.astype(np.int16) - 128).astype(np.int8)
    return (pictures.astype(np.float32) - np.float32(spec.pixel_mean)) / np.float32(spec.pixel_std)


def _numeric_text_tower(
    spec: TowerSpec, form: str, folder: Path, call: Callable[[npt.NDArray[np.int32], npt.NDArray[np.int32]], Float32]
) -> Tower:
    """Make a tower of a function of ids int32[B, L] and lengths int32[B], and the tokenizer in its folder."""
    tokenise = load_tokenizer(spec, folder)

    def measure(texts: list[str]) -> tuple[list[npt.NDArray[np.int32]], npt.NDArray[np.int64]]:
        ids = [np.asarray(row, np.int32) for row in tokenise(texts)]
        lengths = np.array([len(row) for row in ids], np.int64)
        return [cut(row, spec.token_limit) for row in ids], lengths

    def run(rows: list[npt.NDArray[np.int32]]) -> Float32:
        lengths = np.array([len(row) for row in rows], np.int32)
        texts, tokens = len(rows), int(lengths.max())
        if spec.xla and form == SAVED_MODEL:  # which compiles for each shape
            texts, tokens = _next_power(texts), min(_next_power(tokens), max(tokens, spec.token_limit or 0))
        ids = np.zeros((texts, tokens), np.int32)
        for target, row in zip(ids, rows, strict=False):
            target[: len(row)] = row
        return call(ids, np.pad(lengths, (0, texts - len(rows)), constant_values=1))[: len(rows)]

    return _TextTower(spec, form, measure, run)


def _next_power(number: int) -> int:
    """Return the least power of two that is not below a number."""
    return 1 << (number - 1).bit_length()


def _only(outputs: dict[str, Any]) -> Float32:
    (features,) = outputs.values()
    return np.asarray(features, np.float32)


def cut(ids: npt.NDArray[np.int32], limit: int | None) -> npt.NDArray[np.int32]:
    """Keep the first tokens of a text, at most `limit` with the last one, which says that the text ends."""
    return ids if limit is None or len(ids) <= limit else np.concatenate([ids[: limit - 1], ids[-1:]])


def prepare_tensorflow() -> None:
    """Turn on TensorFlow's fast CPU kernels and quieten it, where the environment does not say otherwise.

    Both are read when TensorFlow is imported. What fails in it is raised; what it writes besides is silenced up to its level
    "error", because a machine without a GPU is one to it.
    """
    # Twice the pictures a second on AMD, where TensorFlow leaves oneDNN off.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def load_tensorflow(text: bool = False) -> Any:
    """Import TensorFlow, and for texts its tokenizers; raises ModuleNotFoundError naming the extra."""
    prepare_tensorflow()
    try:
        import tensorflow

        if text:
            import tensorflow_text  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing_package(str(error.name).replace("_", "-"), "pipelines") from error
    return tensorflow


def _load_saved_model(spec: TowerSpec, model: Path, folder: Path, threads: int) -> Tower:
    tf = load_tensorflow(spec.modality == "text")
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
    except RuntimeError:
        _log.debug("TensorFlow runs already, with the threads it started with")
    loaded = tf.saved_model.load(str(model))
    serve = loaded.signatures["serving_default"]
    names = sorted(serve.structured_input_signature[1])
    called = tf.function(serve, jit_compile=True, reduce_retracing=True) if spec.xla else serve

    def run(*items: Any) -> Float32:
        assert loaded is not None  # a signature holds its resources only weakly
        given = {name: tf.constant(item) for name, item in zip(names, items, strict=True)}
        return _only({key: value.numpy() for key, value in called(**given).items()})

    if spec.modality == "picture":
        return _PictureTower(spec, SAVED_MODEL, run)
    if names == ["ids", "lengths"]:
        return _numeric_text_tower(spec, SAVED_MODEL, folder, run)
    counts = loaded.signatures.get("count_tokens", None)

    def measure(texts: list[str]) -> tuple[list[bytes], npt.NDArray[np.int64]]:
        encoded = [text.encode() for text in texts]
        if counts is None:
            return encoded, np.array([len(text) for text in encoded], np.int64)
        (tokens,) = counts(texts=tf.constant(encoded)).values()
        return encoded, tokens.numpy().astype(np.int64)

    return _TextTower(spec, SAVED_MODEL, measure, run)
