"""TRAIN: features of a catalogue in, a new bundle out: towers, heads, fusion.

    catalogue-index train --catalogue 'shop/*.parquet' --index DIR

Features are encoded where they are missing, by the stages of a run; training reads them from memory-mapped files,
so memory is bounded by the batches.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from encoders.bank_fitting import balance
from encoders.bundle import Bundle, write_bundle
from encoders.curves import draw_curves
from encoders.fusion import Fusion
from encoders.gate import Gate
from encoders.heads import Head
from encoders.presets import build_tower
from encoders.ranking_training import RankingSettings, TrainedRanker, train_ranker
from encoders.selection import ChosenFusion, choose_share, choose_weights
from encoders.tower_spec import SPEC_FILE, Modality, TowerSpec
from encoders.trained_heads import TrainedHeads
from encoders.training import TrainingSettings, remove_gaps, train_heads
from encoders.training_data import ArrayTrainingData, TrainingBatch
from encoders.whitening import SinglePictures, whiten
from pipelines import storage
from pipelines.bundles import adopt, fusion_for, localise, open_at, upload
from pipelines.config import DEFAULT_FUSION, Config, ConfigError
from pipelines.fine_tune import train_given_towers, trained_layers
from pipelines.job import finish_run, open_catalogue
from pipelines.layout import Index
from pipelines.named_values import chooses_share, fusion_weights
from pipelines.single_pictures import single_pictures
from pipelines.statistics import find_settings, fit_statistics, structured_values
from pipelines.training_features import encode_products, training_data
from pipelines.training_products import PHRASES_PER_PRODUCT, shop_words
from pipelines.training_watch import watch_training
from pipelines.views import index_views

PHOTOS_AMONG = 4096  # products trained on, beside those held out

_log = logging.getLogger(__name__)


def ensure_towers(config: Config) -> dict[str, tuple[str, TowerSpec]]:
    """Build the towers the configuration names, unless the index has them; returns folder and specification of each."""
    towers: dict[str, tuple[str, TowerSpec]] = {}
    wanted: tuple[tuple[Modality, str], ...] = (("picture", config.picture_tower), ("text", config.text_tower))
    for modality, spec in wanted:
        if spec:
            name = f"{modality}-{hashlib.blake2b(spec.encode(), digest_size=8).hexdigest()}"
            folder = storage.join(Index(config.index).towers, name)
            if not storage.exists(storage.join(folder, SPEC_FILE)):
                _log.info("building the %s tower %s", modality, spec)
                _build(spec, modality, folder)
            text = storage.read_bytes(storage.join(folder, SPEC_FILE)).decode()
            towers[modality] = (folder, TowerSpec.from_json(text))
    return towers


def _build(spec: str, modality: Modality, folder: str) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        built = Path(temporary) / "tower"
        build_tower(spec, modality, built)
        upload(built, folder, SPEC_FILE)


def train(config: Config, flags: Iterable[str] = ()) -> Bundle:
    """Train a bundle on a catalogue and make it the index's own.

    Returns:
        The bundle, at `config.bundle` where that is given, else in the index.
    """
    shop_words(config)  # as everything that is refused: before anything is built or encoded
    trained_layers(config)
    find_settings(open_catalogue(config)[1], config)
    views = index_views(config)
    towers, tuned = train_given_towers(config, ensure_towers(config), tuple(flags))
    job, products = encode_products(config, "train", towers, flags)
    used = {modality: towers[modality] for modality in job.spaces}
    with tempfile.TemporaryDirectory() as temporary:
        data, sizes = training_data(job, products, Path(temporary))
        validation = data.validation(PHRASES_PER_PRODUCT)
        trained = _train_heads(config, data, validation, single_pictures(job, products.orders))
        heads = trained.heads
        chosen = _choose(config, trained.gate, heads, validation, data.trained_sample(PHOTOS_AMONG))
        told = {"remove_gap": config.remove_gap, "holdout": config.holdout, "fusion": chosen.figures}
        figures = {**trained.figures, **sizes, **told}
        if tuned:
            figures["towers"] = tuned
        ranked = _rank(config, heads, chosen.fusion, data) if config.ranking == "attention" else None
        if ranked is not None:
            figures["ranking"] = ranked.figures
        structured = fit_statistics(job, Path(temporary) / "structured")
        fusion = chosen.fusion
        if structured is not None and chooses_share(config):
            rows, _ = data.validation_sample(PHRASES_PER_PRODUCT)
            values = structured_values(job, structured, [products.orders[row] for row in rows])
            shared = choose_share(fusion, heads, validation, values, config.seed)
            fusion, figures["structured"] = shared.fusion, shared.figures
        bundle = write_bundle(
            Path(config.bundle) if config.bundle else Path(temporary) / "bundle",
            {modality: localise(folder) for modality, (folder, _) in used.items()},
            heads,
            fusion_for(config, tuple(used), structured, fusion),
            views,
            figures,
            structured,
            draw_curves(figures),
            None if ranked is None else ranked.ranker,
        )
        own = adopt(bundle, Index(config.index))
    _report(figures)
    finish_run(job.index, job.run)
    return bundle if config.bundle else open_at(own)


def _train_heads(
    config: Config, data: ArrayTrainingData, validation: TrainingBatch, single: SinglePictures | None
) -> TrainedHeads:
    """Train heads, and fit what stands beside what they have learned."""
    settings = TrainingSettings(
        dimension=config.dimension, seed=config.seed, epochs=config.epochs or None, loss=config.loss,
        gate=config.fusion == "attention",
    )  # fmt: skip
    with watch_training(config.tensorboard) as watch:
        trained = train_heads(data, {m: features.shape[2] for m, features in data.features.items()}, settings, watch)
    learned = replace(trained, heads=remove_gaps(trained.heads, data)) if config.remove_gap else trained
    balanced = balance(learned, data, validation, config.query_bank, config.seed)
    whitened = whiten(balanced, data, single, config.whitened_dimension, config.whitened_share)
    fitted = {"query_bank": dict(balanced.figures), "whitened": dict(whitened.figures)}
    return replace(whitened, figures={**trained.figures, **fitted})


def _choose(
    config: Config, gate: Gate | None, heads: Mapping[str, Head], validation: TrainingBatch, others: TrainingBatch
) -> ChosenFusion:
    """Choose the weights of modalities that the configuration leaves open."""
    weights = {name: weight for name, weight in fusion_weights(config).items() if name in heads}
    kind = config.fusion or DEFAULT_FUSION
    if kind == "attention" and gate is None:
        raise ConfigError("--fusion attention: the catalogue has no titles or phrases to train it with")
    fusion = Fusion(kind, weights, gate=gate)  # type: ignore[arg-type]
    fixed = any(name in config.weight for name in heads)
    return choose_weights(fusion, heads, validation, fixed, config.seed, others)


def _rank(config: Config, heads: Mapping[str, Head], fusion: Fusion, data: ArrayTrainingData) -> TrainedRanker:
    if not len(data.queries):
        raise ConfigError("--ranking attention: the catalogue has no titles or phrases to train it with")
    _log.info("train: what ranks candidates by attention")
    return train_ranker(data, heads, fusion, RankingSettings(seed=config.seed, epochs=config.epochs or None))


def _report(figures: Mapping[str, Any]) -> None:
    for modality, recalls in figures.get("validation", {}).items():
        shown = ", ".join(f"{name} {value:.3f}" for name, value in recalls.items())
        _log.info("train: on products held out for validation, text -> %s %s", modality, shown)
    bank = figures["query_bank"]
    if bank:
        _log.info("train: pictures near many of %d queries are weighed down by %g: text -> picture nDCG@10 %.3f, without %.3f "
                  "(+/- %.3f, %d queries)",
                  bank["bank"], bank["weight"], bank["ndcg@10"], bank["before"], bank["error"], bank["queries"])  # fmt: skip
    whitened = figures["whitened"]
    if whitened:
        _log.info("train: %d whitened values fitted on the pictures of %d products, those of %d products one by one",
                  whitened["dimension"], whitened["products"], whitened.get("several", 0))  # fmt: skip
    fusion = figures["fusion"]
    if fusion["ndcg@10"] is not None:
        weights = ", ".join(f"{name} {weight:g}" for name, weight in fusion["weights"].items())
        _log.info("train: fused nDCG@10 of %d texts and %d photos %.3f with the weights %s, %s", fusion["queries"],
                  fusion["photos"], fusion["ndcg@10"], weights,
                  "chosen on them" if fusion["chosen"] else "as given or by default")  # fmt: skip
    for kind, found in fusion["query_weights"].items():
        weights = ", ".join(f"{name} {weight:g}" for name, weight in found["weights"].items())
        _log.info("train: queries by %s are ranked by the weights %s: nDCG@10 %.3f, by the fused vectors %.3f (+/- %.3f)", kind,
                  weights, found["ndcg@10"], found["fused"], found["error"])  # fmt: skip
    shared = figures.get("structured")
    if shared and shared["grid"]:
        _log.info("train: structured columns have the share %g, chosen by %d queries by product: nDCG@10 %.3f, without %.3f",
                  shared["share"], shared["queries"], shared["ndcg@10"], shared["before"])  # fmt: skip
    elif shared:
        _log.info("train: structured columns have no share: %d queries by product can be made of those held out, too few",
                  shared["queries"])  # fmt: skip
    for kind, found in figures.get("ranking", {}).get("kinds", {}).items():
        if found["queries"]:
            _log.info("train: %d queries by %s, nDCG@10 by cosine %.3f, by attention %.3f (+/- %.3f): %s ranks them",
                      found["queries"], kind.replace("_", " and "), found["cosine"], found["attention"], found["error"],
                      "attention" if found["kept"] else "cosine")  # fmt: skip
    if not figures.get("ranking", {}).get("kept", True):
        _log.info("train: attention found no more than cosine by two standard errors for any kind of query: it is left out")
