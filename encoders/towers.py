"""Towers: pretrained encoders run on pictures or texts, from a folder that `encoders.presets` built.

A folder holds `tower.json` and one or two forms: `model.tflite`, run by LiteRT without TensorFlow, and
`saved_model/`, for which TensorFlow is imported when it is loaded.
"""

from __future__ import annotations

import json
import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Modality = Literal["picture", "text"]
Float32 = npt.NDArray[np.float32]

LITERT, SAVED_MODEL = "litert", "saved_model"
FORM_FILES = {LITERT: "model.tflite", SAVED_MODEL: "saved_model"}
TOKENIZER_FILES = {"sentencepiece": "tokenizer.model", "wordpiece": "tokenizer.json"}
SPEC_FILE = "tower.json"

# Larger batches leave the caches of a CPU: 256 tokens or 4 pictures a call run up to twice as fast in LiteRT.
TOKENS_PER_CALL = {LITERT: 256, SAVED_MODEL: 8192}
PICTURES_PER_LITERT_CALL = 4

_log = logging.getLogger(__name__)


class TowerError(ValueError):
    """A tower's folder cannot be read or run, or items do not fit it."""


@dataclass(frozen=True)
class TowerSpec:
    """What a tower is: the content of `tower.json`.

    Attributes:
        spec: where it comes from, as given to `encoders.presets.build_tower`.
        modality: what it encodes.
        dimension: D, the dimension of its features.
        weights_hash: hex digest of all that determines a feature besides the item.
        side: pixels of the square that pictures arrive in; None for texts.
        token_limit: tokens a text is cut at; None for pictures and where the tower does not tell.
        batch: pictures that are best encoded at once; texts a batch at most.
        tokenizer: tokenizer of the LiteRT form, a key of TOKENIZER_FILES.
        forms: what the folder holds, keys of FORM_FILES.
    """

    spec: str
    modality: Modality
    dimension: int
    weights_hash: str
    side: int | None
    token_limit: int | None
    batch: int
    tokenizer: str | None
    forms: tuple[str, ...]

    def to_json(self) -> str:
        """Write the fields as JSON, always the same text for the same fields."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> TowerSpec:
        """Read what `to_json` wrote; raises TowerError where fields are missing or unknown."""
        try:
            content = json.loads(text)
        except ValueError as error:
            raise TowerError(f"{SPEC_FILE} is not JSON ({error}): build the tower again") from None
        expected = {field.name for field in fields(cls)}
        if not isinstance(content, dict) or set(content) != expected:
            raise TowerError(
                f"{SPEC_FILE} does not have the fields {sorted(expected)}: build the tower again"
            )
        return cls(**content | {"forms": tuple(content["forms"])})


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
        size = PICTURES_PER_LITERT_CALL if self.form == LITERT else self.spec.batch
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
        # A lone surrogate has no UTF-8; cleaned texts have none.
        texts = [str(text).encode("utf-8", "replace").decode() for text in items]
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
    """Load a tower from its folder, by default in its LiteRT form where it has one.

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
    form = form or (LITERT if LITERT in spec.forms else SAVED_MODEL)
    if form not in spec.forms:
        raise TowerError(f"{spec.spec} has no form '{form}' in {folder} (forms: {', '.join(spec.forms)})")
    threads = threads or available_cores()
    model = folder / FORM_FILES[form]
    if form == SAVED_MODEL:
        return _load_saved_model(spec, model, threads)
    return _load_litert(spec, model, folder, threads)


