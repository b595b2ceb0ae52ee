"""Sources of towers beside folders: Keras's families, ResNeXt-50, LiteRT files, EfficientNet-Lite 1 and 2, several at once."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from conftest import least_cosine
from PIL import Image
from safetensors.numpy import save_file

from encoders import conversion, efficientnet_lite, hugging_face, keras_application, resnext
from encoders.integrity import hash_file
from encoders.presets import build_tower
from encoders.sources import read_source, split_specs
from encoders.tower_spec import Decoding, TowerError, TowerSpec
from encoders.towers import load_tower
from encoders.weights import WeightsError


def pictures(side: int, count: int = 2) -> npt.NDArray[np.uint8]:
    """Draw pictures, uint8[count, side, side, 3]."""
    return np.random.default_rng(side).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


# The smallest of each family; what its own preprocessing does to a pixel is in the family's module.
FAMILIES = {"ResNet50": 2048, "VGG16": 512, "EfficientNetV2B0": 1280, "ConvNeXtTiny": 768, "MobileNetV3Small": 576}


@pytest.mark.parametrize(("name", "dimension"), FAMILIES.items())
def test_a_family_of_keras_is_prepared_for_as_its_own_module_does(name: str, dimension: int, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    modules = {"EfficientNetV2B0": "efficientnet_v2", "ConvNeXtTiny": "convnext", "MobileNetV3Small": "mobilenet_v3"}
    module = getattr(keras.applications, modules.get(name, name.rstrip("0156").lower()), None)
    module = module or getattr(keras.applications, {"ResNet50": "resnet50", "VGG16": "vgg16"}[name])
    model = getattr(keras.applications, name)(include_top=False, weights=None, input_shape=(32, 32, 3), pooling="avg")
    path = tmp_path / "random.weights.h5"
    with warnings.catch_warnings():
        # numpy 2.4 on TensorFlow's variables, which Keras saves.
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        model.save_weights(path)
    network = keras_application.picture_network(name, {"weights": str(path), "side": "32"})
    expected = np.asarray(model(module.preprocess_input(pictures(32).astype(np.float32)), training=False))
    found = network.features(tf.constant(pictures(32))).numpy()
    assert found.shape == (2, dimension)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


def resnext_folder(folder: Path, side: int) -> Path:
    """Write a random ResNeXt-50 in timm's layout."""
    model = resnext.build(side)
    rng = np.random.default_rng(0)
    arrays: dict[str, npt.NDArray[np.float32]] = {}
    for layer in model.layers:
        name = layer.name.replace("-", ".")
        if isinstance(layer, keras.layers.Conv2D):
            height, width, inside, outside = layer.kernel.shape
            scale = (2 / (height * width * inside)) ** 0.5
            arrays[f"{name}.weight"] = rng.normal(0, scale, (outside, inside, height, width)).astype(np.float32)
        elif isinstance(layer, keras.layers.BatchNormalization):
            for part in ("weight", "bias", "running_mean", "running_var"):
                arrays[f"{name}.{part}"] = rng.uniform(0.3, 0.7, layer.gamma.shape).astype(np.float32)
    folder.mkdir()
    save_file(arrays, folder / "model.safetensors")
    settings = {"input_size": [3, side, side], "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "crop_pct": 0.95,
                "interpolation": "bicubic"}  # fmt: skip
    (folder / "config.json").write_text(json.dumps({"architecture": "resnext50_32x4d", "pretrained_cfg": settings}))
    return folder


def test_resnext_50_has_the_papers_parameters() -> None:
    model = resnext.build(224)
    trained = sum(int(tf.size(variable)) for variable in model.trainable_variables)
    classes = (2048 + 1) * 1000  # of ImageNet, which papers count
    assert trained + classes == 25_028_904  # 25.0 million
    assert model.output_shape == (None, 2048)


