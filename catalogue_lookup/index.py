"""An opened index: `open_index` and `Index.search`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock
from types import TracebackType

import numpy as np
import numpy.typing as npt

from catalogue_lookup.composition import Inputs, Minus, Query, Ranking
from catalogue_lookup.follow import Follower
from catalogue_lookup.manifest import Manifest, ManifestError
from catalogue_lookup.opening import BundleMismatchError, Opening, find_version, manifest_at
from catalogue_lookup.place import Place
from catalogue_lookup.query import Picture, QueryError
from catalogue_lookup.version import Hit, OpenVersion, UnknownProductError, WithdrawnProductError
from catalogue_lookup.withdrawn import Withdrawn, WithdrawnFile
from encoders.bundle import Bundle
from encoders.integrity import Verify

__all__ = ["BundleMismatchError", "Hit", "Index", "QueryError", "UnknownProductError", "WithdrawnProductError", "open_index"]


class Index:
    """An opened index, made by `open_index`. Several threads may search at once, and close it meanwhile.

    A query is answered by the version that is served when it begins, whose files are held until its last query ends.
    """

    def __init__(self, opened: OpenVersion, withdrawn: Withdrawn) -> None:
        self._withdrawn = withdrawn
        opened.withdraw(withdrawn)
        self._opened = opened
        self._follower: Follower | None = None
        self._closed = False
        # Held for a count or a swap, never while files are read.
        self._lock = Lock()
        # Held by what changes the version or the list, so that no version is served without the latest list.
        self._changing = Lock()

    def __enter__(self) -> Index:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._opened)

    def __contains__(self, product_id: str) -> bool:
        """Tell whether the version served has a product of that id, withdrawn or not."""
        with self._serving() as opened:
            return product_id in opened

    def item_of(self, product_id: str) -> int | None:
        """Return a product's place in the one order of the version served, withdrawn or not; None where it has none."""
        with self._serving() as opened:
            return opened.item_of(product_id)

    def vector_of(self, product_id: str) -> npt.NDArray[np.float32]:
        """Return the fused vector of a product of the version served, withdrawn or not: float32[D].

        Raises:
            UnknownProductError: no product has that id, or the index was opened without its shard.
        """
        with self._serving() as opened:
            return opened.vector_of(product_id)

    @property
    def version(self) -> str:
        """Give the id of the version served."""
        return self._opened.manifest.id

    @property
    def manifest(self) -> Manifest:
        """Give the manifest of the version served."""
        return self._opened.manifest

    @property
    def withdrawn(self) -> Withdrawn:
        """Give the withdrawn products by their ids."""
        return self._withdrawn

    @property
    def stale_reason(self) -> str | None:
        """Say why an index that is followed is not up to date; None where it is, or is not followed."""
        return None if self._follower is None else self._follower.stale_reason

    def close(self) -> None:
        """Stop following, and let go of the files when the queries in flight have ended."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if self._follower is not None:
            self._follower.stop()
        self._let_go(self._opened)

    def search(
        self,
        text: str | Sequence[str] | None = None,
        image: Picture | Sequence[Picture] | None = None,
        product_id: str | Sequence[str] | None = None,
        vector: npt.ArrayLike | None = None,
        k: int = 10,
        where: str | None = None,
        search_k: int | None = None,
        *,
        minus: Minus | None = None,
        weights: Mapping[str, float] | None = None,
        ranking: Ranking | None = None,
    ) -> list[Hit]:
        """Return the k products closest to a query, the closest first; fewer where there are not so many.

        Give texts, pictures and products, alone or together, or a vector; `catalogue_lookup.composition` says what becomes of
        them. Withdrawn products are not among the answers, nor are those that are asked by.

        Args:
            text: what to look for, in words; several in a list count as their mean.
            image: a picture of it: the bytes or the path of a file, or a PIL picture; or several in a list.
            product_id: look for products like this one, or these.
            vector: look for this, float[D], and nothing else.
            k: answers.
            where: a filter, as `catalogue_lookup.where` describes it.
            search_k: nodes that Annoy looks at, a file; the more, the better and the slower (default: as measured when
                the index was built).
            minus: what answers are not to be like: `text`, `image` and `product_id`, as above.
            weights: how much each modality counts, such as `{"picture": 0.7, "text": 0.3}`, one that is not named not at
                all: products are ranked as if the index had been fused by a concatenation with these weights.
            ranking: "cosine", or "attention": the bundle's ranker ranks the candidates that cosine finds anew (default: by
                attention the kinds of queries for which it found more when it was trained, others by cosine).

        Raises:
            QueryError: the query makes no sense; the message says why.
            UnknownProductError: no product has that id.
            WithdrawnProductError: the product of that id is withdrawn; an UnknownProductError, too.
            WhereError: the filter cannot be read.
            BundleError: a text or picture has to be encoded and the bundle cannot be opened.
            ModuleNotFoundError: it has to be and a package is missing; the message names the extra.
        """
        query = Query.of(Inputs.of(text, image, product_id), vector, minus, weights, ranking)
        if k < 1 or (search_k is not None and search_k < 1):
            raise QueryError(f"k is {k} and search_k is {search_k}; they must be at least 1")
        with self._serving() as opened:
            return opened.search(query, k, where, search_k)

    @contextmanager
    def _serving(self) -> Iterator[OpenVersion]:
        """Hold the version served."""
        if self._follower is not None:
            self._follower.ensure_running()
        with self._lock:
            if self._closed:
                raise QueryError("the index is closed: open it again")
            opened = self._opened
            opened.users += 1
        try:
            yield opened
        finally:
            self._let_go(opened)

    def _let_go(self, opened: OpenVersion) -> None:
        with self._lock:
            opened.users -= 1
            unused = opened.users == 0
        if unused:
            opened.close()

    def _serve(self, opened: OpenVersion) -> None:
        """Serve another version, which is the index's from now on."""
        with self._changing:
            opened.withdraw(self._withdrawn)
            with self._lock:
                if not self._closed:
                    self._opened, opened = opened, self._opened
                    opened.superseded = True
        self._let_go(opened)

    def _withdraw(self, withdrawn: Withdrawn) -> None:
        """Leave other products than before out of all answers."""
        with self._changing, self._serving() as opened:
            opened.withdraw(withdrawn)
            self._withdrawn = withdrawn


