"""ABLATE: what each modality alone, each kind of fusion and each weight finds, of a version's own vectors of the modalities.

    catalogue-index evaluate --ablate --index DIR [--queries FILE] [--unseen [SHARE]] [--phrase-language en] [--version ID]

Nothing is encoded but the queries, once, and nothing is trained. Every row is an exact search among vectors fused anew, without
structured features, which queries do not rank by. Cost: a pass through the vectors for every row and 1,024 queries of all sets
together, about thirty rows; memory as of `evaluation`.
"""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from encoders.bundle import Bundle
from encoders.fusion import Fusion, FusionKind
from pipelines import measures
from pipelines.config import ConfigError
from pipelines.evaluate import Source, queries_for
from pipelines.evaluation import Mask, Version, encode, nearest, open_version
from pipelines.layout import Index, modality_vector
from pipelines.measures import NAMES, Figure, Values, difference, figures
from pipelines.recall import Float32
from pipelines.self_supervised import Asked
from pipelines.training_products import hash_share

GRID = tuple(round(0.1 * step, 1) for step in range(1, 10))
# What the table shows of sets of queries; of labelled ones what `None` says.
_SHOWN: Mapping[str | None, tuple[str, ...]] = {
    "titles": ("recall@1", "recall@10"), "phrases": ("ndcg@10",), "photos": ("recall@1", "ndcg@10"),
    None: ("recall@10", "ndcg@10"),
}  # fmt: skip


@dataclass(frozen=True)
class Way:
    """One way to make a product's vector of those of its modalities.

    Attributes:
        name: for people.
        fusion: how they are fused.
        centred: whether the mean of all products' vectors is taken from those of each modality before.
    """

    name: str
    fusion: Fusion
    centred: bool = False


@dataclass(frozen=True)
class Row:
    """What a way found.

    Attributes:
        way: the way.
        dimension: of the vectors.
        values: by set of queries, float64[Q, 5] in the order of `measures.NAMES`.
    """

    way: Way
    dimension: int
    values: Mapping[str, Values]


@dataclass(frozen=True)
class Ablation:
    """What all ways found, that of the version's own fusion first.

    Attributes:
        version: its id.
        rows: by way.
        candidates: products that were searched.
        unseen: share of the products that they are, those that training never saw; None: they are all.
        missing: sentences on queries that could not be made.
    """

    version: str
    rows: tuple[Row, ...]
    candidates: int
    unseen: float | None
    missing: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        """Yield what is to be known of the table."""
        which = "" if self.unseen is None else f", those that training with --holdout {self.unseen:g} never saw"
        yield f"version {self.version}: exact search among {self.candidates:,} products{which}"
        yield from (f"{name}: {count:,} queries" for name, count in self.queries().items())
        yield from self.missing

    def queries(self) -> dict[str, int]:
        """Return how many queries each set has."""
        return {name: len(values) for name, values in self.rows[0].values.items()} if self.rows else {}

    def columns(self) -> tuple[str, ...]:
        """Return the columns of the table."""
        return ("vectors", "dimension", *(f"{name} {measure}" for name, measure in self._shown()))

    def table(self, seed: int) -> list[dict[str, str]]:
        """Return rows for people: figures, and the change from the first row, with * where its interval leaves out 0."""
        shown = []
        for row in self.rows:
            cells = {"vectors": row.way.name, "dimension": f"{row.dimension:,}"}
            told, changes = self._figures(row, seed), self._changes(row, seed)
            for name, measure in self._shown():
                change = changes[name][measure]
                sure = "*" if change.low > 0 or change.high < 0 else ""
                below = "" if row is self.rows[0] else f"\n{change.value:+.3f}{sure}"
                cells[f"{name} {measure}"] = f"{told[name][measure].value:.3f}{below}"
            shown.append(cells)
        return shown

    def to_json(self, seed: int) -> dict[str, Any]:
        """Give the figures as JSON values, with the change from the first row."""
        return {
            "version": self.version, "candidates": self.candidates, "unseen": self.unseen, "queries": self.queries(),
            "missing": list(self.missing),
            "rows": [
                {"vectors": row.way.name, "fusion": row.way.fusion.to_json(), "centred": row.way.centred,
                 "dimension": row.dimension, "sets": _told(self._figures(row, seed)), "change": _told(self._changes(row, seed))}
                for row in self.rows
            ],
        }  # fmt: skip

    def _shown(self) -> list[tuple[str, str]]:
        return [(name, measure) for name in self.queries() for measure in _SHOWN.get(name.split(",")[0], _SHOWN[None])]

    def _figures(self, row: Row, seed: int) -> dict[str, dict[str, Figure]]:
        return {name: figures(values, seed) for name, values in row.values.items()}

    def _changes(self, row: Row, seed: int) -> dict[str, dict[str, Figure]]:
        return {name: difference(self.rows[0].values[name], values, seed) for name, values in row.values.items()}


def _told(sets: Mapping[str, Mapping[str, Figure]]) -> dict[str, dict[str, dict[str, float]]]:
    return {name: {measure: sets[name][measure].to_json() for measure in NAMES} for name in sets}


