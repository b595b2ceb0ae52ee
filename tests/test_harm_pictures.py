"""Hostile rows through the real run: each is indexed with the right pixels and words, or rejected with the right reason."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import DIMENSION, SHARED
from harm import indexed, night
from hostile_pictures import SIDE, UPRIGHT, Pixels, bad_pictures, encoded, good_pictures
from shop_files import rejects_of

from pipelines.features import unpack
from pipelines.run import Report

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
