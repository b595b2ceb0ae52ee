"""A pretrained pair becomes a bundle without training, and an index that answers texts and pictures."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import least_cosine, product, write_shards
from PIL import Image
from test_hugging_face import decoded

from catalogue_lookup import open_index
from encoders.bundle import open_bundle
from encoders.towers import load_tower
from pipelines.cli import main


@pytest.fixture(scope="module")
def pair(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Import the tiny random CLIP."""
    folder = tmp_path_factory.mktemp("imported") / "bundle"
    assert main(["import", f"hf:{real_data / 'golden' / 'clip'}", "--bundle", str(folder)]) == 0
    return folder


def test_both_forms_of_an_imported_pair_give_the_vectors_of_the_original(pair: Path, real_data: Path) -> None:
    golden = real_data / "golden"
    expected = np.load(golden / "clip" / "expected.npz")
    bundle = open_bundle(pair)
    assert {modality: tower.forms for modality, tower in bundle.towers.items()} == dict.fromkeys(
        ("picture", "text"), ("litert", "saved_model")
    )
    assert bundle.training == {"imported": f"hf:{golden / 'clip'}"}
    pixels = decoded(golden, 64, bundle.towers["picture"].decoding)
    for form in ("litert", "saved_model"):
        pictures = load_tower(pair / "towers" / "picture", form).encode(pixels)
        assert least_cosine(pictures, expected["image"]) > 0.99999
        texts = load_tower(pair / "towers" / "text", form)
        assert least_cosine(texts.encode(expected["texts"].tolist()), expected["text"]) > 0.99999
        cut, longer = texts.encode(["red " * 200, "red " * 300])
        np.testing.assert_allclose(cut, longer, atol=1e-6)
        assert texts.truncated == 2


def test_an_imported_pair_makes_an_index_that_answers_texts_and_pictures(
    pair: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [product(number) for number in range(60)]
    catalogue = write_shards(tmp_path / "shop", rows, 30)
    arguments = ["run", "--catalogue", catalogue, "--index", str(tmp_path / "index"), "--bundle", str(pair)]
    assert main([*arguments, "--column", "product_id=sku", "--column", "title=name", "--text", "title"]) == 0
    with open_index(str(tmp_path / "index")) as index:
        assert index.search(text="green shirt number 7", k=1)[0].product_id == "P00007"
        both = index.search(text="blue shirt number 8", image=rows[8]["image"]["bytes"], k=1)
        assert both[0].product_id == "P00008"
    # A random network takes texts for no pictures like them: pictures among pictures.
    again = ["run", "--catalogue", catalogue, "--index", str(tmp_path / "index"), "--weight", "text=0"]
    assert main([*again, "--column", "product_id=sku", "--column", "title=name", "--text", "title"]) == 0
    assert "encoded nothing, all features were stored\n" in capsys.readouterr().out
    with open_index(str(tmp_path / "index")) as index:
        image = Image.open(io.BytesIO(rows[23]["image"]["bytes"]))
        assert index.search(image=image, k=1)[0].product_id == "P00023"


def test_options_of_a_pair_go_to_the_side_that_has_them(real_data: Path, tmp_path: Path) -> None:
    name = f"hf:{real_data / 'golden' / 'clip'}"
    assert main(["import", f"{name}?fit=pad&prefix=a%20photo%20of&batch=8", "--bundle", str(tmp_path / "bundle")]) == 0
    bundle = open_bundle(tmp_path / "bundle")
    picture, text = bundle.towers["picture"], bundle.towers["text"]
    assert (picture.spec, picture.decoding.fit, picture.batch) == (f"{name}?fit=pad&batch=8", "pad", 8)
    assert (text.spec, text.prefix, text.batch) == (f"{name}?prefix=a%20photo%20of&batch=8", "a photo of", 8)


WITHOUT_TENSORFLOW = """
import sys
for name in ("tensorflow", "keras", "keras_hub", "apache_beam"):
    sys.modules[name] = None
from pathlib import Path
from catalogue_lookup.query import QueryEncoder
from encoders.bundle import open_bundle
encoder = QueryEncoder(open_bundle(Path(sys.argv[1])))
found = encoder.vectors(["red shoes"], [sys.argv[2]])
print(found["text"].shape, found["picture"].shape)
"""


def test_queries_of_an_imported_pair_need_no_tensorflow(pair: Path, real_data: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_TENSORFLOW, str(pair), str(real_data / "golden" / "image1.png")]
    root = Path(__file__).parents[1]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert finished.stdout.strip() == "(24,) (24,)"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("package:minilm", "'package:minilm' is no pretrained pair: give hf:<folder> or keras-hub:<preset or folder>"),
        ("hf:x?crop=1", "tower 'hf:x?crop=1' has the option 'crop', which is unknown: known are batch, "),
        ("hf:/no/folder", "/no/folder holds no config.json: name a model's folder in Hugging Face's layout"),
    ],
)
def test_what_is_no_pair_is_refused(spec: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", spec, "--bundle", str(tmp_path / "bundle")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()
    assert main(["import", spec]) == 2
    assert "--bundle is missing: say it on the command line" in capsys.readouterr().err
