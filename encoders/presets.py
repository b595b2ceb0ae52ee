"""Presets: towers built from a specification (`encoders.sources`) into a folder, with all checks.

TensorFlow is imported when a tower is built, not with this module.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from encoders.sources import (
    COMPACT,
    Source,
    load_network,
    prepare_pictures,
    prepare_texts,
    read_source,
    split_specs,
)
from encoders.tower_spec import (
    FORM_FILES,
    LITERT,
    SAVED_MODEL,
    SPEC_FILE,
    TOKENIZER_FILES,
    Modality,
    TowerError,
    TowerSpec,
)
from encoders.towers import load_tensorflow, load_tower

if TYPE_CHECKING:
    from encoders.conversion import PictureNetwork, TextNetwork

DEFAULT_TOWERS: Mapping[Modality, str] = {
    "picture": "package:efficientnet-lite0?side=288",
    "text": "package:use-multilingual",
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
        spec: where the network comes from, as `encoders.sources` reads it.
        modality: what it encodes.
        folder: where `tower.json` and the forms go.

    Raises:
        TowerError: a specification that is unknown or of the other modality, a folder that is not empty.
        ApplicationError, SavedModelError: a network that is none, or not one that a tower can be.
        WeightsError: a weights file that is missing, or not the one that was pinned.
        ConversionError: a LiteRT form that does not answer as the SavedModel does.
        ModuleNotFoundError: a package that is not installed.
    """
    sources = [read_source(one, modality) for one in split_specs(spec)]
    if folder.exists() and any(folder.iterdir()):
        raise TowerError(f"{folder} is not empty: name a new folder for the tower '{spec}'")
    load_tensorflow(text=modality == "text")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        unfinished = Path(temporary) / "tower"
        unfinished.mkdir()
        built = _build(sources[0], unfinished) if len(sources) == 1 else _build_several(spec, sources, unfinished)
        if folder.exists():
            folder.rmdir()
        unfinished.rename(folder)
    _log.info("built tower %s: %d values, forms %s", spec, built.dimension, ", ".join(built.forms))
    return built


def _build(source: Source, folder: Path) -> TowerSpec:
    if source.scheme == "saved-model":
        return _build_saved_model(source, _batch(source), folder)
    if source.scheme == "tflite":
        return _build_litert_file(source, folder)
    return write_trained(source, load_network(source), folder)


def write_trained(source: Source, network: PictureNetwork | TextNetwork, folder: Path) -> TowerSpec:
    """Write a network of a source into an existing folder, whether its weights are the source's or were trained further."""
    from encoders.conversion import PictureNetwork

    litert: Literal["required", "wanted"] = "required" if source.scheme in ("package", COMPACT) else "wanted"
    if isinstance(network, PictureNetwork):
        return write_picture_tower(source.spec, network, folder, litert, _batch(source), source.xla)
    return write_text_tower(source.spec, network, folder, litert, _batch(source), source.xla)


def _batch(source: Source) -> int:
    return int(source.common.get("batch", BATCH))


def _build_several(spec: str, sources: Sequence[Source], folder: Path) -> TowerSpec:
    from encoders.side_by_side import join_specs

    built = []
    for number, source in enumerate(sources):
        (folder / str(number)).mkdir()
        built.append(_build(source, folder / str(number)))
    joined = join_specs(spec, built)
    (folder / SPEC_FILE).write_text(joined.to_json(), "utf-8")
    return joined


def _build_saved_model(source: Source, batch: int, folder: Path) -> TowerSpec:
    from encoders import saved_model

    target = folder / FORM_FILES[SAVED_MODEL]
    weights_hash = saved_model.copy_verified(Path(source.name), target, source.options.get("sha256"))
    side, fixed = saved_model.read_signature(target, Path(source.name), source.modality)
    found = TowerSpec(source.spec, source.modality, 0, weights_hash, side, None, fixed or batch, None, (SAVED_MODEL,),
                      xla=source.xla)  # fmt: skip
    unmeasured = prepare_pictures(source, found) if source.modality == "picture" else prepare_texts(source, found)
    return _finish(unmeasured, folder, "wanted" if source.modality == "picture" and fixed is None else "none")


def _build_litert_file(source: Source, folder: Path) -> TowerSpec:
    from encoders import litert_file

    found = litert_file.copy_verified(Path(source.name), folder / FORM_FILES[LITERT], source.options)
    spec = prepare_pictures(source, replace(found, spec=source.spec))
    (folder / SPEC_FILE).write_text(spec.to_json(), "utf-8")
    assert spec.side is not None
    load_tower(folder).encode(probe_pictures(spec.side))
    return spec


