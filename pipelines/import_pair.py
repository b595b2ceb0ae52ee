"""IMPORT: a pretrained pair of towers that share their space becomes a bundle, without a catalogue and without training.

    catalogue-index import hf:marqo-fashionSigLIP --bundle bundle
    catalogue-index run --catalogue 'shop/*.parquet' --index DIR --bundle bundle

The second is the usual run: its index has that bundle from then on.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import get_args

from encoders.bundle import Bundle, write_bundle
from encoders.heads import identity_head
from encoders.presets import build_tower
from encoders.sources import side_of_pair
from encoders.tower_spec import Modality
from pipelines.bundles import fusion_for
from pipelines.config import Config, ConfigError
from pipelines.views import index_views

PAIRS = ("hf:", "keras-hub:")


def import_pair(spec: str, config: Config) -> Bundle:
    """Write the bundle of a pair (CLIP, SigLIP, MetaCLIP 2) to `config.bundle`; its heads change nothing.

    Raises:
        ConfigError: the source is of a kind that has no pairs, or its two sides do not share a space.
        TowerError, WeightsError: the source holds no pair, or its weights do not fit.
        BundleError: something else lies at the folder.
    """
    assert config.bundle is not None
    if not spec.startswith(PAIRS):
        raise ConfigError(f"'{spec}' is no pretrained pair: give hf:<folder> or keras-hub:<preset or folder>")
    modalities: tuple[Modality, ...] = get_args(Modality)
    with tempfile.TemporaryDirectory() as temporary:
        towers = {str(modality): Path(temporary) / modality for modality in modalities}
        built = {str(m): build_tower(side_of_pair(spec, m), m, towers[m]) for m in modalities}
        if len({tower.dimension for tower in built.values()}) > 1:
            shown = " and ".join(f"{tower.dimension} of {modality}s" for modality, tower in built.items())
            raise ConfigError(f"'{spec}' gives vectors of different dimensions ({shown}): they share no space, train a bundle")
        heads = {modality: identity_head(tower.dimension) for modality, tower in built.items()}
        fusion = fusion_for(config, modalities, None)
        return write_bundle(Path(config.bundle), towers, heads, fusion, index_views(config), {"imported": spec})
