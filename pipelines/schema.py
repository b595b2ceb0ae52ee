"""What the columns of a catalogue mean: names mapped or found by common aliases, types merged across shards."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa

from encoders.bundle import REVIEWS
from pipelines.column_types import PATH_FIELDS, Path, find_path, is_list, kept_type, merge_types, plain_type
from pipelines.layout import ORDER, PRODUCT_ID, VECTOR, modality_vector
from pipelines.named_values import MODALITIES
from pipelines.review_columns import is_review_column
from pipelines.shards import CatalogueError

# Names that a catalogue may use for what the product calls by the first of them; compared in lower case without
# "_", "-", "/" and spaces; the first that is there counts.
ALIASES: dict[str, tuple[str, ...]] = {
    "product_id": ("product_id", "id", "sku", "item_id", "article_id", "asin", "parent_asin", "goods_id", "uniq_id", "key"),
    "title": ("title", "product_title", "productDisplayName", "display_name", "product_name", "name", "item_name", "caption"),
    "description": ("description", "product_description", "long_description", "body_html", "detail_desc", "desc"),
    "picture": (
        "picture", "pictures", "image", "images", "photo", "photos", "img", "image_url", "image_urls", "picture_url",
        "img_url", "image_link", "image_path", "image_file", "image_src", "main_image", "primary_image", "thumbnail",
        "image_encoded", "image_bytes", "image_raw", "encoded_image",
    ),
    "picture_version": ("picture_version", "image_version"),
    "price": ("price", "selling_price", "sale_price", "unit_price", "list_price"),
    "currency": ("currency", "currency_code", "price_currency"),
    "rating": ("rating", "average_rating", "avg_rating", "mean_rating", "review_rating", "stars"),
    "review_count": ("review_count", "reviews_count", "num_reviews", "number_of_reviews", "rating_number", "rating_count"),
    "reviews": ("reviews", "review_texts", "customer_reviews", "product_reviews"),
    "category": ("category", "product_category", "category_name", "main_category", "master_category", "categories"),
    "brand": ("brand", "brand_name", "manufacturer", "vendor"),
}  # fmt: skip
# Columns that an index or an answer has beside the kept ones.
RESERVED = frozenset({PRODUCT_ID, ORDER, VECTOR, "rank", "score", *map(modality_vector, MODALITIES)})

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CatalogueOptions:
    """What the user says of a catalogue.

    Attributes:
        patterns: paths, folders or globs, local or of any filesystem Beam knows.
        columns: what is called product_id, title, ... here -> the source's column, dots reaching into nested fields.
        text: columns that make the text, in this order, by either name; none: title and description.
        keep: columns to show and filter by; None: all scalars and lists of strings but pictures.
        max_pictures: pictures of a product that are used, at most.
        max_reviews: reviews of a product that are used, at most; 0: none are read.
        limit: rows to use; whoever reads piece after piece applies it, with `read_piece(stop_row=)`.
    """

    patterns: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    text: tuple[str, ...] = ()
    keep: tuple[str, ...] | None = None
    max_pictures: int = 8
    max_reviews: int = 0
    limit: int | None = None


@dataclass(frozen=True)
class CatalogueSchema:
    """What the columns mean, the same for all shards; can be pickled.

    Attributes:
        sources: name -> place in the source, of product_id, title, price and so on, where they exist.
        picture_kind: "bytes" where pictures lie inside the shards, "path" where they are named; None: there are none.
        text: names of the columns that make the text.
        text_paths: their places.
        kept: columns to show and filter by: title and price first where they exist.
        kept_paths: their places, in the order of `kept`; None for the currency where prices are texts that may name it
            and no column of its own does.
        max_pictures: pictures of a product that are read, at most.
        max_reviews: reviews of a product that are used, at most; 0: none are read.
    """

    sources: Mapping[str, Path]
    picture_kind: Literal["bytes", "path"] | None
    text: tuple[str, ...]
    text_paths: tuple[Path, ...]
    kept: pa.Schema
    kept_paths: tuple[Path | None, ...]
    max_pictures: int
    max_reviews: int = 0

    @property
    def reads_reviews(self) -> bool:
        """Tell whether reviews are read."""
        return self.max_reviews > 0 and REVIEWS in self.sources

    @property
    def content_columns(self) -> dict[str, tuple[str, ...]]:
        """Give the kept columns that a product's text, and its reviews, are made of."""
        places = {"text": self.text_paths, REVIEWS: (self.sources[REVIEWS],) if self.reads_reviews else ()}
        pairs = list(zip(self.kept.names, self.kept_paths, strict=True))
        return {modality: tuple(name for name, path in pairs if path in paths) for modality, paths in places.items()}

    def paths(self, pictures: bool) -> list[Path]:
        """List the places to read, each once."""
        wanted = [self.sources[PRODUCT_ID], *self.text_paths, *(path for path in self.kept_paths if path is not None)]
        if "price" in self.sources:
            wanted.append(self.sources["price"])
        if pictures and self.picture_kind is not None:
            wanted.append(self.sources["picture"])
        if self.reads_reviews:
            wanted.append(self.sources[REVIEWS])
        return list(dict.fromkeys(wanted))


