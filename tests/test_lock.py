"""The lock of an index: one job at a time, named, and free again however its process ends. With real processes."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import product, write_shards

from pipelines.cli import main
from pipelines.config import ConfigError
from pipelines.exit_codes import DONE, LOCKED
from pipelines.lock import LockedError, hold
from pipelines.storage import StorageError, compare_and_swap

HOLDER = """
import sys
from pipelines.lock import LockedError, hold
try:
    with hold(sys.argv[1], "run"):
        print("held", flush=True)
        sys.stdin.readline()
except LockedError as error:
    print(error, flush=True)
"""

Start = Callable[[Path], subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Return a function that starts a process that holds the lock of an index until it is told to go on."""
    started: list[subprocess.Popen[str]] = []

    def begin(index: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLDER, str(index)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ)
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_second_job_leaves_at_once_and_names_the_owner(
    tmp_path: Path, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    owner = start(tmp_path)
    assert said(owner) == "held"
    began = time.monotonic()
    assert main(["rollback", "--index", str(tmp_path)]) == LOCKED == 3
    assert time.monotonic() - began < 5
    assert re.fullmatch(
        rf"catalogue-index: the index {tmp_path} is locked by 'catalogue-index run' on {re.escape(socket.gethostname())}, "
        rf"process {owner.pid}, since 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00: wait until it has ended, or stop it; "
        "nothing was done",
        capsys.readouterr().err.strip(),
    )
    assert main(["publish", "v1", "--index", str(tmp_path)]) == LOCKED
    for command in ("train", "run", "ingest", "encode", "fuse", "build", "publish"):
        assert main([command, "--catalogue", "x", "--index", str(tmp_path)]) == LOCKED, command
    # What only reads goes on.
    assert main(["versions", "--index", str(tmp_path)]) == DONE
    assert [path.name for path in tmp_path.iterdir()] == ["LOCK"]


def test_the_lock_is_free_after_the_owner_ended(tmp_path: Path, start: Start) -> None:
    owner = start(tmp_path)
    assert said(owner) == "held"
    told = json.loads((tmp_path / "LOCK").read_text())
    assert (told["command"], told["host"], told["pid"]) == ("run", socket.gethostname(), owner.pid)
    owner.communicate("\n", timeout=30)
    assert owner.returncode == 0
    assert (tmp_path / "LOCK").read_bytes() == b""
    with hold(str(tmp_path), "run"):
        pass


def test_the_kernel_frees_the_lock_of_a_killed_owner_and_its_name_is_not_told_again(tmp_path: Path, start: Start) -> None:
    killed = start(tmp_path)
    assert said(killed) == "held"
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=30)
    assert json.loads((tmp_path / "LOCK").read_text())["pid"] == killed.pid
    later = start(tmp_path)
    assert said(later) == "held"
    with pytest.raises(LockedError, match=f"process {later.pid}, since"), hold(str(tmp_path), "run"):
        pass


def test_what_killed_owners_left_half_written_is_deleted_and_what_others_write_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pipelines")
    names = ("runs/r/.plan.json.ab12.tmp", "features/s/units/r/.u.parquet.x_y.tmp", ".index.json.1.tmp")
    left = [tmp_path / name for name in names]
    stays = [tmp_path / name for name in (".WITHDRAWN.ab12.tmp", "runs/r/plan.json", "runs/r/a.tmp", ".CURRENT.lock")]
    for path in (*left, *stays):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with hold(str(tmp_path), "run"):
        assert [path for path in left if path.exists()] == []
        assert all(path.exists() for path in stays)
    assert caplog.messages == ["deleted 3 half-written files that killed jobs left"]
    assert compare_and_swap(str(tmp_path / "WITHDRAWN"), None, b"{}")  # who writes the list holds its lock
    assert not stays[0].exists()


def test_of_many_at_once_one_gets_in(tmp_path: Path, start: Start) -> None:
    processes = [start(tmp_path) for _ in range(5)]
    answers = [said(process) for process in processes]
    assert answers.count("held") == 1
    owner = processes[answers.index("held")]
    assert sum(f"process {owner.pid}, since" in answer for answer in answers) == 4


def test_the_lock_is_free_after_an_error_and_not_shared_within_a_process(tmp_path: Path) -> None:
    with pytest.raises(KeyError), hold(str(tmp_path), "train"):
        raise KeyError
    with (
        hold(str(tmp_path), "train"),
        pytest.raises(LockedError, match=f"locked by 'catalogue-index train' on .*, process {os.getpid()}, since"),
        hold(str(tmp_path), "run"),
    ):
        pass


def test_an_owner_that_does_not_say_its_name_is_an_owner(tmp_path: Path) -> None:
    with hold(str(tmp_path), "run"):
        (tmp_path / "LOCK").write_bytes(b"")
        with pytest.raises(LockedError, match=r"is locked by another process: wait"), hold(str(tmp_path), "run"):
            pass


def test_an_object_store_has_no_lock_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pipelines")
    with hold("gs://shop/index", "run"), hold("gs://shop/index", "run"):
        pass
    assert caplog.messages == 2 * [
        "gs://shop/index is on an object store, which has no locks: see to it that one job at a time works on it"
    ]


def test_a_filesystem_without_locks_is_worked_on_and_the_log_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def without(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", without)
    with hold(str(tmp_path), "run"):
        assert f"the filesystem of {tmp_path} has no locks: see to it" in caplog.text


def test_what_is_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=f"cannot open the lock {tmp_path}/file/LOCK: "), hold(str(tmp_path / "file"), "run"):
        pass
    with pytest.raises(ConfigError, match=f"there is no index at {tmp_path}/none: no such folder"):
        hold(str(tmp_path / "none"), "rollback", create=False).__enter__()
    assert not (tmp_path / "none").exists()
    with hold(str(tmp_path / "new" / "index"), "run"):
        assert (tmp_path / "new" / "index" / "LOCK").exists()


def test_a_run_that_was_killed_leaves_an_index_that_the_next_one_goes_on_with(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    catalogue = write_shards(tmp_path / "shop", [product(number) for number in range(20)], 10)
    index = tmp_path / "index"
    job = ["run", "--index", str(index), "--catalogue", catalogue, "--bundle", str(tiny_bundle), "--trees", "5"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines", *job], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ
    )
    try:
        deadline = time.monotonic() + 120
        while not list(index.glob("runs/*/plan.json")) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGSTOP)
        assert main(job) == LOCKED
        assert f"'catalogue-index run' on {socket.gethostname()}, process {process.pid}, since" in capsys.readouterr().err
    finally:
        process.kill()
        process.communicate()
    assert main(job) == DONE
    assert "20 rows in = 20 products indexed + 0 rejected" in capsys.readouterr().out
    assert len(list(index.glob("runs/*"))) == 1
