"""Reviews as a modality: which of them count and how much, how catalogues write them, and what a night makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import DIMENSION, SHARED, MakeConfig, product
from shop_files import problems_of, read

from catalogue_lookup import open_index
from encoders.bundle import open_bundle, write_bundle
from encoders.fusion import Fusion
from encoders.heads import apply_head, random_head
from encoders.pooling import Views
from pipelines.explain import Explainer
from pipelines.layout import Index
from pipelines.retention import spaces_of_bundle
from pipelines.run import Report, open_run, run
from transforms.reviews import Review, Weighed, choose_reviews, reviews_content

PRODUCTS, WEIGHED = 30, {"reviews": "0.5"}
WORDS = ("soft", "stiff", "warm", "thin", "cheap", "loud", "bright", "heavy", "sturdy", "short")


def products() -> list[dict[str, Any]]:
    """Make products of which every fifth has no review, and the others two, one of them found helpful."""
    rows = [product(number) for number in range(PRODUCTS)]
    for number, row in enumerate(rows):
        first, second = WORDS[number % 10], WORDS[number // 3 % 10]
        helpful = {"title": f"{first} no. {number}", "text": "I <b>like</b> it", "helpful": number}
        row["reviews"] = [helpful, {"title": None, "text": f"rather {second}", "helpful": None}] if number % 5 else []
    return rows


def vectors(report: Report, index: str) -> dict[str, dict[str, Any]]:
    folder = Path(Index(index).version(report.version)) / "vectors"
    return {row["product_id"]: row for path in folder.glob("*.parquet") for row in pq.read_table(path).to_pylist()}


# --- which reviews count ---


def test_the_most_helpful_reviews_count_cleaned_and_in_an_order_of_their_own() -> None:
    reviews = [
        Review("", "b: nobody&#39;s"), Review("Good", "<p>a: seven</p>", 7), Review("", " "), Review("", "c: nobody's"),
        Review("", "d: two", 2), Review("Good.", "a: seven", 3), Review("", "d: two", 1),
    ]  # fmt: skip
    chosen = [Weighed("Good. a: seven", 4), Weighed("b: nobody's", 1), Weighed("d: two", 2)]
    assert choose_reviews(reviews, 3) == chosen  # of the two without a vote the first
    assert choose_reviews(reviews[1:] + reviews[:1], 9) == choose_reviews(reviews, 9)
    assert choose_reviews([Review("", "x" * 3000)], 1) == [Weighed("x" * 1000, 1)]
    assert choose_reviews([], 3) == []


def test_a_review_weighs_the_digits_of_its_votes() -> None:
    weights = [choose_reviews([Review("", "x", votes)], 1)[0].weight for votes in (0, 1, 2, 3, 6, 7, 100, 10**6)]
    assert weights == [1, 2, 2, 3, 3, 4, 7, 20]


def test_other_texts_or_weights_are_other_content() -> None:
    contents = [[Weighed("a", 1), Weighed("b", 1)], [Weighed("a", 2), Weighed("b", 1)], [Weighed("a b", 1)], [Weighed("a", 1)]]
    assert len({reviews_content(content) for content in contents}) == 4


# --- how catalogues write them ---


def found(tmp_path: Path, *cells: Any, name: str = "reviews", **options: Any) -> list[dict[str, Any]]:
    rows = [{"id": f"p{n}", "title": "thing", name: cell} for n, cell in enumerate(cells)]
    path = tmp_path / "shop.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read(path, max_reviews=16, **options)


def shown(rows: list[dict[str, Any]]) -> list[Any]:
    return [None if row["reviews"] is None else [tuple(one.values()) for one in row["reviews"]] for row in rows]


def test_lists_of_texts_and_objects_are_reviews(tmp_path: Path) -> None:
    assert shown(found(tmp_path, ["good", None, "bad"], [], None)) == [[("", "good", 0), ("", "bad", 0)], None, None]
    cells = (
        [{"summary": "Fine", "reviewText": "fits", "helpful": [2, 3]}, {"review_text": "meh", "helpful": "many"}],
        [{"Title": "Top", "Body": None, "Helpful Votes": "12"}, {"body": None}],
        [{"text": "odd", "votes": -4}],
    )
    assert shown(found(tmp_path, *cells, name="customer_reviews")) == [
        [("Fine", "fits", 2), ("", "meh", 0)], [("Top", "", 12)], [("", "odd", 0)],
    ]  # fmt: skip


def test_arrow_lists_of_structs_and_nested_columns_are_reviews(tmp_path: Path) -> None:
    cells = [[{"text": "good", "helpful": 3, "stars": 5}], None]
    pq.write_table(pa.table({"id": ["a", "b"], "title": ["x", "y"], "reviews": cells}), tmp_path / "a.parquet")
    assert shown(read(tmp_path / "a.parquet", max_reviews=3)) == [[("", "good", 3)], None]
    nested = [{"all": [{"said": "good"}, {"said": "bad"}]}, None]
    pq.write_table(pa.table({"id": ["a", "b"], "title": ["x", "y"], "feedback": nested}), tmp_path / "b.parquet")
    rows = read(tmp_path / "b.parquet", max_reviews=3, columns={"reviews": "feedback.all.said"})
    assert shown(rows) == [[("", "good", 0), ("", "bad", 0)], None]
    assert "reviews" not in rows[0]["kept"]


def test_a_text_is_a_list_in_json_or_reviews_between_bars(tmp_path: Path) -> None:
    path = tmp_path / "shop.csv"
    cells = ["good|very good", '"[{""text"": ""fits"", ""helpful"": 2}]"', '"[""a"", ""b""]"', "[Verified] fine", '"[""cut"', ""]
    path.write_text("id,title,reviews\n" + "".join(f"p{n},thing,{cell}\n" for n, cell in enumerate(cells)))
    rows = read(path, max_reviews=16)
    assert shown(rows) == [
        [("", "good", 0), ("", "very good", 0)], [("", "fits", 2)], [("", "a", 0), ("", "b", 0)], [("", "[Verified] fine", 0)],
        None, None,
    ]  # fmt: skip
    assert problems_of(rows) == {4: [("reviews", "bad_value")]}
    (problem,) = rows[4]["problems"]
    assert problem["detail"].startswith("the reviews begin as a list in JSON and are none: Unterminated string")


def test_what_is_no_review_is_a_problem_of_its_field(tmp_path: Path) -> None:
    rows = found(tmp_path, [{"text": "good"}, {"stars": 4}], [{"stars": 5}], [{"text": {"en": "good"}}], '["a", ["b"]]')
    assert shown(rows) == [[("", "good", 0)], None, None, None]
    details = {row["row"]: row["problems"][0]["detail"] for row in rows if row["problems"]}
    assert details == {2: "{'en': 'good'} is an object, not a text", 3: "['b'] is a list, not a text"}


def test_numbers_are_no_reviews_and_nothing_is_read_unasked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert shown(found(tmp_path, 3, 4)) == [None, None]
    assert "the column 'reviews' is int64; it is not used as reviews" in caplog.text
    assert shown(read(tmp_path / "shop.jsonl")) == [None, None]
    path = tmp_path / "lists.jsonl"
    path.write_text('{"id": "a", "title": "x", "reviews": ["good"]}\n')
    assert [(row["reviews"], row["kept"]["reviews"]) for row in read(path)] == [(None, ["good"])]


# --- what a night makes of them ---


def test_products_have_the_weighted_mean_of_their_reviews(config: MakeConfig, tiny_bundle: Path) -> None:
    settings = config(products(), weight=WEIGHED)
    report = run(settings)
    assert report.encoded == {"picture": PRODUCTS, "text": PRODUCTS, "reviews": 48}
    assert f"encoded {PRODUCTS} pictures, {PRODUCTS} texts, 48 reviews" in "\n".join(report.lines())
    bundle, rows = open_bundle(tiny_bundle), vectors(report, settings.index)
    tower = bundle.load_tower("text")
    features = tower.encode(["warm no. 12. I like it", "rather cheap"])
    mean = np.average(features, axis=0, weights=[4, 1]).astype(np.float16)  # 12 votes: 1101
    expected = apply_head(bundle.heads["text"], mean[None])[0]
    np.testing.assert_allclose(rows["P00012"]["reviews_vector"], expected, atol=2e-3)
    fused = np.array(rows["P00012"]["vector"]).reshape(3, SHARED)
    np.testing.assert_allclose(fused[2] / np.linalg.norm(fused[2]), expected, atol=2e-3)
    np.testing.assert_allclose(np.square(fused).sum(axis=1), np.full(3, 1 / 3), atol=1e-3)
    without = rows["P00010"]
    assert without["reviews_vector"] is None
    np.testing.assert_allclose(np.square(np.array(without["vector"]).reshape(3, SHARED)).sum(axis=1), [0.5, 0.5, 0], atol=1e-3)


def test_a_query_finds_a_product_by_what_is_said_of_it(config: MakeConfig) -> None:
    rows = products()
    rows[7]["reviews"] = [{"title": None, "text": "zzyzx", "helpful": 0}]
    settings = config(rows, weight=WEIGHED)
    run(settings)
    with open_index(settings.index) as index:
        assert index.manifest.modalities == ("picture", "text", "reviews")
        assert index.manifest.measured.by_query["reviews"] is not None
        assert index.search(text="zzyzx", weights={"reviews": 1.0}, k=1)[0].product_id == "P00007"
        assert "P00010" not in {hit.product_id for hit in index.search(text="soft", weights={"reviews": 1.0}, k=PRODUCTS)}
    with Explainer(settings.index) as explainer:
        told, lacking = explainer.explain("P00007"), explainer.explain("P00010")
    assert [(one["modality"], one["state"]) for one in told.features] == [
        ("picture", "present"), ("text", "present"), ("reviews", "present")
    ]  # fmt: skip
    assert lacking.features[-1]["state"] == "the product has no reviews"
    assert told.vectors is not None
    assert told.vectors["of"]["reviews"]["weight"] == pytest.approx(1 / 3)


def test_another_fusion_has_the_vectors_of_reviews_beside_its_own(config: MakeConfig) -> None:
    rows = products()
    rows[7]["reviews"] = [{"title": None, "text": "zzyzx", "helpful": 0}]
    settings = config(rows, weight=WEIGHED, fusion="mean")
    report = run(settings)
    assert len(vectors(report, settings.index)["P00007"]["vector"]) == SHARED
    with open_index(settings.index) as index:
        assert index.search(text="zzyzx", weights={"reviews": 1.0}, k=1)[0].product_id == "P00007"


def test_only_products_whose_reviews_changed_are_encoded_again(config: MakeConfig) -> None:
    rows = products()
    first = run(config(rows, weight=WEIGHED))
    rows[3]["reviews"].append({"title": "New", "text": "came later", "helpful": 0})
    rows[4]["reviews"].reverse()
    rows[8]["reviews"][0]["helpful"] += 1  # 8 to 9 votes: as many digits
    rows[16]["reviews"][0]["helpful"] = 40
    rows[21]["reviews"] = []
    report = run(config(rows, weight=WEIGHED))
    assert report.encoded == {"reviews": 3 + 2}
    assert report.changes is not None
    assert (report.changes.since, report.changes.changed_by, report.changes.unchanged) == (
        first.version, {"reviews": 3}, PRODUCTS - 3
    )  # fmt: skip
    assert vectors(report, config().index)["P00021"]["reviews_vector"] is None


def test_reviews_that_are_shown_are_not_counted_as_columns_too(config: MakeConfig) -> None:
    rows = [{**row, "reviews": [one["text"] for one in row["reviews"]]} for row in products()]
    run(config(rows, weight=WEIGHED))
    rows[3]["reviews"].append("came later")
    rows[4]["reviews"].reverse()
    report = run(config(rows, weight=WEIGHED))
    assert report.changes is not None
    assert report.changes.changed_by == {"columns": 1, "reviews": 1}


def test_without_a_weight_reviews_are_not_read(config: MakeConfig, caplog: pytest.LogCaptureFixture) -> None:
    rows = products()
    rows[2]["reviews"] = [{"title": "no text", "text": None, "helpful": None}]
    report = run(config(rows, column={"reviews": "reviews"}))
    assert report.encoded == {"picture": PRODUCTS, "text": PRODUCTS}
    assert len(vectors(report, config().index)["P00001"]["vector"]) == 2 * SHARED
    assert "--column reviews=reviews has no effect: reviews have no weight, which --weight reviews=0.2 gives them" in caplog.text


def test_a_weight_may_come_and_go_and_the_features_stay(config: MakeConfig) -> None:
    first = run(config(products()))
    weighed = run(config(weight=WEIGHED, bundle=None))
    assert (weighed.encoded, weighed.rejected) == ({"reviews": 48}, {})
    own = Index(config().index)
    bundles = {path.name for path in Path(own.bundles).iterdir() if path.is_dir()}
    spaces = set.union(*(spaces_of_bundle(own, name) for name in bundles))
    assert {path.name for path in Path(own.features).iterdir()} == spaces
    without = run(config(weight={"reviews": "0"}, bundle=None))
    assert without.encoded == {}
    assert vectors(without, own.root).keys() == vectors(first, own.root).keys()
    assert vectors(without, own.root)["P00003"]["vector"] == vectors(first, own.root)["P00003"]["vector"]
    assert run(config(weight=WEIGHED, bundle=None, trees=5)).encoded == {}


def test_at_most_so_many_reviews_are_encoded(config: MakeConfig) -> None:
    assert run(config(products(), weight=WEIGHED, max_reviews=1)).encoded["reviews"] == 24
    assert run(config(weight=WEIGHED, max_reviews=2)).encoded == {"reviews": 48}


def test_a_product_may_have_nothing_but_reviews(config: MakeConfig) -> None:
    rows = products()
    rows[1] |= {"name": None, "body_html": None, "image": None}
    assert run(config(rows, weight=WEIGHED)).indexed == PRODUCTS
    assert run(config(weight={"reviews": "0"})).rejected == {"nothing_to_encode": 1}


def test_a_catalogue_without_reviews_is_told(config: MakeConfig, caplog: pytest.LogCaptureFixture) -> None:
    job, _ = open_run(config([product(number) for number in range(3)], weight=WEIGHED), ())
    assert set(job.spaces) == {"picture", "text"}
    told = "the bundle weighs reviews, but the catalogue has none: map a column of them with --column reviews=COLUMN"
    assert told in caplog.text


def test_reviews_go_through_a_head_of_views_side_by_side(tiny_towers: dict[str, Path], tmp_path: Path) -> None:
    views = {"text": Views(2, "concatenation", digest="x")}
    heads = {"text": random_head(2 * DIMENSION, SHARED, 0)}
    fusion = Fusion("weighted_sum", {"text": 0.5, "reviews": 0.5})
    bundle = write_bundle(tmp_path / "bundle", {"text": tiny_towers["text"]}, heads, fusion, views, {})
    assert (bundle.modalities, bundle.views_of("reviews"), bundle.dimension) == (("text", "reviews"), Views(), SHARED)
    feature = np.random.default_rng(0).standard_normal((1, DIMENSION)).astype(np.float16)
    np.testing.assert_array_equal(bundle.vectors("reviews", feature), bundle.vectors("text", np.tile(feature, 2)))
