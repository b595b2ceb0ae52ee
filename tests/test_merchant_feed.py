"""Google Merchant feeds: tables and XML give the same products, and XML is never whole in memory."""

from __future__ import annotations

import logging
import tracemalloc
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pyarrow as pa
import pytest
from conftest import jpeg
from shop_files import open_catalogue, problems_of, publish, read, rejects_of, rows_of, write_csv, write_tsv, zip_file

from pipelines import merchant_feed
from pipelines.catalogue import CatalogueError

GOOGLE = 'xmlns:g="http://base.google.com/ns/1.0"'
SHOP: list[dict[str, Any]] = [
    {
        "id": "0012",
        "title": "Red shoe & more",
        "description": 'With "quotes", commas\nand lines',
        "link": "https://s.example/1",
        "image_link": "pictures/1.jpg",
        "additional_image_link": ["pictures/1b.jpg", "pictures/1c.jpg"],
        "price": "15.00 USD",
        "sale_price": "12.50 USD",
        "brand": "Casa",
        "google_product_category": 187,
        "product_type": "Shoes > Trainers",
        "availability": "in_stock",
        "item_group_id": "G1",
        "gtin": "3234567890126",
    },
    {
        "id": "b-2",
        "title": "蓝色 衬衫",
        "description": "棉 100%",
        "link": "https://s.example/2",
        "image_link": "pictures/2.jpg",
        "additional_image_link": ["pictures/2.jpg"],
        "price": "99.00 CNY",
        "availability": "out_of_stock",
    },
    {
        "id": "c",
        "title": "Hat",
        "description": "plain",
        "link": "https://s.example/3",
        "price": "7 EUR",
        "availability": "in_stock",
    },
]


def rss(products: list[dict[str, Any]], head: str = "<title>A shop</title><link>https://s.example</link>") -> str:
    items = []
    for product in products:
        cells = [
            (name, value) for name, values in product.items() for value in (values if isinstance(values, list) else [values])
        ]
        items.append("<item>" + "".join(f"<g:{name}>{escape(str(value))}</g:{name}>\n" for name, value in cells) + "</item>")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<rss version="2.0" {GOOGLE}><channel>{head}{"".join(items)}</channel></rss>'


def atom(products: list[dict[str, Any]]) -> str:
    entries = []
    for product in products:
        other = {name: value for name, value in product.items() if name not in ("id", "title", "link", "description")}
        inner = rss([other]).partition("<item>")[2].partition("</item>")[0]
        entries.append(
            f"<entry><id>{product['id']}</id><title>{escape(product['title'])}</title>"
            f'<link href="{product["link"]}"/><summary>{escape(product["description"])}</summary>{inner}</entry>'
        )
    return f'<feed xmlns="http://www.w3.org/2005/Atom" {GOOGLE}><title>A shop</title>{"".join(entries)}</feed>'


