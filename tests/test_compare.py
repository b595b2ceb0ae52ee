"""Comparison of two versions: the same queries, figures known by hand, and a page that shows what moved."""

from __future__ import annotations

import csv
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from conftest import COLOURS, product, write_shards

from pipelines import cli, compare, comparison_page, exit_codes
from pipelines.comparison_page import Answer, Moved
from pipelines.evaluation import open_version
from pipelines.layout import Index
from pipelines.publish import list_versions
from pipelines.self_supervised import Asking

SCRIPT = "<script>alert('shirt & \"more\"')</script>"


def id_of(number: int) -> str:
    return f"P{number:05d}{SCRIPT}"


@pytest.fixture(scope="module")
def shop(colour_bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Publish products 0 to 39 by a bundle that knows colours, then 6 to 45 by one that takes them for others."""
    root = tmp_path_factory.mktemp("compared")
    for first, which in ((0, "good"), (6, "bad")):
        rows = [product(number) | {"sku": id_of(number)} for number in range(first, first + 40)]
        catalogue = write_shards(root / which, rows, 20)
        flags = ["--catalogue", catalogue, "--bundle", str(colour_bundles[which]), "--max-shrink", "1"]
        assert cli.main(["run", "--index", str(root / "index"), *flags]) == 0
    return root


def versions(root: Path) -> list[str]:
    return [version.id for version in sorted(list_versions(str(root / "index")), key=lambda one: one.sequence)]


def compared(root: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, Any]:
    capsys.readouterr()
    assert cli.main(["evaluate", "--index", str(root / "index"), "--compare", *versions(root), "--json", *flags]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return told


def rows_of(told: dict[str, Any], name: str) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["by"], row["search"]): row for row in told["results"] if row["set"] == name}


def test_both_are_asked_the_same_and_figures_are_those_of_the_answers(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = compared(shop, capsys, "--phrase-language", "en", "--phrase-language", "zh")
    assert told["versions"] == versions(shop)
    assert (told["only"], told["missing"]) == ([6, 6], [])
    assert list(dict.fromkeys(row["set"] for row in told["results"])) == ["titles", "phrases", "phrases, zh", "photos"]
    # The second version takes every text for one of another colour; pictures are as before.
    (titles,) = rows_of(told, "titles").values()
    assert titles["queries"] == 34
    assert (titles["mrr"]["first"]["value"], titles["mrr"]["second"]["value"]) > (0.1, 0)
    assert titles["ndcg@10"]["second"]["value"] == 0
    phrases = rows_of(told, "phrases")
    assert list(phrases) == [("fused", "exact"), ("fused", "Annoy"), ("picture", "exact"), ("text", "exact")]
    figure = phrases["picture", "exact"]["ndcg@10"]
    assert (figure["first"]["value"], figure["second"]["value"], figure["change"]["value"]) == (1, 0, -1)
    assert (figure["change"]["low"], figure["change"]["high"]) == (-1, -1)
    for row in rows_of(told, "photos").values():
        assert row["mrr"]["change"]["low"] <= row["mrr"]["second"]["value"] - row["mrr"]["first"]["value"] + 1e-3


def test_products_that_one_version_lacks_are_no_answers(shop: Path) -> None:
    first, second = versions(shop)
    index = Index(str(shop / "index"))
    with open_version(index, first) as before, open_version(index, second) as after:
        both = compare.Common.of(before, after)
        ids = [
            [version.items.row(int(item))["product_id"] for item in places]
            for version, places in zip((before, after), both.places, strict=True)
        ]
    assert ids[0] == ids[1]
    assert sorted(ids[0]) == [id_of(number) for number in range(6, 40)]
    assert (both.first.sum(), both.second.sum()) == (34, 34)
    source = Asking(100)
    found = compare.compare(str(shop / "index"), (first, second), source, 0)
    for pair in found.pairs:
        for result, among in ((pair.before, both.first), (pair.after, both.second)):
            assert among[result.ranked[result.ranked >= 0]].all()
            assert all(among[judged.items].all() for judged in result.queries.judgements)
            assert [query.id for query in result.queries.queries] == [query.id for query in pair.before.queries.queries]


def test_a_version_is_as_good_as_itself(shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own, page = versions(shop)[0], tmp_path / "page.html"
    flags = ["--compare", own, own, "--sample", "10", "--html", str(page)]
    assert cli.main(["evaluate", "--index", str(shop / "index"), *flags]) == 0
    out = capsys.readouterr().out
    assert f"version {own}, then {own}; below them the difference" in out
    assert f"wrote the queries that are answered better and worse to {page}" in out
    assert "+0.000 [+0.000, +0.000]" in out
    assert " only " not in out
    assert f"Better answered by {own}: 0 queries" in page.read_text()
    assert "<article>" not in page.read_text()


def write_queries(path: Path) -> Path:
    """Write a query for each colour, all products of which are right, and one that no version can answer."""
    with path.open("w", newline="") as file:
        rows = [(f"{COLOURS[n % 3]} shirt", id_of(n)) for n in range(46)]
        csv.writer(file).writerows([("text", "product_id"), *rows, ("red", "gone")])
    return path


class Page(HTMLParser):
    """Collects what a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_what_moved_and_runs_nothing(shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "page.html"
    told = compared(shop, capsys, "--queries", str(write_queries(tmp_path / "q.csv")), "--html", str(path))
    assert [row["lacking"] for row in told["results"]] == [[7, 7]] * 4
    text = path.read_text()
    page = Page(text)
    assert "script" not in page.tags
    assert page.tags.count("article") == 3
    assert SCRIPT in page.text
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    # Three queries, five answers of two versions each, of which one version has all right and the other none.
    assert len(page.sources) == 30
    assert (text.count("✓ right"), text.count("✗"), text.count("<li class=right>")) == (15, 15, 15)
    assert f"Better answered by {told['versions'][1]}: 0 queries" in page.text
    assert f"Worse answered by {told['versions'][1]}: 3 queries" in page.text
    assert page.text.count("nDCG@10 1.000 → 0.000 -1.000") == 3
    # Figures on top: those of the fourth query, which nobody answers, among them.
    assert "0.750 → 0.000-0.750" in page.text


def test_photos_are_shown_as_they_were_asked(shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "page.html"
    compared(shop, capsys, "--html", str(path))
    sections = re.findall(r"<article>.*?</article>", path.read_text(), re.DOTALL)
    photos = [section for section in sections if "photos by fused, Annoy" in section]
    assert all('alt="the picture asked by"' in section for section in photos)
    # Of each kind one search is shown.
    shown = {re.search(r'<p class="dim">(.*?) · ', section)[1] for section in sections}  # type: ignore[index]
    assert shown - {"photos by fused, Annoy"} == {"titles by picture, exact", "phrases by fused, Annoy"}


def test_a_page_is_bounded(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "SHOWN_QUERIES", 2)
    path = tmp_path / "page.html"
    compared(shop, capsys, "--queries", str(write_queries(tmp_path / "q.csv")), "--html", str(path))
    assert path.read_text().count("<article>") == 2
    assert "3 queries, the 2 that differ most" in path.read_text()


def test_a_page_without_pictures_says_so(shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(shop / "index", moved / "index")
    first = versions(shop)[0]
    shutil.rmtree(moved / "index" / "runs" / first)
    path = tmp_path / "page.html"
    compared(moved, capsys, "--queries", str(write_queries(tmp_path / "q.csv")), "--html", str(path))
    page = Page(path.read_text())
    run = f"{moved}/index/runs/{first}"
    assert f"pictures of version {first} are not shown: {run}, which says where pictures were read, is gone" in page.text
    assert page.text.count("no picture") == 15
    assert len(page.sources) == 15


def test_whatever_comes_of_a_catalogue_is_escaped() -> None:
    bad = '"><script>x</script><img src=x onerror=y>'
    answers = [Answer(bad, bad, True, bad), Answer(bad, None, False, None)]
    moved = [Moved(bad, bad, bad, 1, (0.0, 1.0), (answers, answers))]
    text = comparison_page.render((bad, bad), [], moved, (1, 0), [bad])
    page = Page(text)
    assert "script" not in page.tags
    assert page.tags.count("img") == 3
    assert "onerror" not in re.sub(r"&lt;img src=x onerror=y&gt;", "", text)
    assert "default-src 'none'" in text


def test_flags_that_do_not_fit_are_refused(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two = ["--compare", *versions(shop)]
    for flags, message in (
        ([*two, "--version", "v1"], "--compare asks two versions, as they are: it does not go with --version"),
        ([*two, "--robustness"], "--compare asks two versions, as they are: it does not go with --robustness"),
        ([*two, "--ablate"], "--compare asks two versions, as they are: it does not go with --ablate"),
        (["--html", "p.html"], "--html is the page of a comparison: give --compare A B"),
        (["--queries", "q.csv", "--phrase-language", "zh"], "--phrase-language is of phrases that are made"),
    ):
        assert cli.main(["evaluate", "--index", str(shop / "index"), *flags]) == exit_codes.BAD_FLAG
        assert f"catalogue-index: {message}" in capsys.readouterr().err
    for asked in (("v7", two[1]), (two[1], "v7")):
        assert cli.main(["evaluate", "--index", str(shop / "index"), "--compare", *asked]) == exit_codes.BAD_FLAG
        assert f"catalogue-index: there is no version 'v7' in {shop / 'index'}: " in capsys.readouterr().err
