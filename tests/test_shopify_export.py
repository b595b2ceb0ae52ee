"""Shopify's product export as it comes: rows of one handle are one product."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import jpeg
from shop_files import Row, open_catalogue, problems_of, publish, read, rejects_of, rows_of, write_csv, write_tsv, zip_file

from pipelines import shopify_export
from pipelines.catalogue import CatalogueError, pieces, read_piece

HEADER = (
    "Handle,Title,Body (HTML),Vendor,Product Category,Type,Tags,Published,Option1 Name,Option1 Value,Option1 Linked To,"
    "Option2 Name,Option2 Value,Option2 Linked To,Variant SKU,Variant Grams,Variant Inventory Qty,Variant Price,"
    "Variant Compare At Price,Variant Barcode,Image Src,Image Position,Image Alt Text,Gift Card,SEO Title,"
    "Variant Image,Cost per item,Status"
).split(",")
# The header that Shopify writes since 2024, by the names of the older one.
NEWER = {
    "Handle": "URL handle", "Body (HTML)": "Description", "Product Category": "Product category", "Variant SKU": "SKU",
    "Variant Price": "Price", "Variant Barcode": "Barcode", "Image Src": "Product image URL", "Image Position": "Image position",
    "Option1 Name": "Option1 name", "Option1 Value": "Option1 value", "Option2 Name": "Option2 name",
    "Option2 Value": "Option2 value", "Variant Image": "Variant image URL", "Published": "Published on online store",
}  # fmt: skip

SHOP: list[Row] = [
    {
        "Handle": "red-shoe",
        "Title": "Red shoe",
        "Body (HTML)": '<p>With "quotes", commas<br>\nand lines</p>',
        "Vendor": "Casa",
        "Product Category": "Apparel > Shoes",
        "Type": "Shoes",
        "Tags": "new, summer",
        "Published": "true",
        "Option1 Name": "Size",
        "Option1 Value": "38",
        "Option2 Name": "Colour",
        "Option2 Value": "Red",
        "Variant SKU": "RS-38",
        "Variant Price": "120.00",
        "Image Src": "pictures/3.jpg",
        "Image Position": "3",
        "Status": "active",
        "Variant Barcode": "0001",
    },
    {
        "Handle": "red-shoe",
        "Option1 Value": "39",
        "Option2 Value": "Red",
        "Variant SKU": "RS-39",
        "Variant Price": "99.50",
        "Image Src": "pictures/1.jpg",
        "Image Position": "1",
        "Variant Barcode": "0002",
    },
    {"Handle": "red-shoe", "Option1 Value": "40", "Option2 Value": "红", "Variant SKU": "RS-40", "Variant Price": "130.00"},
    {"Handle": "red-shoe", "Image Src": "pictures/2.jpg", "Image Position": "2"},
    {
        "Handle": "衬衫",
        "Title": "蓝色 衬衫",
        "Option1 Name": "Title",
        "Option1 Value": "Default Title",
        "Variant SKU": "S",
        "Variant Price": "20.00",
        "Tags": "",
        "Status": "draft",
    },
    {
        "Handle": "hat",
        "Title": "Hat",
        "Body (HTML)": "plain",
        "Image Src": "pictures/hat.jpg",
        "Image Position": "1",
        "Status": "active",
    },
]


def rows(extra: list[Row] | None = None) -> list[Row]:
    return [{name: row.get(name) for name in HEADER} for row in [*SHOP, *(extra or [])]]


@pytest.mark.parametrize("newer", [False, True])
@pytest.mark.parametrize(("write", "zipped"), [(write_csv, False), (write_csv, True), (write_tsv, False)])
def test_rows_of_one_handle_are_one_product(
    tmp_path: Path, newer: bool, write: Any, zipped: bool, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "products_export_1.csv", [{NEWER.get(k, k) if newer else k: v for k, v in row.items()} for row in rows()])
    if zipped:
        zip_file(tmp_path / "products_export_1.csv")
    with caplog.at_level(logging.INFO):
        shards, schema = open_catalogue(tmp_path)
    assert "recognised 1 file as a Shopify product export: rows with one handle are one product" in caplog.text
    assert (shards[0].format, schema.picture_kind, schema.text) == ("shopify", "path", ("title", "description"))
    found = rows_of(shards, schema)
    assert [(row["row"], row["product_id"]) for row in found] == [(0, "red-shoe"), (4, "衬衫"), (5, "hat")]
    assert [row["text"] for row in found] == [
        ["Red shoe", '<p>With "quotes", commas<br>\nand lines</p>'],
        ["蓝色 衬衫"],
        ["Hat", "plain"],
    ]
    assert [row["price"] for row in found] == ["99.50", "20.00", None]
    assert [row["picture_paths"] for row in found] == [
        ["pictures/1.jpg", "pictures/2.jpg", "pictures/3.jpg"],
        None,
        ["pictures/hat.jpg"],
    ]
    assert [row["kept"]["options"] for row in found] == [
        ["Size: 38", "Size: 39", "Size: 40", "Colour: Red", "Colour: 红"],
        [],
        [],
    ]
    assert [row["kept"]["skus"] for row in found] == [["RS-38", "RS-39", "RS-40"], ["S"], []]
    assert [row["kept"]["tags"] for row in found] == [["new", "summer"], [], []]
    assert [row["kept"]["Status"] for row in found] == ["active", "draft", "active"]
    kept = found[0]["kept"]
    assert (kept["brand"], kept["product_type"], kept["category"]) == ("Casa", "Shoes", "Apparel > Shoes")
    assert kept["Barcode" if newer else "Variant Barcode"] == ["0001", "0002"]
    assert schema.kept.field("Published on online store" if newer else "Published").type == pa.bool_()
    assert not problems_of(found)


def test_rows_that_cannot_be_read_are_rows_of_their_own(tmp_path: Path) -> None:
    write_csv(tmp_path / "x.csv", rows())
    lines = (tmp_path / "x.csv").read_bytes().splitlines(keepends=True)
    nameless = b",Nameless" + b"," * (len(HEADER) - 2) + b"\r\n"
    bad = [b"red-shoe,too few\r\n", nameless, b"hat,caf\xe9" + b"," * (len(HEADER) - 2) + b"\r\n"]
    # The first product's body has a line break, so its first row is two lines.
    (tmp_path / "x.csv").write_bytes(b"".join([*lines[:4], bad[0], *lines[4:], *bad[1:]]))
    found = read(tmp_path)
    assert [(row["row"], row["product_id"]) for row in found] == [
        (2, None), (0, "red-shoe"), (5, "衬衫"), (7, None), (8, None), (6, "hat"),
    ]  # fmt: skip
    assert [row["problems"][0]["detail"] for row in found if row["problems"]] == [
        "the row has 2 cells, the header has 28", "the row has no handle", "the cell of column 'Title' is not UTF-8",
    ]  # fmt: skip
    assert found[1]["kept"]["skus"] == ["RS-38", "RS-39", "RS-40"]


def test_a_product_longer_than_the_limit_is_one_row_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shopify_export, "MAX_ROW_BYTES", 100_000)
    long = [{"Handle": "long", "Title": "t", "Image Src": "x" * 5_000} for _ in range(50)]
    write_csv(tmp_path / "x.csv", rows([*long, {"Handle": "last", "Title": "z"}]))
    found = read(tmp_path)
    assert [(row["row"], row["product_id"]) for row in found][3:] == [(6, None), (56, "last")]
    assert found[3]["problems"][0]["detail"].startswith("the product 'long' is longer than")


def test_batches_stop_where_they_are_told_and_keep_to_rows(tmp_path: Path) -> None:
    products = [{"Handle": f"p{i // 2}", "Title": "t", "Image Src": f"{i}.jpg"} for i in range(400)]
    write_csv(tmp_path / "x.csv", rows(products))
    shards, schema = open_catalogue(tmp_path)
    (piece,) = pieces(shards[0])
    assert max(batch.num_rows for batch in read_piece(piece, schema, batch_rows=64)) == 64
    for stop, last in ((0, None), (1, 0), (5, 4), (7, 6), (9, 8)):
        numbers = [row for batch in read_piece(piece, schema, stop_row=stop) for row in batch["row"].to_pylist()]
        assert (numbers[-1] if numbers else None) == last


@pytest.mark.parametrize("rows_of_file", [[], [{"Handle": "", "Title": ""}]])
def test_an_export_without_products_reads_as_nothing(tmp_path: Path, rows_of_file: list[Row]) -> None:
    lines = [",".join(HEADER), *["," * (len(HEADER) - 1) for _ in rows_of_file]]
    (tmp_path / "x.csv").write_text("\n".join(lines) + "\n")
    sentence = r"does not hold products of a Shopify export \(the row has no handle\)" if rows_of_file else "has no rows"
    with pytest.raises(CatalogueError, match=sentence):
        read(tmp_path)


def test_a_gzipped_export_cut_in_half_is_refused_by_name(tmp_path: Path) -> None:
    write_csv(tmp_path / "x.csv", rows([{"Handle": f"p{i}", "Title": f"{i * 7919 % 10007} shirt"} for i in range(3000)]))
    zipped = zip_file(tmp_path / "x.csv")
    zipped.write_bytes(zipped.read_bytes()[: zipped.stat().st_size // 2])
    with pytest.raises(CatalogueError, match=r"x\.csv\.gz is cut off: its gzip stream has no end; write it again"):
        read(tmp_path)


def test_an_export_becomes_a_published_version(tmp_path: Path, tiny_bundle: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for name in ("1", "2", "3", "hat"):
        (tmp_path / "pictures" / f"{name}.jpg").write_bytes(jpeg((200, 30, 30), len(name)))
    again = {"Handle": "hat", "Title": "Hat again", "Variant Price": "1.00"}
    write_csv(
        tmp_path / "products.csv",
        rows([{"Handle": "gone", "Title": "Gone", "Image Src": "pictures/no.jpg"}, again, {"Title": "x"}]),
    )
    products = tmp_path / "products.csv"
    report, found = publish(tmp_path, tiny_bundle, products, max_reject_rate=1.0)
    assert (report.rows, report.indexed, report.published) == (6, 4, True)
    assert report.encoded == {"picture": 4, "text": 4}
    assert (found["red-shoe"]["price"], found["red-shoe"]["brand"]) == (99.5, "Casa")
    assert found["衬衫"]["title"] == "蓝色 衬衫"
    assert [(row["row"], row["product_id"], row["reason"]) for row in rejects_of(tmp_path, report)] == [
        (6, "gone", "unreadable_path"), (7, "hat", "duplicate_product_id"), (8, None, "unreadable_row"),
    ]  # fmt: skip
    # The same file as the table that it is, which is another plan.
    columns = {"product_id": "Handle", "title": "Title"}
    plain, found = publish(tmp_path, tiny_bundle, products, max_reject_rate=1.0, format="csv", column=columns)
    assert (plain.rows, plain.indexed) == (9, 4)
    assert plain.version != report.version
    assert found["red-shoe"]["Variant SKU"] == "RS-38"
    with pytest.raises(CatalogueError, match=r"products\.csv is not a WooCommerce product export, as --format"):
        publish(tmp_path, tiny_bundle, products, format="woocommerce")
