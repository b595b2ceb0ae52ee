"""Any LiteRT (`.tflite`) file as a tower for pictures: a square of pixels in, one vector out, run as it is."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from encoders.integrity import hash_file
from encoders.tower_spec import LITERT, TowerError, TowerSpec
from encoders.weights import WeightsError, combine_hashes, reason_of

BATCH = 32
TAKEN = (np.uint8, np.int8, np.float32)

# Whatever changes a feature and is not in the file: how the numbers of `encoders.towers` go in and come out.
RECIPE = "litert file, 1"


def copy_verified(source: Path, target: Path, options: Mapping[str, str]) -> TowerSpec:
    """Copy a LiteRT file, and return what it is; `spec` in that is the file's name.

    Args:
        source: the file.
        target: where the copy goes.
        options: `sha256`; of a file that takes float32, `mean` and `std` of pixels in 0..255.

    Raises:
        TowerError: it is no such file, or it takes floats and nothing says how pixels become those, or the reverse.
        WeightsError: it is missing, or another than was pinned.
    """
    from ai_edge_litert.interpreter import Interpreter

    if not source.is_file():
        raise WeightsError(f"LiteRT file {source} is missing: name a .tflite file")
    digest = hash_file(source)
    if options.get("sha256") not in (None, digest):
        raise WeightsError(f"LiteRT file {source} has sha256 {digest} instead of {options['sha256']}: give the right file")
    try:
        interpreter = Interpreter(model_path=str(source))
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise TowerError(f"{source} is no LiteRT model ({reason_of(error)}): name a .tflite file") from error
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    if len(inputs) != 1 or len(outputs) != 1:
        raise TowerError(f"{source} has {len(inputs)} inputs and {len(outputs)} outputs: a tower has one of each")
    shape, kind = [int(length) for length in inputs[0]["shape_signature"]], inputs[0]["dtype"]
    if kind not in TAKEN or len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2] or shape[1] < 1:
        raise TowerError(
            f"{source} takes {np.dtype(kind).name} {shape}: a picture tower takes uint8, int8 or float32 [B, side, side, 3]"
        )
    floats, scaled = kind == np.float32, {"mean", "std"} & set(options)
    if floats and len(scaled) < 2:
        raise TowerError(f"{source} takes float32: say how pixels become that, as in tflite:{source}?mean=127.5&std=127.5")
    if scaled and not floats:
        raise TowerError(f"{source} takes {np.dtype(kind).name}, pixels as they are: leave the options mean and std away")
    dimension = _dimension(source, outputs[0], shape[0])
    shutil.copyfile(source, target)
    mean, std = float(options.get("mean", 0)), float(options.get("std", 1))
    return TowerSpec(
        spec=source.name, modality="picture", dimension=dimension,
        weights_hash=combine_hashes(RECIPE, digest, str([mean, std] if floats else [])),
        side=shape[1], token_limit=None, batch=shape[0] if shape[0] > 0 else BATCH, tokenizer=None, forms=(LITERT,),
        pixel_mean=mean, pixel_std=std,
    )  # fmt: skip


def _dimension(source: Path, output: Mapping[str, Any], batch: int) -> int:
    shape = [int(length) for length in output["shape"]]
    if len(shape) < 2 or min(shape[1:]) < 1 or (batch > 0 and shape[0] != batch):
        raise TowerError(f"{source} gives {shape}: a tower gives one vector for each picture")
    return int(np.prod(shape[1:]))
