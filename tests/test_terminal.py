"""The log of the command: whole lines with a date in a file, short ones on a terminal, without TensorFlow's own."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from conftest import product, write_shards

LINE = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ) (INFO|WARNING) (\S.*)")
# What LiteRT writes, and TensorFlow while it is imported, before it reads its level: nothing turns that off.
NOTES = re.compile(r"INFO: Created TensorFlow Lite XNNPACK delegate .*|WARNING: All log messages before absl::.*|I\d{4} .*")
SAY = """
import logging
from pipelines.terminal import prepare_process
prepare_process()
logging.getLogger("pipelines.some").warning("plan: [bold] %s", "a long sentence " * 8)
"""


def test_in_a_file_a_line_of_a_run_is_a_sentence_with_date_and_level(tmp_path: Path, tiny_bundle: Path) -> None:
    rows = [product(number) for number in range(30)]
    rows[3]["image"] = {"bytes": b"no picture", "path": None}
    catalogue = write_shards(tmp_path / "shop", [*rows, product(9)], 20)
    command = [sys.executable, "-m", "pipelines", "run", "--catalogue", catalogue, "--index", str(tmp_path / "index"),
               "--bundle", str(tiny_bundle), "--trees", "5", "--column", "product_id=sku", "--column", "title=name",
               "--max-reject-rate", "1"]  # fmt: skip
    begun = datetime.now(UTC).replace(microsecond=0)
    with (tmp_path / "log").open("w") as log:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, check=False, env=os.environ)
    lines = [line for line in (tmp_path / "log").read_text().splitlines() if not NOTES.fullmatch(line)]
    assert done.returncode == 0, lines
    matches = [LINE.fullmatch(line) for line in lines]
    assert None not in matches, lines
    told = [match[3] for match in matches if match is not None]
    dates = [datetime.fromisoformat(match[1]) for match in matches if match is not None]
    assert begun <= dates[0] <= dates[-1] <= begun + timedelta(minutes=10)
    assert dates == sorted(dates)
    assert max(map(len, told)) > 100
    assert len(set(told)) == len(told), "no line is there twice"
    assert sum("runs in TensorFlow on the CPU, without a GPU" in line for line in told) == 1
    (version,) = [path.name for path in (tmp_path / "index" / "versions").iterdir()]
    ends = [re.sub(r"; \d+\.\d s$", "", line) for line in told if re.search(r"; \d+\.\d s$", line)]
    assert ends == [
        "ingest: 31 rows",
        "plan: 30 products; to encode: 30 pictures, 30 texts; rejected products: duplicate_product_id 1",
        "encode: encoded 29 picture items, 30 text items",
        "collect: fresh features of 2 spaces",
        "fuse: 30 products; rejected fields: undecodable_picture 1",
        "build: 30 products, recall@10 1",
        f"publish: version {version} is current: 30 products",
    ]
    assert f"new run {version}" in told
    assert "columns: product_id is sku, title is name, description is body_html, picture is image, price" in told


def on_terminal(code: str, **environment: str) -> str:
    """Return what a program shows on a terminal."""
    ours, theirs = pty.openpty()
    try:
        subprocess.run([sys.executable, "-c", code], stderr=theirs, check=True, env={**os.environ, **environment})
        os.close(theirs)
        return os.read(ours, 1 << 16).decode()
    finally:
        os.close(ours)


def test_on_a_terminal_a_line_has_the_time_of_day() -> None:
    shown = on_terminal(SAY, TERM="dumb", COLUMNS="60")
    first, *rest = shown.splitlines()
    assert re.match(r"\d\d:\d\d:\d\d plan: \[bold\] a long sentence", first)
    assert len(rest) >= 2
    assert all(line.startswith(" " * 9) for line in rest)


def test_on_a_terminal_with_colours_no_word_of_a_line_is_coloured() -> None:
    sentence = "encode: package:efficientnet-lite0 took 1,248 items of a unit, 20/s"
    code = (
        "import logging; from pipelines.terminal import prepare_process; prepare_process()\n"
        f"logging.getLogger('pipelines').info({sentence!r})"
    )
    shown = on_terminal(code, TERM="xterm-256color", COLUMNS="120")
    assert "\x1b[" in shown  # the time's
    assert sentence in shown


def test_tensorflow_neither_warns_nor_misses_a_gpu() -> None:
    code = (
        "from pipelines.terminal import prepare_process\n"
        "prepare_process()\n"
        "import tensorflow\n"
        "print(tensorflow.reduce_sum(tensorflow.constant([1, 2, 3])).numpy(), tensorflow.config.list_physical_devices('GPU'))\n"
    )
    hidden = {"TF_CPP_MIN_LOG_LEVEL", "CUDA_VISIBLE_DEVICES"}
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env)
    assert done.stdout.startswith("6 "), done.stderr
    assert [line for line in done.stderr.splitlines() if not NOTES.fullmatch(line)] == []
