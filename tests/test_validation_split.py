from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from pipelines.config import Config, ConfigError
from pipelines.layout import order_of
from pipelines.training_products import Products, group_column, hash_share, split_validation


def products(titles: Sequence[str | None], groups: Sequence[str | None]) -> Products:
    ids = [f"P{number}" for number in range(len(titles))]
    return Products(ids, [order_of(name) for name in ids], list(titles), [[] for _ in ids], list(groups))


def test_products_of_one_title_or_group_never_straddle_the_split() -> None:
    rng = np.random.default_rng(0)
    titles = [f"title {n}" for n in rng.integers(0, 900, 2000)]
    groups = [None if n % 3 else f"group {n}" for n in rng.integers(0, 900, 2000)]
    drawn = products(titles, groups)
    chosen = split_validation(drawn)
    for names in (titles, groups):
        sides: dict[str, set[bool]] = {}
        for name, side in zip(names, chosen.tolist(), strict=True):
            if name is not None:
                sides.setdefault(name, set()).add(side)
        assert all(len(side) == 1 for side in sides.values())
    assert 80 <= chosen.sum() <= 100


def test_titles_and_groups_join_through_one_another() -> None:
    titles = ["shirt", "shirt", "blouse", None]
    joined = products([*titles, *(f"other {n}" for n in range(76))], ["a", "b", "b", "a", *[None] * 76])
    sides = split_validation(joined)
    assert len(set(sides[:4].tolist())) == 1
    assert sides.sum() == 4


def test_single_products_are_chosen_by_their_hash() -> None:
    drawn = products([None] * 1000, [None] * 1000)
    chosen = split_validation(drawn)
    shares = np.array([hash_share(order) for order in drawn.orders])
    assert chosen.sum() == 50
    assert shares[chosen].min() >= shares[~chosen].max()


def test_a_group_too_large_to_hold_out_is_trained_on() -> None:
    chosen = split_validation(products(["T-shirt"] * 500 + [f"{n}" for n in range(500)], [None] * 1000))
    assert not chosen[:500].any()
    assert chosen.sum() == 50


def test_the_column_of_groups_is_found_or_named() -> None:
    assert group_column(["title", "parent"], Config()) == "parent"
    assert group_column(["parent", "item_group_id"], Config()) == "item_group_id"
    assert group_column(["title"], Config()) is None
    assert group_column(["parent", "family"], Config(group="family")) == "family"
    with pytest.raises(ConfigError, match=r"--group family: the catalogue keeps no such column \(it keeps title, price\)"):
        group_column(["title", "price"], Config(group="family"))
