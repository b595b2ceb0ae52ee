"""Pictures of products of a version, read again where the run of the version read them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pyarrow as pa

from pipelines import pictures
from pipelines.catalogue import CatalogueError, CatalogueSchema, Shard, pieces, read_pictures, read_piece
from pipelines.config import Config
from pipelines.features import content_hash
from pipelines.job import open_catalogue
from pipelines.layout import Run, read_json

# The settings that say how a catalogue is read.
_READING = ("format", "column", "text", "keep", "allow_root", "max_pictures")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourceRow:
    """The row of the catalogue that a product was read from: its shard's number, its own, and a hash of its pictures."""

    shard: int
    row: int
    content: bytes


def pictures_of(run: Run, products: Mapping[str, SourceRow], catalogue: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Read the first picture of products; those whose pictures are others by now are left out and counted in the log.

    Of shards with pictures inside the rows asked for are read, of others the pieces that hold them; memory is a batch of rows.

    Args:
        run: the run that read them.
        products: where each was read, by id.
        catalogue: where the files lie now; empty: where they lay.

    Yields:
        Id and content of the picture, by shard and row.

    Raises:
        CatalogueError: the files cannot be read, or are not those of the run.
    """
    plan = read_json(run.plan)
    uris = tuple(catalogue) or tuple(uri for uri, *_ in plan["shards"])
    config = Config(catalogue=uris, **{name: _frozen(plan["settings"][name]) for name in _READING})
    shards, schema = open_catalogue(config)
    if len(shards) != len(plan["shards"]):
        raise CatalogueError(f"the catalogue has {len(shards):,} files; it had {len(plan['shards']):,} when the version was made")
    roots = config.allow_root or pictures.catalogue_roots(shard.uri for shard in shards)
    changed = 0
    wanted = sorted(products.items(), key=lambda one: (one[1].shard, one[1].row))
    for number, group in groupby(wanted, key=lambda one: one[1].shard):
        rows = {source.row: product_id for product_id, source in group}
        inside = schema.picture_kind == "bytes"
        for row, contents in _inside(shards[number], rows, schema) if inside else _named(shards[number], rows, schema, roots):
            if contents and content_hash(b"".join(map(content_hash, contents))) == products[rows[row]].content:
                yield rows[row], contents[0]
            else:
                changed += 1
    if changed:
        _log.warning("evaluate: the pictures of %s products are not those that the version was made of, and not asked by",
                     f"{changed:,}")  # fmt: skip


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _inside(shard: Shard, rows: Mapping[int, str], schema: CatalogueSchema) -> Iterator[tuple[int, list[bytes]]]:
    for row, contents in read_pictures(shard, sorted(rows), None, schema):
        yield row, [data for data in contents if data is not None]


def _named(
    shard: Shard, rows: Mapping[int, str], schema: CatalogueSchema, roots: Sequence[str]
) -> Iterator[tuple[int, list[bytes]]]:
    for piece in pieces(shard):
        last = None if piece.rows is None else piece.first_row + piece.rows
        if any(row >= piece.first_row and (last is None or row < last) for row in rows):
            for batch in read_piece(piece, schema):
                for place, row in enumerate(batch["row"].to_pylist()):
                    if row in rows:
                        yield row, list(_contents(batch["picture_paths"][place], shard, roots))


def _contents(paths: pa.Scalar, shard: Shard, roots: Sequence[str]) -> Iterator[bytes]:
    for path in paths.as_py() or ():
        try:
            yield pictures.read(pictures.resolve(path, shard.uri, roots))
        except pictures.PathError:
            continue
