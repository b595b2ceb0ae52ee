"""Readers that search without a pause while versions are published and rolled back: no error, no answer that mixes two."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from version_maker import Products, draw_products, make_version

from catalogue_lookup import Hit, open_index
from catalogue_lookup import Index as Opened
from pipelines.gate import Limits
from pipelines.layout import Index
from pipelines.operations import publish_existing, rollback
from pipelines.prune import prune
from pipelines.publish import list_versions, publish_version, read_current

COUNT, POLL, VERSIONS = 150, 0.01, ("v1", "v2", "v3")
LIMITS = Limits(0.0, 1.0)
QUERY = draw_products(COUNT).fused[5]
QUERIES: tuple[dict[str, Any], ...] = (
    {"vector": QUERY}, {"product_id": "P00031"}, {"vector": QUERY, "where": "stock < 3"},
    {"vector": QUERY, "where": "price > 50"},
)  # fmt: skip


def products_of(version: str) -> Products:
    """Draw products of which every title names the version, and every vector differs from the other versions'."""
    drawn = draw_products(COUNT, seed=int(version[1:]))
    return replace(drawn, rows=[row | {"title": f"{version} {row['title']}"} for row in drawn.rows])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[list[Hit]]]]:
    """Make an index of three versions, each built on the one before; returns what each answers."""
    root = tmp_path_factory.mktemp("made") / "index"
    answers = {}
    for number, version in enumerate(VERSIONS):
        before = VERSIONS[number - 1] if number else None
        make_version(root, version, products_of(version), sequence=number + 1, previous=before, max_items_per_shard=80)
        with open_index(root, version=version) as one:
            answers[version] = [one.search(**query, search_k=10**6) for query in QUERIES]
    publish_version(Index(str(root)), "v1", None)
    return root, answers


class Readers:
    """Threads that search; what they saw and what went wrong."""

    def __init__(self, answers: dict[str, list[list[Hit]]]) -> None:
        self.errors: list[BaseException] = []
        self.seen: list[Counter[str]] = []
        self.over = threading.Event()
        self._answers = answers
        self._threads: list[threading.Thread] = []

    def start(self, search: Callable[[dict[str, Any]], list[Hit]]) -> None:
        """Start a thread that asks one query after the other."""
        seen: Counter[str] = Counter()
        self.seen.append(seen)

        def ask() -> None:
            number = 0
            try:
                while not self.over.is_set():
                    which = number % len(QUERIES)
                    hits = search(QUERIES[which])
                    version = hits[0].columns["title"].split()[0]
                    assert hits == self._answers[version][which]
                    seen[version] += 1
                    number += 1
            except BaseException as error:
                self.errors.append(error)

        self._threads.append(threading.Thread(target=ask))
        self._threads[-1].start()

    def stop(self) -> None:
        """Stop all threads."""
        self.over.set()
        for thread in self._threads:
            thread.join()


def anew(root: Path) -> Callable[[dict[str, Any]], list[Hit]]:
    """Return a search that opens the index for each query."""

    def search(query: dict[str, Any]) -> list[Hit]:
        with open_index(root) as one:
            return one.search(**query, search_k=10**6)

    return search


def wait_for(followed: Opened, version: str | None, readers: Readers) -> None:
    """Wait until an index that is followed serves a version, or a reader failed."""
    end = time.monotonic() + 60
    while followed.version != version and not readers.errors:
        assert time.monotonic() < end, followed.stale_reason
        time.sleep(POLL / 4)


