"""Bundles of an index: which one a run takes, and local copies of those that lie on an object store."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from encoders.bundle import Bundle, open_bundle
from pipelines import storage
from pipelines.layout import Index

LATEST = "LATEST"


def localise(folder: str) -> Path:
    """Return a local copy of a folder that lies on an object store; a local folder is returned as it is.

    The copy is made once a machine, whole, below the temporary folder.
    """
    local = storage.local_path(folder)
    if local is not None:
        return local
    name = hashlib.blake2b(folder.encode(), digest_size=8).hexdigest()
    target = Path(tempfile.gettempdir()) / "catalogue-index" / name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{name}-"))
        for info in storage.list_folder(folder, "**"):
            place = partial / info.path.removeprefix(folder.rstrip("/") + "/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(storage.read_bytes(info.path))
        try:
            os.replace(partial, target)
        except OSError:
            if not target.exists():
                raise
    return target


def install(bundle: Bundle, index: Index) -> str:
    """Copy a bundle to the index under its hash and return its folder there."""
    folder = storage.join(index.bundles, bundle.hash)
    if not storage.exists(storage.join(folder, "bundle.json")):
        files = sorted((path for path in bundle.folder.rglob("*") if path.is_file()), key=lambda p: (p.name == "bundle.json", p))
        for path in files:
            storage.put_file(path, storage.join(folder, path.relative_to(bundle.folder).as_posix()))
    return folder


def own_bundle(index: Index) -> str | None:
    """Return the folder of the bundle the index took last, None where it has none."""
    try:
        name = storage.read_bytes(storage.join(index.bundles, LATEST)).decode().strip()
    except FileNotFoundError:
        return None
    return storage.join(index.bundles, name)


def adopt(bundle: Bundle, index: Index) -> str:
    """Install a bundle and take it as the index's own from now on."""
    folder = install(bundle, index)
    storage.write_whole(storage.join(index.bundles, LATEST), f"{bundle.hash}\n".encode())
    return folder


def open_at(folder: str) -> Bundle:
    """Open the bundle at a path or URI, its hash checked."""
    return open_bundle(localise(folder))
