"""Reading a catalogue: its shards, what their columns mean, and their rows as Arrow batches.

Parquet, JSON lines, CSV and TSV, each also gzipped, by globs over any filesystem Beam knows. No shard and no row
group is ever whole in memory.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

from pipelines import storage
from pipelines.columns import ALIASES, ARROW, Kind, as_text, convert_column, find_alias, merge
from pipelines.shards import CatalogueError, Shard, sniff, sources_of

_log = logging.getLogger(__name__)

BATCH_BYTES = 64 << 20
BATCH_ROWS = 1024
PIECE_ROWS = 65_536

PROBLEM = pa.struct([("field", pa.string()), ("reason", pa.string()), ("detail", pa.string())])

__all__ = [
    "CatalogueError",
    "CatalogueOptions",
    "CatalogueSchema",
    "Piece",
    "Shard",
    "inspect",
    "list_shards",
    "pieces",
    "read_pictures",
    "read_piece",
]  # fmt: skip


@dataclass(frozen=True)
class CatalogueOptions:
    """What the user says of a catalogue.

    Attributes:
        patterns: files, folders or globs.
        columns: canonical name -> source column; dots reach into nested fields.
        text: columns that together make the text; default title and description, as far as they exist.
        keep: columns to show and filter by; None keeps every scalar column and every list of strings.
        max_pictures: pictures of a row that are used, at most.
    """

    patterns: tuple[str, ...]
    columns: Mapping[str, str] = field(default_factory=dict)
    text: tuple[str, ...] = ()
    keep: tuple[str, ...] | None = None
    max_pictures: int = 8


@dataclass(frozen=True)
class CatalogueSchema:
    """What the columns of all shards mean.

    Attributes:
        product_id: source of the product id.
        text: sources of the text's parts, in order.
        picture: source of the pictures, None where there is none.
        picture_kind: whether they lie in the shards or are named by path.
        price: source of the price, None where there is none.
        kept: columns kept, title and price first.
        kept_sources: source of each.
        kinds: what each source column holds over all shards.
        max_pictures: pictures of a row that are used, at most.
    """

    product_id: str
    text: tuple[str, ...]
    picture: str | None
    picture_kind: Literal["bytes", "path"] | None
    price: str | None
    kept: pa.Schema
    kept_sources: tuple[str, ...]
    kinds: Mapping[str, Kind]
    max_pictures: int

    def sources(self, pictures: bool) -> list[str]:
        """Return the source columns that reading needs, each once."""
        named = [self.product_id, *self.text, *self.kept_sources, self.price]
        if pictures or self.picture_kind == "path":
            named.append(self.picture)
        return list(dict.fromkeys(name for name in named if name is not None))


@dataclass(frozen=True)
class Piece:
    """A part of a shard that is read at once: of Parquet some row groups, of other formats the whole shard."""

    shard: Shard
    index: int
    first_row: int
    row_groups: tuple[int, ...] | None
    rows: int | None


def list_shards(patterns: Sequence[str]) -> list[Shard]:
    """List the shards that paths, folders and globs name, sorted by URI.

    Hidden files and those that begin with "_" are left out, as are files of 0 bytes, which are logged.

    Raises:
        CatalogueError: a pattern names no file, or a file of no known format.
    """
    found: dict[str, Shard] = {}
    for pattern in patterns:
        local = storage.local_path(pattern)
        folder = pattern.endswith("/") or (local is not None and local.is_dir())
        infos = storage.list_folder(pattern, "*") if folder else storage.list_files(pattern)
        for info in infos:
            name = info.path.rsplit("/", 1)[-1]
            if name.startswith((".", "_")):
                continue
            if info.size == 0:
                _log.warning("%s has 0 bytes and is left out", info.path)
                continue
            shard = sniff(info)
            if shard is not None:
                found[info.path] = shard
            elif info.path == pattern:
                raise CatalogueError(f"{pattern} is of no known format: name it .parquet, .jsonl, .csv or .tsv (or .gz of one)")
        if not any(info.path in found for info in infos):
            raise CatalogueError(f"no catalogue file matches '{pattern}' (.parquet, .jsonl, .csv, .tsv, each also .gz)")
    return [dataclasses.replace(found[uri], index=number) for number, uri in enumerate(sorted(found))]


def inspect(shards: Sequence[Shard], options: CatalogueOptions) -> CatalogueSchema:
    """Look at footers and first blocks of all shards and find out what their columns mean.

    Raises:
        CatalogueError: a shard that cannot be read, a column that is not there, or nothing to encode.
    """
    kinds: dict[str, Kind] = {}
    wanted = [*options.columns.values(), *options.text, *(options.keep or ())]
    for shard in shards:
        for name, kind in sources_of(shard, wanted).items():
            kinds[name] = merge(kinds[name], kind) if name in kinds else kind
    names = list(kinds)

    def source(canonical: str) -> str | None:
        mapped = options.columns.get(canonical)
        if mapped is not None:
            if mapped not in kinds:
                raise CatalogueError(
                    f"catalogue has no column '{mapped}' (columns: {_shown(names)}), which --column maps to {canonical}"
                )
            return mapped
        return find_alias(canonical, names)

    for canonical in options.columns:
        if canonical not in ALIASES:
            raise CatalogueError(f"--column maps to '{canonical}'; it may be {', '.join(ALIASES)}")
    roles = {canonical: source(canonical) for canonical in ALIASES}
    product_id, picture = roles["product_id"], roles["picture"]
    if product_id is None:
        raise CatalogueError(
            f"catalogue has no column 'product_id' (columns: {_shown(names)}): map it with --column product_id=NAME"
        )

    def named(name: str, flag: str) -> str:
        found = roles.get(name) or (name if name in kinds else None)
        if found is None:
            raise CatalogueError(f"catalogue has no column '{name}' (columns: {_shown(names)}), which {flag} names")
        return found

    text = tuple(named(name, "--text") for name in options.text) or tuple(
        column for column in (roles["title"], roles["description"]) if column is not None
    )
    picture_kind = _picture_kind(picture, kinds)
    if picture_kind is None and "picture" in options.columns:
        raise CatalogueError(f"the column '{picture}' holds neither pictures nor their paths ({kinds[picture or '']})")
    if not text and picture_kind is None:
        raise CatalogueError(
            f"catalogue has no column with text or pictures (columns: {_shown(names)}): "
            "map one with --column title=NAME or --column picture=NAME"
        )
    kept = _kept(options, roles, kinds, named)
    return CatalogueSchema(
        product_id, text, picture if picture_kind else None, picture_kind, roles["price"],
        pa.schema([(name, pa.float64() if name == "price" else ARROW[kinds[origin]]) for name, origin in kept.items()]),
        tuple(kept.values()), kinds, options.max_pictures,
    )  # fmt: skip


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:30]) + (", ..." if len(names) > 30 else "")


def _picture_kind(picture: str | None, kinds: Mapping[str, Kind]) -> Literal["bytes", "path"] | None:
    kind = kinds.get(picture or "")
    return {"bytes": "bytes", "string": "path", "strings": "path"}.get(kind or "")  # type: ignore[return-value]


def _kept(options: CatalogueOptions, roles: Mapping[str, str | None], kinds: Mapping[str, Kind], named: Any) -> dict[str, str]:
    canonical = {origin: name for name, origin in roles.items() if origin is not None and name != "picture"}
    if options.keep is None:
        origins = [name for name, kind in kinds.items() if kind in ARROW and "." not in name]
        origins += [origin for origin in canonical if origin not in origins]
    else:
        origins = [named(name, "--keep") for name in options.keep]
        origins += [origin for origin in (roles["title"], roles["price"]) if origin is not None and origin not in origins]
    unkeepable = [name for name in origins if kinds[name] not in ARROW]
    if unkeepable and options.keep is not None:
        raise CatalogueError(f"the column '{unkeepable[0]}' holds {kinds[unkeepable[0]]}, which cannot be shown or filtered by")
    kept = {canonical.get(origin, origin): origin for origin in origins if kinds[origin] in ARROW}
    kept.pop("product_id", None)
    first = {name: kept.pop(name) for name in ("title", "price") if name in kept}
    return first | kept


def pieces(shard: Shard) -> list[Piece]:
    """Cut a shard into pieces: of Parquet row groups of at most 65,536 rows together, else the whole shard."""
    if shard.format != "parquet":
        return [Piece(shard, 0, 0, None, None)]
    cut: list[Piece] = []
    groups: list[int] = []
    first = rows = 0
    counts = shard.row_groups()
    for group, count in enumerate(counts):
        if groups and rows + count > PIECE_ROWS:
            cut.append(Piece(shard, len(cut), first, tuple(groups), rows))
            first, rows, groups = first + rows, 0, []
        groups.append(group)
        rows += count
    if rows:
        cut.append(Piece(shard, len(cut), first, tuple(groups), rows))
    return cut


def read_piece(
    piece: Piece, schema: CatalogueSchema, pictures: bool = True, batch_rows: int = BATCH_ROWS, batch_bytes: int = BATCH_BYTES
) -> Iterator[pa.RecordBatch]:
    """Read a piece as batches.

    Yields:
        Batches of at most `batch_rows` rows and about `batch_bytes`: row int64, row_group int32 (Parquet only),
        product_id string, text list<string>, picture_bytes list<binary>, picture_paths list<string>, price string,
        kept struct, problems list<struct<field, reason, detail>>. A row that cannot be read has one problem
        without a field and nothing else.

    Raises:
        CatalogueError: the shard is cut off or damaged, or changed since it was listed.
    """
    piece.shard.check_unchanged()
    sources = schema.sources(pictures)
    for block in piece.shard.blocks(sources, piece.row_groups, piece.first_row, batch_rows, batch_bytes):
        yield _as_batch(block.rows, block.groups, block.columns, block.broken, schema, pictures)
    piece.shard.check_unchanged()


def _as_batch(
    rows: Sequence[int], groups: Sequence[int | None], columns: Mapping[str, pa.Array | list[Any]],
    broken: Mapping[int, str], schema: CatalogueSchema, pictures: bool,
) -> pa.RecordBatch:  # fmt: skip
    size = len(rows)
    problems: list[list[dict[str, Any]]] = [[] for _ in range(size)]
    for position, detail in broken.items():
        problems[position].append({"field": None, "reason": "unreadable_row", "detail": detail})
    empty: list[Any] = [None] * size

    def values(source: str | None) -> Any:
        return empty if source is None else columns.get(source, empty)

    kept = []
    for column, source in zip(schema.kept, schema.kept_sources, strict=True):
        kind: Kind = "string" if column.name == "price" else schema.kinds[source]
        array, bad = convert_column(values(source), kind)
        for position, detail in bad.items():
            problems[position].append({"field": column.name, "reason": "bad_value", "detail": detail})
        kept.append(pa.nulls(size, pa.float64()) if column.name == "price" else array)
    parts = [_listed(values(source)) for source in schema.text]
    texts = [[as_text(v) for part in parts for v in _flat(part[row])] for row in range(size)]
    ids = [as_text(value).strip() or None if value is not None else None for value in _listed(values(schema.product_id))]
    prices = [None if v is None or v == "" else as_text(v) if not isinstance(v, float) else repr(v)
              for v in _listed(values(schema.price))]  # fmt: skip
    data, paths = _pictures(values(schema.picture) if pictures or schema.picture_kind == "path" else empty, schema, size)
    struct = pa.StructArray.from_arrays(kept, fields=list(schema.kept)) if kept else pa.array([{}] * size, pa.struct([]))
    return pa.record_batch(
        {
            "row": pa.array(rows, pa.int64()), "row_group": pa.array(groups, pa.int32()),
            "product_id": pa.array(ids, pa.string()), "text": pa.array(texts, pa.list_(pa.string())),
            "picture_bytes": data, "picture_paths": paths, "price": pa.array(prices, pa.string()), "kept": struct,
            "problems": pa.array(problems, pa.list_(PROBLEM)),
        }
    )  # fmt: skip


def _listed(values: Any) -> list[Any]:
    return values.to_pylist() if isinstance(values, pa.Array | pa.ChunkedArray) else values


def _flat(value: Any) -> list[Any]:
    if value is None:
        return []
    return [part for part in value if part is not None] if isinstance(value, list) else [value]


def picture_parts(value: Any, limit: int) -> list[Any]:
    """Return the pictures of one cell: bytes, or paths; of Hugging Face structs the bytes, else the path."""
    parts = []
    for part in value if isinstance(value, list) else [value]:
        if isinstance(part, Mapping):
            part = next((part[name] for name in ("bytes", "path", "url", "src") if part.get(name) is not None), None)
        if part is not None and part != "":
            parts.append(part)
    return parts[:limit]


def _pictures(values: Any, schema: CatalogueSchema, size: int) -> tuple[pa.Array, pa.Array]:
    cells = [picture_parts(value, schema.max_pictures) or None for value in _listed(values)]
    if schema.picture_kind == "bytes":
        found = [None if cell is None else [p for p in cell if isinstance(p, bytes)] or None for cell in cells]
        return pa.array(found, pa.list_(pa.binary())), pa.nulls(size, pa.list_(pa.string()))
    paths = [None if cell is None else [as_text(part) for part in cell] for cell in cells]
    return pa.nulls(size, pa.list_(pa.binary())), pa.array(paths, pa.list_(pa.string()))


def read_pictures(
    shard: Shard, rows: Sequence[int], row_groups: Sequence[int] | None, schema: CatalogueSchema
) -> Iterator[tuple[int, list[bytes | None]]]:
    """Read the pictures of some rows of a shard, and of Parquet only the row groups they lie in.

    Args:
        shard: a shard with pictures inside.
        rows: row numbers, ascending.
        row_groups: the row groups they lie in, ascending.
        schema: of the catalogue.

    Yields:
        Each row's number with its pictures.

    Raises:
        CatalogueError: the shard is damaged, or changed since it was listed.
    """
    assert schema.picture is not None
    shard.check_unchanged()
    wanted, next_row = iter(rows), -1
    next_row = next(wanted, -1)
    for first, values in shard.picture_cells(schema.picture, row_groups):
        while first <= next_row < first + len(values):
            cell = values[next_row - first].as_py()
            yield next_row, [part for part in picture_parts(cell, schema.max_pictures) if isinstance(part, bytes)]
            next_row = next(wanted, -1)
        if next_row < 0:
            break
    shard.check_unchanged()

