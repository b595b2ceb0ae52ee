"""Pictures of products of a version, read again where the run of the version read them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pyarrow.parquet as pq

from pipelines import pictures, ranges, storage
from pipelines.catalogue import CatalogueError, CatalogueSchema, Shard, pieces, read_pictures, read_piece
from pipelines.config import Config
from pipelines.features import content_hash
from pipelines.job import open_catalogue
from pipelines.layout import CONTENT, ORDER, PRODUCT_ID, Run, order_of, read_json

PICTURE_CONTENT = f"picture_{CONTENT}"

# The settings that say how a catalogue is read.
_READING = ("format", "column", "text", "keep", "allow_root", "max_pictures")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourceRow:
    """The row of the catalogue that a product was read from: its shard's number, its own, and a hash of its pictures."""

    shard: int
    row: int
    content: bytes


def source_rows(run: Run, product_ids: Collection[str]) -> dict[str, SourceRow]:
    """Return where a run read those of the products that have a picture, by id.

    Raises:
        CatalogueError: the run is gone.
    """
    if not storage.exists(run.plan):
        raise CatalogueError(f"{run.folder}, which says where pictures were read, is gone")
    found = {}
    orders = {order_of(product_id) for product_id in product_ids}
    for path in files_with_pictures(run):
        for row in ranges.read_matching(path, ORDER, orders, [PRODUCT_ID, "shard", "row", PICTURE_CONTENT]).to_pylist():
            if row[PRODUCT_ID] in product_ids and row[PICTURE_CONTENT] is not None:
                found[row[PRODUCT_ID]] = SourceRow(row["shard"], row["row"], row[PICTURE_CONTENT])
    return found


def files_with_pictures(run: Run) -> Iterator[str]:
    """Yield the run's files of products some of which have pictures."""
    for info in storage.list_folder(run.file("products"), "*.parquet"):
        with storage.open_input(info.path) as source, pq.ParquetFile(source) as file:
            there = PICTURE_CONTENT in file.schema_arrow.names
        if there:
            yield info.path


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
                        yield row, pictures.read_named(batch["picture_paths"][place].as_py() or (), shard.uri, roots)
