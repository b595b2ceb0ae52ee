"""Evaluation: a version is really searched, and the figures are those of what a search finds."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import jpeg, product, write_shards
from version_maker import FUSION, SHARED, draw_products, make_version

from catalogue_lookup import open_index
from catalogue_lookup.query import QueryEncoder
from encoders.bundle import open_bundle
from pipelines import cli, exit_codes
from pipelines.evaluation import (
    ANNOY,
    EXACT,
    FUSED,
    as_answered,
    encode,
    evaluate_vectors,
    labelled_sets,
    nearest,
    open_version,
)
from pipelines.labelled_queries import Query, read_labelled_queries
from pipelines.layout import Index
from pipelines.measures import NAMES, Judgement
from pipelines.recall import all_blocks


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    """Publish an index of sixty shirts."""
    root = tmp_path_factory.mktemp("evaluated")
    catalogue = write_shards(root / "shop", [product(number) for number in range(60)], 30)
    assert cli.main(["run", "--index", str(root / "index"), "--catalogue", catalogue, "--bundle", str(tiny_bundle)]) == 0
    return root / "index"


def write_queries(folder: Path, rows: list[tuple[str, str, str]]) -> Path:
    """Write text, image and product of queries."""
    with (folder / "q.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "image", "product_id"), *rows])
    return folder / "q.csv"


def evaluate(index: Path, queries: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert cli.main(["evaluate", "--index", str(index), "--queries", str(queries), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["version"] == (index / "CURRENT").read_text().strip()
    return told["results"]


# Whose rank decides: text, image and product of a query of each kind.
ASKED = [("green shirt number 4", "", "P00004"), ("", "photo.jpg", "P00003"), ("red shirt", "photo.jpg", "P00003")]


@pytest.mark.parametrize("asked", ASKED, ids=["text", "picture", "both"])
@pytest.mark.parametrize("weights", [None, {"picture": 1.0}, {"text": 1.0}], ids=["fused", "picture", "text"])
def test_figures_are_those_of_the_rank_that_a_search_gives(
    index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: tuple[str, str, str], weights: dict[str, float] | None
) -> None:
    (tmp_path / "photo.jpg").write_bytes(jpeg((200, 30, 30), 77))
    text, image, right = asked
    found = evaluate(index, write_queries(tmp_path, [asked]), capsys)
    with open_index(index) as opened:
        hits = opened.search(text=text or None, image=tmp_path / image if image else None, k=60, weights=weights)
    rank = [hit.product_id for hit in hits].index(right) + 1
    expected = {
        "recall@1": float(rank == 1), "recall@10": float(rank <= 10), "recall@100": 1.0, "mrr": 1 / rank,
        "ndcg@10": 1 / math.log2(rank + 1) if rank <= 10 else 0.0,
    }  # fmt: skip
    rows = [row for row in found if row["by"] == (FUSED if weights is None else next(iter(weights)))]
    assert [row["search"] for row in rows] == ([EXACT, ANNOY] if weights is None else [EXACT])
    for row in rows:
        assert (row["queries"], row["lacking"], row["changed"]) == (1, 0, "")
        assert {name: row[name]["value"] for name in NAMES} == pytest.approx(expected, abs=1e-4)


def test_kinds_of_queries_are_told_apart_and_figures_are_the_same_again(
    index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photo.jpg").write_bytes(jpeg((200, 30, 30), 77))
    path = write_queries(tmp_path, [*ASKED, ("blue", "", "P00011"), ("blue", "", "P00014")])
    found = evaluate(index, path, capsys)
    assert [(row["set"], row["by"], row["search"], row["queries"]) for row in found] == [
        (kind, by, search, 2 if kind == "text" else 1) for kind in ("text", "picture", "both")
        for by, search in ((FUSED, EXACT), (FUSED, ANNOY), ("picture", EXACT), ("text", EXACT))
    ]  # fmt: skip
    for row in found:
        assert all(row[name]["low"] <= row[name]["value"] <= row[name]["high"] for name in NAMES)
    assert evaluate(index, path, capsys) == found


def test_products_the_version_lacks_count_as_not_found(index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_queries(tmp_path, [("red", "", "P00003"), ("red", "", "gone"), ("blue", "", "old")])
    capsys.readouterr()
    assert cli.main(["evaluate", "--index", str(index), "--queries", str(path), "--json"]) == 0
    out, log = capsys.readouterr()
    row = json.loads(out)["results"][0]
    # Of the two queries one has a right product of two, the other has none.
    assert (row["queries"], row["lacking"], row["recall@100"]["value"]) == (2, 2, 0.25)
    version = (index / "CURRENT").read_text().strip()
    told = f"2 products that {path} calls right are not in version {version} ('gone' is the first): they count as not found"
    assert told in log
    path = write_queries(tmp_path, [("blue", "", "old")])
    assert cli.main(["evaluate", "--index", str(index), "--queries", str(path)]) == exit_codes.BAD_FLAG
    assert f"catalogue-index: {path} names no product of version {version} as right" in capsys.readouterr().err


def test_what_cannot_be_encoded_is_named(index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "good.jpg").write_bytes(jpeg((1, 2, 3), 0))
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    for text, image, message in (
        ("", "bad.jpg", f"query '#2', {tmp_path}/bad.jpg cannot be encoded: the picture cannot be searched with: "),
        ("", "gone.jpg", f"the picture of query '#2' cannot be read: cannot read {tmp_path}/gone.jpg"),
        ("<br>", "good.jpg", f"query '#2', {tmp_path}/good.jpg cannot be encoded: the text is empty once it is cleaned"),
    ):
        path = write_queries(tmp_path, [("x" if text else "", "good.jpg", "P00003"), (text, image, "P00003")])
        assert cli.main(["evaluate", "--index", str(index), "--queries", str(path)]) == exit_codes.BAD_FLAG
        assert f"catalogue-index: {message}" in capsys.readouterr().err


def test_flags_that_do_not_fit_are_refused(index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_queries(tmp_path, [("red", "", "P00003")])
    for flags, message in (
        (["--column", "text"], "--column takes NAME=VALUE, not 'text'"),
        (["--column", "text=words"], f"{path} has no column 'words', which text is mapped to (columns: text, image, product_id)"),
        (["--seed", "-1"], "--seed is -1; it must be at least 0"),
    ):
        assert cli.main(["evaluate", "--index", str(index), "--queries", str(path), *flags]) == exit_codes.BAD_FLAG
        assert f"catalogue-index: {message}" in capsys.readouterr().err
    assert cli.main(["evaluate", "--index", str(index), "--queries", str(path), "--version", "v7"]) == exit_codes.BAD_FLAG
    assert capsys.readouterr().err.endswith(
        f"catalogue-index: there is no version 'v7' in {index}: 'catalogue-index versions' lists those there are\n"
    )


def test_the_table_shows_figures_with_their_intervals(
    index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    path = write_queries(tmp_path, [("red", "", "P00003")])
    capsys.readouterr()
    assert cli.main(["evaluate", "--index", str(index), "--queries", str(path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"version {(index / 'CURRENT').read_text().strip()}\n")
    lines = out.splitlines()
    assert lines[1].split() == ["queries", "by", *NAMES]
    told = [line.split()[2:4] for line in lines if line.startswith(" text (1)")]
    assert told == [["fused,", "exact"], ["fused,", "Annoy"], ["picture,", "exact"], ["text,", "exact"]]
    assert "1.00-1.00" in lines[3]


def test_queries_encoded_together_are_those_encoded_alone(tiny_bundle: Path, tmp_path: Path) -> None:
    encoder = QueryEncoder(open_bundle(tiny_bundle))
    queries = []
    for number in range(70):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(jpeg((3 * number, 0, 200), number))
        queries.append(Query(str(number), f"shirt number {number}", str(path), {}))
    together = encode(encoder, queries)
    for number in (0, 69):
        alone = encoder.vectors([f"shirt number {number}"], [tmp_path / f"{number}.jpg"])
        assert all(np.array_equal(together[name][number], alone[name]) for name in ("text", "picture"))


def test_missing_vectors_of_a_modality_are_no_answers(tmp_path: Path) -> None:
    """Every seventh product has no picture, and a file of vectors may lack the column."""
    products = draw_products(150)
    make_version(tmp_path, "v1", products)
    with open_version(Index(str(tmp_path)), "v1") as version:
        asked = products.modalities["picture"][[3, 7, 100]]
        ranked = nearest(asked, lambda: all_blocks(version.files, "picture_vector"), "angular")
        close = asked.astype(np.float64) @ products.modalities["picture"].T
        close[:, ~products.present["picture"]] = -np.inf
        assert np.array_equal(ranked[:, :20], np.argsort(-close, axis=1)[:, :20])
        assert not set(ranked.ravel().tolist()) & set(range(0, 150, 7))
        assert (nearest(asked, lambda: all_blocks(version.files, "smell_vector"), "angular") == -1).all()
        judged = [Judgement(np.array([item]), np.array([1])) for item in (3, 7, 100)]
        values = evaluate_vectors(asked, lambda: all_blocks(version.files, "picture_vector"), "angular", judged)
    # Product 7 has no picture: it is not found.
    assert values[:, NAMES.index("mrr")].tolist() == [1, 0, 1]


def test_each_query_has_its_own_measures(index: Path, tmp_path: Path) -> None:
    from pipelines.evaluation import evaluate as evaluate_set

    path = write_queries(tmp_path, [("green shirt number 4", "", "P00004"), ("blue", "", "gone")])
    with open_version(Index(str(index))) as version:
        (queries,) = labelled_sets(version, read_labelled_queries(str(path)))
        results = evaluate_set(version, queries)
    assert [query.id for query in queries.queries] == ["#1", "#2"]
    for result in results:
        assert result.values.shape == (2, len(NAMES))
        assert result.values[1].tolist() == [0] * len(NAMES)
        assert result.figures(0)["mrr"].value == pytest.approx(result.values[0, NAMES.index("mrr")] / 2, abs=1e-4)


@pytest.mark.parametrize(("count", "rank"), [(150, 1), (0, None)])
def test_versions_of_several_annoy_files_and_of_no_products(tmp_path: Path, count: int, rank: int | None) -> None:
    products = draw_products(count)
    make_version(tmp_path, "v1", products, max_items_per_shard=40)
    with open_version(Index(str(tmp_path)), "v1") as version:
        asked = products.modalities["text"][[5, 100]] if count else np.ones((2, SHARED), np.float32)
        ranked = as_answered(version, {"text": asked})
    assert ranked.shape == (2, 100)
    closest = (products.fused @ FUSION.query({"text": asked}, {}).T).argmax(axis=0).tolist() if rank else [-1, -1]
    assert ranked[:, 0].tolist() == closest
    found = [row[row >= 0] for row in ranked]
    assert all(len(row) == len(set(row.tolist())) == min(count, 100) for row in found)
