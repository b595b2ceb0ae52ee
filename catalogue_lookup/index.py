"""An opened index: `open_index` and `Index.search`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from catalogue_lookup import manifest as layout
from catalogue_lookup.items import Items
from catalogue_lookup.manifest import Manifest, ManifestError, read_manifest
from catalogue_lookup.place import Place
from catalogue_lookup.query import Picture, QueryEncoder, QueryError
from catalogue_lookup.shard import AnnoyShard, merge, nodes_for, search_shards
from encoders.bundle import BUNDLE_FILE, Bundle, BundleError, open_bundle
from encoders.integrity import Verify, verify_files

Float32 = npt.NDArray[np.float32]


class UnknownProductError(KeyError):
    """No product of the index has that id."""

    def __str__(self) -> str:
        return str(self.args[0])


class BundleMismatchError(BundleError):
    """A bundle is not the one that the index was made with."""


@dataclass(frozen=True)
class Hit:
    """One answer.

    Attributes:
        rank: from 1.
        product_id: the product.
        score: angular: cosine, 1 at best; dot: dot product, the higher the closer; euclidean, manhattan: distance, 0 at best.
        columns: columns to show.
    """

    rank: int
    product_id: str
    score: float
    columns: dict[str, Any]


class Index:
    """An opened version of an index, made by `open_index`. Several threads may search at once."""

    def __init__(
        self,
        manifest: Manifest,
        shards: Sequence[AnnoyShard],
        items: Items,
        bundles: Place,
        bundle: Bundle | None,
        verify: Verify,
    ) -> None:
        self.manifest = manifest
        self._shards = list(shards)
        self._items = items
        self._bundles = bundles
        self._verify: Verify = verify
        self._encoder = None if bundle is None else QueryEncoder(bundle)
        self._closed = False

    def __enter__(self) -> Index:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __len__(self) -> int:
        return sum(shard.items for shard in self._shards)

    def close(self) -> None:
        """Let go of the files."""
        if not self._closed:
            self._closed = True
            for shard in self._shards:
                shard.close()
            self._items.close()

    def search(
        self,
        text: str | None = None,
        image: Picture | None = None,
        product_id: str | None = None,
        vector: npt.ArrayLike | None = None,
        k: int = 10,
        where: str | None = None,
        search_k: int | None = None,
    ) -> list[Hit]:
        """Return the k products closest to a query, the closest first; fewer where there are not so many.

        Give a text, a picture or both, or a product, or a vector.

        Args:
            text: what to look for, in words.
            image: a picture of it: the bytes or the path of a file, or a PIL picture.
            product_id: look for products like this one, which is not among the answers.
            vector: look for this, float[D].
            k: answers.
            where: a filter, as `catalogue_lookup.where` describes it.
            search_k: nodes that Annoy looks at, a file; the more, the better and the slower (default: as measured when
                the index was built).

        Raises:
            QueryError: the query makes no sense; the message says why.
            UnknownProductError: no product has that id.
            WhereError: the filter cannot be read.
            BundleError: a text or picture has to be encoded and the bundle cannot be opened.
            ModuleNotFoundError: it has to be and a package is missing; the message names the extra.
        """
        if self._closed:
            raise QueryError("the index is closed: open it again")
        if k < 1 or (search_k is not None and search_k < 1):
            raise QueryError(f"k is {k} and search_k is {search_k}; they must be at least 1")
        query, own = self._query(text, image, product_id, vector)
        nodes = search_k or self.manifest.search_k
        wanted = k + (own is not None)
        if where is None:
            items, scores = search_shards(self._shards, query, wanted, nodes)
        else:
            items, scores = self._nearest_matching(query, self._items.matching(where), wanted, nodes)
        hits = [(item, score) for item, score in zip(items.tolist(), scores.tolist(), strict=True) if item != own][:k]
        rows = [self._items.row(item) for item, _ in hits]
        return [
            Hit(rank, row.pop(layout.PRODUCT_ID), score, row)
            for rank, (row, (_, score)) in enumerate(zip(rows, hits, strict=True), 1)
        ]

    def _query(
        self, text: str | None, image: Picture | None, product_id: str | None, vector: npt.ArrayLike | None
    ) -> tuple[Float32, int | None]:
        """Return the query's vector, float32[D], and the item it is of, if any."""
        words = text if image is None else image
        kinds = {"text or image": words, "product_id": product_id, "vector": vector}
        given = [name for name, value in kinds.items() if value is not None]
        if len(given) > 1:
            raise QueryError(f"{' and '.join(given)} are given: give one of them")
        if product_id is not None:
            item = self._items.find(product_id)
            if item is None:
                raise UnknownProductError(f"no product of the index has the id '{product_id}'")
            for shard in self._shards:
                if shard.first_item <= item < shard.first_item + shard.items:
                    return shard.vectors(np.array([item]))[0], item
            raise UnknownProductError(f"product '{product_id}' lies in a shard that this index was opened without")
        if vector is not None:
            return self._checked(vector), None
        return self._encode(text, image), None

    def _checked(self, vector: npt.ArrayLike) -> Float32:
        checked = np.asarray(vector, np.float32)
        dimension = self.manifest.dimension
        if checked.shape != (dimension,):
            raise QueryError(f"the vector has shape {checked.shape}; the index takes ({dimension},)")
        if not np.isfinite(checked).all() or (self.manifest.metric in ("angular", "dot") and not checked.any()):
            raise QueryError("the vector is zero or has values that are not finite: nothing is close to it")
        return checked

    def _encode(self, text: str | None, image: Picture | None) -> Float32:
        if self._encoder is None:
            place = self._bundles.below(self.manifest.bundle)
            self._encoder = QueryEncoder(_open_bundle(place, self.manifest, self._verify))
        return self._encoder.encode(text, image)

    def _nearest_matching(
        self, query: Float32, fits: npt.NDArray[np.bool_], count: int, search_k: int
    ) -> tuple[npt.NDArray[np.int64], Float32]:
        """Return the closest of the items that fit.

        With m of n fitting, the closest are expected among the first count n / m candidates; twice as many are asked
        for, and more while too few of them fit. As soon as that looks at more nodes than items fit, those are scored.
        """
        total = sum(int(fits[shard.first_item : shard.first_item + shard.items].sum()) for shard in self._shards)
        candidates = 2 * count * len(self) // max(total, 1)
        while nodes_for(candidates, search_k) * len(self._shards) < total:
            items, scores = search_shards(self._shards, query, candidates, search_k)
            kept = fits[items]
            if kept.sum() >= count:
                return items[kept][:count], scores[kept][:count]
            candidates *= 4
        exact = []
        for shard in self._shards:
            items = shard.first_item + np.flatnonzero(fits[shard.first_item : shard.first_item + shard.items])
            exact.append((items, shard.score(query, items)))
        return merge(self._shards, exact, count)


