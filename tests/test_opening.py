"""Opening an index: what is refused, of which version and bundle it is, and indexes of object stores."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow.fs
import pytest
from version_maker import DIMENSION, bundle_in, draw_products, make_version

from catalogue_lookup import open_index
from catalogue_lookup.manifest import read_manifest
from catalogue_lookup.place import Place
from encoders.bundle import BundleError
from encoders.integrity import CLOCK_TICK_NS, IntegrityError
from pipelines import layout
from pipelines.publish import publish_version


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a small index of two Annoy files."""
    root = tmp_path_factory.mktemp("small")
    make_version(root, "v1", draw_products(60), max_items_per_shard=40)
    publish_version(layout.Index(str(root)), "v1", None)
    return root


@pytest.fixture
def fresh(small: Path, tmp_path: Path) -> Path:
    """Return a copy of the small index that a test may damage."""
    return Path(shutil.copytree(small, tmp_path / "index"))


FILES = {
    "annoy": "annoy/00001-*.ann", "items": "items-*.arrow", "vectors": "vectors/00000-*.parquet", "manifest": "manifest.json",
}  # fmt: skip


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("kind", ["truncated", "altered", "missing"])
def test_a_damaged_file_is_refused_by_name(fresh: Path, file: str, kind: str) -> None:
    (path,) = (fresh / "versions" / "v1").glob(FILES[file])
    open_index(fresh).close()
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "altered":
        flip(path)
    else:
        path.unlink()
    with pytest.raises(IntegrityError) as caught:
        open_index(fresh)
    assert str(path) in str(caught.value)
    assert kind in str(caught.value)


@pytest.mark.parametrize("file", FILES)
def test_a_file_of_another_version_is_refused_by_name(fresh: Path, file: str) -> None:
    make_version(fresh, "v2", draw_products(60, seed=9), max_items_per_shard=40, sequence=2)
    (own,) = (fresh / "versions" / "v1").glob(FILES[file])
    (other,) = (fresh / "versions" / "v2").glob(FILES[file])
    own.write_bytes(other.read_bytes())
    with pytest.raises(IntegrityError) as caught:
        open_index(fresh)
    assert str(own) in str(caught.value)


def test_two_annoy_files_of_a_version_that_changed_places_are_refused(tmp_path: Path) -> None:
    make_version(tmp_path, "v1", draw_products(80), max_items_per_shard=40)
    first, second = sorted((tmp_path / "versions" / "v1" / "annoy").iterdir())
    assert first.stat().st_size == second.stat().st_size
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    with pytest.raises(IntegrityError, match=f"{first} is altered"):
        open_index(tmp_path, version="v1")


def test_a_newer_manifest_is_refused_by_name(fresh: Path) -> None:
    path = fresh / "versions" / "v1" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(IntegrityError, match=f"{path} has format 2, but this catalogue-index reads 1: install a newer one"):
        open_index(fresh)


def test_what_is_no_manifest_is_refused_by_name(fresh: Path) -> None:
    path = fresh / "versions" / "v1" / "manifest.json"
    path.write_text("[]")
    with pytest.raises(IntegrityError, match=f"{path} is no manifest of an index"):
        open_index(fresh)


def test_verify_always_finds_what_a_remembered_verdict_hides(
    fresh: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("CATALOGUE_INDEX_CACHE", str(cache))
    time.sleep(CLOCK_TICK_NS / 1e9)
    open_index(fresh).close()
    (path,) = (fresh / "versions" / "v1").glob(FILES["items"])
    flip(path)
    # As on a disk that does not tell of a change: the verdict is that of the altered copy.
    (file,) = (cache / "verified").glob("*.json")
    verdicts, stat = json.loads(file.read_bytes()), path.stat()
    sha256 = verdicts[path.name].rsplit("-", 1)[1]
    verdicts[path.name] = f"{stat.st_size}-{stat.st_mtime_ns}-{stat.st_ctime_ns}-{stat.st_ino}-{sha256}"
    file.write_text(json.dumps(verdicts))
    open_index(fresh).close()
    with pytest.raises(IntegrityError, match=f"{path} is altered"):
        open_index(fresh, verify="always")


def test_a_folder_without_an_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=f"{tmp_path} holds neither CURRENT nor manifest.json: give the folder of an index"):
        open_index(tmp_path)


