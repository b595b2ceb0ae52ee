"""Withdrawn products: in no answer, and the command that keeps the list."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from version_maker import Products, draw_products, exact_order, make_version, near

from catalogue_lookup import UnknownProductError, open_index
from catalogue_lookup.manifest import Metric
from catalogue_lookup.withdrawn import Withdrawal, WithdrawnError, read_withdrawn, write_withdrawn
from encoders.integrity import IntegrityError
from pipelines import layout
from pipelines.cli import main
from pipelines.publish import publish_version
from pipelines.withdraw import WithdrawError, list_withdrawn, undo, withdraw

COUNT = 2000


@pytest.fixture(scope="module")
def products() -> Products:
    return draw_products(COUNT)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, products: Products) -> Path:
    root = tmp_path_factory.mktemp("made")
    make_version(root, "v1", products, max_items_per_shard=900)
    publish_version(layout.Index(str(root)), "v1", None)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """Return a copy of the index that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "index"))


@pytest.mark.parametrize("metric", get_args(Metric))
def test_answers_are_those_of_exact_search_without_what_is_withdrawn(tmp_path: Path, metric: Metric) -> None:
    products = draw_products(600)
    make_version(tmp_path, "v1", products, metric=metric, max_items_per_shard=250)
    publish_version(layout.Index(str(tmp_path)), "v1", None)
    queries = near(products, 15)
    orders = [exact_order(products, query, metric)[0] for query in queries]
    # The closest but two, every third of all, and a product that no version has.
    gone = {order[1] for order in orders} | set(products.ids[::3]) | {"Q1"}
    withdraw(str(tmp_path), sorted(gone))
    cheap = {row["product_id"] for row in products.rows if row["stock"] < 2}
    found = 0
    with open_index(tmp_path) as index:
        for query, order in zip(queries, orders, strict=True):
            left = [product_id for product_id in order if product_id not in gone]
            assert [hit.product_id for hit in index.search(vector=query, search_k=10**6)] == left[:10]
            hits = index.search(vector=query)
            assert [hit.rank for hit in hits] == list(range(1, 11))
            assert not {hit.product_id for hit in hits} & gone
            found += len({hit.product_id for hit in hits} & set(left[:10]))
            filtered = [product_id for product_id in left if product_id in cheap]
            assert [hit.product_id for hit in index.search(vector=query, where="stock < 2", search_k=10**6)] == filtered[:10]
    assert found >= 0.95 * 10 * len(queries)


@pytest.mark.parametrize("search_k", [1, 40, None])
def test_k_answers_come_though_the_closest_thousand_are_withdrawn(root: Path, products: Products, search_k: int | None) -> None:
    closest, _ = exact_order(products, products.fused[0])
    withdraw(str(root), closest[:1000])
    with open_index(root) as index:
        for k in (1, 10, 999, 5000):
            hits = index.search(vector=products.fused[0], k=k, search_k=search_k)
            assert len(hits) == min(k, 1000)
            assert {hit.product_id for hit in hits} <= set(closest[1000:])
        assert index.search(vector=products.fused[0], where=f"product_id = '{closest[0]}'") == []
        like = index.search(product_id=closest[1500], k=2000)
        assert {hit.product_id for hit in like} == set(closest[1000:]) - {closest[1500]}


def test_an_index_of_which_all_is_withdrawn_answers_nothing(root: Path, products: Products) -> None:
    withdraw(str(root), products.ids)
    with open_index(root) as index:
        assert index.search(vector=products.fused[0]) == []
        assert index.search(vector=products.fused[0], where="stock < 3") == []
        assert len(index) == COUNT


def test_shards_that_are_opened_alone_obey_the_list(root: Path, products: Products) -> None:
    withdraw(str(root), [*products.ids[:900], products.ids[901]])
    with open_index(root, shards=[0]) as first, open_index(root, shards=[1]) as second:
        assert first.search(vector=products.fused[0]) == []
        found = {hit.product_id for hit in second.search(vector=products.fused[0], k=COUNT)}
        assert found == {products.ids[900], *products.ids[902:1800]}


