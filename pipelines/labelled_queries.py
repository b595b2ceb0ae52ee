"""Labelled queries: what shoppers ask, and which products are right, as a file says it.

A CSV, TSV, JSON lines or Parquet file, each but Parquet also gzipped, with the columns

    product_id     a product that is right
    text, image    what is asked: words, or the path of a picture relative to the file, or both
    relevance      how right it is, a whole number (default: 1; 0: not at all)
    query_id       what rows belong to one query (default: those of the same text and image)

and a row for each product; columns of other names are mapped. The file is read whole: it may have 256 MB and a million rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from pipelines import pictures, storage

MOST_BYTES, MOST_ROWS = 256 << 20, 1_000_000
COLUMNS = ("query_id", "text", "image", "product_id", "relevance")
_FORMATS = ("csv", "tsv", "jsonl", "parquet")
_REMEDY = "map another name by --column NAME=COLUMN, of a run by --evaluation-column NAME=COLUMN"


class LabelledQueriesError(ValueError):
    """A file of labelled queries cannot be used; the message names the file and, where there is one, the row."""


@dataclass(frozen=True)
class Query:
    """One query and its judgements.

    Attributes:
        id: its name in the file, or a number.
        text: words asked for, None for none.
        image: path or URI of a picture, None for none.
        relevance: by product id, above 0.
    """

    id: str
    text: str | None
    image: str | None
    relevance: Mapping[str, int]

    @property
    def kind(self) -> str:
        """Say what it consists of: text, picture, or both."""
        return "both" if self.text is not None and self.image is not None else "text" if self.image is None else "picture"


@dataclass(frozen=True)
class LabelledQueries:
    """The queries of a file."""

    path: str
    queries: tuple[Query, ...]

    def digest(self) -> str:
        """Return a hash of what is asked and what is right, pictures by their content: the same for the same queries.

        Raises:
            LabelledQueriesError: a picture cannot be read.
        """
        told = [
            [query.id, query.text, None if query.image is None else hashlib.sha256(read_image(query)).hexdigest(),
             sorted(query.relevance.items())]
            for query in self.queries
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(sorted(told, key=lambda one: one[0])).encode()).hexdigest()


def read_labelled_queries(path: str, columns: Mapping[str, str] | None = None) -> LabelledQueries:
    """Read a file of labelled queries, in the order of its rows.

    Args:
        path: of the file.
        columns: name -> the column of the file that is meant, where it has another name.

    Raises:
        LabelledQueriesError: there is no such file, it is too large, no table, or lacks a column; or a row says nothing, or
            what another one contradicts.
    """
    try:
        data = storage.read_bytes(path)
    except FileNotFoundError:
        raise LabelledQueriesError(f"there is no file of queries {path}") from None
    if len(data) > MOST_BYTES:
        raise LabelledQueriesError(f"{path} has {len(data):,} bytes; a file of queries may have {MOST_BYTES:,}")
    sources = {name: name for name in COLUMNS}
    sources.update(_checked(columns or {}))
    table = _table(path, data, sources.values())
    if table.num_rows > MOST_ROWS:
        raise LabelledQueriesError(f"{path} has {table.num_rows:,} rows; a file of queries may have {MOST_ROWS:,}")
    shown = ", ".join(table.column_names) or "none"
    for name in columns or {}:
        if sources[name] not in table.column_names:
            raise LabelledQueriesError(f"{path} has no column '{sources[name]}', which {name} is mapped to (columns: {shown})")
    known = [name for name in COLUMNS if sources[name] in table.column_names]
    if "product_id" not in known:
        raise LabelledQueriesError(f"{path} has no column 'product_id' (columns: {shown}): {_REMEDY}")
    if not {"text", "image"} & set(known):
        raise LabelledQueriesError(f"{path} has neither a column 'text' nor 'image' (columns: {shown}): {_REMEDY}")
    queries = _group(path, table.select([sources[name] for name in known]).rename_columns(known).to_pylist())
    if not queries:
        raise LabelledQueriesError(f"{path} has no query: none of its {table.num_rows:,} rows says that a product is right")
    return LabelledQueries(path, queries)


def read_image(query: Query) -> bytes:
    """Read the picture of a query that has one; raises LabelledQueriesError where that fails."""
    assert query.image is not None
    try:
        return pictures.read(query.image)
    except pictures.PathError as error:
        raise LabelledQueriesError(f"the picture of query '{query.id}' cannot be read: {error}") from error


def _checked(columns: Mapping[str, str]) -> Mapping[str, str]:
    for name in columns:
        if name not in COLUMNS:
            raise LabelledQueriesError(f"labelled queries have no '{name}' to map; they have {', '.join(COLUMNS)}")
    return columns


def _table(path: str, data: bytes, texts: Iterable[str]) -> pa.Table:
    name = PurePosixPath(path.rsplit("/", 1)[-1].lower())
    gzipped = name.suffix == ".gz"
    suffix = (name.with_suffix("") if gzipped else name).suffix.removeprefix(".").replace("ndjson", "jsonl")
    if suffix not in _FORMATS or (gzipped and suffix == "parquet"):
        raise LabelledQueriesError(f"{path} is no {', '.join(_FORMATS)} by its name: what kind of table is it?")
    buffer = pa.BufferReader(data)
    try:
        if suffix == "parquet":
            return pq.read_table(buffer)
        source = pa.CompressedInputStream(buffer, "gzip") if gzipped else buffer
        if suffix == "jsonl":
            return pyarrow.json.read_json(source)
        # Ids and texts stay as they are written: 007 is no 7, and a product may be called nan.
        types = {name: pa.string() for name in texts}
        convert = pyarrow.csv.ConvertOptions(column_types=types, strings_can_be_null=True, null_values=[""])
        parse = pyarrow.csv.ParseOptions(delimiter="\t" if suffix == "tsv" else ",", newlines_in_values=True)
        return pyarrow.csv.read_csv(source, parse_options=parse, convert_options=convert)
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        raise LabelledQueriesError(f"{path} cannot be read as {suffix}: {' '.join(str(error).split())}") from error


def _group(path: str, rows: list[dict[str, Any]]) -> tuple[Query, ...]:
    asked: dict[str, tuple[str | None, str | None]] = {}
    names: dict[tuple[str | None, str | None], str] = {}
    relevance: dict[str, dict[str, int]] = {}
    for number, row in enumerate(rows, 1):
        where = f"row {number} of {path}"
        content = (_text(row.get("text")), _text(row.get("image")))
        product_id, name = _text(row["product_id"]), _text(row.get("query_id"))
        if content == (None, None):
            raise LabelledQueriesError(f"{where} asks for nothing: it has neither text nor image")
        if product_id is None:
            raise LabelledQueriesError(f"{where} has no product_id")
        if name is None:
            name = names.setdefault(content, f"#{len(names) + 1}")
        if asked.setdefault(name, content) != content:
            raise LabelledQueriesError(f"{where} asks for something else than the rows before it of query '{name}'")
        grade, judged = _grade(row.get("relevance"), where), relevance.setdefault(name, {})
        if judged.setdefault(product_id, grade) != grade:
            raise LabelledQueriesError(
                f"{where} says relevance {grade} of product '{product_id}', a row before it {judged[product_id]}"
            )
    folder = path.rsplit("/", 1)[0] if "/" in path else "."
    found = []
    for name, (text, image) in asked.items():
        right = {product_id: grade for product_id, grade in relevance[name].items() if grade > 0}
        if right:
            found.append(Query(name, text, None if image is None else _beside(folder, image), right))
    return tuple(found)


def _beside(folder: str, image: str) -> str:
    return image if image.startswith("/") or "://" in image else storage.join(folder, image)


def _text(value: Any) -> str | None:
    return None if value is None or not str(value).strip() else str(value).strip()


def _grade(value: Any, where: str) -> int:
    if value is None:
        return 1
    try:
        number = float(value)
        if number != int(number) or not 0 <= number < 1_000:
            raise ValueError
    except (ValueError, TypeError, OverflowError):
        raise LabelledQueriesError(f"{where} has the relevance {value!r}; it is a whole number from 0 to 999") from None
    return int(number)
