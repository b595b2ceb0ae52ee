"""Bundles and the check of files: what is written is what is opened, or it is refused by name."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from version_maker import FUSION, SHARED, write_heads, write_towers

from encoders import integrity
from encoders.bundle import Bundle, BundleError, open_bundle, write_bundle
from encoders.fusion import Fusion
from encoders.gate import Gate
from encoders.heads import Head, random_head
from encoders.integrity import FileEntry, IntegrityError, describe_file, read_entries, verify_files
from encoders.pooling import Views

VIEWS = {"picture": Views(3, operations={"rotate": 5.0}, seed=3), "text": Views()}


@pytest.fixture
def towers(tmp_path: Path) -> dict[str, Path]:
    return write_towers(tmp_path / "towers")


MakeBundle = Callable[..., Bundle]


@pytest.fixture
def write(tmp_path: Path, towers: dict[str, Path]) -> MakeBundle:
    """Return a function that writes a bundle below the test's folder."""

    def make(name: str = "bundle", **changes: Any) -> Bundle:
        parts: dict[str, Any] = {
            "towers": towers, "heads": write_heads(), "fusion": FUSION, "views": VIEWS,
            "training": {"recall": 0.9},
        }  # fmt: skip
        return write_bundle(tmp_path / name, **(parts | changes))

    return make


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_an_opened_bundle_is_what_was_written(write: MakeBundle, towers: dict[str, Path]) -> None:
    bundle = open_bundle(write().folder)
    assert list(bundle.towers) == ["picture", "text"]
    assert bundle.towers["text"].tokenizer == "tokenizers"
    assert (bundle.fusion, bundle.views, bundle.training) == (FUSION, VIEWS, {"recall": 0.9})
    assert bundle.dimension == 2 * SHARED
    for modality, head in write_heads().items():
        assert np.array_equal(bundle.heads[modality].linear, head.linear)
    copied = bundle.folder / "towers" / "text" / "model.tflite"
    assert copied.read_bytes() == (towers["text"] / "model.tflite").read_bytes()


def test_a_bundle_whose_crossed_languages_have_no_names_is_opened(write: MakeBundle) -> None:
    folder = write(views=VIEWS | {"text": Views(2, cross_language=("en", "zh"))}).folder
    assert json.loads((folder / "bundle.json").read_text("utf-8"))["views"]["text"]["cross_language"] is True
    assert open_bundle(folder).views["text"].cross_language == ("en", "zh")


def test_the_same_parts_give_the_same_bytes_wherever_they_are_written(write: MakeBundle) -> None:
    first, second = write("here"), write("there")
    assert first.hash == second.hash
    assert files_of(first.folder) == files_of(second.folder)


def test_the_hash_covers_all_but_the_figures_of_the_training(write: MakeBundle, tmp_path: Path) -> None:
    first = write()
    assert write("figures", training={"recall": 0.1}).hash == first.hash
    others = [
        write("heads", heads=write_heads(5)),
        write("other", towers=write_towers(tmp_path / "other towers", 7)),
        write("views", views=VIEWS | {"picture": Views(3, operations={"rotate": 5.0}, seed=4)}),
        write("kind", fusion=Fusion("mean", FUSION.weights)),
        write("weights", fusion=Fusion("concatenation", {"picture": 0.4, "text": 0.6})),
        write("order", fusion=Fusion("concatenation", {"text": 0.5, "picture": 0.5})),
    ]
    assert len({first.hash, *(bundle.hash for bundle in others)}) == 1 + len(others)


def write_structured(folder: Path, mean: float = 1.0, graph: bytes = b"graph", dimension: int = 5) -> Path:
    """Write a folder as a fitted transform has it, but for a graph that computes something."""
    (folder / "transform_fn").mkdir(parents=True)
    (folder / "transform_fn" / "saved_model.pb").write_bytes(graph)
    (folder / "statistics.json").write_text(json.dumps({"dimension": dimension, "fitted": {"price": {"mean": mean}}}))
    return folder


