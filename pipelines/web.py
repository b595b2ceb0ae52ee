"""Pictures by http and https: read with bounds, retried when a server asks to wait, never led to another host."""

from __future__ import annotations

import threading
import uuid
from functools import cache
from typing import Any
from urllib.parse import urljoin, urlsplit

CONNECT_SECONDS, READ_SECONDS = 10, 60
REDIRECTS, RETRIES = 5, 4
_BLOCK = 1 << 20
_local = threading.local()


class WebError(OSError):
    """A picture cannot be fetched; the message says what the server or the connection said."""


def is_web(place: str) -> bool:
    """Tell whether a place is fetched by http or https."""
    return place.startswith(("http://", "https://"))


def fetch(url: str, most: int) -> tuple[bytes, str]:
    """Return what is at a URL, at most `most` + 1 bytes of it, and its fingerprint.

    Raises:
        WebError: there is none, or the connection fails.
    """
    with _asked("GET", url) as answer:
        content = bytearray()
        try:
            for block in answer.iter_content(_BLOCK):
                content += block
                if len(content) > most:
                    break
        except _requests().RequestException as error:
            raise WebError(f"the connection broke after {len(content):,} bytes ({type(error).__name__})") from None
        return bytes(content[: most + 1]), _fingerprint(answer)


def fingerprint(url: str) -> str:
    """Return what changes when the content at a URL is replaced: ETag, or date and size; without either, always another.

    Raises:
        WebError: there is none, or the connection fails.
    """
    with _asked("HEAD", url) as answer:
        return _fingerprint(answer)


def _fingerprint(answer: Any) -> str:
    tag, date = answer.headers.get("ETag"), answer.headers.get("Last-Modified")
    if tag or date:
        return f"{tag or date}-{answer.headers.get('Content-Length', '')}"
    return f"unknown-{uuid.uuid4().hex}"


def _asked(method: str, url: str) -> Any:
    """Ask for a URL and follow redirects on its own host."""
    place = url
    for _ in range(REDIRECTS + 1):
        try:
            answer = _session().request(
                method, place, stream=True, allow_redirects=False, timeout=(CONNECT_SECONDS, READ_SECONDS)
            )
        except _requests().RequestException as error:
            raise WebError(f"no answer from {urlsplit(place).hostname} ({type(error).__name__})") from None
        if answer.status_code == 200:
            return answer
        answer.close()
        if not answer.is_redirect:
            raise WebError(f"the server answers {answer.status_code} {answer.reason}")
        target = urljoin(place, answer.headers["Location"])
        if urlsplit(target).hostname != urlsplit(url).hostname or not is_web(target):
            raise WebError(f"it leads to another host ({target})")
        place = target
    raise WebError(f"it is redirected more than {REDIRECTS} times")


def _session() -> Any:
    """Return this thread's session, which keeps connections and retries what a busy server refuses."""
    if not hasattr(_local, "session"):
        from requests.adapters import HTTPAdapter
        from urllib3.util import Retry

        _local.session = _requests().Session()
        _local.session.headers["User-Agent"] = "catalogue-index"
        busy = (429, 500, 502, 503, 504)
        retries = Retry(RETRIES, redirect=False, backoff_factor=0.5, status_forcelist=busy, raise_on_status=False)
        for scheme in ("http://", "https://"):
            _local.session.mount(scheme, HTTPAdapter(max_retries=retries))
    return _local.session


@cache
def _requests() -> Any:
    import requests

    return requests
