"""Presets: towers built from a specification, `package:…`, `keras:…` or `saved-model:…`, into a folder.

TensorFlow is imported when a tower is built, not with this module.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from encoders.towers import (
    FORM_FILES,
    LITERT,
    SAVED_MODEL,
    SPEC_FILE,
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

        return _build_picture_network(spec, efficientnet_lite.picture_network(), folder)
    if name == "minilm":
        from encoders import bert

        return _build_text_network(spec, bert.minilm_network(), folder)
    from encoders import sentence_encoder

    return _build_text_network(spec, sentence_encoder.text_network(), folder)


def _build_application(spec: str, name: str, options: Mapping[str, str], folder: Path) -> TowerSpec:
    from encoders import keras_application

    return _build_picture_network(spec, keras_application.picture_network(name, options), folder)


def _build_saved_model(
    spec: str, source: Path, sha256: str | None, modality: Modality, folder: Path
) -> TowerSpec:
    from encoders import saved_model

    target = folder / FORM_FILES[SAVED_MODEL]
    weights_hash = saved_model.copy_verified(source, target, sha256)
    side, batch = saved_model.read_signature(target, source, modality)
    forms: tuple[str, ...] = (SAVED_MODEL,)
    if modality == "picture" and batch is None:
        forms = _try_to_convert(folder)
    return _finish(_unmeasured(spec, modality, weights_hash, forms, side=side, batch=batch or BATCH), folder)


def _build_picture_network(spec: str, network: PictureNetwork, folder: Path) -> TowerSpec:
    from encoders.conversion import save_picture_network

    save_picture_network(network, folder / FORM_FILES[SAVED_MODEL])
    forms = _try_to_convert(folder)
    return _finish(_unmeasured(spec, "picture", network.weights_hash, forms, side=network.side), folder)


def _build_text_network(spec: str, network: TextNetwork, folder: Path) -> TowerSpec:
    from encoders.conversion import write_text_network

    write_text_network(network, folder)
    unmeasured = _unmeasured(
        spec,
        "text",
        network.weights_hash,
        (LITERT, SAVED_MODEL),
        token_limit=network.token_limit,
        tokenizer=network.tokenizer,
    )
    return _finish(unmeasured, folder)


def _unmeasured(
    spec: str,
    modality: Modality,
    weights_hash: str,
    forms: tuple[str, ...],
    side: int | None = None,
    batch: int = BATCH,
    token_limit: int | None = None,
    tokenizer: str | None = None,
) -> TowerSpec:
    return TowerSpec(spec, modality, 0, weights_hash, side, token_limit, batch, tokenizer, forms)


def _try_to_convert(folder: Path) -> tuple[str, ...]:
    """Write the LiteRT form of a SavedModel for pictures where it can have one; returns the forms."""
    from encoders.conversion import UnconvertibleError, convert

    try:
        model = convert(folder / FORM_FILES[SAVED_MODEL])
    except UnconvertibleError as error:
        _log.warning("the tower runs in TensorFlow only: %s", error)
        return (SAVED_MODEL,)
    (folder / FORM_FILES[LITERT]).write_bytes(model)
    return LITERT, SAVED_MODEL


def _finish(unmeasured: TowerSpec, folder: Path) -> TowerSpec:
    """Measure the dimension, compare form with form and batches with single items, write tower.json."""
    from encoders.conversion import check_equal, probe_dimension

    probes: Any = PROBE_TEXTS if unmeasured.side is None else probe_pictures(unmeasured.side)
    dimension = probe_dimension(folder / FORM_FILES[SAVED_MODEL], probes, unmeasured.batch)
    built = replace(unmeasured, dimension=dimension)
    (folder / SPEC_FILE).write_text(built.to_json(), "utf-8")
    tower = load_tower(folder, SAVED_MODEL)
    expected = tower.encode(probes)
    alone = np.concatenate([tower.encode(probes[row : row + 1]) for row in range(3)])
    check_equal(alone, expected[:3], f"in a batch, {built.spec}", "alone")
    if LITERT in built.forms:
        found = load_tower(folder, LITERT).encode(probes)
        check_equal(expected, found, f"the LiteRT form of {built.spec}", "the SavedModel")
    return built


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
