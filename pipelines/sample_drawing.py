"""Drawn product photos: a scene of random clutter, one object in it, and what a camera adds.

Everything is drawn in a square of 448 pixels and halved, so edges are smooth. Shapes of objects live in
`sample_shapes`; here are the pen they are drawn with, the cloth patterns, the backgrounds and the JPEG.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageChops, ImageDraw

Colour = tuple[int, int, int]
Points = Sequence[tuple[float, float]]

SIDE = 224
CANVAS = 2 * SIDE
_BACKGROUND = 112  # drawn small and enlarged: out of focus, as behind a real product
_NOISE = 320


def shade(colour: Colour, factor: float) -> Colour:
    """Darken (factor below 1) or lighten towards white (above 1) a colour."""
    if factor <= 1:
        return (int(colour[0] * factor), int(colour[1] * factor), int(colour[2] * factor))
    weight = min(factor - 1, 1.0)
    red, green, blue = (int(value + (255 - value) * weight) for value in colour)
    return (red, green, blue)


def accent(colour: Colour, strength: float) -> Colour:
    """Give a tone of the same hue that stands out from `colour`: lighter for dark ones, darker for light ones."""
    return shade(colour, 1 + strength) if sum(colour) < 330 else shade(colour, 1 - strength)


def mirror(right: Points) -> list[tuple[float, float]]:
    """Close the right half of an outline, top to bottom, with its mirror image."""
    return [*right, *((-x, y) for x, y in reversed(right))]


def oval(x: float, y: float, rx: float, ry: float, start: float = 0, stop: float = 360) -> list[tuple[float, float]]:
    """Give the points of an arc in degrees: 0 is right, 90 is down."""
    steps = max(6, int(abs(stop - start) / 12))
    angles = [math.radians(start + (stop - start) * step / steps) for step in range(steps + 1)]
    return [(x + rx * math.cos(angle), y + ry * math.sin(angle)) for angle in angles]


def box(left: float, top: float, right: float, bottom: float, radius: float = 0.0) -> list[tuple[float, float]]:
    """Give the outline of a rectangle with round corners."""
    if not radius:
        return [(left, top), (right, top), (right, bottom), (left, bottom)]
    corners = ((right, top, -90), (right, bottom, 0), (left, bottom, 90), (left, top, 180))
    points: list[tuple[float, float]] = []
    for x, y, start in corners:
        centre = (x - radius if x == right else x + radius, y + radius if y == top else y - radius)
        points += oval(*centre, radius, radius, start, start + 90)
    return points


def smooth(points: Points, steps: int = 5) -> list[tuple[float, float]]:
    """Round a closed outline by a Catmull-Rom spline through its points."""
    knots = np.asarray(points, np.float64)
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    before, after, later = np.roll(knots, 1, 0)[:, None], np.roll(knots, -1, 0)[:, None], np.roll(knots, -2, 0)[:, None]
    here = knots[:, None]
    curve = 0.5 * (
        2 * here
        + (after - before) * t
        + (2 * before - 5 * here + 4 * after - later) * t**2
        + (3 * here - before - 3 * after + later) * t**3
    )
    return [(float(x), float(y)) for x, y in curve.reshape(-1, 2)]


class Pen:
    """Draws in an object's own square, x and y in [-1, 1] with y down, moved, scaled, turned onto the canvas."""

    def __init__(self, image: Image.Image, colour: Colour, pattern: str, rng: np.random.Generator) -> None:
        self.image, self.colour, self.rng = image, colour, rng
        self.draw = ImageDraw.Draw(image)
        self.scale = CANVAS * rng.uniform(0.26, 0.43)
        room = CANVAS / 2 - self.scale * 0.95
        self.centre = CANVAS / 2 + rng.uniform(-1, 1, 2) * room
        angle = math.radians(rng.normal(0, 7))
        self._cos, self._sin = math.cos(angle), math.sin(angle)
        self._flip = -1.0 if rng.random() < 0.5 else 1.0
        self._stretch = rng.uniform(0.9, 1.1)
        self.cloth = draw_cloth(colour, pattern, self.scale, rng)
        self.outline = shade(colour, 0.55) if sum(colour) > 150 else shade(colour, 1.3)

    def place(self, points: Points) -> list[tuple[float, float]]:
        """Map an object's points to canvas pixels."""
        mapped = []
        for x, y in points:
            x, y = x * self._flip * self._stretch * self.scale, y * self.scale
            mapped.append(
                (self.centre[0] + x * self._cos - y * self._sin, self.centre[1] + x * self._sin + y * self._cos)
            )
        return mapped

    def fabric(self, points: Points, tone: float = 1.0) -> None:
        """Fill an outline with the product's colour and pattern (`tone`: darker below 1), and edge it."""
        placed = self.place(points)
        xs, ys = [x for x, _ in placed], [y for _, y in placed]
        left, top = max(0, int(min(xs))), max(0, int(min(ys)))
        right, bottom = min(CANVAS, int(max(xs)) + 2), min(CANVAS, int(max(ys)) + 2)
        if right > left and bottom > top:
            mask = Image.new("L", (right - left, bottom - top))
            ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in placed], fill=255)
            piece = self.cloth.crop((left, top, right, bottom))
            if tone != 1.0:
                piece = piece.point([min(255, int(value * tone)) for value in range(256)] * 3)
            self.image.paste(piece, (left, top), mask)
        self.draw.line([*placed, placed[0]], fill=self.outline, width=3, joint="curve")

    def fill(self, points: Points, colour: Colour) -> None:
        """Fill an outline with one colour."""
        self.draw.polygon(self.place(points), fill=colour)

    def stroke(self, points: Points, width: float, colour: Colour | None = None) -> None:
        """Draw a line, `width` in the object's units, in the outline's colour unless told."""
        pixels = max(2, int(width * self.scale))
        placed = self.place(points)
        self.draw.line(placed, fill=colour or self.outline, width=pixels, joint="curve")
        if pixels > 6:
            for x, y in (placed[0], placed[-1]):
                radius = pixels / 2 - 1
                self.draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour or self.outline)


