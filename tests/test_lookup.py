"""Searching an index: answers compared with exact search, filters, and queries that are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from version_maker import DIMENSION, FUSION, Products, draw_products, exact_order, make_version, near

from catalogue_lookup import Index, QueryError, UnknownProductError, open_index
from catalogue_lookup.items import order_of
from catalogue_lookup.manifest import Metric
from pipelines import layout
from pipelines.publish import publish_version

COUNT = 3000


@pytest.fixture(scope="module")
def products() -> Products:
    return draw_products(COUNT)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, products: Products) -> Path:
    """Make an index with one version of three Annoy files; no test changes it."""
    root = tmp_path_factory.mktemp("index")
    make_version(root, "v1", products, max_items_per_shard=1200)
    publish_version(layout.Index(str(root)), "v1", None)
    return root


@pytest.fixture(scope="module")
def index(root: Path) -> Iterator[Index]:
    with open_index(root) as opened:
        yield opened


@pytest.mark.parametrize("metric", get_args(Metric))
def test_answers_are_those_of_exact_search_in_every_metric(tmp_path: Path, metric: Metric) -> None:
    products = draw_products(800)
    make_version(tmp_path, "v1", products, metric=metric, max_items_per_shard=300)
    with open_index(tmp_path, version="v1") as index:
        found = 0
        for query in near(products, 20):
            closest, scores = exact_order(products, query, metric)
            hits = index.search(vector=query, k=10)
            found += len({hit.product_id for hit in hits} & set(closest[:10]))
            for hit in hits:
                assert hit.score == pytest.approx(scores[products.ids.index(hit.product_id)], abs=1e-5)
            assert [hit.rank for hit in hits] == list(range(1, 11))
            # Looking at everything finds exactly the closest.
            assert [hit.product_id for hit in index.search(vector=query, k=10, search_k=10**6)] == closest[:10]
        assert found >= 0.95 * 200


def test_most_of_the_closest_are_found_among_thousands(index: Index, products: Products) -> None:
    found = 0
    for query in products.fused[::100]:
        closest, _ = exact_order(products, query)
        found += len({hit.product_id for hit in index.search(vector=query)} & set(closest[:10]))
    assert found >= 0.95 * 10 * len(products.fused[::100])


def test_more_answers_than_ten_keep_their_recall(index: Index, products: Products) -> None:
    query = products.fused[17]
    closest, _ = exact_order(products, query)
    hits = index.search(vector=query, k=200)
    assert len(hits) == 200
    assert len({hit.product_id for hit in hits} & set(closest[:200])) >= 190


def test_a_hit_has_the_columns_of_its_product(index: Index, products: Products) -> None:
    for row in (0, 1199, 1200, COUNT - 1):
        hit = index.search(vector=products.fused[row], k=1)[0]
        assert {"product_id": hit.product_id, **hit.columns} == products.rows[row]
        assert hit.score == pytest.approx(1, abs=1e-6)


def test_products_like_one_leave_the_product_itself_out(index: Index, products: Products) -> None:
    for row in (0, 1250, COUNT - 1):
        closest, _ = exact_order(products, products.fused[row])
        hits = index.search(product_id=products.ids[row], k=5, search_k=10**6)
        assert [hit.product_id for hit in hits] == closest[1:6]
        assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5]


def test_every_product_is_found_by_its_id(index: Index, products: Products) -> None:
    assert [index._opened._items.find(product_id) for product_id in products.ids] == list(range(COUNT))


@pytest.mark.parametrize("product_id", ["", "P99999", "\udcff", "P00001 "])
def test_an_unknown_product_is_an_error_that_names_it(index: Index, product_id: str) -> None:
    with pytest.raises(UnknownProductError) as caught:
        index.search(product_id=product_id)
    assert str(caught.value) == f"no product of the index has the id '{product_id}'"
    assert isinstance(caught.value, KeyError)


def test_the_lookup_and_the_jobs_agree_on_the_order() -> None:
    for product_id in ("", "P1", "靴", "a" * 1000):
        assert order_of(product_id) == layout.order_of(product_id)


FILTERS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "price < 20": lambda row: row["price"] is not None and row["price"] < 20,
    "stock != 3": lambda row: row["stock"] != 3,
    "colour = 'it''s black' and `sold out` = false": lambda row: row["colour"] == "it's black" and not row["sold out"],
    "tags = 't1' or colour is null": lambda row: "t1" in row["tags"] or row["colour"] is None,
    "product_id = 'P00077'": lambda row: row["product_id"] == "P00077",
}


@pytest.mark.parametrize("where", FILTERS)
def test_filtered_answers_fit_and_are_the_closest_that_do(index: Index, products: Products, where: str) -> None:
    fitting = {row["product_id"] for row in products.rows if FILTERS[where](row)}
    assert fitting
    found = wanted = 0
    for query in near(products, 25):
        closest = [product_id for product_id in exact_order(products, query)[0] if product_id in fitting][:10]
        hits = index.search(vector=query, where=where)
        assert {hit.product_id for hit in hits} <= fitting
        assert len(hits) == len(closest)
        found += len({hit.product_id for hit in hits} & set(closest))
        wanted += len(closest)
    assert found >= 0.97 * wanted


def test_a_filter_that_only_far_products_fit_finds_the_closest_of_them(tmp_path: Path) -> None:
    """Candidates near the query fit none of them: more have to be looked at, and all in the end."""
    products = draw_products(2000)
    query = products.fused[0]
    closest, _ = exact_order(products, query)
    far = set(closest[1000:])
    rows = [row | {"stock": int(row["product_id"] in far)} for row in products.rows]
    make_version(tmp_path, "v1", replace(products, rows=rows))
    with open_index(tmp_path, version="v1") as index:
        assert [hit.product_id for hit in index.search(vector=query, where="stock = 1")] == closest[1000:1010]


def test_products_like_one_may_be_filtered(index: Index, products: Products) -> None:
    row = next(row for row in products.rows if row["stock"] == 2)
    hits = index.search(product_id=row["product_id"], where="stock = 2", k=600)
    expected = {other["product_id"] for other in products.rows if other["stock"] == 2} - {row["product_id"]}
    assert {hit.product_id for hit in hits} == expected


def test_a_filter_that_nothing_fits_has_no_answers(index: Index, products: Products) -> None:
    assert index.search(vector=products.fused[0], where="price < 0") == []


def test_more_answers_than_products_gives_all_products(tmp_path: Path) -> None:
    products = draw_products(7)
    make_version(tmp_path, "v1", products)
    with open_index(tmp_path, version="v1") as index:
        assert len(index) == 7
        closest, _ = exact_order(products, products.fused[3])
        assert [hit.product_id for hit in index.search(vector=products.fused[3], k=50)] == closest
        assert [hit.product_id for hit in index.search(product_id=products.ids[3], k=50)] == closest[1:]


@pytest.mark.parametrize("count", [1, 2])
def test_an_index_of_one_or_two_products_answers(tmp_path: Path, count: int) -> None:
    products = draw_products(count)
    make_version(tmp_path, "v1", products)
    with open_index(tmp_path, version="v1") as index:
        assert index.search(vector=products.fused[0])[0].product_id == products.ids[0]
        assert len(index.search(product_id=products.ids[0])) == count - 1


def test_an_index_of_no_products_opens_and_answers_nothing(tmp_path: Path) -> None:
    make_version(tmp_path, "v1", draw_products(0))
    with open_index(tmp_path, version="v1") as index:
        assert len(index) == 0
        assert index.manifest.recall is None
        assert index.search(vector=np.ones(DIMENSION)) == []
        assert index.search(vector=np.ones(DIMENSION), where="product_id = 'P1'") == []
        with pytest.raises(UnknownProductError):
            index.search(product_id="P1")


def test_equal_products_come_in_the_order_of_the_index(tmp_path: Path) -> None:
    products = draw_products(40)
    same = replace(products, fused=np.repeat(products.fused[:1], 40, axis=0))
    make_version(tmp_path, "v1", same, max_items_per_shard=15)
    with open_index(tmp_path, version="v1") as index:
        assert [hit.product_id for hit in index.search(vector=same.fused[0], k=12)] == products.ids[:12]


def test_without_the_mapped_vectors_scores_are_the_same(root: Path, products: Products) -> None:
    """Should a version of Annoy lay its files out differently, vectors are asked of it one by one."""
    with open_index(root) as first, open_index(root) as second:
        for shard in second._opened._shards:
            assert shard._matrix is not None
            shard._matrix = None
        for where in (None, "price < 50"):
            assert first.search(vector=products.fused[5], where=where) == second.search(vector=products.fused[5], where=where)


def test_several_threads_get_the_answers_of_one(index: Index, products: Products) -> None:
    def ask(row: int) -> list[str]:
        return [hit.product_id for hit in index.search(vector=products.fused[row], where="stock < 4")]

    rows = list(range(0, COUNT, 50))
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(ask, rows)) == [ask(row) for row in rows]


def test_some_shards_are_searched_alone(root: Path, products: Products) -> None:
    closest, _ = exact_order(products, products.fused[2000])
    with open_index(root, shards=[1]) as index:
        assert len(index) == 1200
        inside = [product_id for product_id in closest if product_id in set(products.ids[1200:2400])]
        hits = index.search(vector=products.fused[2000], search_k=10**6)
        assert [hit.product_id for hit in hits] == inside[:10]
        hits = index.search(vector=products.fused[2000], where="stock < 4", k=2000)
        assert {hit.product_id for hit in hits} == {row["product_id"] for row in products.rows[1200:2400] if row["stock"] < 4}
        with pytest.raises(UnknownProductError, match=f"product '{products.ids[0]}' lies in a shard that this index was opened"):
            index.search(product_id=products.ids[0])
    with pytest.raises(QueryError, match=r"shards \[1, 3\] are asked for; version v1 has 3, numbered from 0"):
        open_index(root, shards=[3, 1])


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({}, "nothing to look for: give a text, a picture, both, a product or a vector"),
        ({"text": [], "image": ()}, "nothing to look for: give a text"),
        ({"minus": {"text": "red"}}, "nothing to look for: minus says only what not: give a text"),
        ({"minus": {"colour": "red", "text": "x"}}, "minus holds 'colour'; it may hold text, image, product_id"),
        ({"product_id": "P1", "vector": [1.0]}, "product_id and vector are given: a vector is looked for as it is, alone"),
        ({"vector": [1.0], "minus": {"text": "red"}}, "minus and vector are given: a vector is looked for as it is, alone"),
        ({"vector": [1.0], "weights": {"text": 1}}, "weights and vector are given: a vector is looked for as it is, alone"),
        ({"text": ["red", 7]}, "text and product_id are texts, not 7"),
        ({"image": 7}, "image is of type int: give the bytes or the path of a file, or a PIL picture"),
        ({"product_id": "P00001", "weights": {"smell": 1}}, "weights name 'smell'; version v1 has picture, text"),
        ({"product_id": "P00001", "weights": {"structured": 1}}, "weights name 'structured'; version v1 has picture, text"),
        ({"product_id": "P00001", "weights": {"text": -1}}, "weights: fusion weight -1.0 of 'text' is not a finite number of 0"),
        ({"product_id": "P00001", "weights": {"text": 0}}, "weights: no modality has a fusion weight above 0"),
        ({"product_id": "P00001", "weights": {}}, "weights: no modality has a fusion weight above 0"),
        ({"vector": [1.0, 2.0]}, r"the vector has shape \(2,\); the index takes \(32,\)"),
        ({"vector": np.zeros(DIMENSION)}, "the vector is zero or has values that are not finite"),
        ({"vector": np.full(DIMENSION, np.nan)}, "the vector is zero or has values that are not finite"),
        ({"vector": np.ones(DIMENSION), "k": 0}, "k is 0 and search_k is None; they must be at least 1"),
        ({"text": " <b> "}, "the text is empty once it is cleaned: say what to look for"),
        ({"text": ""}, "the text is empty once it is cleaned"),
    ],
)
def test_a_query_that_makes_no_sense_is_refused(index: Index, query: dict[str, Any], message: str) -> None:
    with pytest.raises(QueryError, match=message):
        index.search(**query)


def test_a_closed_index_says_so(root: Path) -> None:
    index = open_index(root)
    index.close()
    index.close()
    with pytest.raises(QueryError, match="the index is closed: open it again"):
        index.search(vector=np.ones(DIMENSION))


def test_a_query_of_one_modality_ranks_by_its_similarity_with_each_of_the_products(index: Index, products: Products) -> None:
    """The vector of a text-only query is the weighted sum of its similarities, as `encoders.fusion` says."""
    text = products.modalities["text"][40:41]
    query = FUSION.query({"text": text}, {})[0]
    whole = products.present["picture"]
    expected = 0.5 * (products.modalities["picture"][whole] + products.modalities["text"][whole]) @ text[0]
    scores = {hit.product_id: hit.score for hit in index.search(vector=query, k=COUNT)}
    found = [scores[name] for name, there in zip(products.ids, whole, strict=True) if there]
    assert np.allclose(found, expected, atol=1e-5)