def open_index(
    uri: str | os.PathLike[str] | Place,
    bundle: Bundle | str | os.PathLike[str] | None = None,
    version: str | None = None,
    verify: Verify = "once",
    shards: Iterable[int] | None = None,
) -> Index:
    """Open an index to search it.

    Sizes of its files are checked always; sha256 once for each copy, or always. Files of an object store are copied to
    `$CATALOGUE_INDEX_CACHE` or `~/.cache/catalogue-index` once.

    Args:
        uri: root of the index (its current version is opened), or folder of a version: a path, a URI, or a `Place` of a
            filesystem of your own.
        bundle: bundle for queries by text and picture (default: the index's own, opened when it is needed).
        version: id of another version than the current one.
        verify: "once" or "always".
        shards: numbers of the Annoy files to open, where several services share an index (default: all).

    Raises:
        IntegrityError: there is no index, or a file is missing, truncated, altered or of another version.
        BundleError: the bundle is not the one that the index was made with, or cannot be opened.
        QueryError: there is no shard of such a number.
    """
    root, place, manifest = _find_version(uri if isinstance(uri, Place) else Place.at(uri), version)
    numbers = range(len(manifest.annoy)) if shards is None else sorted(set(shards))
    if any(not 0 <= number < len(manifest.annoy) for number in numbers):
        raise QueryError(
            f"shards {list(numbers)} are asked for; version {manifest.id} has {len(manifest.annoy)}, numbered from 0"
        )
    opened = bundle if isinstance(bundle, Bundle) or bundle is None else _open_bundle(Place.at(bundle), manifest, verify)
    if opened is not None and opened.hash != manifest.bundle:
        raise _mismatch(opened, manifest)
    used = [manifest.items_file.file, *(manifest.annoy[number].file for number in numbers)]
    # A copy holds only what is used, and so may a machine that serves some of the shards.
    partial = place.filesystem is not None or shards is not None
    try:
        entries = {name: manifest.files[name] for name in used} if partial else manifest.files
    except KeyError as error:
        raise ManifestError(f"{place.uri}/{layout.MANIFEST_FILE} does not list {error.args[0]}: build the index again") from None
    folder = place.fetch({name: entry.size for name, entry in entries.items()}, manifest.to_json())
    verify_files(folder, entries, verify)
    return Index(
        manifest,
        [_open_shard(folder, manifest, number) for number in numbers],
        Items(folder / manifest.items_file.file, manifest.items_file.batch_rows, manifest.items),
        root.below(layout.BUNDLES_FOLDER),
        opened,
        verify,
    )


