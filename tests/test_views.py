"""Picture views: what each operation does to the pixels, and that nothing but seed, content and number decides it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from transforms.views import PictureOperations, PictureViews, ViewError, apply, draw

SIDE = 48
NOTHING = {"flip": 0.0, "rotate": 0.0, "zoom": 0.0, "shift": 0.0, "brightness": 0.0, "contrast": 0.0, "noise": 0.0}


def pictures(count: int, side: int = SIDE) -> np.ndarray:
    """Draw smooth pictures of waves, no two alike, whose left and right, top and bottom differ."""
    down, across = np.mgrid[0:side, 0:side] / side
    waves = [
        [127 + 100 * np.sin(2 * np.pi * ((1 + n % 3) * across + (n % 2) * down) + channel + n) for channel in range(3)]
        for n in range(count)
    ]
    return np.moveaxis(np.array(waves), 1, 3).round().astype(np.uint8)


def keys(count: int) -> list[bytes]:
    return [bytes([n]) * 16 for n in range(count)]


def maker(seed: int = 0, batch: int = 8, **operations: float) -> PictureViews:
    return PictureViews(SIDE, PictureOperations(**(NOTHING | operations)), seed, batch)


def difference(one: Any, other: Any) -> int:
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max())


def test_view_0_is_the_picture_itself_beside_others_too() -> None:
    made = PictureViews(SIDE, PictureOperations(), 0, 8).make(pictures(6), keys(6), [0, 1, 0, 2, 0, 3])
    assert np.array_equal(made[::2], pictures(6)[::2])
    assert all(difference(made[n], pictures(6)[n]) > 20 for n in (1, 3, 5))


def test_without_operations_every_view_is_the_picture_itself() -> None:
    assert np.array_equal(maker().make(pictures(5), keys(5), [1, 2, 3, 4, 5]), pictures(5))


def test_a_view_depends_on_seed_content_and_number_alone() -> None:
    views = PictureViews(SIDE, PictureOperations(), 0, 8)
    together = views.make(pictures(20), keys(20), [1] * 20)
    assert np.array_equal(views.make(pictures(20)[::-1].copy(), keys(20)[::-1], [1] * 20)[::-1], together)
    alone = np.concatenate([views.make(pictures(20)[n : n + 1], keys(20)[n : n + 1], [1]) for n in range(20)])
    assert np.array_equal(alone, together)
    assert difference(PictureViews(SIDE, PictureOperations(), 0, 5).make(pictures(20), keys(20), [1] * 20), together) <= 1
    others = (
        PictureViews(SIDE, PictureOperations(), 1, 8).make(pictures(20), keys(20), [1] * 20),
        views.make(pictures(20), [b"x" + key for key in keys(20)], [1] * 20),
        views.make(pictures(20), keys(20), [2] * 20),
    )
    assert all(difference(other[n], together[n]) > 5 for other in others for n in range(20))


def test_another_process_draws_the_same() -> None:
    code = (
        "from transforms.views import PictureOperations, draw; "
        "d = draw([b'a', b'b'], [1, 2], 48, PictureOperations(), 7); "
        "print(d.transforms.tobytes().hex(), d.noise.tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": "5"}, capture_output=True, text=True, check=True
    )
    here = draw([b"a", b"b"], [1, 2], 48, PictureOperations(), 7)
    assert done.stdout.strip() == f"{here.transforms.tobytes().hex()} {here.noise.tolist()}"
    assert here.noise.tolist() == [2271557086, 1385471958]


def test_the_graph_gives_what_the_same_operations_give_one_by_one() -> None:
    views = PictureViews(SIDE, PictureOperations(), 0, 8)
    drawn = draw(keys(8), [1, 2, 3, 4, 5, 6, 7, 8], SIDE, PictureOperations(), 0)
    eager = apply(pictures(8), (drawn.transforms, drawn.contrast, drawn.brightness, drawn.sigma, drawn.noise))
    assert difference(eager, views.make(pictures(8), keys(8), [1, 2, 3, 4, 5, 6, 7, 8])) <= 1


def test_flip_mirrors_as_often_as_it_says() -> None:
    made = maker(flip=1.0).make(pictures(6), keys(6), [1] * 6)
    assert difference(made, pictures(6)[:, :, ::-1]) <= 1
    many = [bytes([n, n]) for n in range(200)]
    mirrored = draw(many, [1] * 200, SIDE, PictureOperations(**(NOTHING | {"flip": 0.3})), 0).transforms[:, 0] < 0
    assert 0.2 < mirrored.mean() < 0.4


@pytest.mark.parametrize(("operation", "strength"), [("rotate", 30.0), ("zoom", 0.3), ("shift", 0.2)])
def test_geometry_is_what_pillow_makes_of_the_same_transform(operation: str, strength: float) -> None:
    from PIL import Image

    operations = PictureOperations(**(NOTHING | {operation: strength}))
    drawn = draw(keys(6), [1] * 6, SIDE, operations, 0)
    made = PictureViews(SIDE, operations, 0, 8).make(pictures(6), keys(6), [1] * 6)
    for n in range(6):
        a, b, c, d, e, f = drawn.transforms[n].tolist()
        # Pillow takes the middles of pixels half a pixel further on.
        shifted = (a, b, c + 0.5 - (a + b) / 2, d, e, f + 0.5 - (d + e) / 2)
        expected = Image.fromarray(pictures(6)[n]).transform(
            (SIDE, SIDE), Image.Transform.AFFINE, shifted, Image.Resampling.BILINEAR, fillcolor=None
        )
        x = a * np.arange(SIDE)[None] + b * np.arange(SIDE)[:, None] + c
        y = d * np.arange(SIDE)[None] + e * np.arange(SIDE)[:, None] + f
        inside = (x > 1) & (x < SIDE - 2) & (y > 1) & (y < SIDE - 2)
        assert inside.mean() > 0.4
        assert difference(np.asarray(expected)[inside], made[n][inside]) <= 2
        assert difference(made[n], pictures(6)[n]) > 5


def test_the_nearest_edge_goes_on_beyond_the_border() -> None:
    flat = np.full((4, SIDE, SIDE, 3), (200, 30, 90), np.uint8)
    made = maker(rotate=90.0, zoom=1.0, shift=0.4).make(flat, keys(4), [1, 2, 3, 4])
    assert np.array_equal(made, flat)


def test_brightness_adds_and_contrast_multiplies_around_the_middle() -> None:
    ramp = np.broadcast_to(np.linspace(60, 190, SIDE)[None, None, :, None], (6, SIDE, SIDE, 3)).round().astype(np.uint8)
    drawn = draw(keys(6), [1] * 6, SIDE, PictureOperations(**(NOTHING | {"brightness": 0.2, "contrast": 0.3})), 0)
    made = maker(brightness=0.2, contrast=0.3).make(ramp, keys(6), [1] * 6)
    assert (np.abs(drawn.brightness) <= 51).all()
    assert ((drawn.contrast >= 1 / 1.3) & (drawn.contrast <= 1.3)).all()
    assert drawn.brightness.std() > 10
    for n in range(6):
        expected = np.clip(drawn.contrast[n] * (ramp[n].astype(float) - 127.5) + 127.5 + drawn.brightness[n], 0, 255)
        assert np.abs(expected - made[n]).max() <= 0.51


def test_noise_has_the_deviation_drawn_and_no_pattern() -> None:
    grey = np.full((6, SIDE, SIDE, 3), 128, np.uint8)
    drawn = draw(keys(6), [1] * 6, SIDE, PictureOperations(**(NOTHING | {"noise": 0.1})), 0)
    noise = maker(noise=0.1).make(grey, keys(6), [1] * 6).astype(float) - 128
    for n in range(6):
        assert noise[n].std() == pytest.approx(np.hypot(drawn.sigma[n], 12**-0.5), rel=0.05)
        assert abs(noise[n].mean()) < 0.05 * max(drawn.sigma[n], 1)
    flat = noise.reshape(6, -1)[drawn.sigma > 5]
    assert len(flat) > 1
    neighbours = [np.corrcoef(row[:-k], row[k:])[0, 1] for row in flat for k in (1, 3, 3 * SIDE)]
    assert np.abs([*neighbours, np.corrcoef(flat[0], flat[1])[0, 1]]).max() < 0.05


@pytest.mark.parametrize(
    ("strengths", "message"),
    [
        ({"spin": 3}, "there is no picture operation 'spin'; it may be flip, rotate, zoom, shift, brightness, contrast, noise"),
        ({"rotate": "much"}, "the picture operation rotate is 'much', which is no number"),
        ({"rotate": "200"}, "the picture operation rotate is 200.0; it may be from 0 to 180"),
        ({"noise": "nan"}, "the picture operation noise is nan; it may be from 0 to 1"),
    ],
)
def test_operations_that_mean_nothing_are_refused_by_name(strengths: dict[str, Any], message: str) -> None:
    with pytest.raises(ViewError) as caught:
        PictureOperations.of(strengths)
    assert str(caught.value) == message
