"""Several depths of networks for pictures: which layers they are, against the layers themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from conftest import least_cosine
from test_keras_hub import images, save_preset

from encoders import hugging_face, keras_hub_backbone
from encoders.depths import DepthsError, map_depths
from encoders.presets import build_tower
from encoders.sources import read_source
from encoders.tower_spec import TowerError
from encoders.towers import load_tower

PIXELS = images(32)


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def converter(kind: Any) -> Any:
    return kind(image_size=(32, 32), scale=1 / 127.5, offset=-1.0, interpolation="bicubic", crop_to_aspect_ratio=False)


def test_blocks_of_a_vision_transformer_stand_beside_its_class_token(tmp_path: Path) -> None:
    backbone = keras_hub.models.ViTBackbone(
        image_shape=(32, 32, 3), patch_size=8, num_layers=8, num_heads=2, hidden_dim=16, mlp_dim=32
    )  # fmt: skip
    name = save_preset(tmp_path / "preset", backbone, converter(keras_hub.layers.ViTImageConverter))
    plain = keras_hub_backbone.picture_network(name, {})
    network = keras_hub_backbone.picture_network(name, {"depths": "all"})
    assert network.weights_hash != plain.weights_hash
    found = np.split(network.features(tf.constant(PIXELS)).numpy(), 4, axis=1)
    np.testing.assert_allclose(found[0], unit(plain.features(tf.constant(PIXELS)).numpy()), atol=1e-5)
    embedding, encoder = backbone.layers[1:3]
    states, expected = embedding(PIXELS.astype(np.float32) / 127.5 - 1), []
    for block in encoder.encoder_layers:
        states = block(states)
        expected.append(unit(np.asarray(states)[:, 1:].mean(axis=1)))  # without the class token
    for part, place in zip(found[1:], (1, 3, 5), strict=True):  # after two, four and six of eight
        np.testing.assert_allclose(part, expected[place], atol=1e-4)
        assert np.abs(part - expected[place + 1]).max() > 1e-3


def test_registers_of_dinov2_do_not_count(tmp_path: Path) -> None:
    backbone = keras_hub.models.DINOV2Backbone(
        patch_size=8, num_layers=4, hidden_dim=16, num_heads=2, intermediate_dim=32, image_shape=(32, 32, 3),
        position_embedding_shape=(32, 32), num_register_tokens=3,
    )  # fmt: skip
    name = save_preset(tmp_path / "preset", backbone, converter(keras_hub.layers.DINOV2ImageConverter))
    found = keras_hub_backbone.picture_network(name, {"depths": "all"}).features(tf.constant(PIXELS)).numpy()
    assert found.shape == (3, 4 * 16)
    encoder = next(layer for layer in backbone.layers if type(layer).__name__ == "DINOV2Encoder")
    tokens = keras.Model(backbone.input, encoder.input)({next(iter(backbone.input)): PIXELS.astype(np.float32) / 127.5 - 1})
    states = encoder.layers[1](encoder.layers[0](tokens))
    assert states.shape[1] == 1 + 3 + 16
    np.testing.assert_allclose(found[:, 32:48], unit(np.asarray(states)[:, 4:].mean(axis=1)), atol=1e-4)


def test_levels_of_a_network_of_maps_stand_beside_its_last(tmp_path: Path) -> None:
    backbone = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64], input_conv_kernel_sizes=[7], stackwise_num_filters=[64, 16, 24], stackwise_num_blocks=[1, 1, 1],
        stackwise_num_strides=[1, 2, 2], block_type="basic_block", image_shape=(None, None, 3),
    )  # fmt: skip
    name = save_preset(tmp_path / "preset", backbone, converter(keras_hub.layers.ResNetImageConverter))
    plain = keras_hub_backbone.picture_network(name, {}).features(tf.constant(PIXELS)).numpy()
    found = keras_hub_backbone.picture_network(name, {"depths": "all"}).features(tf.constant(PIXELS)).numpy()
    assert found.shape == (3, 24 + 64 + 16)
    np.testing.assert_allclose(found[:, :24], unit(plain), atol=1e-4)
    level = keras.Model(backbone.input, backbone.pyramid_outputs["P3"])(PIXELS.astype(np.float32) / 127.5 - 1)
    np.testing.assert_allclose(found[:, 88:], unit(np.asarray(level).mean(axis=(1, 2))), atol=1e-4)


@pytest.mark.parametrize("name", ["clip", "siglip", "vit", "dinov2"])
def test_folders_of_hugging_face_have_depths_in_both_forms(name: str, real_data: Path, tmp_path: Path) -> None:
    spec = f"hf:{real_data / 'golden' / name}"
    plain = build_tower(spec, "picture", tmp_path / "plain")
    built = build_tower(f"{spec}?depths=all", "picture", tmp_path / "tower")
    pictures = np.random.default_rng(3).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    features = load_tower(tmp_path / "tower").encode(pictures)
    assert built.dimension == features.shape[1] > plain.dimension
    assert built.weights_hash != plain.weights_hash
    assert built.forms == ("litert", "saved_model")
    own = load_tower(tmp_path / "plain").encode(pictures)
    assert least_cosine(features[:, : plain.dimension], own) > 0.99999
    middle = features[:, plain.dimension :]
    assert least_cosine(features, load_tower(tmp_path / "tower", "saved_model").encode(pictures)) > 0.99999
    squares = np.square(middle).sum(axis=1)  # each block's is 1
    blocks = round(float(squares[0]))
    assert blocks >= 1
    np.testing.assert_allclose(squares, blocks, atol=1e-3)
    assert np.abs(middle[0] - middle[1]).max() > 1e-3


def test_what_has_no_depths_says_so(tmp_path: Path) -> None:
    flat = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.GlobalAveragePooling2D()])
    with pytest.raises(DepthsError, match=r"^has no middle layers that are maps of the picture: leave depths=all away$"):
        map_depths(flat, 8, tf.reduce_mean)
    backbone = keras_hub.models.ViTBackbone(
        image_shape=(32, 32, 3), patch_size=16, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=32
    )  # fmt: skip
    name = save_preset(tmp_path / "preset", backbone, converter(keras_hub.layers.ViTImageConverter))
    with pytest.raises(TowerError, match=r"^a ViTBackbone has no row of blocks, of which middle ones could be taken: leave"):
        keras_hub_backbone.picture_network(name, {"depths": "all"})
    with pytest.raises(TowerError, match=r"depths may be all, last$"):
        read_source(f"keras-hub:{name}?depths=some", "picture")
    with pytest.raises(TowerError, match="which has no option 'pooling': leave it away"):
        hugging_face.picture_network(str(real_folder(tmp_path)), {"pooling": "mean", "depths": "all"})


def real_folder(folder: Path) -> Path:
    """Write the configuration of a CLIP, which is all that is looked at."""
    (folder / "config.json").write_text('{"model_type": "clip"}')
    return folder