def ablate(root: str, version: str | None, source: Source, unseen: float | None = None) -> Ablation:
    """Ask a version's vectors of the modalities, fused in every way.

    Args:
        root: of the index.
        version: which one, None for the current one.
        source: the queries, or what they are made with.
        unseen: share of the products, by the hash of their ids, that training never saw: queries are made of them, and
            answers are searched among them, alone; 0: the share that the bundle tells; None: all products.

    Raises:
        ConfigError: the bundle tells of no such share.
        LabelledQueriesError: a query cannot be asked, or the version has none of the products they call right.
        IntegrityError, BundleError: as `evaluation.open_version` says.
    """
    with open_version(Index(root), version) as opened, tempfile.TemporaryDirectory() as folder:
        among = None
        if unseen is not None:
            unseen = unseen or _holdout(opened.encoder.bundle)
            among = np.array([hash_share(order) < unseen for order in opened.orders().tolist()], np.bool_)
        made = queries_for(opened, source, Path(folder), among)
        asked = [one for one in made.sets if not one.part]
        rows = tuple(_search(opened, asked, among)) if asked else ()
        candidates = opened.manifest.items if among is None else int(among.sum())
        return Ablation(opened.manifest.id, rows, candidates, unseen, made.missing)


def _holdout(bundle: Bundle) -> float:
    share = bundle.training.get("holdout")
    if not share:
        raise ConfigError("the bundle tells of no products that training left out: give --unseen SHARE, as train --holdout was")
    return float(share)


def ways(fusion: Fusion, modalities: Sequence[str]) -> list[Way]:
    """Return the ways to fuse these modalities, each once, that of a version first."""
    weights = {name: fusion.weights[name] for name in modalities if fusion.weights.get(name)}
    own = Fusion(fusion.kind, weights, gate=fusion.gate)
    pooled: list[FusionKind] = ["concatenation", "weighted_sum"]
    alone = [Fusion("concatenation", {name: 1.0}) for name in modalities]
    fused: list[Fusion] = []
    if len(modalities) == 2:
        first, second = modalities
        grid = [weights, *({first: share, second: round(1 - share, 1)} for share in GRID)]
        fused += [Fusion(kind, shares) for kind in pooled for shares in grid]
        fused += [Fusion(kind, dict.fromkeys(modalities, 0.5)) for kind in ("mean", "max")]
        fused += [] if fusion.gate is None else [Fusion("attention", dict.fromkeys(modalities, 0.5), gate=fusion.gate)]
    centred = [*alone, own, *(Fusion(kind, weights) for kind in pooled)]
    found = {(_name(own), False): Way(f"{_name(own)} (the version's)", own)}
    for one, gone in [*((one, False) for one in [*alone, *fused]), *((one, True) for one in centred)]:
        name = _name(one)
        found.setdefault((name, gone), Way(f"{name}, means taken away" if gone else name, one, gone))
    return list(found.values())


def _name(fusion: Fusion) -> str:
    if len(fusion.modalities) == 1:
        return f"{fusion.modalities[0]} alone"
    if fusion.kind not in ("concatenation", "weighted_sum"):
        return fusion.kind
    total = sum(fusion.weights[name] for name in fusion.modalities)
    return f"{fusion.kind} " + ", ".join(f"{name} {fusion.weights[name] / total:.3g}" for name in fusion.modalities)


def _search(version: Version, asked: Sequence[Asked], among: Mask | None) -> Iterator[Row]:
    modalities = version.manifest.modalities
    words = [encode(version.encoder, one.queries.queries, one.changes) for one in asked]
    means = {name: _mean(version, name) for name in modalities}
    for way in ways(version.encoder.bundle.fusion, modalities):
        gone = means if way.centred else {}
        parts = [way.fusion.query({name: _without(part, gone.get(name)) for name, part in own.items()}, {}) for own in words]
        vectors = np.concatenate(parts)

        def blocks(way: Way = way, gone: Mapping[str, Float32] = gone) -> Iterator[tuple[int, Float32]]:
            for first, there in _side_by_side(version, modalities, among):
                present: dict[str, Mask] = {name: np.any(block, axis=1) for name, block in there.items()}
                moved = {name: _without(block, gone.get(name)) for name, block in there.items()}
                yield first, way.fusion.fuse(moved, present)

        ranked = nearest(vectors, blocks, version.manifest.metric)
        places = np.cumsum([len(part) for part in parts])[:-1]
        values = {
            one.queries.name: measures.measure(own, one.queries.judgements)
            for one, own in zip(asked, np.split(ranked, places), strict=True)
        }
        yield Row(way, vectors.shape[1], values)


def _side_by_side(version: Version, modalities: Sequence[str], among: Mask | None) -> Iterator[tuple[int, dict[str, Float32]]]:
    """Yield blocks of the modalities' vectors, float32[B, d] each; one that no product of a block has is left out."""

    def of(name: str) -> Iterator[tuple[int, str, Float32]]:
        return ((first, name, block) for first, block in version.blocks(modality_vector(name), among))

    merged = heapq.merge(*map(of, modalities), key=itemgetter(0))
    for first, group in groupby(merged, key=itemgetter(0)):
        yield first, {name: block for _, name, block in group}


def _mean(version: Version, modality: str) -> Float32:
    total, rows = np.zeros(1), 0
    for _, block in version.blocks(modality_vector(modality)):
        total = total + block.sum(axis=0, dtype=np.float64)
        rows += int(block.any(axis=1).sum())
    return np.asarray(total / max(rows, 1), np.float32)


def _without(vectors: Float32, mean: Float32 | None) -> Float32:
    """Take a mean away and bring vectors back to unit norm."""
    if mean is None:
        return vectors
    moved = vectors - mean
    return np.asarray(moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), np.finfo(np.float32).tiny), np.float32)
