"""Hostile rows through the real run: each is indexed with the right pixels and words, or rejected with the right reason."""

from __future__ import annotations

import json
import os
import socket
import threading
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import DIMENSION, SHARED
from hostile_pictures import SIDE, UPRIGHT, Pixels, bad_pictures, encoded, good_pictures
from shop_files import rejects_of

from catalogue_lookup import open_index
from pipelines.config import read_config
from pipelines.features import unpack
from pipelines.layout import order_of
from pipelines.run import Report, run

CELLS = 4
TOLERANCE = 12  # of 255, for what JPEG, AVIF and CMYK lose
OUTSIDE, UNREADABLE = "path_outside_roots", "unreadable_path"


@pytest.fixture(scope="module")
def seeing_bundle(tiny_towers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a bundle whose picture tower gives the mean colours of 4 x 4 cells: its features are what it saw."""
    import tensorflow as tf

    from encoders.bundle import write_bundle
    from encoders.fusion import Fusion
    from encoders.heads import random_head
    from encoders.presets import build_tower

    class Seeing(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, SIDE, SIDE, 3], tf.uint8)])
        def __call__(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
            cells = tf.nn.avg_pool2d(tf.cast(images, tf.float32) / 255.0, SIDE // CELLS, SIDE // CELLS, "VALID")
            return {"features": tf.reshape(cells, [-1, CELLS * CELLS * 3])}

    folder = tmp_path_factory.mktemp("seeing")
    module = Seeing()
    tf.saved_model.save(module, str(folder / "saved"), signatures={"serving_default": module.__call__})
    build_tower(f"saved-model:{folder / 'saved'}", "picture", folder / "picture")
    towers = {"picture": folder / "picture", "text": tiny_towers["text"]}
    heads = {"picture": random_head(CELLS * CELLS * 3, SHARED, 0), "text": random_head(DIMENSION, SHARED, 1)}
    fusion = Fusion("concatenation", {"picture": 0.5, "text": 0.5})
    return write_bundle(folder / "bundle", towers, heads, fusion, {}, {}).folder


@contextmanager
def packets_watched() -> Iterator[list[Any]]:
    """Note every address that a socket is connected to or a name that is looked up, and let it go its way."""
    asked: list[Any] = []
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def connect_noted(self: socket.socket, address: Any) -> None:
        asked.append(address)
        connect(self, address)

    def look_up_noted(host: Any, *rest: Any, **named: Any) -> Any:
        asked.append((host, *rest[:1]))
        return look_up(host, *rest, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_noted)
        patch.setattr(socket, "getaddrinfo", look_up_noted)
        yield asked


def night(folder: Path, bundle: Path, catalogue: Path, **settings: Any) -> Report:
    flags = {"index": str(folder / "index"), "catalogue": [str(catalogue)], "bundle": str(bundle), "trees": 5}
    return run(read_config(None, flags | {"max_reject_rate": 1.0, "min_recall": 0.0} | settings))


def indexed(folder: Path, report: Report) -> dict[str, dict[str, Any]]:
    """Return what is indexed, by product id."""
    files = sorted((folder / "index" / "versions" / report.version / "vectors").glob("*.parquet"))
    return {row["product_id"]: row for path in files for row in pq.read_table(path).to_pylist()}


def colours(folder: Path) -> dict[str, Any]:
    """Return what the picture tower saw of each product: uint8 colours of cells, float[4, 4, 3]."""
    seen = {}
    for path in (folder / "index").glob("features/picture-*/parts/*/*.parquet"):
        table = pq.read_table(path)
        table = table.filter(table["present"])
        for product_id, feature in zip(table["product_id"].to_pylist(), unpack(table["feature"]), strict=True):
            seen[product_id] = feature.astype(np.float32).reshape(CELLS, CELLS, 3) * 255
    return seen


def cells(pixels: Pixels) -> np.ndarray:
    return pixels.reshape(CELLS, SIDE // CELLS, CELLS, SIDE // CELLS, 3).mean(axis=(1, 3))


def check_pictures(folder: Path, report: Report) -> int:
    """Hold every picture to its pixels or its reason; returns how many there were."""
    saw, have = colours(folder), indexed(folder, report)
    good, bad = good_pictures(), bad_pictures()
    wrong = {}
    for name, (_, expected) in good.items():
        difference = np.abs(saw[name] - cells(expected)).max() if name in saw else None
        if difference is None or difference > TOLERANCE:
            wrong[name] = difference
        assert have[name]["picture_vector"] is not None
    assert wrong == {}
    reasons = {row["product_id"]: (row["field"], row["reason"]) for row in rejects_of(folder, report)}
    assert reasons == {name: ("picture", reason) for name, (_, reason) in bad.items()}
    for name in bad:  # the words beside a bad picture are indexed
        assert have[name]["picture_vector"] is None
        assert have[name]["text_vector"] is not None
    assert report.rows == report.indexed == len(good) + len(bad)
    return report.rows


def test_pictures_inside_a_shard_are_decoded_right_or_rejected(seeing_bundle: Path, tmp_path: Path) -> None:
    pictures = {name: data for name, (data, _) in (good_pictures() | bad_pictures()).items()}
    table = pa.table({"id": list(pictures), "title": [f"a {name}" for name in pictures], "picture": list(pictures.values())})
    pq.write_table(table, tmp_path / "shop.parquet")
    report = night(tmp_path, seeing_bundle, tmp_path / "shop.parquet")
    print(f"\n{check_pictures(tmp_path, report)} pictures inside a shard: {len(good_pictures())} decoded right, "
          f"{len(bad_pictures())} rejected with the right reason")  # fmt: skip


@pytest.mark.harm
def test_pictures_by_path_are_decoded_right_or_rejected(seeing_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    rows = []
    for name, (data, _) in (good_pictures() | bad_pictures()).items():
        (tmp_path / "shop" / name).write_bytes(data)
        rows.append({"id": name, "title": f"a {name}", "picture": name})
    write_rows(tmp_path / "shop" / "shop.jsonl", rows)
    report = night(tmp_path, seeing_bundle, tmp_path / "shop" / "shop.jsonl")
    print(f"\n{check_pictures(tmp_path, report)} pictures by path: the same")


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    # Surrogates as JSON escapes, as a broken exporter writes them.
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "ascii")


class Host:
    """A server that has one picture below /pictures, a secret beside it, and redirects; it notes what it was asked."""

    def __init__(self, picture: bytes) -> None:
        self.asked: list[str] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(picture))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def _handler(host, picture: bytes) -> type[BaseHTTPRequestHandler]:
        moved = {
            "/pictures/to-metadata.jpg": "http://169.254.169.254/latest/meta-data",
            "/pictures/to-localhost.jpg": "http://localhost:1/secret.jpg",
            "/pictures/to-a-file.jpg": "file:///etc/passwd",
        }

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.asked.append(self.path)
                self.send_response(302 if self.path in moved else 200)
                if self.path in moved:
                    self.send_header("Location", moved[self.path])
                self.send_header("ETag", '"1"')
                self.send_header("Content-Length", str(0 if self.path in moved else len(picture)))
                self.end_headers()
                if self.command == "GET" and self.path not in moved:
                    self.wfile.write(picture)

            do_HEAD = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


def hostile_paths(folder: Path, outside: Path, host: Host) -> dict[str, str | None]:
    """Make what hostile paths lead to, and return the paths with the reasons they are rejected for; None: a picture."""
    picture = encoded(UPRIGHT, "PNG")
    (folder / "good.png").write_bytes(picture)
    (outside / "secret.png").write_bytes(picture)
    (folder / "link-inside.png").symlink_to("good.png")
    (folder / "link-outside.png").symlink_to(outside / "secret.png")
    (folder / "link-folder").symlink_to(outside)
    (folder / "link-zero.png").symlink_to("/dev/zero")
    (folder / "link-loop.png").symlink_to("link-loop.png")
    (folder / "link-nowhere.png").symlink_to("nowhere.png")
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "fifo.png")
    with socket.socket(socket.AF_UNIX) as listening:
        here = Path.cwd()
        os.chdir(folder)  # the address of a socket is short
        try:
            listening.bind("socket.png")
        finally:
            os.chdir(here)
    paths: dict[str, str | None] = {
        "good.png": None, "./good.png": None, "folder.png/../good.png": None, "link-inside.png": None,
        f"{folder}/good.png": None, f"file://{folder}/good.png": None, f"{host.url}/pictures/a.jpg": None,
        f"{host.url}/pictures/a%20b.jpg": None,
        "../../etc/passwd": OUTSIDE, "/etc/passwd": OUTSIDE, "file:///etc/passwd": OUTSIDE, "/proc/self/environ": OUTSIDE,
        f"{folder}/../outside/secret.png": OUTSIDE, f"{folder}-beside/x.png": OUTSIDE, "link-outside.png": OUTSIDE,
        "link-folder/secret.png": OUTSIDE, "link-zero.png": OUTSIDE,
        "http://169.254.169.254/": OUTSIDE, "http://169.254.169.254/latest/meta-data/iam/": OUTSIDE, "http://localhost": OUTSIDE,
        "http://localhost:22/x.jpg": OUTSIDE, "http://[::1]/x.jpg": OUTSIDE, "http://2130706433/x.jpg": OUTSIDE,
        "ftp://example.com/x.jpg": OUTSIDE, "gs://other/x.jpg": OUTSIDE, "data://image/png;base64,AAAA": OUTSIDE,
        f"{host.url}@169.254.169.254/pictures/x.jpg": OUTSIDE, f"{host.url}/picturesque/x.jpg": OUTSIDE,
        f"{host.url}/secret.jpg": OUTSIDE, f"{host.url}/pictures/../secret.jpg": OUTSIDE,
        f"{host.url}/pictures/%2e%2e/secret.jpg": OUTSIDE, f"{host.url}/pictures/%2E%2E%2Fsecret.jpg": OUTSIDE,
        f"{host.url}/pictures/.%2e/secret.jpg": OUTSIDE, f"{host.url}/pictures/%252e%252e/secret.jpg": OUTSIDE,
        f"{host.url}/pictures/..%5csecret.jpg": OUTSIDE, f"{host.url}/pictures/..": OUTSIDE,
        f"{host.url}/pictures/a/..;/../secret.jpg": OUTSIDE,
        host.url.replace("//", "//user:word@") + "/pictures/a.jpg": OUTSIDE,
        f"{host.url}/pictures/to-metadata.jpg": UNREADABLE, f"{host.url}/pictures/to-localhost.jpg": UNREADABLE,
        f"{host.url}/pictures/to-a-file.jpg": UNREADABLE,
        "folder.png": UNREADABLE, "fifo.png": UNREADABLE, "socket.png": UNREADABLE, "link-loop.png": UNREADABLE,
        "link-nowhere.png": UNREADABLE, "missing.png": UNREADABLE, "%2e%2e/outside/secret.png": UNREADABLE,
        "a\0.png": UNREADABLE, "n" * 10_000 + ".png": UNREADABLE, "\ud800.png": UNREADABLE,
        "data:image/png;base64,AAAA": UNREADABLE,
        "..\\outside\\secret.png": UNREADABLE, "~/secret.png": UNREADABLE, "$HOME/secret.png": UNREADABLE, "*.png": UNREADABLE,
    }  # fmt: skip
    if os.geteuid() == 0:
        try:
            os.mknod(folder / "device.png", 0o20666, os.makedev(1, 5))
            paths["device.png"] = UNREADABLE
        except PermissionError:
            pass
    return paths


def test_hostile_paths_are_read_below_the_roots_only_and_hang_nothing(seeing_bundle: Path, tmp_path: Path) -> None:
    shop, outside = tmp_path / "shop", tmp_path / "outside"
    shop.mkdir()
    outside.mkdir()
    host = Host(encoded(UPRIGHT, "PNG"))
    paths = hostile_paths(shop, outside, host)
    rows = [{"id": f"P{number}", "title": "a red shirt", "picture": path} for number, path in enumerate(paths)]
    write_rows(shop / "shop.jsonl", rows)
    try:
        with packets_watched() as asked:
            report = night(tmp_path, seeing_bundle, shop / "shop.jsonl", allow_root=[str(shop), f"{host.url}/pictures"])
    finally:
        host.server.shutdown()
        host.server.server_close()
    found = {int(row["product_id"][1:]): row["reason"] for row in rejects_of(tmp_path, report)}
    told = {path: found.get(number) for number, path in enumerate(paths)}
    assert told == paths
    saw = colours(tmp_path)
    for number, (path, reason) in enumerate(paths.items()):
        if reason is None:
            assert np.abs(saw[f"P{number}"] - cells(UPRIGHT[::4, ::4])).max() <= TOLERANCE, path
    # Not a packet but to the allowed host, and there nothing beside the allowed folder.
    assert {address[0] for address in asked} == {"127.0.0.1"}
    assert [path for path in host.asked if not path.startswith("/pictures/")] == []
    assert [path for path in host.asked if ".." in path or "%2" in path.lower().replace("a%20b", "")] == []
    good = sum(reason is None for reason in paths.values())
    print(f"\n{len(paths)} paths: {good} read, {len(paths) - good} rejected; nothing was asked of another host")


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


def test_hostile_texts_ids_and_prices_are_indexed_right_or_rejected(seeing_bundle: Path, tmp_path: Path) -> None:
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
    report = night(tmp_path, seeing_bundle, tmp_path / "shop" / "shop.jsonl")
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


def test_cells_that_spreadsheets_run_stay_what_they_are_in_csv(seeing_bundle: Path, tmp_path: Path) -> None:
    cells_in: dict[str, Callable[[], str]] = {"=1+1": str, "+cmd|' /C calc'!A0": str, "@SUM(A1)": str, "-2+3": str}
    text = "id,title\n" + "".join(f'{number},"{cell}"\n' for number, cell in enumerate(cells_in))
    (tmp_path / "shop.csv").write_text(text, "utf-8")
    report = night(tmp_path, seeing_bundle, tmp_path / "shop.csv")
    assert [row["title"] for _, row in sorted(indexed(tmp_path, report).items())] == list(cells_in)
