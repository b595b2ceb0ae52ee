"""WooCommerce's product export as it comes: a variable product and its variations are one, wherever they are."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import jpeg
from shop_files import Row, open_catalogue, problems_of, publish, read, rejects_of, rows_of, write_csv, zip_file

from pipelines import woocommerce_export
from pipelines.catalogue import CatalogueError, pieces, read_piece

HEADER = (
    "ID|Type|SKU|GTIN, UPC, EAN, or ISBN|Name|Published|Is featured?|Visibility in catalog|Short description|Description|"
    "Date sale price starts|Tax status|Tax class|In stock?|Stock|Weight (kg)|Sale price|Regular price|Categories|Tags|"
    "Shipping class|Images|Parent|Upsells|Position|Brands|Attribute 1 name|Attribute 1 value(s)|Attribute 1 visible|"
    "Attribute 1 global|Attribute 2 name|Attribute 2 value(s)|Meta: _wpcom_is_markdown"
).split("|")
SHOP: list[Row] = [
    {
        "ID": 44,
        "Type": "variable",
        "SKU": "vneck",
        "Name": "V-Neck T-Shirt",
        "Short description": "short",
        "Description": "<b>Long</b>, with\\nlines",
        "Categories": "Clothing > Tshirts, Clothing > Sale",
        "Tags": "soft, red",
        "Images": "pictures/1.jpg, pictures/2.jpg",
        "Brands": "Casa",
        "Attribute 1 name": "Color",
        "Attribute 1 value(s)": "Blue, Green, 红",
        "Attribute 2 name": "Size",
        "Attribute 2 value(s)": "L",
        "Stock": "",
        "In stock?": 1,
    },
    {
        "ID": 45,
        "Type": "simple",
        "SKU": "beanie",
        "Name": "蓝色 帽子",
        "Sale price": "18",
        "Regular price": "20",
        "Categories": "Accessories",
        "Images": "pictures/beanie,1.jpg".replace(",", "\\,"),
        "Stock": 7,
        "GTIN, UPC, EAN, or ISBN": "3234567890126",
        "In stock?": 1,
    },
    {
        "ID": 46,
        "Type": "variation, virtual",
        "SKU": "vneck-b",
        "Name": "V-Neck T-Shirt - Blue",
        "Regular price": "21,50",
        "Parent": "id:44",
        "Images": "pictures/3.jpg",
        "Attribute 1 name": "Color",
        "Attribute 1 value(s)": "Blue",
    },
    {
        "ID": 47,
        "Type": "variation",
        "SKU": "vneck-g",
        "Name": "V-Neck T-Shirt - Green",
        "Regular price": "25",
        "Sale price": "19.90",
        "Parent": "vneck",
        "Images": "pictures/1.jpg",
    },
    {"ID": 48, "Type": "variation", "Name": "of nobody", "Regular price": "1", "Parent": "id:999"},
    {"ID": 49, "Type": "variation", "SKU": "late-s", "Name": "Late - S", "Regular price": "1.299,00", "Parent": "id:50"},
    {"ID": 51, "Type": "external", "Name": "Album", "Regular price": "", "Description": "", "Short description": "only short"},
    {"ID": 50, "Type": "variable", "SKU": "late", "Name": "Late", "Regular price": "1.300,00"},
]


def rows(products: list[Row]) -> list[Row]:
    return [{name: row.get(name) for name in HEADER} for row in products]


@pytest.mark.parametrize("zipped", [False, True])
def test_a_variable_product_and_its_variations_are_one_product(
    tmp_path: Path, zipped: bool, caplog: pytest.LogCaptureFixture
) -> None:
    write_csv(tmp_path / "wc-product-export.csv", rows(SHOP))
    if zipped:
        zip_file(tmp_path / "wc-product-export.csv")
    with caplog.at_level(logging.INFO):
        shards, schema = open_catalogue(tmp_path)
    assert (
        "recognised 1 file as a WooCommerce product export: a variable product and its variations are one product" in caplog.text
    )
    assert (shards[0].format, schema.picture_kind) == ("woocommerce", "path")
    found = rows_of(shards, schema)
    assert [(row["row"], row["product_id"]) for row in found] == [(0, "44"), (1, "45"), (4, None), (5, "50"), (6, "51")]
    assert [row["text"] for row in found] == [
        ["V-Neck T-Shirt", "<b>Long</b>, with\nlines"],
        ["蓝色 帽子"],
        [],
        ["Late"],
        ["Album", "only short"],
    ]
    assert [row["price"] for row in found] == ["19.90", "18", None, "1.299,00", None]
    assert [row["picture_paths"] for row in found] == [
        ["pictures/1.jpg", "pictures/2.jpg", "pictures/3.jpg"],
        ["pictures/beanie,1.jpg"],
        None,
        None,
        None,
    ]
    first, second = found[0]["kept"], found[1]["kept"]
    assert first["category"] == ["Clothing > Tshirts", "Clothing > Sale"]
    assert first["skus"] == ["vneck", "vneck-b", "vneck-g"]
    assert first["options"] == ["Color: Blue", "Color: Green", "Color: 红", "Size: L"]
    assert (first["tags"], first["brand"], first["Stock"]) == (["soft", "red"], "Casa", None)
    assert first["woocommerce_type"] == "variable"
    assert not [name for name in first if name.startswith("Attribute")]
    assert (second["sale_price"], second["regular_price"], second["Stock"]) == (18, "20", 7)
    assert schema.kept.field("Stock").type == pa.int64()
    assert second["GTIN, UPC, EAN, or ISBN"] == "3234567890126"
    assert problems_of(found) == {4: [(None, "unreadable_row")]}
    assert found[2]["problems"][0]["detail"] == "the row is a variation of 'id:999', which has no row in the file"


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_rows_changes_no_product(tmp_path: Path, seed: int) -> None:
    products = [
        row
        for i in range(30)
        for row in (
            {"ID": i, "Type": "variable", "SKU": f"s{i}", "Name": f"n{i}"},
            *({"ID": 1000 + 10 * i + j, "Type": "variation", "SKU": f"s{i}-{j}", "Regular price": str(9 + j),
               "Parent": f"id:{i}" if j % 2 else f"s{i}", "Images": f"{i}-{j}.jpg"} for j in range(i % 4)),
        )
    ]  # fmt: skip
    order = np.random.default_rng(seed).permutation(len(products))
    write_csv(tmp_path / "x.csv", rows([products[i] for i in order]))
    shards, schema = open_catalogue(tmp_path)
    found = rows_of(shards, schema)
    assert not problems_of(found)
    assert [row["row"] for row in found] == sorted(row["row"] for row in found)
    place = {str(products[i]["ID"]): row for row, i in enumerate(order)}
    for row in found:
        i = int(row["product_id"])
        family = [place[str(i)], *(place[str(1000 + 10 * i + j)] for j in range(i % 4))]
        assert row["row"] == min(family)
        assert sorted(row["kept"]["skus"]) == [f"s{i}", *(f"s{i}-{j}" for j in range(i % 4))]
        assert row["price"] == ("9" if i % 4 else None)
        assert sorted(row["picture_paths"] or ()) == [f"{i}-{j}.jpg" for j in range(i % 4)]
    assert len(found) == 30
    (piece,) = pieces(shards[0])
    for stop in (0, 1, 17, 40, 100):
        numbers = [number for batch in read_piece(piece, schema, stop_row=stop) for number in batch["row"].to_pylist()]
        assert numbers == [row["row"] for row in found if row["row"] < stop]


def test_variations_above_the_bound_are_refused_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(woocommerce_export, "MAX_VARIATION_BYTES", 1 << 20)
    many = [{"ID": i, "Type": "variation", "SKU": f"v{i}", "Parent": "id:1", "Images": "x" * 900} for i in range(2, 1500)]
    write_csv(tmp_path / "x.csv", rows([{"ID": 1, "Type": "variable", "Name": "one"}, *many]))
    with pytest.raises(CatalogueError, match=r"x\.csv has more than 1 MB of variations up to row \d+: split it into files"):
        read(tmp_path)


def test_rows_that_cannot_be_read_are_rows_in_their_place(tmp_path: Path) -> None:
    write_csv(tmp_path / "x.csv", rows(SHOP[:2]))
    lines = (tmp_path / "x.csv").read_bytes().splitlines(keepends=True)
    bad = "45,simple,caf\xe9".encode("latin-1") + b"," * (len(HEADER) - 3) + b"\r\n"
    (tmp_path / "x.csv").write_bytes(b"".join([lines[0], b"1,simple\r\n", *lines[1:], bad, b"," * (len(HEADER) - 1) + b"\r\n"]))
    found = read(tmp_path)
    assert [(row["row"], row["product_id"]) for row in found] == [(0, None), (1, "44"), (2, "45"), (3, None), (4, None)]
    assert {number: [reason for _, reason in problems] for number, problems in problems_of(found).items()} == {
        0: ["unreadable_row"], 3: ["unreadable_row"],
    }  # fmt: skip


@pytest.mark.parametrize("products", [[], [{"ID": 3, "Type": "variation", "Parent": "id:2", "Regular price": "1"}]])
def test_an_export_without_products_says_so(tmp_path: Path, products: list[Row]) -> None:
    write_csv(tmp_path / "x.csv", rows([{"ID": "", "Type": ""}, *products]))
    text = (tmp_path / "x.csv").read_text().splitlines()
    (tmp_path / "x.csv").write_text("\n".join([text[0], *text[2:]]) + "\n")
    if products:
        assert [row["problems"][0]["reason"] for row in read(tmp_path, text=("title",))] == ["unreadable_row"]
        return
    with pytest.raises(CatalogueError, match="the catalogue has no rows"):
        read(tmp_path)


def test_exports_of_two_shops_and_json_lines_are_one_catalogue(tmp_path: Path) -> None:
    write_csv(tmp_path / "woo.csv", rows(SHOP[:4]))
    (tmp_path / "shopify.csv").write_text(
        "Handle,Title,Body (HTML),Vendor,Type,Tags,Variant Price,Image Src,Image Position\n"
        'hat,Hat,plain,Casa,Hats,"a, b",7.00,hat.jpg,1\n'
    )
    (tmp_path / "own.jsonl").write_text(
        '{"product_id": "own", "title": "Own", "price": 3.5, "picture": "own.jpg", "tags": ["c"]}\n'
    )
    shards, schema = open_catalogue(tmp_path)
    assert [shard.format for shard in shards] == ["jsonl", "shopify", "woocommerce"]
    found = rows_of(shards, schema)
    assert [row["product_id"] for row in found] == ["own", "hat", "44", "45"]
    assert [row["price"] for row in found] == ["3.5", "7.00", "19.90", "18"]
    assert [row["kept"]["tags"] for row in found] == [["c"], ["a", "b"], ["soft", "red"], []]
    assert [row["kept"]["category"] for row in found] == [
        None,
        None,
        ["Clothing > Tshirts", "Clothing > Sale"],
        ["Accessories"],
    ]
    assert [len(row["picture_paths"]) for row in found] == [1, 1, 3, 1]
    assert not problems_of(found)


def test_an_export_becomes_a_published_version(tmp_path: Path, tiny_bundle: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for name in ("1", "2", "3", "beanie,1"):
        (tmp_path / "pictures" / f"{name}.jpg").write_bytes(jpeg((200, 30, 30), len(name)))
    write_csv(tmp_path / "products.csv", rows([row for row in SHOP if row["ID"] not in (49, 50)]))
    report, found = publish(tmp_path, tiny_bundle, tmp_path / "products.csv", max_reject_rate=1.0)
    assert (report.rows, report.indexed, report.published) == (4, 3, True)
    assert report.encoded == {"picture": 4, "text": 3}
    assert (found["44"]["title"], found["44"]["price"]) == ("V-Neck T-Shirt", 19.9)
    assert (found["45"]["title"], found["45"]["price"]) == ("蓝色 帽子", 18.0)
    (reject,) = rejects_of(tmp_path, report)
    assert (reject["row"], reject["reason"], reject["shard"]) == (4, "unreadable_row", f"{tmp_path}/products.csv")
