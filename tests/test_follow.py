"""Following an index: versions come and go under real threads, and no query fails or mixes two of them."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs
import pytest
from conftest import jpeg
from version_maker import Products, bundle_in, draw_products, make_version

from catalogue_lookup import Hit, Index, QueryError, open_index
from catalogue_lookup.composition import Inputs, Query
from catalogue_lookup.place import Place
from encoders.bundle import BundleError, open_bundle
from pipelines import layout
from pipelines.publish import publish_version, read_current
from pipelines.withdraw import undo, withdraw

ROOT = Path(__file__).parent.parent
COUNT, POLL = 150, 0.02
QUERY = draw_products(COUNT).fused[5]


def products_of(version: str) -> Products:
    """Draw products that only this version has: other vectors, and titles that name it."""
    drawn = draw_products(COUNT, seed=int(version[1:]))
    return replace(drawn, rows=[row | {"title": f"{version} {row['title']}"} for row in drawn.rows])


def make(root: Path, version: str, **changes: Any) -> None:
    make_version(root, version, products_of(version), sequence=int(version[1:]), max_items_per_shard=80, **changes)


def publish(root: Path, version: str) -> None:
    index = layout.Index(str(root))
    publish_version(index, version, read_current(index))


def name_current(root: Path, version: str) -> None:
    """Publish a version unchecked, as a copy of an index may have it."""
    (root / "CURRENT.new").write_text(f"{version}\n")
    (root / "CURRENT.new").replace(root / "CURRENT")


def wait_for(true: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(POLL / 4)


def maps_of(root: Path) -> set[str]:
    """Return the versions below a folder of which this process has files mapped."""
    inside = f"{root}/versions/"
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.partition(inside)[2].partition("/")[0] for line in lines if inside in line}


def searching_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("catalogue-index-")]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert searching_threads() == []


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an index of three versions, the first of them published."""
    root = tmp_path_factory.mktemp("made")
    for version in ("v1", "v2", "v3"):
        make(root, version)
    publish(root, "v1")
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """Return a copy of it that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "index"))


def test_twenty_publications_under_four_threads_fail_no_query_and_mix_no_versions(tmp_path: Path) -> None:
    queries: tuple[dict[str, Any], ...] = (
        {"vector": QUERY}, {"product_id": "P00031"}, {"vector": QUERY, "where": "stock < 3"},
    )  # fmt: skip
    made, root = tmp_path / "made", tmp_path / "index"
    expected: dict[str, list[list[Hit]]] = {}
    for number in range(21):
        make(made, f"v{number}")
        with open_index(made, version=f"v{number}") as one:
            expected[one.version] = [one.search(**query, search_k=10**6) for query in queries]
    (root / "versions").mkdir(parents=True)

    def publish_made(version: str) -> None:
        (made / "versions" / version).rename(root / "versions" / version)
        publish(root, version)

    publish_made("v0")
    errors: list[BaseException] = []
    seen: list[set[str]] = []
    over = threading.Event()

    def ask(index: Index, number: int) -> None:
        versions: set[str] = set()
        seen.append(versions)
        try:
            while not over.is_set():
                which = number % len(queries)
                hits = index.search(**queries[which], search_k=10**6)
                version = hits[0].columns["title"].split()[0]
                assert hits == expected[version][which]
                versions.add(version)
                number += 1
        except BaseException as error:
            errors.append(error)

    with open_index(root, follow=True, poll_seconds=POLL) as index:
        threads = [threading.Thread(target=ask, args=(index, number)) for number in range(4)]
        for thread in threads:
            thread.start()
        try:
            for number in range(1, 21):
                publish_made(f"v{number}")
                if number % 3 != 1:
                    wait_for(lambda version=f"v{number}": bool(errors) or all(version in each for each in seen))  # type: ignore[misc]
                # Else the version may be deleted while it is opened.
                shutil.rmtree(root / "versions" / f"v{number - 1}")
        finally:
            over.set()
            for thread in threads:
                thread.join()
        assert errors == []
        assert min(len(versions) for versions in seen) >= 14
        assert (index.version, index.manifest.sequence, index.stale_reason) == ("v20", 20, None)
        wait_for(lambda: maps_of(root) == {"v20"})
    assert maps_of(root) == set()


def test_a_query_in_flight_ends_on_the_version_it_began_with(root: Path) -> None:
    with open_index(root, follow=True, poll_seconds=POLL) as index:
        with index._serving() as begun:
            publish(root, "v2")
            wait_for(lambda: index.version == "v2")
            shutil.rmtree(root / "versions" / "v1")
            assert maps_of(root) == {"v1", "v2"}
            assert begun.search(Query.of(Inputs(), QUERY, None, None), 3, None, None)[0].columns["title"].startswith("v1 ")
            assert index.search(vector=QUERY)[0].columns["title"].startswith("v2 ")
        assert maps_of(root) == {"v2"}
    assert maps_of(root) == set()


def test_a_query_in_flight_ends_though_the_index_is_closed_meanwhile(root: Path) -> None:
    index = open_index(root)
    with index._serving() as begun:
        index.close()
        with pytest.raises(QueryError, match="the index is closed: open it again"):
            index.search(vector=QUERY)
        assert len(begun.search(Query.of(Inputs(), QUERY, None, None), 3, None, None)) == 3
    assert maps_of(root) == set()


def test_an_index_that_is_not_followed_stays_as_it_was(root: Path) -> None:
    with open_index(root) as index:
        publish(root, "v2")
        time.sleep(5 * POLL)
        assert (index.version, index.stale_reason, searching_threads()) == ("v1", None, [])


@pytest.mark.parametrize("kind", ["truncated", "altered", "missing"])
@pytest.mark.parametrize("name", ["annoy/00001-*.ann", "items-*.arrow", "manifest.json"])
def test_a_damaged_version_is_not_gone_over_to_until_it_is_whole(
    root: Path, name: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    (path,) = (root / "versions" / "v2").glob(name)
    whole = path.read_bytes()
    with open_index(root, follow=True, poll_seconds=POLL) as index:
        if kind == "missing":
            path.unlink()
        else:
            path.write_bytes(whole[: len(whole) // 2] + (whole[len(whole) // 2 + 1 :] + b"?" if kind == "altered" else b""))
        name_current(root, "v2")
        wait_for(lambda: index.stale_reason is not None)
        reason = index.stale_reason
        assert reason is not None
        assert reason.startswith(f"version v1 is served on: {path} ")
        time.sleep(10 * POLL)
        assert index.search(vector=QUERY)[0].columns["title"].startswith("v1 ")
        assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [reason]
        assert maps_of(root) == {"v1"}
        temporary = path.with_name("whole")
        temporary.write_bytes(whole)
        temporary.replace(path)
        wait_for(lambda: index.version == "v2")
        wait_for(lambda: index.stale_reason is None)


def test_after_a_damaged_version_the_next_whole_one_is_served(root: Path) -> None:
    (root / "versions" / "v2" / "manifest.json").unlink()
    with open_index(root, follow=True, poll_seconds=POLL) as index:
        name_current(root, "v2")
        wait_for(lambda: index.stale_reason is not None)
        name_current(root, "v3")
        wait_for(lambda: index.version == "v3")
        name_current(root, "v1")
        wait_for(lambda: index.version == "v1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "version v1 is served on: {root} holds neither CURRENT nor manifest.json: give the folder of an index"),
        (b"v9\n", "version v1 is served on: {root}/versions/v9/manifest.json is missing: there is no version v9; see "),
        (b"\xff", "version v1 is served on: {root}/CURRENT is altered: it names no version; delete it and publish one by its id"),
        (b"", "version v1 is served on: {root}/CURRENT is altered: it names no version; delete it and publish one by its id"),
    ],
)
def test_a_current_that_names_nothing_is_told(root: Path, content: bytes | None, message: str) -> None:
    with open_index(root, follow=True, poll_seconds=POLL) as index:
        if content is None:
            (root / "CURRENT").unlink()
        else:
            (root / "CURRENT").write_bytes(content)
        wait_for(lambda: (index.stale_reason or "").startswith(message.format(root=root)))
        assert len(index.search(vector=QUERY)) == 10


def test_a_version_made_with_another_bundle_than_the_one_given_is_not_served(root: Path) -> None:
    make(root, "v4", bundle=bundle_in(root, seed=5))
    own = bundle_in(root)
    with open_index(root, bundle=own, follow=True, poll_seconds=POLL) as index:
        name_current(root, "v4")
        wait_for(lambda: f"is bundle {own.hash[:12]}, but version v4 was made with bundle" in (index.stale_reason or ""))
        assert index.version == "v1"


def test_a_version_whose_bundle_is_damaged_is_not_served_where_the_old_one_answers_texts(root: Path) -> None:
    other = bundle_in(root, seed=5)
    make(root, "v4", bundle=other)
    shutil.rmtree(other.folder)
    with open_index(root, follow=True, poll_seconds=POLL) as index:
        name_current(root, "v4")
        wait_for(lambda: f"holds no bundle.json: give the bundle {other.hash[:12]}" in (index.stale_reason or ""))
        assert index._opened.encoder().bundle.hash != other.hash
        bundle_in(root, seed=5)
        wait_for(lambda: index.version == "v4")
        assert index._opened.encoder().bundle.hash == other.hash


def test_an_index_without_bundles_goes_over_all_the_same(root: Path) -> None:
    make(root, "v4", bundle=bundle_in(root, seed=5))
    shutil.rmtree(root / "bundles")
    with open_index(root, follow=True, poll_seconds=POLL) as index:
        name_current(root, "v4")
        wait_for(lambda: index.version == "v4")
        with pytest.raises(BundleError, match=r"holds no bundle\.json"):
            index.search(text="shoe")


def test_towers_that_are_loaded_are_kept_by_the_next_version(root: Path, tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    (root / "bundles" / bundle.hash).symlink_to(tiny_bundle)
    own = {modality: np.eye(8, dtype=np.float32)[np.arange(30) % 8] for modality in ("picture", "text")}
    whole = {modality: np.ones(30, np.bool_) for modality in own}
    products = Products(draw_products(30).rows, bundle.fusion.fuse(own, whole), own, whole)
    for version in ("v4", "v5"):
        make_version(root, version, products, bundle=bundle)
    name_current(root, "v4")
    with open_index(root, follow=True, poll_seconds=POLL) as index:
        assert len(index.search(image=jpeg((200, 30, 30), 1))) == 10
        encoder = index._opened.encoder()
        name_current(root, "v5")
        wait_for(lambda: index.version == "v5")
        assert index._opened.encoder() is encoder
        assert encoder.loaded == ("picture",)
        assert len(index.search(image=jpeg((200, 30, 30), 1))) == 10


class Pruning(pyarrow.fs.LocalFileSystem):
    """A disk on which version v2 vanishes, and v3 becomes current, as soon as somebody reads v2's items."""

    root: Path

    def open_input_stream(self, path: str, *_: Any) -> Any:
        if "/v2/items" in path:
            name_current(self.root, "v3")
            shutil.rmtree(self.root / "versions" / "v2")
        return super().open_input_stream(path)


