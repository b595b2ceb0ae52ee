"""Publishing: a version is current whole or not at all."""

from __future__ import annotations

import getpass
import shutil
import socket
import threading
from pathlib import Path

import pytest

from catalogue_lookup import open_index
from pipelines.layout import Index
from pipelines.operations import verify
from pipelines.publish import (
    PublishError,
    VersionInfo,
    list_versions,
    next_sequence,
    publish_version,
    read_current,
    read_publications,
)


@pytest.fixture
def index(unpublished: Path, tmp_path: Path) -> Index:
    """Return an index of two versions that a test may change."""
    return Index(str(shutil.copytree(unpublished, tmp_path / "index")))


def test_a_published_version_is_the_current_one(index: Index) -> None:
    assert read_current(index) is None
    assert publish_version(index, "v1", None).id == "v1"
    assert Path(index.current).read_text() == "v1\n"
    publish_version(index, "v2", "v1")
    with open_index(index.root) as opened:
        assert (opened.manifest.id, len(opened)) == ("v2", 40)


def test_publishing_twice_is_publishing_once(index: Index) -> None:
    publish_version(index, "v1", None)
    before = Path(index.current).stat().st_ino
    publish_version(index, "v1", None)
    assert Path(index.current).stat().st_ino == before


def test_an_older_version_is_published_again(index: Index) -> None:
    publish_version(index, "v2", None)
    publish_version(index, "v1", "v2")
    assert [version.id for version in list_versions(index) if version.current] == ["v1"]
    assert next_sequence(index) == 3


def test_a_version_that_others_overtook_is_refused(index: Index) -> None:
    publish_version(index, "v2", None)
    with pytest.raises(
        PublishError, match="version v1 is not published: v2 became current since this run began with None; run it again"
    ):
        publish_version(index, "v1", None)
    assert read_current(index) == "v2"


def test_of_two_at_once_one_is_published(index: Index) -> None:
    refused: list[PublishError] = []
    together = threading.Barrier(2)

    def publish(version: str) -> None:
        together.wait()
        try:
            publish_version(index, version, None)
        except PublishError as error:
            refused.append(error)

    threads = [threading.Thread(target=publish, args=(version,)) for version in ("v1", "v2")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 1
    assert f"{read_current(index)} became current" in str(refused[0])


@pytest.mark.parametrize("name", ["annoy/*.ann", "items-*.arrow", "vectors/00001-*.parquet"])
@pytest.mark.parametrize("kind", ["truncated", "altered", "missing"])
def test_a_version_with_a_damaged_file_is_not_published(index: Index, name: str, kind: str) -> None:
    publish_version(index, "v1", None)
    (path,) = Path(index.version("v2")).glob(name)
    data = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(data[:-10])
    elif kind == "altered":
        path.write_bytes(data[:-10] + bytes(10))
    else:
        path.unlink()
    with pytest.raises(PublishError, match=f"version v2 is not published: {path} .*{kind}"):
        publish_version(index, "v2", "v1")
    assert read_current(index) == "v1"


def test_a_version_without_a_manifest_does_not_exist(index: Index) -> None:
    (Path(index.version("v2")) / "manifest.json").unlink()
    with pytest.raises(PublishError, match=r"version v2 is not whole: .*/v2/manifest.json is missing; build it first"):
        publish_version(index, "v2", None)
    assert [version.id for version in list_versions(index)] == ["v1"]


def test_a_manifest_of_another_version_is_not_published(index: Index) -> None:
    Path(index.version("v2")).rename(index.version("v3"))
    with pytest.raises(PublishError, match=r"v3/manifest.json is the manifest of version v2"):
        publish_version(index, "v3", None)


def test_versions_are_listed_in_their_order(index: Index) -> None:
    assert list_versions(str(Path(index.root) / "nowhere")) == []
    publish_version(index, "v1", None)
    first, second = list_versions(index.root)
    assert vars(first) == vars(VersionInfo("v1", 1, 30, first.created, first.recall, True))
    assert (second.id, second.sequence, second.items, second.current) == ("v2", 2, 40, False)
    assert first.recall is not None
    assert 0.9 < first.recall <= 1
    assert first.created.endswith("+00:00")


def test_a_damaged_manifest_is_left_out_and_said(index: Index, caplog: pytest.LogCaptureFixture) -> None:
    path = Path(index.version("v1")) / "manifest.json"
    path.write_text("{")
    assert [version.id for version in list_versions(index)] == ["v2"]
    assert f"{path} is not whole JSON" in caplog.text


def test_each_publication_is_on_record(index: Index) -> None:
    publish_version(index, "v1", None)
    publish_version(index, "v2", "v1", forced=True, reasons=["it is small"])
    publish_version(index, "v1", "v2")
    publish_version(index, "v1", "v1")
    first, again = read_publications(index, "v1")
    (forced,) = read_publications(index, "v2")
    assert first["when"].endswith("+00:00")
    by = {"who": getpass.getuser(), "host": socket.gethostname()}
    assert first == {"when": first["when"], **by, "instead_of": None, "forced": False, "reasons": []}
    assert (again["instead_of"], again["forced"]) == ("v2", False)
    assert forced == {"when": forced["when"], **by, "instead_of": "v1", "forced": True, "reasons": ["it is small"]}
    assert "published.json" not in verify(index, "v1")[0].files
    with open_index(index.root) as opened:
        assert opened.manifest.id == "v1"


def test_a_publication_that_was_killed_before_it_was_on_record_is_put_on_record(index: Index) -> None:
    publish_version(index, "v1", None)
    publish_version(index, "v2", "v1")
    (Path(index.version("v2")) / "published.json").unlink()
    publish_version(index, "v2", "v1")
    assert [entry["instead_of"] for entry in read_publications(index, "v2")] == ["v1"]
    publish_version(index, "v2", "v1")
    assert len(read_publications(index, "v2")) == 1


def test_a_damaged_record_is_begun_anew_and_said(index: Index, caplog: pytest.LogCaptureFixture) -> None:
    path = Path(index.version("v1")) / "published.json"
    path.write_text("[")
    publish_version(index, "v1", None)
    assert f"{path} is damaged: it is begun anew" in caplog.text
    assert len(read_publications(index, "v1")) == 1
