"""Any SavedModel as a tower: uint8 pictures or strings in, one float output, signature `serving_default`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf

from encoders.tower_spec import Modality
from encoders.weights import WeightsError, hash_folder

SIGNATURE = "serving_default"
OUTPUT_TYPES = (tf.float32, tf.float16, tf.bfloat16, tf.float64)


class SavedModelError(ValueError):
    """A SavedModel whose signature is not that of a tower."""


class Signature(NamedTuple):
    """What the signature of a SavedModel says: side and batch of pictures where it fixes them."""

    side: int | None
    batch: int | None


def copy_verified(source: Path, target: Path, sha256: str | None) -> str:
    """Copy a SavedModel, and return the hash of its files, names included.

    Raises SavedModelError where it is none, and WeightsError where `sha256` is given and another.
    """
    if not (source / "saved_model.pb").is_file():
        raise SavedModelError(f"{source} is no SavedModel: name a folder that holds saved_model.pb")
    shutil.copytree(source, target)
    found = hash_folder(target)
    if sha256 not in (None, found):
        raise WeightsError(
            f"SavedModel {source} has sha256 {found} instead of {sha256}: give the right folder"
        )
    return found


def read_signature(folder: Path, source: Path, modality: Modality) -> Signature:
    """Check that a SavedModel takes and gives what a tower of this modality does.

    Raises SavedModelError, naming `source`, for anything but one input (uint8[B, side, side, 3] or string[B])
    and one float output [B, D].
    """
    loaded = tf.saved_model.load(str(folder))
    if SIGNATURE not in loaded.signatures:
        raise SavedModelError(
            f"{source} has the signatures {sorted(loaded.signatures)}: export it as '{SIGNATURE}'"
        )
    signature = loaded.signatures[SIGNATURE]
    inputs, outputs = signature.structured_input_signature[1], signature.structured_outputs
    if len(inputs) != 1 or len(outputs) != 1:
        raise SavedModelError(
            f"{source} has {len(inputs)} inputs and {len(outputs)} outputs: export it with one of each"
        )
    (taken,), (given,) = inputs.values(), outputs.values()
    if given.dtype not in OUTPUT_TYPES or given.shape.rank not in (2, None):
        raise SavedModelError(f"{source} gives {_describe(given)}: export it so that it gives floats [B, D]")
    if modality == "text":
        if taken.dtype != tf.string or taken.shape.as_list() != [None]:
            raise SavedModelError(
                f"{source} takes {_describe(taken)}: as a text tower it has to take string [B], B free"
            )
        return Signature(None, None)
    shape = taken.shape.as_list() if taken.shape.rank == 4 else [None] * 4
    if taken.dtype != tf.uint8 or shape[3] != 3 or shape[1] is None or shape[1] != shape[2]:
        raise SavedModelError(
            f"{source} takes {_describe(taken)}: as a picture tower it has to take uint8 [B, side, side, 3]"
        )
    return Signature(shape[1], shape[0])


def _describe(tensor: tf.TensorSpec) -> str:
    shape = (
        "of any rank" if tensor.shape.rank is None else str(tensor.shape.as_list()).replace("None", "B", 1)
    )
    return f"{tensor.dtype.name} {shape}"