def available_cores() -> int:
    """Count the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _missing(package: str, extra: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(
        f"the package '{package}' is not installed: pip install 'catalogue-index[{extra}]'"
    )


def _load_litert(spec: TowerSpec, model: Path, folder: Path, threads: int) -> Tower:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ModuleNotFoundError as error:
        raise _missing("ai-edge-litert", "query") from error
    interpreter = Interpreter(model_path=str(model), num_threads=threads)
    runner = interpreter.get_signature_runner()
    if spec.modality == "picture":
        (name,) = runner.get_input_details()
        return _PictureTower(spec, LITERT, lambda pictures: _only(runner(**{name: pictures})))
    tokenise = _load_tokenizer(spec, folder)

    def measure(texts: list[str]) -> tuple[list[npt.NDArray[np.int32]], npt.NDArray[np.int64]]:
        ids = [np.asarray(row, np.int32) for row in tokenise(texts)]
        lengths = np.array([len(row) for row in ids], np.int64)
        limit = spec.token_limit
        return ids if limit is None else [_cut(row, limit) for row in ids], lengths

    def run(rows: list[npt.NDArray[np.int32]]) -> Float32:
        lengths = np.array([len(row) for row in rows], np.int32)
        ids = np.zeros((len(rows), int(lengths.max())), np.int32)
        for target, row in zip(ids, rows, strict=True):
            target[: len(row)] = row
        return _only(runner(ids=ids, lengths=lengths))

    return _TextTower(spec, LITERT, measure, run)


def _only(outputs: dict[str, Any]) -> Float32:
    (features,) = outputs.values()
    return np.asarray(features, np.float32)


def _cut(ids: npt.NDArray[np.int32], limit: int) -> npt.NDArray[np.int32]:
    """Keep the first tokens and the last one, which says that the text ends."""
    return ids if len(ids) <= limit else np.concatenate([ids[: limit - 1], ids[-1:]])


def _load_tokenizer(spec: TowerSpec, folder: Path) -> Callable[[list[str]], list[Any]]:
    if spec.tokenizer == "sentencepiece":
        try:
            from sentencepiece import SentencePieceProcessor
        except ModuleNotFoundError as error:
            raise _missing("sentencepiece", "query") from error
        processor = SentencePieceProcessor(model_file=str(folder / TOKENIZER_FILES["sentencepiece"]))
        return lambda texts: processor.encode(texts, out_type=int, add_bos=True, add_eos=True)
    if spec.tokenizer == "wordpiece":
        try:
            from tokenizers import Tokenizer
        except ModuleNotFoundError as error:
            raise _missing("tokenizers", "query") from error
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILES["wordpiece"]))
        # As in the SavedModel, a text that spells a special token is a text.
        tokenizer.encode_special_tokens = True
        return lambda texts: [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    raise TowerError(
        f"{spec.spec} names the tokenizer '{spec.tokenizer}', which is unknown: build the tower again"
    )


def load_tensorflow(text: bool = False) -> Any:
    """Import TensorFlow, and for texts its tokenizers; raises ModuleNotFoundError naming the extra."""
    # Read at import only. Twice the pictures a second on AMD, where TensorFlow leaves oneDNN off.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import tensorflow

        if text:
            import tensorflow_text  # noqa: F401
    except ModuleNotFoundError as error:
        raise _missing(str(error.name).replace("_", "-"), "pipelines") from error
    return tensorflow


def _load_saved_model(spec: TowerSpec, model: Path, threads: int) -> Tower:
    tf = load_tensorflow(spec.modality == "text")
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
    except RuntimeError:
        _log.debug("TensorFlow runs already, with the threads it started with")
    loaded = tf.saved_model.load(str(model))
    serve = loaded.signatures["serving_default"]
    (name,) = serve.structured_input_signature[1]

    def run(items: Any) -> Float32:
        assert loaded is not None  # a signature holds its resources only weakly
        return _only({key: value.numpy() for key, value in serve(**{name: tf.constant(items)}).items()})

    if spec.modality == "picture":
        return _PictureTower(spec, SAVED_MODEL, run)
    counts = loaded.signatures.get("count_tokens", None)

    def measure(texts: list[str]) -> tuple[list[bytes], npt.NDArray[np.int64]]:
        encoded = [text.encode() for text in texts]
        if counts is None:
            return encoded, np.array([len(text) for text in encoded], np.int64)
        (tokens,) = counts(texts=tf.constant(encoded)).values()
        return encoded, tokens.numpy().astype(np.int64)

    return _TextTower(spec, SAVED_MODEL, measure, run)
