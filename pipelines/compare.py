"""COMPARE: two versions of an index, asked the same queries.

    catalogue-index evaluate --compare A B --index DIR [--queries FILE | --sample N] [--html FILE] [--json]

Queries that are not labelled are made of the first version. Those of products that only one version has are left out, and
such products are left out of answers, so that no version is charged with what the other does not know. Products are the same
where their places in the one order are.
"""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines import comparison_page, storage
from pipelines.catalogue import CatalogueError
from pipelines.comparison_page import Answer, FiguresRow, Moved
from pipelines.evaluate import Source, queries_for
from pipelines.evaluation import ANNOY, Mask, QuerySet, Result, Version, evaluate, labelled_sets, open_version
from pipelines.labelled_queries import LabelledQueries, read_image
from pipelines.layout import PRODUCT_ID, Index
from pipelines.measures import NAMES, Figure, difference
from pipelines.self_supervised import TITLE, Asked
from pipelines.source_pictures import pictures_of, source_rows
from transforms.decode import PictureError, decode_picture

SHOWN_QUERIES, SHOWN_ANSWERS = 50, 5
_SIDE, _QUALITY = 112, 80  # of pictures in the page: about 4 KB each
_NDCG = NAMES.index("ndcg@10")


@dataclass(frozen=True)
class Pair:
    """What both versions found for a set of queries by one kind of search."""

    before: Result
    after: Result
    asked: Asked

    @property
    def by(self) -> str:
        """Name the vectors and the search."""
        return f"{self.before.by}, {self.before.search}"

    def figures(self, seed: int) -> dict[str, tuple[Figure, Figure, Figure]]:
        """Sum up by measure: of the first version, of the second, and the paired difference."""
        parts = self.before.figures(seed), self.after.figures(seed), difference(self.before.values, self.after.values, seed)
        return {name: (parts[0][name], parts[1][name], parts[2][name]) for name in NAMES}


@dataclass(frozen=True)
class Comparison:
    """Two versions next to each other.

    Attributes:
        versions: their ids.
        pairs: of results.
        only: how many products only the first has, and only the second.
        missing: sentences on queries that could not be made.
    """

    versions: tuple[str, str]
    pairs: tuple[Pair, ...]
    only: tuple[int, int]
    missing: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        """Yield what is to be known of the figures."""
        left = [f"{count:,} only {version}" for count, version in zip(self.only, self.versions, strict=True) if count]
        if left:
            yield f"of the products {' and '.join(left)} has"
        yield from self.missing

    def rows(self, seed: int) -> list[FiguresRow]:
        """Return the figures of each pair."""
        return [
            FiguresRow(f"{pair.before.queries.name} ({len(pair.before.values):,})", pair.by, pair.figures(seed))
            for pair in self.pairs
        ]

    def table(self, seed: int) -> list[dict[str, str]]:
        """Return rows for people: both figures, and below them the difference with its interval."""
        return [
            {"queries": row.name, "by": row.by}
            | {
                name: f"{before.value:.3f} {after.value:.3f}\n{change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"
                for name, (before, after, change) in row.figures.items()
            }
            for row in self.rows(seed)
        ]

    def to_json(self, seed: int) -> dict[str, Any]:
        """Give the figures as JSON values."""
        return {
            "versions": list(self.versions), "only": list(self.only), "missing": list(self.missing),
            "results": [
                {"set": pair.before.queries.name, "by": pair.before.by, "search": pair.before.search,
                 "queries": len(pair.before.values), "lacking": [one.queries.lacking for one in (pair.before, pair.after)]}
                | {
                    name: {key: one.to_json() for key, one in zip(("first", "second", "change"), parts, strict=True)}
                    for name, parts in pair.figures(seed).items()
                }
                for pair in self.pairs
            ],
        }  # fmt: skip


def compare(
    root: str, versions: tuple[str, str], source: Source, seed: int, html: str | None = None, catalogue: Sequence[str] = ()
) -> Comparison:
    """Ask two versions the same queries.

    Args:
        root: of the index.
        versions: ids of both.
        source: the queries, or what they are made with.
        seed: of intervals in the page.
        html: where the page is to be written.
        catalogue: where the files of the catalogue lie now, for pictures in the page; empty: where the versions' runs read them.

    Raises:
        LabelledQueriesError: a query cannot be asked, or a version has none of the products they call right.
        IntegrityError, BundleError: as `evaluation.open_version` says.
    """
    index = Index(root)
    with (
        open_version(index, versions[0]) as before, open_version(index, versions[1]) as after,
        tempfile.TemporaryDirectory() as folder,
    ):  # fmt: skip
        both = Common.of(before, after)
        labelled = isinstance(source, LabelledQueries)
        made = queries_for(before, source, Path(folder), None if labelled else both.first)
        sets = [asked for asked in made.sets if not asked.part]
        others = labelled_sets(after, source) if isinstance(source, LabelledQueries) else map(both.carry, sets)
        pairs = []
        for asked, other in zip(sets, others, strict=True):
            theirs = {(one.by, one.search): one for one in evaluate(after, other, *asked.changes)}
            pairs += [
                Pair(one, theirs[one.by, one.search], asked)
                for one in evaluate(before, asked.queries, *asked.changes) if (one.by, one.search) in theirs
            ]  # fmt: skip
        only = before.manifest.items - len(both.places[0]), after.manifest.items - len(both.places[1])
        found = Comparison((before.manifest.id, after.manifest.id), tuple(pairs), only, made.missing)
        if html is not None:
            storage.write_whole(html, _page(found, (before, after), seed, catalogue).encode("utf-8", "replace"))
        return found


