"""The command `catalogue-index`, also `python -m pipelines`.

Importing this module imports neither Beam nor TensorFlow: a query starts in a fraction of a second.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pipelines.config import (
    BUILD_SETTINGS,
    CATALOGUE_SETTINGS,
    IMPORT_SETTINGS,
    PREVIEW_SETTINGS,
    RUN_SETTINGS,
    SETTINGS,
    TRAINING_SETTINGS,
    Config,
    ConfigError,
    add_flags,
    read_config,
)
from pipelines.exit_codes import DONE, INTERRUPTED, NOT_INDEXED, STORAGE, exit_code
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
    imported = command("import", "make a bundle of a pretrained pair of towers (CLIP, SigLIP), without training", IMPORT_SETTINGS)
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
        told = commands.choices[stage]
        told.add_argument("--json", action="store_true", help="print the summary of the run, an object, instead of lines")
    added.add_argument("version", nargs="?", metavar="VERSION", help="a whole version to publish, in place of --catalogue")
    added.add_argument("--force", action="store_true", help="publish VERSION whatever the gate says; it is kept on record")
    whole = {
        name: command(name, does)
        for name, does in (
            ("versions", "list the versions of an index"),
            ("rollback", "make the version before the current one current again"),
            ("verify", "hash every byte of a version and its bundle and name the files that are wrong"),
        )
    }
    for added in whole.values():
        added.add_argument("--index", required=True, metavar="DIR", help="folder or URI of the index")
    whole["versions"].add_argument("--json", action="store_true", help="print a list of objects instead of a table")
    whole["verify"].add_argument("--version", metavar="ID", help="which one (default: the current one)")
    pruned = command("prune", "delete versions, runs and features that nobody needs any more")
    pruned.add_argument("--config", metavar="FILE", help="TOML file that holds what flags hold; flags win")
    add_flags(pruned, ("index", "grace_hours"))
    pruned.add_argument("--keep", "--keep-versions", dest="keep_versions", type=int, default=argparse.SUPPRESS, metavar="N",
                        help="newest versions that stay (default: 7)")  # fmt: skip
    pruned.add_argument("--dry-run", action="store_true", help="say what would be deleted, and delete nothing")
    preview = command("preview-views", "show what the operations make of a product's pictures and text", PREVIEW_SETTINGS)
    preview.add_argument("--product-id", metavar="ID", help="whose views (default: the first product with a picture)")
    preview.add_argument("--views", dest="shown", type=int, default=8, metavar="N",
                         help="views, the item itself being the first (default: %(default)s)")  # fmt: skip
    preview.add_argument("--side", type=int, default=224, metavar="N", help="pixels of a side (default: %(default)s)")
    preview.add_argument("--output", required=True, metavar="FILE", help="contact sheet to write, a PNG")
    query = command("query", "search an index by texts, pictures, products, or several of them")
    query.add_argument("--index", required=True, metavar="DIR", help="folder or URI of the index, or of one version")
    query.add_argument("--bundle", metavar="DIR", help="folder of the bundle (default: the index's own)")
    for kind, metavar, shown in (("text", "T", "what to look for, in words"), ("image", "FILE", "a picture of what to look for"),
                                 ("product-id", "ID", "look for products like this one")):  # fmt: skip
        query.add_argument(f"--{kind}", metavar=metavar, action="append", help=f"{shown}; may be repeated")
        query.add_argument(f"--minus-{kind}", metavar=metavar, action="append", help="what answers are not to be like")
    query.add_argument("--weight", metavar="M=W", action="append", default=[],
                       help="weight of a modality in this query, text=0.3; one that is not named does not count")  # fmt: skip
    query.add_argument("-k", type=int, default=10, metavar="K", help="answers (default: %(default)s)")
    query.add_argument("--where", metavar="EXPR", help="filter, e.g. \"price < 50 and colour in ('red', 'blue')\"")
    query.add_argument("--json", action="store_true", help="print a list of objects instead of a table")
    explain = command("explain", "say what became of products: indexed, rejected, withdrawn, unknown, and by what features")
    explain.add_argument("product_ids", nargs="+", metavar="PRODUCT_ID", help="id of a product")
    explain.add_argument("--index", required=True, metavar="DIR", help="folder or URI of the index")
    explain.add_argument("--version", metavar="ID", help="in which one (default: the current one)")
    explain.add_argument("--json", action="store_true", help="print a list of objects instead of tables")
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
               "verify": _verify, "withdraw": _withdraw, "explain": _explain, "import": _import, "prune": _prune}  # fmt: skip
        if getattr(given, "version", None) is not None:
            own["publish"] = _publish
        if given.command in own:
            if extra:
                raise ConfigError(f"unknown flag '{extra[0]}' (see catalogue-index {given.command} --help)")
            return own[given.command](given)
        return _job(given, extra)
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
    config = _configured(given, ("index", "catalogue"))
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


def _configured(given: argparse.Namespace, needed: Sequence[str]) -> Config:
    config = read_config(given.config, {name: value for name, value in vars(given).items() if name in SETTINGS})
    for name in needed:
        if not getattr(config, name):
            raise ConfigError(f"--{name} is missing: say it on the command line or in --config FILE")
    return config


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


def _import(given: argparse.Namespace) -> int:
    config = _configured(given, ("bundle",))
    prepare_process()
    from pipelines.import_pair import import_pair

    bundle = import_pair(given.spec, config)
    print(f"bundle {bundle.hash} in {bundle.folder}")
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
    weights = _weights(given.weight)
    from catalogue_lookup import Minus, open_index

    minus = Minus(text=given.minus_text or (), image=given.minus_image or (), product_id=given.minus_product_id or ())

    with open_index(given.index, bundle=given.bundle) as index:
        hits = index.search(
            text=given.text, image=given.image, product_id=given.product_id, k=given.k, where=given.where,
            minus=minus, weights=weights,
        )  # fmt: skip
    if given.json:
        rows = [{"rank": h.rank, "product_id": h.product_id, "score": h.score, **h.columns} for h in hits]
        print(json.dumps(rows, ensure_ascii=False, default=str, indent=1))
        return DONE
    wanted = [*(given.text or ()), *(given.image or ()), *(given.product_id or ())]
    asked = [" + ".join(wanted), *(given.minus_text or ()), *(given.minus_image or ()), *(given.minus_product_id or ())]
    rows = [
        {"rank": h.rank, "score": f"{h.score:.3f}", "product id": h.product_id, "title": h.columns.get("title"),
         "price": h.columns.get("price")}
        for h in hits
    ]  # fmt: skip
    print_table(" - ".join(asked), ("rank", "score", "product id", "title", "price"), rows)
    return DONE


def _weights(given: Sequence[str]) -> dict[str, float] | None:
    """Read --weight of a query."""
    weights = {}
    for text in given:
        name, _, value = text.partition("=")
        try:
            weights[name] = float(value)
        except ValueError:
            raise ConfigError(f"--weight {text} is not of the form text=0.3") from None
    return weights or None


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


def _prune(given: argparse.Namespace) -> int:
    config = _configured(given, ("index",))
    if config.keep_versions < 1:
        raise ConfigError("--keep is 0; it must be at least 1 (0 is for run, which then does not prune)")
    prepare_process()
    from pipelines.layout import Index
    from pipelines.lock import hold
    from pipelines.prune import prune

    with hold(config.index, "prune", create=False):
        pruned = prune(Index(config.index), config.keep_versions, config.grace_hours, given.dry_run)
    for line in pruned.lines():
        print(line)
    return DONE


def _verify(given: argparse.Namespace) -> int:
    from pipelines.layout import Index
    from pipelines.operations import verify

    manifest, wrong = verify(Index(given.index), given.version)
    for line in wrong:
        print(line)
    if wrong:
        print(f"version {manifest.id} is damaged: {len(wrong)} of its files or its bundle's are wrong")
        return STORAGE
    total = sum(entry.size for entry in manifest.files.values())
    bundle = manifest.bundle[:12]
    print(f"version {manifest.id} is whole: {len(manifest.files)} files, {total:,} bytes; so is its bundle {bundle}")
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


def _explain(given: argparse.Namespace) -> int:
    from pipelines.explain import Explainer
    from pipelines.explanation import INDEXED

    for product_id in given.product_ids:
        if not product_id or not product_id.isprintable():
            raise ConfigError(f"{product_id!r} is no id of a product: give the ids as the catalogue has them")
    with Explainer(given.index, given.version) as explainer:
        told = [explainer.explain(product_id) for product_id in given.product_ids]
    if given.json:
        print(json.dumps([vars(one) for one in told], ensure_ascii=False, default=str, indent=1))
    else:
        for one in told:
            print(one.verdict)  # a table's title is as narrow as its table
            print_table("", ("fact", "value"), [{"fact": name, "value": value} for name, value in one.facts()])
            if one.neighbours:
                rows = [near | {"score": f"{near['score']:.3f}"} for near in one.neighbours]
                print_table(f"nearest to {one.product_id}", ("rank", "score", "product_id", "title"), rows)
    return DONE if all(one.state == INDEXED for one in told) else NOT_INDEXED


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
