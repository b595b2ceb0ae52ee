"""What is shipped: the source distribution that Beam sends to workers, the wheel, and `run_local.sh`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("catalogue_lookup", "encoders", "pipelines", "transforms")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the repository without what git ignores, to build in."""
    folder = tmp_path_factory.mktemp("clone") / "catalogue-index"
    leftovers = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "build", "dist", "local", "work")
    shutil.copytree(ROOT, folder, ignore=leftovers)
    return folder


@pytest.fixture(scope="module")
def source_distribution(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file that Beam's `--setup_file ./setup.py` sends to workers, made by Beam's own step."""
    folder = tmp_path_factory.mktemp("staging")
    script = (
        "from apache_beam.runners.portability.stager import Stager\n"
        f"print(Stager._build_setup_package('./setup.py', {str(folder)!r}))\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=clone, check=True, capture_output=True)
    (file,) = folder.glob("*.tar.gz")
    return file


@pytest.fixture(scope="module")
def wheel(source_distribution: Path, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Return the names in the wheel that a worker makes of the source distribution."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    command += ["--wheel-dir", str(folder), str(source_distribution)]
    subprocess.run(command, check=True, capture_output=True)
    (file,) = folder.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        return set(archive.namelist())


def modules(folder: Path, suffix: str) -> set[str]:
    """Return the paths of a package's files below the repository."""
    return {str(path.relative_to(ROOT)) for path in folder.rglob(f"*{suffix}")}


def test_the_source_distribution_holds_these_top_level_names_only(source_distribution: Path) -> None:
    with tarfile.open(source_distribution) as archive:
        names = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    metadata = {"LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg", "setup.py"}
    assert names == {*PACKAGES, *metadata, "catalogue_index.egg-info"}


def test_the_wheel_holds_every_module_the_word_tables_and_the_type_markers(wheel: set[str]) -> None:
    tables = modules(ROOT / "transforms" / "words", ".tsv")
    assert tables
    expected = {f"{package}/py.typed" for package in PACKAGES} | tables
    for package in PACKAGES:
        expected |= modules(ROOT / package, ".py")
    metadata = {name for name in wheel if ".dist-info/" in name}
    assert wheel - metadata == expected
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in metadata)


def test_an_installed_wheel_has_the_command(wheel: set[str]) -> None:
    assert any(name.endswith("dist-info/entry_points.txt") for name in wheel)
    with (ROOT / "pyproject.toml").open("rb") as file:
        assert tomllib.load(file)["project"]["scripts"] == {"catalogue-index": "pipelines.cli:main"}


def test_setup_py_lists_no_packages_of_its_own() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        listed = tomllib.load(file)["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(PACKAGES)
    assert "packages=" not in (ROOT / "setup.py").read_text(encoding="utf-8")


def test_every_requirement_is_pinned_with_hashes() -> None:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [i for i, line in enumerate(lines) if line and not line.startswith((" ", "#"))]
    assert len(pins) > 100
    for i in pins:
        assert "==" in lines[i]
        assert "--hash=sha256:" in lines[i + 1], lines[i]


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """Return a folder with `run_local.sh`, beside the folder of the only programs that it finds."""
    shutil.copy(ROOT / "run_local.sh", tmp_path)
    (tmp_path / "bin").mkdir()
    for name in ("bash", "cat", "dirname"):
        (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
    return tmp_path


def run_local(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script with the programs of `folder/bin` and no others."""
    environment = {name: value for name, value in os.environ.items() if name not in ("CXX", "CC")}
    return subprocess.run(
        [str(folder / "run_local.sh"), *arguments],
        env={**environment, "PATH": str(folder / "bin")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_machine_without_python_is_told_what_to_install(bare: Path) -> None:
    (bare / "bin" / "python3.12").write_text("#!/nowhere\n")  # a name with nothing behind it
    (bare / "bin" / "python3.12").chmod(0o755)
    answer = run_local(bare)
    assert answer.returncode == 1
    assert answer.stderr == (
        "run_local.sh: no Python 3.11, 3.12 or 3.13 found: install one "
        "(Debian, Ubuntu: apt install python3.11 python3.11-venv python3.11-dev)\n"
    )


def test_a_machine_without_a_compiler_is_told_what_to_install(bare: Path) -> None:
    (bare / "bin" / "python3").symlink_to(Path(sys.base_prefix) / "bin" / "python3")
    answer = run_local(bare)
    assert answer.returncode == 1
    assert answer.stderr == (
        "run_local.sh: no C++ compiler found, and Annoy has to be compiled: install g++ "
        "(Debian, Ubuntu: apt install g++)\n"
    )
    assert not (bare / ".venv").exists()


def test_wrong_arguments_are_named(bare: Path) -> None:
    for arguments, message in (
        (["--product", "5"], "unknown argument '--product': see ./run_local.sh --help"),
        (["--products", "many"], "--products needs a whole number, not 'many'"),
        (["--seed"], "--seed needs a whole number, not ''"),
    ):
        answer = run_local(bare, *arguments)
        assert (answer.returncode, answer.stderr) == (2, f"run_local.sh: {message}\n")


def test_help_describes_every_argument(bare: Path) -> None:
    answer = run_local(bare, "--help")
    assert answer.returncode == 0
    for flag in ("--products N", "--seed S", "--setup-only"):
        assert flag in answer.stdout
