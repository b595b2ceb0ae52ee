"""The command `catalogue-index`, also `python -m pipelines`.

Importing this module imports neither Beam nor TensorFlow: a query starts in a fraction of a second.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pipelines import commands
from pipelines.config import (
    BUILD_SETTINGS,
    CATALOGUE_SETTINGS,
    IMPORT_SETTINGS,
    PREVIEW_SETTINGS,
    RANKINGS,
    RUN_SETTINGS,
    TRAINING_SETTINGS,
    Config,
    ConfigError,
    add_flags,
)
from pipelines.exit_codes import DONE, INTERRUPTED, exit_code
from pipelines.terminal import prepare_process, print_table

if TYPE_CHECKING:
    from pipelines.summary import Night

STAGES = ("ingest", "encode", "fuse", "build", "publish")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command with all its subcommands."""
    top = argparse.ArgumentParser(
        prog="catalogue-index",
        description="Turns a shop's catalogue into an index that answers text, pictures, or both.",
        epilog="Exit codes: 0 done, 1 failed, 2 bad flag or configuration, 3 locked, 4 refused, 5 too many rejects, 6 storage, "
        "7 not indexed; docs/operations.md says what to do. Flags that a job does not know go to Beam's PipelineOptions.",
        allow_abbrev=False,
    )
    subcommands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        name: str, does: str, settings: Sequence[str] = (), handler: Callable[[argparse.Namespace], int] | None = None
    ) -> argparse.ArgumentParser:
        added = subcommands.add_parser(name, help=does, description=does[0].upper() + does[1:] + ".", allow_abbrev=False)
        added.set_defaults(handler=handler)
        if settings:
            added.add_argument("--config", metavar="FILE", help="TOML file that holds what flags hold; flags win")
            add_flags(added, settings)
        return added

    where = ("index", "bundle")
    sample = command("sample", "write the drawn sample catalogue", handler=commands.sample)
    sample.add_argument("--products", type=int, default=SAMPLE_PRODUCTS, metavar="N", help="products (default: %(default)s)")
    sample.add_argument("--seed", type=int, default=0, metavar="S", help="seed (default: %(default)s)")
    sample.add_argument("--output", required=True, metavar="DIR", help="folder or URI of the shards")
    sample.add_argument("--query-image", metavar="FILE", help="also draw a photo to search with")
    command("train", "encode features where they are missing, fit heads, write a bundle",
            (*where, *CATALOGUE_SETTINGS, *TRAINING_SETTINGS))  # fmt: skip
    imported = command("import", "make a bundle of a pretrained pair of towers (CLIP, SigLIP), without training",
                       IMPORT_SETTINGS, commands.import_pair)  # fmt: skip
    imported.add_argument("spec", metavar="SPEC", help="where both towers come from: hf:<folder> or keras-hub:<preset or folder>")
    job = (*where, *CATALOGUE_SETTINGS, *BUILD_SETTINGS)
    command("run", "bring a catalogue into a published index; skips what is there",
            (*job, *RUN_SETTINGS, *TRAINING_SETTINGS)).add_argument(
        "--dry-run", action="store_true", help="read and plan only: say what changed and what a run would do")  # fmt: skip
    for stage, does in (
        ("ingest", "read, validate and key the catalogue"),
        ("encode", "encode what the feature store lacks"),
        ("fuse", "compute every product's vectors"),
        ("build", "build the Annoy files and the manifest of a version"),
        ("publish", "check a version and make it the current one"),
    ):
        added = command(stage, does, job)
    for stage in ("run", *STAGES):
        told = subcommands.choices[stage]
        told.add_argument("--json", action="store_true", help="print the summary of the run, an object, instead of lines")
    added.add_argument("version", nargs="?", metavar="VERSION", help="a whole version to publish, in place of --catalogue")
    added.add_argument("--force", action="store_true", help="publish VERSION whatever the gate says; it is kept on record")
    whole = {
        name: command(name, does, handler=handler)
        for name, does, handler in (
            ("versions", "list the versions of an index", commands.versions),
            ("rollback", "make the version before the current one current again", commands.rollback),
            ("verify", "hash every byte of a version and its bundle and name the files that are wrong", commands.verify),
        )
    }
    for added in whole.values():
        added.add_argument("--index", required=True, metavar="DIR", help="folder or URI of the index")
    whole["versions"].add_argument("--json", action="store_true", help="print a list of objects instead of a table")
    whole["verify"].add_argument("--version", metavar="ID", help="which one (default: the current one)")
    pruned = command("prune", "delete versions, runs and features that nobody needs any more", handler=commands.prune)
    pruned.add_argument("--config", metavar="FILE", help="TOML file that holds what flags hold; flags win")
    add_flags(pruned, ("index", "grace_hours"))
    pruned.add_argument("--keep", "--keep-versions", dest="keep_versions", type=int, default=argparse.SUPPRESS, metavar="N",
                        help="newest versions that stay (default: 7)")  # fmt: skip
    pruned.add_argument("--dry-run", action="store_true", help="say what would be deleted, and delete nothing")
    preview = command("preview-views", "show what the operations make of a product's pictures and text", PREVIEW_SETTINGS,
                      commands.preview_views)  # fmt: skip
    preview.add_argument("--product-id", metavar="ID", help="whose views (default: the first product with a picture)")
    preview.add_argument("--views", dest="shown", type=int, default=8, metavar="N",
                         help="views, the item itself being the first (default: %(default)s)")  # fmt: skip
    preview.add_argument("--side", type=int, default=224, metavar="N", help="pixels of a side (default: %(default)s)")
    preview.add_argument("--output", required=True, metavar="FILE", help="contact sheet to write, a PNG")
    query = command("query", "search an index by texts, pictures, products, or several of them", handler=commands.query)
    query.add_argument("--index", required=True, metavar="DIR", help="folder or URI of the index, or of one version")
    query.add_argument("--bundle", metavar="DIR", help="folder of the bundle (default: the index's own)")
    for kind, metavar, shown in (("text", "T", "what to look for, in words"), ("image", "FILE", "a picture of what to look for"),
                                 ("product-id", "ID", "look for products like this one")):  # fmt: skip
        query.add_argument(f"--{kind}", metavar=metavar, action="append", help=f"{shown}; may be repeated")
        query.add_argument(f"--minus-{kind}", metavar=metavar, action="append", help="what answers are not to be like")
    query.add_argument("--weight", metavar="M=W", action="append", default=[],
                       help="weight of a modality in this query, text=0.3; one that is not named does not count")  # fmt: skip
    query.add_argument("--ranking", choices=RANKINGS, help="what ranks the answers (default: what the bundle was trained for)")
    query.add_argument("-k", type=int, default=10, metavar="K", help="answers (default: %(default)s)")
    query.add_argument("--where", metavar="EXPR", help="filter, e.g. \"price < 50 and colour in ('red', 'blue')\"")
    query.add_argument("--json", action="store_true", help="print a list of objects instead of a table")
    explain = command("explain", "say what became of products: indexed, rejected, withdrawn, unknown, and by what features",
                      handler=commands.explain)  # fmt: skip
    explain.add_argument("product_ids", nargs="+", metavar="PRODUCT_ID", help="id of a product")
    explain.add_argument("--index", required=True, metavar="DIR", help="folder or URI of the index")
    explain.add_argument("--version", metavar="ID", help="in which one (default: the current one)")
    explain.add_argument("--json", action="store_true", help="print a list of objects instead of tables")
    evaluate = command("evaluate", "measure what a version finds for queries whose right answers are known",
                       handler=commands.evaluate)  # fmt: skip
    evaluate.add_argument("--index", required=True, metavar="DIR", help="folder or URI of the index")
    evaluate.add_argument("--version", metavar="ID", help="which one (default: the current one)")
    asked = evaluate.add_mutually_exclusive_group()
    asked.add_argument("--queries", metavar="FILE",
                       help="labelled queries: CSV, TSV, JSON lines or Parquet (default: made of the catalogue)")  # fmt: skip
    asked.add_argument("--sample", type=int, default=EVALUATED_PRODUCTS, metavar="N",
                       help="products that queries are made of, at most (default: %(default)s)")  # fmt: skip
    evaluate.add_argument("--column", action="append", default=[], metavar="NAME=SOURCE",
                          help="map a column of the queries: text=query")  # fmt: skip
    evaluate.add_argument("--catalogue", action="append", default=[], metavar="CATALOGUE",
                          help="where the catalogue of the version lies now (default: where its run read it)")  # fmt: skip
    evaluate.add_argument("--robustness", action="store_true",
                          help="also ask with typing errors, and with blurred, cropped, noisy pictures")  # fmt: skip
    evaluate.add_argument("--seed", type=int, default=0, metavar="S", help="seed of everything random (default: %(default)s)")
    evaluate.add_argument("--json", action="store_true", help="print an object instead of a table")
    withdraw = command("withdraw", "take recalled or forbidden products out of all answers", handler=commands.withdraw)
    withdraw.add_argument("product_ids", nargs="*", metavar="PRODUCT_ID", help="id of a product")
    withdraw.add_argument("--index", required=True, metavar="DIR", help="folder or URI of the index")
    either = withdraw.add_mutually_exclusive_group()
    either.add_argument("--reason", metavar="TEXT", help="why, as queries for the product and --list tell it")
    either.add_argument("--undo", action="store_true", help="let the products be answers again")
    either.add_argument("--list", dest="listed", action="store_true", help="print the list instead")
    withdraw.add_argument("--json", action="store_true", help="print the list as a list of objects instead of a table")
    return top


