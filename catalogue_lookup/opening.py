"""Opening a version: finding it, checking its files, and the bundle that its queries are encoded with."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from catalogue_lookup import manifest as layout
from catalogue_lookup.items import Items
from catalogue_lookup.manifest import Manifest, ManifestError, read_manifest
from catalogue_lookup.modality_vectors import ModalityVectors, map_modality_file
from catalogue_lookup.place import Place
from catalogue_lookup.query import QueryEncoder, QueryError
from catalogue_lookup.shard import AnnoyShard
from catalogue_lookup.version import OpenVersion
from encoders.bundle import BUNDLE_FILE, Bundle, BundleError, open_bundle
from encoders.integrity import IntegrityError, Verify, verify_files


class BundleMismatchError(BundleError):
    """A bundle is not the one that the index was made with."""


@dataclass(frozen=True)
class Opening:
    """How versions of an index are opened.

    Attributes:
        root: of the index.
        bundle: for queries by text and picture, or where it lies; None: the index's own, opened when it is needed.
        verify: "once" or "always".
        shards: numbers of the Annoy files to open, None: all.
    """

    root: Place
    bundle: Bundle | Place | None
    verify: Verify
    shards: tuple[int, ...] | None

    def open_current(self) -> OpenVersion:
        """Open the current version; where it was pruned meanwhile, the one that has become current since.

        Raises:
            IntegrityError, BundleError, QueryError: as `open_index` says.
        """
        version = current_version(self.root)
        while True:
            try:
                return self.open_version(*find_version(self.root, version))
            except (IntegrityError, BundleError, QueryError, OSError):
                newer = current_version(self.root)
                if newer == version:
                    raise
                version = newer

    def open_version(self, place: Place, manifest: Manifest) -> OpenVersion:
        """Check and open the files of a version.

        Raises:
            IntegrityError, BundleError, QueryError: as `open_index` says.
        """
        numbers = range(len(manifest.annoy)) if self.shards is None else self.shards
        if any(not 0 <= number < len(manifest.annoy) for number in numbers):
            raise QueryError(
                f"shards {list(numbers)} are asked for; version {manifest.id} has {len(manifest.annoy)}, numbered from 0"
            )
        open_encoder = self._encoder_opener(manifest)
        beside = [manifest.modality_file(number) for number in numbers]
        used = [manifest.items_file.file, *(manifest.annoy[number].file for number in numbers), *filter(None, beside)]
        # A copy holds only what is used, and so may a machine that serves some of the shards.
        partial = place.filesystem is not None or self.shards is not None
        try:
            entries = {name: manifest.files[name] for name in used} if partial else manifest.files
        except KeyError as error:
            raise ManifestError(
                f"{place.uri}/{layout.MANIFEST_FILE} does not list {error.args[0]}: build the index again"
            ) from None
        folder = place.fetch({name: entry.size for name, entry in entries.items()}, manifest.to_json())
        try:
            verify_files(folder, entries, self.verify)
            with ExitStack() as opened:
                shards = []
                for number in numbers:
                    shards.append(_open_shard(folder, manifest, number))
                    opened.callback(shards[-1].close)
                files = [
                    None if name is None else map_modality_file(folder / name, shard.items, len(manifest.modalities))
                    for name, shard in zip(beside, shards, strict=True)
                ]
                items = Items(folder / manifest.items_file.file, manifest.items_file.batch_rows, manifest.items)
                opened.pop_all()
        except FileNotFoundError as error:
            raise IntegrityError(f"{folder} lost a file while it was opened ({error}): copy the whole folder again") from error
        vectors = ModalityVectors(manifest, shards, files)
        return OpenVersion(manifest, shards, items, vectors, open_encoder, None if place.filesystem is None else folder)

    def _encoder_opener(self, manifest: Manifest) -> Callable[[], QueryEncoder]:
        """Return what opens the encoder; a bundle that was given is opened and checked at once."""
        if self.bundle is None:
            place = self.root.below(layout.BUNDLES_FOLDER, manifest.bundle)
            return lambda: QueryEncoder(open_bundle_of(place, manifest, self.verify))
        bundle = self.bundle if isinstance(self.bundle, Bundle) else open_bundle_of(self.bundle, manifest, self.verify)
        if bundle.hash != manifest.bundle:
            raise _mismatch(bundle, manifest)
        return lambda: QueryEncoder(bundle)


def current_version(root: Place) -> str:
    """Return the id of the current version.

    Raises:
        ManifestError: nothing has been published there, or what is cannot be told.
    """
    try:
        return layout.parse_current(root.read(layout.CURRENT_FILE), f"{root.uri.rstrip('/')}/{layout.CURRENT_FILE}")
    except FileNotFoundError:
        raise ManifestError(
            f"{root.uri} holds neither {layout.CURRENT_FILE} nor {layout.MANIFEST_FILE}: give the folder of an index"
        ) from None


def manifest_at(place: Place) -> Manifest | None:
    """Read the manifest of a version's folder, None where it is no such folder.

    Raises:
        ManifestError: the manifest cannot be read.
    """
    try:
        return read_manifest(place.read(layout.MANIFEST_FILE), f"{place.uri.rstrip('/')}/{layout.MANIFEST_FILE}")
    except FileNotFoundError:
        return None


def find_version(root: Place, version: str) -> tuple[Place, Manifest]:
    """Return the folder and the manifest of a version.

    Raises:
        ManifestError: there is none of that id, or its manifest cannot be read.
    """
    if not version or "/" in version:
        raise ManifestError(f"'{version}' is no version of {root.uri}: see 'catalogue-index versions'")
    folder = root.below(layout.VERSIONS_FOLDER, version)
    manifest = manifest_at(folder)
    path = f"{folder.uri}/{layout.MANIFEST_FILE}"
    if manifest is None:
        raise ManifestError(f"{path} is missing: there is no version {version}; see 'catalogue-index versions'")
    if manifest.id != version:
        raise ManifestError(f"{path} is the manifest of version {manifest.id}: copy the version again")
    return folder, manifest


def open_bundle_of(place: Place, manifest: Manifest, verify: Verify) -> Bundle:
    """Open the bundle at a place, which has to be the one that a version was made with.

    Raises:
        BundleError: it is another one, or cannot be opened.
    """
    try:
        content = place.read(BUNDLE_FILE)
    except FileNotFoundError:
        raise BundleError(
            f"{place.uri} holds no {BUNDLE_FILE}: give the bundle {manifest.bundle[:12]} that the index was made with"
        ) from None
    files = place.sizes() if place.filesystem is not None else {}
    opened = open_bundle(place.fetch(files, content), verify)
    if opened.hash != manifest.bundle:
        raise _mismatch(opened, manifest)
    return opened


def _open_shard(folder: Path, manifest: Manifest, number: int) -> AnnoyShard:
    told = manifest.annoy[number]
    return AnnoyShard(folder / told.file, told.first_item, told.items, manifest.metric, manifest.dimension)


def _mismatch(bundle: Bundle, manifest: Manifest) -> BundleMismatchError:
    return BundleMismatchError(
        f"{bundle.folder} is bundle {bundle.hash[:12]}, but version {manifest.id} was made with bundle "
        f"{manifest.bundle[:12]}: search with that one, or build the index with this one"
    )
