"""Bundles: folders that hold all that turns a picture or a text into a vector.

    bundle.json                 what is inside: specifications, fusion, views, figures, files, hash
    towers/<modality>/          a tower each, as `encoders.presets` built it
    heads/<modality>.npz        the head of each
    fusion.npz                  what weighs the modalities of each product, where it was trained
    ranking.npz                 what ranks candidates by attention, where it was trained and found more than cosine
    structured/                 the fitted transform of structured columns, where there is one
    training/curves.png         loss and validation recall by round, where heads were trained

Reviews are a modality of products without tower and head of their own: they are texts, and go through those of texts, where
the fusion gives them a weight.

The hash covers all but the figures of the training: equal bundles have equal hashes wherever they were made. The bytes
of a transform's graph differ between equal fits, so the hash covers what was fitted, `structured/statistics.json`, in
place of them, and leaves the curves out; they are checked like all files.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from encoders.fusion import Fusion, FusionError, Gate
from encoders.heads import Float32, Head, HeadError, apply_head
from encoders.integrity import (
    IntegrityError,
    SealedJson,
    Verify,
    describe_file,
    files_below,
    hash_content,
    read_entries,
    verify_files,
)
from encoders.pooling import PoolingError, Views
from encoders.ranking import Ranker, RankingError
from encoders.tower_spec import LITERT, SPEC_FILE, TowerError, TowerSpec
from encoders.towers import Tower, load_tower

FORMAT = 1
BUNDLE_FILE = "bundle.json"
STRUCTURED_FOLDER, STATISTICS_FILE = "structured", "statistics.json"
GATE_FILE, RANKER_FILE, CURVES_FILE = "fusion.npz", "ranking.npz", "training/curves.png"


REVIEWS = "reviews"


def tower_of(modality: str) -> str:
    """Name the modality whose tower and head a modality of products goes through."""
    return "text" if modality == REVIEWS else modality


class BundleError(ValueError):
    """A bundle cannot be opened or written; the message names the folder or file and says why."""


@dataclass(frozen=True)
class Bundle:
    """An opened bundle.

    Attributes:
        folder: where it lies.
        hash: hex digest of all that determines a vector.
        towers: specification of each modality's tower.
        heads: head of each.
        fusion: how the modalities' vectors become one.
        views: what views of an item its modality's features are made of.
        training: figures of the training, for people.
        structured: what was fitted of structured columns and the `dimension` of their vectors; None: nothing was.
        ranker: what ranks candidates by attention; None: cosine does.
    """

    folder: Path
    hash: str
    towers: Mapping[str, TowerSpec]
    heads: Mapping[str, Head]
    fusion: Fusion
    views: Mapping[str, Views]
    training: Mapping[str, Any]
    structured: Mapping[str, Any] | None = None
    ranker: Ranker | None = None

    @property
    def curves(self) -> bytes | None:
        """Give the PNG of the training's curves, None where there is none."""
        path = self.folder / CURVES_FILE
        return path.read_bytes() if path.exists() else None

    @property
    def dimension(self) -> int:
        """Give D, the dimension of fused vectors."""
        return self.fusion.dimension(next(iter(self.heads.values())).dimension_out)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Name the modalities that products have vectors of: those of the towers, and reviews where they have a weight."""
        return (*self.towers, *((REVIEWS,) if self.fusion.weights.get(REVIEWS) else ()))

    def views_of(self, modality: str) -> Views:
        """Return what views a modality's stored features are made of: of reviews none are made."""
        return Views() if modality == REVIEWS else self.views[modality]

    def vectors(self, modality: str, features: npt.NDArray[np.floating[Any]]) -> Float32:
        """Carry stored features of a modality, float16 or float32[N, D], into the shared space: float32[N, d], unit norm."""
        if modality == REVIEWS:
            features = self.views[tower_of(modality)].of_query(np.asarray(features, np.float32))
        return apply_head(self.heads[tower_of(modality)], features)

    def load_tower(self, modality: str, form: str | None = None, threads: int | None = None) -> Tower:
        """Load the tower of a modality, by default in its LiteRT form where it has one.

        Raises:
            BundleError: the bundle has no tower of that modality.
            ModuleNotFoundError: a package that the tower needs is missing; the message names the extra.
        """
        if modality not in self.towers:
            raise BundleError(f"bundle {self.folder} has no {modality} tower (towers: {', '.join(self.towers)})")
        return load_tower(self.folder / "towers" / modality, form or self._thin_form(modality), threads)

    def _thin_form(self, modality: str) -> str | None:
        return LITERT if LITERT in self.towers[modality].forms else None


