"""Training of the ranker, after the heads: queries of every kind with the products that cosine finds first for them.

A training query is a text; a product that it finds gives the picture, or all modalities, that the other kinds of queries
ask by:

    text            the text
    picture         the picture of a product that the text finds
    text_picture    both
    product         the product, which is no candidate then

Right answers are all products that the text finds. Features are dropped out as in the training of heads, because vectors of
products that those were trained on are surer than of others.
"""

from __future__ import annotations

import time
from collections.abc import Container, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import count, islice
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from encoders.fusion import Fusion
from encoders.heads import Head, apply_head
from encoders.ranking import LEAST_CANDIDATES, QUERY_KINDS, QueryKind, Ranker
from encoders.ranking_model import RankerModel
from encoders.selection import ndcg_at_10
from encoders.training_data import LEAST_QUERIES, ArrayTrainingData, Features, TrainingBatch

Float32 = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class RankingSettings:
    """Settings of training.

    pool: products that the candidates of a query are found among; candidates: those it is contrasted with, as many as the
    lookup ranks anew for ten answers; steps: of `queries` queries each, `steps_per_pool` of them in one pool, and no more
    than `epochs` passes over the products give.
    """

    attention_units: int = 64
    hidden_units: int = 64
    pool: int = 4096
    candidates: int = LEAST_CANDIDATES
    queries: int = 128
    steps: int = 600
    steps_per_pool: int = 16
    epochs: int | None = None
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    feature_dropout: float = 0.3
    dropout: float = 0.1
    temperature: float = 0.07
    seed: int = 0


@dataclass(frozen=True)
class TrainedRanker:
    """Hold a ranker, None where cosine ranks every kind of query as well, and figures as JSON values."""

    ranker: Ranker | None
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """Q queries of one kind.

    Attributes:
        vectors: of each modality, float32[Q, d], zeros where the query has none.
        present: which have it, bool[Q] a modality.
        cosine: similarity with the products, float32[Q, B], that of one that is no candidate being -inf.
        answers: which products are right, bool[Q, B].
    """

    vectors: Mapping[str, Float32]
    present: Mapping[str, Mask]
    cosine: Float32
    answers: Mask

    def nearest(self, count: int) -> Ids:
        """Return the products nearest to each query by cosine: int[Q, count], or fewer where there are fewer."""
        count = min(count, self.cosine.shape[1])
        some = np.sort(np.argpartition(-self.cosine, count - 1, axis=1)[:, :count], axis=1)
        order = np.argsort(-np.take_along_axis(self.cosine, some, axis=1), axis=1, kind="stable")
        return np.take_along_axis(some, order, axis=1)


@dataclass(frozen=True)
class Pool:
    """Products of a batch with their vectors, those that are missing being zeros, and their fused ones."""

    vectors: Mapping[str, Float32]
    present: Mapping[str, Mask]
    fused: Float32
    fusion: Fusion

    def ask(
        self, kind: QueryKind, texts: Float32, answers: Mask, examples: Mapping[str, Float32], rng: np.random.Generator,
        leave_out: bool,
    ) -> Asked:  # fmt: skip
        """Make queries of a kind of texts, float32[Q, d], and of products that they find; those that have none are left out.

        Args:
            kind: of query.
            texts: vectors of the texts.
            answers: what they find, bool[Q, B].
            examples: vectors of the products as queries ask by them, by modality, float32[B, d].
            rng: draws the product of a text.
            leave_out: whether that product is no candidate of a query by its picture either; it never is of one by itself.
        """
        rows = np.flatnonzero(answers.any(axis=1))
        if kind == "text":
            vectors, present = {"text": texts[rows]}, {"text": np.ones(len(rows), np.bool_)}
            return Asked(vectors, present, self._cosine(vectors, present), answers[rows])
        fitting = answers[rows] & (np.any(list(self.present.values()), axis=0) if kind == "product" else self.present["picture"])
        drawn = np.argmax(np.where(fitting, rng.random(fitting.shape), -1), axis=1)
        others = answers[rows].copy()
        leave_out = leave_out or kind == "product"
        if leave_out:
            others[np.arange(len(rows)), drawn] = False
        kept = fitting.any(axis=1) & others.any(axis=1)
        rows, drawn, others = rows[kept], drawn[kept], others[kept]
        if kind == "product":
            vectors = {name: array[drawn] for name, array in examples.items()}
            present = {name: mask[drawn] for name, mask in self.present.items()}
            cosine = self.fusion.fuse(vectors, present) @ self.fused.T
        else:
            vectors = {"picture": examples["picture"][drawn]} | ({"text": texts[rows]} if kind == "text_picture" else {})
            present = {name: np.ones(len(rows), np.bool_) for name in vectors}
            cosine = self._cosine(vectors, present)
        if leave_out:
            cosine[np.arange(len(rows)), drawn] = -np.inf
        return Asked(vectors, present, cosine, others)

    def _cosine(self, vectors: Mapping[str, Float32], present: Mapping[str, Mask]) -> Float32:
        return np.asarray(self.fusion.query(vectors, present) @ self.fused.T)


