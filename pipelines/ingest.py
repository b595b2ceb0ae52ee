"""INGEST: read catalogue shards, validate rows, key every product's picture and text.

    catalogue-index ingest --catalogue 'shop/*.parquet' --index DIR

One element is a piece of a shard. It leaves files of rows sorted by the one order in runs/<id>/ingest/, and its
rejects; a piece whose counts are there is not read again.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from encoders.bundle import REVIEWS
from pipelines import ranges, storage
from pipelines.catalogue import CatalogueSchema, Piece, Shard, pieces, read_piece
from pipelines.features import content_hash
from pipelines.layout import KEY_BYTES, ORDER, PRODUCT_ID, REJECT_SCHEMA, Run, order_of, read_json, write_json
from transforms.prices import parse_price
from transforms.reviews import Review, choose_reviews
from transforms.text import clean_text, join_texts

CHUNK_BYTES = 64 << 20
CHUNK_ROWS = 131_072
MAX_ID_BYTES = 4_096
COLUMNS, NO_COLUMN = "columns", "no column"
MOST_CURRENCIES = 50  # of a shard; who has more names something else in that column

_log = logging.getLogger(__name__)


def row_schema(kept: pa.Schema) -> pa.Schema:
    """Return the columns of ingested rows: ids, where the row is, its text, pictures and reviews, what is kept of it."""
    return pa.schema(
        [
            (ORDER, pa.uint64()),
            (PRODUCT_ID, pa.string()),
            ("shard", pa.int32()),
            ("row", pa.int64()),
            ("row_group", pa.int32()),
            ("text", pa.string()),
            # Content hashes of the pictures inside the shard, in order; null where the row has none.
            ("pictures", pa.list_(pa.binary(KEY_BYTES))),
            ("paths", pa.list_(pa.string())),
            # The reviews that count, cleaned; null where the row has none.
            (REVIEWS, pa.list_(pa.struct([("text", pa.string()), ("weight", pa.int32())]))),
            # Parquet has no structs without fields.
            (COLUMNS, pa.struct(list(kept) or [pa.field(NO_COLUMN, pa.bool_())])),
        ]
    )


@dataclass
class Rejects:
    """What was rejected of one element's rows, and how often for which reason."""

    stage: str
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, product_id: str | None, shard: str, row: int, name: str | None, reason: str, detail: str) -> None:
        """Reject a field of a row, or with `name` None the whole row."""
        self.rows.append(
            {"product_id": product_id, "shard": shard, "row": row, "stage": self.stage, "field": name,
             "reason": reason, "detail": detail[:1000]}
        )  # fmt: skip

    def counts(self) -> dict[str, dict[str, int]]:
        """Return reasons with their counts, of whole products and of single fields."""
        products = Counter(row["reason"] for row in self.rows if row["field"] is None)
        fields = Counter(row["reason"] for row in self.rows if row["field"] is not None)
        return {"products": dict(products), "fields": dict(fields)}

    def write(self, path: str) -> None:
        """Write the rows, if there are any, whole."""
        if self.rows:
            ranges.write_table(path, pa.Table.from_pylist(self.rows, schema=REJECT_SCHEMA))


def ingest_batch(
    batch: pa.RecordBatch, shard: Shard, schema: CatalogueSchema, strict: bool, rejects: Rejects
) -> pa.Table:
    """Validate a batch of raw rows and return those that stay, unsorted; the rest goes to `rejects`."""
    rows: list[dict[str, Any]] = []
    numbers, groups, ids = (batch.column(name).to_pylist() for name in ("row", "row_group", "product_id"))
    texts, prices, problems = (batch.column(name).to_pylist() for name in ("text", "price", "problems"))
    pictures, paths = batch.column("picture_bytes"), batch.column("picture_paths")
    kept, reviews = batch.column("kept").to_pylist(), batch.column(REVIEWS).to_pylist()
    for i, product_id in enumerate(ids):

        def reject(name: str | None, reason: str, detail: str, i: int = i, product_id: str | None = product_id) -> None:
            rejects.add(product_id, shard.uri, numbers[i], name, reason, detail)

        broken = next((p for p in problems[i] or () if p["field"] is None), None)
        if broken is not None:
            reject(None, broken["reason"], broken["detail"])
            continue
        if product_id is None:
            reject(None, "missing_product_id", "the row has no product id")
            continue
        if len(product_id.encode(errors="replace")) > MAX_ID_BYTES:
            rejects.add(product_id[:100], shard.uri, numbers[i], None, "product_id_too_long",
                        f"the product id has {len(product_id)} characters; it may have {MAX_ID_BYTES} bytes")  # fmt: skip
            continue
        for problem in problems[i] or ():
            reject(problem["field"], problem["reason"], problem["detail"])
        columns = dict(kept[i])
        bad = _validate(columns, prices[i], reject)
        if bad and strict:
            reject(None, "bad_price", f"{bad} (--strict)")
            continue
        text = join_texts([clean_text(part) for part in texts[i] or ()])
        row = {
            ORDER: order_of(product_id), PRODUCT_ID: product_id, "shard": shard.index, "row": numbers[i],
            "row_group": groups[i], "text": text or None, "pictures": _hashes(pictures[i]), "paths": paths[i].as_py(),
            REVIEWS: _chosen(reviews[i], schema.max_reviews), COLUMNS: columns,
        }  # fmt: skip
        if not any(row[name] for name in ("text", "pictures", "paths", REVIEWS)):
            reject(None, "nothing_to_encode", "the row has neither text nor picture")
            continue
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=row_schema(schema.kept))


