"""What an operator does with whole versions: publishing one by its id, rolling back, verifying."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from version_maker import bundle_in

from catalogue_lookup import open_index
from encoders.integrity import IntegrityError
from pipelines.config import ConfigError
from pipelines.gate import Limits, RefusedError, judge, read_refusal
from pipelines.layout import Index
from pipelines.operations import publish_existing, rollback, verify
from pipelines.publish import (
    PublishError,
    list_versions,
    publish_version,
    read_current,
    read_publications,
)

LIMITS = Limits(0.9, 0.10)


@pytest.fixture
def index(unpublished: Path, tmp_path: Path) -> Index:
    """Return an index of two versions that a test may change."""
    return Index(str(shutil.copytree(unpublished, tmp_path / "index")))


# --- by its id ---


def test_a_whole_version_is_published_by_its_id(index: Index) -> None:
    assert publish_existing(index, "v1", LIMITS).items == 30
    assert publish_existing(index, "v2", LIMITS).id == read_current(index) == "v2"
    assert [entry["instead_of"] for entry in read_publications(index, "v2")] == ["v1"]
    publish_existing(index, "v2", LIMITS)
    assert len(read_publications(index, "v2")) == 1


def test_a_version_much_smaller_than_the_current_one_is_published_by_force_only(index: Index) -> None:
    publish_existing(index, "v2", LIMITS)
    with pytest.raises(RefusedError) as raised:
        publish_existing(index, "v1", LIMITS)
    (reason,) = raised.value.reasons
    assert reason.startswith("it has 30 products, 25.0 % fewer than the 40 of version v2, above --max-shrink 0.1 (10 %)")
    assert str(raised.value).endswith(f"to publish it anyway: catalogue-index publish v1 --index {index.root} --force")
    assert read_current(index) == "v2"
    publish_existing(index, "v1", LIMITS, force=True)
    assert read_current(index) == "v1"
    (entry,) = read_publications(index, "v1")
    assert (entry["forced"], entry["reasons"], entry["instead_of"]) == (True, [reason], "v2")


def test_a_version_refused_when_it_was_built_stays_refused(index: Index) -> None:
    (reason,) = judge(index, "v1", "v2", LIMITS)
    with pytest.raises(RefusedError, match="- it has 30 products"):
        publish_existing(index, "v1", Limits(0.0, 1.0))
    assert read_current(index) is None
    publish_existing(index, "v1", LIMITS, force=True)
    assert read_publications(index, "v1")[0]["reasons"] == read_refusal(index, "v1") == [reason]
    assert [(v.id, v.current, v.refused) for v in list_versions(index)] == [("v1", True, True), ("v2", False, False)]


def test_force_publishes_nothing_that_is_not_whole(index: Index) -> None:
    (path,) = Path(index.version("v2")).glob("annoy/*.ann")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(PublishError, match=f"version v2 is not published: {path} has .* it is truncated"):
        publish_existing(index, "v2", LIMITS, force=True)
    assert read_current(index) is None


@pytest.mark.parametrize("name", ["v9", "", "..", ".", "../versions/v1", "v1/"])
def test_a_version_that_is_not_there_is_named(index: Index, name: str) -> None:
    message = f"there is no version '{name}' in {index.root}: 'catalogue-index versions' lists those there are"
    with pytest.raises(ConfigError) as raised:
        publish_existing(index, name, LIMITS)
    assert str(raised.value) == message
    with pytest.raises(ConfigError) as raised:
        verify(index, name)
    assert str(raised.value) == message


# --- back ---


def test_rolling_back_makes_the_version_before_current(index: Index) -> None:
    publish_version(index, "v1", None)
    publish_version(index, "v2", "v1")
    left, now = rollback(index)
    assert (left.id, now.id, read_current(index)) == ("v2", "v1", "v1")
    with open_index(index.root) as opened:
        assert len(opened) == 30
    assert [entry["instead_of"] for entry in read_publications(index, "v1")] == [None, "v2"]
    with pytest.raises(PublishError, match=r"^version v1 took no other's place: there is none to roll back to$"):
        rollback(index)
    assert read_current(index) == "v1"


def test_there_may_be_nothing_to_roll_back_to(index: Index) -> None:
    with pytest.raises(PublishError, match=f"^there is nothing to roll back: no version of {index.root} is published$"):
        rollback(index)
    publish_version(index, "v2", None)
    shutil.rmtree(index.version("v1"))
    with pytest.raises(PublishError, match=r"^version v1, whose place v2 took, is gone: publish another one by its id"):
        rollback(index)
    manifest = Path(index.version("v2")) / "manifest.json"
    manifest.write_text("{")
    with pytest.raises(PublishError, match=r"^the version before v2 is not known: .*/v2/manifest.json is not whole JSON"):
        rollback(index)
    manifest.unlink()
    with pytest.raises(PublishError, match=r"^the version before v2 is not known, because v2 has no manifest: publish another"):
        rollback(index)
    assert read_current(index) == "v2"


def test_a_damaged_version_before_is_not_rolled_back_to(index: Index) -> None:
    publish_version(index, "v2", None)
    (path,) = Path(index.version("v1")).glob("items-*.arrow")
    path.unlink()
    with pytest.raises(PublishError, match=f"version v1 is not published: {path} is missing"):
        rollback(index)
    assert read_current(index) == "v2"


def test_a_current_version_whose_manifest_is_lost_is_replaced_by_another(index: Index) -> None:
    publish_version(index, "v2", None)
    (Path(index.version("v2")) / "manifest.json").unlink()
    assert publish_existing(index, "v1", LIMITS).id == read_current(index) == "v1"


# --- verifying ---


def test_a_whole_version_verifies(index: Index) -> None:
    publish_version(index, "v2", None)
    manifest, wrong = verify(index)
    assert (manifest.id, wrong) == ("v2", [])
    assert verify(index, "v1")[0].id == "v1"


def test_every_wrong_file_is_named_though_its_size_and_times_are_right(index: Index) -> None:
    publish_version(index, "v2", None)
    folder = Path(index.version("v2"))
    (annoy,), (items,) = folder.glob("annoy/*.ann"), folder.glob("items-*.arrow")
    vectors, other = sorted(folder.glob("vectors/*.parquet"))[:2]
    before = annoy.stat()
    data = bytearray(annoy.read_bytes())
    data[len(data) // 2] ^= 1
    annoy.write_bytes(data)
    os.utime(annoy, ns=(before.st_atime_ns, before.st_mtime_ns))
    items.write_bytes(items.read_bytes()[:-7])
    vectors.unlink()
    other.write_bytes(other.read_bytes() + b"more")
    manifest, wrong = verify(index)
    sizes = {name: entry.size for name, entry in manifest.files.items()}
    assert len(wrong) == 4
    lines = {line.split(" ", 1)[0]: line.split(" ", 1)[1] for line in wrong}
    assert lines[str(annoy)].startswith("is altered: its sha256 is ")
    size = sizes[items.name]
    assert lines[str(items)] == f"has {size - 7:,} bytes instead of {size:,}: it is truncated"
    assert lines[str(vectors)] == "is missing"
    size = sizes[f"vectors/{other.name}"]
    assert lines[str(other)] == f"has {size + 4:,} bytes instead of {size:,}: it is altered"


def test_the_bundle_of_a_version_is_verified_with_it(index: Index) -> None:
    publish_version(index, "v2", None)
    folder = Path(index.bundles) / verify(index)[0].bundle
    tower, head, listing = folder / "towers" / "text" / "model.tflite", folder / "heads" / "text.npz", folder / "bundle.json"
    data = tower.read_bytes()
    tower.write_bytes(data[:500] + bytes([data[500] ^ 1]) + data[501:])
    head.unlink()
    altered, missing = sorted(verify(index)[1], reverse=True)
    assert altered.startswith(f"{tower} is altered: its sha256 is ")
    assert missing == f"{head} is missing"
    content = listing.read_text()
    listing.write_text(content.replace('"training": {', '"training": {"loss": 1'))
    assert verify(index)[1] == [f"{listing} is altered: its content has another hash than it says; copy the bundle again"]
    listing.write_text(content[:-9])
    (line,) = verify(index)[1]
    assert line.startswith(f"{listing} is not whole JSON (")
    shutil.copy(bundle_in(Path(index.root), seed=3).folder / "bundle.json", listing)
    assert f"{listing} is altered: it is that of bundle " in "\n".join(verify(index)[1])
    listing.unlink()
    assert verify(index)[1] == [f"{listing} is missing"]


def test_a_version_without_a_readable_manifest_cannot_be_verified(index: Index) -> None:
    with pytest.raises(ConfigError, match=f"no version of {index.root} is published: say which one by --version"):
        verify(index)
    publish_version(index, "v2", None)
    path = Path(index.version("v2")) / "manifest.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"items": 41}))
    with pytest.raises(IntegrityError, match=f"{path} is altered: its content has another hash"):
        verify(index)
    path.unlink()
    with pytest.raises(IntegrityError, match=f"{path} is missing: the version is not there; publish another one"):
        verify(index)
