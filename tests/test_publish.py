"""PUBLISH: a version is checked whole, and CURRENT swapped only where nothing came between."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from made_index import build

from encoders.integrity import IntegrityError
from pipelines.layout import Index
from pipelines.publish import PublishError, list_versions, next_sequence, publish_version, read_current


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """Build one version, not published yet."""
    build(tmp_path)
    return Index(str(tmp_path))


def file_of(index: Index, pattern: str) -> Path:
    (found, *_) = sorted(Path(index.version("v1")).glob(pattern))
    return found


def test_a_published_version_is_the_current_one(index: Index) -> None:
    assert read_current(index) is None
    publish_version(index, "v1", None)
    assert read_current(index) == "v1"
    assert Path(index.current).read_bytes() == b"v1\n"


def test_publishing_again_after_a_crash_changes_nothing(index: Index) -> None:
    publish_version(index, "v1", None)
    publish_version(index, "v1", None)
    assert read_current(index) == "v1"


def test_a_version_is_refused_where_another_was_published_meanwhile(index: Index) -> None:
    build(Path(index.root), "v2")
    publish_version(index, "v2", None)
    with pytest.raises(PublishError, match=r"CURRENT names v2 instead of none, which v1 was built to follow: run again"):
        publish_version(index, "v1", None)
    assert read_current(index) == "v2"
    publish_version(index, "v1", "v2")
    assert read_current(index) == "v1"


def test_a_truncated_file_is_refused_by_name(index: Index) -> None:
    path = file_of(index, "annoy/*")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(IntegrityError, match=rf"{path} has \d+ bytes instead of \d+: it is truncated"):
        publish_version(index, "v1", None)
    assert read_current(index) is None


@pytest.mark.parametrize("pattern", ["annoy/*", "items-*", "vectors/*"])
def test_a_flipped_bit_is_refused_by_name(index: Index, pattern: str) -> None:
    path = file_of(index, pattern)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=rf"{path} is altered: its sha256 is not the one it was written with"):
        publish_version(index, "v1", None)


def test_a_missing_file_is_refused_by_name(index: Index) -> None:
    path = file_of(index, "items-*")
    path.unlink()
    with pytest.raises(IntegrityError, match=rf"{path} is missing: build the version again"):
        publish_version(index, "v1", None)


def test_a_version_without_a_manifest_is_refused(index: Index) -> None:
    with pytest.raises(IntegrityError, match=r"versions/v9/manifest.json is missing: build the version first"):
        publish_version(index, "v9", None)


def test_versions_are_listed_by_sequence_with_the_current_one_marked(index: Index) -> None:
    assert next_sequence(index) == 2
    publish_version(index, "v1", None)
    build(Path(index.root), "v2")
    found = list_versions(index.root)
    assert [(v.id, v.sequence, v.items, v.current) for v in found] == [("v2", 2, 100, False), ("v1", 1, 100, True)]
    assert all(v.recall is not None and v.recall > 0.9 and v.created for v in found)


def test_no_version_is_an_empty_list(tmp_path: Path) -> None:
    assert list_versions(str(tmp_path)) == []
    assert next_sequence(Index(str(tmp_path))) == 1


def test_a_damaged_version_is_logged_and_left_out_of_the_list(index: Index, caplog: pytest.LogCaptureFixture) -> None:
    build(Path(index.root), "v2")
    file_of(index, "manifest.json").write_text("{")
    with caplog.at_level(logging.WARNING):
        assert [version.id for version in list_versions(index.root)] == ["v2"]
    assert "v1/manifest.json is not whole JSON" in caplog.text
