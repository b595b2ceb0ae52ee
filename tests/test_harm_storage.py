"""Full disks, folders that cannot be written to, and catalogues that are damaged or change while they are read."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import product, write_shards
from harm import Shop, answers, content, kill, made_shop, products, published, wait_until
from shop_files import zip_file

from pipelines.cli import main

PRODUCTS = 60
FLAGS = ("--unit-items", "16", "--partition-rows", "32", "--trees", "5", "--max-items-per-shard", "40")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Shop:
    """Make a catalogue of two shards."""
    made = made_shop(tmp_path_factory.mktemp("shop"), tiny_bundle, products(PRODUCTS), 30)
    return replace(made, flags=FLAGS)


@pytest.fixture(scope="module")
def whole(shop: Shop) -> Shop:
    """Bring it into an index that nothing ever happened to."""
    assert main(shop.arguments) == 0
    return shop


@contextmanager
def mounted(folder: Path, *how: str) -> Iterator[None]:
    """Mount something on a folder for the block; skip where the user may not."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", *how, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this user may mount nothing: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def refused(shop: Shop, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run the command; returns its exit code and what it says."""
    capsys.readouterr()
    code = main(shop.arguments)
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return code, error[error.rindex("catalogue-index: ") :].strip() if "catalogue-index: " in error else ""


def full_disk(whole: Shop, folder: Path, share: float, before: Path | None, capsys: pytest.CaptureFixture[str]) -> str:
    """Fill a disk at a share of what a run needs; give it space and go on; returns what was said."""
    needed = size_of(whole.index)
    with mounted(folder / "disk", "-t", "tmpfs", "-o", f"size={int(share * needed) // 4096 * 4096 or 4096}", "tmpfs"):
        shop = whole.at(folder / "disk" / "index")
        if before is not None:
            subprocess.run(["mount", "-o", "remount,size=1g", str(folder / "disk")], check=True)
            shutil.copytree(before, shop.index)
            size = size_of(shop.index) + int(share * needed)
            subprocess.run(["mount", "-o", f"remount,size={size // 4096 * 4096}", str(folder / "disk")], check=True)
            was = answers(shop.index)
        code, told = refused(shop, capsys)
        assert code == 6, told
        assert told.endswith(": the disk is full; free some space and run it again")
        if before is None:
            assert published(shop.index) is None
        else:
            assert answers(shop.index) == was
        subprocess.run(["mount", "-o", "remount,size=1g", str(folder / "disk")], check=True)
        assert main(shop.arguments) == 0
        version = str(published(shop.index))
        assert content(shop.index, version) == content(whole.index, str(published(whole.index)))
        assert list(shop.index.rglob("*.tmp")) == []
    return told


def test_a_disk_that_is_full_is_a_sentence_and_loses_nothing(
    whole: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full_disk(whole, tmp_path, 0.5, None, capsys)


@pytest.mark.harm
def test_disks_that_are_full_at_each_stage(
    whole: Shop, tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shares = (0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95)
    said = [full_disk(whole, tmp_path / f"first-{share}", share, None, capsys) for share in shares]
    rows = products(PRODUCTS)
    for row in rows[::3]:
        row["name"] += " of yesterday"
    yesterday = replace(made_shop(tmp_path / "yesterday", tiny_bundle, rows, 30), flags=FLAGS)
    assert main(yesterday.arguments) == 0
    later = (0, 0.02, 0.05, 0.08, 0.1)
    said += [full_disk(whole, tmp_path / f"second-{share}", share, yesterday.index, capsys) for share in later]
    capsys.readouterr()
    where = sorted({line.partition("/index/")[2].partition(":")[0].split("/")[0] for line in said})
    with capsys.disabled():
        print(f"\n{len(said)} full disks: exit code 6 each, at {', '.join(where)}; with space each finished, the same bytes")


@pytest.mark.harm
def test_a_full_disk_for_temporary_files_is_a_sentence(
    whole: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = whole.at(tmp_path / "index")
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=4k", "tmpfs"):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "small"))
        code, told = refused(shop, capsys)
        assert code == 6, told
        assert f"{tmp_path}/small/" in told
    monkeypatch.setattr("tempfile.tempdir", None)
    assert main(shop.arguments) == 0


def test_files_above_a_limit_of_the_system_are_a_sentence(whole: Shop, tmp_path: Path) -> None:
    """What works where nothing may be mounted: the kernel refuses each byte above the limit."""
    shop = whole.at(tmp_path / "index")
    largest = max(path.stat().st_size for path in whole.index.rglob("*") if path.is_file())

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest * 2 // 3, resource.RLIM_INFINITY))

    code, _, errors = shop.finish(preexec_fn=limit)
    assert code == 6, errors
    assert errors.strip().splitlines()[-1].startswith("catalogue-index: cannot write /")
    assert errors.strip().endswith(": File too large")
    assert "Traceback" not in errors
    assert shop.finish()[0] == 0
    assert content(shop.index, str(published(shop.index))) == content(whole.index, str(published(whole.index)))


@pytest.mark.harm
def test_an_index_that_cannot_be_written_to_is_a_sentence(
    whole: Shop, tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Permissions do not hold root back; a file system that is mounted read-only does."""
    index = tmp_path / "index"
    shutil.copytree(whole.index, index)
    shop = replace(made_shop(tmp_path / "new", tiny_bundle, products(PRODUCTS + 3), 30), flags=FLAGS).at(index)
    was = answers(index)
    with mounted(index, "--bind", str(index)):
        subprocess.run(["mount", "-o", "remount,bind,ro", str(index)], check=True)
        assert refused(shop, capsys) == (6, f"catalogue-index: cannot open the lock {index}/LOCK: Read-only file system")
        assert answers(index) == was
        for command in (["rollback"], ["publish", was[0]]):
            capsys.readouterr()
            assert main([*command, "--index", str(index)]) == 6
        assert main(["withdraw", "P00001", "--index", str(index)]) == 6
        assert "Read-only file system" in capsys.readouterr().err
    assert main(shop.arguments) == 0


@pytest.mark.parametrize("name", ["runs", "versions", "features", "bundles", "index.json", "LOCK"])
@pytest.mark.harm
def test_a_file_in_the_place_of_a_folder_or_the_reverse_is_a_sentence(
    whole: Shop, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = whole.at(tmp_path / "index")
    shop.index.mkdir()
    if name in ("index.json", "LOCK"):
        (shop.index / name).mkdir()
    else:
        (shop.index / name).write_text("no folder")
    code, told = refused(shop, capsys)
    assert code == 6, told
    assert f"{shop.index}/{name}" in told
    if name in ("index.json", "LOCK"):
        (shop.index / name).rmdir()
    else:
        (shop.index / name).unlink()
    assert main(shop.arguments) == 0
    assert content(shop.index, str(published(shop.index))) == content(whole.index, str(published(whole.index)))


# --- the catalogue ---


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garble(path: Path) -> None:
    """Overwrite what lies in the middle of the row groups; the footer stays whole."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 3
    data[middle : middle + 2000] = b"\xa5" * 2000
    path.write_bytes(data)


def write_anew(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([product(number) for number in range(500, 530)]), path, row_group_size=16)


def flip(path: Path) -> None:
    """Flip one bit, in the middle of a picture."""
    data = bytearray(path.read_bytes())
    data[data.rindex(b"\xff\xd8\xff", 0, len(data) // 2) + 300] ^= 4
    path.write_bytes(data)


CHANGES: dict[str, Callable[[Path], None]] = {
    "vanishes": Path.unlink, "is cut": cut, "is garbled": garble, "is written anew": write_anew,
}  # fmt: skip


def changed_meanwhile(whole: Shop, folder: Path, stage: str, change: str, before: Path | None) -> str:
    """Change a shard while the command is stopped after a stage; returns what it says of it."""
    shutil.copytree(Path(whole.catalogue).parent, folder / "shop", copy_function=shutil.copy2)
    shop = whole.at(folder / "index", catalogue=f"{folder}/shop/*.parquet")
    if before is not None:
        shutil.copytree(before, shop.index)
    was = answers(shop.index) if before is not None else None
    own = set() if before is None else {path.name for path in (before / "runs").iterdir()}
    shard = folder / "shop" / "part-00001.parquet"
    process = shop.start()
    try:
        mark = "plan.json" if stage == "ingest" else f"ended/{stage}.json"
        place = -2 if stage == "ingest" else -3
        assert wait_until(lambda: any(path.parts[place] not in own for path in shop.paths(f"runs/*/{mark}")), process)
        os.killpg(process.pid, signal.SIGSTOP)
        kept = shutil.copy2(shard, folder / "kept")
        CHANGES[change](shard)
        os.killpg(process.pid, signal.SIGCONT)
        _, errors = process.communicate(timeout=300)
    finally:
        if process.poll() is None:
            kill(process)
    told = errors.strip().splitlines()[-1]
    assert "Traceback" not in errors
    if process.returncode == 0:
        # It had read all it needed of the shard by then.
        told = "it had been read"
    else:
        assert process.returncode == 2, errors
        assert told == f"catalogue-index: {shard} has changed since the run listed it: start the run again"
        assert answers(shop.index) == was if was is not None else published(shop.index) is None
    runs = {path.name for path in (shop.index / "runs").iterdir()} - own
    shutil.copy2(kept, shard)
    code, _, errors = shop.finish()
    assert code == 0, errors
    assert str(published(shop.index)) in runs
    theirs, mine = content(whole.index, str(published(whole.index))), content(shop.index, str(published(shop.index)))
    assert {name: entry for name, entry in mine["files"].items() if "rejects" not in name} == theirs["files"]
    return told


def test_a_shard_that_vanishes_while_it_is_read_stops_the_run_which_goes_on_when_it_is_back(whole: Shop, tmp_path: Path) -> None:
    assert changed_meanwhile(whole, tmp_path, "ingest", "vanishes", None).endswith("start the run again")


@pytest.mark.harm
def test_shards_that_change_at_any_time_stop_the_run(whole: Shop, tmp_path: Path, tiny_bundle: Path) -> None:
    rows = products(PRODUCTS)
    for row in rows[::3]:
        row["name"] += " of yesterday"
        row["image"] = product(900)["image"]
    yesterday = replace(made_shop(tmp_path / "yesterday", tiny_bundle, rows, 30), flags=FLAGS)
    assert main(yesterday.arguments) == 0
    said = [
        changed_meanwhile(whole, tmp_path / f"{stage}-{change}", stage, change, yesterday.index if number % 2 else None)
        for number, (stage, change) in enumerate((stage, change) for stage in ("ingest", "plan") for change in CHANGES)
    ]
    stopped = sum(told.endswith("start the run again") for told in said)
    print(f"\n{len(said)} shards changed within a run: {stopped} runs stopped with exit code 2 and finished when it was back "
          f"as it was, {len(said) - stopped} had read it")  # fmt: skip


def lines(count: int) -> bytes:
    rows = ({"id": f"P{number:05d}", "title": f"a red shirt {number}", "price": 5.0} for number in range(count))
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def table(count: int) -> bytes:
    return b"id,title,price\n" + b"".join(f'P{number:05d},"a red shirt, {number}",5.0\n'.encode() for number in range(count))


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("shop.parquet", cut, "is cut off: it begins as a Parquet file and has no readable footer; write it again"),
        ("shop.parquet", garble, "is damaged: "),
        ("shop.parquet", flip, "is damaged: "),
        ("shop.csv.gz", cut, "is cut off: its gzip stream has no end; write it again"),
        ("shop.csv.gz", garble, "is "),
        ("shop.jsonl.gz", cut, "is cut off: its gzip stream has no end; write it again"),
        ("shop.parquet.gz", cut, "is cut off: its gzip stream has no end; write it again"),
    ],
)
def test_a_shard_that_is_damaged_from_the_beginning_is_named_and_yesterday_stays(
    whole: Shop, tmp_path: Path, name: str, damage: Callable[[Path], None], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    index = Path(shutil.copytree(whole.index, tmp_path / "index"))
    was = answers(index)
    path = tmp_path / name.removesuffix(".gz")
    if path.suffix == ".parquet":
        # Checksums of pages are what tells a byte of a picture that is wrong.
        write_shards(tmp_path, products(PRODUCTS), PRODUCTS)
        pq.write_table(pq.read_table(tmp_path / "part-00000.parquet"), path, row_group_size=16, write_page_checksum=True)
        (tmp_path / "part-00000.parquet").unlink()
    else:
        path.write_bytes(lines(600) if path.suffix == ".jsonl" else table(600))
    path = zip_file(path) if name.endswith(".gz") else path
    sound = path.read_bytes()
    damage(path)
    shop = whole.at(index, catalogue=str(path), flags=("--trees", "5", "--max-shrink", "1"))
    code, told = refused(shop, capsys)
    assert (code, told.startswith(f"catalogue-index: {path} {message}")) == (2, True), told
    assert answers(index) == was
    path.write_bytes(sound)
    assert main(shop.arguments) == 0


def test_a_jsonl_that_is_cut_loses_its_last_row_on_record_and_the_gate_refuses_what_lacks_half(
    whole: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "shop.jsonl"
    path.write_bytes(lines(200))
    shop = whole.at(tmp_path / "index", catalogue=str(path))
    assert main(shop.arguments) == 0
    was = published(shop.index)
    rest = lines(200)[: len(lines(200)) // 2 + 10]
    path.write_bytes(rest)
    code, told = refused(shop, capsys)
    assert code == 4
    assert "fewer than the 200 of version" in told
    assert published(shop.index) == was
    rejects = [row for file in shop.paths("runs/*/rejects/ingest-*.parquet") for row in pq.read_table(file).to_pylist()]
    assert [(row["reason"], row["detail"].partition(":")[0]) for row in rejects] == [
        ("unreadable_row", f"line {len(rest.splitlines())} is not JSON")
    ]
    path.write_bytes(lines(200))
    assert main(shop.arguments) == 0
