"""Searching an index by text, picture, both, a product, or a vector.

    from catalogue_lookup import open_index

    with open_index("shop-index") as index:
        for hit in index.search(text="red sneakers", k=10, where="price < 50"):
            print(hit.rank, hit.product_id, hit.score, hit.columns["title"])

Asks for annoy, numpy and pyarrow; queries by text and picture also for `pip install 'catalogue-index[query]'`.
"""

from __future__ import annotations

from catalogue_lookup.composition import Minus
from catalogue_lookup.index import Hit, Index, QueryError, UnknownProductError, WithdrawnProductError, open_index

__all__ = ["Hit", "Index", "Minus", "QueryError", "UnknownProductError", "WithdrawnProductError", "open_index"]
