"""The products that a bundle's heads are trained on: their titles, sentences and phrases, and which of them validate.

They are the first of the one order, which is a random sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from pipelines import ranges, storage
from pipelines.config import Config, ConfigError
from pipelines.ingest import COLUMNS
from pipelines.job import Job
from pipelines.layout import ORDER, PRODUCT_ID
from pipelines.named_values import phrase_languages
from transforms.phrases import canonical_values, find_roles, phrases_of, product_attributes
from transforms.sentences import sentences
from transforms.shop_words import ShopWords

PHRASES_PER_PRODUCT = 8
SENTENCES_PER_PRODUCT = 6
VALIDATION_SHARE = 0.05
GROUP_COLUMNS = ("item_group_id", "parent")


@dataclass(frozen=True)
class Products:
    """The products trained on, in the one order, without their features.

    Attributes:
        ids: product ids.
        orders: their orders.
        titles: cleaned titles, None where there is none.
        phrases: phrases drawn for each product.
        groups: what the column of groups says of each, None where there is none or it is empty.
        sentences: sentences of each description.
        values: what each product has, as numbers.
        numbers: role and word -> the number of a value.
        meanings: phrase -> what it names, in these numbers; a phrase may name one thing or another.
    """

    ids: list[str]
    orders: list[int]
    titles: list[str | None]
    phrases: list[list[str]]
    groups: list[str | None]
    sentences: list[list[str]] = field(default_factory=list)
    values: list[list[int]] = field(default_factory=list)
    numbers: dict[tuple[str, str], int] = field(default_factory=dict)
    meanings: dict[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)


def shop_words(config: Config) -> ShopWords:
    """Return the words that phrases are made with: our table and the user's.

    Raises:
        ConfigError: a table cannot be read, or a line of it is no row.
    """
    try:
        return ShopWords.load(config.words)
    except ValueError as error:
        raise ConfigError(f"--words: {error}") from error


def read_products(job: Job) -> Products:
    """Read the products to train on, with the phrases made from their columns."""
    config, words, languages = job.config, shop_words(job.config), phrase_languages(job.config)
    products = Products([], [], [], [], [])
    numbers = products.numbers
    for table in _tables(job, config.max_training_products):
        columns = table[COLUMNS].combine_chunks()
        names = [field.name for field in columns.type]
        group = group_column(names, config)
        roles = phrase_roles(names, config)
        for product_id, order, row, text in zip(
            table[PRODUCT_ID].to_pylist(), table[ORDER].to_pylist(), columns.to_pylist(), table["text"].to_pylist(),
            strict=True,
        ):  # fmt: skip
            if config.holdout and hash_share(order) < config.holdout:
                continue
            products.ids.append(product_id)
            products.orders.append(order)
            products.titles.append(row.get("title") or (text if "title" not in names else None))
            attributes = product_attributes(row, roles, words)
            products.groups.append(str(row[group]) if group and row[group] not in (None, "") else None)
            described = row.get("description") if config.max_sentences else None
            products.sentences.append(sentences(described, SENTENCES_PER_PRODUCT) if isinstance(described, str) else [])
            own = sorted(canonical_values(attributes, words))
            products.values.append([numbers.setdefault(value, len(numbers)) for value in own])
            phrases = phrases_of(attributes, PHRASES_PER_PRODUCT, config.seed, words, languages)
            products.phrases.append([phrase.text for phrase in phrases])
            for phrase in phrases:
                meaning = tuple(sorted(numbers[value] for value in phrase.names))
                known = products.meanings.get(phrase.text, ())
                products.meanings[phrase.text] = known if meaning in known else (*known, meaning)
    return products


def group_column(names: Sequence[str], config: Config) -> str | None:
    """Return the column that says which products are variants of one, None where there is none.

    Raises:
        ConfigError: the catalogue does not keep the one that `--group` names.
    """
    if config.group is not None and config.group not in names:
        raise ConfigError(
            f"--group {config.group}: the catalogue keeps no such column (it keeps {', '.join(names) or 'none'})"
        )
    return config.group or next((name for name in GROUP_COLUMNS if name in names), None)


def phrase_roles(names: Sequence[str], config: Config) -> dict[str, str]:
    """Return role -> the column that phrases take it from: of those that `--phrases` names, or of all, found by their names.

    A column that `--phrases` names and whose name tells no role is a role of its own.

    Raises:
        ConfigError: the catalogue does not keep one that `--phrases` names.
    """
    missing = [name for name in config.phrases if name not in names]
    if missing:
        raise ConfigError(
            f"--phrases {missing[0]}: the catalogue keeps no such column (it keeps {', '.join(names) or 'none'})"
        )
    found = find_roles(config.phrases or names)
    return found | {name: name for name in config.phrases if name not in found.values()}


def split_validation(products: Products) -> np.ndarray:
    """Choose the products to validate with, a twentieth at most: bool[N].

    Products of one group or title, directly or through others, are chosen together, so that none is asked for by what
    training saw of its twin. Which ones: those of the highest `hash_share` of their first product; a group too large
    for what is left of the twentieth is trained on.
    """
    family = list(range(len(products.ids)))

    def first_of(row: int) -> int:
        while family[row] != row:
            family[row] = family[family[row]]
            row = family[row]
        return row

    seen: dict[tuple[str, str], int] = {}
    for row, named in enumerate(zip(products.titles, products.groups, strict=True)):
        for kind, name in zip(("title", "group"), named, strict=True):
            if name:
                one, other = sorted((first_of(row), first_of(seen.setdefault((kind, name), row))))
                family[other] = one
    members: dict[int, list[int]] = {}
    for row in range(len(family)):
        members.setdefault(first_of(row), []).append(row)
    chosen = np.zeros(len(family), dtype=bool)
    left = round(VALIDATION_SHARE * len(family))
    for first in sorted(members, key=lambda row: (-hash_share(products.orders[row]), row)):
        if len(members[first]) <= left:
            chosen[members[first]] = True
            left -= len(members[first])
    return chosen


def hash_share(order: int) -> float:
    """Return where the low bits of an order fall in [0, 1): they say nothing about its place."""
    return (order & 0xFFFF) / 0x10000


def _tables(job: Job, limit: int) -> Iterator[pa.Table]:
    left = limit
    for partition in job.partitions():
        path = job.run.products(partition)
        if left > 0 and storage.exists(path):
            table = ranges.read_table(path).slice(0, left)
            left -= table.num_rows
            yield table
