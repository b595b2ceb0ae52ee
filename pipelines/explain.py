"""EXPLAIN: what became of a product, for whoever is asked why it is not found, or so odd.

    catalogue-index explain PRODUCT_ID... --index DIR [--version ID] [--json]

Read are the version, the folder of its run, the feature store and the list of withdrawn products, of each the files and
row groups that may hold the product; of the rejects of INGEST all. Where the run's folder or the bundle is gone, what is
not known for that is said. Only for an id that is nowhere are all ids of the version looked through for similar ones.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from catalogue_lookup import Hit, QueryError, open_index
from catalogue_lookup import Index as Opened
from catalogue_lookup.manifest import Manifest
from encoders.bundle import Bundle, BundleError, tower_of
from encoders.fusion import STRUCTURED, Fusion
from encoders.towers import Tower
from pipelines import ranges, storage
from pipelines.bundles import open_at
from pipelines.compaction import BASE
from pipelines.explanation import INDEXED, REJECTED_ROW, UNKNOWN, WITHDRAWN, Explanation
from pipelines.features import Space, part_files
from pipelines.ingest import COLUMNS, NO_COLUMN
from pipelines.layout import (
    KEY,
    ORDER,
    PRESENT,
    PRODUCT_ID,
    REJECTED,
    VECTOR,
    Index,
    Partition,
    Run,
    modality_vector,
    order_of,
    read_json,
)
from pipelines.near_ids import near_ids
from pipelines.operations import asked_version
from pipelines.publish import read_current
from pipelines.rewrite import is_rewritten

NEIGHBOURS = 5
LOOKED_AT = 100
MOST_BITS = 24  # of a partition


class Explainer:
    """Explains products of one version; to be closed."""

    def __init__(self, root: str, version: str | None = None) -> None:
        """Open the version, by default the current one.

        Raises:
            ConfigError: there is no index, no such version, or none is current.
            IntegrityError: a file of it is missing or damaged.
        """
        self.index = Index(root)
        self.manifest: Manifest = asked_version(self.index, version)
        self.run: Run = self.index.run(self.manifest.id)
        self.current = read_current(self.index) == self.manifest.id
        self.fusion = Fusion.from_json(self.manifest.fusion)
        self._opened: Opened = open_index(root, version=self.manifest.id)
        self._bundle: Bundle | None = None
        try:
            self._bundle = open_at(storage.join(self.index.bundles, self.manifest.bundle))
            self.fusion = self._bundle.fusion
        except (BundleError, OSError) as error:
            self._no_bundle = str(error)
        self._text_tower: Tower | None = None

    def close(self) -> None:
        """Let go of the version."""
        self._opened.close()

    def __enter__(self) -> Explainer:
        """Return the explainer."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the version."""
        self.close()

    def explain(self, product_id: str) -> Explanation:
        """Find out what became of a product."""
        told = Explanation(product_id, self.manifest.id, self.current)
        withdrawal = self._opened.withdrawn.get(product_id)
        if withdrawal is not None:
            told.withdrawn = {"reason": withdrawal.reason, "since": withdrawal.since}
        keys = self._read_run(told)
        told.rejects = list(self._rejects(product_id))
        item = self._opened.item_of(product_id)
        if item is not None:
            told.state = INDEXED if withdrawal is None else WITHDRAWN
            self._read_vectors(told, item)
        elif self._is_taken_out(told):
            told.state = WITHDRAWN
        elif told.row_reject is not None:
            told.state = REJECTED_ROW
        elif is_rewritten(self.index, self.manifest.id) and not storage.exists(self.run.plan):
            told.not_known.append("whether it was withdrawn and taken out of the version: its run alone tells")
        if item is not None or told.source is not None:
            self._read_features(told, keys)
        if item is not None:
            self._search(told)
        if told.state == UNKNOWN:
            self._look_around(told)
        return told

    def _read_run(self, told: Explanation) -> Mapping[str, bytes | None] | None:
        """Read what the run knows of a product; returns the keys of its modalities, None where they are not known."""
        ended = self.run.ended("ingest")
        if not storage.exists(self.run.plan) or not storage.exists(ended):
            told.not_known.append(f"its shard, row and text, and which features were taken: {self.run.folder} is gone")
            return None
        order, plan = order_of(told.product_id), read_json(self.run.plan)
        path = self.run.products(partition_of(order, read_json(ended)["partition_bits"]))
        if not storage.exists(path):
            return None
        for _, row in ranges.find_rows(path, ORDER, order):
            if row[PRODUCT_ID] == told.product_id:
                told.source = {"shard": plan["shards"][row["shard"]][0], "row": row["row"], "text": row["text"]}
                told.columns = {name: value for name, value in row[COLUMNS].items() if name != NO_COLUMN}
                return {modality: row[f"{modality}_{KEY}"] for modality in plan["spaces"]}
        return None

    def _rejects(self, product_id: str) -> Iterator[dict[str, Any]]:
        parts = [partition_of(order_of(product_id), bits).name for bits in range(MOST_BITS + 1)]
        own = (f"rejects/{stage}-{part}-" for stage in ("plan", "fuse") for part in parts)
        for path in self._files("rejects/ingest-", *own):
            for _, row in ranges.find_rows(path, PRODUCT_ID, product_id):
                yield {name: value for name, value in row.items() if name != PRODUCT_ID}

    def _is_taken_out(self, told: Explanation) -> bool:
        """Say whether FUSE let the product through, and the version lost it since."""
        fused = not any((row["stage"], row["field"]) == ("fuse", None) for row in told.rejects)
        return fused and told.source is not None and is_rewritten(self.index, self.manifest.id)

    def _files(self, *beginnings: str) -> list[str]:
        folder = self.index.version(self.manifest.id)
        return [storage.join(folder, name) for name in sorted(self.manifest.files) if name.startswith(beginnings)]

    def _read_vectors(self, told: Explanation, item: int) -> None:
        """Find an indexed product in the version's files and read its vectors."""
        order, folder = order_of(told.product_id), self.index.version(self.manifest.id)
        shard = next(s for s in self.manifest.annoy if s.first_item <= item < s.first_item + s.items)
        last = bisect_right(self.manifest.vectors, order, key=lambda name: _first_order(storage.join(folder, name))) - 1
        file = self.manifest.vectors[last]
        found = ranges.find_rows(storage.join(folder, file), ORDER, order)
        number, row = next((n, row) for n, row in found if row[PRODUCT_ID] == told.product_id)
        told.place = {"item": item, "annoy": shard.file, "annoy_id": item - shard.first_item, "vectors": file, "row": number}
        names = (*self.manifest.modalities, STRUCTURED)
        own = {name: np.array(row[modality_vector(name)]) for name in names if row.get(modality_vector(name)) is not None}
        hidden = {ORDER, PRODUCT_ID, VECTOR, *map(modality_vector, names)}
        told.columns = {name: value for name, value in row.items() if name not in hidden}
        fused = np.array(row[VECTOR], np.float32)
        weights = shares(self.fusion, own)
        unweighted = 0.0 if weights else None
        told.vectors = {
            "fusion": self.fusion.kind, "dimension": len(fused), "norm": float(np.linalg.norm(fused)),
            "of": {
                name: {"norm": float(np.linalg.norm(own[name].astype(np.float32))), "weight": weights.get(name, unweighted)}
                if name in own else None
                for name in names if name in own or name != STRUCTURED
            },
        }  # fmt: skip

    def _read_features(self, told: Explanation, keys: Mapping[str, bytes | None] | None) -> None:
        if self._bundle is None:
            told.not_known.append(f"towers and views of its features: {self._no_bundle}")
            return
        for modality in self._bundle.modalities:
            if keys is not None and modality not in keys:
                continue
            tower, views = self._bundle.towers[tower_of(modality)], self._bundle.views_of(modality)
            space = Space.of(tower, views, modality)
            feature: dict[str, Any] = {"modality": modality, "space": space.id, "tower": tower.spec, "views": views.to_json()}
            if keys is None:
                stored = self._stored(told.product_id, space, None)
                told.features += [feature | one for one in stored] or [feature | {"state": "not in the store"}]
                continue
            key = keys[modality]
            if key is None:
                told.features.append(feature | {"state": f"the product has no {modality}"})
                continue
            stored = self._stored(told.product_id, space, key)
            told.features.append(feature | (stored[0] if stored else {"key": key.hex(), "state": "not in the store"}))
            if modality == "text" and told.source is not None:
                told.features[-1]["truncated"] = self._truncated(told.source["text"])

    def _stored(self, product_id: str, space: Space, key: bytes | None) -> list[dict[str, Any]]:
        """List the rows of the store for a product, those of a key only; the first is the one that counts."""
        order, found = order_of(product_id), []
        if not storage.exists(self.index.settings):
            return []
        partition = partition_of(order, read_json(self.index.settings)["partition_bits"])
        for path in part_files(self.index, space.id, partition):
            for number, row in ranges.find_rows(path, ORDER, order, [PRODUCT_ID, KEY, PRESENT, REJECTED]):
                if row[PRODUCT_ID] == product_id and key in (None, row[KEY]):
                    problems = "; ".join(f"{one['reason']}: {one['detail']}" for one in row[REJECTED] or ())
                    state = "present" if row[PRESENT] else "absent"
                    name = path.removeprefix(self.index.root.rstrip("/") + "/")
                    # A base holds the features of many runs.
                    run = None if name.endswith(BASE) else name.rsplit("/", 1)[-1].rsplit("-", 1)[0]
                    found.append(
                        {"key": row[KEY].hex(), "state": f"{state}: {problems}" if problems else state, "file": name,
                         "row": number, "run": run}
                    )  # fmt: skip
        return found

    def _truncated(self, text: str) -> bool | None:
        """Tell whether the text is cut at the tower's limit, None where it has none."""
        assert self._bundle is not None
        if self._bundle.towers["text"].token_limit is None:
            return None
        if self._text_tower is None:
            self._text_tower = self._bundle.load_tower("text")
        before = self._text_tower.truncated
        self._text_tower.encode([text])
        return self._text_tower.truncated > before

    def _search(self, told: Explanation) -> None:
        """Search by the product's own vector and by its title."""
        own = self._opened.vector_of(told.product_id)
        hits = self._opened.search(vector=own, k=LOOKED_AT)
        told.neighbours = [
            {"rank": rank, "product_id": hit.product_id, "score": hit.score, "title": hit.columns.get("title")}
            for rank, hit in enumerate([hit for hit in hits if hit.product_id != told.product_id][:NEIGHBOURS], 1)
        ]
        if told.state == WITHDRAWN:
            return
        told.found["vector"] = _found(told.product_id, hits)
        title = told.columns.get("title")
        if not isinstance(title, str) or "text" not in self.manifest.modalities:
            told.not_known.append("whether its title finds it: it has none, or the index knows no texts")
            return
        try:
            hits = self._opened.search(text=title, k=LOOKED_AT)
        except (QueryError, BundleError, ModuleNotFoundError) as error:
            told.not_known.append(f"whether its title finds it: {error}")
            return
        told.found["title"] = _found(told.product_id, hits)

    def _look_around(self, told: Explanation) -> None:
        """Look for ids like an unknown one, and for rows without an id, of which it may be one."""
        path = storage.join(self.index.version(self.manifest.id), self.manifest.items_file.file)
        told.near = near_ids(told.product_id, path)
        nameless = self.manifest.rejected.get("missing_product_id", 0)
        if nameless:
            told.not_known.append(f"whether it is one of the {nameless:,} rows that were rejected for having no product id")


