"""Weights files that are refused: those that would run code, of another format, or cut short."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest

from encoders import efficientnet_lite
from encoders.weights import TORCH_MAGIC, WeightsError, package_folder, read_safetensors, read_torch

LITE0 = efficientnet_lite.VARIANTS["efficientnet-lite0"]


class Payload:
    """Runs a command where an ordinary unpickler reads it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


def torch_file(state: Any) -> bytes:
    """Write the pickles of a legacy PyTorch file around a state."""
    parts: tuple[Any, ...] = (TORCH_MAGIC, 1001, {"little_endian": True}, state, [])
    return b"".join(pickle.dumps(part, 2) for part in parts)


def test_a_weights_file_that_would_run_code_is_refused() -> None:
    message = r"^the weights file asks for (posix|nt)\.system, which no weights need: it is refused$"
    with pytest.raises(WeightsError, match=message):
        read_torch(torch_file(OrderedDict(a=Payload())))


def test_weights_files_of_another_format_or_cut_short_are_refused() -> None:
    path = package_folder(LITE0.package, LITE0.module) / LITE0.file
    with pytest.raises(WeightsError, match=r"^the weights file is cut short or holds other counts"):
        read_torch(path.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match=r"^the weights file is not in PyTorch's legacy format"):
        read_torch(b"PK\x03\x04")
    with pytest.raises(WeightsError, match=r"^the weights file is not in PyTorch's legacy format$"):
        read_torch(pickle.dumps(7))
    with pytest.raises(
        WeightsError, match=r"^the weights file is not in the safetensors format, or cut short"
    ):
        read_safetensors((2).to_bytes(8, "little") + b'{"')
    header = b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}'
    data = len(header).to_bytes(8, "little") + header + np.arange(4, dtype="<f4").tobytes()
    np.testing.assert_array_equal(read_safetensors(data)["a"], [0, 1, 2, 3])
    with pytest.raises(WeightsError, match=r"cut short"):
        read_safetensors(data[:-4])