def open_bundle(folder: Path, verify: Verify = "once") -> Bundle:
    """Open the bundle in a folder, its files checked.

    Args:
        folder: where it lies.
        verify: sizes are checked always, sha256 "once" for each copy or "always".

    Raises:
        BundleError: there is none, it is of a newer format, or a file is missing, truncated or altered.
    """
    path = folder / BUNDLE_FILE
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(f"{folder} holds no {BUNDLE_FILE}: give the folder of a bundle") from None
    content = read_listing(data, str(path))
    try:
        verify_files(folder, read_entries(content["files"]), verify)
        return _read(folder, content)
    except (IntegrityError, HeadError, TowerError, FusionError, PoolingError, RankingError) as error:
        raise BundleError(str(error)) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise _lacking(path, error) from error


def read_listing(data: bytes, path: str) -> dict[str, Any]:
    """Return the content of a `bundle.json`, which holds its own hash and that of the bundle's files.

    Args:
        data: content of the file.
        path: where it lies, for messages.

    Raises:
        BundleError: it is of a newer format, truncated or altered.
    """
    try:
        content = _SEALED.read(data, path)
        # Bundles written by earlier versions of this package have no hash of their figures.
        if content.get("training_hash") not in (None, hash_content(content["training"])):
            raise BundleError(f"{path} is altered: its content has another hash than it says; {_SEALED.remedy}")
    except (KeyError, TypeError, AttributeError) as error:
        raise _lacking(path, error) from error
    return content


def _lacking(path: Path | str, error: Exception) -> BundleError:
    return BundleError(f"{path} lacks what a bundle of format {FORMAT} has ({error!r}): write it again")


def _read(folder: Path, content: Mapping[str, Any]) -> Bundle:
    modalities = list(content["towers"])
    bundle = Bundle(
        folder=folder,
        hash=content["hash"],
        towers={m: TowerSpec.from_json(json.dumps(content["towers"][m])) for m in modalities},
        heads={m: Head.from_npz(folder / "heads" / f"{m}.npz") for m in modalities},
        fusion=Fusion.from_json(content["fusion"], Gate.from_npz(folder / GATE_FILE) if GATE_FILE in content["files"] else None),
        views={m: Views.from_json(content["views"][m]) for m in modalities},
        training=content["training"],
        structured=read_statistics(folder / STRUCTURED_FOLDER) if _has_structured(content["files"]) else None,
        ranker=Ranker.from_npz(folder / RANKER_FILE) if RANKER_FILE in content["files"] else None,
    )
    _check_fit(bundle.towers, bundle.heads, bundle.fusion, bundle.views, bundle.structured, bundle.ranker)
    return bundle


def _has_structured(files: Iterable[str]) -> bool:
    return any(name.startswith(f"{STRUCTURED_FOLDER}/") for name in files)


def read_statistics(folder: Path) -> dict[str, Any]:
    """Return what was fitted of structured columns, from the folder of their transform.

    Raises:
        BundleError: the folder does not say it, or without a `dimension`.
    """
    path = folder / STATISTICS_FILE
    try:
        content = json.loads(path.read_bytes())
        if int(content["dimension"]) > 0:
            return dict(content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path} cannot be read ({error!r}): fit the statistics again") from error
    raise BundleError(f"{path} gives the dimension {content['dimension']}: fit the statistics again")


def _check_fit(
    towers: Mapping[str, TowerSpec], heads: Mapping[str, Head], fusion: Fusion, views: Mapping[str, Views],
    structured: Mapping[str, Any] | None, ranker: Ranker | None,
) -> None:  # fmt: skip
    if not towers or set(towers) != set(heads):
        raise BundleError(f"towers ({', '.join(towers)}) and heads ({', '.join(heads)}) must be of the same modalities")
    for modality, head in heads.items():
        given = views[modality].slots * towers[modality].dimension
        if head.dimension_in != given:
            raise BundleError(
                f"the {modality} head takes features of dimension {head.dimension_in}, its tower gives "
                f"{given}: train the head on this tower"
            )
    shared = {modality: head.dimension_out for modality, head in heads.items()}
    if len(set(shared.values())) > 1:
        raise BundleError(f"heads give vectors of different dimensions {shared}: train them together")
    if not set(map(tower_of, fusion.modalities)) <= set(heads):
        raise BundleError(f"fusion weighs {', '.join(fusion.modalities)}, but there are only heads for {', '.join(heads)}")
    gate = fusion.check_gate() if fusion.kind == "attention" else fusion.gate
    if gate is not None and (not set(gate.modalities) <= set(heads) or {gate.dimension} != set(shared.values())):
        raise BundleError(
            f"the fusion's gate weighs {', '.join(gate.modalities)} of dimension {gate.dimension}, the heads give {shared}: "
            "train them together"
        )
    if ranker is not None and (not set(ranker.modalities) <= set(heads) or {ranker.dimension} != set(shared.values())):
        raise BundleError(
            f"the ranker compares {', '.join(ranker.modalities)} of dimension {ranker.dimension}, the heads give {shared}: "
            "train them together"
        )
    fitted = 0 if structured is None else structured["dimension"]
    if fusion.structured_weight and fusion.structured_dimension != fitted:
        raise BundleError(
            f"fusion takes structured features of dimension {fusion.structured_dimension}, the bundle's have {fitted}: "
            "fit their statistics"
        )


