"""The job TRAIN with towers trained further on a small catalogue, or from scratch."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SHARED, cosine_distance, unpriced, write_pictures, write_shards
from drawn_shapes import drawn

from encoders.tower_spec import TowerError
from encoders.tower_trainer import TWIN
from pipelines.bundles import open_at, own_bundle
from pipelines.config import Config, ConfigError, read_config
from pipelines.layout import Index, read_json
from pipelines.prune import prune
from pipelines.train import train


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"fine_tune": {"sound": "1"}}, "--fine-tune names the modality 'sound'; it may be picture, text"),
        ({"fine_tune": {"picture": "-1"}}, "--fine-tune picture=-1 is not a number of layers"),
        ({"fine_tune_steps": -1}, "--fine-tune-steps is -1; it must be at least 0"),
    ],
)
def test_wrong_settings_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_config(None, given)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_shards(tmp_path_factory.mktemp("catalogue"), [unpriced(number) for number in range(60)], 30)


def settings(tiny_towers: dict[str, Path], index: Path, catalogue: str, **changes: Any) -> Config:
    text = f"saved-model:{tiny_towers['text'].parent / 'text-saved-model'}"
    given = {"index": str(index), "catalogue": [catalogue], "column": ["title=name", "product_id=sku"], "dimension": SHARED,
             "epochs": 2, "text_tower": text, "fine_tune_steps": 4}  # fmt: skip
    return read_config(None, given | changes)


def test_a_refused_tower_is_refused_before_any_work(tiny_towers: dict[str, Path], catalogue: str, tmp_path: Path) -> None:
    config = settings(tiny_towers, tmp_path / "index", catalogue, fine_tune={"text": "1"})
    with pytest.raises(TowerError, match="cannot be trained further: a SavedModel is a finished graph"):
        train(config)
    assert not (tmp_path / "index").exists()


def test_a_tower_trained_further_makes_a_bundle_of_its_own(
    tiny_towers: dict[str, Path], application_weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # So few that none is held out for validation: then the last round is the one that is kept.
    few = write_shards(tmp_path / "shop", [unpriced(number) for number in range(9)], 9)
    application = f"keras:MobileNet?weights={application_weights}&alpha=0.25&side=32"
    config = settings(tiny_towers, tmp_path / "index", few, picture_tower=application, fine_tune={"picture": "3"})
    with pytest.raises(ConfigError, match="--fine-tune picture=99: the tower has 27 layers that can be trained"):
        train(config.replace(fine_tune={"picture": "99"}))
    index = Index(config.index)
    (built,) = (read_json(str(path))["weights_hash"] for path in Path(index.towers).glob("picture-*/tower.json"))
    with caplog.at_level(logging.INFO):
        bundle = train(config)
    figures = bundle.training["towers"]
    assert (figures["layers"], figures["resumed_from"], figures["best_step"]) == ({"picture": 3}, 0, 4)
    assert bundle.towers["picture"].weights_hash != built
    assert "the picture tower was trained, its features are others: every picture is encoded again" in caplog.text
    pictures = drawn(np.arange(4))
    forms = [bundle.load_tower("picture", form).encode(pictures) for form in ("litert", "saved_model")]
    assert cosine_distance(*forms) < 1e-6
    (trained_once,) = Path(index.towers).glob("trained-*")
    assert own_bundle(index) == str(bundle.folder)
    other = train(config.replace(fusion="mean", whitened_dimension=8, whitened_share=0.5))
    assert other.towers == bundle.towers
    assert list(Path(index.towers).glob("trained-*")) == [trained_once]
    assert prune(index, 1, 0).files["towers"] == 0
    train(config.replace(fine_tune={}))
    told = prune(index, 1, 0)
    assert told.files["towers"] > 1
    assert not trained_once.exists()
    assert [path.name.partition("-")[0] for path in sorted(Path(index.towers).iterdir())] == ["picture", "text"]


def test_a_compact_tower_is_trained_from_pictures_by_path_and_no_texts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{name: row[name] for name in ("sku",)} | {"image": f"images/{n}.jpg"}
            for n, row in enumerate(write_pictures(tmp_path / "shop", 40))]  # fmt: skip
    catalogue = write_shards(tmp_path / "shop", rows, 20)
    given = {"index": str(tmp_path / "index"), "catalogue": [catalogue], "column": ["product_id=sku"], "dimension": SHARED,
             "picture_tower": "compact:16", "text_tower": "", "fine_tune_steps": 2}  # fmt: skip
    with caplog.at_level(logging.INFO):
        bundle = train(read_config(None, given))
    assert bundle.towers["picture"].spec == "compact:16"
    # Views of two pictures find one another from the start.
    assert bundle.training["towers"]["best_step"] == 0
    assert "no round was better than the picture tower as it was: it is kept, nothing is encoded again" in caplog.text
    assert next(set(one) for one in bundle.training["towers"]["validation"]) == {TWIN}
    assert open_at(str(bundle.folder)).hash == bundle.hash


def test_a_text_tower_is_trained_on_titles_and_refused_without_them(
    real_data: Path, tiny_towers: dict[str, Path], tmp_path: Path
) -> None:
    rows = [{name: value for name, value in unpriced(number).items() if name != "image"} for number in range(9)]
    config = settings(tiny_towers, tmp_path / "index", write_shards(tmp_path / "shop", rows, 9), picture_tower="",
                      text_tower=f"hf:{real_data / 'golden' / 'bert'}", fine_tune={"text": "1"})  # fmt: skip
    bundle = train(config)
    figures = bundle.training["towers"]
    assert (figures["layers"], figures["best_step"]) == ({"text": 1}, 4)
    (built,) = (read_json(str(path))["weights_hash"] for path in Path(Index(config.index).towers).glob("text-*/tower.json"))
    assert bundle.towers["text"].weights_hash != built
    assert np.isfinite(bundle.load_tower("text").encode(["red shirt", "blue shirt number 8"])).all()
    untitled = write_shards(tmp_path / "untitled", [row | {"name": "", "colour": "", "body_html": "shirts"} for row in rows], 9)
    with pytest.raises(ConfigError, match="--fine-tune text=1: the catalogue has no titles or phrases to train it with"):
        train(config.replace(catalogue=(untitled,)))
