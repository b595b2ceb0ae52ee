"""Queries made of a catalogue: what is asked, what is right, what cannot be made; and the same queries distorted."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import product, write_pictures, write_shards
from shop_files import write_jsonl
from version_maker import draw_products, make_version

from catalogue_lookup.items import Items
from pipelines import cli, exit_codes, self_supervised
from pipelines.evaluate import evaluate_queries
from pipelines.evaluation import QuerySet, open_version
from pipelines.layout import Index
from pipelines.robustness import changes_for
from pipelines.self_supervised import Asking, Made, make_sets, sample_items


def shirt(number: int) -> dict[str, Any]:
    """Return a shirt or a hat; every fifth has the title and picture of the one before, the last five have no picture."""
    made = product(number - 1 if number % 5 == 4 else number)
    kinds = {"product_type": "Hats" if number % 2 else "Shirts", "gender": "Women" if number % 4 < 2 else "Men"}
    return made | kinds | {"sku": f"P{number:05d}", "image": None if number >= 55 else made["image"]}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    """Publish an index of sixty products beside their catalogue."""
    root = tmp_path_factory.mktemp("itself")
    catalogue = write_shards(root / "shop", [shirt(number) for number in range(60)], 20)
    assert cli.main(["run", "--index", str(root / "index"), "--catalogue", catalogue, "--bundle", str(tiny_bundle)]) == 0
    return root


def made_of(root: Path, folder: Path, sample: int = 100, seed: int = 0, catalogue: tuple[str, ...] = ()) -> Made:
    folder.mkdir(exist_ok=True)
    with open_version(Index(str(root / "index"))) as version:
        return make_sets(version, Asking(sample, seed, catalogue), folder)


def ids_of(root: Path, items: np.ndarray) -> set[str]:
    with open_version(Index(str(root / "index"))) as version:
        return {version.items.row(int(item))["product_id"] for item in items}


def sets_of(made: Made) -> dict[str, QuerySet]:
    return {asked.queries.name: asked.queries for asked in made.sets}


def test_what_is_asked_is_right_for_the_products_it_names(shop: Path, tmp_path: Path) -> None:
    made = made_of(shop, tmp_path / "copies")
    assert made.missing == ()
    sets = sets_of(made)
    assert list(sets)[:3] == ["titles", "phrases", "photos"]
    rows = {f"P{number:05d}": shirt(number) for number in range(60)}

    titles = sets["titles"]
    assert titles.by == ("picture",)
    # Without a picture a product is not to be found by one: 55 of 60, of which 11 have the title of another.
    assert len(titles.queries) == 44
    for query, judged in zip(titles.queries, titles.judgements, strict=True):
        assert ids_of(shop, judged.items) == {
            name for name, row in rows.items() if row["name"] == query.text and row["image"] is not None
        }
        assert rows[query.id]["name"] == query.text

    phrases = sets["phrases"]
    assert phrases.by == ("fused", "picture", "text")
    assert len(phrases.queries) == len({(row["product_type"], row["colour"], row["gender"]) for row in rows.values()})
    for query, judged in zip(phrases.queries, phrases.judgements, strict=True):
        kind, colour, gender = query.id.split(", ")
        assert ids_of(shop, judged.items) == {
            name for name, row in rows.items() if (row["product_type"], row["colour"], row["gender"]) == (kind, colour, gender)
        }
        assert colour in (query.text or "").lower()

    photos = sets["photos"]
    assert photos.by == ("fused", "picture")
    assert len(photos.queries) == 44
    for query, judged in zip(photos.queries, photos.judgements, strict=True):
        own = rows[query.id]["image"]
        assert query.image is not None
        assert Path(query.image).read_bytes() == own["bytes"]
        assert ids_of(shop, judged.items) == {name for name, row in rows.items() if row["image"] == own}
    parts = ["flip", "rotate", "brightness", "crop"]
    assert [([change.name for change in asked.changes], asked.part) for asked in made.sets] == [
        ([], False), ([], False), (["photo"], False), *(([name], True) for name in parts)
    ]  # fmt: skip
    for name in parts:
        assert sets[f"photos, {name}"].queries == photos.queries


def told(made: Made) -> str:
    """Tell all of the queries made in a line: texts, the content of pictures, what is right."""
    return json.dumps([
        [name, queries.by, [
            [query.id, query.text, query.image and hashlib.sha256(Path(query.image).read_bytes()).hexdigest(), j.items.tolist()]
            for query, j in zip(queries.queries, queries.judgements, strict=True)
        ]] for name, queries in sets_of(made).items()
    ])  # fmt: skip


def test_the_same_seed_makes_the_same_queries(shop: Path, tmp_path: Path) -> None:
    first, again, other = (made_of(shop, tmp_path / name, 20, seed) for name, seed in (("a", 3), ("b", 3), ("c", 4)))
    assert told(first) == told(again)
    assert told(first) != told(other)
    assert len(sets_of(first)["photos"].queries) <= 20
    with open_version(Index(str(shop / "index"))) as version:
        assert len(set(sample_items(version, 20, 3))) == 20
        assert sorted(sample_items(version, 1000, 3)) == list(range(60))


def test_a_sample_is_nearly_that_of_a_version_with_other_products(tmp_path: Path) -> None:
    names = []
    for count in (300, 330):
        make_version(tmp_path, f"v{count}", draw_products(count))
        with open_version(Index(str(tmp_path)), f"v{count}") as version:
            items = sample_items(version, 50, 0)
            names.append({version.items.row(item)["product_id"] for item in items})
            orders = [int(version.items.row(item)["product_id"][1:]) for item in items]
            assert len(set(orders)) == 50
    assert len(names[0] & names[1]) >= 40


def test_items_are_found_by_their_place_in_the_order(tmp_path: Path) -> None:
    """Three batches; equal orders stand at the end of one and the beginning of the next."""
    orders = [10, 20, 30, 30, 50, 60, 2**64 - 1]
    table = pa.table({"order": pa.array(orders, pa.uint64()), "product_id": [str(place) for place in range(7)]})
    with pa.OSFile(str(tmp_path / "items.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    items = Items(tmp_path / "items.arrow", 3, 7)
    for order in (0, 10, 11, 30, 31, 50, 55, 60, 61, 2**64 - 1):
        assert items.first_from(order) == next(place for place, one in enumerate(orders) if one >= order)
    items.close()


def test_queries_of_one_product_find_it_and_figures_are_the_same_again(shop: Path) -> None:
    first, again = (evaluate_queries(str(shop / "index"), None, Asking(30), robustness=0) for _ in range(2))
    assert first.to_json(0) == again.to_json(0)
    names = list(dict.fromkeys((result.queries.name, result.changed) for result in first.results))
    assert names == [
        ("titles", ""), ("titles", "typos"), ("phrases", ""), ("phrases", "typos"), ("photos", "photo"),
        *(("photos", f"photo, {name}") for name in ("blur", "crop", "noise", "background")),
        *((f"photos, {name}", name) for name in ("flip", "rotate", "brightness", "crop")),
    ]  # fmt: skip
    clean, typos = first.to_json(0)["results"][:2]
    assert "change" not in clean
    assert typos["change"]["mrr"]["value"] == pytest.approx(typos["mrr"]["value"] - clean["mrr"]["value"], abs=2e-4)
    shown = first.table(0)
    assert [row["queries"] for row in shown[:2]] == [f"titles ({clean['queries']})", "  + typos"]
    assert shown[1]["mrr"] == f"{typos['mrr']['value']:.3f}\n{typos['change']['mrr']['value']:+.3f}"


def test_a_changed_text_differs_and_a_text_has_no_pictures_to_change(shop: Path, tmp_path: Path) -> None:
    sets = sets_of(made_of(shop, tmp_path / "copies"))
    (typos,) = changes_for(sets["titles"], 0)
    assert (typos.name, typos.pictures) == ("typos", None)
    assert typos.texts is not None
    texts = [query.text or "" for query in sets["titles"].queries]
    keys = [query.id for query in sets["titles"].queries]
    mistyped = typos.texts(texts, keys)
    assert np.mean([one != other for one, other in zip(texts, mistyped, strict=True)]) > 0.6
    assert typos.texts(texts[3:4], keys[3:4]) == mistyped[3:4]
    assert all(change.texts is None for change in changes_for(sets["photos"], 0))


def test_what_cannot_be_made_is_said(shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "moved"
    shutil.copytree(shop / "index", root / "index")
    plan = next((root / "index" / "runs").glob("*/plan.json"))
    gone = str(tmp_path / "nowhere")
    plan.write_text(plan.read_text().replace(str(shop / "shop"), gone))
    made = made_of(root, tmp_path / "copies")
    assert list(sets_of(made)) == ["titles", "phrases"]
    assert len(made.missing) == 1
    assert made.missing[0].startswith(f"photos are not asked for: no file of a catalogue matches '{gone}/part-00000.parquet'")
    made = made_of(root, tmp_path / "more", catalogue=(f"{shop}/shop/*.parquet",))
    assert len(sets_of(made)["photos"].queries) == 44

    shutil.rmtree(plan.parent)
    capsys.readouterr()
    assert cli.main(["evaluate", "--index", str(root / "index"), "--sample", "5"]) == 0
    out = capsys.readouterr().out
    assert f"photos are not asked for: {root}/index/runs/{plan.parent.name}, which says where pictures were read, is gone" in (
        " ".join(out.split())
    )


def test_a_version_without_columns_or_pictures_says_so(tmp_path: Path, tiny_bundle: Path) -> None:
    write_jsonl(tmp_path / "shop.jsonl", [{"id": f"P{n}", "words": f"thing {n}"} for n in range(20)])
    flags = ["--text", "words", "--keep", "words", "--bundle", str(tiny_bundle)]
    command = ["run", "--index", str(tmp_path / "index"), "--catalogue", f"{tmp_path}/shop.jsonl", *flags]
    assert cli.main(command) == 0
    made = made_of(tmp_path, tmp_path / "copies")
    assert made.sets == ()
    assert made.missing == (
        "titles are not asked for: the version keeps no column 'title' (--keep)",
        "phrases are not asked for: no column of the version says kind, colour or audience of products",
        "photos are not asked for: no product of the sample has a picture",
    )


def test_pictures_that_changed_since_are_not_asked_by(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_pictures(tmp_path / "shop", 12)
    write_jsonl(tmp_path / "shop" / "shop.jsonl", [row | {"image": f"images/{n}.jpg"} for n, row in enumerate(rows)])
    command = ["run", "--index", str(tmp_path / "index"), "--catalogue", f"{tmp_path}/shop/shop.jsonl"]
    assert cli.main([*command, "--bundle", str(tiny_bundle)]) == 0
    (tmp_path / "shop" / "images" / "3.jpg").write_bytes((tmp_path / "shop" / "images" / "4.jpg").read_bytes())
    (tmp_path / "shop" / "images" / "5.jpg").unlink()
    made = made_of(tmp_path, tmp_path / "copies")
    asked = sets_of(made)["photos"]
    assert {query.id for query in asked.queries} == {f"P{n:05d}" for n in range(12) if n not in (3, 5)}
    assert "the pictures of 2 products are not those that the version was made of, and not asked by" in capsys.readouterr().err


def test_pictures_that_cannot_be_decoded_are_not_asked_by(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_pictures(tmp_path / "shop", 12)
    write_jsonl(tmp_path / "shop" / "shop.jsonl", [row | {"image": f"images/{n}.jpg"} for n, row in enumerate(rows)])
    (tmp_path / "shop" / "images" / "3.jpg").write_bytes(b"no picture")
    (tmp_path / "shop" / "images" / "5.jpg").write_bytes(b"")
    command = ["run", "--index", str(tmp_path / "index"), "--catalogue", f"{tmp_path}/shop/shop.jsonl"]
    assert cli.main([*command, "--bundle", str(tiny_bundle), "--max-reject-rate", "1"]) == 0
    capsys.readouterr()
    assert cli.main(["evaluate", "--index", str(tmp_path / "index"), "--json"]) == 0
    told = capsys.readouterr()
    photos = [result["queries"] for result in json.loads(told.out)["results"] if result["set"] == "photos"]
    assert photos
    assert set(photos) == {10}
    assert "evaluate: the first picture of 2 products cannot be decoded: they are not asked by it" in told.err


def test_queries_that_ask_for_nothing_in_particular_are_left_out(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_supervised, "MOST_RIGHT", 1)
    sets = sets_of(made_of(shop, tmp_path / "copies"))
    # Of 55 titles with pictures 22 belong to two products each.
    assert len(sets["titles"].queries) == 33
    assert all(len(judged.items) == 1 for judged in sets["titles"].judgements)


def test_flags_that_do_not_fit_are_refused(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags, message in (
        (["--sample", "0"], "--sample is 0; it must be at least 1"),
        (["--queries", "q.csv", "--catalogue", "x"], "--catalogue is where pictures of queries that are made lie"),
        (["--column", "text=query"], "--column maps a column of labelled queries: give --queries FILE"),
    ):
        assert cli.main(["evaluate", "--index", str(shop / "index"), *flags]) == exit_codes.BAD_FLAG
        assert f"catalogue-index: {message}" in capsys.readouterr().err
