"""Distortions: what they do to pictures, and that a picture's depend on its key and the seed alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from transforms.distortions import Pixels, background, blur, crop, noise

ALL = (blur, crop, noise, background)


@pytest.fixture(scope="module")
def pictures() -> Pixels:
    """Draw a square of a colour, with a white hole in it, on white, three times with other noise."""
    drawn = np.full((3, 64, 64, 3), 245, np.int64)
    drawn[:, 16:48, 16:48] = (200, 30, 30)
    drawn[:, 28:36, 28:36] = 245
    return (drawn + np.random.default_rng(0).integers(-8, 9, drawn.shape)).astype(np.uint8)


@pytest.mark.parametrize("distort", ALL)
def test_a_picture_is_distorted_alike_in_any_batch(distort: Callable[..., Pixels], pictures: Pixels) -> None:
    made = distort(pictures, ["a", "b", "c"], 1)
    assert made.shape == pictures.shape
    assert made.dtype == np.uint8
    assert all((one != other).any() for one, other in zip(made, pictures, strict=True))
    assert np.array_equal(distort(pictures[1:2], ["b"], 1)[0], made[1])
    if distort is not blur:
        assert (distort(pictures, ["a", "b", "c"], 2) != made).any()
        assert (distort(pictures[1:2], ["x"], 1)[0] != made[1]).any()


def test_another_background_leaves_the_thing_and_its_holes(pictures: Pixels) -> None:
    made = background(pictures, ["a", "b", "c"], 0)
    assert np.array_equal(made[:, 16:48, 16:48], pictures[:, 16:48, 16:48])
    for picture in made:
        around = np.concatenate([picture[:16].reshape(-1, 3), picture[48:].reshape(-1, 3)])
        assert len(np.unique(around, axis=0)) == 1
    assert len(np.unique(made[:, 0, 0], axis=0)) == 3


def test_background_is_reached_around_corners() -> None:
    """A spiral: the inside hangs together with the border by a way that turns."""
    picture = np.full((1, 40, 40, 3), 255, np.uint8)
    picture[0, 4:36, 4] = picture[0, 4, 4:36] = picture[0, 4:36, 35] = picture[0, 35, 10:36] = 0
    picture[0, 10:36, 10] = picture[0, 10, 10:30] = picture[0, 10:30, 29] = 0
    made = background(picture, ["a"], 0)
    assert np.array_equal(made[0, 20, 20], made[0, 0, 0])
    assert (made[0, 0, 0] != 255).any()


def test_a_picture_without_a_plain_background_stays() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype(np.uint8)
    plain = np.full((1, 32, 32, 3), 200, np.uint8)
    for one in (picture, plain):
        assert np.array_equal(background(one, ["a"], 0), one)


def test_a_crop_is_a_part_of_the_picture() -> None:
    ramp = np.broadcast_to(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], (64, 64, 3))[None]
    (row,) = crop(ramp, ["a"], 0)[:, 0, :, 0].astype(int)
    steps = np.diff(row)
    assert (steps >= 0).all()
    # 60 to 80 % of the side is what is left of 252 steps.
    assert 0.55 * 252 < row[-1] - row[0] < 0.82 * 252


def test_noise_and_blur_are_as_strong_as_they_say(pictures: Pixels) -> None:
    grey = np.full((1, 200, 200, 3), 128, np.uint8)
    assert noise(grey, ["a"], 0).std() == pytest.approx(255 * 0.05, rel=0.02)
    edge = np.zeros((1, 250, 250, 3), np.uint8)
    edge[:, :, 125:] = 255
    across = blur(edge, ["a"], 0)[0, 100, :, 0].astype(int)
    # Of a Gaussian of deviation 2 pixels 68 % lie within two pixels of the middle.
    assert (across[127] - across[123]) / 255 == pytest.approx(0.68, abs=0.1)