def test_the_hash_covers_what_was_fitted_and_not_the_bytes_of_the_graph(write: MakeBundle, tmp_path: Path) -> None:
    none = write()
    first = write("first", structured=write_structured(tmp_path / "a"))
    again = write("again", structured=write_structured(tmp_path / "b", graph=b"of other bytes"))
    other = write("other", structured=write_structured(tmp_path / "c", mean=2.0))
    assert first.hash == again.hash
    assert len({none.hash, first.hash, other.hash}) == 3
    assert none.structured is None
    assert open_bundle(first.folder).structured == {"dimension": 5, "fitted": {"price": {"mean": 1.0}}}
    assert first.dimension == none.dimension


@pytest.mark.parametrize("name", ["structured/statistics.json", "structured/transform_fn/saved_model.pb"])
@pytest.mark.parametrize("kind", ["truncated", "altered", "missing"])
def test_a_damaged_transform_is_refused_by_name(write: MakeBundle, tmp_path: Path, name: str, kind: str) -> None:
    folder = write(structured=write_structured(tmp_path / "structured")).folder
    damage(folder / name, kind)
    with pytest.raises(BundleError, match=f"{folder / name} .*{kind}"):
        open_bundle(folder)


def test_a_weight_of_structured_features_needs_as_many_as_were_fitted(write: MakeBundle, tmp_path: Path) -> None:
    fusion = Fusion("concatenation", {**FUSION.weights, "structured": 0.2}, 5)
    structured = write_structured(tmp_path / "structured")
    assert write(fusion=fusion, structured=structured).dimension == 2 * SHARED + 5
    with pytest.raises(BundleError, match="fusion takes structured features of dimension 5, the bundle's have 0: fit their"):
        write("none", fusion=fusion)
    with pytest.raises(BundleError, match="fusion takes structured features of dimension 5, the bundle's have 6"):
        write("six", fusion=fusion, structured=write_structured(tmp_path / "six columns", dimension=6))


def test_a_transform_that_does_not_say_what_was_fitted_is_refused(write: MakeBundle, tmp_path: Path) -> None:
    structured = write_structured(tmp_path / "structured")
    for content in ("{}", "[]", "no JSON", '{"dimension": "many"}'):
        (structured / "statistics.json").write_text(content)
        with pytest.raises(BundleError, match=r"statistics\.json cannot be read .*: fit the statistics again"):
            write(structured=structured)
    with pytest.raises(BundleError, match=r"statistics\.json gives the dimension 0: fit the statistics again"):
        write(structured=write_structured(tmp_path / "none", dimension=0))
    (structured / "statistics.json").unlink()
    with pytest.raises(BundleError, match=r"statistics\.json cannot be read"):
        write(structured=structured)


def test_writing_twice_leaves_the_bundle_alone_and_another_one_is_refused(write: MakeBundle) -> None:
    first = write()
    before = os.stat(first.folder).st_ino
    assert write().hash == first.hash
    assert os.stat(first.folder).st_ino == before
    with pytest.raises(BundleError, match=f"bundle holds another bundle \\({first.hash[:12]}\\): choose another folder"):
        write(views=VIEWS | {"text": Views(2)})
    assert open_bundle(first.folder).hash == first.hash


def test_a_folder_that_holds_something_else_is_refused(write: MakeBundle) -> None:
    with pytest.raises(BundleError, match=r"towers is there already and is no sound bundle .*: delete it first"):
        write("towers")


def test_a_failed_write_leaves_nothing(write: MakeBundle, tmp_path: Path, towers: dict[str, Path]) -> None:
    (towers["text"] / "model.tflite").unlink()
    (towers["text"] / "model.tflite").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OSError, match=r"nowhere|model\.tflite"):
        write()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["towers"]


