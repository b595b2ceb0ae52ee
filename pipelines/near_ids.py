"""Ids of a version that are like one that it lacks: another case, spaces, signs, zeros before numbers, a slip of the key."""

from __future__ import annotations

import difflib

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import storage
from pipelines.layout import PRODUCT_ID

MOST = 5
# difflib takes about 0.05 ms an id.
MOST_COMPARED = 10_000


def near_ids(product_id: str, items: str) -> list[str]:
    """Return up to five ids that are like one, those that differ by case, space, signs and zeros before numbers only first.

    All ids are compared in that way; letter by letter up to 10,000 of those that begin or end as it does, or hold it.

    Args:
        product_id: the id that is not there.
        items: the version's file of ids and columns.
    """
    asked = _plain(pa.array([product_id]))[0].as_py()
    half = max(len(asked) // 2, 1)
    same: list[str] = []
    alike: list[str] = []
    with storage.open_input(items) as source:
        file = pa.ipc.open_file(source)
        for number in range(file.num_record_batches):
            ids = file.get_batch(number).column(PRODUCT_ID)
            plain = _plain(ids)
            if len(same) < MOST:
                same += ids.filter(pc.equal(plain, asked)).to_pylist()
            if asked and len(alike) < MOST_COMPARED:
                begins, ends = pc.starts_with(plain, asked[:half]), pc.ends_with(plain, asked[-half:])
                near = pc.or_(pc.or_(begins, ends), pc.match_substring(plain, asked))
                alike += ids.filter(near).to_pylist()
    close = difflib.get_close_matches(product_id, alike[:MOST_COMPARED], n=MOST)
    return list(dict.fromkeys([*same, *close]))[:MOST]


def _plain(ids: pa.Array) -> pa.Array:
    """Return ids in lower case, without what is neither letter nor digit, and their numbers without zeros in front."""
    spaced = pc.replace_substring_regex(pc.utf8_lower(ids), pattern=r"[^\p{L}\p{N}]+", replacement=" ")
    numbers = pc.replace_substring_regex(spaced, pattern=r"(^|[^\p{N}])0+(\p{N})", replacement=r"\1\2")
    return pc.replace_substring(numbers, pattern=" ", replacement="")
