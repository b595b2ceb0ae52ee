"""Towers that are built: what is told of them, and specifications and folders that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from encoders.presets import build_tower
from encoders.tower_spec import TowerError, TowerSpec
from encoders.towers import load_tower


@pytest.mark.parametrize(
    ("spec", "modality", "message"),
    [
        ("resnet", "picture", r"^tower 'resnet' is unknown: give package:<efficientnet-lite0 \| effic"),
        ("hub:x", "text", r"^tower 'hub:x' is unknown: give package:<"),
        (
            "package:vit",
            "picture",
            r"^tower 'package:vit' is unknown: the packaged ones are efficientnet-lite0, ",
        ),
        (
            "package:minilm",
            "picture",
            r"^tower 'package:minilm' encodes a text, not a picture: name another one$",
        ),
        ("keras:VGG16?weights=x", "text", r"^tower 'keras:VGG16\?weights=x' encodes a picture, not a text: "),
        (
            "saved-model:x?side=3",
            "text",
            r"^tower 'saved-model:x\?side=3' has the option 'side', which is unknown",
        ),
    ],
)
def test_a_specification_that_means_nothing_is_refused(
    spec: str, modality: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(TowerError, match=message):
        build_tower(spec, modality, tmp_path / "tower")


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(
        TowerError, match=rf"^{tmp_path} is not empty: name a new folder for the tower 'package:"
    ):
        build_tower("package:minilm", "text", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_what_was_built_is_told_in_the_folder(tiny_towers: dict[str, Path]) -> None:
    for modality, folder in tiny_towers.items():
        spec = TowerSpec.from_json((folder / "tower.json").read_text())
        assert spec.modality == modality
        assert spec == load_tower(folder).spec
