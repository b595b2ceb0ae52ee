"""Every file of a version cut, altered by a bit, or taken from another version: it is refused by name, and nothing crashes."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import DIMENSION, SHARED, write_shards
from harm import products

from catalogue_lookup import open_index
from encoders.integrity import IntegrityError
from pipelines.cli import main
from pipelines.config import read_config
from pipelines.gate import Limits
from pipelines.layout import Index, read_json
from pipelines.operations import publish_existing, verify
from pipelines.publish import PublishError, read_current
from pipelines.run import run
from pipelines.withdraw import withdraw

FLIPS, SEED = 1_000, 20261127
Case = dict[str, Any]


@dataclass(frozen=True)
class Made:
    """An index of two versions with a bundle each.

    Attributes:
        root: of the index.
        current: the version that is current.
        files: its files and those of its bundle, CURRENT and WITHDRAWN.
        others: for each of them the file of the same purpose of the other version or bundle, where there is one.
        answers: product ids that are answered.
    """

    root: Path
    current: str
    files: list[Path]
    others: dict[Path, Path]
    answers: list[str]


def other_bundle(tiny_towers: dict[str, Path], folder: Path) -> Path:
    from encoders.bundle import write_bundle
    from encoders.fusion import Fusion
    from encoders.heads import random_head

    heads = {modality: random_head(DIMENSION, SHARED, seed + 9) for seed, modality in enumerate(tiny_towers)}
    fusion = Fusion("concatenation", {"picture": 0.5, "text": 0.5})
    return write_bundle(folder, tiny_towers, heads, fusion, {}, {"loss": 0.25, "epochs": 3}).folder


@pytest.fixture(scope="module")
def kept(tiny_bundle: Path, tiny_towers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Make the index by two real runs, with rejects and a list of withdrawn products."""
    folder = tmp_path_factory.mktemp("bytes")
    root = folder / "index"
    versions = []
    for number, bundle in enumerate((tiny_bundle, other_bundle(tiny_towers, folder / "other"))):
        rows = products(60)
        rows[7]["price"] = -1.0
        rows[8]["image"] = {"bytes": b"no picture", "path": None}
        for row in rows[:: 5 + number]:
            row["name"] += f" of night {number}"
        catalogue = write_shards(folder / f"shop-{number}", rows, 30)
        flags = {"index": str(root), "catalogue": [catalogue], "bundle": str(bundle), "trees": 5, "partition_rows": 32,
                 "max_items_per_shard": 32, "max_reject_rate": 0.2}  # fmt: skip
        versions.append(run(read_config(None, flags)).version)
    withdraw(str(root), ["P00009", "P00010"], "recalled")
    other, current = versions
    manifests = {version: read_json(f"{root}/versions/{version}/manifest.json") for version in versions}
    folders = {version: [root / "versions" / version, root / "bundles" / manifests[version]["bundle"]] for version in versions}
    files, others = [root / "CURRENT", root / "WITHDRAWN"], {}
    for mine, theirs in zip(folders[current], folders[other], strict=True):
        for path in sorted(path for path in mine.rglob("*") if path.is_file() and path.name != "published.json"):
            files.append(path)
            # Names end in the hash of the content: the rest says what a file is for.
            like = f"{path.relative_to(mine).as_posix().rpartition('-')[0]}-*{path.suffix}" if mine == folders[current][0] else ""
            found = sorted(theirs.glob(like if path.name != "manifest.json" and like else path.relative_to(mine).as_posix()))
            if found and found[0].read_bytes() != path.read_bytes():
                others[path] = found[0]
    with open_index(root) as index:
        assert index.version == current
        hits = [*index.search(text="red shirt", k=5), *index.search(product_id="P00004", k=5)]
    return Made(root, current, files, others, [hit.product_id for hit in hits])


@pytest.fixture
def made(kept: Made) -> Made:
    """See to it that the index is whole, and still is afterwards."""
    assert verify(Index(str(kept.root)))[1] == []
    return kept


def outcomes(made: Made, cases: Sequence[Case]) -> tuple[list[list[Any]], int]:
    """Do the cases; returns what happened to each, and how often the process died of it."""
    script, crashes = str(Path(__file__).parent / "damage.py"), 0
    found: list[list[Any]] = []
    while len(found) < len(cases):
        command = [sys.executable, script, str(made.root), str(len(found))]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
        done = subprocess.run(command, input=json.dumps(cases), capture_output=True, text=True, env=environment, check=False)
        found += [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
        if done.returncode:
            assert done.returncode < 0, done.stderr
            crashes += 1
            found.append(["crashed", str(done.returncode), ""])
    return found, crashes


def check(made: Made, cases: Sequence[Case]) -> str:
    """Hold every case to being refused; returns what happened in words."""
    found, crashes = outcomes(made, cases)
    wrong = []
    for case, outcome in zip(cases, found, strict=True):
        path = Path(case["file"])
        named = path.name in ("CURRENT", "WITHDRAWN") or path.name in outcome[2]
        # By the listing of another bundle the files beside it are wrong.
        if outcome[0] == "refused" and (named or (case["kind"] == "swap" and f"{path.parent}/" in outcome[2])):
            continue
        # The line break at the end of CURRENT may become another white space: it names the version all the same.
        if path.name == "CURRENT" and outcome == ["opened", made.current, made.answers]:
            assert case["kind"] != "flip" or case["at"] == len(made.current)
            continue
        wrong.append((case, outcome))
    assert wrong == []
    assert crashes == 0
    kinds = Counter(f"{outcome[0]} ({outcome[1]})" if outcome[0] != "opened" else "opened as before" for outcome in found)
    return f"{len(cases)} cases, {crashes} crashes: " + ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())


