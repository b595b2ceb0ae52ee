"""Reading a catalogue: its shards, what their columns mean, and their rows as Arrow batches of one schema.

Each format of `readers`, gzipped or not, from local disk or any filesystem Beam knows. Neither a shard nor a row
group is ever whole in memory: Parquet is streamed in batches, the others in blocks of rows of at most 64 MB a row.
A batch of `read_piece` has the columns of `batch_schema`; what could not be read is said in `problems`, row by row.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from encoders.bundle import REVIEWS
from pipelines import columns
from pipelines.column_types import STRINGS, Path
from pipelines.columns import Block, CellProblems
from pipelines.layout import PRODUCT_ID
from pipelines.picture_columns import BINARIES, path_lists, picture_lists
from pipelines.readers import READERS
from pipelines.review_columns import REVIEWS_TYPE, review_lists
from pipelines.schema import CatalogueOptions, CatalogueSchema, resolve
from pipelines.shards import CatalogueError, Piece, Shard, check_unchanged, list_shards

__all__ = [
    "CatalogueError",
    "CatalogueOptions",
    "CatalogueSchema",
    "Piece",
    "Shard",
    "batch_schema",
    "inspect",
    "list_shards",
    "pieces",
    "read_pictures",
    "read_piece",
]  # fmt: skip

PROBLEMS = pa.list_(pa.struct([("field", pa.string()), ("reason", pa.string()), ("detail", pa.string())]))
# What is read of shards that do not list their columns, to find them and their types: of one, and of all together.
_SAMPLE_BYTES = range(256 << 10, 8 << 20)
_SAMPLES_BYTES = 256 << 20
_THREADS = 16

_log = logging.getLogger(__name__)


def batch_schema(schema: CatalogueSchema) -> pa.Schema:
    """Return the columns of the batches of `read_piece`."""
    return pa.schema(
        [
            ("row", pa.int64()),
            ("row_group", pa.int32()),
            (PRODUCT_ID, pa.string()),
            ("text", STRINGS),
            ("picture_bytes", BINARIES),
            ("picture_paths", STRINGS),
            ("price", pa.string()),
            (REVIEWS, REVIEWS_TYPE),
            ("kept", pa.struct(list(schema.kept))),
            # A null field: the whole row could not be read.
            ("problems", PROBLEMS),
        ]
    )


def inspect(shards: Sequence[Shard], options: CatalogueOptions) -> CatalogueSchema:
    """Find out what the columns of a catalogue mean, from Parquet footers and the beginnings of other shards.

    Types are merged across shards. But for Parquet they are known from the first 8 MB of a shard (less where
    there are more than 32 of them); a later cell that does not fit is a problem of its row.

    Raises:
        CatalogueError: a shard is cut off, damaged or not what its suffix says; a mapped column is missing; there is
            no product id, no row or nothing to encode.
    """
    sampled = sum(shard.format != "parquet" for shard in shards)
    sample = min(max(_SAMPLES_BYTES // max(sampled, 1), _SAMPLE_BYTES.start), _SAMPLE_BYTES.stop)
    with ThreadPoolExecutor(_THREADS) as pool:
        described = list(pool.map(lambda shard: READERS[shard.format].describe(shard, sample), shards))
    told = [found for found in described if found is not None]
    filled = [found for found in told if found.has_rows]
    for shard, found in zip(shards, described, strict=True):
        if found is None or not found.has_rows:
            _log.info("%s has no rows", shard.uri)
    if not filled and len(told) == len(shards):
        # Parquet says what its columns are where it has no rows, too: such a catalogue is an empty one, not a broken one.
        _log.warning("the catalogue has no rows: all of its %d files are empty", len(shards))
        filled = told
    if not filled:
        raise CatalogueError(f"the catalogue has no rows: all of its {len(shards)} files are empty")
    schema = resolve(filled, options)
    _log.info("columns: %s", ", ".join(_told(name, path) for name, path in schema.sources.items()))
    return schema


def _told(name: str, path: Path) -> str:
    return name if path == (name,) else f"{name} is {'.'.join(path)}"


def pieces(shard: Shard) -> list[Piece]:
    """Cut a shard into the parts that workers read: row groups of up to 65,536 rows of Parquet, else the whole."""
    return READERS[shard.format].pieces(shard)


def read_piece(
    piece: Piece, schema: CatalogueSchema, pictures: bool = True, batch_rows: int = 1024, batch_bytes: int = 64 << 20,
    stop_row: int | None = None,
) -> Iterator[pa.RecordBatch]:  # fmt: skip
    """Read the rows of a piece.

    Args:
        piece: what to read.
        schema: what the columns mean.
        pictures: whether to read the pictures or their paths; else those columns are null.
        batch_rows: rows of a batch, at most.
        batch_bytes: bytes of a batch, about.
        stop_row: row of the shard to stop before: a catalogue's first N rows are read shard after shard, each with
            what is left of N, because what a text shard holds is known only when it is read.

    Yields:
        Batches of `batch_schema(schema)`, at least one row each. Ids and prices are text as written (12.0 as "12"),
        null where missing; of pictures the first `schema.max_pictures` are given, null where there is none.
        Reviews are null where `schema` reads none.

    Raises:
        CatalogueError: the shard is cut off, damaged, or has changed since it was listed.
    """
    read = READERS[piece.shard.format].read_blocks
    for block in read(piece, schema.paths(pictures), batch_rows, batch_bytes, stop_row):
        yield to_batch(block, schema, pictures)
    check_unchanged(piece.shard)


def to_batch(block: Block, schema: CatalogueSchema, pictures: bool = True) -> pa.RecordBatch:
    """Make the batch of a block of rows."""
    problems = _Problems()
    length, source = block.length, block.columns
    product_ids, bad = columns.ids(source[schema.sources[PRODUCT_ID]])
    problems.add(PRODUCT_ID, bad)
    text, bad_parts = columns.parts([source[path] for path in schema.text_paths], length)
    for name, bad in zip(schema.text, bad_parts, strict=True):
        problems.add(name, bad)
    inside, named = pa.nulls(length, BINARIES), pa.nulls(length, STRINGS)
    if pictures and schema.picture_kind == "bytes":
        inside, bad = picture_lists(source[schema.sources["picture"]], schema.max_pictures)
        problems.add("picture", bad)
    elif pictures and schema.picture_kind == "path":
        named, bad = path_lists(source[schema.sources["picture"]], schema.max_pictures)
        problems.add("picture", bad)
    price = pa.nulls(length, pa.string())
    if "price" in schema.sources:
        price, bad = columns.prices(source[schema.sources["price"]])
        problems.add("price", bad)
    reviews = pa.nulls(length, REVIEWS_TYPE)
    if schema.reads_reviews:
        reviews, bad = review_lists(source[schema.sources[REVIEWS]])
        problems.add(REVIEWS, bad)
    arrays = []
    for field, path in zip(schema.kept, schema.kept_paths, strict=True):
        if path is None:
            arrays.append(pa.nulls(length, field.type))
            continue
        array, bad = columns.kept(source[path], field.type)
        arrays.append(array)
        if field.name != "price":  # its text says what is wrong with it
            problems.add(field.name, bad)
    names = _names(schema)
    for path, rows in block.bad_texts.items():
        problems.add(names.get(path, ".".join(path)), dict.fromkeys(rows, "the text is not UTF-8"))
    empty = pa.array([{}] * length, pa.struct([]))
    kept = pa.StructArray.from_arrays(arrays, fields=list(schema.kept)) if arrays else empty
    return pa.record_batch(
        [
            pa.array(block.rows or range(block.first_row, block.first_row + length), pa.int64()),
            pa.array([block.row_group] * length, pa.int32()),
            product_ids, text, inside, named, price, reviews, kept, problems.column(length, block.unreadable),
        ],
        schema=batch_schema(schema),
    )  # fmt: skip


def _names(schema: CatalogueSchema) -> dict[Path, str]:
    kept = {path: name for path, name in zip(schema.kept_paths, schema.kept.names, strict=True) if path is not None}
    return {**kept, **{path: name for name, path in schema.sources.items()}}


class _Problems:
    """What is wrong with the cells of a batch, once a cell."""

    def __init__(self) -> None:
        self._cells: dict[tuple[int, str], str] = {}

    def add(self, name: str, cells: CellProblems) -> None:
        for row, detail in cells.items():
            self._cells.setdefault((row, name), detail)

    def column(self, length: int, unreadable: Mapping[int, str]) -> pa.Array:
        if not self._cells and not unreadable:
            return pa.nulls(length, PROBLEMS)
        found: list[list[dict[str, str | None]] | None] = [None] * length
        for (row, name), detail in self._cells.items():
            if row not in unreadable:
                found[row] = [*(found[row] or ()), {"field": name, "reason": "bad_value", "detail": detail}]
        for row, detail in unreadable.items():
            found[row] = [{"field": None, "reason": "unreadable_row", "detail": detail}]
        return pa.array(found, PROBLEMS)


def read_pictures(
    shard: Shard, rows: Sequence[int], row_groups: Sequence[int] | None, schema: CatalogueSchema,
    batch_bytes: int = 64 << 20,
) -> Iterator[tuple[int, list[bytes | None]]]:  # fmt: skip
    """Read the pictures of some rows that lie inside a shard, as `read_piece` gives them.

    Of Parquet only the row groups of these rows are read; records and members of other rows are skipped. Only
    the pictures asked for become Python objects.

    Args:
        shard: Parquet, TFRecord or a WebDataset tar.
        rows: 0-based rows of the shard, sorted.
        row_groups: the row groups of Parquet they are in; None: found by the footer.
        schema: what the columns mean; `picture_kind` is "bytes".
        batch_bytes: bytes of pictures in memory, about.

    Yields:
        Row and its pictures, in the order of `rows`.

    Raises:
        CatalogueError: the shard is damaged, or has changed since it was listed.
    """
    read = READERS[shard.format].read_pictures
    if schema.picture_kind != "bytes" or read is None:
        raise CatalogueError(f"{shard.uri} has no pictures inside: they are named by path")
    yield from read(shard, rows, row_groups, schema.sources["picture"], schema.max_pictures, batch_bytes)
