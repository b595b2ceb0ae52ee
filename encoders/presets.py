"""Presets: towers built from a specification, `package:…`, `keras:…` or `saved-model:…`, into a folder.

TensorFlow is imported when a tower is built, not with this module.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from encoders.towers import (
    FORM_FILES,
    LITERT,
    SAVED_MODEL,
    SPEC_FILE,
    TOKENIZER_FILES,
    Modality,
    TowerError,
    TowerSpec,
    load_tensorflow,
    load_tower,
)

if TYPE_CHECKING:
    from encoders.conversion import PictureNetwork, TextNetwork

DEFAULT_TOWERS: Mapping[Modality, str] = {
    "picture": "package:efficientnet-lite0",
    "text": "package:use-multilingual",
}
PACKAGED: Mapping[str, Modality] = {
    "efficientnet-lite0": "picture",
    "use-multilingual": "text",
    "minilm": "text",
}

BATCH = 32

# What forms are compared on: scripts, an emoji, a NUL, an unassigned character, nothing, more than any limit.
PROBE_TEXTS = (
    "red shoes",
    "白色运动鞋",
    "",
    "Women's floral-print midi dress, size M (navy/white) - 100% cotton",
    "黒い革のハンドバッグ",
    "กระเป๋าหนังสีดำ",
    "schwarze Handtasche für Frauen",
    "👟🔥",
    "a\0b",
    "\u0378",
    "café CAFÉ cafe\u0301",
    "watch " * 700,
)

_log = logging.getLogger(__name__)


def build_tower(spec: str, modality: Modality, folder: Path) -> TowerSpec:
    """Build a tower into a folder that is new or empty, whole or not at all.

    Args:
        spec: `package:efficientnet-lite0`, `package:use-multilingual`, `package:minilm`,
            `keras:<Application>?weights=<file>` (see `encoders.keras_application`) or `saved-model:<folder>`;
            these two take `sha256=<hex>`, too, as in `saved-model:<folder>?sha256=<hex>`.
        modality: what it encodes.
        folder: where `tower.json` and the forms go.

    Raises:
        TowerError: a specification that is unknown or of the other modality, a folder that is not empty.
        ApplicationError, SavedModelError: a network that is none, or not one that a tower can be.
        WeightsError: a weights file that is missing, or not the one that was pinned.
        ConversionError: a LiteRT form that does not answer as the SavedModel does.
        ModuleNotFoundError: a package that is not installed.
    """
    build = _builder(spec, modality)
    if folder.exists() and any(folder.iterdir()):
        raise TowerError(f"{folder} is not empty: name a new folder for the tower '{spec}'")
    load_tensorflow(text=modality == "text")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        partial = Path(temporary) / "tower"
        partial.mkdir()
        built = build(partial)
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    _log.info("built tower %s: %d values, forms %s", spec, built.dimension, ", ".join(built.forms))
    return built


def _builder(spec: str, modality: Modality) -> Callable[[Path], TowerSpec]:
    scheme, separator, rest = spec.partition(":")
    name, _, query = rest.partition("?")
    if not separator or not name or scheme not in ("package", "keras", "saved-model"):
        raise TowerError(
            f"tower '{spec}' is unknown: give package:<{' | '.join(PACKAGED)}>, "
            "keras:<Application>?weights=<file> or saved-model:<folder>"
        )
    if scheme == "package":
        if rest not in PACKAGED:
            raise TowerError(f"tower '{spec}' is unknown: the packaged ones are {', '.join(PACKAGED)}")
        if PACKAGED[rest] != modality:
            raise TowerError(f"tower '{spec}' encodes a {PACKAGED[rest]}, not a {modality}: name another one")
        return lambda folder: _build_packaged(spec, rest, folder)
    options = {key: value for key, _, value in (part.partition("=") for part in query.split("&") if part)}
    if scheme == "keras":
        if modality != "picture":
            raise TowerError(f"tower '{spec}' encodes a picture, not a {modality}: name another one")
        return lambda folder: _build_application(spec, name, options, folder)
    unknown = sorted(set(options) - {"sha256"})
    if unknown:
        raise TowerError(
            f"tower '{spec}' has the option '{unknown[0]}', which is unknown: only sha256 is known"
        )
    return lambda folder: _build_saved_model(spec, Path(name), options.get("sha256"), modality, folder)


def _build_packaged(spec: str, name: str, folder: Path) -> TowerSpec:
    if name == "efficientnet-lite0":
        from encoders import efficientnet_lite

        return write_picture_tower(spec, efficientnet_lite.picture_network(), folder)
    if name == "minilm":
        from encoders import bert

        return write_text_tower(spec, bert.minilm_network(), folder)
    from encoders import sentence_encoder

    return write_text_tower(spec, sentence_encoder.text_network(), folder)


def _build_application(spec: str, name: str, options: Mapping[str, str], folder: Path) -> TowerSpec:
    from encoders import keras_application

    network = keras_application.picture_network(name, options)
    return write_picture_tower(spec, network, folder, litert="wanted")


def _build_saved_model(
    spec: str, source: Path, sha256: str | None, modality: Modality, folder: Path
) -> TowerSpec:
    from encoders import saved_model

    target = folder / FORM_FILES[SAVED_MODEL]
    weights_hash = saved_model.copy_verified(source, target, sha256)
    side, batch = saved_model.read_signature(target, source, modality)
    unmeasured = TowerSpec(spec, modality, 0, weights_hash, side, None, batch or BATCH, None, (SAVED_MODEL,))
    return _finish(unmeasured, folder, "wanted" if modality == "picture" and batch is None else "none")


def write_picture_tower(
    spec: str, network: PictureNetwork, folder: Path, litert: Literal["required", "wanted"] = "required"
) -> TowerSpec:
    """Write a network for pictures into an existing folder, with all checks; raises ConversionError.

    Where LiteRT is only wanted, a network that LiteRT cannot run as it should keeps its SavedModel alone.
    """
    from encoders.conversion import save_picture_network

    save_picture_network(network, folder / FORM_FILES[SAVED_MODEL])
    unmeasured = TowerSpec(
        spec, "picture", 0, network.weights_hash, network.side, None, BATCH, None, (SAVED_MODEL,)
    )
    return _finish(unmeasured, folder, litert)


def write_text_tower(spec: str, network: TextNetwork, folder: Path) -> TowerSpec:
    """Write a network for texts into an existing folder, with all checks; raises ConversionError."""
    from encoders.conversion import convert_text_network, save_text_network

    save_text_network(network, folder / FORM_FILES[SAVED_MODEL])
    (folder / FORM_FILES[LITERT]).write_bytes(convert_text_network(network))
    (folder / TOKENIZER_FILES[network.tokenizer]).write_bytes(network.tokenizer_file)
    limit, tokenizer = network.token_limit, network.tokenizer
    unmeasured = TowerSpec(
        spec, "text", 0, network.weights_hash, None, limit, BATCH, tokenizer, (SAVED_MODEL,)
    )
    return _finish(unmeasured, folder, "required")


def _finish(unmeasured: TowerSpec, folder: Path, litert: Literal["required", "wanted", "none"]) -> TowerSpec:
    """Measure the dimension, compare batches with single items and form with form, write tower.json."""
    from encoders.conversion import ConversionError, check_equal, probe_dimension

    name, saved_model = unmeasured.spec, folder / FORM_FILES[SAVED_MODEL]
    probes: Any = PROBE_TEXTS if unmeasured.side is None else probe_pictures(unmeasured.side)
    dimension = probe_dimension(saved_model, probes, unmeasured.batch)
    alone = replace(unmeasured, dimension=dimension)
    (folder / SPEC_FILE).write_text(alone.to_json(), "utf-8")
    tower = load_tower(folder, SAVED_MODEL)
    expected = tower.encode(probes)
    single = np.concatenate([tower.encode(probes[row : row + 1]) for row in range(3)])
    check_equal(single, expected[:3], f"{name} in a batch", "itself alone")
    if litert == "none":
        return alone
    both = replace(alone, forms=(LITERT, SAVED_MODEL))
    (folder / SPEC_FILE).write_text(both.to_json(), "utf-8")
    try:
        _check_litert(both, folder, probes, expected)
    except ConversionError as error:
        if litert == "required":
            raise
        _log.warning("%s runs in TensorFlow only: %s", name, error)
        (folder / FORM_FILES[LITERT]).unlink(missing_ok=True)
        (folder / SPEC_FILE).write_text(alone.to_json(), "utf-8")
        return alone
    return both


def _check_litert(spec: TowerSpec, folder: Path, probes: Any, expected: npt.NDArray[np.float32]) -> None:
    from encoders.conversion import ConversionError, check_equal, convert

    if spec.modality == "picture":
        (folder / FORM_FILES[LITERT]).write_bytes(convert(folder / FORM_FILES[SAVED_MODEL]))
    try:
        found = load_tower(folder, LITERT).encode(probes)
    except (RuntimeError, ValueError) as error:
        raise ConversionError(f"the LiteRT form of {spec.spec} does not run ({error}): refused") from error
    check_equal(expected, found, f"the LiteRT form of {spec.spec}", "the SavedModel")


def probe_pictures(side: int) -> npt.NDArray[np.uint8]:
    """Draw what forms are compared on: ramps, noise, both, black, white: uint8[5, side, side, 3]."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 255, side)
    smooth = np.stack([*np.meshgrid(ramp, ramp), np.full((side, side), 90.0)], axis=2)
    noise = rng.integers(0, 256, smooth.shape)
    drawn = [
        smooth,
        noise,
        np.where(smooth > 128, smooth, noise),
        np.zeros_like(smooth),
        np.full_like(smooth, 255),
    ]
    return np.stack(drawn).astype(np.uint8)