def _validate(columns: dict[str, Any], price: str | None, reject: Any) -> str | None:
    if isinstance(columns.get("title"), str):
        columns["title"] = clean_text(columns["title"])
    if "price" not in columns:
        return None
    columns["price"] = None
    if price is None:
        return None
    try:
        parsed = parse_price(price)
    except ValueError as error:
        detail = f"the price {error}"
        reject("price", "bad_price", detail)
        return detail
    columns["price"] = parsed.amount
    if "currency" in columns and not columns["currency"]:
        columns["currency"] = parsed.currency
    return None


def _chosen(reviews: Sequence[Mapping[str, Any]] | None, most: int) -> list[dict[str, Any]] | None:
    chosen = choose_reviews((Review(**review) for review in reviews or ()), most)
    return [review._asdict() for review in chosen] or None


def _hashes(pictures: pa.Scalar) -> list[bytes] | None:
    if not pictures.is_valid:
        return None
    found = [content_hash(memoryview(picture.as_buffer())) for picture in pictures.values if picture.is_valid]
    return found or None


@dataclass(frozen=True)
class IngestSettings:
    """What the rows of a piece depend on besides the piece."""

    run: Run
    schema: CatalogueSchema
    strict: bool
    shards: int


def ingest_piece(piece: Piece, settings: IngestSettings, limit: int | None = None) -> dict[str, Any]:
    """Read one piece, or its first `limit` rows; write its sorted chunks and rejects, and return its counts."""
    name = f"{piece.shard.index:05d}-{piece.index:05d}"
    done = settings.run.done("ingest", name)
    if storage.exists(done):
        return read_json(done)
    rejects, chunks, rows = Rejects("ingest"), 0, 0
    currencies: Counter[str] = Counter()
    for chunk, read in _chunks(piece, settings, rejects, limit):
        rows += read
        currencies.update(_currencies(chunk))
        if chunk.num_rows:
            ordered = chunk.sort_by([(ORDER, "ascending"), (PRODUCT_ID, "ascending"), ("row", "ascending")])
            ranges.write_table(settings.run.file("ingest", f"{name}-{chunks:04d}.parquet"), ordered)
            chunks += 1
    rejects.write(settings.run.rejects("ingest", name))
    counts: dict[str, Any] = {"shard": piece.shard.index, "rows": rows, "chunks": chunks, "rejected": rejects.counts(),
              "currencies": dict(currencies.most_common(MOST_CURRENCIES))}  # fmt: skip
    write_json(done, counts)
    _log.info(
        "ingest: shard %d of %d, %s%s: %d rows, %d rejected", piece.shard.index + 1, settings.shards,
        piece.shard.uri.rsplit("/", 1)[-1], f", piece {piece.index + 1}" if piece.index else "", rows,
        sum(counts["rejected"]["products"].values()),
    )  # fmt: skip
    return counts


def _currencies(chunk: pa.Table) -> dict[str, int]:
    """Count products with a price by its currency."""
    kept = chunk[COLUMNS].combine_chunks()
    if min(kept.type.get_field_index(name) for name in ("price", "currency")) < 0:
        return {}
    named = pc.filter(kept.field("currency"), pc.is_valid(kept.field("price"))).drop_null()
    return {found["values"]: found["counts"] for found in pc.value_counts(named).to_pylist()}


def ingest_first(shards: Iterable[Shard], settings: IngestSettings, limit: int) -> None:
    """Read the first `limit` rows of a catalogue, shard after shard."""
    left = limit
    for shard in shards:
        for piece in pieces(shard):
            if left > 0:
                left -= ingest_piece(piece, settings, left)["rows"]


def _chunks(
    piece: Piece, settings: IngestSettings, rejects: Rejects, limit: int | None
) -> Iterator[tuple[pa.Table, int]]:
    held: list[pa.Table] = []
    size = read = total = 0
    for batch in read_piece(piece, settings.schema):
        if limit is not None:
            batch = batch.slice(0, limit - total)
        total += batch.num_rows
        table = ingest_batch(batch, piece.shard, settings.schema, settings.strict, rejects)
        held.append(table)
        size += table.nbytes
        read += batch.num_rows
        if size >= CHUNK_BYTES or sum(t.num_rows for t in held) >= CHUNK_ROWS:
            yield pa.concat_tables(held), read
            held, size, read = [], 0, 0
        if total == limit:
            break
    if held:
        yield pa.concat_tables(held), read


@dataclass
class Ingest(beam.PTransform):
    """Shards -> counts of each of their pieces; rows and rejects go to the run's folder."""

    settings: IngestSettings

    def expand(self, shards: beam.PCollection[Shard]) -> beam.PCollection[dict[str, Any]]:
        """Wire the transform."""
        return (
            shards
            | "CutShards" >> beam.FlatMap(pieces)
            | "SpreadPieces" >> beam.Reshuffle()
            | "IngestPiece" >> beam.Map(ingest_piece, self.settings)
        )
