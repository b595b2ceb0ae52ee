"""Configuration: frozen dataclasses filled from one TOML file plus flags, checked in one place."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_type_hints

from pipelines.named_values import MODALITIES, fine_tuned_layers, fusion_weights, phrase_languages
from pipelines.setting import ConfigError, base_type, choices, convert, flag, setting
from transforms.shop_words import LANGUAGES

METRICS = ("angular", "euclidean", "manhattan", "dot")
POOLINGS = ("mean", "concatenation")
FORMATS = ("auto", "parquet", "jsonl", "csv", "tsv", "tfrecord", "webdataset", "merchant", "shopify", "woocommerce")
FUSIONS = ("concatenation", "weighted_sum", "mean", "max", "attention")
LOSSES = ("contrastive", "sigmoid")
RANKINGS = ("cosine", "attention")
DEFAULT_FUSION = "weighted_sum"


@dataclass(frozen=True)
class Config:
    """Everything a run depends on. The TOML key of a setting is its name here, the flag is `--its-name`."""

    index: str = setting("", "folder or URI of the index")
    catalogue: tuple[str, ...] = setting((), "files of the catalogue: a path, folder or glob; may be given several times")
    bundle: str | None = setting(None, "folder of a bundle (default: the index's own)")

    format: Literal[
        "auto", "parquet", "jsonl", "csv", "tsv", "tfrecord", "webdataset", "merchant", "shopify", "woocommerce"
    ] = setting("auto", "what the catalogue's files are read as; auto: what their content says")
    column: Mapping[str, str] = setting(
        {}, "map a column: NAME=SOURCE, e.g. title=productDisplayName; dots reach into nested fields"
    )
    text: tuple[str, ...] = setting((), "columns that together make the text, e.g. title,description")
    keep: tuple[str, ...] | None = setting(None, "columns to show and filter by (default: all but pictures)")
    allow_root: tuple[str, ...] = setting(
        (), "folder, URI prefix or host that pictures may be read from (default: the catalogue's own folders)"
    )
    max_pictures: int = setting(8, "pictures of a product that are used, at most")
    max_reviews: int = setting(16, "reviews of a product that are used, the most helpful first, at most")
    max_pixels: int = setting(50_000_000, "pixels a picture may have by its header, at most")
    strict: bool = setting(False, "reject the whole product where its picture or price is bad")
    max_reject_rate: float = setting(0.05, "share of the rows that may be rejected before the run fails")
    limit: int | None = setting(None, "use the first N rows only, for a trial")

    unit_items: int = setting(4096, "encoder items in one unit of work, at most")
    partition_rows: int = setting(65_536, "products in one partition, at most (kept with the index)")

    metric: Literal["angular", "euclidean", "manhattan", "dot"] = setting("angular", "distance of the Annoy index")
    trees: int | None = setting(
        None, "trees of each Annoy index (default: chosen for the least work a query, and kept while the catalogue is alike)"
    )
    max_index_bytes: int | None = setting(None, "bytes that the Annoy files of a version may take together (default: any)")
    max_items_per_shard: int = setting(10_000_000, "products in one Annoy file, at most")
    seed: int = setting(0, "seed of everything random")
    publish: bool = setting(True, "publish the version when it is complete")
    min_recall: float = setting(0.95, "recall@10 against exact search that a version is published with, at least")
    max_shrink: float = setting(0.10, "share of the current version's products that the next one may lack")
    evaluation: str | None = setting(
        None, "labelled queries that each version is evaluated by before it is published: CSV, TSV, JSON lines or Parquet"
    )
    evaluation_column: Mapping[str, str] = setting({}, "map a column of the labelled queries: NAME=SOURCE, e.g. text=query")
    max_evaluation_drop: float = setting(
        0.02, "by how much nDCG@10 and recall@10 of the labelled queries may be below the current version's"
    )
    keep_versions: int = setting(7, "newest versions that stay when a run prunes the index after publishing; 0: it does not")
    grace_hours: float = setting(24.0, "hours that what is no longer needed stays for those who may still read it")

    picture_tower: str = setting(
        "package:efficientnet-lite0?side=288",
        "tower for pictures of a bundle that is trained: package:, keras:, keras-hub:, hf:, saved-model:, tflite: or compact:...;"
        " several with commas between them stand side by side; '' for none",
    )
    text_tower: str = setting(
        "package:use-multilingual",
        "tower for texts of a bundle that is trained: package:, keras-hub:, hf: or saved-model:...; several as for pictures; "
        "'' for none",
    )
    picture_views: int | None = setting(
        None, "views of a picture that its feature is made of, the picture itself being the first (default: the bundle's; "
        "trained: 1)"
    )  # fmt: skip
    text_views: int | None = setting(
        None, "views of a text that its feature is made of, the text itself being the first (default: the bundle's; trained: 1)"
    )
    view_pooling: Literal["mean", "concatenation"] | None = setting(
        None, "how the features of an item's views become one (default: the bundle's; trained: mean)"
    )
    picture_operation: Mapping[str, str] = setting(
        {}, "strength of an operation of picture views: rotate=15; of flip, rotate, zoom, shift, brightness, contrast, noise"
    )
    text_operation: Mapping[str, str] = setting(
        {},
        "rate of an operation of text views: random_swap=0.2; of synonym_replacement, random_insertion, random_deletion, "
        "random_swap, character_noise; operations_per_view counts them",
    )
    synonyms: tuple[str, ...] = setting((), "table of synonyms for text views beside those that come along: a TSV file")
    cross_language: tuple[str, ...] | None = setting(
        None, "languages whose shop words (those that come along, not of --words) stand for one another in text views: "
        "en,zh,de,es,fr,ja; '' for none (default: the bundle's; trained: none)"
    )  # fmt: skip
    views: int = setting(1, "views of each product to train heads on, as samples of their own")
    dimension: int = setting(256, "values of a vector that a bundle's heads learn from texts")
    query_bank: int = setting(
        1024, "titles, and labels, by which pictures that are near to many of them are weighed down, where validation queries "
        "find more so, at most; 0: none"
    )
    whitened_dimension: int = setting(
        128, "values beside them that hold what pictures look like, by which photos find the very product, at most; 0: none"
    )
    whitened_share: float | None = setting(
        None, "share of those in a picture's vector: with more of it photos find the very product more often, and what is of its "
        "kind less often (default: 0.85 where products have several pictures, else 0.3)"
    )  # fmt: skip
    fusion: Literal["concatenation", "weighted_sum", "mean", "max", "attention"] | None = setting(
        None, "how the vectors of a product's modalities become one (default: the bundle's; trained: weighted_sum)"
    )
    weight: Mapping[str, str] = setting(
        {}, "weight of a modality in the fused vector, picture=0.5 or reviews=0.2, or share of structured columns, "
        "structured=0.2, or structured=auto, which training chooses on validation products (default: the bundle's; trained: "
        "chosen there, no reviews and no structured columns)"
    )
    refit_statistics: bool = setting(False, "fit the statistics of structured columns anew on this catalogue first")
    phrases: tuple[str, ...] = setting((), "columns that training makes phrases from (default: found by their names)")
    phrase_languages: tuple[str, ...] = setting(
        (), "languages of those phrases, each with its share: en=0.5,de=0.5; of en, zh, de, es, fr, ja (default: en=0.65,zh=0.35)"
    )
    words: tuple[str, ...] = setting(
        (), "table of shop words for those phrases beside the one that comes along: a TSV file; text views have --synonyms"
    )
    max_training_products: int = setting(200_000, "products that heads are trained on, at most")
    max_phrases: int = setting(20_000, "distinct phrases encoded for training, at most")
    max_sentences: int = setting(20_000, "distinct sentences of descriptions encoded for training, at most; 0: none")
    sentence_share: float = setting(0.2, "share of the training's batches that ask sentences of descriptions")
    fine_tune: Mapping[str, str] = setting(
        {}, "train the last N layers of a tower further before the heads: picture=4 (default: none; everything is then encoded "
        "again)"
    )  # fmt: skip
    fine_tune_steps: int = setting(0, "steps of a tower's training, at most (0: 600, from scratch 3000)")
    fine_tune_minutes: float | None = setting(None, "minutes of a tower's training, at most (default: any)")
    epochs: int = setting(0, "epochs of training, at most (0: as many as pay)")
    loss: Literal["contrastive", "sigmoid"] = setting("contrastive", "what heads are trained by")
    ranking: Literal["cosine", "attention"] = setting(
        "cosine", "what ranks answers: attention also fits what ranks candidates anew, and keeps it for the kinds of queries for "
        "which it finds more than cosine on validation products"
    )  # fmt: skip
    remove_gap: bool = setting(False, "take the mean of each modality's vectors over the catalogue away from them")
    group: str | None = setting(
        None, "column that says which products are variants of one: they, and products of equal titles, are validated or "
        "trained on together (default: item_group_id or parent, where there is one)"
    )  # fmt: skip
    tensorboard: str | None = setting(None, "folder for TensorBoard's event logs of the training")
    holdout: float = setting(0.0, "share of the products, by the hash of their ids, that training never sees")

    def replace(self, **changes: Any) -> Config:
        """Return a checked copy with some settings changed."""
        return check(dataclasses.replace(self, **changes))


SETTINGS = {f.name: f for f in fields(Config)}
_TYPES = get_type_hints(Config)

CATALOGUE_SETTINGS = (
    "catalogue", "format", "column", "text", "keep", "allow_root", "max_pictures", "max_reviews", "max_pixels", "strict",
    "max_reject_rate", "limit", "unit_items", "partition_rows", "seed",
)  # fmt: skip
RUN_SETTINGS = ("refit_statistics", "keep_versions", "grace_hours")
BUILD_SETTINGS = ("metric", "trees", "max_index_bytes", "max_items_per_shard", "publish", "min_recall", "max_shrink",
                  "evaluation", "evaluation_column", "max_evaluation_drop")  # fmt: skip
VIEW_SETTINGS = ("picture_views", "text_views", "view_pooling", "picture_operation", "text_operation", "synonyms",
                 "cross_language")
PREVIEW_SETTINGS = (
    "catalogue", "format", "column", "text", "allow_root", "max_pictures", "max_pixels", "seed", "picture_operation",
    "text_operation", "synonyms", "cross_language",
)  # fmt: skip
IMPORT_SETTINGS = ("bundle", *VIEW_SETTINGS, "fusion", "weight", "seed")
TRAINING_SETTINGS = (
    "picture_tower", "text_tower", *VIEW_SETTINGS, "views", "dimension", "query_bank", "whitened_dimension", "whitened_share",
    "fusion", "weight", "phrases", "phrase_languages", "words", "max_training_products", "max_phrases", "max_sentences",
    "sentence_share",
    "fine_tune", "fine_tune_steps", "fine_tune_minutes", "epochs", "loss", "ranking", "remove_gap", "group", "tensorboard",
    "holdout",
)  # fmt: skip


def fingerprint(values: Mapping[str, Any]) -> str:
    """Return a hex digest of JSON-like values, the same whatever their order."""
    text = json.dumps(values, sort_keys=True, default=lambda value: dict(value), ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def add_flags(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """Give a parser the flags of these settings; what is not given stays out of the parsed namespace."""
    for name in names:
        kind, metadata, default = _TYPES[name], SETTINGS[name].metadata, SETTINGS[name].default
        shown = "" if default in (None, (), "", dataclasses.MISSING) or isinstance(default, bool) else f" (default: {default})"
        options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": metadata["help"] + shown}
        base = base_type(kind)
        if base is bool:
            parser.add_argument(flag(name), action=argparse.BooleanOptionalAction, **options)
        elif base in (tuple, Mapping):
            metavar = "NAME=VALUE" if base is Mapping else name.upper()
            parser.add_argument(flag(name), action="append", metavar=metavar, **options)
        else:
            allowed = choices(kind)
            shape = None if allowed else {int: "N", float: "X", str: name.upper()}[base]
            parser.add_argument(flag(name), type=base, choices=allowed, metavar=shape, **options)


def read_config(path: str | None, flags: Mapping[str, Any]) -> Config:
    """Fill the configuration from a TOML file and flags; flags win.

    Args:
        path: the TOML file, or None.
        flags: settings as the parser gave them, only those that were given.

    Raises:
        ConfigError: an unknown key, a value of the wrong type, or values that do not fit together.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            loaded = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not TOML: {error}") from error
        for key, value in loaded.items():
            name = key.replace("-", "_")
            if name not in SETTINGS:
                raise ConfigError(f"{path} has an unknown key '{key}'{_nearest(name)}")
            values[name] = _convert(name, value, f"{path}: {key}")
    for name, value in flags.items():
        values[name] = _convert(name, value, flag(name))
    return check(Config(**values))


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name, SETTINGS, n=1)
    return f": did you mean '{near[0]}'?" if near else f" (keys: {', '.join(sorted(SETTINGS))})"


