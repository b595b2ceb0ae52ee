"""The job TRAIN on a small catalogue: what its flags make of a bundle."""

from __future__ import annotations

import io
import itertools
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SHARED, product, unpriced, write_shards
from PIL import Image

from encoders.fusion import FusionError
from pipelines.config import Config, ConfigError, read_config
from pipelines.run import resolve_bundle
from pipelines.train import ensure_towers, train
from pipelines.training_features import encode_products, training_data
from pipelines.training_products import phrase_roles


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> str:
    rows = [{**product(n), "family": f"F{n // 2}"} for n in range(60)]
    return write_shards(tmp_path_factory.mktemp("catalogue"), rows, 30)


def settings(tiny_towers: dict[str, Path], index: Path, catalogue: str, **changes: Any) -> Config:
    towers = {f"{m}_tower": f"saved-model:{path.parent / f'{m}-saved-model'}" for m, path in tiny_towers.items()}
    column = ["title=name", "product_id=sku"]
    given = {"index": str(index), "catalogue": [catalogue], "column": column, "dimension": SHARED, "epochs": 6}
    return read_config(None, towers | given | changes)


def test_a_bundle_says_how_it_was_trained(
    tiny_towers: dict[str, Path], catalogue: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = {"loss": "sigmoid", "fusion": "attention", "group": "family", "tensorboard": str(tmp_path / "events")}
    config = settings(tiny_towers, tmp_path / "index", catalogue, **asked)
    with caplog.at_level(logging.INFO):
        bundle = train(config)
    told = bundle.training["settings"]
    assert (told["loss"], told["gate"], told["dimension"], told["epochs"]) == ("sigmoid", True, SHARED, 6)
    assert bundle.training["fusion"]["weights"] == {"picture": 0.4, "text": 0.6}
    assert bundle.training["fusion"]["chosen"] is False
    assert bundle.training["remove_gap"] is False
    assert bundle.fusion.kind == "attention"
    assert bundle.fusion.gate is not None
    assert bundle.dimension == SHARED
    assert bundle.curves is not None
    with Image.open(io.BytesIO(bundle.curves)) as curves:
        assert curves.format == "PNG"
    assert list((tmp_path / "events").glob("events.out.tfevents.*"))
    assert f"train: step 6 of 6, loss {bundle.training['loss'][-1]:.3f}, recall@10 on validation: picture " in caplog.text
    assert "with the weights picture 0.4, text 0.6, as given or by default" in caplog.text
    with pytest.raises(ConfigError, match="fusion by attention learned to weigh pictures and texts alone: choose another"):
        resolve_bundle(config.replace(weight={"reviews": "0.2"}, tensorboard=None), ())
    other = resolve_bundle(config.replace(fusion="mean", tensorboard=None), ())
    assert (other.fusion.kind, other.fusion.gate, other.curves) == ("mean", bundle.fusion.gate, bundle.curves)


def test_a_gap_is_removed_where_it_is_asked_for_and_a_gate_comes_of_training_only(
    tiny_towers: dict[str, Path], catalogue: str, tmp_path: Path
) -> None:
    config = settings(tiny_towers, tmp_path / "index", catalogue, remove_gap=True)
    bundle = train(config)
    assert bundle.training["remove_gap"] is True
    for head in bundle.heads.values():
        assert 0 < np.linalg.norm(head.gap) < 1
    with pytest.raises(FusionError, match="fusion by attention needs a gate, which is trained: train --fusion attention"):
        resolve_bundle(config.replace(remove_gap=False, fusion="attention"), ())
    with pytest.raises(ConfigError, match="--remove-gap changes the vectors that --fusion attention learned to weigh"):
        config.replace(fusion="attention")


def test_a_phrase_is_right_for_every_product_that_has_what_it_names(tiny_towers: dict[str, Path], tmp_path: Path) -> None:
    colours, kinds = ("Vermil", "Ocrel", "Azul"), ("Zorbs", "Quibs")  # words that no table has
    own = [(colours[n % 3], kinds[n % 2]) for n in range(60)]
    rows = [{**unpriced(n), "colour": colour, "product_type": kind} for n, (colour, kind) in enumerate(own)]
    config = settings(tiny_towers, tmp_path / "index", write_shards(tmp_path, rows, 30), phrase_languages=["en"])
    job, products = encode_products(config, "train", ensure_towers(config), ())
    (tmp_path / "features").mkdir()
    data, _ = training_data(job, products, tmp_path / "features")
    phrases = np.unique(data.product_phrases[data.product_phrases >= 0])
    asked = data.batch(np.arange(60), phrases, None)
    had = [{value.casefold() for value in own[int(name[1:])]} for name in products.ids]
    drawn = 0
    for number, answers in zip(phrases, asked.answers, strict=True):
        said = data.query_texts[number].casefold()
        names = {word.casefold() for word in (*colours, *kinds) if word.casefold().rstrip("s") in said}
        assert names, said
        assert np.array_equal(answers, [names <= values for values in had]), said
        drawn += int((data.product_phrases == number).sum())
    assert asked.answers.sum() > drawn
    labels = next(iter(data.train_batches(0))).labels
    assert labels is not None
    assert len(labels.queries) == 6  # three colours of two kinds
    assert (labels.answers.sum(axis=0) == 1).all()


def test_the_share_of_structured_columns_is_chosen_where_that_is_asked_for(
    tiny_towers: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # What neither titles nor pictures tell, but brands do.
    words = {"colour": ("Vermil", "Ocrel", "Azul"), "product_type": ("Zorbs", "Quibs"), "material": ("Lumen", "Tarn")}
    own = [dict(zip(words, chosen, strict=True)) for chosen in itertools.product(*words.values())]
    rows = [
        {**unpriced(n), **own[n % 12], "name": f"thing number {n}", "brand": " ".join(own[n % 12].values())} for n in range(1600)
    ]
    shop = write_shards(tmp_path, rows, 800)
    config = settings(tiny_towers, tmp_path / "index", shop, weight=["structured=auto"])
    with caplog.at_level(logging.INFO):
        bundle = train(config)
    told = bundle.training["structured"]
    assert bundle.fusion.structured_weight == told["share"] > 0
    assert told["ndcg@10"] > told["before"] + 0.2
    assert f"train: structured columns have the share {told['share']:g}, chosen by {told['queries']} queries by" in caplog.text
    assert resolve_bundle(config, ()).hash == bundle.hash  # a night with the same settings keeps what was chosen
    few = write_shards(tmp_path / "few", rows[:60], 30)
    with caplog.at_level(logging.INFO):
        bundle = train(settings(tiny_towers, tmp_path / "other", few, weight=["structured=auto"]))
    assert bundle.fusion.structured_weight == 0
    assert "train: structured columns have no share: " in caplog.text


def test_a_share_of_columns_that_are_not_kept_is_refused_before_anything_is_encoded(
    tiny_towers: dict[str, Path], tmp_path: Path
) -> None:
    shop = write_shards(tmp_path, [unpriced(n) for n in range(60)], 30)
    for share in ("auto", "0.2"):
        with pytest.raises(ConfigError, match=rf"^--weight structured={share}: the catalogue keeps none of the columns price, "):
            train(settings(tiny_towers, tmp_path / "index", shop, weight=[f"structured={share}"]))
    assert not (tmp_path / "index" / "towers").exists()
    with pytest.raises(ConfigError, match=r"^--weight picture=auto is not a number$"):
        settings(tiny_towers, tmp_path / "index", shop, weight=["picture=auto"])
    with pytest.raises(ConfigError, match=r"^--weight structured=most is not a number, nor auto$"):
        settings(tiny_towers, tmp_path / "index", shop, weight=["structured=most"])


def test_a_column_of_phrases_that_is_not_kept_is_refused_before_anything_is_encoded(
    tiny_towers: dict[str, Path], catalogue: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"--phrases style: the catalogue keeps no such column \(it keeps .*colour"):
        train(settings(tiny_towers, tmp_path / "index", catalogue, phrases=["colour", "style"]))
    assert not list((tmp_path / "index" / "features").glob("*/units/*/*.parquet"))


def test_columns_named_for_phrases_have_the_roles_of_their_names(tmp_path: Path) -> None:
    config = read_config(None, {"index": str(tmp_path), "catalogue": ["x"], "phrases": ["fit", "product_type", "colour"]})
    kept = ["title", "colour", "product_type", "fit", "gender"]
    assert phrase_roles(kept, config) == {"kind": "product_type", "colour": "colour", "fit": "fit"}
    assert phrase_roles(kept, config.replace(phrases=())) == {"kind": "product_type", "colour": "colour", "audience": "gender"}


def test_a_column_of_groups_that_is_not_kept_is_refused_before_anything_is_encoded(
    tiny_towers: dict[str, Path], catalogue: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"--group style: the catalogue keeps no such column \(it keeps "):
        train(settings(tiny_towers, tmp_path / "index", catalogue, group="style"))
    assert not list((tmp_path / "index" / "features").glob("*/units/*/*.parquet"))


def test_sentences_of_descriptions_are_counted_without_what_the_shop_says_of_all(
    tiny_towers: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{**unpriced(n), "body_html": f"<p>Item {n // 2} is made by hand.</p>Free shipping on all orders."} for n in range(60)]
    catalogue = write_shards(tmp_path, rows, 30)
    with caplog.at_level(logging.INFO):
        bundle = train(settings(tiny_towers, tmp_path / "index", catalogue, epochs=12))
    assert bundle.training["sentences"] == 30
    assert " titles, sentences and phrases to train with" in caplog.text
    for changes in ({"max_sentences": 0}, {"sentence_share": 0.0}):
        without = train(settings(tiny_towers, tmp_path / "index", catalogue, epochs=12, **changes))
        assert without.training["sentences"] == 0
        assert without.training["loss"] != bundle.training["loss"]
    fewer = train(settings(tiny_towers, tmp_path / "index", catalogue, epochs=4, max_sentences=10))
    assert fewer.training["sentences"] == 10
    with pytest.raises(ConfigError, match=r"--sentence-share is 0.6; it is a share between 0 and 0.5"):
        settings(tiny_towers, tmp_path / "index", catalogue, sentence_share=0.6)
