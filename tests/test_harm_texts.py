"""Hostile texts, ids, prices and lines through the real run: each is indexed as it is to be, or rejected with its reason."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

from harm import indexed, night
from hostile_pictures import UPRIGHT, encoded
from shop_files import rejects_of

from catalogue_lookup import open_index
from pipelines.layout import order_of

# Title as it comes, and as it is shown; None: the row has no words, and its picture is indexed without.
TEXTS: dict[str, tuple[str, str | None]] = {
    "nul": ("red\0shirt\0", "red shirt"),
    "lone surrogate": ("red \ud800 shirt", "red \ufffd shirt"),
    "surrogates the wrong way round": ("red \udc00\ud800 shirt", "red \ufffd\ufffd shirt"),
    "surrogate pair": ("shoe \ud83d\udc5f", "shoe 👟"),
    "direction marks": ("\u202ered\u202c \u200fshirt\u200e", "red shirt"),
    "isolates": ("\u2066red\u2069 shirt", "red shirt"),
    "zero width": ("r\u200be\u2060d\ufeff shirt", "red shirt"),
    "white space": (" \t\r\n\u00a0\u3000\u2003", None),
    "invisible": ("\u200b\u200e\u2060\ufeff\u00ad", None),
    "joined emoji": ("family 👩\u200d👩\u200d👧 shirt", "family 👩\u200d👩\u200d👧 shirt"),
    "marks": ("a" + "\u0301" * 10_000, "á" + "\u0301" * 29),
    "controls": ("red\x01\x02\x1b[31mshirt\x7f\x9b", "red [31mshirt"),
    "a cell that runs": ('=cmd|"/c calc"!A1', '=cmd|"/c calc"!A1'),
    "a script": ("red <script>alert(1)</script> shirt", "red shirt"),
    "an open comment": ("red <!-- shirt", "red"),
    "entities": ("&lt;b&gt;red&lt;/b&gt; &#0; &#xD800; &#1114112; shirt", "<b>red</b> \ufffd \ufffd \ufffd shirt"),
    "tags without an end": ("<" * 100_000 + " red", "<" * 100_000 + " red"),
    "many quotes": ("<a href=\"'" * 50_000, None),
    "20 MB": ("word " * (4 << 20), ("word " * 200_000).strip()),
    "sql": ("'; DROP TABLE products; --", "'; DROP TABLE products; --"),
    "template": ("{{7*7}} ${HOME} %s %n", "{{7*7}} ${HOME} %s %n"),
    "old spelling": ("ﬁne Ａ４ ½", "fine A4 1⁄2"),
}
# Id as it comes, and as it is indexed, or the reason of its reject.
IDS: dict[str, tuple[Any, str | None, str | None]] = {
    "1 MB": ("x" * (1 << 20), None, "product_id_too_long"),
    "4,097 bytes": ("é" * 2048 + "x", None, "product_id_too_long"),
    "4,096 bytes": ("é" * 2048, "é" * 2048, None),
    "empty": ("", None, "missing_product_id"),
    "blank": (" \t\u3000", None, "missing_product_id"),
    "null": (None, None, "missing_product_id"),
    "a list": (["x"], None, "missing_product_id"),
    "an object": ({"x": 1}, None, "missing_product_id"),
    "line break": ("a\nb", "a\nb", None),
    "slash": ("a/b", "a/b", None),
    "path": ("../../etc/passwd", "../../etc/passwd", None),
    "nul": ("a\0b", "a\0b", None),
    "lone surrogate": ("a\udfffb", "a\ufffdb", None),
    "composed": ("caf\u00e9", "caf\u00e9", None),
    "decomposed": ("cafe\u0301", "cafe\u0301", None),
    "the same again": ("a/b", None, "duplicate_product_id"),
    "a number": (12.0, "12", None),
    "the same as text": ("12", None, "duplicate_product_id"),
    "large": (10**30, str(10**30), None),
    "true": (True, "true", None),
    "quotes": ("\"'`", "\"'`", None),
}
# Price as JSON has it, and as it is indexed; None: rejected as a bad price.
PRICES: dict[str, tuple[str, float | None]] = {
    "NaN": ("NaN", None), "Infinity": ("Infinity", None), "-Infinity": ("-Infinity", None), "text nan": ('"nan"', None),
    "1e999": ('"1e999"', None), "number 1e999": ("1e999", None), "-1": ("-1", None), "-0.0": ("-0.0", 0.0),
    "5e-324": ("5e-324", 5e-324), "many digits": ('"' + "9" * 5000 + '"', None), "a list": ("[1, 2]", None),
    "words": ('"on request"', None), "free": ('"free"', 0.0), "hexadecimal": ('"0x10"', None), "true": ("true", None),
    "euro": ('"1.299,00 €"', 1299.0),
    "nul": ('"1\\u00002"', None),
}  # fmt: skip
LINES: dict[str, bytes] = {
    "no JSON": b"{",
    "a list": b"[1]",
    "no UTF-8": b'{"id": "\xff"}',
    "deep": b"[" * 200_000,
    "deep inside": b'{"id": "x", "a": ' + b'{"a": ' * 200_000 + b"1" + b"}" * 200_001,
    "a number of 10,000 digits": b'{"id": ' + b"1" * 10_000 + b"}",
    "NUL": bytes(5000),
}


def test_hostile_texts_ids_and_prices_are_indexed_right_or_rejected(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "good.png").write_bytes(encoded(UPRIGHT, "PNG"))
    plain = [{"id": f"plain {number}", "title": "a shirt", "price": "1.50", "picture": "good.png"} for number in range(40)]
    lines = [json.dumps(row).encode() for row in plain]
    texts = ({"id": f"text {name}", "title": raw, "picture": "good.png"} for name, (raw, _) in TEXTS.items())
    lines += [json.dumps(row).encode() for row in texts]
    first_id = len(lines)
    lines += [json.dumps({"id": raw, "title": f"id {name}", "picture": "good.png"}).encode() for name, (raw, _, _) in IDS.items()]
    lines += [f'{{"id": "price {name}", "title": "x", "price": {raw}}}'.encode() for name, (raw, _) in PRICES.items()]
    first_line = len(lines)
    lines += LINES.values()
    (tmp_path / "shop" / "shop.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    before = set(Path("/etc").glob("passwd*"))
    report = night(tmp_path, tiny_bundle, tmp_path / "shop" / "shop.jsonl")
    have, rejects = indexed(tmp_path, report), rejects_of(tmp_path, report)

    shown = {name: have[f"text {name}"]["title"] for name in TEXTS}
    assert shown == {name: expected or "" for name, (_, expected) in TEXTS.items()}
    words = {name: have[f"text {name}"]["text_vector"] is not None for name in TEXTS}
    assert words == {name: expected is not None for name, (_, expected) in TEXTS.items()}

    reasons = {row["row"]: row["reason"] for row in rejects if row["field"] is None}
    assert {name: reasons.get(first_id + number) for number, name in enumerate(IDS)} == {
        name: reason for name, (_, _, reason) in IDS.items()
    }
    by_title = {row["title"]: product_id for product_id, row in have.items()}
    assert {name: by_title.get(f"id {name}") for name in IDS} == {name: expected for name, (_, expected, _) in IDS.items()}
    assert {row["reason"] for row in rejects if row["row"] >= first_line} == {"unreadable_row"}
    assert {number - first_line for number in reasons if number >= first_line} == set(range(len(LINES)))

    assert {name: have[f"price {name}"]["price"] for name in PRICES} == {name: price for name, (_, price) in PRICES.items()}
    refused = {row["product_id"].removeprefix("price ") for row in rejects if row["field"] == "price"}
    assert refused == {name for name, (_, price) in PRICES.items() if price is None}
    assert {row["reason"] for row in rejects if row["field"] == "price"} == {"bad_price", "bad_value"}

    assert report.rows == len(lines) == report.indexed + len(reasons)
    assert set(Path("/etc").glob("passwd*")) == before
    with open_index(str(tmp_path / "index")) as index:  # each is found by its id, in both spellings of é
        for _, expected, _ in IDS.values():
            if expected is not None:
                assert len(index.search(product_id=expected, k=3)) == 3
        assert order_of("caf\u00e9") != order_of(unicodedata.normalize("NFD", "caf\u00e9"))
    hostile = len(TEXTS) + len(IDS) + len(PRICES) + len(LINES)
    print(f"\n{hostile} texts, ids, prices and lines: {report.indexed - len(plain)} indexed as expected, {len(reasons)} rows and "
          f"{len(refused)} prices rejected with the right reason")  # fmt: skip


def test_cells_that_spreadsheets_run_stay_what_they_are_in_csv(tiny_bundle: Path, tmp_path: Path) -> None:
    cells = ["=1+1", "+cmd|' /C calc'!A0", "@SUM(A1)", "-2+3"]
    text = "id,title\n" + "".join(f'{number},"{cell}"\n' for number, cell in enumerate(cells))
    (tmp_path / "shop.csv").write_text(text, "utf-8")
    report = night(tmp_path, tiny_bundle, tmp_path / "shop.csv")
    assert [row["title"] for _, row in sorted(indexed(tmp_path, report).items())] == cells
