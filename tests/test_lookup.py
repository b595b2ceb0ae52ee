"""Searching an index: answers compared with exact search, and what is refused when it is opened."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow.fs
import pytest
from conftest import jpeg
from version_maker import DIMENSION, FUSION, Products, bundle_in, draw_products, exact_order, make_version, near

from catalogue_lookup import Index, QueryError, UnknownProductError, open_index
from catalogue_lookup.items import order_of
from catalogue_lookup.manifest import Metric, read_manifest
from catalogue_lookup.place import Place
from encoders.bundle import BundleError, open_bundle
from encoders.integrity import CLOCK_TICK_NS, IntegrityError
from pipelines import layout
from pipelines.publish import publish_version

ROOT = Path(__file__).parent.parent
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
        ({}, "nothing to look for: give a text, a picture or both"),
        ({"text": "shoe", "product_id": "P1"}, "text or image and product_id are given: give one of them"),
        ({"product_id": "P1", "vector": [1.0]}, "product_id and vector are given: give one of them"),
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


# What is refused when an index is opened.


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a small index of two Annoy files."""
    root = tmp_path_factory.mktemp("small")
    make_version(root, "v1", draw_products(60), max_items_per_shard=40)
    publish_version(layout.Index(str(root)), "v1", None)
    return root


@pytest.fixture
def fresh(small: Path, tmp_path: Path) -> Path:
    """Return a copy of the small index that a test may damage."""
    return Path(shutil.copytree(small, tmp_path / "index"))


FILES = {
    "annoy": "annoy/00001-*.ann", "items": "items-*.arrow", "vectors": "vectors/00000-*.parquet", "manifest": "manifest.json",
}  # fmt: skip


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("kind", ["truncated", "altered", "missing"])
def test_a_damaged_file_is_refused_by_name(fresh: Path, file: str, kind: str) -> None:
    (path,) = (fresh / "versions" / "v1").glob(FILES[file])
    open_index(fresh).close()
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "altered":
        flip(path)
    else:
        path.unlink()
    with pytest.raises(IntegrityError) as caught:
        open_index(fresh)
    assert str(path) in str(caught.value)
    assert kind in str(caught.value)


@pytest.mark.parametrize("file", FILES)
def test_a_file_of_another_version_is_refused_by_name(fresh: Path, file: str) -> None:
    make_version(fresh, "v2", draw_products(60, seed=9), max_items_per_shard=40, sequence=2)
    (own,) = (fresh / "versions" / "v1").glob(FILES[file])
    (other,) = (fresh / "versions" / "v2").glob(FILES[file])
    own.write_bytes(other.read_bytes())
    with pytest.raises(IntegrityError) as caught:
        open_index(fresh)
    assert str(own) in str(caught.value)


def test_two_annoy_files_of_a_version_that_changed_places_are_refused(tmp_path: Path) -> None:
    make_version(tmp_path, "v1", draw_products(80), max_items_per_shard=40)
    first, second = sorted((tmp_path / "versions" / "v1" / "annoy").iterdir())
    assert first.stat().st_size == second.stat().st_size
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    with pytest.raises(IntegrityError, match=f"{first} is altered"):
        open_index(tmp_path, version="v1")


def test_a_newer_manifest_is_refused_by_name(fresh: Path) -> None:
    path = fresh / "versions" / "v1" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(IntegrityError, match=f"{path} has format 2, but this catalogue-index reads 1: install a newer one"):
        open_index(fresh)


def test_what_is_no_manifest_is_refused_by_name(fresh: Path) -> None:
    path = fresh / "versions" / "v1" / "manifest.json"
    path.write_text("[]")
    with pytest.raises(IntegrityError, match=f"{path} is no manifest of an index"):
        open_index(fresh)


def test_verify_always_finds_what_a_remembered_verdict_hides(
    fresh: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("CATALOGUE_INDEX_CACHE", str(cache))
    time.sleep(CLOCK_TICK_NS / 1e9)
    open_index(fresh).close()
    (path,) = (fresh / "versions" / "v1").glob(FILES["items"])
    flip(path)
    # As on a disk that does not tell of a change: the verdict is that of the altered copy.
    (file,) = (cache / "verified").glob("*.json")
    verdicts, stat = json.loads(file.read_bytes()), path.stat()
    sha256 = verdicts[path.name].rsplit("-", 1)[1]
    verdicts[path.name] = f"{stat.st_size}-{stat.st_mtime_ns}-{stat.st_ctime_ns}-{stat.st_ino}-{sha256}"
    file.write_text(json.dumps(verdicts))
    open_index(fresh).close()
    with pytest.raises(IntegrityError, match=f"{path} is altered"):
        open_index(fresh, verify="always")


def test_a_folder_without_an_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=f"{tmp_path} holds neither CURRENT nor manifest.json: give the folder of an index"):
        open_index(tmp_path)


