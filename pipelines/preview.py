"""Preview of views: what the operations make of a product's pictures and text, before a catalogue is encoded.

    catalogue-index preview-views --catalogue 'shop/*.parquet' --views 8 --output views.png

The catalogue is read up to the product that is shown and no further.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines import pictures, storage
from pipelines.catalogue import CatalogueError, CatalogueSchema, Shard, pieces, read_piece
from pipelines.config import Config
from pipelines.features import content_hash
from pipelines.job import open_catalogue
from pipelines.views import index_views, text_maker
from transforms.decode import PictureError, decode_picture
from transforms.text import clean_text, join_texts
from transforms.views import PictureOperations, PictureViews

_COLUMNS, _GAP, _LABEL = 8, 6, 18


@dataclass(frozen=True)
class Preview:
    """The views of one product.

    Attributes:
        product_id: whose they are.
        pictures: uint8[P, V, side, side, 3], V views of each of its P pictures that can be decoded.
        texts: views of its text; none where it has no text.
    """

    product_id: str
    pictures: np.ndarray
    texts: list[str]


def preview(config: Config, product_id: str | None, views: int, side: int) -> Preview:
    """Make the views of a product, by default of the first that has a picture or, where none has, a text.

    Raises:
        CatalogueError: there is no such product.
    """
    settings = index_views(config.replace(picture_views=views, text_views=views))
    shards, schema = open_catalogue(config)
    found, text, decoded = _find(config, shards, schema, product_id, side)
    maker = PictureViews(side, PictureOperations.of(settings["picture"].operations), config.seed)
    numbers = list(range(views))
    made = [maker.make(np.stack([pixels] * views), [key] * views, numbers) for key, pixels in decoded]
    shown = np.stack(made) if made else np.zeros((0, views, side, side, 3), np.uint8)
    return Preview(found, shown, text_maker(settings["text"])(text) if text else [])


def _find(
    config: Config, shards: Sequence[Shard], schema: CatalogueSchema, product_id: str | None, side: int
) -> tuple[str, str, list[tuple[bytes, np.ndarray]]]:
    """Return id, text and decoded pictures of the product asked for, or of the first worth looking at."""
    first_text: tuple[str, str] | None = None
    for shard in shards:
        for piece in pieces(shard):
            for batch in read_piece(piece, schema, batch_rows=64):
                for row, found in enumerate(batch["product_id"].to_pylist()):
                    if found is None or product_id not in (None, found):
                        continue
                    text = join_texts([clean_text(part) for part in batch["text"][row].as_py() or ()])
                    decoded = list(_decoded(config, shard, batch, row, side))
                    if decoded or product_id is not None:
                        return found, text, decoded
                    first_text = first_text or ((found, text) if text else None)
    if product_id is not None:
        raise CatalogueError(f"the catalogue has no product '{product_id}'")
    if first_text is None:
        raise CatalogueError("no product of the catalogue has a picture that can be decoded, or a text")
    return *first_text, []


def _decoded(config: Config, shard: Shard, batch: pa.RecordBatch, row: int, side: int) -> Iterator[tuple[bytes, np.ndarray]]:
    roots = config.allow_root or pictures.catalogue_roots([shard.uri])
    contents: list[bytes] = list(batch["picture_bytes"][row].as_py() or ())
    contents += pictures.read_named(batch["picture_paths"][row].as_py() or (), shard.uri, roots)
    for data in contents:
        try:
            yield content_hash(data), decode_picture(data, side, config.max_pixels)
        except PictureError:
            continue


def write_contact_sheet(path: str, shown: Preview) -> None:
    """Write the pictures as a PNG: a picture's views side by side, eight a row, each under its number."""
    from PIL import Image, ImageDraw, ImageFont

    count, views, side = shown.pictures.shape[:3]
    columns = min(views, _COLUMNS)
    rows = math.ceil(views / columns)
    sheet = Image.new("RGB", (columns * (side + _GAP) + _GAP, count * rows * (side + _GAP + _LABEL) + _GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for number in range(count):
        for view in range(views):
            across = _GAP + view % columns * (side + _GAP)
            down = (number * rows + view // columns) * (side + _GAP + _LABEL) + _GAP
            label = "the picture itself" if view == 0 else f"view {view}"
            pen.text((across, down), label, fill="black", font=font)
            sheet.paste(Image.fromarray(shown.pictures[number, view]), (across, down + _LABEL))
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    storage.write_whole(path, stream.getvalue())