def write_feed(path: Path, products: list[dict[str, Any]], kind: str) -> Path:
    if kind in ("tsv", "csv"):
        flat = [{**p, "additional_image_link": ",".join(p.get("additional_image_link", []))} for p in products]
        (write_tsv if kind == "tsv" else write_csv)(path, flat)
    else:
        path.write_text((rss if kind == "rss" else atom)(products), encoding="utf-8")
    return path


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("name", "kind"), [("x.xml", "rss"), ("x.xml", "atom"), ("x.txt", "tsv"), ("x.tsv", "tsv"), ("x.csv", "csv")]
)
def test_every_form_of_a_feed_gives_the_same_products(
    tmp_path: Path, name: str, kind: str, zipped: bool, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_feed(tmp_path / name, SHOP, kind)
    if zipped:
        path = zip_file(path)
    with caplog.at_level(logging.INFO):
        shards, schema = open_catalogue(path)
    assert "recognised 1 file as a Google Merchant feed" in caplog.text
    assert (shards[0].format, schema.picture_kind) == ("merchant", "path")
    rows = rows_of(shards, schema)
    assert [row["product_id"] for row in rows] == ["0012", "b-2", "c"]
    assert [row["row"] for row in rows] == [0, 1, 2]
    assert [row["text"] for row in rows] == [[p["title"], p["description"]] for p in SHOP]
    assert [row["picture_paths"] for row in rows] == [
        ["pictures/1.jpg", "pictures/1b.jpg", "pictures/1c.jpg"], ["pictures/2.jpg"], None,
    ]  # fmt: skip
    assert [row["price"] for row in rows] == ["15.00 USD", "99.00 CNY", "7 EUR"]
    for name in ("sale_price", "google_product_category", "gtin"):
        assert schema.kept.field(name).type == pa.string()
    for name in ("sale_price", "brand", "product_type", "availability", "item_group_id", "link", "gtin"):
        assert [row["kept"][name] for row in rows] == [product.get(name) for product in SHOP]
    assert not problems_of(rows)


def test_headers_with_spaces_and_capitals_are_read(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text(
        "ID\tTitle\tDescription\tLink\tImage link\tAdditional image link\tPrice\n1\tHat\tplain\tl\ta.jpg\tb.jpg , c.jpg\t5 USD\n"
    )
    (row,) = read(tmp_path / "x.txt")
    assert (row["product_id"], row["text"], row["price"]) == ("1", ["Hat", "plain"], "5 USD")
    assert row["picture_paths"] == ["a.jpg", "b.jpg", "c.jpg"]


def test_names_of_the_feed_give_way_to_googles_and_nested_ones_are_reached_by_dots(tmp_path: Path) -> None:
    item = (
        "<title>by RSS</title><g:title>by Google</g:title><g:id>1</g:id><description>by RSS</description>"
        "<g:shipping><g:country>US</g:country><g:price>5 USD</g:price></g:shipping>"
        "<g:product_highlight>light</g:product_highlight><g:product_highlight>warm</g:product_highlight>"
    )
    text = rss([]).replace("</channel>", f"<item>{item}</item></channel>")
    (tmp_path / "x.xml").write_text(text, encoding="utf-8")
    shards, schema = open_catalogue(tmp_path, keep=("shipping.country", "product_highlight"))
    (row,) = rows_of(shards, schema)
    assert row["text"] == ["by Google", "by RSS"]
    assert row["kept"] == {"title": "by Google", "shipping.country": "US", "product_highlight": ["light", "warm"]}


@pytest.mark.parametrize(
    ("cut", "sentence"),
    [
        (lambda text: text[: len(text) // 2], r"x\.xml is cut off: its XML cannot be read at line \d+, column \d+"),
        (lambda text: text.replace("</rss>", ""), r"x\.xml is cut off: its XML cannot be read at line \d+"),
        (
            lambda text: text.replace("<g:id>c</g:id>", "<g:id>c</g:ix>"),
            r"is damaged: its XML .* \(mismatched tag.*\); write it again",
        ),
        (lambda text: text.replace("Hat", "Hat & cap"), r"is damaged: its XML .* \(not well-formed"),
        (lambda text: text.replace("Hat", "&hat;"), r"is damaged: its XML .* \(undefined entity"),
    ],
)
def test_xml_that_is_broken_is_refused_with_the_place(tmp_path: Path, cut: Any, sentence: str) -> None:
    (tmp_path / "x.xml").write_text(cut(rss(SHOP)), encoding="utf-8")
    with pytest.raises(CatalogueError, match=sentence):
        read(tmp_path)


def test_entities_are_not_expanded(tmp_path: Path) -> None:
    laughs = '<!DOCTYPE rss [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>'
    text = rss(SHOP).replace("<rss", f"{laughs}<rss").replace("Hat", "&b;")
    (tmp_path / "x.xml").write_text(text, encoding="utf-8")
    with pytest.raises(CatalogueError, match=r"x\.xml declares a document type or entities .*: leave them out"):
        read(tmp_path)


@pytest.mark.parametrize("text", ["<html><body>404</body></html>", '<?xml version="1.0"?><urlset><url/></urlset>', "id\ttitle\n"])
def test_a_file_called_xml_that_is_no_feed_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "sitemap.xml").write_text(text)
    with pytest.raises(CatalogueError, match=r"sitemap\.xml is not a Google Merchant feed, it is of another format"):
        read(tmp_path)


def test_rows_of_a_table_that_cannot_be_read_keep_their_place(tmp_path: Path) -> None:
    path = write_feed(tmp_path / "x.tsv", SHOP, "tsv")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines, b"d\ttoo few\r\n", lines[-1].replace(b"c\t", b"e\t").replace(b"Hat", b"caf\xe9")]))
    rows = read(path)
    assert [row["product_id"] for row in rows] == ["0012", "b-2", "c", None, None]
    assert [row["problems"][0]["detail"] for row in rows[3:]] == [
        "the row has 2 cells, the header has 14", "the cell of column 'title' is not UTF-8",
    ]  # fmt: skip