def _convert(name: str, value: Any, where: str) -> Any:
    return convert(_TYPES[name], value, where, whole=name in ("catalogue", "allow_root"))


def check(config: Config) -> Config:
    """Return the configuration if its values fit together.

    Raises:
        ConfigError: naming the flag, the value and what it may be.
    """
    least = {"max_pictures": 1, "max_reviews": 1, "max_pixels": 1, "unit_items": 1, "partition_rows": 1, "trees": 1, "limit": 1,
             "max_index_bytes": 1, "picture_views": 1, "text_views": 1, "views": 1, "max_items_per_shard": 1, "dimension": 2,
             "query_bank": 0, "whitened_dimension": 0, "epochs": 0, "fine_tune_steps": 0, "fine_tune_minutes": 0,
             "keep_versions": 0, "grace_hours": 0, "max_training_products": 1, "max_phrases": 0, "max_sentences": 0}  # fmt: skip
    for name, minimum in least.items():
        value = getattr(config, name)
        if value is not None and value < minimum:
            raise ConfigError(f"{flag(name)} is {value}; it must be at least {minimum}")
    for name in ("max_reject_rate", "min_recall", "max_shrink", "max_evaluation_drop"):
        if not 0 <= getattr(config, name) <= 1:
            raise ConfigError(f"{flag(name)} is {getattr(config, name)}; it is a share between 0 and 1")
    if not 0 <= config.sentence_share <= 0.5:
        raise ConfigError(f"--sentence-share is {config.sentence_share}; it is a share between 0 and 0.5")
    if config.whitened_share is not None and not 0 < config.whitened_share < 1:
        said = "it is a share above 0 and below 1 (--whitened-dimension 0: no such values)"
        raise ConfigError(f"--whitened-share is {config.whitened_share}; {said}")
    if not 0 <= config.holdout < 1:
        raise ConfigError(f"--holdout is {config.holdout}; it is a share of at least 0 and below 1")
    for name, allowed in (("format", FORMATS), ("metric", METRICS), ("fusion", FUSIONS), ("view_pooling", POOLINGS),
                          ("loss", LOSSES), ("ranking", RANKINGS)):  # fmt: skip
        if getattr(config, name) not in (*allowed, SETTINGS[name].default):
            raise ConfigError(f"{flag(name)} is '{getattr(config, name)}'; it may be {', '.join(allowed)}")
    if config.views > 1 and config.view_pooling == "concatenation":
        raise ConfigError("--views takes views apart to train on them: it goes with --view-pooling mean only")
    if config.remove_gap and config.fusion == "attention":
        raise ConfigError("--remove-gap changes the vectors that --fusion attention learned to weigh: choose one of them")
    if not any(fusion_weights(config)[name] for name in MODALITIES):
        raise ConfigError("--weight leaves no modality with a weight above 0")
    for name in config.cross_language or ():
        if name not in LANGUAGES:
            raise ConfigError(f"--cross-language names '{name}'; it may be {', '.join(LANGUAGES)}")
    phrase_languages(config)
    fine_tuned_layers(config)
    return config
