"""Review columns of catalogue batches: texts, or objects that say how many found a review helpful, several a product.

A cell is a list of either, or a text: a list in JSON, or else reviews with "|" between them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from typing import Any

import pyarrow as pa

from pipelines.column_types import is_list, plain_type
from pipelines.columns import CellProblems, Column, as_text, plain
from transforms.reviews import Review

REVIEWS_TYPE = pa.list_(pa.struct([("title", pa.string()), ("text", pa.string()), ("votes", pa.int64())]))
# Fields of an object that is a review, in lower case without "_", "-" and spaces; the first that is there counts.
TEXT_FIELDS = ("text", "reviewtext", "body", "reviewbody", "content", "comment", "review")
TITLE_FIELDS = ("title", "reviewtitle", "summary", "headline")
VOTE_FIELDS = ("helpful", "helpfulvotes", "helpfulvote", "helpfulcount", "helpfulness", "votes", "upvotes")
SEPARATOR = "|"
MOST_VOTES = 2**62


def is_review_column(kind: pa.DataType) -> bool:
    """Tell whether a column of this type may hold reviews: texts, or lists of texts or of objects that have one."""
    kind = plain_type(kind)
    inner = kind.value_type if is_list(kind) else kind
    if pa.types.is_struct(inner):
        return is_list(kind) and _field([field.name for field in inner], TEXT_FIELDS) is not None
    return pa.types.is_string(inner) or pa.types.is_null(inner)


def review_lists(column: Column) -> tuple[pa.Array, CellProblems]:
    """Return the reviews of each row as REVIEWS_TYPE[N], null where there is none, and the cells that are no reviews."""
    found: list[list[Review] | None] = []
    problems: CellProblems = {}
    for row, cell in enumerate(column if isinstance(column, list) else plain(column).to_pylist()):
        try:
            found.append([review for item in _items(cell) if (review := _review(item)) is not None] or None)
        except ValueError as error:
            problems[row] = str(error)
            found.append(None)
    rows = [None if reviews is None else [review._asdict() for review in reviews] for reviews in found]
    return pa.array(rows, REVIEWS_TYPE), problems


def _items(cell: Any) -> list[Any]:
    if isinstance(cell, str):
        if cell.lstrip().startswith(('["', "[{")):
            try:
                return list(json.loads(cell))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"the reviews begin as a list in JSON and are none: {error}") from None
        return cell.split(SEPARATOR)
    return cell if isinstance(cell, list) else [] if cell is None else [cell]


def _review(item: Any) -> Review | None:
    if not isinstance(item, dict):
        text = as_text(item)
        return None if text is None else Review("", text)
    title, text = (as_text(_value(item, fields)) or "" for fields in (TITLE_FIELDS, TEXT_FIELDS))
    return Review(title, text, _votes(_value(item, VOTE_FIELDS))) if title or text else None


def _field(names: Iterable[str], wanted: Collection[str]) -> str | None:
    folded = {"".join(char for char in name.lower() if char not in "_- "): name for name in names}
    return next((folded[name] for name in wanted if name in folded), None)


def _value(item: dict[str, Any], wanted: Collection[str]) -> Any:
    name = _field(item, wanted)
    return None if name is None else item[name]


def _votes(value: Any) -> int:
    """Read how many found a review helpful, of "[2, 3]" the first; what is no number is no vote."""
    try:
        return min(max(int(value[0] if isinstance(value, list) and value else value), 0), MOST_VOTES)
    except (TypeError, ValueError, OverflowError):
        return 0