def go_on(root: Path, changes: int, answers: dict[str, list[list[Hit]]]) -> None:
    """Publish and roll back under readers that follow, and readers that open the index anew for each query."""
    index, readers = Index(str(root)), Readers(answers)
    made: Counter[str] = Counter()
    with open_index(root, follow=True, poll_seconds=POLL) as followed:
        for _ in range(3):
            readers.start(lambda query: followed.search(**query, search_k=10**6))
        readers.start(anew(root))
        try:
            for number in range(changes):
                current = read_current(index)
                if current == "v3" or (current == "v2" and number % 3 == 0):
                    rollback(index)
                    made["rollbacks"] += 1
                else:
                    publish_existing(index, VERSIONS[VERSIONS.index(str(current)) + 1], LIMITS)
                    made["publications"] += 1
                if number % 4:  # else the next change comes while this one is gone over to
                    wait_for(followed, read_current(index), readers)
        finally:
            readers.stop()
        assert readers.errors == []
        assert followed.stale_reason is None
    seen = sum(readers.seen, Counter())
    assert set(seen) == set(VERSIONS)
    assert all(sum(one.values()) for one in readers.seen)
    print(f"\n{made['publications']} publications and {made['rollbacks']} rollbacks under 3 threads of a reader that follows "
          f"and one that opens the index for each query: {sum(seen.values()):,} answers, no error, each of one version "
          f"({', '.join(f'{version} {count:,}' for version, count in sorted(seen.items()))})")  # fmt: skip


def test_eight_changes_of_the_current_version_fail_no_query(made: tuple[Path, dict[str, list[list[Hit]]]]) -> None:
    go_on(made[0], 8, made[1])


@pytest.mark.harm
def test_fifty_changes_of_the_current_version_fail_no_query(made: tuple[Path, dict[str, list[list[Hit]]]]) -> None:
    go_on(made[0], 50, made[1])


# --- while versions are pruned ---

# Readers that open the index need the grace time: from reading CURRENT until the files are open, its version must stay.
GRACE_SECONDS = 4.0


def publish_and_prune(root: Path, nights: int, keep: int, grace_seconds: float) -> None:
    """Publish version after version, each pruned after as nights do, under readers.

    They follow; where there is a grace time another one opens the index for each query, too.
    """
    index, deleted = Index(str(root)), 0
    answers: dict[str, list[list[Hit]]] = {}
    readers = Readers(answers)

    def publish(number: int) -> str:
        version, before = f"v{number}", f"v{number - 1}" if number > 1 else None
        make_version(root, version, products_of(version), sequence=number, previous=before, max_items_per_shard=80)
        with open_index(root, version=version) as one:
            answers[version] = [one.search(**query, search_k=10**6) for query in QUERIES]
        publish_version(index, version, before)
        return version

    publish(1)
    with open_index(root, follow=True, poll_seconds=POLL) as followed:
        for _ in range(3):
            readers.start(lambda query: followed.search(**query, search_k=10**6))
        if grace_seconds:
            readers.start(anew(root))
        try:
            for number in range(2, nights + 2):
                # Until it has gone over, the one who follows may be about to open the version.
                wait_for(followed, publish(number), readers)
                deleted += len(prune(index, keep, grace_seconds / 3600).versions)
        finally:
            readers.stop()
        assert readers.errors == []
        assert (followed.version, followed.stale_reason) == (f"v{nights + 1}", None)
    left = {version.id for version in list_versions(index)}
    assert len(left) + deleted == nights + 1
    assert deleted > 0
    if not grace_seconds:
        assert left == {f"v{number}" for number in range(nights + 2 - max(keep, 2), nights + 2)}
    seen = sum(readers.seen, Counter())
    assert set(seen) <= set(answers)
    assert all(sum(one.values()) for one in readers.seen)
    print(f"\n{nights} publications, each followed by prune --keep {keep} with {grace_seconds:g} s of grace, under "
          f"{len(readers.seen)} readers: {deleted} versions deleted, {sum(seen.values()):,} answers of {len(seen)} versions, "
          "no error")  # fmt: skip


def test_versions_pruned_without_grace_fail_no_query_of_who_has_them_open(tmp_path: Path) -> None:
    publish_and_prune(tmp_path / "index", 5, 1, 0)


@pytest.mark.harm
def test_fifty_publications_and_prunes_fail_no_query(tmp_path: Path) -> None:
    publish_and_prune(tmp_path / "index", 50, 2, GRACE_SECONDS)


@pytest.mark.harm
def test_fifty_publications_and_prunes_without_grace_fail_no_query_of_who_follows(tmp_path: Path) -> None:
    publish_and_prune(tmp_path / "index", 50, 1, 0)
