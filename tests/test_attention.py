"""Fusion by attention from training to the answers: the version's vectors are those that the bundle's gate makes."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import SHARED, jpeg, product, unpriced, write_shards

from catalogue_lookup import open_index
from encoders.bundle import Bundle, open_bundle
from pipelines.config import read_config
from pipelines.explain import Explainer
from pipelines.layout import Index
from pipelines.prune import prune
from pipelines.run import run
from pipelines.train import train
from pipelines.withdraw import withdraw

COUNT = 60


@pytest.fixture(scope="module")
def made(tiny_towers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("attention")
    rows = [unpriced(number) for number in range(COUNT)]
    rows[7]["image"] = None
    towers = {f"{m}_tower": f"saved-model:{path.parent / f'{m}-saved-model'}" for m, path in tiny_towers.items()}
    config = read_config(None, {
        "index": str(folder / "index"), "catalogue": [write_shards(folder / "shop", rows, 30)], "dimension": SHARED,
        "column": ["title=name", "product_id=sku"], "epochs": 6, "fusion": "attention", **towers,
    })  # fmt: skip
    train(config)
    run(config)
    return folder / "index"


def vectors_of(index: Path) -> tuple[Bundle, dict[str, dict[str, Any]]]:
    with open_index(str(index)) as opened:
        folder, manifest = index / "versions" / opened.version, opened.manifest
    rows = [row for name in manifest.vectors for row in pq.read_table(folder / name).to_pylist()]
    return open_bundle(index / "bundles" / manifest.bundle), {row["product_id"]: row for row in rows}


def test_fused_vectors_are_weighed_by_the_gate_and_beside_them_stand_what_it_weighed(made: Path) -> None:
    bundle, rows = vectors_of(made)
    assert bundle.fusion.gate is not None
    shares = []
    for row in rows.values():
        own = {m: np.array([row[f"{m}_vector"]], np.float32) for m in ("picture", "text") if row[f"{m}_vector"] is not None}
        there = {m: (own[m], np.ones(1, bool)) for m in own}
        weights = bundle.fusion.gate.weigh(there, 1)[0]
        total = sum(weights[n] * own[m][0] for n, m in enumerate(bundle.fusion.gate.modalities) if m in own)
        assert np.allclose(row["vector"], total / np.linalg.norm(total), atol=2e-3)
        shares.append(weights[0])
    assert len({round(float(share), 4) for share in shares}) > COUNT // 4
    assert rows["P00007"]["picture_vector"] is None


def test_explain_tells_the_weights_of_the_product(made: Path) -> None:
    with Explainer(str(made)) as explainer:
        both, alone = (explainer.explain(product_id).vectors for product_id in ("P00021", "P00007"))
    assert both is not None
    assert alone is not None
    assert sum(one["weight"] for one in both["of"].values()) == pytest.approx(1)
    assert 0 < both["of"]["picture"]["weight"] != 0.4
    assert (alone["of"]["picture"], alone["of"]["text"]["weight"]) == (None, 1)


def test_a_version_that_prune_wrote_anew_answers_as_before(made: Path, tmp_path: Path) -> None:
    index = Path(shutil.copytree(made, tmp_path / "index", symlinks=True))
    queries: tuple[dict[str, Any], ...] = (
        {"text": product(21)["name"]}, {"image": jpeg((200, 30, 60), 21)}, {"product_id": "P00021"},
        {"text": "a blue shirt", "weights": {"picture": 1.0}},
    )  # fmt: skip
    before = answers(index, queries)
    withdraw(str(index), ["P00009"])
    assert prune(Index(str(index)), 1, 0).rewritten
    assert [ids[:9] for ids in answers(index, queries)] == [[one for one in ids if one != "P00009"][:9] for ids in before]


def answers(index: Path, queries: Sequence[dict[str, Any]]) -> list[list[str]]:
    with open_index(str(index)) as opened:
        return [[hit.product_id for hit in opened.search(**query, search_k=10**6)] for query in queries]
