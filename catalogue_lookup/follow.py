"""Following an index: going over to what is published, and obeying what is withdrawn, while queries are answered.

Two threads look, not a query's own: opening a version hashes all its files, which no customer should wait for, an idle
service goes over, too, and a product that is recalled while a version is opened is gone without waiting for that.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable
from threading import Event, Lock, Thread
from time import monotonic
from typing import TYPE_CHECKING

from catalogue_lookup.opening import Opening, current_version
from catalogue_lookup.query import QueryError
from catalogue_lookup.withdrawn import WithdrawnError, WithdrawnFile
from encoders.bundle import BundleError
from encoders.integrity import IntegrityError

if TYPE_CHECKING:
    from catalogue_lookup.index import Index

_log = logging.getLogger(__name__)

# A version that cannot be opened may be one whose hashes take minutes: it is tried less often from time to time.
MAX_POLLS_BETWEEN_TRIES = 32
# Closing waits so long for a thread that is opening a version; the thread lets go of it by itself.
STOP_SECONDS = 10


class Follower:
    """Follows the index that owns it; an index that is dropped without being closed is followed no more."""

    def __init__(self, index: Index, opening: Opening, listed: WithdrawnFile, seconds: float) -> None:
        """Follow an index that has just been opened; `listed` is the file that it obeys."""
        self._index = weakref.ref(index)
        self._opening = opening
        self._listed = listed
        self._seconds = seconds
        self._reasons: dict[str, str | None] = {"version": None, "withdrawn": None}
        self._failed, self._tries, self._next_try = "", 0, 0.0
        self._starting = Lock()
        self._start()

    def _start(self) -> None:
        self._stop, self._process = Event(), os.getpid()
        self._threads = [
            Thread(target=_repeat, args=(weakref.ref(self), look, self._stop, self._seconds), name=name, daemon=True)
            for name, look in (
                ("catalogue-index-versions", Follower._look_for_version),
                ("catalogue-index-withdrawn", Follower._look_for_withdrawn),
            )
        ]
        weakref.finalize(self, self._stop.set)
        for thread in self._threads:
            thread.start()

    def ensure_running(self) -> None:
        """Start the threads where this process has been forked from the one that had them."""
        if self._process != os.getpid():
            with self._starting:
                if self._process != os.getpid():
                    self._start()

    def stop(self) -> None:
        """Stop the threads."""
        self._stop.set()
        if self._process == os.getpid():
            for thread in self._threads:
                thread.join(STOP_SECONDS)

    @property
    def stale_reason(self) -> str | None:
        """Say what could not be followed, None where all could."""
        return "; ".join(reason for reason in self._reasons.values() if reason is not None) or None

    def _look_for_version(self) -> None:
        index = self._index()
        if index is None:
            return
        named = ""
        try:
            named = current_version(self._opening.root)
            if named == index.version:
                self._well("version")
            elif named != self._failed or monotonic() >= self._next_try:
                self._go_over(index)
                self._well("version")
        except Exception as error:  # whatever it is, the version that is served has to be served on
            if not index._closed:
                self._failed_with("version", f"version {index.version} is served on: {_told(error)}", error)
                self._tries = self._tries + 1 if named == self._failed else 0
                self._failed = named
                self._next_try = monotonic() + self._seconds * min(2**self._tries, MAX_POLLS_BETWEEN_TRIES)

    def _go_over(self, index: Index) -> None:
        opened = self._opening.open_current()
        try:
            with index._serving() as old:
                before = old.manifest.id
                opened.take_over(old)
        except BaseException:
            opened.close()
            raise
        index._serve(opened)
        _log.info("serving version %s after %s", opened.manifest.id, before)

    def _look_for_withdrawn(self) -> None:
        index = self._index()
        if index is None:
            return
        try:
            listed = WithdrawnFile.of(self._opening.root)
            if listed.content is None and index.withdrawn:
                raise WithdrawnError(f"{listed.path} is gone: put it back")
            if listed != self._listed:
                index._withdraw(listed.products())
                self._listed = listed
                _log.info("%d products are withdrawn", len(index.withdrawn))
            self._well("withdrawn")
        except Exception as error:  # whatever it is, what is withdrawn has to stay so
            if not index._closed:
                told = f"the last list of {len(index.withdrawn)} withdrawn products is obeyed on: {_told(error)}"
                self._failed_with("withdrawn", told, error)

    def _well(self, what: str) -> None:
        self._reasons[what] = None

    def _failed_with(self, what: str, reason: str, error: Exception) -> None:
        """Keep the reason, and log it where it is another than at the last try."""
        if self._reasons[what] != reason:
            self._reasons[what] = reason
            _log.warning("%s", reason, exc_info=None if _is_sentence(error) else error)


def _repeat(follower: weakref.ref[Follower], look: Callable[[Follower], None], stop: Event, seconds: float) -> None:
    """Look again and again; between looks nothing here keeps the follower or its index."""
    while not stop.wait(seconds):
        held = follower()
        if held is None:
            return
        look(held)
        del held


def _is_sentence(error: Exception) -> bool:
    return isinstance(error, IntegrityError | BundleError | QueryError | OSError | ModuleNotFoundError)


def _told(error: Exception) -> str:
    return str(error) if _is_sentence(error) else repr(error)