def write_bundle(
    folder: Path,
    towers: Mapping[str, Path],
    heads: Mapping[str, Head],
    fusion: Fusion,
    views: Mapping[str, Views],
    training: Mapping[str, Any],
    structured: Path | None = None,
    curves: bytes | None = None,
    ranker: Ranker | None = None,
) -> Bundle:
    """Write a bundle: into a folder beside `folder`, then renamed.

    The same parts give the same bytes and the same hash. A bundle of that hash that is there already is left
    alone.

    Args:
        folder: where it shall lie.
        towers: modality -> folder of a tower.
        heads: modality -> head.
        fusion: how the modalities' vectors become one.
        views: modality -> what views its features are made of; one view where it is not named.
        training: figures of the training: JSON values.
        structured: folder of the fitted transform of structured columns.
        curves: PNG of the training's curves.
        ranker: what ranks candidates by attention.

    Raises:
        BundleError: the parts don't fit together, or something else lies at `folder`.
    """
    try:
        specs = {m: TowerSpec.from_json((source / SPEC_FILE).read_text("utf-8")) for m, source in towers.items()}
    except FileNotFoundError as error:
        raise BundleError(f"{error.filename} is missing: build the tower first") from error
    views = {modality: views.get(modality, Views()) for modality in specs}
    _check_fit(specs, heads, fusion, views, None if structured is None else read_statistics(structured), ranker)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        for modality, source in towers.items():
            shutil.copytree(source, temporary / "towers" / modality, copy_function=shutil.copyfile)
        (temporary / "heads").mkdir()
        for modality in towers:
            heads[modality].to_npz(temporary / "heads" / f"{modality}.npz")
        if structured is not None:
            shutil.copytree(structured, temporary / STRUCTURED_FOLDER, copy_function=shutil.copyfile)
        if fusion.gate is not None:
            fusion.gate.to_npz(temporary / GATE_FILE)
        if ranker is not None:
            ranker.to_npz(temporary / RANKER_FILE)
        if curves is not None:
            (temporary / CURVES_FILE).parent.mkdir()
            (temporary / CURVES_FILE).write_bytes(curves)
        content: dict[str, Any] = {
            "towers": {modality: json.loads(spec.to_json()) for modality, spec in specs.items()},
            "fusion": fusion.to_json(),
            "views": {modality: views[modality].to_json() for modality in specs},
            "training": dict(training),
            "training_hash": hash_content(training),
            "dimension": fusion.dimension(next(iter(heads.values())).dimension_out),
            "files": {name: asdict(describe_file(path)) for name, path in files_below(temporary)},
        }
        (temporary / BUNDLE_FILE).write_bytes(_SEALED.write(content))
        temporary.chmod(0o755)
        _move(temporary, folder, _hash_of({"format": FORMAT, **content}))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return open_bundle(folder)


def _move(temporary: Path, folder: Path, digest: str) -> None:
    try:
        os.replace(temporary, folder)
    except OSError:
        if not folder.exists():
            raise
        try:
            found = open_bundle(folder)
        except BundleError as error:
            raise BundleError(f"{folder} is there already and is no sound bundle ({error}): delete it first") from error
        if found.hash != digest:
            raise BundleError(f"{folder} holds another bundle ({found.hash[:12]}): choose another folder") from None


def _hash_of(content: Mapping[str, Any]) -> str:
    """Hash all but the figures; the order of the fusion's weights counts, that of other keys does not."""
    told = {key: value for key, value in content.items() if key not in ("training", "training_hash", "hash")}
    statistics = f"{STRUCTURED_FOLDER}/{STATISTICS_FILE}"
    told["files"] = {
        name: entry
        for name, entry in told["files"].items()
        if name == statistics or not (name == CURVES_FILE or _has_structured([name]))
    }
    told["fusion"] = {**told["fusion"], "order": list(told["fusion"]["weights"])}
    return hash_content(told)


_SEALED = SealedJson("bundle", FORMAT, BundleError, "copy the bundle again", _hash_of)