def test_a_version_pruned_while_it_is_opened_gives_way_to_the_newer_one(root: Path, tmp_path: Path) -> None:
    disk = Pruning()
    disk.root = root
    publish(root, "v2")
    with open_index(Place("store://shop", str(root), disk)) as index:
        assert index.version == "v3"
        assert index.search(vector=QUERY)[0].columns["title"].startswith("v3 ")


def test_copies_of_versions_that_are_served_no_more_are_deleted(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CATALOGUE_INDEX_CACHE", str(tmp_path / "cache"))
    copies = tmp_path / "cache" / "copies"
    with open_index(Place("store://shop", str(root), pyarrow.fs.LocalFileSystem()), follow=True, poll_seconds=POLL) as index:
        (first,) = copies.iterdir()
        publish(root, "v2")
        wait_for(lambda: index.version == "v2" and not first.exists())
        assert index.search(vector=QUERY)[0].columns["title"].startswith("v2 ")
    # What was served last is there for the next start.
    with open_index(Place("store://shop", str(root), pyarrow.fs.LocalFileSystem())) as again:
        assert again.version == "v2"
        assert len([path for path in copies.iterdir() if any(path.glob("items-*"))]) == 1


def test_what_cannot_be_followed_is_refused(root: Path) -> None:
    with pytest.raises(QueryError, match="follow takes the root of an index and no version: a version does not change"):
        open_index(root, version="v1", follow=True)
    with pytest.raises(QueryError, match="follow takes the root of an index and no version"):
        open_index(root / "versions" / "v1", follow=True)
    with pytest.raises(QueryError, match="poll_seconds is 0; it must be above 0"):
        open_index(root, follow=True, poll_seconds=0)


def test_an_index_that_is_dropped_without_being_closed_is_followed_no_more(root: Path) -> None:
    index = open_index(root, follow=True, poll_seconds=POLL)
    assert searching_threads() == ["catalogue-index-versions", "catalogue-index-withdrawn"]
    del index
    gc.collect()
    wait_for(lambda: not searching_threads())
    assert maps_of(root) == set()


def test_a_process_forked_after_opening_follows_on_its_own(root: Path) -> None:
    script = f"""
import os, sys, time
from catalogue_lookup import open_index
index = open_index({str(root)!r}, follow=True, poll_seconds={POLL})
child = os.fork()
if child == 0:
    end = time.monotonic() + 20
    while index.version != "v2" and time.monotonic() < end:
        index.search(vector=[1.0] * 32, k=1)
    index.close()
    os._exit(0 if index.version == "v2" else 1)
with open({str(root / "CURRENT")!r}, "w") as file:
    file.write("v2\\n")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# Withdrawn products.


def test_what_is_withdrawn_is_gone_at_the_next_poll_and_from_the_next_version(root: Path) -> None:
    with open_index(root, follow=True, poll_seconds=POLL) as index:
        ids = [hit.product_id for hit in index.search(vector=QUERY, k=11, search_k=10**6)]
        withdraw(str(root), [ids[0]], "recalled")
        wait_for(lambda: ids[0] in index.withdrawn)
        assert [hit.product_id for hit in index.search(vector=QUERY, search_k=10**6)] == ids[1:]
        publish(root, "v2")
        everything: set[str] = set()
        while index.version != "v2":
            everything |= {hit.product_id for hit in index.search(vector=QUERY, k=COUNT)}
        everything |= {hit.product_id for hit in index.search(vector=QUERY, k=COUNT)}
        assert ids[0] not in everything
        assert len(everything) == COUNT - 1
        undo(str(root), [ids[0]])
        wait_for(lambda: not index.withdrawn)
        assert len(index.search(vector=QUERY, k=COUNT)) == COUNT


@pytest.mark.parametrize("kind", ["truncated", "altered", "gone"])
def test_a_damaged_list_leaves_the_last_one_obeyed(root: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    withdraw(str(root), ["P00003", "P00004"])
    path = root / "WITHDRAWN"
    whole = path.read_bytes()
    told = {"truncated": "is not whole JSON", "altered": "is altered: its content has another", "gone": "is gone: put it back"}
    with open_index(root, follow=True, poll_seconds=POLL) as index:
        if kind == "gone":
            path.unlink()
        else:
            path.write_bytes(whole[:-30] if kind == "truncated" else whole.replace(b"P00003", b"P00009"))
        start = f"the last list of 2 withdrawn products is obeyed on: {path} {told[kind]}"
        wait_for(lambda: (index.stale_reason or "").startswith(start))
        publish(root, "v2")
        wait_for(lambda: index.version == "v2")
        time.sleep(5 * POLL)
        found = {hit.product_id for hit in index.search(vector=QUERY, k=COUNT)}
        assert len(found) == COUNT - 2
        assert not found & {"P00003", "P00004"}
        assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == [index.stale_reason]
        path.write_bytes(whole)
        wait_for(lambda: index.stale_reason is None)
