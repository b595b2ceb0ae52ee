"""The command `catalogue-index evaluate`: its flags, and what it prints.

Importing this module imports neither Beam nor TensorFlow.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from pipelines.exit_codes import DONE
from pipelines.setting import ConfigError, named_values
from pipelines.terminal import prepare_process, print_table
from transforms.shop_words import LANGUAGES

if TYPE_CHECKING:
    from pipelines.evaluate import Source

EVALUATED_PRODUCTS = 1_000


def add_evaluate_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command to its parser."""
    parser.add_argument("--index", required=True, metavar="DIR", help="folder or URI of the index")
    parser.add_argument("--version", metavar="ID", help="which one (default: the current one)")
    parser.add_argument("--compare", nargs=2, metavar=("A", "B"), help="two versions, asked the same queries")
    parser.add_argument("--html", metavar="FILE", help="page of what --compare finds better and worse")
    parser.add_argument("--ablate", action="store_true",
                        help="ask each modality alone, and each fusion with other weights, of the version's vectors")  # fmt: skip
    parser.add_argument("--unseen", type=float, nargs="?", const=0.0, metavar="SHARE",
                        help="with --ablate: only products that training never saw, as train --holdout SHARE left them out "
                        "(default: what the bundle tells)")  # fmt: skip
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--queries", metavar="FILE",
                       help="labelled queries: CSV, TSV, JSON lines or Parquet (default: made of the catalogue)")  # fmt: skip
    asked.add_argument("--sample", type=int, default=EVALUATED_PRODUCTS, metavar="N",
                       help="products that queries are made of, at most (default: %(default)s)")  # fmt: skip
    parser.add_argument("--phrase-language", action="append", default=[], choices=LANGUAGES,
                        help="language of phrases that are made; may be repeated (default: en)")  # fmt: skip
    parser.add_argument("--column", action="append", default=[], metavar="NAME=SOURCE",
                        help="map a column of the queries: text=query")  # fmt: skip
    parser.add_argument("--catalogue", action="append", default=[], metavar="CATALOGUE",
                        help="where the catalogue of the version lies now (default: where its run read it)")  # fmt: skip
    parser.add_argument("--robustness", action="store_true",
                        help="also ask with typing errors, and with blurred, cropped, noisy pictures")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of everything random (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print an object instead of a table")


def evaluate(given: argparse.Namespace) -> int:
    """Measure what a version finds, next to another one, or fused in other ways."""
    _check(given)
    columns = named_values(given.column, "--column")
    prepare_process()
    _check_versions(given)
    source = _source(given, columns)
    if given.compare is not None:
        return _compare(given, source)
    if given.ablate:
        return _ablate(given, source)
    from pipelines import evaluate as evaluating

    told = evaluating.evaluate_queries(given.index, given.version, source, given.seed if given.robustness else None)
    if given.json:
        print(json.dumps(told.to_json(given.seed), ensure_ascii=False, indent=1))
        return DONE
    print(f"version {told.version}")  # a table's title is as narrow as its table
    if told.results:
        print_table("", evaluating.TABLE, told.table(given.seed))
    for sentence in told.missing:
        print(sentence)
    return DONE


def _check(given: argparse.Namespace) -> None:
    for name, least in (("seed", 0), ("sample", 1)):
        if getattr(given, name) < least:
            raise ConfigError(f"--{name} is {getattr(given, name)}; it must be at least {least}")
    if given.queries is not None and given.catalogue and given.html is None:
        raise ConfigError("--catalogue is where pictures of queries that are made lie: it does not go with --queries")
    if given.queries is not None and given.phrase_language:
        raise ConfigError("--phrase-language is of phrases that are made: it does not go with --queries")
    if given.queries is None and given.column:
        raise ConfigError("--column maps a column of labelled queries: give --queries FILE")
    asked = {"--version": given.version, "--ablate": given.ablate, "--robustness": given.robustness}
    for flag, there in asked.items():
        if given.compare is not None and there:
            raise ConfigError(f"--compare asks two versions, as they are: it does not go with {flag}")
    if given.ablate and given.robustness:
        raise ConfigError("--ablate asks the queries as they are: it does not go with --robustness")
    if given.html is not None and given.compare is None:
        raise ConfigError("--html is the page of a comparison: give --compare A B")
    if given.unseen is not None and (not given.ablate or given.queries is not None):
        raise ConfigError("--unseen goes with --ablate and queries that are made of the catalogue")
    if given.unseen is not None and not 0 <= given.unseen < 1:
        raise ConfigError(f"--unseen is {given.unseen:g}; it is a share of at least 0 and below 1")


def _check_versions(given: argparse.Namespace) -> None:
    """Refuse what `verify` and `explain` refuse as a version, too, before anything is asked."""
    from pipelines.layout import Index
    from pipelines.operations import asked_version

    for version in given.compare or (given.version,):
        asked_version(Index(given.index), version)


def _source(given: argparse.Namespace, columns: dict[str, str]) -> Source:
    from pipelines.labelled_queries import read_labelled_queries
    from pipelines.self_supervised import Asking

    if given.queries is not None:
        return read_labelled_queries(given.queries, columns)
    languages = tuple(dict.fromkeys(given.phrase_language)) or ("en",)
    return Asking(given.sample, given.seed, tuple(given.catalogue), languages)


def _compare(given: argparse.Namespace, source: Source) -> int:
    from pipelines.compare import compare
    from pipelines.evaluate import TABLE

    told = compare(given.index, tuple(given.compare), source, given.seed, given.html, given.catalogue)
    if given.json:
        print(json.dumps(told.to_json(given.seed), ensure_ascii=False, indent=1))
        return DONE
    print(f"version {told.versions[0]}, then {told.versions[1]}; below them the difference")
    if told.pairs:
        print_table("", TABLE, told.table(given.seed))
    for sentence in told.lines():
        print(sentence)
    if given.html is not None:
        print(f"wrote the queries that are answered better and worse to {given.html}")
    return DONE


def _ablate(given: argparse.Namespace, source: Source) -> int:
    from pipelines.ablate import ablate

    told = ablate(given.index, given.version, source, given.unseen)
    if given.json:
        print(json.dumps(told.to_json(given.seed), ensure_ascii=False, indent=1))
        return DONE
    for sentence in told.lines():
        print(sentence)
    if told.rows:
        print_table("", told.columns(), told.table(given.seed))
        print("below each figure the change from the first row; *: its 95 % interval leaves out 0")
    return DONE