def write_picture_tower(
    spec: str, network: PictureNetwork, folder: Path, litert: Literal["required", "wanted"] = "required", batch: int = BATCH,
    xla: bool = False,
) -> TowerSpec:  # fmt: skip
    """Write a network for pictures into an existing folder, with all checks; raises ConversionError.

    Where LiteRT is only wanted, a network that LiteRT cannot run as it should keeps its SavedModel alone, and so does one of
    a mixed precision, as LiteRT computes in float32.
    """
    from encoders.conversion import save_picture_network

    save_picture_network(network, folder / FORM_FILES[SAVED_MODEL])
    unmeasured = TowerSpec(
        spec, "picture", 0, network.weights_hash, network.side, None, batch, None, (SAVED_MODEL,), network.decoding,
        precision=network.precision, xla=xla,
    )  # fmt: skip
    return _finish(unmeasured, folder, litert if network.precision == "float32" else "none")


def write_text_tower(
    spec: str, network: TextNetwork, folder: Path, litert: Literal["required", "wanted"] = "required", batch: int = BATCH,
    xla: bool = False,
) -> TowerSpec:  # fmt: skip
    """Write a network for texts into an existing folder, as `write_picture_tower` does."""
    from encoders.conversion import save_numeric, save_text_network

    save_text_network(network, folder / FORM_FILES[SAVED_MODEL])
    (folder / TOKENIZER_FILES[network.tokenizer]).write_bytes(network.tokenizer_file)
    unmeasured = TowerSpec(
        spec, "text", 0, network.weights_hash, None, network.token_limit, batch, network.tokenizer, (SAVED_MODEL,),
        prefix=network.prefix, text_form=network.text_form, precision=network.precision, xla=xla,
    )  # fmt: skip
    if network.precision != "float32":
        return _finish(unmeasured, folder, "none")
    return _finish(unmeasured, folder, litert, None if network.tokenise is None else partial(save_numeric, network))


def _finish(
    unmeasured: TowerSpec, folder: Path, litert: Literal["required", "wanted", "none"],
    save_numeric: Callable[[Path], None] | None = None,
) -> TowerSpec:  # fmt: skip
    """Measure the dimension, compare batches with single items and form with form, write tower.json.

    `save_numeric` writes what LiteRT converts, where that is not the SavedModel itself.
    """
    from encoders.conversion import ConversionError, check_equal, probe_dimension
    from encoders.weights import reason_of

    name, saved_model = unmeasured.spec, folder / FORM_FILES[SAVED_MODEL]
    probes: Any = PROBE_TEXTS if unmeasured.side is None else probe_pictures(unmeasured.side)
    dimension = probe_dimension(saved_model, probes, unmeasured.batch)
    alone = replace(unmeasured, dimension=dimension)
    (folder / SPEC_FILE).write_text(alone.to_json(), "utf-8")
    tower = load_tower(folder, SAVED_MODEL)
    try:
        expected = tower.encode(probes)
    except load_tensorflow().errors.OpError as error:
        how = "compiled by XLA" if alone.xla else "run"
        raise ConversionError(f"{name} cannot be {how}: {reason_of(error)}") from error
    single = np.concatenate([tower.encode(probes[row : row + 1]) for row in range(3)])
    check_equal(single, expected[:3], f"{name} in a batch", "itself alone", alone.precision)
    if litert == "none":
        return alone
    both = replace(alone, forms=(LITERT, SAVED_MODEL))
    (folder / SPEC_FILE).write_text(both.to_json(), "utf-8")
    try:
        _convert(folder, save_numeric)
        _check_litert(both, folder, probes, expected)
    except ConversionError as error:
        if litert == "required":
            raise
        _log.warning("%s runs in TensorFlow only: %s", name, error)
        (folder / FORM_FILES[LITERT]).unlink(missing_ok=True)
        (folder / SPEC_FILE).write_text(alone.to_json(), "utf-8")
        return alone
    return both


def _convert(folder: Path, save_numeric: Callable[[Path], None] | None) -> None:
    from encoders.conversion import convert

    source = folder / FORM_FILES[SAVED_MODEL]
    with tempfile.TemporaryDirectory() as temporary:
        if save_numeric is not None:
            source = Path(temporary) / "numeric"
            save_numeric(source)
        (folder / FORM_FILES[LITERT]).write_bytes(convert(source))


def _check_litert(spec: TowerSpec, folder: Path, probes: Any, expected: npt.NDArray[np.float32]) -> None:
    from encoders.conversion import ConversionError, check_equal

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
