"""The lookup where annoy, numpy and pyarrow are all that is installed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from version_maker import draw_products, make_version

from pipelines.layout import Index
from pipelines.publish import publish_version

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def thin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the three packages and our own, and nothing else."""
    folder = tmp_path_factory.mktemp("thin")
    for name in ("annoy", "numpy", "pyarrow"):
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        package = Path(spec.origin).parent
        for part in (package, package.parent / f"{name}.libs"):
            if part.exists():
                (folder / part.name).symlink_to(part)
    for name in ("catalogue_lookup", "encoders", "pipelines", "transforms"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Publish a small index."""
    root = tmp_path_factory.mktemp("index")
    make_version(root, "v1", draw_products(50))
    publish_version(Index(str(root)), "v1", None)
    return root


def python(thin: Path, script: str) -> str:
    """Run a script without site-packages; returns what it printed."""
    start = f"import sys\nsys.path = [{str(thin)!r}, *(p for p in sys.path if p)]\n"
    answer = subprocess.run(
        [sys.executable, "-S", "-E", "-W", "error", "-c", start + script],
        capture_output=True, text=True, check=False, cwd=thin,
        env={"HOME": str(thin), "CATALOGUE_INDEX_CACHE": os.environ["CATALOGUE_INDEX_CACHE"]},
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_the_environment_has_nothing_else(thin: Path) -> None:
    found = python(
        thin,
        """
from importlib.util import find_spec
names = "PIL ai_edge_litert annoy apache_beam numpy pandas pyarrow sentencepiece tensorflow tokenizers yaml".split()
print(*[name for name in names if find_spec(name)])
""",
    )
    assert found.split() == ["annoy", "numpy", "pyarrow"]


def test_importing_and_searching_take_annoy_numpy_and_pyarrow_only(thin: Path, index: Path) -> None:
    script = f"""
import catalogue_lookup
with catalogue_lookup.open_index({str(index)!r}) as index:
    hits = index.search(product_id="P00007", k=3, where="price < 40 and tags = 'new'")
    print(len(hits), all(hit.columns["price"] < 40 for hit in hits))
    print(index.search(vector=[1.0] * 32, k=1)[0].rank)
ours = {{"annoy", "catalogue_lookup", "cython_runtime", "encoders", "numpy", "pyarrow", "transforms", "__main__"}}
loaded = {{name.partition(".")[0] for name in sys.modules}} - set(sys.stdlib_module_names)
print(sorted(name for name in loaded - ours if not name.startswith("_")))
"""
    assert python(thin, script).split("\n") == ["3 True", "1", "[]", ""]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("text='shoe'", "the package 'ai-edge-litert' is not installed: pip install 'catalogue-index[query]'"),
        ("image=b'jpeg'", "the package 'ai-edge-litert' is not installed: pip install 'catalogue-index[query]'"),
    ],
)
def test_a_text_or_picture_says_what_to_install(thin: Path, index: Path, query: str, message: str) -> None:
    script = f"""
from catalogue_lookup import open_index
try:
    open_index({str(index)!r}).search({query})
except ModuleNotFoundError as error:
    print(error)
"""
    assert python(thin, script) == message + "\n"