def _find_version(place: Place, version: str | None) -> tuple[Place, Place, Manifest]:
    """Return the index's root, the version's folder, and its manifest."""
    path = f"{place.uri.rstrip('/')}/{layout.MANIFEST_FILE}"
    try:
        manifest = read_manifest(place.read(layout.MANIFEST_FILE), path)
    except FileNotFoundError:
        pass
    else:
        if version not in (None, manifest.id):
            raise ManifestError(f"{place.uri} is version {manifest.id}, not {version}: give the root of the index")
        return place.above(2), place, manifest
    if version is None:
        try:
            version = place.read(layout.CURRENT_FILE).decode().strip()
        except FileNotFoundError:
            raise ManifestError(
                f"{place.uri} holds neither {layout.CURRENT_FILE} nor {layout.MANIFEST_FILE}: give the folder of an index"
            ) from None
    if not version or "/" in version:
        raise ManifestError(f"'{version}' is no version of {place.uri}: see 'catalogue-index versions'")
    folder = place.below(layout.VERSIONS_FOLDER, version)
    path = f"{folder.uri}/{layout.MANIFEST_FILE}"
    try:
        manifest = read_manifest(folder.read(layout.MANIFEST_FILE), path)
    except FileNotFoundError:
        raise ManifestError(f"{path} is missing: there is no version {version}; see 'catalogue-index versions'") from None
    if manifest.id != version:
        raise ManifestError(f"{path} is the manifest of version {manifest.id}: copy the version again")
    return place, folder, manifest


def _open_shard(folder: Path, manifest: Manifest, number: int) -> AnnoyShard:
    told = manifest.annoy[number]
    return AnnoyShard(folder / told.file, told.first_item, told.items, manifest.metric, manifest.dimension)


def _open_bundle(place: Place, manifest: Manifest, verify: Verify) -> Bundle:
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


def _mismatch(bundle: Bundle, manifest: Manifest) -> BundleMismatchError:
    return BundleMismatchError(
        f"{bundle.folder} is bundle {bundle.hash[:12]}, but version {manifest.id} was made with bundle "
        f"{manifest.bundle[:12]}: search with that one, or build the index with this one"
    )
