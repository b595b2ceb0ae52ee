"""Bundles of an index: which one a run takes, and local copies of those that lie on an object store."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from encoders.bundle import (
    BUNDLE_FILE,
    REVIEWS,
    STRUCTURED_FOLDER,
    Bundle,
    open_bundle,
    read_statistics,
    tower_of,
    write_bundle,
)
from encoders.fusion import STRUCTURED, Fusion
from encoders.integrity import files_below
from pipelines import storage
from pipelines.config import DEFAULT_FUSION, Config, ConfigError
from pipelines.layout import Index
from pipelines.named_values import DEFAULT_WEIGHTS, given_weights
from pipelines.views import index_views

LATEST = "LATEST"

_log = logging.getLogger(__name__)


def localise(folder: str) -> Path:
    """Return a local copy of a folder that lies on an object store; a local folder is returned as it is.

    The copy is made once a machine, whole, below the temporary folder.
    """
    local = storage.local_path(folder)
    if local is not None:
        return local
    name = hashlib.blake2b(folder.encode(), digest_size=8).hexdigest()
    target = Path(tempfile.gettempdir()) / "catalogue-index" / name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{name}-"))
        for info in storage.list_folder(folder, "**"):
            place = partial / info.path.removeprefix(folder.rstrip("/") + "/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(storage.read_bytes(info.path))
        try:
            os.replace(partial, target)
        except OSError:
            if not target.exists():
                raise
    return target


def upload(folder: Path, target: str, last: str) -> None:
    """Copy a local folder's files to a path or URI, the file `last` after all others: where that is, all are."""
    for name, path in sorted(files_below(folder), key=lambda file: file[0] == last):
        storage.put_file(path, storage.join(target, name))


def install(bundle: Bundle, index: Index) -> str:
    """Copy a bundle to the index under its hash and return its folder there."""
    folder = storage.join(index.bundles, bundle.hash)
    if not storage.exists(storage.join(folder, BUNDLE_FILE)):
        upload(bundle.folder, folder, BUNDLE_FILE)
    return folder


def own_bundle(index: Index) -> str | None:
    """Return the folder of the bundle the index took last, None where it has none."""
    try:
        name = storage.read_bytes(storage.join(index.bundles, LATEST)).decode().strip()
    except FileNotFoundError:
        return None
    return storage.join(index.bundles, name)


def adopt(bundle: Bundle, index: Index) -> str:
    """Install a bundle and take it as the index's own from now on."""
    folder = install(bundle, index)
    storage.write_whole(storage.join(index.bundles, LATEST), f"{bundle.hash}\n".encode())
    return folder


def open_at(folder: str) -> Bundle:
    """Open the bundle at a path or URI, its hash checked."""
    return open_bundle(localise(folder))


def fusion_for(config: Config, modalities: Collection[str], structured: Path | None, base: Fusion | None = None) -> Fusion:
    """Return the fusion that the configuration asks for.

    Args:
        config: settings; what they do not give is as in `base`, or the default.
        modalities: modalities that the bundle has towers for; weights of others have no effect.
        structured: folder of the fitted transform of structured columns.
        base: fusion of the bundle that another one is made of; the weights of its queries are kept where it fuses the modalities
            as this one does.

    Raises:
        ConfigError: structured columns have a weight and no statistics, or reviews one that attention does not know.
        FusionError: no modality has a weight, or what is to weigh them by attention was not trained.
    """
    given = given_weights(config)
    weights = (DEFAULT_WEIGHTS if base is None else dict(base.weights)) | given
    if not weights.get(REVIEWS):  # not a modality of the bundle's, rather than one without a weight
        weights.pop(REVIEWS, None)
    weights = {name: weight for name, weight in weights.items() if tower_of(name) in modalities or name == STRUCTURED}
    for name in sorted(given.keys() - weights.keys()):
        if tower_of(name) not in modalities:
            _log.warning("--weight %s=%s has no effect: the bundle has no %s tower", name, config.weight[name], tower_of(name))
    if weights.get(STRUCTURED) and structured is None:
        raise ConfigError(
            f"--weight {STRUCTURED}={weights[STRUCTURED]:g}: the bundle has no statistics of structured columns: fit them "
            "with run --refit-statistics"
        )
    dimension = 0 if structured is None else read_statistics(structured)["dimension"]
    kind, gate = (DEFAULT_FUSION, None) if base is None else (base.kind, base.gate)
    fusion = Fusion(config.fusion or kind, weights, dimension, gate)  # type: ignore[arg-type]
    if base is not None and _of_modalities(fusion) == _of_modalities(base):
        fusion = replace(fusion, query_weights=base.query_weights)
    if fusion.kind == "attention":
        fusion.check_gate()
        if REVIEWS in fusion.modalities:
            raise ConfigError(
                f"--weight {REVIEWS}: fusion by attention learned to weigh pictures and texts alone: choose another"
            )
    return fusion


def derive(bundle: Bundle, index: Index, config: Config, structured: Path | None = None, take: bool = True) -> Bundle:
    """Return the bundle that the configuration makes of another one, in the index, and with `take` as its own.

    It has the same towers and heads, the fusion and the views that the configuration asks for, and other statistics of
    structured columns where a folder of them is given. Where nothing differs, it is the same bundle. Only other views
    have to be encoded. A ranker, and weights of queries, are left out where the modalities are fused otherwise than they were
    made with.

    Raises:
        ConfigError: structured columns have a weight and no statistics.
        BundleError: the heads do not fit the views.
    """
    own = bundle.folder / STRUCTURED_FOLDER if bundle.structured is not None else None
    fusion = fusion_for(config, tuple(bundle.towers), structured or own, bundle.fusion)
    views = index_views(config, bundle.views)
    if structured is None and fusion == bundle.fusion and views == bundle.views:
        return bundle
    for modality in views:
        if views[modality] != bundle.views[modality]:
            _log.info("%s views differ from the bundle's: every %s is encoded again, %d views each", modality, modality,
                      views[modality].count)  # fmt: skip
    if (fusion.kind, fusion.weights) != (bundle.fusion.kind, bundle.fusion.weights):
        _log.info(
            "fusion %s in place of the bundle's %s: a new bundle of the same towers and heads; nothing is encoded again",
            _shown(fusion), _shown(bundle.fusion),
        )  # fmt: skip
    ranker, training = bundle.ranker, bundle.training
    if ranker is not None and _of_modalities(fusion) != _of_modalities(bundle.fusion):
        _log.warning("the ranking by attention was trained with the fusion %s: it is left out, and cosine ranks; train --ranking "
                     "attention again to have it", _shown(bundle.fusion))  # fmt: skip
        ranker, training = None, {**training, "ranking": {**training.get("ranking", {}), "kept": False}}
    towers = {modality: bundle.folder / "towers" / modality for modality in bundle.towers}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "bundle"
        made = write_bundle(folder, towers, bundle.heads, fusion, views, training, structured or own, bundle.curves, ranker)
        return open_at(adopt(made, index) if take else install(made, index))


def _of_modalities(fusion: Fusion) -> tuple[str, dict[str, float]]:
    return fusion.kind, {name: fusion.weights[name] for name in fusion.modalities}


def _shown(fusion: Fusion) -> str:
    return f"{fusion.kind} ({', '.join(f'{name} {weight:g}' for name, weight in fusion.weights.items())})"