def test_a_bundle_of_texts_only_has_no_picture_tower(write: MakeBundle, towers: dict[str, Path]) -> None:
    bundle = write(towers={"text": towers["text"]}, heads={"text": write_heads()["text"]}, fusion=Fusion("mean", {"text": 1.0}))
    assert bundle.dimension == SHARED
    with pytest.raises(BundleError, match=r"has no picture tower \(towers: text\)"):
        bundle.load_tower("picture")


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ({"text": random_head(24, 4, 0)}, r"towers \(picture, text\) and heads \(text\) must be of the same modalities"),
        (
            {"picture": random_head(24, 4, 0), "text": random_head(9, 4, 0)},
            "the text head takes features of dimension 9, its tower gives 24: train the head on this tower",
        ),
        (
            {"picture": random_head(24, 4, 0), "text": random_head(24, 5, 0)},
            r"heads give vectors of different dimensions \{'picture': 4, 'text': 5\}: train them together",
        ),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(write: MakeBundle, heads: dict[str, Head], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        write(heads=heads)


def test_a_fusion_of_other_modalities_is_refused(write: MakeBundle) -> None:
    with pytest.raises(BundleError, match="fusion weighs sound, but there are only heads for picture, text"):
        write(fusion=Fusion("mean", {"sound": 1.0}))


def damage(path: Path, kind: str) -> None:
    data = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(data[:-1])
    elif kind == "altered":
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    else:
        path.unlink()


@pytest.mark.parametrize("name", ["towers/text/model.tflite", "towers/picture/tower.json", "heads/text.npz"])
@pytest.mark.parametrize("kind", ["truncated", "altered", "missing"])
def test_a_damaged_file_is_refused_by_name(write: MakeBundle, name: str, kind: str) -> None:
    folder = write().folder
    damage(folder / name, kind)
    with pytest.raises(BundleError, match=f"{folder / name} .*{kind}"):
        open_bundle(folder)


def test_a_file_of_another_bundle_is_refused_by_name(write: MakeBundle) -> None:
    first, second = write(), write("second", heads=write_heads(5))
    (first.folder / "heads" / "text.npz").write_bytes((second.folder / "heads" / "text.npz").read_bytes())
    with pytest.raises(BundleError, match=f"{first.folder}/heads/text.npz is altered"):
        open_bundle(first.folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "bundle.json has format 2, but this catalogue-index reads 1: install a newer one"),
        ({"dimension": 5}, "bundle.json is altered: its content has another hash than it says"),
        ({"fusion": {"kind": "mean", "weights": {"text": 1.0}}}, "bundle.json is altered"),
    ],
)
def test_an_altered_list_of_files_is_refused(write: MakeBundle, change: dict[str, Any], message: str) -> None:
    path = write().folder / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BundleError, match=message):
        open_bundle(path.parent)


def test_a_folder_without_a_bundle_is_refused(tmp_path: Path, write: MakeBundle) -> None:
    with pytest.raises(BundleError, match=r"holds no bundle.json: give the folder of a bundle"):
        open_bundle(tmp_path)
    path = write().folder / "bundle.json"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(BundleError, match=r"bundle\.json is not whole JSON"):
        open_bundle(path.parent)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that names each file as it is hashed."""
    names: list[str] = []
    really = integrity.hash_file

    def noting(path: Path) -> str:
        names.append(path.name)
        return really(path)

    monkeypatch.setattr(integrity, "hash_file", noting)
    return names


@pytest.fixture
def settled(tmp_path: Path) -> tuple[Path, dict[str, FileEntry]]:
    """Return a folder of two files that last changed longer ago than a tick of the filesystem's clock."""
    folder = tmp_path / "files"
    folder.mkdir()
    for name in ("one", "two"):
        (folder / name).write_bytes(name.encode() * 100)
    time.sleep(integrity.CLOCK_TICK_NS / 1e9)
    return folder, {name: describe_file(folder / name) for name in ("one", "two")}


