"""What an operator does with whole versions: publish one by its id, roll back, verify.

    catalogue-index publish VERSION --index DIR [--force]
    catalogue-index rollback --index DIR
    catalogue-index verify --index DIR [--version ID]

docs/operations.md says what to do for each message.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from catalogue_lookup.manifest import MANIFEST_FILE, Manifest, ManifestError
from encoders.bundle import BUNDLE_FILE, BundleError, read_listing
from encoders.integrity import HASHING_THREADS, FileEntry, IntegrityError, read_entries
from pipelines import storage
from pipelines.config import ConfigError
from pipelines.evaluated import reasons_of_evaluation
from pipelines.gate import Limits, RefusedError, find_version, read_refusal, read_version, reasons_against, withdrawn_between
from pipelines.job import finish_run
from pipelines.layout import Index
from pipelines.lock import check_index
from pipelines.publish import PublishError, check_version, publish_version, read_current

CHUNK_BYTES = 1 << 22


def publish_existing(index: Index, version: str, limits: Limits, force: bool = False) -> Manifest:
    """Make a whole version the current one by its id; returns its manifest.

    It is held to the gate: to what was found when it was built, and next to the version that is current now.

    Args:
        index: paths of the index.
        version: its id.
        limits: what the gate lets through.
        force: publish it whatever the gate says; that is kept in `published.json` beside its manifest.

    Raises:
        ConfigError: there is no such version.
        RefusedError: the gate refuses it, and `force` is not given.
        PublishError: it is not whole, or another version became current meanwhile.
    """
    current = read_current(index)
    _check_exists(index, version)
    manifest = check_version(index, version)
    reasons: list[str] = []
    if version != current:
        before = find_version(index, current)
        against = reasons_against(manifest, before, limits, withdrawn_between(index, version, current))
        against += reasons_of_evaluation(index, version, current, limits.max_evaluation_drop)
        reasons = list(dict.fromkeys([*read_refusal(index, version), *against]))
    if reasons and not force:
        raise RefusedError(index, version, reasons)
    publish_version(index, version, current, forced=force, reasons=reasons)
    run = index.run(version)
    if storage.exists(run.plan) and not storage.exists(run.finished):
        finish_run(index, run)
    return manifest


def _check_exists(index: Index, version: str) -> None:
    named = version not in ("", ".", "..") and "/" not in version
    if not named or not storage.exists(storage.join(index.version(version), MANIFEST_FILE)):
        raise ConfigError(f"there is no version '{version}' in {index.root}: 'catalogue-index versions' lists those there are")


def rollback(index: Index) -> tuple[Manifest, Manifest]:
    """Make the version before the current one current; returns the manifests of the one left and of the one now current.

    Raises:
        PublishError: nothing is published, there is no version before, or it is gone or damaged.
    """
    current = read_current(index)
    if current is None:
        raise PublishError(f"there is nothing to roll back: no version of {index.root} is published")
    another = "publish another one by its id ('catalogue-index versions' lists them)"
    try:
        left = read_version(index, current)
    except FileNotFoundError:
        raise PublishError(f"the version before {current} is not known, because {current} has no manifest: {another}") from None
    except ManifestError as error:
        raise PublishError(f"the version before {current} is not known: {error}; or {another}") from error
    if left.previous is None:
        raise PublishError(f"version {current} took no other's place: there is none to roll back to")
    if not storage.exists(storage.join(index.version(left.previous), MANIFEST_FILE)):
        raise PublishError(f"version {left.previous}, whose place {current} took, is gone: {another}")
    return left, publish_version(index, left.previous, current)


def asked_version(index: Index, version: str | None = None) -> Manifest:
    """Return the manifest of a version, by default of the current one.

    Raises:
        ConfigError: there is no index, no such version, or none is current.
        IntegrityError: the manifest itself is missing or damaged.
    """
    check_index(index.root)
    asked = version if version is not None else read_current(index)
    if asked is None:
        raise ConfigError(f"no version of {index.root} is published: say which one by --version")
    if version is not None:
        _check_exists(index, version)
    try:
        return read_version(index, asked)
    except FileNotFoundError:
        path = storage.join(index.version(asked), MANIFEST_FILE)
        raise IntegrityError(f"{path} is missing: the version is not there; publish another one") from None


def verify(index: Index, version: str | None = None) -> tuple[Manifest, list[str]]:
    """Hash every byte of a version and of its bundle; returns its manifest and a line for each file that is wrong.

    Args:
        index: paths of the index.
        version: its id, None for the current one.

    Raises:
        ConfigError: there is no index, no such version, or none is current.
        IntegrityError: the manifest itself is missing or damaged.
    """
    manifest = asked_version(index, version)
    return manifest, [*_wrong(index.version(manifest.id), manifest.files), *_wrong_in_bundle(index, manifest)]


def _wrong(folder: str, files: Mapping[str, FileEntry]) -> Iterator[str]:
    with ThreadPoolExecutor(HASHING_THREADS) as threads:
        checks = threads.map(lambda file: _check_file(storage.join(folder, file[0]), file[1]), sorted(files.items()))
        yield from (line for line in checks if line is not None)


def _wrong_in_bundle(index: Index, manifest: Manifest) -> Iterator[str]:
    folder = storage.join(index.bundles, manifest.bundle)
    path = storage.join(folder, BUNDLE_FILE)
    try:
        listing = read_listing(storage.read_bytes(path), path)
        entries = read_entries(listing["files"])
    except FileNotFoundError:
        yield f"{path} is missing"
        return
    except (BundleError, IntegrityError, storage.StorageError) as error:
        yield str(error)
        return
    if listing["hash"] != manifest.bundle:
        yield f"{path} is altered: it is that of bundle {listing['hash'][:12]} instead of {manifest.bundle[:12]}"
    yield from _wrong(folder, entries)


def _check_file(path: str, entry: FileEntry) -> str | None:
    """Return what is wrong with a file, None if nothing is."""
    if not storage.exists(path):
        return f"{path} is missing"
    digest, size = hashlib.sha256(), 0
    try:
        with storage.open_input(path) as source:
            while chunk := source.read(CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
    except OSError as error:
        return f"{path} cannot be read: {error}"
    if size != entry.size:
        return f"{path} has {size:,} bytes instead of {entry.size:,}: it is {'truncated' if size < entry.size else 'altered'}"
    if digest.hexdigest() != entry.sha256:
        return f"{path} is altered: its sha256 is {digest.hexdigest()[:12]}... instead of {entry.sha256[:12]}..."
    return None