@dataclass(frozen=True)
class ShardColumns:
    """The columns of one shard.

    Attributes:
        uri: the shard.
        columns: their names and types.
        complete: whether other columns cannot come up later in the shard (JSON lines: they can).
        empty: dotted names of columns that hold nothing, as far as the shard says so.
        has_rows: whether there is a row; the columns of a shard without one count only where no shard has any.
    """

    uri: str
    columns: pa.Schema
    complete: bool
    empty: frozenset[str] = frozenset()
    has_rows: bool = True


def resolve(shards: Sequence[ShardColumns], options: CatalogueOptions) -> CatalogueSchema:
    """Find out what the columns of all shards mean.

    Raises:
        CatalogueError: a column that is mapped or asked for is not there or of no use, there is no product id, or
            nothing to encode.
    """
    columns = _Columns(shards)
    sources, types = _resolve_names(columns, options)
    if PRODUCT_ID not in sources:
        raise CatalogueError(
            f"the catalogue has no column for product_id ({columns.listing()}): map it with --column product_id=COLUMN"
        )
    _check_ids(shards, sources[PRODUCT_ID])
    kind = _picture_kind(shards, sources["picture"]) if "picture" in sources else None
    if "picture" in sources and kind is None:
        del sources["picture"]
    text = options.text or tuple(name for name in ("title", "description") if name in sources)
    text_paths = tuple(_text_path(columns, name, sources, types) for name in text)
    if not text and kind is None:
        raise CatalogueError(
            f"the catalogue has nothing to encode: no title, description or picture is among its columns "
            f"({columns.listing()}); map one with --column title=COLUMN, or name the text with --text COLUMN"
        )
    kept, kept_paths = _keep(columns, sources, types, kind, options)
    return CatalogueSchema(sources, kind, text, text_paths, kept, kept_paths, options.max_pictures, options.max_reviews)


class _Columns:
    """The columns of all shards together, types merged."""

    def __init__(self, shards: Iterable[ShardColumns]) -> None:
        shards = list(shards)
        merged: dict[str, pa.DataType] = {}
        for columns in dict.fromkeys(shard.columns for shard in shards):
            for one in columns:
                merged[one.name] = merge_types(merged.get(one.name, pa.null()), one.type)
        self.fields = [pa.field(name, kind) for name, kind in merged.items() if name]
        self.complete = all(shard.complete for shard in shards)

    def find(self, name: str) -> tuple[Path, pa.DataType] | None:
        return find_path(self.fields, name)

    def listing(self) -> str:
        names = [one.name for one in self.fields]
        shown = ", ".join(names[:40]) + (f" and {len(names) - 40} more" if len(names) > 40 else "")
        return f"columns{'' if self.complete else ' at the beginning of its shards'}: {shown or 'none'}"

    def missing(self, flag: str, name: str) -> CatalogueError:
        near = difflib.get_close_matches(name, [one.name for one in self.fields], n=1)
        hint = f": did you mean '{near[0]}'?" if near else ""
        return CatalogueError(f"{flag}: the catalogue has no column '{name}' ({self.listing()}){hint}")


def _resolve_names(columns: _Columns, options: CatalogueOptions) -> tuple[dict[str, Path], dict[str, pa.DataType]]:
    sources: dict[str, Path] = {}
    types: dict[str, pa.DataType] = {}
    for name, source in options.columns.items():
        flag = f"--column {name}={source}"
        if name not in ALIASES:
            raise CatalogueError(f"{flag}: '{name}' is not among the names that can be mapped ({', '.join(ALIASES)})")
        found = columns.find(source)
        if found is None:
            raise columns.missing(flag, source)
        if not _fits(name, found[1]):
            raise CatalogueError(f"{flag}: {_unfit(source, found[1])}")
        sources[name], types[name] = found
    taken = set(sources.values())
    for name, aliases in ALIASES.items():
        if name in sources:
            continue
        for one in _by_alias(columns.fields, aliases):
            if (one.name,) in taken:
                continue
            if _fits(name, one.type):
                sources[name], types[name] = (one.name,), one.type
                break
            _log.warning("%s; it is not used as %s", _unfit(one.name, one.type), name)
    return sources, types


def _by_alias(fields: Iterable[pa.Field], aliases: Iterable[str]) -> list[pa.Field]:
    plain = {_folded(one.name): one for one in reversed(list(fields))}
    return [plain[_folded(alias)] for alias in aliases if _folded(alias) in plain]


def _folded(name: str) -> str:
    return "".join(char for char in name.lower() if char not in "_-/ ")


