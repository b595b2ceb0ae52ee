"""What a night says of what changed, what a dry run leaves, and what encoding again is said to cost."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import DIMENSION, SHARED, MakeConfig, jpeg, product, write_shards

from encoders.bundle import write_bundle
from encoders.fusion import Fusion
from encoders.heads import random_head
from pipelines.changes import Changes, compare
from pipelines.config import Config, ConfigError
from pipelines.job import Job
from pipelines.layout import Index, read_json, write_json
from pipelines.outlook import Outlook, keep_speed, shown_seconds, shown_total
from pipelines.publish import read_current
from pipelines.reject_counts import RejectRateError
from pipelines.run import Report, dry_run, open_run, run, run_stage
from pipelines.summary import Night
from transforms import decode

PRODUCTS = 60


def products(count: int = PRODUCTS) -> list[dict[str, Any]]:
    return [product(number) for number in range(count)]


def changes(report: Report) -> Changes:
    assert report.changes is not None
    return report.changes


def dry(config: Config) -> tuple[list[str], Night]:
    with Night("run", config, dry_run=True) as night:
        return dry_run(config, (), night), night


# --- counts ---


def test_where_nothing_is_published_all_are_new(config: MakeConfig) -> None:
    report = run(config(products()))
    assert report.changes == Changes(None, new=PRODUCTS)
    assert report.to_encode == {m: {"products": PRODUCTS, "items": PRODUCTS} for m in ("picture", "text")}
    assert "nothing to compare with: 0 unchanged, 0 changed, 60 new, 0 gone; 0 rejected" in list(report.lines())


def test_each_kind_of_change_is_counted(config: MakeConfig) -> None:
    rows = products()
    first = run(config(rows[:-4]))
    for row in rows[:3]:
        row["name"] = f"new {row['name']}"
    for row in rows[2:7]:
        row["image"] = {"bytes": jpeg((9, 9, 9), int(row["price"])), "path": None}
    for row in rows[6:8]:
        row["price"] += 1
    rows[8]["colour"] = None
    rows[9]["name"] = None  # the description is still there
    report = run(config([*rows[:20], *rows[24:], {**product(70), "sku": None}], max_shrink=0.5))
    assert report.changes == Changes(
        first.version, unchanged=PRODUCTS - 4 - 4 - 10, changed=10, new=4, gone=4,
        changed_by={"columns": 3, "picture": 5, "text": 4},
    )  # fmt: skip
    assert report.encoded == {"picture": 5 + 4, "text": 4 + 4}
    assert report.rejected == {"missing_product_id": 1}
    assert (
        f"since version {first.version}: 42 unchanged, 10 changed (columns 3, picture 5, text 4), 4 new, 4 gone; 1 rejected"
        in list(report.lines())
    )


def test_products_in_other_shards_and_places_are_unchanged(config: MakeConfig) -> None:
    run(config(products()))
    report = run(config(products()[::-1], per_shard=7, seed=1))
    assert changes(report).unchanged == PRODUCTS
    assert report.encoded == {}


def test_a_product_whose_row_is_rejected_tonight_is_gone(config: MakeConfig) -> None:
    rows = products()
    run(config(rows))
    rows[5] |= {"name": None, "body_html": None, "image": None}
    report = run(config(rows))
    assert (changes(report).gone, changes(report).unchanged, report.rejected) == (1, PRODUCTS - 1, {"nothing_to_encode": 1})


def test_a_text_that_reads_as_before_is_no_changed_text(config: MakeConfig) -> None:
    """Mark-up is cleaned away; what is kept to be shown is the column as it was written."""
    rows = products()
    run(config(rows))
    rows[4]["body_html"] = rows[4]["body_html"].replace("<p>", "<div>").replace("</p>", "</div>")
    report = run(config(rows))
    assert (changes(report).changed, changes(report).changed_by) == (1, {"columns": 1})
    assert report.encoded == {}


def test_partitions_cut_in_half_compare_as_before(config: MakeConfig) -> None:
    rows = products()
    first = run(config(rows, partition_rows=64))
    rows[10]["name"] = "another name"
    report = run(config([*rows[1:], product(80)], partition_rows=16))
    assert len(list((Path(config().index) / "runs" / report.version / "products").iterdir())) == 4
    assert report.changes == Changes(
        first.version, unchanged=PRODUCTS - 2, changed=1, new=1, gone=1, changed_by={"text": 1}
    )  # fmt: skip


def test_a_night_that_keeps_the_version_says_that_all_is_unchanged(config: MakeConfig) -> None:
    first = run(config(products()))
    for settings in (config(), config(products())):  # the same files; the same rows written again
        report = run(settings)
        assert (report.version, report.changes) == (first.version, Changes(first.version, unchanged=PRODUCTS))
        assert f"since version {first.version}: 60 unchanged, 0 changed, 0 new, 0 gone; 0 rejected" in list(report.lines())


def test_a_version_whose_run_is_gone_is_not_compared_with(config: MakeConfig, caplog: pytest.LogCaptureFixture) -> None:
    first = run(config(products()))
    for path in (Path(config().index) / "runs" / first.version / "products").iterdir():
        path.unlink()
    assert run(config(products()[1:])).changes == Changes(None, new=PRODUCTS - 1)
    assert (
        f"what changed since version {first.version} is not known: the products of its run are not there; all count as new"
    ) in caplog.text


def test_a_version_that_was_pruned_since_the_catalogue_was_read_is_not_compared_with(config: MakeConfig) -> None:
    first = run(config(products()))
    settings = config(products()[1:])
    assert run_stage(settings, "ingest").changes is None
    (begun,) = [path for path in Path(settings.index).glob("runs/*/ended/ingest.json") if first.version not in path.parts]
    assert read_json(str(begun))["since"] == first.version
    for path in (Path(settings.index) / "runs" / first.version / "products").iterdir():
        path.unlink()
    report = run(settings)
    assert (report.version, report.changes) == (begun.parts[-3], Changes(None, new=PRODUCTS - 1))


def test_lists_numbers_and_columns_that_come_and_go_are_compared() -> None:
    def table(ids: list[str], **columns: pa.Array) -> pa.Table:
        kept = pa.StructArray.from_arrays(list(columns.values()), names=list(columns))
        return pa.table({"product_id": ids, "columns": kept})

    nan = float("nan")
    before = table(
        ["a", "b", "c", "d"], tags=pa.array([["x"], ["x", "y"], None, []]), size=pa.array([1, 2, None, 4]),
        score=pa.array([nan, nan, 1.0, None]), old=pa.array([None, "o", None, None]),
    )  # fmt: skip
    now = table(
        ["b", "d", "a", "c"], tags=pa.array([["x", "y"], [], ["x"], ["z"]]), size=pa.array([2.0, 4.0, 1.0, None]),
        score=pa.array([nan, None, nan, 1.0]), fresh=pa.array([None, "f", None, None]),
    )  # fmt: skip
    counts = compare(now, before, {}, {})
    assert {name: counts[name] for name in ("unchanged", "changed", "new", "gone")} == {
        "unchanged": 1, "changed": 3, "new": 0, "gone": 0,
    }  # fmt: skip
    assert compare(now, now, {}, {})["unchanged"] == 4
    assert compare(None, before, {}, {})["gone"] == 4


# --- another tower, other views ---


def other_bundle(tiny_towers: dict[str, Path], folder: Path) -> str:
    """Write a bundle whose picture tower has other weights."""
    import numpy as np
    import tensorflow as tf
    from conftest import SIDE

    from encoders.presets import build_tower

    class Picture(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, SIDE, SIDE, 3], tf.uint8)])
        def __call__(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
            flat = tf.reshape(tf.cast(images, tf.float32) / 255.0, [-1, SIDE * SIDE * 3])
            return {"features": tf.matmul(flat, tf.constant(weights))}

    weights = np.random.default_rng(3).normal(size=(SIDE * SIDE * 3, DIMENSION)).astype(np.float32)
    module = Picture()
    tf.saved_model.save(module, str(folder / "saved"), signatures={"serving_default": module.__call__})
    build_tower(f"saved-model:{folder / 'saved'}", "picture", folder / "picture")
    towers = {"picture": folder / "picture", "text": tiny_towers["text"]}
    heads = {modality: random_head(DIMENSION, SHARED, seed) for seed, modality in enumerate(towers)}
    return str(write_bundle(folder / "bundle", towers, heads, Fusion("mean", {"picture": 0.5, "text": 0.5}), {}, {}).folder)


def test_another_tower_makes_features_stale_and_is_named_with_what_it_costs(
    config: MakeConfig, tmp_path: Path, tiny_towers: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    rows = products()
    first = run(config(rows))
    other = other_bundle(tiny_towers, tmp_path)
    rows[3]["name"] = "another name"
    caplog.set_level(logging.INFO)
    report = run(config(rows, bundle=other))
    assert report.changes == Changes(
        first.version, changed=1, stale=PRODUCTS - 1, changed_by={"text": 1}, stale_by={"picture": PRODUCTS}
    )
    assert report.encoded == {"picture": PRODUCTS, "text": 1}
    (sentence,) = [message for message in caplog.messages if message.startswith("encode: picture features")]
    before = tiny_towers["picture"].parent / "picture-saved-model"
    assert sentence.startswith(
        f"encode: picture features are others than those of version {first.version}: tower saved-model:{tmp_path / 'saved'} in "
        f"place of saved-model:{before}; 60 products' pictures are encoded again: less than 10 seconds (60 items at "
    )
    assert sentence.endswith("/s, as timed on this machine)")
    assert "0 changed" not in str(changes(report))
    assert str(changes(report)).endswith("1 changed (text 1), 0 new, 0 gone, 59 stale (picture 60)")

    caplog.clear()
    back = run(config(bundle=config().bundle))
    assert (changes(back).unchanged, back.encoded) == (PRODUCTS, {})
    (sentence,) = [message for message in caplog.messages if message.startswith("encode: picture features")]
    assert sentence.endswith("; they are in store: nothing is encoded again")


def test_other_views_are_named_with_their_number_of_items(config: MakeConfig, caplog: pytest.LogCaptureFixture) -> None:
    first = run(config(products()))
    caplog.set_level(logging.INFO)
    report = run(config(text_views=3))
    assert (changes(report).stale, changes(report).stale_by, report.encoded) == (PRODUCTS, {"text": PRODUCTS}, {"text": 180})
    assert report.to_encode["text"] == {"products": PRODUCTS, "items": 180}
    (sentence,) = [message for message in caplog.messages if message.startswith("encode: text features")]
    assert (
        f"those of version {first.version}: views 3 in place of 1; 60 products' texts are encoded again: less than 10 seconds "
        "(180 items at "
    ) in sentence
    caplog.clear()
    run(config(text_views=3, text_operation={"random_swap": "0.5"}))
    (sentence,) = [message for message in caplog.messages if message.startswith("encode: text features")]
    assert "random_swap 0.5 in place of " in sentence
    assert "views 3" not in sentence


def test_pictures_alone_are_encoded_again_by_a_version_that_decodes_them_otherwise(
    config: MakeConfig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(config(products()))
    monkeypatch.setattr(decode, "VERSION", decode.VERSION + 1)
    caplog.set_level(logging.INFO)
    report = run(config())
    assert report.encoded == {"picture": PRODUCTS}
    assert f"picture features are others than those of version {first.version}: another decoding of pictures; 60" in caplog.text


# --- estimates ---


def test_the_speed_of_earlier_runs_is_what_the_next_one_is_told_by(
    config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    settings = config(products())
    run(settings)
    (space,) = Path(settings.index).glob("features/text-*")
    kept = read_json(f"{space}/speed.json")
    assert (kept["items"], kept["run"]) == (PRODUCTS, read_current(Index(settings.index)))
    write_json(f"{space}/speed.json", {**kept, "items": 6000, "seconds": 60_000.0, "ended": "2026-11-26T03:00:00+00:00"})
    caplog.set_level(logging.INFO)
    run(config(products(PRODUCTS + 5)))
    (told,) = [message for message in caplog.messages if message.startswith("encode: to encode")]
    assert "5 products' texts: about 50 seconds (5 items at 0.1/s, as in the run of 2026-11-26)" in told
    assert "about 50 seconds altogether" in told
    # Five items tell less than six thousand.
    assert read_json(f"{space}/speed.json")["items"] == 6000


def test_few_items_do_not_take_the_place_of_many(config: MakeConfig) -> None:
    job, _ = open_run(config(products(4)), ())
    space = job.spaces["text"]
    path = f"{job.index.space(space.id)}/speed.json"
    for items, kept in ((7, 7), (3, 7), (10_000, 10_000), (511, 10_000), (512, 512)):
        keep_speed(job.index, space, job.run.id, items, 2.0)
        assert read_json(path)["items"] == kept
    Path(path).write_text("{")
    keep_speed(job.index, space, job.run.id, 1, 2.0)
    assert read_json(path)["items"] == 1


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.1, "less than 10 seconds"), (12, "about 10 seconds"), (89, "about 90 seconds"), (100, "about 2 minutes"),
     (41 * 60, "about 41 minutes"), (3 * 3600 + 1800, "about 3.5 hours")],
)  # fmt: skip
def test_a_duration_is_said_for_a_person(seconds: float, shown: str) -> None:
    assert shown_seconds(seconds) == shown


def test_an_estimate_names_what_it_is_made_of() -> None:
    outlooks = {
        "picture": Outlook(1706, 3412, 165.4, "as in the run of 2026-11-26"),
        "text": Outlook(10, 10, None, "as timed on this machine"),
    }
    assert shown_total(outlooks) == (
        "to encode: 1,706 products' pictures: about 20 seconds (3,412 items at 165/s, as in the run of 2026-11-26); "
        "10 products' texts: 10 items"
    )
    assert shown_total({}) == "nothing is to be encoded"


# --- dry run ---


def files_below(folder: str, *but: str) -> set[str]:
    root = Path(folder)
    names = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    return {name for name in names if not name.startswith(but)}


def test_a_dry_run_tells_what_a_run_does_and_the_run_goes_on_from_it(
    config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    rows = products()
    first = run(config(rows))
    rows[0]["name"], rows[1]["price"] = "another name", 0.5
    settings = config([*rows[:-1], product(90)])
    before = files_below(settings.index, "runs", "LOCK")
    lines, night = dry(settings)
    assert lines[0].startswith("dry run: to encode: 1 products' pictures: less than 10 seconds (1 items at ")
    assert lines[1:] == [
        f"since version {first.version}: 57 unchanged, 2 changed (columns 1, text 1), 1 new, 1 gone; 0 rejected",
        "a run goes on from here: nothing was encoded or published",
    ]
    assert read_current(Index(settings.index)) == first.version
    assert files_below(settings.index, "runs", "LOCK") == before
    assert isinstance(night.job, Job)
    begun = night.job.run
    pieces = {path: path.stat().st_mtime_ns for path in Path(begun.file("ingest")).iterdir()}
    assert pieces
    assert (night.content["exit_code"], night.content["dry_run"], night.content["version"]) == (0, True, None)
    assert night.content["to_encode"]["text"] == {"products": 2, "items": 2}

    again, _ = dry(settings)
    assert again[1:] == lines[1:]
    assert {path: path.stat().st_mtime_ns for path in Path(begun.file("ingest")).iterdir()} == pieces
    caplog.set_level(logging.INFO)
    report = run(settings)
    assert f"going on with the unfinished run {begun.id}" in caplog.messages
    assert not [message for message in caplog.messages if message.startswith("ingest:")], "it is read once"
    assert (report.version, report.encoded) == (begun.id, {"picture": 1, "text": 2})
    assert report.changes == Changes(**night.content["changes"])
    assert read_current(Index(settings.index)) == begun.id


def test_a_dry_run_where_nothing_changed_leaves_nothing(config: MakeConfig) -> None:
    first = run(config(products()))
    for settings in (config(), config(products())):
        before = files_below(settings.index)
        lines, _ = dry(settings)
        assert f"those of the current version {first.version}" in lines[0]
        assert lines[1:] == [f"since version {first.version}: 60 unchanged, 0 changed, 0 new, 0 gone; 0 rejected"]
        assert files_below(settings.index) == before


def test_a_dry_run_with_another_bundle_leaves_the_index_its_own(
    config: MakeConfig, tmp_path: Path, tiny_towers: dict[str, Path]
) -> None:
    first = run(config(products()))
    own = (Path(config().index) / "bundles" / "LATEST").read_text()
    lines, _ = dry(config(bundle=other_bundle(tiny_towers, tmp_path)))
    assert lines[2].startswith(f"picture features are others than those of version {first.version}: tower saved-model:")
    assert "59 stale" not in lines[1]
    assert lines[1].endswith("0 gone, 60 stale (picture 60); 0 rejected")
    dry(config(picture_views=2).replace(bundle=None))
    assert (Path(config().index) / "bundles" / "LATEST").read_text() == own
    assert run(config().replace(bundle=None)).version == first.version


def test_a_dry_run_without_a_bundle_says_so_and_trains_none(config: MakeConfig) -> None:
    settings = config(products()).replace(bundle=None)
    lines, night = dry(settings)
    assert lines == [
        "dry run: the index has no bundle: a run trains one on this catalogue first (or takes one by --bundle DIR)",
        (
            "2 files with 60 rows: all products would be new, and all their pictures (package:efficientnet-lite0?side=288) and "
            "texts (package:use-multilingual) encoded"
        ),
        "how long that takes is known once there is a bundle: catalogue-index train",
    ]
    assert files_below(settings.index) == set()
    assert (night.content["exit_code"], night.content["run"]) == (0, None)


def test_a_dry_run_refuses_what_a_run_refuses(config: MakeConfig) -> None:
    rows = products()
    for row in rows[:30]:
        row["sku"] = None
    settings = config(rows)
    with pytest.raises(RejectRateError, match=r"30 rejects in 60 rows"):
        dry(settings)
    with pytest.raises(ConfigError, match="--refit-statistics makes another bundle: leave it out of --dry-run"):
        dry(config(products(), refit_statistics=True))


# --- a catalogue of no rows ---


def test_a_catalogue_of_no_rows_is_an_index_of_no_products(config: MakeConfig, tmp_path: Path) -> None:
    folder = tmp_path / "none"
    write_shards(folder, products(1), 1)
    (path,) = folder.iterdir()
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    report = run(config(catalogue=[f"{folder}/*.parquet"]))
    assert (report.rows, report.indexed, report.published, report.recall) == (0, 0, True, None)
    assert report.changes == Changes(None)
    report = run(config(products()))
    assert changes(report).new == PRODUCTS