def pool_of(vectors: Mapping[str, Float32], present: Mapping[str, Mask], fusion: Fusion) -> Pool:
    """Make a pool of products' vectors, float32[B, d] a modality, and of which are there, bool[B]."""
    whole = {name: np.where(present[name][:, None], array, np.float32(0)) for name, array in vectors.items()}
    return Pool(whole, present, fusion.fuse(whole, present), fusion)


def train_ranker(
    data: ArrayTrainingData, heads: Mapping[str, Head], fusion: Fusion, settings: RankingSettings | None = None
) -> TrainedRanker:
    """Fit a ranker, and keep it for the kinds of queries that it ranks better than cosine on the validation products.

    Better: by more than two standard errors of the mean difference in nDCG@10, of at least 100 queries. Figures: `settings`,
    `steps`, by kind under `kinds` what `compare` gives with whether it is `kept`, whether it is `kept` for any, `seconds`.
    """
    settings = settings or RankingSettings()
    started = time.monotonic()
    modalities = tuple(heads)
    model = RankerModel(modalities, next(iter(heads.values())).dimension_out, settings.attention_units, settings.hidden_units,
                        settings.seed)  # fmt: skip
    pools = replace(data, batch_rows=settings.pool)
    passes = settings.steps if settings.epochs is None else settings.epochs
    steps = min(settings.steps, passes * pools.steps_per_epoch * settings.steps_per_pool)
    trainer = _Trainer(model, settings, steps)
    for arrays in islice(_steps(pools, heads, fusion, settings), steps):
        trainer.train(arrays)
    batch = data.validation()
    pool = pool_of({name: apply_head(head, _whole(batch, name)) for name, head in heads.items()}, batch.present, fusion)
    figures = compare(model.ranker(), pool, apply_head(heads["text"], batch.queries), batch.answers, settings.candidates,
                      settings.seed)  # fmt: skip
    for found in figures.values():
        found["kept"] = bool(found["queries"] >= LEAST_QUERIES and found["attention"] - found["cosine"] > 2 * found["error"])
    kept = tuple(kind for kind, found in figures.items() if found["kept"])
    told = {"settings": asdict(settings), "steps": steps, "kinds": figures, "kept": bool(kept),
            "seconds": round(time.monotonic() - started, 2)}  # fmt: skip
    return TrainedRanker(model.ranker(kept) if kept else None, told)