def test_a_query_for_a_withdrawn_product_says_that_it_is(root: Path) -> None:
    withdraw(str(root), ["P00007"], "burns when it is charged")
    withdraw(str(root), ["Q1"])
    with open_index(root) as index:
        since = index.withdrawn["P00007"].since
        assert since.endswith("+00:00")
        with pytest.raises(UnknownProductError) as raised:
            index.search(product_id="P00007")
        assert str(raised.value) == f"product 'P00007' is withdrawn since {since}: burns when it is charged"
        with pytest.raises(UnknownProductError, match=r"^product 'Q1' is withdrawn since [^:]*:[^:]*:[^:]*:00$"):
            index.search(product_id="Q1")
        with pytest.raises(UnknownProductError, match="no product of the index has the id 'Q2'"):
            index.search(product_id="Q2")


def test_every_way_of_opening_obeys_the_list(root: Path, products: Products) -> None:
    make_version(root, "v2", draw_products(50), sequence=2)
    withdraw(str(root), ["P00007"])
    for opened in (open_index(root, version="v2"), open_index(root / "versions" / "v2"), open_index(f"file://{root}")):
        with opened as index:
            found = {hit.product_id for hit in index.search(vector=products.fused[0], k=COUNT)}
            assert len(found) == len(index) - 1
            assert "P00007" not in found


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated": (lambda data: data[: len(data) // 2], r"is not whole JSON \(.*\): it is truncated or altered; copy it again"),
    "empty": (lambda data: b"", "is not whole JSON"),
    "not UTF-8": (lambda data: b"\xff\xfe" + data, "is not whole JSON"),
    "altered": (lambda data: data.replace(b"P00007", b"P00008"), "is altered: its content has another hash than it says"),
    "of other JSON": (lambda data: b"[]", "is no list of withdrawn products: it gives the format None"),
    "newer": (lambda data: data.replace(b'"format": 1', b'"format": 2'), "has format 2, but this catalogue-index reads 1"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_list_is_refused_by_name(root: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    withdraw(str(root), ["P00007"])
    path = root / "WITHDRAWN"
    damage, message = DAMAGE[kind]
    path.write_bytes(damaged := damage(path.read_bytes()))
    with pytest.raises(IntegrityError, match=f"^{path} {message}"):
        open_index(root)
    for arguments in (["P1"], ["P00007", "--undo"], ["--list"]):
        assert main(["withdraw", "--index", str(root), *arguments]) == 6
        assert capsys.readouterr().err.startswith(f"catalogue-index: {path} ")
    assert main(["query", "--index", str(root), "--product-id", "P00001"]) == 6
    assert path.read_bytes() == damaged


def test_a_list_is_read_as_it_was_written() -> None:
    listed = {name: Withdrawal(name, reason, "2026-01-02T03:04:05+00:00") for name, reason in (("靴", "é\n"), ("a'b", ""))}
    data = write_withdrawn(listed)
    assert read_withdrawn(data, "x") == listed
    assert data == write_withdrawn(dict(reversed(listed.items())))
    assert read_withdrawn(write_withdrawn({}), "x") == {}
    with pytest.raises(WithdrawnError, match="x is altered"):
        read_withdrawn(data.replace(b"2026", b"2027"), "x")


def test_no_change_is_lost_where_many_change_the_list_at_once(root: Path) -> None:
    withdraw(str(root), [f"old{number}" for number in range(8)])

    def change(number: int) -> None:
        for turn in range(5):
            withdraw(str(root), [f"new{number}-{turn}"])
        undo(str(root), [f"old{number}"])

    threads = [threading.Thread(target=change, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = {f"new{number}-{turn}" for number in range(8) for turn in range(5)}
    assert {withdrawal.product_id for withdrawal in list_withdrawn(str(root))} == expected


def test_withdrawing_again_keeps_the_time_and_changes_a_reason_that_is_given(root: Path) -> None:
    assert withdraw(str(root), ["P1", "P2", "P1"], "recalled") == 2
    path = root / "WITHDRAWN"
    path.write_bytes(write_withdrawn({"P1": Withdrawal("P1", "recalled", "2026-01-02T03:04:05+00:00")}))
    before = path.stat().st_ino
    assert withdraw(str(root), ["P1"]) == 1
    assert path.stat().st_ino == before
    withdraw(str(root), ["P1"], "forbidden")
    assert list_withdrawn(str(root)) == [Withdrawal("P1", "forbidden", "2026-01-02T03:04:05+00:00")]


# The command.


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out.strip(), captured.err.strip()


def test_the_command_withdraws_lists_and_undoes(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = ["--index", str(root)]
    assert run(["withdraw", "--list", "--json", *index], capsys) == (0, "[]", "")
    withdrawn = run(["withdraw", "P00007", "P00009", *index, "--reason", "recalled"], capsys)
    assert withdrawn == (0, "withdrawn: P00007, P00009 (2 withdrawn products in all)", "")
    code, out, _ = run(["withdraw", "--list", "--json", *index], capsys)
    assert code == 0
    assert [(row["product_id"], row["reason"], set(row)) for row in json.loads(out)] == [
        (name, "recalled", {"product_id", "reason", "since"}) for name in ("P00007", "P00009")
    ]
    code, out, _ = run(["withdraw", "--list", *index], capsys)
    assert code == 0
    assert all(word in out for word in ("P00007", "P00009", "recalled"))
    code, _, error = run(["query", "--product-id", "P00007", *index], capsys)
    assert code == 2
    assert error.startswith("catalogue-index: product 'P00007' is withdrawn since 2")
    undone = run(["withdraw", "P00007", "--undo", *index], capsys)
    assert undone == (0, "no longer withdrawn: P00007 (1 withdrawn products left)", "")
    assert run(["query", "--product-id", "P00007", "--json", *index], capsys)[0] == 0


def test_an_id_that_the_index_does_not_have_is_withdrawn_and_told(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, error = run(["withdraw", "P7", "P00007", "--index", str(root)], capsys)
    assert (code, out) == (0, "withdrawn: P7, P00007 (2 withdrawn products in all)")
    assert error == (
        "catalogue-index: the current version has no product 'P7': it is withdrawn, should it come; is the id right?"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give the ids of products, or --list"),
        (["P1", "--list"], "--list takes no ids of products"),
        (["P1", "--json"], "--json is a form of --list: add it"),
        (["P1", "--resaon", "x"], "unknown flag '--resaon' (see catalogue-index withdraw --help)"),
        (["P1", "P2", "--undo"], "'P1', 'P2' are not withdrawn: nothing is changed; see --list"),
        (["P3", "P1", "--undo"], "'P1' is not withdrawn: nothing is changed; see --list"),
        (["P1", ""], "an id is empty: give the ids of products"),
        (["P\udcff"], "'P\\udcff' is not UTF-8: give the text as the catalogue has it"),
    ],
)
def test_what_the_command_cannot_do_is_said(
    root: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    withdraw(str(root), ["P3"])
    before = (root / "WITHDRAWN").read_bytes()
    assert run(["withdraw", "--index", str(root), *arguments], capsys) == (2, "", f"catalogue-index: {message}")
    assert (root / "WITHDRAWN").read_bytes() == before


def test_flags_that_contradict_each_other_are_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["withdraw", "P1", "--undo", "--reason", "x", "--index", str(root)])
    assert left.value.code == 2
    assert "argument --reason: not allowed with argument --undo" in capsys.readouterr().err


def test_a_folder_without_an_index_gets_no_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["P1"], ["P1", "--undo"], ["--list"]):
        code, _, error = run(["withdraw", *arguments, "--index", str(tmp_path)], capsys)
        assert (code, error) == (2, f"catalogue-index: {tmp_path} holds no CURRENT: give --index the folder of an index")
    assert not list(tmp_path.iterdir())
    with pytest.raises(WithdrawError):
        withdraw(str(tmp_path / "typo"), ["P1"])
    assert not (tmp_path / "typo").exists()


def test_an_index_of_which_nothing_is_published_yet_takes_a_list(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text("{}")
    assert main(["withdraw", "P00001", "--index", str(tmp_path)]) == 0
    make_version(tmp_path, "v1", products := draw_products(9))
    publish_version(layout.Index(str(tmp_path)), "v1", None)
    with open_index(tmp_path) as index:
        assert len(index.search(vector=np.ones_like(products.fused[0]), k=9)) == 8
