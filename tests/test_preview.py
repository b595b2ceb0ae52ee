"""The preview of views: what it shows is what a run would encode."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import product, write_shards
from PIL import Image

from pipelines.catalogue import CatalogueError
from pipelines.cli import main
from pipelines.config import read_config
from pipelines.features import content_hash
from pipelines.preview import preview, write_contact_sheet
from transforms.decode import decode_picture
from transforms.views import PictureOperations, PictureViews

ROOT = Path(__file__).parent.parent


@pytest.fixture
def catalogue(tmp_path: Path) -> str:
    rows = [product(number) for number in range(30)]
    rows[0]["image"]["bytes"] = b"no picture"
    rows[4]["image"], rows[5]["name"], rows[5]["body_html"] = None, None, None
    return write_shards(tmp_path / "catalogue", rows, 20)


def test_views_are_those_that_a_run_encodes(tmp_path: Path, catalogue: str) -> None:
    config = read_config(None, {"catalogue": [catalogue], "seed": 3, "picture_operation": ["rotate=30"]})
    shown = preview(config, "P00022", 4, 32)
    data = product(22)["image"]["bytes"]
    operations = PictureOperations.of({"rotate": 30})
    made = PictureViews(32, operations, 3).make(np.stack([decode_picture(data, 32)] * 4), [content_hash(data)] * 4, [0, 1, 2, 3])
    assert shown.product_id == "P00022"
    assert np.array_equal(shown.pictures, made[None])
    assert shown.texts[0].startswith("green shirt number 22")
    assert len(shown.texts) == 4
    assert len(set(shown.texts)) > 1

    write_contact_sheet(str(tmp_path / "sheet.png"), shown)
    with Image.open(tmp_path / "sheet.png") as opened:
        sheet = np.asarray(opened)
    for number, picture in enumerate(made):
        left = 6 + 38 * number
        assert np.array_equal(sheet[24:56, left : left + 32], picture)


def test_the_first_product_with_a_picture_is_shown_by_default(catalogue: str) -> None:
    config = read_config(None, {"catalogue": [catalogue]})
    assert preview(config, None, 2, 16).product_id == "P00001"
    without_picture, without_text = preview(config, "P00004", 2, 16), preview(config, "P00005", 2, 16)
    assert (len(without_picture.pictures), len(without_picture.texts)) == (0, 2)
    assert (len(without_text.pictures), len(without_text.texts)) == (1, 0)
    with pytest.raises(CatalogueError, match="the catalogue has no product 'P99999'"):
        preview(config, "P99999", 2, 16)
    with pytest.raises(CatalogueError, match=r"part-00000\.parquet is not TFRecord, as --format tfrecord says"):
        preview(config.replace(format="tfrecord"), None, 2, 16)


def test_the_command_writes_the_sheet_and_prints_the_texts(tmp_path: Path, catalogue: str) -> None:
    command = [sys.executable, "-m", "pipelines", "preview-views", "--catalogue", catalogue, "--product-id", "P00007"]
    done = subprocess.run(
        [*command, "--views", "3", "--side", "24", "--output", str(tmp_path / "sheet.png")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "product P00007" in done.stdout
    assert "green shirt number 7" in done.stdout
    assert f"wrote 3 views of 1 pictures to {tmp_path / 'sheet.png'}" in done.stdout.replace("\n", "")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (6 + 3 * 30, 6 + 24 + 18 + 6)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--views", "0"], "--views is 0; it must be at least 1"),
        (["--format", "tfrecord"], "is not TFRecord, as --format tfrecord says, it looks like Parquet"),
        (["--picture-operation", "spin=1"], "there is no picture operation 'spin'; it may be flip, rotate"),
        (["--picture-operation", "rotate"], "--picture-operation takes NAME=VALUE, not 'rotate'"),
    ],
)
def test_bad_flags_are_a_sentence(
    flags: list[str], message: str, tmp_path: Path, catalogue: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["preview-views", "--catalogue", catalogue, "--output", str(tmp_path / "sheet.png"), *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "sheet.png").exists()