def _found(product_id: str, hits: Sequence[Hit]) -> dict[str, Any]:
    """Return the rank of a product among answers, None: not among them, and which is the first."""
    rank = next((hit.rank for hit in hits if hit.product_id == product_id), None)
    return {"rank": rank, "first": hits[0].product_id if hits else None}


def partition_of(order: int, bits: int) -> Partition:
    """Return the partition at a depth that an order lies in."""
    return Partition(bits, order >> (64 - bits))


def _first_order(path: str) -> int:
    with storage.open_input(path) as source, pq.ParquetFile(source) as file:
        return int(file.read_row_group(0, columns=[ORDER], use_threads=False)[ORDER][0].as_py())


def shares(fusion: Fusion, vectors: Mapping[str, npt.NDArray[Any]]) -> dict[str, float]:
    """Return the weight of each modality, and of the structured columns, in the fused vector of a product's `vectors`.

    They sum to 1 over the modalities that the product has: of a concatenation they are shares of its squared norm. The
    elements of a maximum come from any of them: each counts the same. Those of attention are not known without its gate.
    """
    own = {name: vector for name, vector in vectors.items() if name in fusion.modalities}
    weights = {name: fusion.weights[name] if fusion.kind in ("concatenation", "weighted_sum") else 1.0 for name in own}
    if fusion.kind == "attention":
        if fusion.gate is None:
            return {}
        parts = {name: (vector[None].astype(np.float32), np.ones(1, np.bool_)) for name, vector in own.items()}
        weights = dict(zip(fusion.gate.modalities, fusion.gate.weigh(parts, 1)[0].tolist(), strict=True))
        weights = {name: weights[name] for name in own}
    total = sum(weights.values())
    found = {name: (1 - fusion.structured_weight) * weight / total for name, weight in weights.items()}
    return found | ({STRUCTURED: fusion.structured_weight} if fusion.structured_weight else {})