def open_index(
    uri: str | os.PathLike[str] | Place,
    bundle: Bundle | str | os.PathLike[str] | None = None,
    version: str | None = None,
    verify: Verify = "once",
    shards: Iterable[int] | None = None,
    follow: bool = False,
    poll_seconds: float = 30,
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
        follow: go over to each version that is published, and obey each change of the withdrawn products, without a
            query that fails; what cannot be opened is not gone over to, and `Index.stale_reason` says why.
        poll_seconds: how often to look for them.

    Raises:
        IntegrityError: there is no index, or a file is missing, truncated, altered or of another version, be it the list
            of withdrawn products.
        BundleError: the bundle is not the one that the index was made with, or cannot be opened.
        QueryError: there is no shard of such a number, or what is to be followed is one version.
    """
    place = uri if isinstance(uri, Place) else Place.at(uri)
    manifest = manifest_at(place)
    if manifest is not None and version not in (None, manifest.id):
        raise ManifestError(f"{place.uri} is version {manifest.id}, not {version}: give the root of the index")
    if follow and (manifest is not None or version is not None):
        raise QueryError("follow takes the root of an index and no version: a version does not change")
    if follow and not poll_seconds > 0:
        raise QueryError(f"poll_seconds is {poll_seconds}; it must be above 0")
    root = place if manifest is None else place.above(2)
    numbers = None if shards is None else tuple(sorted(set(shards)))
    given = bundle if isinstance(bundle, Bundle) or bundle is None else Place.at(bundle)
    opening = Opening(root, given, verify, numbers)
    WithdrawnFile.of(root).products()  # a list that cannot be read is refused before all files are hashed
    if manifest is not None:
        opened = opening.open_version(place, manifest)
    elif version is not None:
        opened = opening.open_version(*find_version(root, version))
    else:
        opened = opening.open_current()
    try:
        listed = WithdrawnFile.of(root)
        index = Index(opened, listed.products())
    except BaseException:
        opened.close()
        raise
    if follow:
        index._follower = Follower(index, opening, listed, poll_seconds)
    return index