def flips(made: Made, count: int) -> list[Case]:
    draw = random.Random(SEED)
    cases = []
    for number in range(count):
        path = made.files[number % len(made.files)]
        at, bit = draw.randrange(path.stat().st_size), draw.randrange(8)
        cases.append({"file": str(path), "kind": "flip", "at": at, "bit": bit, "verify": ("once", "always")[number // 7 % 2]})
    return cases


def test_a_flipped_bit_in_each_file_is_refused(made: Made) -> None:
    print(f"\nflipped bits over {len(made.files)} files: {check(made, flips(made, len(made.files)))}")


@pytest.mark.harm
def test_a_thousand_flipped_bits_are_refused(made: Made) -> None:
    print(f"\nflipped bits over {len(made.files)} files: {check(made, flips(made, FLIPS))}")


@pytest.mark.harm
def test_each_file_cut_or_grown_is_refused(made: Made) -> None:
    cases = []
    for path in made.files:
        size = path.stat().st_size
        for number, changed in enumerate((0, 1, size // 2, size - 1, size + 1, size + 4096)):
            if changed == size - 1 and path.name in ("CURRENT", "WITHDRAWN", "manifest.json", "bundle.json"):
                continue  # without the line break at its end it says what it said
            cases.append({"file": str(path), "kind": "size", "size": changed, "verify": ("once", "always")[number % 2]})
    print(f"\nfiles cut to 0, 1, half, all but 1 of their bytes, or grown: {check(made, cases)}")


def test_each_file_of_another_version_is_refused(made: Made) -> None:
    assert {path.suffix for path in made.others} == {".json", ".ann", ".arrow", ".parquet", ".npz"}
    cases = [
        {"file": str(path), "kind": "swap", "other": str(other), "verify": verify}
        for path, other in made.others.items() for verify in ("once", "always")
    ]  # fmt: skip
    print(f"\nfiles swapped for those of the other version or bundle: {check(made, cases)}")


def test_a_copy_seen_before_is_hashed_again_where_a_file_was_touched(made: Made) -> None:
    draw, inside = random.Random(SEED), [path for path in made.files if path.name not in ("CURRENT", "WITHDRAWN")]
    cases = [
        {"file": str(path), "kind": "flip", "at": draw.randrange(path.stat().st_size), "bit": 3, "verify": "once", "seen": True}
        for path in inside
    ]  # fmt: skip
    print(f"\nflipped after the copy was verified, size and time of change put back: {check(made, cases)}")


GARBAGE = (b"", b"\n", bytes(40), b"\xff\xfe\xfd", b"x" * 10_000, b"../../../etc", b"..", b".", b"/etc/passwd", b"a/b",
           b'{"version": "v1"}', b"v1\nv2\n", b"v1 v2", "ﬀ".encode(), b"manifest.json", b"\x1b[2J")  # fmt: skip


def test_a_current_of_garbage_is_refused_by_readers_and_jobs(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    current = made.root / "CURRENT"
    whole = current.read_bytes()
    try:
        for garbage in GARBAGE:
            current.write_bytes(garbage)
            for verified in ("once", "always"):
                with pytest.raises(IntegrityError):
                    open_index(made.root, verify=verified)
            code = main(["versions", "--index", str(made.root)])
            told = capsys.readouterr().err
            if code:  # what names no version; "manifest.json" could be the name of one
                assert (code, told) == (
                    6, f"catalogue-index: {current} is altered: it names no version; delete it and publish one by its id\n"
                )  # fmt: skip
                with pytest.raises(IntegrityError):
                    publish_existing(Index(str(made.root)), made.current, Limits(0.0, 1.0))
                assert current.read_bytes() == garbage
        current.unlink()
        with pytest.raises(IntegrityError, match=r"holds neither CURRENT nor manifest\.json"):
            open_index(made.root)
        assert publish_existing(Index(str(made.root)), made.current, Limits(0.0, 1.0)).id == made.current
    finally:
        current.write_bytes(whole)
    assert read_current(Index(str(made.root))) == made.current


@pytest.mark.harm
def test_each_flip_in_a_bundle_is_named_by_verify_and_each_in_a_version_prevents_publishing(made: Made, tmp_path: Path) -> None:
    root = Path(shutil.copytree(made.root, tmp_path / "index"))
    index, draw = Index(str(root)), random.Random(SEED)
    (root / "CURRENT").unlink()
    named = refused = 0
    for path in made.files:
        if path.name in ("CURRENT", "WITHDRAWN"):
            continue
        copy = root / path.relative_to(made.root)
        data = copy.read_bytes()
        changed = bytearray(data)
        changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        copy.write_bytes(changed)
        if copy.name == "manifest.json":
            with pytest.raises(IntegrityError, match=r"manifest\.json"):
                verify(index, made.current)
        else:
            (line,) = verify(index, made.current)[1]
            assert line.startswith(str(copy))
        named += 1
        if "versions" in copy.parts:
            with pytest.raises((PublishError, IntegrityError), match=copy.name):
                publish_existing(index, made.current, Limits(0.0, 1.0), force=True)
            assert not (root / "CURRENT").exists()
            refused += 1
        copy.write_bytes(data)
    assert publish_existing(index, made.current, Limits(0.0, 1.0)).id == made.current
    print(f"\nverify named all of {named} damaged files; all of {refused} versions with a damaged file stayed unpublished")