def test_a_resnext_in_timms_layout_becomes_a_tower_and_its_groups_see_their_own_channels_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resnext, "BLOCKS", (1, 1, 1, 1))  # the whole one takes a minute to convert
    folder = resnext_folder(tmp_path / "resnext", 64)
    built = build_tower(f"hf:{folder}?batch=4", "picture", tmp_path / "tower")
    assert (built.side, built.dimension, built.forms) == (64, 2048, ("litert", "saved_model"))
    assert built.decoding == Decoding("crop", "bicubic", 0.95)
    network = hugging_face.picture_network(str(folder), {})
    expected = network.features(tf.constant(pictures(64))).numpy()
    for form in built.forms:
        assert least_cosine(load_tower(tmp_path / "tower", form).encode(pictures(64)), expected) > 0.999999
    model = resnext.build(64)
    with pytest.raises(WeightsError, match=r"^the weights have no 'conv1\.weight': they are not those of a ResNeXt-50"):
        resnext.fill(model, {})
    grouped = model.get_layer("layer1-0-conv2")
    weights = np.zeros(grouped.kernel.shape, np.float32)
    weights[1, 1, :, :4] = 1  # the first group's four filters
    grouped.set_weights([weights])
    given = np.zeros((1, 5, 5, 128), np.float32)
    given[..., 4:] = 1
    assert not np.asarray(grouped(given)).any()
    given[..., :4] = 1
    assert np.asarray(grouped(given))[..., :4].any()


def litert_file(path: Path, kind: tf.DType, batch: int | None = None) -> Path:
    """Convert a function of pictures to a LiteRT file."""
    spec = tf.TensorSpec([batch, 8, 8, 3], kind, name="pictures")

    def pooled(pictures: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"features": tf.reduce_mean(tf.cast(pictures, tf.float32), [1, 2]) + 1.0}

    conversion.save(path.with_suffix(""), {"serving_default": (pooled, [spec])})
    path.write_bytes(conversion.convert(path.with_suffix("")))
    return path


@pytest.mark.parametrize("batch", [None, 1, 4])
def test_a_litert_file_is_a_tower_as_it_is(batch: int | None, tmp_path: Path) -> None:
    path = litert_file(tmp_path / "model.tflite", tf.uint8, batch)
    built = build_tower(f"tflite:{path}?sha256={hash_file(path)}&fit=pad", "picture", tmp_path / "tower")
    assert (built.side, built.dimension, built.forms, built.decoding) == (8, 3, ("litert",), Decoding("pad"))
    path.unlink()
    given = pictures(8, 6)
    np.testing.assert_allclose(load_tower(tmp_path / "tower").encode(given), given.mean((1, 2)) + 1, rtol=1e-5)


def test_a_litert_file_of_floats_needs_to_be_told_how_pixels_become_those(tmp_path: Path) -> None:
    path = litert_file(tmp_path / "model.tflite", tf.float32)
    with pytest.raises(TowerError, match=r"takes float32: say how pixels become that, as in tflite:.*\?mean=127\.5&std=127\.5$"):
        build_tower(f"tflite:{path}", "picture", tmp_path / "tower")
    build_tower(f"tflite:{path}?mean=127.5&std=127.5", "picture", tmp_path / "tower")
    given = pictures(8, 3)
    expected = (given.astype(np.float32) / 127.5 - 1).mean((1, 2)) + 1
    np.testing.assert_allclose(load_tower(tmp_path / "tower").encode(given), expected, atol=1e-5)


def test_a_litert_file_of_bytes_takes_pixels_as_they_are(tmp_path: Path) -> None:
    path = litert_file(tmp_path / "model.tflite", tf.uint8)
    with pytest.raises(TowerError, match=r"model\.tflite takes uint8, pixels as they are: leave the options mean and std away$"):
        build_tower(f"tflite:{path}?std=2", "picture", tmp_path / "tower")