def _fits(name: str, kind: pa.DataType) -> bool:
    if name == "picture":
        return _kind_of_picture(kind) is not None or pa.types.is_null(kind)
    if name == REVIEWS:
        return is_review_column(kind)
    if pa.types.is_binary(plain_type(kind)) and name in ("product_id", "title", "description"):
        return True
    return kept_type(kind) is not None and (name not in ("product_id", "price", "title") or not is_list(kind))


def _unfit(source: str, kind: pa.DataType) -> str:
    inner = kind.value_type if is_list(kind) else kind
    remedy = ""
    if pa.types.is_struct(inner) and inner.num_fields:
        remedy = f": name a field of it, such as {source}.{inner[0].name}"
    shown = str(kind)
    return f"the column '{source}' is {shown if len(shown) <= 100 else shown[:97] + '...'}{remedy}"


def _check_ids(shards: Iterable[ShardColumns], path: Path) -> None:
    for shard in shards:
        if shard.complete and path[0] not in shard.columns.names:
            raise CatalogueError(
                f"{shard.uri} has no column '{path[0]}', which is the product id of the other shards "
                f"(columns: {', '.join(shard.columns.names)}): add it, or leave the file out"
            )


def _kind_of_picture(kind: pa.DataType) -> Literal["bytes", "path"] | None:
    kind = plain_type(kind)
    inner = kind.value_type if is_list(kind) else kind
    if pa.types.is_struct(inner):
        fields = {one.name: one.type for one in inner}
        if "bytes" in fields and pa.types.is_binary(fields["bytes"]):
            return "bytes"
        paths = (fields.get(name, pa.null()) for name in PATH_FIELDS)
        return "path" if any(pa.types.is_string(path) for path in paths) else None
    if pa.types.is_binary(inner):
        return "bytes"
    return "path" if pa.types.is_string(inner) else None


def _picture_kind(shards: Iterable[ShardColumns], path: Path) -> Literal["bytes", "path"] | None:
    seen: dict[Literal["bytes", "path"], str] = {}
    for shard in shards:
        found = find_path(shard.columns, ".".join(path))
        kind = None if found is None else _kind_of_picture(found[1])
        if kind == "bytes" and ".".join([*path, "bytes"]) in shard.empty:
            kind = "path"
        if kind is not None:
            seen.setdefault(kind, shard.uri)
    if len(seen) == 2:
        raise CatalogueError(
            f"the pictures in '{'.'.join(path)}' are bytes in {seen['bytes']} and paths in {seen['path']}: "
            "give catalogues of either kind"
        )
    return next(iter(seen), None)


def _text_path(columns: _Columns, name: str, sources: Mapping[str, Path], types: Mapping[str, pa.DataType]) -> Path:
    found = (sources[name], types[name]) if name in sources else columns.find(name)
    if found is None:
        raise columns.missing(f"--text {name}", name)
    if kept_type(found[1]) is None and not pa.types.is_binary(plain_type(found[1])):
        raise CatalogueError(f"--text {name}: {_unfit(name, found[1])}")
    return found[0]


def _keep(
    columns: _Columns, sources: Mapping[str, Path], types: Mapping[str, pa.DataType], picture: str | None,
    options: CatalogueOptions,
) -> tuple[pa.Schema, tuple[Path | None, ...]]:  # fmt: skip
    named = {path: name for name, path in reversed(list(sources.items()))}
    wanted: dict[str, tuple[Path, pa.DataType]] = {
        name: (sources[name], types[name]) for name in ("title", "price", "currency") if name in sources
    }
    for name in options.keep or ():
        found = (sources[name], types[name]) if name in sources else columns.find(name)
        if found is None:
            raise columns.missing(f"--keep {name}", name)
        if kept_type(found[1]) is None:
            raise CatalogueError(f"--keep {name}: {_unfit(name, found[1])}")
        if found[0] != sources[PRODUCT_ID]:
            wanted.setdefault(named.get(found[0], name), found)
    if options.keep is None:
        for one in columns.fields:
            wanted.setdefault(named.get((one.name,), one.name + "_" * (one.name in sources)), ((one.name,), one.type))
        wanted.update((name, (path, types[name])) for name, path in sources.items() if name not in {*wanted, REVIEWS})
        if picture == "bytes":
            wanted.pop("picture", None)
        wanted.pop(PRODUCT_ID, None)
    fields: list[pa.Field] = []
    paths: list[Path | None] = []
    for name, (path, kind) in wanted.items():
        keep = pa.float64() if name == "price" else pa.string() if name in ("title", "currency") else kept_type(kind)
        if keep is not None:
            while name in RESERVED or any(name == one.name for one in fields):
                name += "_"
            fields.append(pa.field(name, keep))
            paths.append(path)
            if name == "price" and "currency" not in wanted and pa.types.is_string(plain_type(kind)):
                fields.append(pa.field("currency", pa.string()))
                paths.append(None)
    return pa.schema(fields), tuple(paths)
