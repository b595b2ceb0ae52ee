"""Pictures by http, from a real server: read, retried, refused."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import product

from pipelines.config import read_config
from pipelines.pictures import PathError, read
from pipelines.run import run
from pipelines.web import WebError, fetch, fingerprint


class Shop:
    """A server of pictures that notes what it was asked."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.tags: dict[str, str] = {}
        self.moved: dict[str, str] = {}
        self.busy: Counter[str] = Counter()
        self.asked: list[tuple[str, str]] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def _handler(shop) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                shop.asked.append((self.command, self.path))
                content, status, headers = b"", 200, {}
                if shop.busy[self.path] > 0:
                    shop.busy[self.path] -= 1
                    status = 503
                elif self.path in shop.moved:
                    status, headers = 302, {"Location": shop.moved[self.path]}
                elif self.path in shop.files:
                    content = shop.files[self.path]
                    headers = {"ETag": shop.tags[self.path]} if self.path in shop.tags else {}
                else:
                    status = 404
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content) + 1000 * self.path.startswith("/cut")))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content)
                self.close_connection = self.path.startswith("/cut")

            do_HEAD = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


@pytest.fixture
def shop() -> Iterator[Shop]:
    shop = Shop()
    yield shop
    shop.server.shutdown()
    shop.server.server_close()


def test_content_and_fingerprint(shop: Shop) -> None:
    shop.files["/a.jpg"], shop.tags["/a.jpg"] = b"x" * 3000, '"one"'
    data, found = fetch(f"{shop.url}/a.jpg", 10_000)
    assert data == b"x" * 3000
    assert found == fingerprint(f"{shop.url}/a.jpg") == '"one"-3000'
    shop.tags["/a.jpg"] = '"two"'
    assert fingerprint(f"{shop.url}/a.jpg") == '"two"-3000'
    assert len(fetch(f"{shop.url}/a.jpg", 100)[0]) == 101
    del shop.tags["/a.jpg"]
    assert fingerprint(f"{shop.url}/a.jpg") != fingerprint(f"{shop.url}/a.jpg")


def test_a_busy_server_is_asked_again_and_a_missing_picture_is_not(shop: Shop) -> None:
    shop.files["/a.jpg"], shop.busy["/a.jpg"] = b"there", 2
    assert fetch(f"{shop.url}/a.jpg", 100)[0] == b"there"
    assert shop.asked == [("GET", "/a.jpg")] * 3
    with pytest.raises(WebError, match=r"^the server answers 404 Not Found$"):
        fetch(f"{shop.url}/b.jpg", 100)
    assert shop.asked[3:] == [("GET", "/b.jpg")]
    with pytest.raises(PathError, match=f"^cannot read {shop.url}/b.jpg: the server answers 404 Not Found$"):
        read(f"{shop.url}/b.jpg")


def test_redirects_are_followed_on_the_same_host_only(shop: Shop) -> None:
    shop.files["/c.jpg"] = b"there"
    shop.moved = {"/a.jpg": "/b.jpg", "/b.jpg": f"{shop.url}/c.jpg", "/out": "http://localhost:1/x", "/file": "file:///etc/passwd",
                  "/loop": "/loop"}  # fmt: skip
    assert fetch(f"{shop.url}/a.jpg", 100)[0] == b"there"
    with pytest.raises(WebError, match=r"^it leads to another host \(http://localhost:1/x\)$"):
        fetch(f"{shop.url}/out", 100)
    with pytest.raises(WebError, match=r"^it leads to another host \(file:///etc/passwd\)$"):
        fetch(f"{shop.url}/file", 100)
    with pytest.raises(WebError, match=r"^it is redirected more than 5 times$"):
        fetch(f"{shop.url}/loop", 100)


def test_a_connection_that_breaks_and_a_port_without_a_server_are_a_sentence(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.files["/cut.jpg"] = b"half"
    with pytest.raises(WebError, match=r"^the connection broke after \d+ bytes \(\w+\)$"):
        fetch(f"{shop.url}/cut.jpg", 10_000)
    monkeypatch.setattr("pipelines.web.RETRIES", 0)
    monkeypatch.setattr("pipelines.web._local", threading.local())
    with pytest.raises(WebError, match=r"^no answer from 127.0.0.1 \(ConnectionError\)$"):
        fetch("http://127.0.0.1:9/x.jpg", 100)


def test_a_catalogue_of_urls_is_indexed_and_only_what_changed_is_fetched(shop: Shop, tmp_path: Path, tiny_bundle: Path) -> None:
    rows = []
    for number in range(8):
        made = product(number)
        shop.files[f"/{number}.jpg"], shop.tags[f"/{number}.jpg"] = made["image"]["bytes"], f'"{number}"'
        rows.append({"sku": made["sku"], "name": made["name"], "image_link": f"{shop.url}/{number}.jpg"})
    rows[6]["image_link"] = f"{shop.url}/missing.jpg"
    rows[7]["image_link"] = "http://169.254.169.254/latest/meta-data"
    (tmp_path / "shop.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags: dict[str, Any] = {"index": str(tmp_path / "index"), "catalogue": [f"{tmp_path}/shop.jsonl"], "max_reject_rate": 1.0}
    flags["bundle"] = str(tiny_bundle)
    refused = run(read_config(None, flags))
    assert refused.rejected_fields == {"path_outside_roots": 8}
    assert shop.asked == []  # nothing is asked of a host that is not allowed
    config = read_config(None, flags | {"allow_root": [shop.url]})
    report = run(config)
    assert report.encoded == {"picture": 6}  # the texts are there from the first run
    assert report.rejected_fields == {"unreadable_path": 1, "path_outside_roots": 1}
    shop.asked.clear()
    assert run(config).encoded == {}
    assert Counter(method for method, _ in shop.asked) == {"HEAD": 6, "GET": 1}
    shop.files["/2.jpg"], shop.tags["/2.jpg"] = product(30)["image"]["bytes"], '"new"'
    assert run(config).encoded == {"picture": 1}
