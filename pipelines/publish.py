"""PUBLISH: check a version and make it the current one, in one step.

    catalogue-index publish --catalogue 'shop/*.parquet' --index DIR

`CURRENT` holds the id of the current version and is replaced only if it still names the version that was current when
the run began. So a reader finds the old version or the new one, each whole, and of two runs at once one is refused.
"""

from __future__ import annotations

import getpass
import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from catalogue_lookup.manifest import MANIFEST_FILE, Manifest, ManifestError, parse_current, read_manifest
from encoders.integrity import IntegrityError, verify_files
from pipelines import storage
from pipelines.gate import read_version, refused_versions
from pipelines.layout import Index, read_json, write_json

PUBLISHED_FILE = "published.json"

_log = logging.getLogger(__name__)


class PublishError(RuntimeError):
    """A version may not become the current one; the message says why."""


@dataclass(frozen=True)
class VersionInfo:
    """One version of an index, as `list_versions` tells of it."""

    id: str
    sequence: int
    items: int
    created: str
    recall: float | None
    current: bool
    refused: bool = False


def read_current(index: Index) -> str | None:
    """Return the id of the current version, None where nothing has been published.

    Raises:
        ManifestError: `CURRENT` names no version.
    """
    try:
        return parse_current(storage.read_bytes(index.current), index.current)
    except FileNotFoundError:
        return None


def list_versions(index: Index | str) -> list[VersionInfo]:
    """List the whole versions of an index by their sequence; one whose manifest is damaged is left out and logged."""
    index = Index(index) if isinstance(index, str) else index
    current, refused = read_current(index), refused_versions(index)
    found = [
        VersionInfo(m.id, m.sequence, m.items, m.created, m.recall, m.id == current, m.id in refused) for m in _manifests(index)
    ]
    return sorted(found, key=lambda version: (version.sequence, version.id))


def next_sequence(index: Index) -> int:
    """Return the place of the next version: one after the last, whichever is current."""
    return max((manifest.sequence for manifest in _manifests(index)), default=0) + 1


def _manifests(index: Index) -> list[Manifest]:
    manifests = []
    for info in storage.list_folder(index.versions, f"*/{MANIFEST_FILE}"):
        try:
            manifests.append(read_manifest(storage.read_bytes(info.path), info.path))
        except ManifestError as error:
            _log.warning("%s", error)
    return manifests


def check_version(index: Index, version: str) -> Manifest:
    """Check that all files of a version are there and what its manifest says; returns the manifest.

    On local disk sizes and hashes are checked, on an object store sizes.

    Raises:
        PublishError: a file is missing or altered.
    """
    folder = index.version(version)
    path = storage.join(folder, MANIFEST_FILE)
    try:
        manifest = read_version(index, version)
        local = storage.local_path(folder)
        if local is not None:
            verify_files(Path(local), manifest.files)
        else:
            _check_sizes(folder, manifest)
    except FileNotFoundError:
        raise PublishError(f"version {version} is not whole: {path} is missing; build it first") from None
    except IntegrityError as error:
        raise PublishError(f"version {version} is not published: {error}") from error
    return manifest


def _check_sizes(folder: str, manifest: Manifest) -> None:
    sizes = {info.path.removeprefix(f"{folder}/"): info.size for info in storage.list_folder(folder, "**")}
    for name, entry in manifest.files.items():
        if sizes.get(name) != entry.size:
            raise IntegrityError(f"{storage.join(folder, name)} has {sizes.get(name, 'no')} bytes instead of {entry.size}")


def publish_version(
    index: Index, version: str, expected_current: str | None, forced: bool = False, reasons: Sequence[str] = ()
) -> Manifest:
    """Make a version the current one, if `CURRENT` still names `expected_current`; returns its manifest.

    A version that is the current one already stays so. Who published it, and when, is added to `published.json` beside
    its manifest.

    Args:
        index: paths of the index.
        version: its id.
        expected_current: id of the version whose place it takes, None for the first.
        forced: whether it was to be published whatever the gate says.
        reasons: what the gate says against it.

    Raises:
        PublishError: the version is not whole, or another one became current meanwhile.
    """
    manifest = check_version(index, version)
    expected = None if expected_current is None else f"{expected_current}\n".encode()
    if read_current(index) == version:
        if read_publications(index, version):
            return manifest
        expected_current = manifest.previous  # who made it current was killed before it was on record
    elif not storage.compare_and_swap(index.current, expected, f"{version}\n".encode()):
        raise PublishError(
            f"version {version} is not published: {read_current(index)} became current since this run began with "
            f"{expected_current}; run it again to build on that one"
        )
    entry = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"), "who": _user(), "host": socket.gethostname(),
        "instead_of": expected_current, "forced": forced, "reasons": list(reasons),
    }  # fmt: skip
    path = storage.join(index.version(version), PUBLISHED_FILE)
    write_json(path, {"version": version, "published": [*read_publications(index, version), entry]})
    return manifest


def read_publications(index: Index, version: str) -> list[dict[str, Any]]:
    """Return each time a version became current: when, who, host, instead_of, forced, reasons; the oldest first."""
    path = storage.join(index.version(version), PUBLISHED_FILE)
    try:
        published: list[dict[str, Any]] = read_json(path)["published"]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError):
        _log.warning("%s is damaged: it is begun anew", path)
        return []
    return published


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "unknown"
