"""The readers of the catalogue's formats, one a format: what they have in common is what `catalogue` needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipelines import merchant_feed, parquet_shards, shopify_export, text_shards, tfrecord_shards, webdataset_shards
from pipelines import woocommerce_export as woocommerce
from pipelines.column_types import Path
from pipelines.columns import Block
from pipelines.recognition import Format
from pipelines.schema import ShardColumns
from pipelines.shards import Piece, Shard


def _whole(shard: Shard) -> list[Piece]:
    return [Piece(shard, 0, 0, None, None)]


@dataclass(frozen=True)
class Reader:
    """How a format is read.

    Attributes:
        describe: finds a shard's columns, from its first so many bytes where it does not list them; None: no row.
        read_blocks: reads the places asked for of a piece, in blocks of so many rows and bytes, up to a row.
        pieces: cuts a shard into what workers read.
        read_pictures: reads the pictures of some rows again: (shard, rows, row groups, place of the pictures, most
            pictures of a row, bytes in memory); None where the format has no pictures inside.
    """

    describe: Callable[[Shard, int], ShardColumns | None]
    read_blocks: Callable[[Piece, Sequence[Path], int, int, int | None], Iterator[Block]]
    pieces: Callable[[Shard], list[Piece]] = _whole
    read_pictures: (
        Callable[[Shard, Sequence[int], Sequence[int] | None, Path, int, int], Iterator[tuple[int, list[bytes | None]]]] | None
    ) = None


_TEXT = Reader(text_shards.describe, text_shards.read_blocks)

READERS: Mapping[Format, Reader] = {
    "parquet": Reader(
        lambda shard, _: parquet_shards.describe(shard), parquet_shards.read_blocks, parquet_shards.pieces,
        parquet_shards.read_pictures,
    ),
    "jsonl": _TEXT,
    "csv": _TEXT,
    "tsv": _TEXT,
    "tfrecord": Reader(
        tfrecord_shards.describe, tfrecord_shards.read_blocks, read_pictures=tfrecord_shards.read_pictures
    ),
    "webdataset": Reader(
        webdataset_shards.describe, webdataset_shards.read_blocks, read_pictures=webdataset_shards.read_pictures
    ),
    "merchant": Reader(merchant_feed.describe, merchant_feed.read_blocks),
    "shopify": Reader(shopify_export.describe, shopify_export.read_blocks),
    "woocommerce": Reader(woocommerce.describe, woocommerce.read_blocks),
}  # fmt: skip
