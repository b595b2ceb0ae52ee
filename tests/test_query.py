"""Queries by text and picture, encoded by small towers that run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import jpeg
from version_maker import Products, draw_products, make_version

from catalogue_lookup import QueryError, open_index
from catalogue_lookup.where import WhereError
from encoders.bundle import BundleError, open_bundle
from pipelines import layout
from pipelines.publish import publish_version

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    """Make an index of pictures, encoded by a bundle of small towers that run."""
    from catalogue_lookup.query import QueryEncoder

    root = tmp_path_factory.mktemp("real")
    bundle = open_bundle(tiny_bundle)
    (root / "bundles").mkdir()
    (root / "bundles" / bundle.hash).symlink_to(tiny_bundle)
    products = draw_products(30)
    encoder = QueryEncoder(bundle)
    pictures = encoder.decode([picture(int(row["product_id"][1:])) for row in products.rows])
    fused = bundle.fusion.fuse({"picture": encoder.encode("picture", pictures)}, {})
    own = {modality: np.zeros((30, 8), np.float32) for modality in ("picture", "text")}
    nothing = {modality: np.zeros(30, np.bool_) for modality in own}
    make_version(root, "v1", Products(products.rows, fused, own, nothing), bundle=bundle)
    publish_version(layout.Index(str(root)), "v1", None)
    return root


def picture(number: int) -> bytes:
    return jpeg((number * 8 % 256, number * 5 % 256, 255 - number * 8 % 256), number)


def test_a_filter_that_cannot_be_read_is_said_before_a_tower_is_loaded(real: Path, tmp_path: Path) -> None:
    root = tmp_path / "index"
    shutil.copytree(real, root, symlinks=True)
    next(path for path in (root / "bundles").iterdir() if path.is_symlink()).unlink()  # that of the version
    with open_index(root) as index:
        with pytest.raises(WhereError, match="colours"):
            index.search(image=picture(12), where="colours = 'red'")
        with pytest.raises(BundleError, match=r"holds no bundle\.json"):
            index.search(image=picture(12), where="colour = 'red'")


def test_a_picture_finds_its_product_however_it_is_given(real: Path, tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "shoe.jpg"
    path.write_bytes(picture(12))
    with open_index(real) as index:
        hits = index.search(image=picture(12))
        assert hits[0].product_id == "P00012"
        assert index.search(image=path) == index.search(image=str(path)) == hits
        with Image.open(path) as opened:
            assert index.search(image=opened)[0].product_id == "P00012"
        for bad, message in ((b"no picture", "the picture cannot be searched with: the 10 bytes are no picture"),
                             (tmp_path / "none.jpg", f"cannot read the picture {tmp_path}/none.jpg: No such file")):  # fmt: skip
            with pytest.raises(QueryError, match=message):
                index.search(image=bad)


def test_a_text_and_a_picture_together_are_the_mean_of_both(real: Path) -> None:
    with open_index(real) as index:
        texts = {hit.product_id: hit.score for hit in index.search(text="thing <b>7</b>", k=30)}
        pictures = {hit.product_id: hit.score for hit in index.search(image=picture(7), k=30)}
        both = {hit.product_id: hit.score for hit in index.search(text="thing 7", image=picture(7), k=30)}
        # The scores of the mean are the mean of the scores but for a factor.
        factors = [both[name] / (texts[name] + pictures[name]) for name in both]
        assert factors == pytest.approx([factors[0]] * 30, rel=1e-3)


def test_a_query_by_picture_imports_neither_tensorflow_nor_beam_nor_pandas(real: Path, tmp_path: Path) -> None:
    path = tmp_path / "shoe.jpg"
    path.write_bytes(picture(12))
    script = f"""
import sys
from catalogue_lookup import open_index
with open_index({str(real)!r}) as index:
    print(index.search(image={str(path)!r}, where="stock < 3 and colour in ('red', 'blue') or tags = 't0'", k=1)[0].product_id)
print([name for name in ("apache_beam", "keras", "pandas", "tensorflow") if name in sys.modules])
"""
    answer = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.stdout.split("\n")[:2] == ["P00012", "[]"], answer.stderr
