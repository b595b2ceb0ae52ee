"""kill -9 of the real command while it trains a tower: the same command goes on from its checkpoint."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED, product, write_shards
from harm import kill, wait_until

from pipelines.bundles import open_at, own_bundle
from pipelines.layout import Index

STEPS = 40


@pytest.mark.harm
def test_a_killed_training_goes_on_from_its_checkpoint(tiny_towers: dict[str, Path], tmp_path: Path) -> None:
    catalogue = write_shards(tmp_path / "shop", [product(number) for number in range(60)], 30)
    index = tmp_path / "index"
    arguments = ["train", "--index", str(index), "--catalogue", catalogue, "--column", "title=name", "--column",
                 "product_id=sku", "--dimension", str(SHARED), "--epochs", "2", "--text-tower",
                 f"saved-model:{tiny_towers['text'].parent / 'text-saved-model'}", "--picture-tower", "compact:16",
                 "--fine-tune-steps", str(STEPS)]  # fmt: skip

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-m", "pipelines", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                text=True, start_new_session=True, env=os.environ | {"COLUMNS": "1000"})  # fmt: skip

    def checkpoints() -> list[Path]:
        return list(index.glob("runs/*/fine-tune/*/checkpoint.npz"))

    process = start()
    assert wait_until(lambda: bool(checkpoints()), process)
    assert kill(process) == -signal.SIGKILL
    with np.load(checkpoints()[0]) as archive:
        step = json.loads(archive["state"].tobytes())["step"]
    process = start()
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert output.startswith("bundle ")
    folder = own_bundle(Index(str(index)))
    assert folder is not None
    figures = open_at(folder).training["towers"]
    assert 0 < figures["resumed_from"] < STEPS
    assert figures["resumed_from"] == step
    assert f"going on with the towers from step {step} of {STEPS}" in errors
    assert not checkpoints()
