"""BUILD: Annoy files, items and manifest of a version, on real vectors files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from annoy import AnnoyIndex
from made_index import SHARED, build, ids_in_order, made_columns, made_vectors, write_fused

from catalogue_lookup import open_index
from catalogue_lookup.manifest import METRICS, Manifest, read_manifest
from encoders.integrity import describe_file, verify_files
from pipelines.layout import Index
from pipelines.measure import closeness
from pipelines.storage import StorageError
from pipelines.vectors import Slice, plan_shards

PRODUCTS = 1_500


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """Build a version of two modalities and two Annoy files."""
    root = tmp_path_factory.mktemp("built")
    fused = write_fused(Index(str(root)), "v1", *made_vectors(PRODUCTS))
    manifest = build(root, fused=fused, max_items_per_shard=800, rejected={"duplicate": 2}, rows_in=PRODUCTS + 2)
    return root / "versions" / "v1", manifest


def test_shards_cut_the_rows_of_all_files_into_nearly_equal_parts() -> None:
    fused = [{"file": "a", "rows": 5}, {"file": None, "rows": 0}, {"file": "b", "rows": 6}]
    plans = plan_shards(fused, 4)
    assert [(plan.number, plan.first, plan.rows) for plan in plans] == [(0, 0, 3), (1, 3, 4), (2, 7, 4)]
    assert [plan.slices for plan in plans] == [
        (Slice("a", 0, 3),), (Slice("a", 3, 5), Slice("b", 0, 2)), (Slice("b", 2, 6),),
    ]  # fmt: skip
    assert plan_shards([], 4) == []
    assert [plan.rows for plan in plan_shards(fused, 11)] == [11]


def test_the_manifest_describes_every_file_by_its_content(built: tuple[Path, Manifest]) -> None:
    folder, manifest = built
    assert read_manifest((folder / "manifest.json").read_bytes(), "manifest.json") == manifest
    assert (manifest.items, manifest.rows, manifest.rejected) == (PRODUCTS, PRODUCTS + 2, {"duplicate": 2})
    assert (manifest.sequence, manifest.previous, manifest.n_trees) == (1, None, 10)
    assert manifest.columns == ("title", "price", "colour", "tags")
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files - {"manifest.json"} == set(manifest.files)
    verify_files(folder, manifest.files, "always")
    for name, entry in manifest.files.items():
        if not name.startswith("vectors/"):
            assert entry.sha256.startswith(Path(name).stem[-12:])


def test_items_hold_ids_in_order_and_the_kept_columns_without_vectors(built: tuple[Path, Manifest]) -> None:
    folder, manifest = built
    with pa.memory_map(str(folder / manifest.items_file.file)) as source:
        table = pa.ipc.open_file(source).read_all()
        assert table.column_names == ["order", "product_id", "title", "price", "colour", "tags"]
        assert table["product_id"].to_pylist() == ids_in_order(PRODUCTS)
        expected = made_columns(PRODUCTS)
        assert table["price"].to_pylist() == expected["price"]
        assert table["colour"].to_pylist() == expected["colour"].to_pylist()


def test_a_stock_annoy_reader_finds_the_vectors_under_dense_ids(built: tuple[Path, Manifest]) -> None:
    folder, manifest = built
    vectors = made_vectors(PRODUCTS)[0]
    assert [(shard.first_item, shard.items) for shard in manifest.annoy] == [(0, 750), (750, 750)]
    for shard in manifest.annoy:
        reader = AnnoyIndex(manifest.dimension, manifest.metric)
        reader.load(str(folder / shard.file))
        assert (reader.get_n_items(), reader.get_n_trees()) == (750, 10)
        assert np.array_equal(np.array(reader.get_item_vector(7), np.float32), vectors[shard.first_item + 7])


def test_recall_is_measured_for_products_and_for_queries_of_each_modality(built: tuple[Path, Manifest]) -> None:
    measured = built[1].measured
    assert set(measured.by_query) == {"product", "picture", "text"}
    assert measured.recall == min(measured.by_query.values())
    assert measured.queries == 200
    assert 0 < measured.p50_ms <= measured.p95_ms


@pytest.mark.parametrize("metric", METRICS)
def test_the_recall_told_is_what_a_search_reaches_against_exact_search(tmp_path: Path, metric: Any) -> None:
    vectors = made_vectors(2_000, seed=3)[0] * np.linspace(0.5, 1.5, 2_000, dtype=np.float32)[:, None]
    manifest = build(tmp_path, vectors=vectors, metric=metric, max_items_per_shard=1_200, trees=5)
    assert manifest.recall is not None
    assert manifest.recall >= 0.95
    ids, rows = ids_in_order(len(vectors)), np.arange(3, 2_000, 20)
    exact = closeness(metric, vectors[rows], vectors)
    exact[np.arange(len(rows)), rows] = -np.inf
    found = 0
    with open_index(tmp_path / "versions" / "v1") as index:
        for row, scores in zip(rows, exact, strict=True):
            best = {ids[n] for n in np.argsort(-scores)[:10]}
            found += len(best & {hit.product_id for hit in index.search(product_id=ids[row], k=10)})
    assert found / (10 * len(rows)) == pytest.approx(manifest.recall, abs=0.03)


def test_closeness_puts_the_nearer_vector_first_whatever_the_metric() -> None:
    query, vectors = np.array([[1, 0]], np.float32), np.array([[2, 0.1], [0, 1]], np.float32)
    for metric in METRICS:
        (scores,) = closeness(metric, query, vectors)
        assert scores[0] > scores[1]
    assert closeness("euclidean", query, vectors)[0].tolist() == pytest.approx([-np.sqrt(1.01), -np.sqrt(2)])
    assert closeness("manhattan", query, vectors)[0].tolist() == pytest.approx([-1.1, -2])
    assert closeness("dot", query, vectors)[0].tolist() == [2, 0]


def test_the_same_input_gives_the_same_files(tmp_path: Path) -> None:
    vectors = made_vectors(400)[0]
    first = build(tmp_path / "one", vectors=vectors)
    second = build(tmp_path / "two", vectors=vectors)
    assert first.files == second.files
    assert (first.search_k, first.recall) == (second.search_k, second.recall)
    assert build(tmp_path / "three", vectors=vectors, seed=1).annoy != first.annoy


def test_a_killed_build_goes_on_and_keeps_its_sequence(tmp_path: Path) -> None:
    fused = write_fused(Index(str(tmp_path)), "v1", made_vectors(300)[0])
    first = build(tmp_path, fused=fused, max_items_per_shard=100)
    folder = tmp_path / "versions" / "v1"
    kept = {shard.file: (folder / shard.file).stat().st_ino for shard in first.annoy}
    (tmp_path / "runs" / "v1" / "build" / "00001.json").unlink()
    second = build(tmp_path, fused=fused, max_items_per_shard=100)
    assert (second.files, second.sequence, second.search_k) == (first.files, 1, first.search_k)
    again = {name: (folder / name).stat().st_ino for name in kept}
    assert [again[name] == kept[name] for name in kept] == [True, False, True]


def test_other_settings_do_not_take_what_was_built_with_the_former(tmp_path: Path) -> None:
    fused = write_fused(Index(str(tmp_path)), "v1", made_vectors(300)[0])
    first, second = build(tmp_path, fused=fused), build(tmp_path, fused=fused, trees=3)
    assert first.annoy != second.annoy


@pytest.mark.parametrize(("value", "what"), [(np.nan, "not finite"), (0, "zero")])
def test_a_vector_that_annoy_would_take_wrongly_is_refused(tmp_path: Path, value: float, what: str) -> None:
    vectors = made_vectors(100)[0]
    vectors[63] = value
    fused = write_fused(Index(str(tmp_path)), "v1", vectors)
    with pytest.raises(StorageError, match=rf"vector in row 13 of .*vectors/00001-abc\.parquet is {what}: delete"):
        build(tmp_path, fused=fused)
    assert not (tmp_path / "versions" / "v1" / "manifest.json").exists()


def test_a_truncated_vectors_file_is_refused_by_name(tmp_path: Path) -> None:
    fused = write_fused(Index(str(tmp_path)), "v1", made_vectors(100)[0])
    path = tmp_path / "versions" / "v1" / fused[1]["file"]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(StorageError, match=r"cannot read .*vectors/00001-abc\.parquet: .*; run FUSE again"):
        build(tmp_path, fused=fused)


def test_a_catalogue_without_products_gives_an_empty_version(tmp_path: Path) -> None:
    manifest = build(tmp_path, fused=[{"partition": 0, "file": None, "rows": 0}], rejected={"bad": 4}, rows_in=4)
    assert (manifest.items, manifest.annoy, manifest.recall) == (0, (), None)
    with open_index(tmp_path / "versions" / "v1") as index:
        assert len(index) == 0
        assert index.search(vector=np.ones(2 * SHARED), k=3) == []


def test_a_single_product_is_built_and_found(tmp_path: Path) -> None:
    manifest = build(tmp_path, vectors=made_vectors(1)[0])
    assert (manifest.items, manifest.recall) == (1, None)
    with open_index(tmp_path / "versions" / "v1") as index:
        assert [hit.product_id for hit in index.search(vector=made_vectors(1)[0][0])] == ["P0"]


def test_equal_vectors_do_not_spoil_the_recall(tmp_path: Path) -> None:
    manifest = build(tmp_path, vectors=np.repeat(made_vectors(20)[0], 30, axis=0))
    assert manifest.recall is not None
    assert manifest.recall > 0.95


def test_rejects_are_copied_and_listed(tmp_path: Path) -> None:
    source = tmp_path / "ingest-00000.parquet"
    pq.write_table(pa.table({"reason": ["bad"]}), source)
    manifest = build(tmp_path, rejects=[str(source)])
    (name,) = (name for name in manifest.files if name.startswith("rejects/"))
    assert name == f"rejects/ingest-00000-{describe_file(source).sha256[:12]}.parquet"
    assert (tmp_path / "versions" / "v1" / name).read_bytes() == source.read_bytes()


def test_other_engines_read_the_vectors(built: tuple[Path, Manifest]) -> None:
    import duckdb

    folder, manifest = built
    paths = [folder / name for name in manifest.vectors]
    fused, single, pictured = made_vectors(PRODUCTS)
    half = single["picture"].astype(np.float16).astype(np.float64)
    picture = [row.tolist() if there else None for row, there in zip(half, pictured, strict=True)]
    assert None in picture
    rows = duckdb.execute(
        f'SELECT vector::FLOAT[], picture_vector::DOUBLE[] FROM read_parquet({[str(p) for p in paths]!r}) ORDER BY "order"'
    ).fetchall()
    assert np.array_equal(np.array([row[0] for row in rows], np.float32), fused)
    assert [row[1] for row in rows] == picture
    read = polars.concat([polars.read_parquet(path) for path in paths])
    assert np.array_equal(read["vector"].to_numpy(), fused)
    assert read["picture_vector"].to_list() == picture
    frame = pandas.concat([pandas.read_parquet(path) for path in paths])
    assert np.array_equal(np.stack(list(frame["vector"])), fused)
    assert [None if row is None else row.tolist() for row in frame["picture_vector"]] == picture
