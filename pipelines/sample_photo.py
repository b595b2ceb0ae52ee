"""The photo around a drawn product: a cluttered, blurred place, shadows, light, and what a camera adds."""

from __future__ import annotations

import colorsys
import functools
import io
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from pipelines.sample_drawing import CANVAS, SIDE, Colour, Pen, accent, shade

_SMALL = 128  # places are drawn small and enlarged: out of focus, as behind a real product
_NOISE = 320

Draw = ImageDraw.ImageDraw
Floats = npt.NDArray[np.float32]


def draw_place(rng: np.random.Generator) -> Image.Image:
    """Draw a place of SIDE pixels: mostly a room, else a tabletop, the outdoors, or a studio's paper."""
    draw = _PLACES[int(rng.choice(len(_PLACES), p=_PLACE_SHARES))]
    return draw(rng).filter(ImageFilter.BoxBlur(0.6)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)


def _tone(
    rng: np.random.Generator,
    saturation: tuple[float, float],
    value: tuple[float, float],
    hue: float | None = None,
) -> Colour:
    place = rng.random() if hue is None else hue + rng.uniform(-0.03, 0.03)
    red, green, blue = colorsys.hsv_to_rgb(place % 1, rng.uniform(*saturation), rng.uniform(*value))
    return (int(red * 255), int(green * 255), int(blue * 255))


def _any_colour(rng: np.random.Generator) -> Colour:
    return _tone(rng, (0.1, 0.9), (0.15, 0.95))


def _lit(colour: Colour, rng: np.random.Generator) -> Image.Image:
    """Give a surface of the colour under uneven light."""
    light = rng.uniform(0.72, 1.16, (3, 3, 1)) * np.asarray(colour)
    corners = np.clip(light + rng.uniform(-9, 9, (3, 3, 3)), 0, 255).astype(np.uint8)
    return Image.fromarray(corners).resize((_SMALL, _SMALL), Image.Resampling.BICUBIC)


