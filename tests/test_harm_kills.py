"""kill -9 of the real command at random moments of two nights: nothing is lost, nothing is done twice, nothing is left."""

from __future__ import annotations

import random
import re
import shutil
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import product
from harm import Shop, answers, content, encoded, kill, made_shop, products, published, wait_until

PRODUCTS, SEED = 300, 20261127
# Where a moment lies: between the end of one stage and the next one's; "start" also holds what comes before the run.
STAGES = ("start", "ingest", "plan", "encode", "collect", "fuse", "build", "publish", "end")
# Ten moments a night, each stage at least once, the long and the delicate ones more often.
MOMENTS = (*STAGES, "encode")


@dataclass
class Night:
    """A run that was never killed, and how long its stages took.

    Attributes:
        shop: catalogue and command; its index is the one that was never killed.
        before: index as it was before the run; None: there was none.
        version: what it made.
        items: items it encoded.
        seconds: seconds of each stage.
        content: what the version holds.
        files: names of the files of the index afterwards, ids of runs blotted out.
        answers: of the version that was current before, and of this one.
    """

    shop: Shop
    before: Path | None
    version: str = ""
    items: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    content: dict[str, Any] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)
    answers: list[Any] = field(default_factory=list)


def files_of(index: Path) -> set[str]:
    names = [path.relative_to(index).as_posix() for path in index.rglob("*") if path.is_file()]
    return {re.sub(r"\d{8}T\d{6}Z-", "", name) for name in names}


def whole_night(shop: Shop, before: Path | None) -> Night:
    """Run a night without killing it."""
    night = Night(shop, before)
    if before is not None:
        shutil.copytree(before, shop.index)
        night.answers.append(answers(shop.index))
    started = time.time()
    code, output, errors = shop.finish()
    assert code == 0, errors
    night.version, night.items = str(published(shop.index)), encoded(output)
    run = shop.index / "runs" / night.version
    marks = [started, (run / "plan.json").stat().st_mtime]
    marks += [(run / "ended" / f"{stage}.json").stat().st_mtime for stage in STAGES[1:-1]]
    night.seconds = dict(zip(STAGES, (b - a for a, b in zip(marks, [*marks[1:], time.time()], strict=True)), strict=True))
    night.content, night.files = content(shop.index, night.version), files_of(shop.index)
    night.answers.append(answers(shop.index))
    return night


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Night:
    """Run the first night of an index."""
    return whole_night(made_shop(tmp_path_factory.mktemp("first"), tiny_bundle, products(PRODUCTS)), None)


@pytest.fixture(scope="module")
def second(first: Night, tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Night:
    """Run a second night: products gone, new, and changed."""
    rows = products(PRODUCTS + 20)[10:]
    for number, row in enumerate(rows):
        if number % 4 == 0:
            row["name"] = f"new {row['name']}"
        if number % 6 == 0:
            row["image"] = product(number + 1000)["image"]
    return whole_night(made_shop(tmp_path_factory.mktemp("second"), tiny_bundle, rows), first.shop.index)


def killed(night: Night, folder: Path, stage: str, share: float) -> str:
    """Kill a run within a stage, run it again, and hold it to all that is promised; returns what happened."""
    shop = night.shop.at(folder / "index")
    if night.before is not None:
        shutil.copytree(night.before, shop.index)
    process = shop.start()
    place = STAGES.index(stage)
    own = () if night.before is None else tuple(path.name for path in (night.before / "runs").iterdir())

    def begun() -> bool:
        mark = "plan.json" if place == 1 else f"ended/{STAGES[place - 1]}.json"
        return place == 0 or any(path.parts[-2 - (place > 1)] not in own for path in shop.paths(f"runs/*/{mark}"))

    wait_until(begun, process)
    time.sleep(share * night.seconds[stage])
    code = kill(process)

    current = published(shop.index)
    new = [path.parent.name for path in shop.paths("runs/*/plan.json") if path.parent.name not in own]
    assert len(new) <= 1
    went_over = current is not None and current in new
    if current is not None:
        version, found = answers(shop.index)
        assert (version, found) == ((new[0], night.answers[-1][1]) if went_over else night.answers[0])
    else:
        assert night.before is None
    left = list(shop.index.rglob("*.tmp"))
    if any(path.parts[-3] == new[0] for path in shop.paths("runs/*/ended/encode.json") if new):
        done = night.items
    else:
        units = [path for run in new for path in shop.paths(f"features/*/units/{run}/*.parquet")]
        done = sum(pq.read_metadata(path).num_rows for path in units)

    again, output, errors = shop.finish()
    assert again == 0, errors
    version = str(published(shop.index))
    assert version in new or not new
    assert version.rpartition("-")[2] == night.version.rpartition("-")[2]
    assert encoded(output) == night.items - done
    assert content(shop.index, version) == night.content
    assert answers(shop.index) == (version, night.answers[-1][1])
    assert files_of(shop.index) == night.files
    state = "killed" if code == -9 else "it had ended"
    told = (
        f"{'first' if night.before is None else 'second'} night, {stage} at {100 * share:.0f} %: {state}; current "
        f"{'the new version' if went_over else 'as before'}; {done} of {night.items} items kept, {len(left)} half-written files"
    )
    print(told, flush=True)
    return told


def moments(seed: int) -> list[tuple[str, float]]:
    """Draw the moments of a night."""
    draw = random.Random(seed)
    return [(stage, draw.random()) for stage in MOMENTS]


def report(lines: list[str]) -> None:
    states = Counter("killed" if ": killed;" in line else "ended" for line in lines)
    print(f"{len(lines)} kills: {states['killed']} within the run, {states['ended']} after its end")


def test_a_run_killed_in_each_half_of_the_work_is_finished_by_the_same_command(first: Night, tmp_path: Path) -> None:
    report([killed(first, tmp_path, "encode", 0.5)])


@pytest.mark.harm
def test_ten_kills_of_a_first_night(first: Night, tmp_path: Path) -> None:
    report([killed(first, tmp_path / str(number), *moment) for number, moment in enumerate(moments(SEED))])


@pytest.mark.harm
def test_ten_kills_of_a_second_night(second: Night, tmp_path: Path) -> None:
    report([killed(second, tmp_path / str(number), *moment) for number, moment in enumerate(moments(SEED + 1))])