# Enough products to train heads on, few enough for the whole first run to take minutes on a laptop.
SAMPLE_PRODUCTS = 3_000
EVALUATED_PRODUCTS = 1_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; errors are one sentence on standard error."""
    given, extra = parser().parse_known_args(arguments)
    try:
        of_version = given.command == "publish" and given.version is not None
        handler = commands.publish if of_version else given.handler
        if handler is None:
            return _job(given, extra)
        if extra:
            raise ConfigError(f"unknown flag '{extra[0]}' (see catalogue-index {given.command} --help)")
        return handler(given)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        code = exit_code(error)
        if code is None:
            raise
        print(f"catalogue-index: {error}", file=sys.stderr)
        return code


def _job(given: argparse.Namespace, extra: Sequence[str]) -> int:
    if getattr(given, "force", False):
        raise ConfigError("--force goes with a version: catalogue-index publish VERSION --index DIR --force")
    config = commands.configured(given, ("index", "catalogue"))
    prepare_process()
    from pipelines import runner
    from pipelines.lock import hold

    runner.check_flags(extra)
    if given.command == "train":
        from pipelines.train import train

        with hold(config.index, given.command):
            bundle = train(config, extra)
        print(f"bundle {bundle.hash} in {bundle.folder}")
        return DONE
    from pipelines.summary import Night

    night = Night(given.command, config, getattr(given, "dry_run", False))
    try:
        with night, hold(config.index, given.command):
            shown = _stages(config, night, extra)
    finally:
        if given.json:
            print(json.dumps(night.content, ensure_ascii=False, indent=1))
    if not given.json:
        shown()
    return DONE


def _stages(config: Config, night: Night, flags: Sequence[str]) -> Callable[[], None]:
    """Run the job, or a stage of it; returns what prints the outcome."""
    from pipelines.run import dry_run, run, run_stage

    if night.dry_run:
        lines = dry_run(config, flags, night)
        return lambda: print(*lines, sep="\n")
    report = run(config, flags, night) if night.command == "run" else run_stage(config, night.command, flags, night)

    def show() -> None:
        for line in report.lines():
            print(line)
        if report.stages:
            print_table("", ("stage", "rows", "seconds", "rows/s"), report.table())

    return show


if __name__ == "__main__":
    sys.exit(main())