@dataclass(frozen=True)
class Common:
    """The products that two versions have.

    Attributes:
        places: the items of each version, int64[N], in the same order.
        first, second: the same as bool[items] of each.
    """

    places: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
    first: Mask
    second: Mask

    @classmethod
    def of(cls, before: Version, after: Version) -> Common:
        """Find them; memory is 8 bytes for each item of both."""
        orders = before.orders(), after.orders()
        _, *found = np.intersect1d(*orders, assume_unique=True, return_indices=True)
        masks = [np.zeros(len(own), np.bool_) for own in orders]
        for mask, places in zip(masks, found, strict=True):
            mask[places] = True
        return cls((found[0], found[1]), masks[0], masks[1])

    def carry(self, asked: Asked) -> QuerySet:
        """Return the queries of the first version for the second one."""
        items = np.full(len(self.first), -1, np.int64)
        items[self.places[0]] = self.places[1]
        judgements = tuple(replace(judged, items=items[judged.items]) for judged in asked.queries.judgements)
        return replace(asked.queries, judgements=judgements, among=self.second)


def _page(found: Comparison, versions: tuple[Version, Version], seed: int, catalogue: Sequence[str]) -> str:
    """Render the page of a comparison: at most 50 queries that got better and 50 that got worse, five answers of each version."""
    ranked: dict[bool, list[tuple[float, int, Pair]]] = {True: [], False: []}
    for pair in _shopped(found.pairs):
        for place, change in enumerate((pair.after.values - pair.before.values)[:, _NDCG].tolist()):
            if abs(change) > 1e-9:
                ranked[change > 0].append((-abs(change), place, pair))
    chosen = [one for all_moved in ranked.values() for one in sorted(all_moved, key=lambda one: one[:2])[:SHOWN_QUERIES]]
    lines = list(found.lines())
    looks = []
    for version, after in zip(versions, (False, True), strict=True):
        wanted = {item for _, place, pair in chosen for item in _answers(pair, after, place)}
        looks.append(_look(version, wanted, catalogue, lines))
    moved = [
        Moved(
            f"{pair.before.queries.name} by {pair.by}", pair.before.queries.queries[place].text,
            _asked_picture(versions[0], pair, place),
            len(pair.before.queries.judgements[place].items),
            (float(pair.before.values[place, _NDCG]), float(pair.after.values[place, _NDCG])),
            (_told(pair.before, looks[0], place), _told(pair.after, looks[1], place)),
        )
        for _, place, pair in chosen
    ]  # fmt: skip
    counts = len(ranked[True]), len(ranked[False])
    return comparison_page.render(found.versions, found.rows(seed), moved, counts, lines)


def _shopped(pairs: Sequence[Pair]) -> list[Pair]:
    """Return a pair for each set of queries: the one through Annoy, where there is one."""
    shown: dict[str, Pair] = {}
    for pair in sorted(pairs, key=lambda pair: pair.before.search != ANNOY):
        shown.setdefault(pair.before.queries.name, pair)
    return list(shown.values())


def _answers(pair: Pair, after: bool, place: int) -> list[int]:
    ranked = (pair.after if after else pair.before).ranked[place, :SHOWN_ANSWERS]
    return [item for item in ranked.tolist() if item >= 0]


def _told(result: Result, looks: Mapping[int, tuple[str, str | None, str | None]], place: int) -> list[Answer]:
    right = set(result.queries.judgements[place].items.tolist())
    items = [item for item in result.ranked[place, :SHOWN_ANSWERS].tolist() if item >= 0]
    return [Answer(looks[item][0], looks[item][1], item in right, looks[item][2]) for item in items]


def _look(
    version: Version, items: set[int], catalogue: Sequence[str], lines: list[str]
) -> dict[int, tuple[str, str | None, str | None]]:
    """Return id, title and picture of items; adds a sentence to `lines` where pictures cannot be read."""
    rows = {item: version.items.row(item) for item in sorted(items)}
    pictures: dict[str, str | None] = {}
    run = version.index.run(version.manifest.id)
    try:
        sources = source_rows(run, {row[PRODUCT_ID] for row in rows.values()})
        pictures = {product_id: _thumbnail(data) for product_id, data in pictures_of(run, sources, catalogue)}
    except (CatalogueError, storage.StorageError) as error:
        lines.append(f"pictures of version {version.manifest.id} are not shown: {error}")
    titles = {item: row.get(TITLE) for item, row in rows.items()}
    return {
        item: (row[PRODUCT_ID], None if titles[item] is None else str(titles[item]), pictures.get(row[PRODUCT_ID]))
        for item, row in rows.items()
    }


def _thumbnail(data: bytes) -> str | None:
    try:
        return _uri(decode_picture(data, _SIDE, fit="pad"))
    except PictureError:
        return None


def _asked_picture(version: Version, pair: Pair, place: int) -> str | None:
    """Return the picture that was asked by, as the tower of a version saw it."""
    query = pair.before.queries.queries[place]
    if query.image is None:
        return None
    pixels = version.encoder.decode([read_image(query)])
    for change in pair.asked.changes:
        pixels = pixels if change.pictures is None else change.pictures(pixels, [query.id])
    return _uri(pixels[0])


def _uri(pixels: npt.NDArray[np.uint8]) -> str:
    from PIL import Image

    picture = Image.fromarray(pixels)
    picture.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
