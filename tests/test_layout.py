"""The walls between the rooms: which package and module may import what."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("catalogue_lookup", "encoders", "pipelines", "transforms")

# What a shop's service loads: these work where annoy, numpy and pyarrow are all that is installed.
QUERY_SIDE = frozenset(
    """encoders.bundle encoders.fusion encoders.gate encoders.heads encoders.integrity encoders.pooling encoders.query_bank
    encoders.ranking encoders.side_by_side encoders.tokens encoders.tower_spec encoders.towers transforms.decode
    transforms.text""".split()
)
TENSORFLOW = frozenset(
    ("keras", "keras_hub", "tensorflow", "tensorflow_text", "tensorflow_transform", "tf_keras")
)
QUERY_EXTRA = frozenset(("PIL", "ai_edge_litert", "sentencepiece", "tokenizers"))


@dataclass(frozen=True)
class Import:
    """One import: by which module, of what, and whether it happens as soon as the module is imported."""

    by: str
    of: str
    at_once: bool

    @property
    def room(self) -> str:
        """Give the package or distribution that is imported from."""
        return self.of.partition(".")[0]

    def reaches(self, modules: frozenset[str]) -> bool:
        """Tell whether one of the modules, or a name in one, is imported."""
        return any(self.of == module or self.of.startswith(f"{module}.") for module in modules)


def module_name(path: Path) -> str:
    """Return the dotted name of a file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> Iterator[Import]:
    """Yield every import of a file, those in functions and for type checkers too."""
    by = module_name(path)

    def walk(node: ast.AST, at_once: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(by, alias.name, at_once) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{by} has a relative import: name the package"
            yield from (Import(by, f"{node.module}.{alias.name}", at_once) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if called in ("import_module", "__import__"):
                yield Import(by, str(node.args[0].value), at_once)
        later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        never = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for child in ast.iter_child_nodes(node):
            yield from walk(child, at_once and not later and not never)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), True)


@pytest.fixture(scope="module")
def imports() -> list[Import]:
    """Return every import in the four rooms."""
    files = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    assert len(files) > len(ROOMS)
    return [found for path in files for found in imports_of(path)]


def told(breaches: list[Import]) -> list[str]:
    """Return breaches as lines that a failing test shows."""
    return [f"{found.by} imports {found.of}" for found in breaches]


@pytest.mark.parametrize(
    ("room", "forbidden"),
    [
        ("transforms", ("apache_beam", "catalogue_lookup", "encoders", "pipelines")),
        ("encoders", ("apache_beam", "catalogue_lookup", "pipelines", "transforms", "pyarrow", "argparse")),
        ("catalogue_lookup", ("apache_beam", "pipelines", *sorted(TENSORFLOW))),
    ],
)
def test_a_room_does_not_know_what_it_must_not(
    imports: list[Import], room: str, forbidden: tuple[str, ...]
) -> None:
    assert not told(
        [found for found in imports if found.by.startswith(f"{room}.") and found.room in forbidden]
    )


def test_the_lookup_imports_the_query_side_of_the_other_rooms_only(imports: list[Import]) -> None:
    ours = [found for found in imports if found.by.split(".")[0] == "catalogue_lookup"]
    assert ours
    known = {"annoy", "catalogue_lookup", "numpy", "pyarrow", *QUERY_EXTRA} | sys.stdlib_module_names
    assert not told([found for found in ours if found.room not in known and not found.reaches(QUERY_SIDE)])


def test_the_query_side_imports_nothing_beyond_itself(imports: list[Import]) -> None:
    """Else the lookup would reach through it what it must not import itself."""
    ours = [found for found in imports if found.by in QUERY_SIDE]
    assert {found.by for found in ours} == QUERY_SIDE
    known = {"numpy", *QUERY_EXTRA, *TENSORFLOW} | sys.stdlib_module_names
    assert not told([found for found in ours if found.room not in known and not found.reaches(QUERY_SIDE)])


def test_the_query_side_imports_extras_and_tensorflow_only_when_they_are_used(imports: list[Import]) -> None:
    lazy = QUERY_EXTRA | TENSORFLOW
    at_once = [found for found in imports if found.at_once and found.room in lazy]
    assert not told(
        [found for found in at_once if found.by in QUERY_SIDE or found.by.startswith("catalogue_lookup")]
    )


def test_tensorflow_is_imported_by_encoders_and_transforms_only(imports: list[Import]) -> None:
    """But for tensorflow-transform's own Beam steps, where statistics are fitted and only then."""
    ours = [found for found in imports if found.room in TENSORFLOW and found.by.startswith("pipelines")]
    steps = [found for found in ours if found.of == "tensorflow_transform.beam" and not found.at_once]
    assert {found.by for found in steps} == {"pipelines.statistics"}
    assert not told([found for found in ours if found not in steps])


def test_init_files_are_empty_but_for_the_public_one() -> None:
    for room in ROOMS:
        text = (ROOT / room / "__init__.py").read_text(encoding="utf-8")
        assert bool(text) == (room == "catalogue_lookup"), f"{room}/__init__.py"


def test_no_package_hides_in_a_folder_of_data_or_tests() -> None:
    found = {path.parent.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("__init__.py")}
    assert found == {Path(room) for room in ROOMS}
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_the_walls_hold_when_the_modules_are_really_imported() -> None:
    """Import what a shop's service loads in a process that has nothing but annoy, numpy and pyarrow."""
    script = f"""
import sys

class Wall:
    allowed = set(sys.stdlib_module_names) | {set(ROOMS)!r} | {{"annoy", "numpy", "pyarrow"}}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in self.allowed and not name.startswith("_sysconfigdata"):
            raise ModuleNotFoundError(f"{{name}} is behind the wall", name=name)

sys.meta_path.insert(0, Wall())
import catalogue_lookup
for module in {sorted(QUERY_SIDE)!r}:
    __import__(module)
assert not [name for name in sys.modules if name.startswith("pipelines")]
"""
    answer = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr


def test_a_breach_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "encoders").mkdir()
    file = tmp_path / "encoders" / "heads.py"
    file.write_text(
        "from typing import TYPE_CHECKING\nimport PIL.Image\nfrom transforms import text\n"
        "if TYPE_CHECKING:\n    import keras\ndef later():\n    import apache_beam as beam\n"
        "    import_module('pipelines.cli')\n",
        encoding="utf-8",
    )
    assert [(found.of, found.at_once) for found in imports_of(file)] == [
        ("typing.TYPE_CHECKING", True),
        ("PIL.Image", True),
        ("transforms.text", True),
        ("keras", False),
        ("apache_beam", False),
        ("pipelines.cli", False),
    ]