def test_each_copy_is_hashed_once(settled: tuple[Path, dict[str, FileEntry]], hashed: list[str]) -> None:
    folder, entries = settled
    verify_files(folder, entries)
    verify_files(folder, {"one": entries["one"]})
    verify_files(folder, entries)
    assert sorted(hashed) == ["one", "two"]
    verify_files(folder, entries, "always")
    assert sorted(hashed) == ["one", "one", "two", "two"]
    (folder / "one").write_bytes((folder / "one").read_bytes())
    verify_files(folder, entries)
    assert hashed[4:] == ["one"]


def test_a_change_that_keeps_size_and_time_is_found(settled: tuple[Path, dict[str, FileEntry]]) -> None:
    folder, entries = settled
    verify_files(folder, entries)
    stat = (folder / "one").stat()
    damage(folder / "one", "altered")
    os.utime(folder / "one", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(IntegrityError, match="one is altered: its sha256 is not the one it was written with"):
        verify_files(folder, entries)


def test_a_verdict_on_a_file_that_has_just_changed_is_not_remembered(tmp_path: Path, hashed: list[str]) -> None:
    (tmp_path / "new").write_bytes(b"new")
    entries = {"new": describe_file(tmp_path / "new")}
    verify_files(tmp_path, entries)
    verify_files(tmp_path, entries)
    assert hashed == ["new"] * 3


def test_the_same_content_told_with_another_hash_is_refused(settled: tuple[Path, dict[str, FileEntry]]) -> None:
    folder, entries = settled
    verify_files(folder, entries)
    with pytest.raises(IntegrityError, match="one is altered"):
        verify_files(folder, {"one": replace(entries["one"], sha256="0" * 64)})


def test_without_a_cache_files_are_still_verified(
    settled: tuple[Path, dict[str, FileEntry]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a file").touch()
    monkeypatch.setenv("CATALOGUE_INDEX_CACHE", str(tmp_path / "a file"))
    folder, entries = settled
    verify_files(folder, entries)
    damage(folder / "two", "altered")
    with pytest.raises(IntegrityError, match="two is altered"):
        verify_files(folder, entries)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "in/../../side"])
def test_a_list_that_leads_out_of_its_folder_is_refused(name: str) -> None:
    with pytest.raises(IntegrityError, match="lies outside its folder"):
        read_entries({name: {"size": 1, "sha256": "0"}})


def test_an_entry_without_a_size_is_refused() -> None:
    with pytest.raises(IntegrityError, match="no size and sha256 for 'one'"):
        read_entries({"one": {"sha256": "0"}})


def test_another_word_than_once_or_always_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="verify is 'never'; it may be 'once' or 'always'"):
        verify_files(tmp_path, {}, "never")  # type: ignore[arg-type]


def test_curves_and_gate_are_files_of_the_bundle_and_only_the_gate_changes_what_it_is(write: MakeBundle) -> None:
    plain, drawn = write(), write("drawn", curves=b"a picture")
    assert plain.curves is None
    assert open_bundle(drawn.folder).curves == b"a picture"
    assert drawn.hash == plain.hash
    assert (drawn.folder / "training" / "curves.png").read_bytes() == b"a picture"

    def gate_of(dimension: int) -> Gate:
        shapes = (2 * dimension + 2, 3), (3,), (3, 2), (2,)
        return Gate(("picture", "text"), *(np.zeros(shape, np.float32) for shape in shapes))

    gate = gate_of(SHARED)
    weighed = write("weighed", fusion=Fusion("attention", dict(FUSION.weights), gate=gate))
    assert open_bundle(weighed.folder).fusion == weighed.fusion
    assert weighed.fusion.gate == gate
    other = replace(gate, bias=np.ones(2, np.float32))
    assert write("other", fusion=replace(weighed.fusion, gate=other)).hash != weighed.hash
    (drawn.folder / "training" / "curves.png").write_bytes(b"A picture")
    with pytest.raises(BundleError, match=r"curves.png is altered"):
        open_bundle(drawn.folder, verify="always")
    with pytest.raises(BundleError, match=r"the fusion's gate weighs picture, text of dimension 2, the heads give .*: train"):
        write("small", fusion=replace(weighed.fusion, gate=gate_of(2)))