def test_a_version_that_is_not_there_is_refused(fresh: Path) -> None:
    with pytest.raises(IntegrityError, match="there is no version v7; see 'catalogue-index versions'"):
        open_index(fresh, version="v7")
    with pytest.raises(IntegrityError, match=r"'\.\./v1' is no version of"):
        open_index(fresh, version="../v1")
    (fresh / "CURRENT").write_text("v8\n")
    with pytest.raises(IntegrityError, match="there is no version v8"):
        open_index(fresh)
    (fresh / "CURRENT").write_text("")
    with pytest.raises(IntegrityError, match="CURRENT is altered: it names no version; delete it and publish one by its id"):
        open_index(fresh)


def test_a_version_under_the_name_of_another_is_refused(fresh: Path) -> None:
    (fresh / "versions" / "v1").rename(fresh / "versions" / "v3")
    with pytest.raises(IntegrityError, match=r"v3/manifest\.json is the manifest of version v1: copy the version again"):
        open_index(fresh, version="v3")


def test_the_folder_of_a_version_is_opened(fresh: Path) -> None:
    make_version(fresh, "v2", draw_products(20), sequence=2)
    for opened in (
        open_index(fresh / "versions" / "v2"),
        open_index(fresh, version="v2"),
        open_index(f"file://{fresh}/versions/v2"),
    ):
        with opened:
            assert (opened.manifest.id, len(opened)) == ("v2", 20)
    with pytest.raises(IntegrityError, match="is version v2, not v1: give the root of the index"):
        open_index(fresh / "versions" / "v2", version="v1")


# Bundles.


def test_another_bundle_than_that_of_the_index_is_refused_by_name(fresh: Path) -> None:
    other = bundle_in(fresh / "elsewhere", seed=5)
    own = read_manifest((fresh / "versions" / "v1" / "manifest.json").read_bytes(), "").bundle
    message = f"{other.folder} is bundle {other.hash[:12]}, but version v1 was made with bundle {own[:12]}: search with that one"
    for given in (other, other.folder, str(other.folder)):
        with pytest.raises(BundleError, match=message):
            open_index(fresh, bundle=given)
    open_index(fresh, bundle=fresh / "bundles" / own).close()


def test_another_bundle_in_the_place_of_the_own_one_is_refused(fresh: Path) -> None:
    own = next((fresh / "bundles").iterdir())
    own.rename(fresh / "moved")
    bundle_in(fresh, seed=5).folder.rename(own)
    with open_index(fresh) as index, pytest.raises(BundleError, match=f"but version v1 was made with bundle {own.name[:12]}"):
        index.search(text="shoe")


def test_an_index_without_its_bundle_answers_all_but_texts_and_pictures(fresh: Path) -> None:
    own = next((fresh / "bundles").iterdir())
    own.rename(fresh / "moved")
    with open_index(fresh) as index:
        assert index.search(vector=np.ones(DIMENSION))
        with pytest.raises(
            BundleError, match=f"holds no bundle.json: give the bundle {own.name[:12]} that the index was made with"
        ):
            index.search(text="shoe")


# Object stores.


def test_files_of_another_filesystem_are_copied_once_and_only_those_used(
    fresh: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("CATALOGUE_INDEX_CACHE", str(cache))
    remote = Place("store://shop", str(fresh), pyarrow.fs.LocalFileSystem())
    with open_index(remote) as index, open_index(fresh) as local:
        assert index.search(vector=np.ones(DIMENSION)) == local.search(vector=np.ones(DIMENSION))
    copies = sorted(path for path in (cache / "copies").rglob("*") if path.is_file())
    assert [path.suffix for path in copies] == [".ann", ".ann", ".arrow"]
    before = [path.stat().st_ino for path in copies]
    (fresh / "versions" / "v1" / "annoy").rename(fresh / "gone")
    with open_index(remote) as index:
        assert len(index) == 60
        opened = index._opened.encoder().bundle
        assert opened.folder.is_relative_to(cache / "copies")
    assert [path.stat().st_ino for path in copies] == before
    copies[0].unlink()
    with pytest.raises(IntegrityError, match=r"store://shop/versions/v1/annoy/00000-\w+.ann is missing"):
        open_index(remote)


def test_a_version_of_another_filesystem_is_opened_by_its_folder(fresh: Path) -> None:
    remote = Place("store://shop/versions/v1", str(fresh / "versions" / "v1"), pyarrow.fs.LocalFileSystem())
    with open_index(remote) as index:
        assert index.manifest.id == "v1"
        assert index._opened.encoder().bundle.hash == index.manifest.bundle