def test_a_litert_file_that_is_no_tower_is_refused(tmp_path: Path) -> None:
    (tmp_path / "junk.tflite").write_bytes(b"junk" * 10)
    with pytest.raises(TowerError, match=r"junk\.tflite is no LiteRT model \(.*\): name a \.tflite file$"):
        build_tower(f"tflite:{tmp_path}/junk.tflite", "picture", tmp_path / "tower")
    with pytest.raises(WeightsError, match=r"^LiteRT file /no/file\.tflite is missing: name a \.tflite file$"):
        build_tower("tflite:/no/file.tflite", "picture", tmp_path / "tower")
    with pytest.raises(WeightsError, match=r"^LiteRT file .* has sha256 \w{64} instead of 00: give the right file$"):
        build_tower(f"tflite:{tmp_path}/junk.tflite?sha256=00", "picture", tmp_path / "tower")
    path = litert_file(tmp_path / "ints.tflite", tf.int32)
    with pytest.raises(TowerError, match=r"ints\.tflite takes int32 \[-1, 8, 8, 3\]: a picture tower takes uint8, "):
        build_tower(f"tflite:{path}", "picture", tmp_path / "tower")


def test_a_quantised_extractor_for_an_edge_device_is_a_tower(real_data: Path, tmp_path: Path) -> None:
    path = real_data / "weights" / "coral" / "mobilenet_v1_1.0_224_quant_embedding_extractor.tflite"
    built = build_tower(f"tflite:{path}", "picture", tmp_path / "tower")
    assert (built.side, built.dimension, built.batch) == (224, 1024, 1)
    features = load_tower(tmp_path / "tower").encode(pictures(224, 3))
    steps = features / 0.023528477177023888
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
    assert features.max() > 0.1


@pytest.mark.parametrize(("name", "side", "dimension"), [("efficientnet-lite1", 240, 2960), ("efficientnet-lite2", 260, 3104)])
def test_the_larger_packaged_networks_know_imagenets_classes(name: str, side: int, dimension: int, real_data: Path) -> None:
    import io

    import pyarrow.parquet as pq
    from PIL import Image

    from encoders.weights import package_folder, read_torch

    variant = efficientnet_lite.VARIANTS[name]
    weights = read_torch((package_folder(variant.package, variant.module) / variant.file).read_bytes())
    network = efficientnet_lite.build(weights, variant)
    table = pq.read_table(real_data / "fashion224" / "part-00000-of-00008.parquet")
    rows = np.flatnonzero(np.array(table["product_type"].to_pylist()) == "Sports Shoes")[:12]
    opened = [Image.open(io.BytesIO(table["image"][int(row)].as_py())).convert("RGB").resize((side, side)) for row in rows]
    pixels = np.stack([np.asarray(one) for one in opened])
    *_, pooled = network((pixels.astype(np.float32) - 127) / 128, training=False)
    scores = pooled.numpy() @ weights["_fc.weight"].T + weights["_fc.bias"]
    assert (scores.argmax(1) == 770).mean() > 0.8  # running shoe
    statistics = efficientnet_lite.stage_statistics(weights, variant)
    assert efficientnet_lite.features(network, statistics, tf.constant(pixels[:1])).shape == (1, dimension)


def saved_pool(folder: Path, side: int) -> str:
    """Save a network that pools colours, as a SavedModel; returns its specification."""

    def pooled(pictures: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"features": tf.reduce_mean(tf.cast(pictures, tf.float32), [1, 2])}

    conversion.save(folder, {"serving_default": (pooled, [tf.TensorSpec([None, side, side, 3], tf.uint8)])})
    return f"saved-model:{folder}"