def test_a_version_that_is_not_there_is_refused(fresh: Path) -> None:
    with pytest.raises(IntegrityError, match="there is no version v7; see 'catalogue-index versions'"):
        open_index(fresh, version="v7")
    with pytest.raises(IntegrityError, match=r"'\.\./v1' is no version of"):
        open_index(fresh, version="../v1")
    (fresh / "CURRENT").write_text("v8\n")
    with pytest.raises(IntegrityError, match="there is no version v8"):
        open_index(fresh)
    (fresh / "CURRENT").write_text("")
    with pytest.raises(IntegrityError, match="'' is no version of"):
        open_index(fresh)


def test_a_version_under_the_name_of_another_is_refused(fresh: Path) -> None:
    (fresh / "versions" / "v1").rename(fresh / "versions" / "v3")
    with pytest.raises(IntegrityError, match=r"v3/manifest\.json is the manifest of version v1: copy the version again"):
        open_index(fresh, version="v3")


def test_the_folder_of_a_version_is_opened(fresh: Path) -> None:
    make_version(fresh, "v2", draw_products(20), sequence=2)
    for opened in (
        open_index(fresh / "versions" / "v2"),
        open_index(fresh, version="v2"),
        open_index(f"file://{fresh}/versions/v2"),
    ):
        with opened:
            assert (opened.manifest.id, len(opened)) == ("v2", 20)
    with pytest.raises(IntegrityError, match="is version v2, not v1: give the root of the index"):
        open_index(fresh / "versions" / "v2", version="v1")


# Bundles and queries.


def test_another_bundle_than_that_of_the_index_is_refused_by_name(fresh: Path) -> None:
    other = bundle_in(fresh / "elsewhere", seed=5)
    own = read_manifest((fresh / "versions" / "v1" / "manifest.json").read_bytes(), "").bundle
    message = f"{other.folder} is bundle {other.hash[:12]}, but version v1 was made with bundle {own[:12]}: search with that one"
    for given in (other, other.folder, str(other.folder)):
        with pytest.raises(BundleError, match=message):
            open_index(fresh, bundle=given)
    open_index(fresh, bundle=fresh / "bundles" / own).close()


def test_another_bundle_in_the_place_of_the_own_one_is_refused(fresh: Path) -> None:
    own = next((fresh / "bundles").iterdir())
    own.rename(fresh / "moved")
    bundle_in(fresh, seed=5).folder.rename(own)
    with open_index(fresh) as index, pytest.raises(BundleError, match=f"but version v1 was made with bundle {own.name[:12]}"):
        index.search(text="shoe")


def test_an_index_without_its_bundle_answers_all_but_texts_and_pictures(fresh: Path) -> None:
    own = next((fresh / "bundles").iterdir())
    own.rename(fresh / "moved")
    with open_index(fresh) as index:
        assert index.search(vector=np.ones(DIMENSION))
        with pytest.raises(
            BundleError, match=f"holds no bundle.json: give the bundle {own.name[:12]} that the index was made with"
        ):
            index.search(text="shoe")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    """Make an index of pictures, encoded by a bundle of small towers that run."""
    from catalogue_lookup.query import QueryEncoder

    root = tmp_path_factory.mktemp("real")
    bundle = open_bundle(tiny_bundle)
    (root / "bundles").mkdir()
    (root / "bundles" / bundle.hash).symlink_to(tiny_bundle)
    products = draw_products(30)
    encoder = QueryEncoder(bundle)
    pictures = np.stack([encoder._decode(picture(int(row["product_id"][1:]))) for row in products.rows])
    fused = bundle.fusion.fuse({"picture": encoder.vectors("picture", pictures)}, {})
    own = {modality: np.zeros((30, 8), np.float32) for modality in ("picture", "text")}
    nothing = {modality: np.zeros(30, np.bool_) for modality in own}
    make_version(root, "v1", Products(products.rows, fused, own, nothing), bundle=bundle)
    publish_version(layout.Index(str(root)), "v1", None)
    return root