def draw_cloth(colour: Colour, pattern: str, scale: float, rng: np.random.Generator) -> Image.Image:
    """Draw a canvas of cloth: plain, striped, dotted or checked in tones of one colour, lit from one side."""
    cloth = Image.new("RGB", (CANVAS, CANVAS), colour)
    draw = ImageDraw.Draw(cloth)
    second = accent(colour, rng.uniform(0.4, 0.65))
    pitch = max(12, int(scale * rng.uniform(0.17, 0.26)))
    width = max(3, int(pitch * rng.uniform(0.22, 0.36)))
    upright = rng.random() < 0.3
    if pattern in ("striped", "checked"):
        for start in range(int(rng.integers(pitch)), CANVAS, pitch):
            if upright or pattern == "checked":
                draw.rectangle((start, 0, start + width, CANVAS), fill=second)
            if not upright or pattern == "checked":
                draw.rectangle((0, start, CANVAS, start + width), fill=second)
    elif pattern == "dotted":
        radius = width * 0.7
        for row, y in enumerate(range(0, CANVAS, pitch)):
            for x in range(row % 2 * (pitch // 2), CANVAS, pitch):
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=second)
    light = rng.integers(190, 256, (3, 3)).astype(np.uint8)
    shading = Image.fromarray(light).resize((CANVAS, CANVAS), Image.Resampling.BILINEAR)
    return ImageChops.multiply(cloth, Image.merge("RGB", (shading, shading, shading)))


def draw_background(rng: np.random.Generator) -> Image.Image:
    """Draw a blurred room: a gradient wall, perhaps a floor, furniture and things of other colours."""
    base = rng.integers(60, 245, 3)
    corners = np.clip(base + rng.integers(-60, 61, (3, 3, 3)), 0, 255).astype(np.uint8)
    image = Image.fromarray(corners).resize((_BACKGROUND, _BACKGROUND), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    if rng.random() < 0.5:
        draw.rectangle((0, int(rng.integers(50, 95)), _BACKGROUND, _BACKGROUND), fill=_any_colour(rng))
    for _ in range(int(rng.integers(1, 6))):
        x, y = (float(value) for value in rng.uniform(-15, 105, 2))
        w, h = (float(value) for value in rng.uniform(8, 42, 2))
        colour = _any_colour(rng)
        kind = rng.integers(5)
        if kind == 0:  # a table
            draw.rectangle((x, y, x + w * 1.6, y + 5), fill=colour)
            for leg in (x + 2, x + w * 1.6 - 5):
                draw.rectangle((leg, y, leg + 3, y + h * 1.5), fill=colour)
        elif kind == 1:  # a window or a picture frame
            draw.rectangle((x, y, x + w, y + h), fill=colour, outline=_any_colour(rng), width=3)
            draw.line((x + w / 2, y, x + w / 2, y + h), fill=_any_colour(rng), width=2)
        elif kind == 2:  # shelves
            for step in range(3):
                draw.rectangle((x, y + step * 14, x + w * 1.8, y + step * 14 + 3), fill=colour)
        elif kind == 3:
            draw.ellipse((x, y, x + w, y + h), fill=colour)
        else:
            draw.polygon([tuple(p) for p in (rng.uniform(-0.7, 0.7, (4, 2)) * (w, h) + (x, y)).tolist()], fill=colour)
    return image.resize((CANVAS, CANVAS), Image.Resampling.BILINEAR)


def _any_colour(rng: np.random.Generator) -> Colour:
    red, green, blue = (int(value) for value in rng.integers(20, 245, 3))
    return (red, green, blue)


def draw_shadow(image: Image.Image, pen: Pen) -> None:
    """Lay a soft dark ellipse under the object."""
    small = Image.new("L", (56, 56))
    unit = 56 / CANVAS
    x, y = pen.centre * unit
    reach = pen.scale * unit
    offset = pen.rng.uniform(-0.25, 0.25) * reach
    ImageDraw.Draw(small).ellipse(
        (x - reach + offset, y + reach * 0.6, x + reach + offset, y + reach * 1.15), fill=int(pen.rng.integers(60, 150))
    )
    mask = small.resize((CANVAS, CANVAS), Image.Resampling.BILINEAR)
    image.paste((15, 15, 20), (0, 0), mask)


@functools.cache
def _noise() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, (_NOISE, _NOISE, 3)).astype(np.float32)


def photograph(image: Image.Image, rng: np.random.Generator) -> bytes:
    """Halve the canvas and take the photo: brightness, a colour cast, sensor noise; returns JPEG bytes."""
    gains = rng.uniform(0.82, 1.12) * rng.uniform(0.94, 1.06, 3)
    pixels = np.asarray(image.reduce(2), np.float32) * gains.astype(np.float32)
    x, y = rng.integers(0, _NOISE - SIDE, 2)
    pixels += _noise()[y : y + SIDE, x : x + SIDE] * np.float32(rng.uniform(2, 6))
    stream = io.BytesIO()
    photo = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    photo.save(stream, "JPEG", quality=int(rng.integers(82, 91)))
    return stream.getvalue()