def test_towers_side_by_side_are_one_tower(tmp_path: Path) -> None:
    small, large = saved_pool(tmp_path / "a,b", 8), saved_pool(tmp_path / "c", 16)
    assert split_specs(f"{small},{large}") == [small, large]
    built = build_tower(f"{small},{large}", "picture", tmp_path / "tower")
    assert (built.dimension, built.side, built.forms, built.parts) == (6, 16, ("litert", "saved_model"), 2)
    given, noise = np.repeat(np.repeat(pictures(8, 5), 2, 1), 2, 2), pictures(16, 3)
    tower = load_tower(tmp_path / "tower")
    assert (tower.form, tower.spec) == ("litert", TowerSpec.from_json((tmp_path / "tower" / "tower.json").read_text()))
    assert tower.runs_in == "LiteRT on the CPU"
    assert load_tower(tmp_path / "tower", "saved_model").runs_in == "TensorFlow on the CPU, without a GPU"
    features = tower.encode(given)
    np.testing.assert_allclose(features[:, 3:], given.mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(features[:, :3], features[:, 3:], atol=1.5)
    bilinear = [f"{spec}?resample=bilinear" for spec in (small, large)]
    build_tower(",".join(bilinear), "picture", tmp_path / "bilinear")
    shrunk = np.stack([np.asarray(Image.fromarray(picture).resize((8, 8), Image.Resampling.BILINEAR)) for picture in noise])
    found = load_tower(tmp_path / "bilinear").encode(noise)
    np.testing.assert_allclose(found[:, :3], shrunk.mean((1, 2)), rtol=1e-5)
    assert not np.allclose(tower.encode(noise)[:, :3], found[:, :3], atol=0.01)
    one = build_tower(large, "picture", tmp_path / "one")
    assert one.weights_hash != built.weights_hash
    with pytest.raises(TowerError, match=r"^towers side by side see the same pixels, but these decode pictures otherwise \("):
        build_tower(f"{small}?fit=pad,{large}", "picture", tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("spec", "modality", "message"),
    [
        ("hf:x?fit=tall", "picture", r"^tower 'hf:x\?fit=tall': fit may be crop, pad, stretch$"),
        ("hf:x?tokens=2", "text", r"^tower 'hf:x\?tokens=2': tokens is a number of at least 3$"),
        ("hf:x?crop_ratio=0", "picture", r"^tower 'hf:x\?crop_ratio=0': crop_ratio is a number above 0 and at most 1$"),
        ("hf:x?crop_ratio=y", "picture", r"^tower 'hf:x\?crop_ratio=y': crop_ratio is a number above 0 and at most 1$"),
        ("hf:x?prefix=y", "picture", r"^tower .* has the option 'prefix', which is unknown: known are batch, .*, depths, fit, "),
        ("hf:x?tokens=5", "picture", r"^tower .* has the option 'tokens', which is unknown: known are .*, resample, xla$"),
        ("keras-hub:x?side=5", "text", r"^tower .* has the option 'side', which is unknown: known are batch, form, pooling, "),
        ("package:efficientnet-lite0?side=63", "picture", r"^tower '.*\?side=63': give the pixels of a side, at least 64$"),
        ("package:efficientnet-lite2?side=9.5", "picture", r"^tower '.*\?side=9\.5': side is a number of at least 1$"),
        ("package:efficientnet-lite1?pooling=max", "picture", r"^tower .*'pooling', which is unknown: known are batch, .* side$"),
        ("package:minilm?side=64", "text", r"^tower .* has the option 'side', which is unknown: known are batch, form, prefix$"),
        ("tflite:x", "text", r"^tower 'tflite:x' encodes a picture, not a text: name another one$"),
    ],
)
def test_an_option_that_means_nothing_is_refused(spec: str, modality: Any, message: str) -> None:
    with pytest.raises(TowerError, match=message):
        read_source(spec, modality)


def test_options_are_read_as_those_of_an_address() -> None:
    assert read_source("keras:VGG16?weights=a%20b%26c.h5", "picture").options == {"weights": "a b&c.h5"}


def test_texts_get_the_case_and_punctuation_that_a_network_was_trained_with() -> None:
    from encoders.tokens import shape_text

    spec = TowerSpec("x", "text", 1, "", None, None, 1, None, (), prefix="A photo of: ")
    assert shape_text("Red  T-Shirt, 白色。", spec) == "A photo of: Red  T-Shirt, 白色。"
    lower = TowerSpec("x", "text", 1, "", None, None, 1, None, (), text_form="lower")
    assert shape_text("Red  T-Shirt, ΑΣ", lower) == "red  t-shirt, ας"
    canonical = TowerSpec("x", "text", 1, "", None, None, 1, None, (), text_form="canonical")
    assert shape_text(" Red  T-Shirt, (白色。) ", canonical) == "red tshirt 白色。"
