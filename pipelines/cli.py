"""The command `catalogue-index`, also `python -m pipelines`.

Importing this module imports neither Beam nor TensorFlow: a query starts in a fraction of a second.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from pipelines.config import (
    BUILD_SETTINGS,
    CATALOGUE_SETTINGS,
    PREVIEW_SETTINGS,
    RUN_SETTINGS,
    SETTINGS,
    TRAINING_SETTINGS,
    Config,
    ConfigError,
    add_flags,
    read_config,
)
from pipelines.terminal import prepare_process, print_table

DONE, FAILED, BAD_FLAG, LOCKED, REFUSED, REJECTS, STORAGE = 0, 1, 2, 3, 4, 5, 6
STAGES = ("ingest", "encode", "fuse", "build", "publish")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command with all its subcommands."""
    top = argparse.ArgumentParser(
        prog="catalogue-index",
        description="Turns a shop's catalogue into an index that answers text, pictures, or both.",
        epilog="Exit codes: 0 done, 1 failed, 2 bad flag or configuration, 3 locked, 4 refused, 5 too many rejects, 6 storage; "
        "docs/operations.md says what to do. Flags that a job does not know go to Beam's PipelineOptions.",
        allow_abbrev=False,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, does: str, settings: Sequence[str] = ()) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=does, description=does[0].upper() + does[1:] + ".", allow_abbrev=False)
        if settings:
            added.add_argument("--config", metavar="FILE", help="TOML file that holds what flags hold; flags win")
            add_flags(added, settings)
        return added

    where = ("index", "bundle")
    sample = command("sample", "write the drawn sample catalogue")
    sample.add_argument("--products", type=int, default=SAMPLE_PRODUCTS, metavar="N", help="products (default: %(default)s)")
    sample.add_argument("--seed", type=int, default=0, metavar="S", help="seed (default: %(default)s)")
    sample.add_argument("--output", required=True, metavar="DIR", help="folder or URI of the shards")
    sample.add_argument("--query-image", metavar="FILE", help="also draw a photo to search with")
    command("train", "encode features where they are missing, fit heads, write a bundle",
            (*where, *CATALOGUE_SETTINGS, *TRAINING_SETTINGS))  # fmt: skip
    job = (*where, *CATALOGUE_SETTINGS, *BUILD_SETTINGS)
    command("run", "bring a catalogue into a published index; skips what is there",
            (*job, *RUN_SETTINGS, *TRAINING_SETTINGS))  # fmt: skip
    for stage, does in (
        ("ingest", "read, validate and key the catalogue"),
        ("encode", "encode what the feature store lacks"),
        ("fuse", "compute every product's vectors"),
        ("build", "build the Annoy files and the manifest of a version"),
        ("publish", "check a version and make it the current one"),
    ):
        added = command(stage, does, job)
    added.add_argument("version", nargs="?", metavar="VERSION", help="a whole version to publish, in place of --catalogue")
    added.add_argument("--force", action="store_true", help="publish VERSION whatever the gate says; it is kept on record")
    whole = {
        name: command(name, does)
        for name, does in (
            ("versions", "list the versions of an index"),
            ("rollback", "make the version before the current one current again"),
            ("verify", "hash every byte of a version and name the files that are wrong"),
        )
    }
    for added in whole.values():
        added.add_argument("--index", required=True, metavar="DIR", help="folder or URI of the index")
    whole["versions"].add_argument("--json", action="store_true", help="print a list of objects instead of a table")
    whole["verify"].add_argument("--version", metavar="ID", help="which one (default: the current one)")
    preview = command("preview-views", "show what the operations make of a product's pictures and text", PREVIEW_SETTINGS)
    preview.add_argument("--product-id", metavar="ID", help="whose views (default: the first product with a picture)")
    preview.add_argument("--views", dest="shown", type=int, default=8, metavar="N",
                         help="views, the item itself being the first (default: %(default)s)")  # fmt: skip
    preview.add_argument("--side", type=int, default=224, metavar="N", help="pixels of a side (default: %(default)s)")
    preview.add_argument("--output", required=True, metavar="FILE", help="contact sheet to write, a PNG")
    query = command("query", "search an index by text, picture, both, or a product")
    query.add_argument("--index", required=True, metavar="DIR", help="folder or URI of the index, or of one version")
    query.add_argument("--bundle", metavar="DIR", help="folder of the bundle (default: the index's own)")
    query.add_argument("--text", metavar="T", help="what to look for, in words")
    query.add_argument("--image", metavar="FILE", help="a picture of what to look for")
    query.add_argument("--product-id", metavar="ID", help="look for products like this one")
    query.add_argument("-k", type=int, default=10, metavar="K", help="answers (default: %(default)s)")
    query.add_argument("--where", metavar="EXPR", help="filter, e.g. \"price < 50 and colour in ('red', 'blue')\"")
    query.add_argument("--json", action="store_true", help="print a list of objects instead of a table")
    evaluate = command("evaluate", "measure what a version finds for queries whose right answers are known")
    evaluate.add_argument("--index", required=True, metavar="DIR", help="folder or URI of the index")
    evaluate.add_argument("--version", metavar="ID", help="which one (default: the current one)")
    evaluate.add_argument("--queries", required=True, metavar="FILE",
                          help="labelled queries: CSV, TSV, JSON lines or Parquet (docs/quality.md)")  # fmt: skip
    evaluate.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the intervals (default: %(default)s)")
    evaluate.add_argument("--json", action="store_true", help="print a list of objects instead of a table")
    withdraw = command("withdraw", "take recalled or forbidden products out of all answers")
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; errors are one sentence on standard error."""
    given, extra = parser().parse_known_args(arguments)
    try:
        own = {"sample": _sample, "query": _query, "versions": _versions, "preview-views": _preview, "rollback": _rollback,
               "verify": _verify, "withdraw": _withdraw, "evaluate": _evaluate}  # fmt: skip
        if getattr(given, "version", None) is not None:
            own["publish"] = _publish
        if given.command in own:
            if extra:
                raise ConfigError(f"unknown flag '{extra[0]}' (see catalogue-index {given.command} --help)")
            return own[given.command](given)
        return _job(given, extra)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        return 130
    except Exception as error:
        code = exit_code(error)
        if code is None:
            raise
        print(f"catalogue-index: {error}", file=sys.stderr)
        return code


def exit_code(error: Exception) -> int | None:
    """Return the exit code of an error that is a sentence for the user, None for any other."""
    if isinstance(error, ConfigError):
        return BAD_FLAG
    flags = ("CatalogueError", "WhereError", "UnknownProductError", "StageError", "BundleError", "TowerError", "QueryError",
             "FusionError", "ApplicationError", "SavedModelError", "PoolingError", "ViewVersionError",
             "WithdrawError", "LabelledQueriesError")  # fmt: skip
    codes = dict.fromkeys(flags, BAD_FLAG) | dict.fromkeys(("BuildError", "ConversionError", "ModuleNotFoundError"), FAILED)
    codes |= {"RejectRateError": REJECTS, "PublishError": REFUSED, "RefusedError": REFUSED, "IndexTooLargeError": REFUSED,
              "LockedError": LOCKED}
    codes |= dict.fromkeys(("StorageError", "IntegrityError", "WeightsError"), STORAGE)
    return next((codes[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in codes), None)


def _job(given: argparse.Namespace, extra: Sequence[str]) -> int:
    if getattr(given, "force", False):
        raise ConfigError("--force goes with a version: catalogue-index publish VERSION --index DIR --force")
    config = _configured(given, ("index", "catalogue"))
    prepare_process()
    from pipelines import runner
    from pipelines.lock import hold

    runner.check_flags(extra)
    with hold(config.index, given.command):
        if given.command == "train":
            from pipelines.train import train

            bundle = train(config, extra)
            print(f"bundle {bundle.hash} in {bundle.folder}")
            return DONE
        return _stages(config, given.command, extra)


def _configured(given: argparse.Namespace, needed: Sequence[str]) -> Config:
    config = read_config(given.config, {name: value for name, value in vars(given).items() if name in SETTINGS})
    for name in needed:
        if not getattr(config, name):
            raise ConfigError(f"--{name} is missing: say it on the command line or in --config FILE")
    return config


def _stages(config: Config, command: str, flags: Sequence[str]) -> int:
    from pipelines.run import run, run_stage

    report = run(config, flags) if command == "run" else run_stage(config, command, flags)
    for line in report.lines():
        print(line)
    return DONE


def _sample(given: argparse.Namespace) -> int:
    if given.products < 1:
        raise ConfigError(f"--products is {given.products}; it must be at least 1")
    from pipelines.sample import write_query_image, write_sample

    shards = write_sample(given.output, given.products, given.seed)
    print(f"wrote {given.products:,} products in {len(shards)} shards to {given.output}")
    if given.query_image:
        write_query_image(given.query_image, given.seed)
        print(f"wrote a photo to search with to {given.query_image}")
    return DONE


def _preview(given: argparse.Namespace) -> int:
    config = _configured(given, ("catalogue",))
    for name, least in (("shown", 1), ("side", 1)):
        if getattr(given, name) < least:
            raise ConfigError(f"--{'views' if name == 'shown' else name} is {getattr(given, name)}; it must be at least {least}")
    prepare_process()
    from pipelines.preview import preview, write_contact_sheet

    shown = preview(config, given.product_id, given.shown, given.side)
    rows = [{"view": number, "text": text} for number, text in enumerate(shown.texts)]
    print_table(f"product {shown.product_id}", ("view", "text"), rows)
    if len(shown.pictures):
        write_contact_sheet(given.output, shown)
        print(f"wrote {shown.pictures.shape[1]} views of {len(shown.pictures)} pictures to {given.output}")
    else:
        print("the product has no picture that can be decoded: no contact sheet written")
    return DONE


def _query(given: argparse.Namespace) -> int:
    if given.text is None and given.image is None and given.product_id is None:
        raise ConfigError("nothing to look for: give --text, --image or --product-id")
    if given.k < 1:
        raise ConfigError(f"-k is {given.k}; it must be at least 1")
    from catalogue_lookup import open_index

    with open_index(given.index, bundle=given.bundle) as index:
        hits = index.search(
            text=given.text, image=given.image, product_id=given.product_id, k=given.k, where=given.where
        )
    if given.json:
        rows = [{"rank": h.rank, "product_id": h.product_id, "score": h.score, **h.columns} for h in hits]
        print(json.dumps(rows, ensure_ascii=False, default=str, indent=1))
        return DONE
    asked = [part for part in (given.text, given.image, given.product_id) if part is not None]
    rows = [
        {"rank": h.rank, "score": f"{h.score:.3f}", "product id": h.product_id, "title": h.columns.get("title"),
         "price": h.columns.get("price")}
        for h in hits
    ]  # fmt: skip
    print_table(" + ".join(asked), ("rank", "score", "product id", "title", "price"), rows)
    return DONE


def _publish(given: argparse.Namespace) -> int:
    if hasattr(given, "catalogue"):
        raise ConfigError(
            f"publish takes a version ('{given.version}') or --catalogue, not both; flags of Beam are written --flag=value"
        )
    config = _configured(given, ("index",))
    prepare_process()
    from pipelines.gate import Limits
    from pipelines.layout import Index
    from pipelines.lock import hold
    from pipelines.operations import publish_existing

    with hold(config.index, f"publish {given.version}", create=False):
        limits = Limits(config.min_recall, config.max_shrink, config.max_index_bytes)
        manifest = publish_existing(Index(config.index), given.version, limits, given.force)
    print(f"version {manifest.id} is current: {manifest.items:,} products")
    return DONE


def _rollback(given: argparse.Namespace) -> int:
    prepare_process()
    from pipelines.layout import Index
    from pipelines.lock import hold
    from pipelines.operations import rollback

    with hold(given.index, "rollback", create=False):
        left, now = rollback(Index(given.index))
    print(f"version {now.id} is current again in place of {left.id}: {now.items:,} products instead of {left.items:,}")
    return DONE


def _verify(given: argparse.Namespace) -> int:
    from pipelines.layout import Index
    from pipelines.operations import verify

    manifest, wrong = verify(Index(given.index), given.version)
    for line in wrong:
        print(line)
    if wrong:
        print(f"version {manifest.id} is damaged: {len(wrong)} of {len(manifest.files)} files are wrong")
        return STORAGE
    total = sum(entry.size for entry in manifest.files.values())
    print(f"version {manifest.id} is whole: {len(manifest.files)} files, {total:,} bytes")
    return DONE


def _versions(given: argparse.Namespace) -> int:
    from pipelines.publish import list_versions

    found = list_versions(given.index)
    if given.json:
        print(json.dumps([vars(version) for version in found], ensure_ascii=False, default=str, indent=1))
        return DONE
    rows = [
        {"": ", ".join(mark for mark in ("current", "refused") if getattr(v, mark)), "version": v.id, "sequence": v.sequence,
         "products": f"{v.items:,}", "recall@10": "" if v.recall is None else f"{v.recall:.3f}", "created": v.created}
        for v in found
    ]  # fmt: skip
    print_table(given.index, ("", "version", "sequence", "products", "recall@10", "created"), rows)
    return DONE


def _evaluate(given: argparse.Namespace) -> int:
    prepare_process()
    from pipelines import evaluation, measures
    from pipelines.labelled_queries import read_labelled_queries
    from pipelines.layout import Index

    labelled = read_labelled_queries(given.queries)
    with evaluation.open_version(Index(given.index), given.version) as version:
        found = [evaluation.evaluate(version, queries) for queries in evaluation.labelled_sets(version, labelled)]
    if given.json:
        print(json.dumps(evaluation.rows(found, given.seed), ensure_ascii=False, indent=1))
        return DONE
    print(f"version {version.manifest.id}")
    for one in found:
        figures = one.figures(given.seed)
        shown = [{"measure": name, **{search: figures[search][name] for search in figures}} for name in measures.NAMES]
        print_table(f"{one.queries.name}: {len(one.queries.queries):,} queries", ("measure", *figures), shown)
    return DONE


def _withdraw(given: argparse.Namespace) -> int:
    if given.listed == bool(given.product_ids):
        raise ConfigError("give the ids of products, or --list" if not given.listed else "--list takes no ids of products")
    if given.json and not given.listed:
        raise ConfigError("--json is a form of --list: add it")
    from pipelines.withdraw import list_withdrawn, not_in_index, undo, withdraw

    if given.listed:
        rows = [vars(withdrawal) for withdrawal in list_withdrawn(given.index)]
        if given.json:
            print(json.dumps(rows, ensure_ascii=False, indent=1))
        else:
            print_table(given.index, ("product_id", "since", "reason"), rows)
        return DONE
    if given.undo:
        left = undo(given.index, given.product_ids)
        print(f"no longer withdrawn: {', '.join(given.product_ids)} ({left:,} withdrawn products left)")
        return DONE
    listed = withdraw(given.index, given.product_ids, given.reason)
    print(f"withdrawn: {', '.join(given.product_ids)} ({listed:,} withdrawn products in all)")
    for product_id in not_in_index(given.index, given.product_ids):
        print(f"catalogue-index: the current version has no product '{product_id}': it is withdrawn, should it come; "
              "is the id right?", file=sys.stderr)  # fmt: skip
    return DONE


if __name__ == "__main__":
    sys.exit(main())
