"""The whole job on a small catalogue with tiny towers: what is encoded, what is skipped, what a kill leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from conftest import MakeConfig, product, write_pictures

from catalogue_lookup import open_index
from pipelines import stages
from pipelines.config import read_config
from pipelines.layout import Index, read_json
from pipelines.reject_counts import RejectRateError
from pipelines.run import Report, open_run, run

PRODUCTS = 100


def products() -> list[dict[str, Any]]:
    return [product(number) for number in range(PRODUCTS)]


def vectors(report: Report, index: str) -> pa.Table:
    folder = Path(Index(index).version(report.version)) / "vectors"
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("*.parquet"))])


def hashes(report: Report, index: str) -> dict[str, Any]:
    manifest = read_json(f"{Index(index).version(report.version)}/manifest.json")
    return {name: entry["sha256"] for name, entry in manifest["files"].items()}


def rejects(report: Report, index: str) -> list[dict[str, Any]]:
    folder = Path(index) / "runs" / report.version / "rejects"
    rows = [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    return sorted(rows, key=lambda row: (row["shard"], row["row"], row["stage"], row["field"] or ""))


def test_a_catalogue_becomes_a_published_index_that_finds_each_product_by_itself(config: MakeConfig) -> None:
    settings = config(products())
    report = run(settings)
    assert (report.rows, report.indexed, report.published) == (PRODUCTS, PRODUCTS, True)
    assert report.encoded == {"picture": PRODUCTS, "text": PRODUCTS}
    table = vectors(report, settings.index)
    assert sorted(table["product_id"].to_pylist()) == [f"P{n:05d}" for n in range(PRODUCTS)]
    assert table["order"].to_pylist() == sorted(table["order"].to_pylist())
    with open_index(settings.index) as index:
        for row in table.slice(0, 10).to_pylist():
            best = index.search(vector=row["vector"], k=1)[0]
            assert best.product_id == row["product_id"]
            assert best.columns["price"] == 5.0 + int(row["product_id"][1:])
            assert best.score == pytest.approx(1.0, abs=1e-4)


def test_a_second_run_encodes_nothing_and_keeps_the_version(config: MakeConfig) -> None:
    first = run(config(products()))
    second = run(config())
    assert second.version == first.version
    assert sum(second.encoded.values()) == 0


def test_runs_that_begin_within_a_second_have_names_in_their_order(config: MakeConfig) -> None:
    begun = [open_run(config(products() if limit == 1 else None, limit=limit), ())[0].run.id for limit in range(1, 6)]
    stamps = [name.partition("-")[0] for name in begun]
    assert stamps == sorted(set(stamps))
    assert len({name.partition("-")[2] for name in begun}) == 5


def test_a_run_is_over_when_the_marks_of_all_its_stages_are_there(config: MakeConfig) -> None:
    """Killed before that it goes on, also where its version is current already."""
    settings = config(products()[:12])
    made = Index(settings.index).run(run(settings).version)
    marks = [Path(made.ended(stage)) for stage in stages.STAGES]
    assert max(path.stat().st_mtime_ns for path in marks) <= Path(made.finished).stat().st_mtime_ns
    for path in (marks[-1], Path(made.finished)):
        path.unlink()
    assert run(settings).version == made.id
    assert [path.is_file() for path in (marks[-1], Path(made.finished))] == [True, True]


def test_another_setting_of_the_index_makes_a_new_version_and_encodes_nothing(config: MakeConfig) -> None:
    first = run(config(products()))
    second = run(config(trees=5))
    assert second.version != first.version
    assert sum(second.encoded.values()) == 0


def test_ten_changed_titles_encode_ten_texts_and_no_picture(config: MakeConfig) -> None:
    rows = products()
    run(config(rows))
    for row in rows[20:30]:
        row["name"] = "new " + row["name"]
    report = run(config(rows))
    assert report.encoded == {"text": 10}
    assert report.indexed == PRODUCTS


def test_a_changed_price_encodes_nothing_and_is_shown(config: MakeConfig) -> None:
    rows = products()
    run(config(rows))
    rows[3]["price"] = 999.0
    settings = config(rows)
    assert run(settings).encoded == {}
    with open_index(settings.index) as index:
        assert index.search(product_id="P00004", k=PRODUCTS, where="price > 900")[0].product_id == "P00003"


def test_products_gone_from_the_catalogue_are_gone_from_the_index(config: MakeConfig) -> None:
    run(config(products()))
    settings = config(products()[:50], max_shrink=0.5)
    report = run(settings)
    assert (report.indexed, report.encoded) == (50, {})
    ids = vectors(report, settings.index)["product_id"].to_pylist()
    assert sorted(ids) == [f"P{n:05d}" for n in range(50)]


def test_a_killed_run_encodes_no_finished_unit_twice_and_gives_the_same_bytes(
    config: MakeConfig, tmp_path: Path, tiny_bundle: Path
) -> None:
    settings = config(products(), unit_items=8)
    whole = run(replace(settings, index=str(tmp_path / "never-killed")))
    command = [
        sys.executable, "-m", "pipelines", "run", "--catalogue", settings.catalogue[0], "--index", settings.index,
        "--bundle", str(tiny_bundle), "--unit-items", "8", "--trees", "10",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ)
    features = Path(settings.index) / "features"
    deadline = time.monotonic() + 120
    while len(list(features.glob("*/units/*/*.parquet"))) < 3 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = {path: path.stat().st_ino for path in features.glob("*/units/*/*.parquet")}
    items = sum(pq.read_metadata(path).num_rows for path in done)
    assert items >= 24
    job, _ = open_run(settings, ())
    for stage in (stages.ingest, stages.plan, stages.encode):
        stage(job)
    assert {path: path.stat().st_ino for path in done} == done
    assert sum(job.encoded.values()) == 2 * PRODUCTS - items
    report = run(settings)
    assert report.version == job.run.id
    assert hashes(report, settings.index) == hashes(whole, str(tmp_path / "never-killed"))


def test_the_same_input_gives_the_same_bytes(config: MakeConfig) -> None:
    first, second = config(products()), config(index="again")
    assert hashes(run(first), first.index) == hashes(run(second), second.index)


def test_other_shards_units_and_partitions_give_the_same_products_and_vectors(config: MakeConfig) -> None:
    first = config(products())
    expected = vectors(run(first), first.index)
    second = config(products(), index="again", per_shard=7, unit_items=5, partition_rows=16)
    report = run(second)
    found = vectors(report, second.index)
    assert found["product_id"].to_pylist() == expected["product_id"].to_pylist()
    difference = pc.max(pc.abs(pc.subtract(pc.list_flatten(found["vector"]), pc.list_flatten(expected["vector"])))).as_py()
    assert difference < 1e-3
    assert len(list((Path(second.index) / "versions" / report.version / "vectors").iterdir())) == 8


def test_an_incremental_night_gives_the_vectors_of_a_full_one(config: MakeConfig) -> None:
    rows = products()
    run(config(rows))
    for row in rows[::9]:
        row["name"] = "changed " + row["name"]
    night, full = config(rows), config(index="full")
    after, fresh = vectors(run(night), night.index), vectors(run(full), full.index)
    assert after["product_id"].to_pylist() == fresh["product_id"].to_pylist()
    difference = pc.max(pc.abs(pc.subtract(pc.list_flatten(after["vector"]), pc.list_flatten(fresh["vector"])))).as_py()
    assert difference < 1e-3


def bad_rows() -> list[dict[str, Any]]:
    rows = products()
    rows[1]["sku"] = None
    rows[2]["sku"] = "P00000"
    rows[3]["image"] = {"bytes": rows[3]["image"]["bytes"][:200], "path": None}
    rows[4]["price"] = -1.0
    rows[5]["price"] = float("nan")
    rows[6] |= {"name": None, "body_html": None, "image": None}
    rows[7] |= {"name": None, "body_html": None, "image": {"bytes": b"no picture", "path": None}}
    return rows


def test_bad_rows_are_rejected_with_their_reasons_and_the_sum_holds(config: MakeConfig) -> None:
    settings = config(bad_rows(), max_reject_rate=0.5)
    report = run(settings)
    assert report.rejected == {"missing_product_id": 1, "duplicate_product_id": 1, "nothing_to_encode": 2}
    assert report.rejected_fields == {"undecodable_picture": 2, "bad_price": 2}
    assert report.rows == report.indexed + 4 == PRODUCTS
    found = rejects(report, settings.index)
    shard = settings.catalogue[0].replace("*", "part-00000")
    assert [(row["row"], row["product_id"], row["stage"], row["field"], row["reason"]) for row in found] == [
        (1, None, "ingest", None, "missing_product_id"),
        (2, "P00000", "plan", None, "duplicate_product_id"),
        (3, "P00003", "fuse", "picture", "undecodable_picture"),
        (4, "P00004", "ingest", "price", "bad_price"),
        (5, "P00005", "ingest", "price", "bad_price"),
        (6, "P00006", "ingest", None, "nothing_to_encode"),
        (7, "P00007", "fuse", None, "nothing_to_encode"),
        (7, "P00007", "fuse", "picture", "undecodable_picture"),
    ]
    assert {row["shard"] for row in found} == {shard}
    assert found[1]["detail"] == f"row 0 of {shard} has the same product id"
    assert found[3]["detail"] == "the price '-1' is not a finite non-negative number"
    assert sorted(vectors(report, settings.index)["product_id"].to_pylist())[:3] == ["P00000", "P00003", "P00004"]


def test_a_bad_picture_is_reported_every_night_and_tried_once(config: MakeConfig) -> None:
    run(config(bad_rows(), max_reject_rate=0.5))
    report = run(config(max_reject_rate=0.5, trees=5))
    assert report.encoded == {}
    assert report.rejected_fields == {"undecodable_picture": 2, "bad_price": 2}


def test_strict_rejects_the_product_with_its_bad_field(config: MakeConfig) -> None:
    report = run(config(bad_rows(), max_reject_rate=0.5, strict=True))
    assert report.rejected == {
        "missing_product_id": 1, "duplicate_product_id": 1, "nothing_to_encode": 1, "bad_price": 2, "undecodable_picture": 2,
    }  # fmt: skip
    assert report.rows == report.indexed + 7


def test_too_many_rejects_stop_the_run_before_encoding_and_name_the_reasons(config: MakeConfig) -> None:
    rows = products()
    for row in rows[:30]:
        row["sku"] = None
    settings = config(rows)
    with pytest.raises(RejectRateError, match=r"30 rejects in 100 rows \(30.0 %\) are more than --max-reject-rate 5 %: "
                                              r"missing_product_id 30; see .*/rejects"):  # fmt: skip
        run(settings)
    assert not list(Path(settings.index).glob("features/*/units"))
    assert not (Path(settings.index) / "CURRENT").exists()


def test_a_limit_uses_the_first_rows(config: MakeConfig) -> None:
    settings = config(products(), limit=45)
    report = run(settings)
    assert report.rows == 45
    assert max(vectors(report, settings.index)["product_id"].to_pylist()) == "P00044"


def test_pictures_by_path_are_read_again_only_when_they_changed(
    tmp_path: Path, tiny_bundle: Path
) -> None:
    folder = tmp_path / "shop"
    rows = [
        row | {"images": [f"images/{number}.jpg", f"images/{(number + 1) % 12}.jpg"]}
        for number, row in enumerate(write_pictures(folder, 12))
    ]
    rows[3]["images"] = ["images/missing.jpg", "../../etc/passwd"]
    (folder / "shop.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = {"index": str(tmp_path / "index"), "catalogue": [f"{folder}/shop.jsonl"], "bundle": str(tiny_bundle)}
    settings = read_config(None, flags | {"max_reject_rate": 0.5})
    report = run(settings)
    assert report.encoded == {"picture": 22, "text": 12}
    assert report.rejected_fields == {"unreadable_path": 1, "path_outside_roots": 1}
    assert run(settings).encoded == {}
    (folder / "images" / "5.jpg").write_bytes(product(50)["image"]["bytes"])
    assert run(settings).encoded == {"picture": 4}


def test_prices_are_read_as_shops_write_them_and_several_currencies_are_reported(config: MakeConfig) -> None:
    rows = products()
    written = {0: "$1,299.00", 1: "1.299,00 €", 2: "¥ 99", 3: "15.00 USD", 4: "3 for 10 €", 5: "-5 €", 6: None}
    for number, row in enumerate(rows):
        row["price"] = written.get(number, "7,50 €")
    report = run(settings := config(rows))
    table = vectors(report, settings.index).sort_by("product_id")
    assert table["price"].to_pylist()[:8] == [1299.0, 1299.0, 99.0, 15.0, None, None, None, 7.5]
    assert table["currency"].to_pylist()[:8] == ["$", "EUR", "¥", "USD", None, None, None, "EUR"]
    assert report.rejected_fields == {"bad_price": 2}
    assert [row["detail"] for row in rejects(report, settings.index)] == [
        "the price '3 for 10 €' holds more than one number", "the price '-5 €' is not a finite non-negative number"
    ]  # fmt: skip
    assert report.currencies == {"$": 1, "EUR": 94, "USD": 1, "¥": 1}
    told = "prices in several currencies: $ 1, EUR 94, USD 1, ¥ 1; filter by the column currency to compare them"
    assert told in list(report.lines())
    with open_index(settings.index) as index:
        hits = index.search(text="shirt", k=5, where="currency = 'USD' or price > 1000")
    assert {hit.columns["currency"] for hit in hits} == {"$", "EUR", "USD"}


def test_a_currency_column_counts_before_what_the_price_says(config: MakeConfig) -> None:
    rows = products()
    for number, row in enumerate(rows):
        row["price"], row["currency_code"] = "9,00 €", ("CHF" if number else None)
    report = run(settings := config(rows))
    table = vectors(report, settings.index).sort_by("product_id")
    assert table["currency"].to_pylist()[:3] == ["EUR", "CHF", "CHF"]
    assert "currency_code" not in table.column_names


def test_a_catalogue_of_ids_and_pictures_alone_is_indexed(config: MakeConfig) -> None:
    rows = [{"sku": row["sku"], "image": row["image"]["bytes"]} for row in products()]
    report = run(settings := config(rows))
    assert (report.indexed, report.encoded) == (PRODUCTS, {"picture": PRODUCTS})
    assert vectors(report, settings.index).column_names == ["order", "product_id", "vector", "picture_vector"]
    with open_index(settings.index) as index:
        hit = index.search(image=product(12)["image"]["bytes"], k=1)[0]
    assert (hit.product_id, hit.columns) == ("P00012", {})
