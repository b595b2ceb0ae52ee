"""What the commands do that are no jobs: each takes the flags, prints, and returns its exit code.

Importing this module imports neither Beam nor TensorFlow: a query starts in a fraction of a second.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from pipelines.config import SETTINGS, Config, ConfigError, read_config
from pipelines.exit_codes import DONE, NOT_INDEXED, STORAGE
from pipelines.terminal import prepare_process, print_table


def configured(given: argparse.Namespace, needed: Sequence[str]) -> Config:
    """Return the settings of a command.

    Raises:
        ConfigError: one is wrong, or one of those needed is missing.
    """
    config = read_config(given.config, {name: value for name, value in vars(given).items() if name in SETTINGS})
    for name in needed:
        if not getattr(config, name):
            raise ConfigError(f"--{name} is missing: say it on the command line or in --config FILE")
    return config


def sample(given: argparse.Namespace) -> int:
    """Write the drawn sample catalogue."""
    if given.products < 1:
        raise ConfigError(f"--products is {given.products}; it must be at least 1")
    from pipelines.sample import write_query_image, write_sample

    shards = write_sample(given.output, given.products, given.seed)
    print(f"wrote {given.products:,} products in {len(shards)} shards to {given.output}")
    if given.query_image:
        write_query_image(given.query_image, given.seed)
        print(f"wrote a photo to search with to {given.query_image}")
    return DONE


def import_pair(given: argparse.Namespace) -> int:
    """Make a bundle of a pretrained pair of towers."""
    config = configured(given, ("bundle",))
    prepare_process()
    from pipelines import import_pair as importing

    bundle = importing.import_pair(given.spec, config)
    print(f"bundle {bundle.hash} in {bundle.folder}")
    return DONE


def preview_views(given: argparse.Namespace) -> int:
    """Show views of a product's pictures and text."""
    config = configured(given, ("catalogue",))
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


def query(given: argparse.Namespace) -> int:
    """Search an index."""
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
            minus=minus, weights=weights, ranking=given.ranking,
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


def publish(given: argparse.Namespace) -> int:
    """Make a whole version the current one."""
    if hasattr(given, "catalogue"):
        raise ConfigError(
            f"publish takes a version ('{given.version}') or --catalogue, not both; flags of Beam are written --flag=value"
        )
    config = configured(given, ("index",))
    prepare_process()
    from pipelines.gate import Limits
    from pipelines.layout import Index
    from pipelines.lock import hold
    from pipelines.operations import publish_existing

    with hold(config.index, f"publish {given.version}", create=False):
        manifest = publish_existing(Index(config.index), given.version, Limits.of(config), given.force)
    print(f"version {manifest.id} is current: {manifest.items:,} products")
    return DONE


def rollback(given: argparse.Namespace) -> int:
    """Make the version before the current one current again."""
    prepare_process()
    from pipelines import operations
    from pipelines.layout import Index
    from pipelines.lock import hold

    with hold(given.index, "rollback", create=False):
        left, now = operations.rollback(Index(given.index))
    print(f"version {now.id} is current again in place of {left.id}: {now.items:,} products instead of {left.items:,}")
    return DONE


def prune(given: argparse.Namespace) -> int:
    """Delete what nobody needs any more."""
    config = configured(given, ("index",))
    if config.keep_versions < 1:
        raise ConfigError("--keep is 0; it must be at least 1 (0 is for run, which then does not prune)")
    prepare_process()
    from pipelines import prune as pruning
    from pipelines.layout import Index
    from pipelines.lock import hold

    with hold(config.index, "prune", create=False):
        pruned = pruning.prune(Index(config.index), config.keep_versions, config.grace_hours, given.dry_run)
    for line in pruned.lines():
        print(line)
    return DONE


def verify(given: argparse.Namespace) -> int:
    """Hash a version and its bundle."""
    from pipelines import operations
    from pipelines.layout import Index

    manifest, wrong = operations.verify(Index(given.index), given.version)
    for line in wrong:
        print(line)
    if wrong:
        print(f"version {manifest.id} is damaged: {len(wrong)} of its files or its bundle's are wrong")
        return STORAGE
    total = sum(entry.size for entry in manifest.files.values())
    bundle = manifest.bundle[:12]
    print(f"version {manifest.id} is whole: {len(manifest.files)} files, {total:,} bytes; so is its bundle {bundle}")
    return DONE


def versions(given: argparse.Namespace) -> int:
    """List the versions of an index."""
    from pipelines.lock import check_index
    from pipelines.publish import list_versions

    check_index(given.index)
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


def explain(given: argparse.Namespace) -> int:
    """Say what became of products."""
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
            if facts := [{"fact": name, "value": value} for name, value in one.facts()]:
                print_table("", ("fact", "value"), facts)
            if one.neighbours:
                rows = [near | {"score": f"{near['score']:.3f}"} for near in one.neighbours]
                print_table(f"nearest to {one.product_id}", ("rank", "score", "product_id", "title"), rows)
    return DONE if all(one.state == INDEXED for one in told) else NOT_INDEXED


def withdraw(given: argparse.Namespace) -> int:
    """Take products out of all answers, let them back, or list them."""
    if given.listed == bool(given.product_ids):
        raise ConfigError("give the ids of products, or --list" if not given.listed else "--list takes no ids of products")
    if given.json and not given.listed:
        raise ConfigError("--json is a form of --list: add it")
    from pipelines import withdraw as withdrawing

    if given.listed:
        rows = [vars(withdrawal) for withdrawal in withdrawing.list_withdrawn(given.index)]
        if given.json:
            print(json.dumps(rows, ensure_ascii=False, indent=1))
        else:
            print_table(given.index, ("product_id", "since", "reason"), rows)
        return DONE
    if given.undo:
        left = withdrawing.undo(given.index, given.product_ids)
        print(f"no longer withdrawn: {', '.join(given.product_ids)} ({left:,} withdrawn products left)")
        return DONE
    listed = withdrawing.withdraw(given.index, given.product_ids, given.reason)
    print(f"withdrawn: {', '.join(given.product_ids)} ({listed:,} withdrawn products in all)")
    for product_id in withdrawing.not_in_index(given.index, given.product_ids):
        print(f"catalogue-index: the current version has no product '{product_id}': it is withdrawn, should it come; "
              "is the id right?", file=sys.stderr)  # fmt: skip
    return DONE
