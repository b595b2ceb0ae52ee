"""Building versions: Annoy files and items that are what the vectors are, the same bytes each time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from annoy import AnnoyIndex
from version_maker import COLUMNS, DIMENSION, FUSION, Products, draw_products, make_version, vectors_table, write_vectors

import pipelines.items
from catalogue_lookup import open_index
from catalogue_lookup.items import Items
from catalogue_lookup.manifest import Manifest, Metric
from pipelines import storage
from pipelines.items import BuildError, write_items
from pipelines.layout import Index
from pipelines.parts import Part, cut_parts
from pipelines.publish import list_versions
from pipelines.recall import VectorsFile, exact_neighbours, make_queries, vector_blocks


def hashes(manifest: Manifest) -> dict[str, str]:
    return {name: entry.sha256 for name, entry in manifest.files.items()}


@pytest.mark.parametrize("metric", get_args(Metric))
def test_the_same_vectors_give_the_same_bytes(tmp_path: Path, metric: Metric) -> None:
    products = draw_products(400)
    first = make_version(tmp_path / "a", "v1", products, metric=metric, max_items_per_shard=150)
    second = make_version(tmp_path / "b", "v1", products, metric=metric, max_items_per_shard=150)
    assert hashes(first) == hashes(second)
    assert replace(first, created="", measured=second.measured) == replace(second, created="")
    assert first.measured.by_query == second.measured.by_query
    third = make_version(tmp_path / "c", "v1", products, metric=metric, max_items_per_shard=150, seed=1)
    assert third.annoy[0].file != first.annoy[0].file
    assert third.items_file == first.items_file


def test_annoy_files_hold_the_vectors_with_dense_ids(tmp_path: Path) -> None:
    products = draw_products(100)
    manifest = make_version(tmp_path, "v1", products, max_items_per_shard=40)
    assert [(shard.first_item, shard.items) for shard in manifest.annoy] == [(0, 40), (40, 40), (80, 20)]
    for shard in manifest.annoy:
        annoy = AnnoyIndex(DIMENSION, "angular")
        annoy.load(str(tmp_path / "versions" / "v1" / shard.file))
        assert annoy.get_n_items() == shard.items
        stored = np.array([annoy.get_item_vector(item) for item in range(shard.items)], np.float32)
        assert np.array_equal(stored, products.fused[shard.first_item : shard.first_item + shard.items])


def test_the_items_file_holds_ids_and_columns_in_whole_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipelines.items, "ITEMS_BATCH_ROWS", 32)
    products = draw_products(100)
    files = [VectorsFile(str(tmp_path / file["file"]), file["rows"]) for file in write_vectors(tmp_path, products)]
    assert write_items(files, ["picture", "text"], tmp_path / "items.arrow") == 100
    file = pa.ipc.open_file(tmp_path / "items.arrow")
    assert [file.get_batch(number).num_rows for number in range(file.num_record_batches)] == [32, 32, 32, 4]
    assert file.schema.names == ["product_id", "order", *COLUMNS.names]
    assert file.read_all().drop(["order"]).to_pylist() == products.rows
    items = Items(tmp_path / "items.arrow", 32, 100)
    assert [items.find(name) for name in products.ids] == list(range(100))
    assert [items.row(item) for item in range(100)] == products.rows
    assert items.matching("stock = 2").tolist() == [row["stock"] == 2 for row in products.rows]


@pytest.mark.parametrize(("items", "most", "expected"), [(0, 5, []), (5, 5, [5]), (6, 5, [5, 1]), (11, 5, [5, 5, 1])])
def test_items_are_cut_into_files_of_at_most_so_many(items: int, most: int, expected: list[int]) -> None:
    *shards, all_items = cut_parts(items, most)
    assert [shard.items for shard in shards] == expected
    assert all_items == Part(None, 0, items)


def test_blocks_of_vectors_cover_any_range_of_items(tmp_path: Path) -> None:
    products = draw_products(300)
    told = write_vectors(tmp_path, products)
    files = [VectorsFile(str(tmp_path / file["file"]), file["rows"]) for file in told]
    for first, stop in ((0, 300), (0, 1), (99, 101), (64, 128), (150, 299), (299, 300), (10, 10)):
        blocks = list(vector_blocks(files, first, stop))
        joined = np.concatenate([np.zeros((0, DIMENSION), np.float32), *(block for _, block in blocks)])
        assert np.array_equal(joined, products.fused[first:stop])
        assert [start for start, _ in blocks] == np.cumsum([first, *(len(block) for _, block in blocks)])[:-1].tolist()


@pytest.mark.parametrize("metric", get_args(Metric))
def test_exact_neighbours_are_those_of_a_plain_comparison(tmp_path: Path, metric: Metric) -> None:
    products = draw_products(300)
    files = [VectorsFile(str(tmp_path / file["file"]), file["rows"]) for file in write_vectors(tmp_path, products)]
    vectors = products.fused.astype(np.float64)
    for queries in make_queries(files, ["picture", "text"], FUSION, seed=1):
        assert len(queries.items) == (200 if queries.kind != "picture" else products.present["picture"][queries.items].sum())
        found = exact_neighbours(files, queries, metric)
        for query, own, neighbours in zip(queries.vectors[:20], queries.items[:20], found[:20], strict=True):
            difference = vectors - query
            closeness = {
                "angular": vectors @ query / np.linalg.norm(vectors, axis=1),
                "dot": vectors @ query,
                "euclidean": -np.linalg.norm(difference, axis=1),
                "manhattan": -np.abs(difference).sum(axis=1),
            }[metric]
            closeness[own] = -np.inf
            assert set(neighbours) == set(np.argsort(-closeness)[:10])


def test_queries_of_a_modality_are_what_that_modality_alone_would_be(tmp_path: Path) -> None:
    products = draw_products(30)
    files = [VectorsFile(str(tmp_path / file["file"]), file["rows"]) for file in write_vectors(tmp_path, products)]
    product, picture, text = make_queries(files, ["picture", "text"], FUSION, seed=1)
    assert product.items.tolist() == text.items.tolist() == list(range(30))
    assert picture.items.tolist() == np.flatnonzero(products.present["picture"]).tolist()
    assert np.array_equal(product.vectors, products.fused)
    expected = FUSION.query({"text": products.modalities["text"].astype(np.float16).astype(np.float32)}, {})
    assert np.allclose(text.vectors, expected, atol=1e-6)


def test_the_recall_measured_is_that_of_searches(tmp_path: Path) -> None:
    """Few trees of products far apart, so that not all is found."""
    rng = np.random.default_rng(3)
    drawn = draw_products(1500)
    fused = rng.standard_normal((1500, DIMENSION)).astype(np.float32)
    products = replace(drawn, fused=fused / np.linalg.norm(fused, axis=1, keepdims=True))
    manifest = make_version(tmp_path, "v1", products, trees=2)
    assert manifest.search_k > 20
    measured = manifest.measured
    assert set(measured.by_query) == {"product", "picture", "text"}
    assert measured.recall == min(measured.by_query.values()) >= 0.95
    assert measured.queries == 200
    assert 0 < measured.p50_ms <= measured.p95_ms
    sampled = np.sort(np.random.default_rng(0).choice(1500, 200, replace=False))
    found = 0
    with open_index(tmp_path, version="v1") as index:
        for row in sampled:
            exact = np.argsort(-(products.fused @ products.fused[row]), kind="stable")
            closest = {products.ids[other] for other in exact[:11]} - {products.ids[row]}
            found += len({hit.product_id for hit in index.search(product_id=products.ids[row])} & closest)
    assert found / 2000 == pytest.approx(measured.by_query["product"], abs=1e-3)


def test_what_makes_a_version_is_in_its_manifest(tmp_path: Path) -> None:
    rejects = tmp_path / "plan-00.parquet"
    pq.write_table(pa.table({"reason": ["bad"]}), rejects)
    told: dict[str, Any] = {"rows_in": 23, "rejected": {"b": 1, "a": 2}, "rejects": [str(rejects)], "previous": "v0"}
    manifest = make_version(tmp_path, "v1", draw_products(20), sequence=7, **told)
    folder = tmp_path / "versions" / "v1"
    content = json.loads((folder / "manifest.json").read_text())
    assert content["format"] == 1
    assert (content["id"], content["sequence"], content["previous"]) == ("v1", 7, "v0")
    assert (content["rows"], content["items"], content["rejected"]) == (23, 20, {"a": 2, "b": 1})
    assert content["fusion"] == FUSION.to_json()
    assert (content["metric"], content["dimension"], content["n_trees"]) == ("angular", DIMENSION, 10)
    assert content["modalities"] == ["picture", "text"]
    on_disk = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert on_disk == {"manifest.json", *content["files"]}
    (kept,) = (folder / "rejects").iterdir()
    assert kept.name.startswith("plan-00-")
    assert kept.read_bytes() == rejects.read_bytes()
    assert manifest.bundle == next((tmp_path / "bundles").iterdir()).name


def test_no_products_are_a_version_too(tmp_path: Path) -> None:
    manifest = make_version(tmp_path, "v1", draw_products(0), files=[{"partition": 0, "rows": 0, "file": None}])
    assert (manifest.items, manifest.annoy, manifest.vectors, manifest.recall) == (0, (), (), None)
    assert [version.items for version in list_versions(str(tmp_path))] == [0]


def test_partitions_without_products_are_passed_over(tmp_path: Path) -> None:
    products = draw_products(2)
    manifest = make_version(tmp_path, "v1", products)
    assert (manifest.items, len(manifest.vectors)) == (2, 2)


# Attempts that stop half way, and vectors that cannot be indexed.


def test_building_again_after_any_step_gives_the_same_version(tmp_path: Path) -> None:
    products = draw_products(100)
    never = hashes(make_version(tmp_path / "never", "v1", products, max_items_per_shard=40))
    root = tmp_path / "index"
    manifest = make_version(root, "v1", products, max_items_per_shard=40)
    assert hashes(manifest) == never
    assert make_version(root, "v1", products, max_items_per_shard=40) == manifest
    for lost in ("annoy-00001", "items"):
        # As left by a kill before the marker of one step: its file may be there, half of another beside it.
        (root / "versions" / "v1" / "manifest.json").unlink()
        (root / "runs" / "v1" / "build" / f"{lost}.json").unlink()
        (root / "versions" / "v1" / "annoy" / ".00001-abc.ann.x.tmp").write_bytes(b"half")
        assert hashes(make_version(root, "v1", products, max_items_per_shard=40)) == never


def test_what_is_built_is_not_built_again(tmp_path: Path) -> None:
    products = draw_products(100)
    make_version(tmp_path, "v1", products, max_items_per_shard=40)
    folder = tmp_path / "versions" / "v1"
    before = {path: path.stat().st_ino for path in folder.rglob("*.a*")}
    (folder / "manifest.json").unlink()
    make_version(tmp_path, "v1", products, max_items_per_shard=40)
    assert {path: path.stat().st_ino for path in folder.rglob("*.a*")} == before
    assert len(before) == 4


def test_a_manifest_written_before_a_kill_tells_what_is_current_now(tmp_path: Path) -> None:
    products = draw_products(20)
    first = make_version(tmp_path, "v1", products, previous=None, sequence=1)
    again = make_version(tmp_path, "v1", products, previous="v0", sequence=4)
    assert (again.previous, again.sequence) == ("v0", 4)
    assert hashes(again) == hashes(first)
    with open_index(tmp_path, version="v1") as index:
        assert index.manifest == again


def test_a_build_that_fails_leaves_no_version(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no-rejects\.parquet"):
        make_version(tmp_path, "v1", draw_products(20), rejects=[str(tmp_path / "no-rejects.parquet")])
    assert list_versions(str(tmp_path)) == []


Change = Callable[[pa.Table], pa.Table]


def build_changed(root: Path, change: Change, **more: Any) -> None:
    """Build a version whose second file of vectors is changed."""
    products = draw_products(90)
    folder = Path(Index(str(root)).version("v1"))
    told = write_vectors(folder, products)
    pq.write_table(change(pq.read_table(folder / told[1]["file"])), folder / told[1]["file"])
    make_version(root, "v1", products, files=told, **more)


def with_vector(row: int, value: float) -> Change:
    def change(table: pa.Table) -> pa.Table:
        vectors = np.array(table["vector"].to_pylist(), np.float32)
        vectors[row] = value
        changed = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIMENSION)
        return table.set_column(table.schema.get_field_index("vector"), "vector", changed)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_vector(7, 0.0), r"the vector in row 7 of \S+/vectors/00001-\w+\.parquet is zero: nothing can be close to it"),
        (with_vector(0, np.nan), r"the vector in row 0 of \S+/00001-\w+\.parquet has values that are not finite"),
        (with_vector(29, np.inf), r"the vector in row 29 of \S+/00001-\w+\.parquet has values that are not finite"),
        (
            lambda table: table.take([*range(5), 6, 5, *range(7, 30)]),
            r"row 6 of \S+/00001-\w+\.parquet is not after the row before by order and product_id: fuse it again",
        ),
        (
            lambda table: table.take([0, 0, *range(2, 30)]),
            r"row 1 of \S+/00001-\w+\.parquet is not after the row before by order and product_id",
        ),
        (
            lambda table: table.slice(0, 29),
            r"00001-\w+\.parquet has 29 rows instead of 30|89 vectors are in the files instead of 90",
        ),
        (lambda table: table.drop(["price"]), r"00001-\w+\.parquet has other columns than the file before"),
    ],
)
def test_vectors_that_cannot_be_indexed_are_refused_by_name(tmp_path: Path, change: Change, message: str) -> None:
    with pytest.raises(Exception, match=message) as caught:
        build_changed(tmp_path, change)
    assert isinstance(caught.value, BuildError) or "BuildError" in str(caught.value)
    assert list_versions(str(tmp_path)) == []


def test_files_out_of_order_are_refused(tmp_path: Path) -> None:
    products = draw_products(90)
    told = write_vectors(Path(Index(str(tmp_path)).version("v1")), products)
    with pytest.raises(Exception, match=r"row 0 of \S+/00000-\w+\.parquet is not after the row before"):
        make_version(tmp_path, "v1", products, files=[told[1], told[0], told[2]])


def test_vectors_of_another_dimension_than_the_bundle_are_refused(tmp_path: Path) -> None:
    products = draw_products(20)
    short = Products(products.rows, products.fused[:, :8].copy(), products.modalities, products.present)
    with pytest.raises(Exception, match="vectors have dimension 8, the bundle's have 32: fuse them again"):
        make_version(tmp_path, "v1", short)


def test_a_column_with_a_dot_or_of_a_foreign_modality_is_kept(tmp_path: Path) -> None:
    products = draw_products(20)
    table = vectors_table(products, 0, 20)
    for name in ("a", "a.b", "sound_vector"):
        table = table.append_column(name, pa.array([f"{name} {row}" for row in range(20)]))
    folder = tmp_path / "versions" / "v1" / "vectors"
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "00000.parquet")
    data = (folder / "00000.parquet").read_bytes()
    told = [{"file": "vectors/00000.parquet", "rows": 20, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}]
    manifest = make_version(tmp_path, "v1", products, files=told)
    assert manifest.columns[-3:] == ("a", "a.b", "sound_vector")
    with open_index(tmp_path, version="v1") as index:
        hit = index.search(vector=products.fused[4], k=1, where="a.b = 'a.b 4' and sound_vector is not null")[0]
        assert (hit.columns["a"], hit.columns["a.b"], hit.columns["sound_vector"]) == ("a 4", "a.b 4", "sound_vector 4")


def test_storage_is_where_all_files_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the one function that puts a file, and the one that writes it whole, nothing comes to be."""
    written: list[str] = []
    put, whole = storage.put_file, storage.write_whole

    def noting_put(source: Path, path: str) -> None:
        written.append(path)
        put(source, path)

    def noting_whole(path: str, data: bytes) -> None:
        written.append(path)
        whole(path, data)

    monkeypatch.setattr(storage, "put_file", noting_put)
    monkeypatch.setattr(storage, "write_whole", noting_whole)
    products = draw_products(20)
    told = write_vectors(Path(Index(str(tmp_path)).version("v1")), products)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    make_version(tmp_path, "v1", products, files=told)
    new = {str(path) for path in tmp_path.rglob("*") if path.is_file()} - {str(path) for path in before}
    assert {path for path in new if "/bundles/" not in path} == set(written)
