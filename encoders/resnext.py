"""ResNeXt-50 (32x4d) from a folder of timm's layout: config.json and model.safetensors, names as torchvision's.

Xie et al., "Aggregated Residual Transformations for Deep Neural Networks" (2017): blocks of 1x1, 3x3 in 32 groups, 1x1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras

from encoders.conversion import PictureNetwork
from encoders.trainable import layers_of
from encoders.weights import WeightsError

if TYPE_CHECKING:
    from encoders.hugging_face import Arrays, Folder

# Whatever changes a feature and is not in the folder: to be changed with the arithmetic below.
RECIPE = "resnext50_32x4d, 1"

GROUPS = 32
BLOCKS = (3, 4, 6, 3)
STEM, WIDTHS = 64, (128, 256, 512, 1024)  # filters of the first layer, and of the groups in each stage
EXPANSION = 2
EPSILON = 1e-5
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def picture_network(folder: Folder) -> PictureNetwork:
    """Build the network of a folder: uint8[B, side, side, 3] -> float32[B, 2048], the mean over the last layer.

    Raises WeightsError for weights that are missing or of another network.
    """
    from encoders.hugging_face import read_pixels

    input_size = folder.config.get("pretrained_cfg", {}).get("input_size", (3, 224, 224))
    pixels = read_pixels(folder, int(input_size[-1]), IMAGENET_MEAN, IMAGENET_STD)
    model = build(pixels.side)
    fill(model, folder.arrays())
    return PictureNetwork(
        side=pixels.side,
        weights_hash=folder.digest(RECIPE),
        features=lambda pictures: model(pixels.scale(pictures), training=False),
        decoding=pixels.decoding,
        layers=layers_of(model),
    )


def build(side: int) -> keras.Model:
    """Build the network without weights; layers are named as torchvision's."""
    picture = keras.Input((side, side, 3))
    x = _relu(_norm(_convolve(picture, "conv1", STEM, 7, 2), "bn1"))
    x = keras.layers.MaxPooling2D(3, 2)(keras.layers.ZeroPadding2D(1)(x))  # zeros are the least after a ReLU
    for stage, (blocks, width) in enumerate(zip(BLOCKS, WIDTHS, strict=True), 1):
        for block in range(blocks):
            x = _block(x, f"layer{stage}.{block}", width, 2 if stage > 1 and block == 0 else 1, block == 0)
    return keras.Model(picture, keras.layers.GlobalAveragePooling2D()(x))


def _block(x: Any, name: str, width: int, stride: int, widens: bool) -> Any:
    filters = width * EXPANSION
    y = _relu(_norm(_convolve(x, f"{name}.conv1", width, 1), f"{name}.bn1"))
    y = _relu(_norm(_convolve(y, f"{name}.conv2", width, 3, stride, GROUPS), f"{name}.bn2"))
    y = _norm(_convolve(y, f"{name}.conv3", filters, 1), f"{name}.bn3")
    if widens:
        x = _norm(_convolve(x, f"{name}.downsample.0", filters, 1, stride), f"{name}.downsample.1")
    return _relu(keras.layers.Add()([x, y]))


def _convolve(x: Any, name: str, filters: int, kernel: int, stride: int = 1, groups: int = 1) -> Any:
    if kernel > 1:
        x = keras.layers.ZeroPadding2D(kernel // 2)(x)  # the same on all sides, as PyTorch does
    return keras.layers.Conv2D(filters, kernel, stride, groups=groups, use_bias=False, name=_layer(name))(x)


def _norm(x: Any, name: str) -> Any:
    return keras.layers.BatchNormalization(epsilon=EPSILON, name=_layer(name))(x)


def _relu(x: Any) -> Any:
    return keras.layers.ReLU()(x)


def _layer(name: str) -> str:
    return name.replace(".", "-")


def fill(model: keras.Model, arrays: Arrays) -> None:
    """Set the weights by their names in torchvision; raises WeightsError where one is missing or of another shape."""
    for layer in model.layers:
        if not layer.weights:
            continue
        name = layer.name.replace("-", ".")
        convolution = isinstance(layer, keras.layers.Conv2D)
        parts = ("weight",) if convolution else ("weight", "bias", "running_mean", "running_var")
        missing = [part for part in parts if f"{name}.{part}" not in arrays]
        if missing:
            raise WeightsError(f"the weights have no '{name}.{missing[0]}': they are not those of a ResNeXt-50 (32x4d)")
        found = [arrays[f"{name}.{part}"] for part in parts]
        found = [array.transpose(2, 3, 1, 0) for array in found] if convolution else found
        for variable, array in zip(layer.weights, found, strict=True):
            if tuple(variable.shape) != array.shape:
                raise WeightsError(f"'{name}' is of shape {list(array.shape)}, not {list(variable.shape)} as in a ResNeXt-50")
        layer.set_weights(found)
