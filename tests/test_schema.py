"""Columns are found by name or alias, their types merged across shards."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from shop_files import (
    Row,
    open_catalogue,
    problems_of,
    read,
    rows_of,
    write_jsonl,
    write_parquet,
)  # fmt: skip

from pipelines.catalogue import (
    CatalogueError,
)  # fmt: skip


def test_ids_are_text_whatever_their_type(tmp_path: Path) -> None:
    columns: Mapping[str, pa.Array] = {
        "a": pa.array([1, 2]),
        "b": pa.array(["1", "0012"]),
        "c": pa.array([12.0, None, float("nan"), 1e20]),
        "d": pa.array(["x", "y", "x"]).dictionary_encode(),
        "e": pa.array([decimal.Decimal("12.00"), decimal.Decimal("7.50")]),
        "f": pa.array([b"raw", b""]),
        "g": pa.array([2**63 + 5], pa.uint64()),
        "h": pa.array([" ", "", None]),
        "i": pa.array([3.0], pa.float32()),
        "j": pa.array(["large"], pa.large_string()),
    }
    for name, ids in columns.items():
        write_parquet(tmp_path / f"{name}.parquet", pa.table({"sku": ids, "name": pa.array(["t"] * len(ids))}))
    (tmp_path / "k.jsonl").write_text('{"sku": 7, "name": "t"}\n{"sku": "7", "name": "t"}\n{"sku": 123456789012345678901}\n')
    (tmp_path / "l.csv").write_text("sku,name\n0007,t\n")
    rows = read(tmp_path)
    found = [[row["product_id"] for row in rows if row["shard"] == shard] for shard in range(12)]
    assert found == [
        ["1", "2"], ["1", "0012"], ["12", None, None, "100000000000000000000"], ["x", "y", "x"], ["12", "7.5"],
        ["raw", None], ["9223372036854775813"], [None, None, None], ["3"], ["large"],
        ["7", "7", "123456789012345678901"], ["0007"],
    ]  # fmt: skip
    assert not problems_of(rows)


def test_columns_of_different_types_are_merged_across_shards(tmp_path: Path) -> None:
    first = pa.table(
        {
            "id": ["1"], "title": ["a"], "size": pa.array([40]), "weight": pa.array([1], pa.int8()), "code": pa.array([5]),
            "empty": pa.nulls(1), "tags": [["x"]], "when": pa.array([datetime.date(2024, 1, 2)]), "only": ["first"],
            "cost": pa.array([decimal.Decimal("9.99")]), "shade": pa.array(["red"]).dictionary_encode(),
        }
    )  # fmt: skip
    second = pa.table(
        {
            "id": ["2"], "title": pa.nulls(1), "size": ["XL"], "weight": pa.array([0.1], pa.float32()), "code": pa.nulls(1),
            "empty": pa.array([True]), "tags": ["y"], "cost": pa.array([3]), "shade": pa.nulls(1),
            "when": pa.array([datetime.datetime(2024, 1, 2, 3, 4, 5)], pa.timestamp("ns")),
        }
    )  # fmt: skip
    write_parquet(tmp_path / "a.parquet", first)
    write_parquet(tmp_path / "b.parquet", second)
    shards, schema = open_catalogue(tmp_path)
    assert {field.name: str(field.type) for field in schema.kept} == {
        "title": "string", "size": "string", "weight": "double", "code": "int64", "empty": "bool",
        "tags": "list<item: string>", "when": "timestamp[us]", "only": "string", "cost": "double", "shade": "string",
    }  # fmt: skip
    rows = rows_of(shards, schema)
    assert [row["kept"] for row in rows] == [
        {
            "title": "a", "size": "40", "weight": 1.0, "code": 5, "empty": None, "tags": ["x"],
            "when": datetime.datetime(2024, 1, 2), "only": "first", "cost": 9.99, "shade": "red",
        },
        {
            "title": None, "size": "XL", "weight": 0.1, "code": None, "empty": True, "tags": ["y"],
            "when": datetime.datetime(2024, 1, 2, 3, 4, 5), "only": None, "cost": 3.0, "shade": None,
        },
    ]  # fmt: skip
    assert not problems_of(rows)


def test_csv_and_json_shards_fit_the_types_of_parquet_ones(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", pa.table({"id": [1], "title": ["a"], "tags": [["x", "y"]], "stock": [1.5]}))
    (tmp_path / "b.csv").write_text("id,title,tags,stock\n2,b,z,7\n")
    (tmp_path / "c.jsonl").write_text('{"id": 3, "title": "c", "tags": ["u", 1], "stock": 2}\n{"id": 4, "stock": null}\n')
    rows = read(tmp_path)
    assert [(row["product_id"], row["kept"]["tags"], row["kept"]["stock"]) for row in rows] == [
        ("1", ["x", "y"], 1.5), ("2", ["z"], 7.0), ("3", ["u", "1"], 2.0), ("4", None, None),
    ]  # fmt: skip


def test_a_later_cell_that_does_not_fit_is_a_bad_value_of_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.catalogue._SAMPLE_BYTES", range(1, 10))
    (tmp_path / "x.csv").write_text("id,title,stock,price\n1,some title,5,1\n2,b,many,free\n3,c,0x10,2\n4,d,,3\n")
    rows = read(tmp_path)
    assert [row["kept"]["stock"] for row in rows] == [5, None, None, None]
    assert [row["price"] for row in rows] == ["1", "free", "2", "3"]
    assert problems_of(rows) == {1: [("stock", "bad_value")], 2: [("stock", "bad_value")]}
    assert rows[1]["problems"][0]["detail"] == "'many' is no int64, as other rows have it"
    (tmp_path / "x.csv").unlink()
    (tmp_path / "x.jsonl").write_text('{"id": 1, "title": "a", "stock": 5}\n{"id": 2, "title": {"en": "b"}, "stock": [1]}\n')
    rows = read(tmp_path)
    assert problems_of(rows) == {1: [("title", "bad_value"), ("stock", "bad_value")]}
    assert rows[1]["product_id"] == "2"
    assert "is an object, not a text" in rows[1]["problems"][0]["detail"]


def test_the_price_is_given_as_text_and_as_number_where_it_is_one(tmp_path: Path) -> None:
    table = pa.table({"id": ["1", "2", "3"], "title": ["a"] * 3, "price": pa.array([19.99, None, float("nan")], pa.float32())})
    write_parquet(tmp_path / "a.parquet", table)
    write_parquet(tmp_path / "b.parquet", [{"id": "4", "title": "a", "price": "EUR 5"}])
    rows = read(tmp_path)
    assert [row["kept"]["price"] for row in rows] == [19.99, None, None, None]
    assert [row["price"] for row in rows][:2] == ["19.99", None]
    assert rows[3]["price"] == "EUR 5"
    assert not problems_of(rows)


def test_columns_are_found_by_common_aliases(tmp_path: Path) -> None:
    row = {
        "SKU": "1", "productDisplayName": "a", "Body HTML": "b", "image_url": "x.jpg", "average_rating": 4.5,
        "rating_number": 3, "vendor": "v", "main_category": "c", "selling_price": 2, "id_of_nothing": 1,
    }  # fmt: skip
    write_jsonl(tmp_path / "x.jsonl", [row])
    _, schema = open_catalogue(tmp_path)
    assert {name: path[0] for name, path in schema.sources.items()} == {
        "product_id": "SKU", "title": "productDisplayName", "description": "Body HTML", "picture": "image_url",
        "rating": "average_rating", "review_count": "rating_number", "brand": "vendor", "category": "main_category",
        "price": "selling_price",
    }  # fmt: skip
    assert schema.kept.names == [
        "title", "price", "description", "picture", "rating", "review_count", "brand", "category", "id_of_nothing",
    ]  # fmt: skip
    assert schema.picture_kind == "path"


def test_columns_are_mapped_and_addressed_by_dots(tmp_path: Path) -> None:
    row = {
        "key": 5, "names": {"en": "shoe", "de": "Schuh"}, "a.b": "dotted", "media": {"main": "x.jpg"},
        "offer": {"net": {"amount": "3.5"}}, "title": "not this",
    }  # fmt: skip
    options: Row = {
        "columns": {
            "product_id": "key", "title": "names.de", "price": "offer.net.amount", "picture": "media.main", "brand": "a.b",
        },
        "text": ("names.en", "title"), "keep": ("names.en", "brand"),
    }  # fmt: skip
    for name, write in (("x.jsonl", write_jsonl), ("x.parquet", write_parquet)):
        write(tmp_path / name, [row])
        (found,) = read(tmp_path / name, **options)
        assert found["product_id"] == "5"
        assert found["text"] == ["shoe", "Schuh"]
        assert found["picture_paths"] == ["x.jpg"]
        assert found["price"] == "3.5"
        assert found["kept"] == {"title": "Schuh", "price": 3.5, "currency": None, "names.en": "shoe", "brand": "dotted"}


def test_entries_of_lists_of_structs_are_addressed_by_their_names(tmp_path: Path) -> None:
    rows: list[Row] = [
        {
            "id": 1, "title": "a",
            "attributes": [{"name": "color", "values": ["red", "blue"]}, {"name": "size", "values": ["S"]}],
            "reviews": [{"text": "good", "stars": 5}, {"text": None, "stars": 4}],
            "views": [{"images": ["1.jpg"]}, {"images": ["2.jpg", "3.jpg"]}],
        },
        {"id": 2, "title": "b", "attributes": [{"name": "size", "values": ["M"]}], "reviews": [], "views": None},
    ]  # fmt: skip
    options: Row = {
        "text": ("title", "attributes.color"), "keep": ("attributes.size", "reviews.text"),
        "columns": {"picture": "views.images"},
    }  # fmt: skip
    for name, write in (("x.jsonl", write_jsonl), ("x.parquet", write_parquet)):
        write(tmp_path / name, rows)
        found = read(tmp_path / name, **options)
        assert [row["text"] for row in found] == [["a", "red", "blue"], ["b"]]
        assert [row["kept"]["attributes.size"] for row in found] == [["S"], ["M"]]
        assert found[0]["kept"]["reviews.text"] == ["good"]
        assert [row["picture_paths"] for row in found] == [["1.jpg", "2.jpg", "3.jpg"], None]
    shards, schema = open_catalogue(tmp_path / "x.parquet")
    assert schema.kept.names == ["title"]  # lists of structs are not kept unless addressed
    assert [row["kept"] for row in rows_of(shards, schema)] == [{"title": "a"}, {"title": "b"}]


def test_values_of_maps_are_addressed_by_their_keys(tmp_path: Path) -> None:
    maps = pa.array([[("color", "red"), ("size", "S")], [("size", "M")]], pa.map_(pa.string(), pa.string()))
    write_parquet(tmp_path / "x.parquet", pa.table({"id": [1, 2], "title": ["a", "b"], "facts": maps}))
    assert [row["kept"]["facts.color"] for row in read(tmp_path, keep=("facts.color",))] == ["red", None]


def test_names_that_an_index_needs_itself_get_an_underscore(tmp_path: Path) -> None:
    row = {"sku": "1", "product_id": "other", "name": "a", "title": "b", "order": 3, "score": 0.5}
    write_jsonl(tmp_path / "x.jsonl", [row])
    (found,) = read(tmp_path, columns={"product_id": "sku", "title": "name"})
    assert found["product_id"] == "1"
    assert found["kept"] == {"title": "a", "product_id_": "other", "title_": "b", "order_": 3, "score_": 0.5}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"columns": {"product_id": "skuu"}},
            r"--column product_id=skuu: the catalogue has no column 'skuu' \(columns: sku, name, deep\): did you mean 'sku'\?",
        ),
        ({"columns": {"titel": "name"}}, r"--column titel=name: 'titel' is not among the names that can be mapped \(product"),
        (
            {"columns": {"title": "deep"}},
            r"--column title=deep: the column 'deep' is struct<.*>: name a field of it, such as deep\.x",
        ),
        ({"text": ("nam",)}, r"--text nam: the catalogue has no column 'nam' .*: did you mean 'name'\?"),
        ({"text": ("deep",)}, r"--text deep: the column 'deep' is struct<"),
        ({"keep": ("colour",)}, r"--keep colour: the catalogue has no column 'colour'"),
        ({"keep": ("deep",)}, r"--keep deep: the column 'deep' is struct<"),
    ],
)
def test_names_that_are_not_there_are_refused(tmp_path: Path, options: Any, sentence: str) -> None:
    write_parquet(tmp_path / "x.parquet", [{"sku": 1, "name": "a", "deep": {"x": 1}}])
    with pytest.raises(CatalogueError, match=sentence):
        open_catalogue(tmp_path, **options)


def test_a_catalogue_without_ids_or_without_content_is_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "x.jsonl", [{"name": "a"}])
    with pytest.raises(
        CatalogueError,
        match=r"the catalogue has no column for product_id \(columns at the beginning of its shards: name\): "
        "map it with --column product_id=COLUMN",
    ):
        open_catalogue(tmp_path)
    write_jsonl(tmp_path / "x.jsonl", [{"id": 1, "stock": 2}])
    with pytest.raises(CatalogueError, match="the catalogue has nothing to encode: no title, description or picture"):
        open_catalogue(tmp_path)


def test_a_shard_without_the_id_column_is_named(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [{"sku": 1, "name": "a"}])
    write_parquet(tmp_path / "b.parquet", [{"article": 1, "name": "a"}])
    with pytest.raises(CatalogueError, match=r"b\.parquet has no column 'sku', which is the product id of the other shards"):
        open_catalogue(tmp_path)