def compare(
    ranker: Ranker, pool: Pool, texts: Float32, answers: Mask, candidates: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Rank the products of a pool by both, for each kind of query that its modalities allow.

    Takes the vectors of texts, float32[Q, d], and what they find, bool[Q, B]. The product whose picture is asked by is left
    out: its own picture would find it. Figures: `queries`, nDCG@10 by `cosine` and by `attention` (None without queries),
    the standard `error` of their mean difference.
    """
    rng = np.random.default_rng(seed)
    figures: dict[str, dict[str, Any]] = {}
    for kind in kinds_of(pool.vectors):
        figures[kind] = {"queries": 0, "cosine": None, "attention": None, "error": None}
        asked = pool.ask(kind, texts, answers, pool.vectors, rng, leave_out=True) if answers.any() else None
        if asked is None or not len(asked.answers):
            continue
        again = np.full_like(asked.cosine, -np.inf)
        for row, nearest in enumerate(asked.nearest(candidates)):
            query = {name: array[row] for name, array in asked.vectors.items() if asked.present[name][row]}
            own = {name: array[nearest] for name, array in pool.vectors.items()}
            masks = {name: mask[nearest] for name, mask in pool.present.items()}
            again[row, nearest] = asked.cosine[row, nearest] + ranker.correct(query, own, masks)
        before, after = ndcg_at_10(asked.cosine, asked.answers), ndcg_at_10(again, asked.answers)
        figures[kind] = {
            "queries": len(before), "cosine": round(float(before.mean()), 4), "attention": round(float(after.mean()), 4),
            "error": round(float((after - before).std() / np.sqrt(len(before))), 4),
        }  # fmt: skip
    return figures


def kinds_of(modalities: Container[str]) -> tuple[QueryKind, ...]:
    """Return the kinds of queries that modalities allow, texts being one."""
    return QUERY_KINDS if "picture" in modalities else ("text", "product")


def _whole(batch: TrainingBatch, name: str) -> Float32:
    return np.where(batch.present[name][:, None], batch.products[name], 0).astype(np.float32)


def _steps(
    pools: ArrayTrainingData, heads: Mapping[str, Head], fusion: Fusion, settings: RankingSettings
) -> Iterator[tuple[Float32, ...]]:
    """Give arrays of one step after the other: what `RankerModel.correct` takes, cosines and right answers, [Q, K] both."""
    rng, kinds = np.random.default_rng(settings.seed), kinds_of(heads)

    def noisy(name: str, features: Features) -> Float32:
        kept = rng.random(features.shape, np.float32) >= settings.feature_dropout
        mean = heads[name].mean
        return apply_head(heads[name], np.asarray(mean + (features - mean) * kept / (1 - settings.feature_dropout), np.float32))

    for epoch in count():
        for taken, drawing in pools.row_batches(epoch):
            batch = pools.batch(taken, pools.ask(taken, drawing), drawing)
            pool = pool_of({name: noisy(name, _whole(batch, name)) for name in heads}, batch.present, fusion)
            examples = {name: noisy(name, _whole(batch, name)) for name in heads}
            texts = noisy("text", batch.queries)
            for _ in range(settings.steps_per_pool):
                parts = np.array_split(rng.permutation(len(texts))[: settings.queries], len(kinds))
                asked = [
                    pool.ask(kind, texts[own], batch.answers[own], examples, rng, leave_out=False)
                    for kind, own in zip(kinds, parts, strict=True)
                ]
                arrays = [_arrays(pool, one, tuple(heads), settings.candidates) for one in asked]
                yield tuple(np.concatenate(same) for same in zip(*arrays, strict=True))


def _arrays(pool: Pool, asked: Asked, modalities: tuple[str, ...], candidates: int) -> tuple[Float32, ...]:
    nearest = asked.nearest(candidates)
    nothing = np.zeros((len(nearest), pool.vectors[modalities[0]].shape[1]), np.float32), np.zeros(len(nearest), np.bool_)
    own = [(asked.vectors[name], asked.present[name]) if name in asked.vectors else nothing for name in modalities]
    rows = np.arange(len(nearest))[:, None]
    return (
        np.stack([array for array, _ in own], axis=1), np.stack([mask for _, mask in own], axis=1).astype(np.float32),
        np.stack([pool.vectors[name][nearest] for name in modalities], axis=2),
        np.stack([pool.present[name][nearest] for name in modalities], axis=2).astype(np.float32),
        np.maximum(asked.cosine[rows, nearest], np.float32(-1)), asked.answers[rows, nearest].astype(np.float32),
    )  # fmt: skip


class _Trainer:
    """Hold the model, the optimizer and the compiled step."""

    def __init__(self, model: RankerModel, settings: RankingSettings, steps: int) -> None:
        self.model, self.dropout = model, settings.dropout
        self.log_scale = keras.Variable(-np.log(settings.temperature), dtype="float32", name="log_scale")
        self.variables = [*model.variables.values(), self.log_scale]
        rate = keras.optimizers.schedules.CosineDecay(settings.learning_rate, max(steps, 1))
        self.optimizer = keras.optimizers.AdamW(rate, weight_decay=settings.weight_decay)
        self.optimizer.exclude_from_weight_decay(var_names=["hidden_bias", "log_scale"])
        self.optimizer.build(self.variables)
        self.step = tf.function(self._step, autograph=False, reduce_retracing=True)

    def train(self, arrays: tuple[Float32, ...]) -> float:
        """Take one step; returns the loss."""
        return float(self.step(*(tf.constant(array) for array in arrays)))

    def _step(
        self, asked: tf.Tensor, given: tf.Tensor, tokens: tf.Tensor, there: tf.Tensor, cosine: tf.Tensor, answers: tf.Tensor
    ) -> tf.Tensor:
        """Lower the cross entropy of the candidates with several right answers (ListNet: Cao et al. 2007, top one)."""
        with tf.GradientTape() as tape:
            scores = tf.exp(self.log_scale.value) * (cosine + self.model.correct(asked, given, tokens, there, self.dropout))
            entropy = -tf.reduce_sum(answers * tf.nn.log_softmax(scores, 1), 1)
            right = tf.reduce_sum(answers, 1)
            loss = tf.reduce_sum(entropy / tf.maximum(right, 1.0)) / tf.maximum(tf.reduce_sum(tf.sign(right)), 1.0)
        self.optimizer.apply(tape.gradient(loss, [variable.value for variable in self.variables]), self.variables)
        return loss