@pytest.mark.parametrize("text", [rss([]), atom([]), "id\ttitle\tlink\timage_link\tprice\n"])
def test_a_feed_without_products_reads_as_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.txt").write_text(text)
    with pytest.raises(CatalogueError, match="the catalogue has no rows: all of its 1 files are empty"):
        read(tmp_path / "x.txt")


def test_xml_is_never_whole_in_memory(tmp_path: Path) -> None:
    products = [{"id": str(i), "title": "t", "description": "x" * 5000} for i in range(4000)]
    (tmp_path / "x.xml").write_text(rss(products), encoding="utf-8")
    shards, schema = open_catalogue(tmp_path)
    tracemalloc.start()
    try:
        count = sum(len(batch) for batch in _batches(shards, schema))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 4000
    assert peak < 4 << 20


def _batches(shards: Any, schema: Any) -> Any:
    from pipelines.catalogue import pieces, read_piece

    return read_piece(pieces(shards[0])[0], schema, batch_rows=64)


def test_an_item_without_an_end_is_refused_before_memory_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merchant_feed, "MAX_ROW_BYTES", 1 << 20)
    long = {"id": "long", "title": "t", "description": "x" * 3_000_000}
    (tmp_path / "x.xml").write_text(rss([*SHOP, long]), encoding="utf-8")
    with pytest.raises(CatalogueError, match=r"x\.xml has no end of an item within 1 MB from byte \d+: "):
        read(tmp_path)


@pytest.mark.parametrize(("name", "kind"), [("feed.xml", "rss"), ("feed.xml", "atom"), ("feed.txt", "tsv")])
def test_a_feed_becomes_a_published_version(tmp_path: Path, tiny_bundle: Path, name: str, kind: str) -> None:
    (tmp_path / "pictures").mkdir()
    for number in range(8):
        (tmp_path / "pictures" / f"{number}.jpg").write_bytes(jpeg((200, 30, 30), number))
    products = [
        {
            "id": f"p{i}",
            "title": f"红色 衬衫 {i}",
            "description": "red shirt",
            "link": f"https://s.example/{i}",
            "image_link": f"pictures/{i}.jpg",
            "additional_image_link": [f"pictures/{(i + 1) % 8}.jpg"] * (i < 4),
            "price": f"{i}.00",
        }
        for i in range(8)
    ]
    products.append({**products[0], "id": "", "title": "without an id"})
    feed = write_feed(tmp_path / name, products, kind)
    report, found = publish(tmp_path, tiny_bundle, feed, max_reject_rate=0.2)
    assert (report.rows, report.indexed, report.published) == (9, 8, True)
    assert report.encoded == {"picture": 12, "text": 8}
    assert (found["p3"]["title"], found["p3"]["price"], found["p3"]["link"]) == ("红色 衬衫 3", 3.0, "https://s.example/3")
    (reject,) = rejects_of(tmp_path, report)
    assert (reject["shard"], reject["row"], reject["reason"]) == (str(feed), 8, "missing_product_id")