def picture(number: int) -> bytes:
    return jpeg((number * 8 % 256, number * 5 % 256, 255 - number * 8 % 256), number)


def test_a_picture_finds_its_product_however_it_is_given(real: Path, tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "shoe.jpg"
    path.write_bytes(picture(12))
    with open_index(real) as index:
        hits = index.search(image=picture(12))
        assert hits[0].product_id == "P00012"
        assert index.search(image=path) == index.search(image=str(path)) == hits
        with Image.open(path) as opened:
            assert index.search(image=opened)[0].product_id == "P00012"
        for bad, message in ((b"no picture", "the picture cannot be searched with: the 10 bytes are no picture"),
                             (tmp_path / "none.jpg", f"cannot read the picture {tmp_path}/none.jpg: No such file")):  # fmt: skip
            with pytest.raises(QueryError, match=message):
                index.search(image=bad)


def test_a_text_and_a_picture_together_are_the_mean_of_both(real: Path) -> None:
    with open_index(real) as index:
        texts = {hit.product_id: hit.score for hit in index.search(text="thing <b>7</b>", k=30)}
        pictures = {hit.product_id: hit.score for hit in index.search(image=picture(7), k=30)}
        both = {hit.product_id: hit.score for hit in index.search(text="thing 7", image=picture(7), k=30)}
        # The scores of the mean are the mean of the scores but for a factor.
        factors = [both[name] / (texts[name] + pictures[name]) for name in both]
        assert factors == pytest.approx([factors[0]] * 30, rel=1e-3)


def test_a_query_by_picture_imports_neither_tensorflow_nor_beam_nor_pandas(real: Path, tmp_path: Path) -> None:
    path = tmp_path / "shoe.jpg"
    path.write_bytes(picture(12))
    script = f"""
import sys
from catalogue_lookup import open_index
with open_index({str(real)!r}) as index:
    print(index.search(image={str(path)!r}, where="stock < 3 and colour in ('red', 'blue') or tags = 't0'", k=1)[0].product_id)
print([name for name in ("apache_beam", "keras", "pandas", "tensorflow") if name in sys.modules])
"""
    answer = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.stdout.split("\n")[:2] == ["P00012", "[]"], answer.stderr


def test_a_query_of_one_modality_ranks_by_its_similarity_with_each_of_the_products(index: Index, products: Products) -> None:
    """The vector of a text-only query is the weighted sum of its similarities, as `encoders.fusion` says."""
    text = products.modalities["text"][40:41]
    query = FUSION.query({"text": text}, {})[0]
    whole = products.present["picture"]
    expected = 0.5 * (products.modalities["picture"][whole] + products.modalities["text"][whole]) @ text[0]
    scores = {hit.product_id: hit.score for hit in index.search(vector=query, k=COUNT)}
    found = [scores[name] for name, there in zip(products.ids, whole, strict=True) if there]
    assert np.allclose(found, expected, atol=1e-5)


# Object stores.


def test_files_of_another_filesystem_are_copied_once_and_only_those_used(
    fresh: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("CATALOGUE_INDEX_CACHE", str(cache))
    remote = Place("store://shop", str(fresh), pyarrow.fs.LocalFileSystem())
    with open_index(remote) as index, open_index(fresh) as local:
        assert index.search(vector=np.ones(DIMENSION)) == local.search(vector=np.ones(DIMENSION))
    copies = sorted(path for path in (cache / "copies").rglob("*") if path.is_file())
    assert [path.suffix for path in copies] == [".ann", ".ann", ".arrow"]
    before = [path.stat().st_ino for path in copies]
    (fresh / "versions" / "v1" / "annoy").rename(fresh / "gone")
    with open_index(remote) as index:
        assert len(index) == 60
        opened = index._opened.encoder().bundle
        assert opened.folder.is_relative_to(cache / "copies")
    assert [path.stat().st_ino for path in copies] == before
    copies[0].unlink()
    with pytest.raises(IntegrityError, match=r"store://shop/versions/v1/annoy/00000-\w+.ann is missing"):
        open_index(remote)


def test_a_version_of_another_filesystem_is_opened_by_its_folder(fresh: Path) -> None:
    remote = Place("store://shop/versions/v1", str(fresh / "versions" / "v1"), pyarrow.fs.LocalFileSystem())
    with open_index(remote) as index:
        assert index.manifest.id == "v1"
        assert index._opened.encoder().bundle.hash == index.manifest.bundle