def _room(rng: np.random.Generator) -> Image.Image:
    wall = _tone(rng, (0.03, 0.5), (0.4, 0.97))
    image = _lit(wall, rng)
    draw = ImageDraw.Draw(image)
    if rng.random() < 0.3:
        pitch, paper = int(rng.integers(6, 16)), shade(wall, float(rng.choice([0.88, 1.2])))
        for x in range(0, _SMALL, pitch):
            draw.rectangle((x, 0, x + pitch // 3, _SMALL), fill=paper)
    _put(draw, rng, int(rng.integers(0, 4)), (_window, _frame, _shelf, _curtain), (-10, 60))
    horizon = int(rng.uniform(0.5, 0.85) * _SMALL)
    _floor(draw, horizon, rng)
    _put(draw, rng, int(rng.integers(1, 5)), (_table, _plant, _cushion, _ball, _chest, _vase), (30, 100))
    return image


def _tabletop(rng: np.random.Generator) -> Image.Image:
    image = _lit(_tone(rng, (0.05, 0.6), (0.25, 0.9)), rng)
    draw = ImageDraw.Draw(image)
    _put(draw, rng, int(rng.integers(2, 6)), (_frame, _vase, _ball, _plant, _shelf, _chest), (-10, 45))
    edge = int(rng.uniform(0.3, 0.6) * _SMALL)
    top = _tone(rng, (0.25, 0.65), (0.3, 0.85), 0.08) if rng.random() < 0.6 else _any_colour(rng)
    draw.rectangle((0, edge, _SMALL, _SMALL), fill=top)
    for _ in range(12):
        y, x, w = rng.integers(edge, _SMALL), rng.integers(-20, 100), rng.integers(20, 90)
        draw.line(
            (int(x), int(y), int(x + w), int(y + rng.integers(-2, 3))),
            fill=shade(top, rng.uniform(0.8, 1.12)),
        )
    _put(draw, rng, int(rng.integers(0, 3)), (_ball, _vase, _cushion), (60, 110))
    return image


def _outdoors(rng: np.random.Generator) -> Image.Image:
    image = _lit(_tone(rng, (0.1, 0.5), (0.7, 1.0), float(rng.choice([0.58, 0.08]))), rng)
    draw = ImageDraw.Draw(image)
    for layer in range(3):
        y = 40 + layer * 14 + int(rng.integers(-8, 9))
        hill = _tone(rng, (0.2, 0.6), (0.3, 0.75), 0.3)
        for _ in range(3):
            x, r = int(rng.integers(-20, 140)), int(rng.integers(18, 50))
            draw.ellipse((x - r, y - r // 3, x + r, y + r), fill=hill)
    ground = _tone(rng, (0.05, 0.55), (0.35, 0.85), float(rng.choice([0.09, 0.28])))
    horizon = int(rng.integers(62, 92))
    draw.rectangle((0, horizon, _SMALL, _SMALL), fill=ground)
    for _ in range(30):
        x, y = int(rng.integers(0, _SMALL)), int(rng.integers(horizon, _SMALL))
        draw.ellipse((x, y, x + 5, y + 2), fill=shade(ground, rng.uniform(0.75, 1.2)))
    _put(draw, rng, int(rng.integers(1, 5)), (_ball, _plant, _table, _chest), (30, 100))
    return image


def _studio(rng: np.random.Generator) -> Image.Image:
    image = _lit(_tone(rng, (0.0, 0.75), (0.5, 1.0)), rng)
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(1, 4))):
        colour = _any_colour(rng)
        x, y, r = (float(value) for value in rng.uniform((-10, -10, 10), (130, 130, 40)))
        draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    return image.filter(ImageFilter.BoxBlur(2))


def _put(
    draw: Draw,
    rng: np.random.Generator,
    count: int,
    things: tuple[Callable[..., None], ...],
    heights: tuple[int, int],
) -> None:
    for _ in range(count):
        x, y, size = rng.uniform(-15, 115), rng.uniform(*heights), rng.uniform(12, 44)
        things[int(rng.integers(len(things)))](draw, float(x), float(y), float(size), _any_colour(rng), rng)


def _floor(draw: Draw, horizon: int, rng: np.random.Generator) -> None:
    wooden = rng.random() < 0.6
    floor = _tone(rng, (0.25, 0.6), (0.3, 0.85), 0.08) if wooden else _tone(rng, (0.05, 0.7), (0.25, 0.9))
    draw.rectangle((0, horizon, _SMALL, _SMALL), fill=floor)
    if wooden:
        vanishing = float(rng.uniform(30, 98))
        for x in range(-120, 260, 16):
            draw.line(
                (vanishing + (x - vanishing) * 0.35, horizon, x, _SMALL), fill=shade(floor, 0.82), width=1
            )
    else:
        rug = _any_colour(rng)
        draw.ellipse((10, horizon + 8, 118, _SMALL + 30), fill=rug, outline=accent(rug, 0.4), width=3)
    draw.rectangle((0, horizon - 4, _SMALL, horizon), fill=_tone(rng, (0.0, 0.2), (0.6, 0.95)))


def _window(draw: Draw, x: float, y: float, size: float, colour: Colour, rng: np.random.Generator) -> None:
    sky = _tone(rng, (0.1, 0.4), (0.8, 1.0), 0.57)
    draw.rectangle((x, y, x + size, y + size * 1.3), fill=sky, outline=(235, 232, 225), width=3)
    draw.line((x + size / 2, y, x + size / 2, y + size * 1.3), fill=(235, 232, 225), width=2)


def _frame(draw: Draw, x: float, y: float, size: float, colour: Colour, rng: np.random.Generator) -> None:
    draw.rectangle((x, y, x + size, y + size * 0.8), fill=_any_colour(rng), outline=colour, width=3)
    draw.ellipse((x + size * 0.3, y + size * 0.25, x + size * 0.7, y + size * 0.6), fill=_any_colour(rng))


def _shelf(draw: Draw, x: float, y: float, size: float, colour: Colour, rng: np.random.Generator) -> None:
    width = size * 1.6
    for row in range(int(rng.integers(1, 4))):
        base = y + row * 20
        left = x + 2
        while left < x + width - 4:
            book, high = float(rng.uniform(2, 6)), float(rng.uniform(8, 15))
            draw.rectangle((left, base - high, left + book, base), fill=_any_colour(rng))
            left += book + 0.6
        draw.rectangle((x, base, x + width, base + 2), fill=shade(colour, 0.6))


def _curtain(draw: Draw, x: float, y: float, size: float, colour: Colour, rng: np.random.Generator) -> None:
    for fold in range(5):
        left = x + fold * size / 5
        draw.rectangle((left, 0, left + size / 5, 100), fill=shade(colour, 0.75 + 0.12 * (fold % 3)))


def _table(draw: Draw, x: float, y: float, size: float, colour: Colour, rng: np.random.Generator) -> None:
    for leg in (x + 3, x + size * 1.5 - 6):
        draw.rectangle((leg, y, leg + 3, y + size * 1.4), fill=shade(colour, 0.7))
    draw.rectangle((x, y, x + size * 1.5, y + 5), fill=colour)


def _plant(draw: Draw, x: float, y: float, size: float, colour: Colour, rng: np.random.Generator) -> None:
    for _ in range(7):
        angle = rng.uniform(-2.6, -0.5)
        tip = (x + size * 0.8 * float(np.cos(angle)), y + size * 0.8 * float(np.sin(angle)))
        draw.line((x, y, *tip), fill=_tone(rng, (0.4, 0.8), (0.25, 0.7), 0.33), width=4)
    w = size * 0.25
    draw.polygon(
        [(x - w, y), (x + w, y), (x + w * 0.7, y + w * 1.8), (x - w * 0.7, y + w * 1.8)], fill=colour
    )


def _cushion(draw: Draw, x: float, y: float, size: float, colour: Colour, rng: np.random.Generator) -> None:
    draw.rounded_rectangle(
        (x, y, x + size * 1.5, y + size * 0.8), size * 0.25, fill=colour, outline=shade(colour, 0.75)
    )


def _ball(draw: Draw, x: float, y: float, size: float, colour: Colour, rng: np.random.Generator) -> None:
    r = size * 0.35
    draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    draw.ellipse((x - r * 0.6, y - r * 0.7, x + r * 0.1, y - r * 0.1), fill=shade(colour, 1.25))


def _chest(draw: Draw, x: float, y: float, size: float, colour: Colour, rng: np.random.Generator) -> None:
    draw.rectangle((x, y, x + size * 1.1, y + size), fill=colour, outline=shade(colour, 0.7))
    for row in (0.33, 0.66):
        draw.line((x, y + size * row, x + size * 1.1, y + size * row), fill=shade(colour, 0.7))


def _vase(draw: Draw, x: float, y: float, size: float, colour: Colour, rng: np.random.Generator) -> None:
    w = size * 0.25
    draw.rectangle((x - w * 0.4, y - w * 1.8, x + w * 0.4, y), fill=shade(colour, 0.85))
    draw.ellipse((x - w, y - w, x + w, y + w * 1.4), fill=colour)


_PLACES = (_room, _tabletop, _outdoors, _studio)
_PLACE_SHARES = (0.55, 0.2, 0.15, 0.1)


def photograph(pen: Pen, standing: bool, rng: np.random.Generator) -> bytes:
    """Put the drawn object into a place and take the photo; returns a JPEG of SIDE x SIDE pixels.

    standing: it stands on a floor, its shadow under it; otherwise it lies or hangs flat, its shadow beside.
    """
    layer = pen.layer.reduce(2)
    cover = layer.getchannel("X")
    scene = draw_place(rng)
    scene.paste((10, 10, 14), mask=_shadow(cover, pen, standing, rng))
    scene.paste(ImageChops.multiply(layer.convert("RGB"), _relief(cover, rng)), mask=cover)
    return _develop(scene, rng)


def _shadow(cover: Image.Image, pen: Pen, standing: bool, rng: np.random.Generator) -> Image.Image:
    """Return the shadow of an object that covers `cover` (L): L, 0 where there is none."""
    unit = SIDE / 4 / CANVAS
    depth = float(rng.uniform(0.35, 0.65))
    small = cover.reduce(4)
    x, reach = float(pen.centre[0]) * unit, pen.scale * unit
    if standing:
        low = (cover.getbbox() or (0, 0, SIDE, SIDE))[3] / 4
        slide = rng.uniform(-0.2, 0.2) * reach
        flat = reach * rng.uniform(0.1, 0.2)
        small = Image.new("L", small.size)
        left, right = x + slide - reach * 0.85, x + slide + reach * 0.85
        ImageDraw.Draw(small).ellipse((left, low - flat, right, low + flat * 0.7), fill=255)
    else:
        dx, dy = rng.uniform(-0.16, 0.16) * reach, rng.uniform(0.04, 0.16) * reach
        small = small.transform(small.size, Image.Transform.AFFINE, (1, 0, -dx, 0, 1, -dy))
    small = small.filter(ImageFilter.GaussianBlur(1.5)).point([int(value * depth) for value in range(256)])
    return small.resize((SIDE, SIDE), Image.Resampling.BILINEAR)


def _relief(cover: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return light on the object, RGB from dark to 255: it bulges, and one side is lit."""
    bulge = np.asarray(cover.reduce(4).filter(ImageFilter.BoxBlur(4)), np.float32)
    dx, dy = int(rng.choice([-3, -2, 2, 3])), int(rng.integers(1, 4))
    slope = np.roll(bulge, (dy, dx), (0, 1)) - np.roll(bulge, (-dy, -dx), (0, 1))
    light = 210 + 0.12 * bulge - rng.uniform(0.25, 0.6) * slope
    small = Image.fromarray(np.clip(light, 0, 255).astype(np.uint8))
    grey = small.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return Image.merge("RGB", (grey, grey, grey))


@functools.cache
def _noise() -> Floats:
    """Return sensor noise of deviation 1, float32[_NOISE, _NOISE, 3], a bit coarser than the pixels."""
    fine = np.random.default_rng(0).normal(0, 1.2, (_NOISE, _NOISE, 3)).astype(np.float32)
    mixed: Floats = fine * 0.8 + np.roll(fine, 1, 0) * 0.4 + np.roll(fine, 1, 1) * 0.4
    return mixed


@functools.cache
def _distance() -> Floats:
    """Return squared distances from the photo's centre, float32[SIDE, SIDE, 3]: 2 in the corners."""
    square = np.linspace(-1, 1, SIDE, dtype=np.float32) ** 2
    return np.repeat((square[:, None] + square)[..., None], 3, axis=2)


def _develop(scene: Image.Image, rng: np.random.Generator) -> bytes:
    """Expose a scene with a colour cast, dark corners and noise; returns a JPEG."""
    gains = rng.uniform(0.87, 1.13) * rng.uniform(0.96, 1.04, 3)
    exposed = scene.point([min(255, int(value * gain)) for gain in gains.tolist() for value in range(256)])
    pixels = np.asarray(exposed) * (1 - np.float32(rng.uniform(0, 0.14)) * _distance())
    x, y = rng.integers(0, _NOISE - SIDE, 2)
    pixels += _noise()[y : y + SIDE, x : x + SIDE] * np.float32(rng.uniform(1.5, 5))
    stream = io.BytesIO()
    photo = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    photo.save(stream, "JPEG", quality=int(rng.integers(84, 93)))
    return stream.getvalue()
