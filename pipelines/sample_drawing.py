"""The pen that draws a sample product: outlines, cloth with its patterns, and lines on a transparent layer.

Objects are drawn on a layer twice as wide as the photo and halved, so edges are smooth. `sample_worn` and
`sample_shapes` hold the silhouettes, `sample_photo` the room around them and the camera.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Points = Sequence[tuple[float, float]]

SIDE = 224
CANVAS = 2 * SIDE
CREAM: Colour = (238, 230, 212)
GOLD: Colour = (205, 170, 90)
STEEL: Colour = (185, 190, 198)
WHITE: Colour = (240, 240, 236)
DARK: Colour = (45, 42, 42)
WOOD: Colour = (120, 82, 50)


def shade(colour: Colour, factor: float) -> Colour:
    """Darken (factor below 1) or lighten towards white (above 1) a colour."""
    if factor <= 1:
        return (int(colour[0] * factor), int(colour[1] * factor), int(colour[2] * factor))
    weight = min(factor - 1, 1.0)
    red, green, blue = (int(value + (255 - value) * weight) for value in colour)
    return (red, green, blue)


def accent(colour: Colour, strength: float) -> Colour:
    """Give a tone of the same hue that stands out: lighter for a dark colour, darker for a light one."""
    return shade(colour, 1 + strength) if sum(colour) < 330 else shade(colour, 1 - strength)


def mirror(right: Points) -> list[tuple[float, float]]:
    """Close the right half of an outline, top to bottom, with its mirror image."""
    return [*right, *((-x, y) for x, y in reversed(right))]


def oval(
    x: float, y: float, rx: float, ry: float, start: float = 0, stop: float = 360
) -> list[tuple[float, float]]:
    """Give the points of an arc in degrees: 0 is right, 90 is down."""
    steps = max(6, int(abs(stop - start) / 10))
    angles = [math.radians(start + (stop - start) * step / steps) for step in range(steps + 1)]
    return [(x + rx * math.cos(angle), y + ry * math.sin(angle)) for angle in angles]


def box(
    left: float, top: float, right: float, bottom: float, radius: float = 0.0
) -> list[tuple[float, float]]:
    """Give the outline of a rectangle, with round corners if told."""
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
    before, after, later = (np.roll(knots, shift, 0)[:, None] for shift in (1, -1, -2))
    here = knots[:, None]
    linear, square = after - before, 2 * before - 5 * here + 4 * after - later
    curve = 0.5 * (2 * here + linear * t + square * t**2 + (3 * here - before - 3 * after + later) * t**3)
    return [(float(x), float(y)) for x, y in curve.reshape(-1, 2)]


def metal_of(pen: Pen) -> Colour:
    """Choose gold or steel."""
    return GOLD if pen.rng.random() < 0.5 else STEEL


class Pen:
    """Draws in an object's own square, x and y in [-1, 1] with y down, placed, scaled and turned on a layer.

    Attributes:
        layer: picture of CANVAS pixels a side, its fourth band 255 where the object is and 0 elsewhere.
        colour: the product's colour; outline: the tone its edges are drawn in.
        centre, scale: where the object's square lies on the layer, in pixels.
        rng: for whatever varies between products of a type.
    """

    def __init__(self, colour: Colour, pattern: str, rng: np.random.Generator) -> None:
        self.colour, self.rng = colour, rng
        self.outline = shade(colour, 0.55) if sum(colour) > 150 else shade(colour, 1.3)
        # Halving mixes the edge with its surroundings, transparent or not, so these have the edge's colour.
        # RGBX, not RGBA, which Pillow would multiply out at every step: slow, and not needed with such edges.
        self.layer = Image.new("RGBX", (CANVAS, CANVAS), (*self.outline, 0))
        self.draw = ImageDraw.Draw(self.layer)
        self.scale = CANVAS * rng.uniform(0.27, 0.43)
        room = max(CANVAS / 2 - self.scale * 1.04, 0.0)
        self.centre = CANVAS / 2 + rng.uniform(-1, 1, 2) * room
        angle = math.radians(float(np.clip(rng.normal(0, 4.5), -11, 11)))
        self._cos, self._sin = math.cos(angle), math.sin(angle)
        self._flip = -1.0 if rng.random() < 0.5 else 1.0
        self._stretch = rng.uniform(0.9, 1.08)
        self.cloth = draw_cloth(colour, pattern, self.scale, rng).convert("RGBX")

    def place(self, points: Points) -> list[tuple[float, float]]:
        """Map an object's points to pixels of the layer."""
        wide, high = self._flip * self._stretch * self.scale, self.scale
        cx, cy, cos, sin = float(self.centre[0]), float(self.centre[1]), self._cos, self._sin
        scaled = ((x * wide, y * high) for x, y in points)
        return [(cx + x * cos - y * sin, cy + x * sin + y * cos) for x, y in scaled]

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
                piece = piece.point([*[int(value * tone) for value in range(256)] * 3, *range(256)])
            self.layer.paste(piece, (left, top), mask)
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
                self.draw.ellipse(
                    (x - radius, y - radius, x + radius, y + radius), fill=colour or self.outline
                )


def draw_cloth(colour: Colour, pattern: str, scale: float, rng: np.random.Generator) -> Image.Image:
    """Draw a canvas of cloth: plain, striped, dotted, checked or floral.

    The pattern is a tone of the colour, or cream, and covers less than half of it.
    """
    cloth = Image.new("RGB", (CANVAS, CANVAS), colour)
    if pattern == "plain":
        return cloth
    tone = accent(colour, rng.uniform(0.4, 0.65))
    second = CREAM if rng.random() < 0.3 and sum(colour) < 450 else tone
    pitch = max(12, int(scale * rng.uniform(0.17, 0.27)))
    if pattern in ("dotted", "floral"):
        tile = (
            _dots(colour, second, pitch, rng)
            if pattern == "dotted"
            else _flowers(colour, second, pitch * 2, rng)
        )
        for x in range(0, CANVAS, tile.width):
            for y in range(0, CANVAS, tile.height):
                cloth.paste(tile, (x, y))
        return cloth
    draw = ImageDraw.Draw(cloth)
    width = max(3, int(pitch * rng.uniform(0.22, 0.36)))
    upright = rng.random() < 0.3
    lines = range(int(rng.integers(pitch)), CANVAS, pitch)
    if pattern == "striped":
        for start in lines:
            draw.rectangle(
                (start, 0, start + width, CANVAS) if upright else (0, start, CANVAS, start + width),
                fill=second,
            )
        return cloth
    for start in lines:
        draw.rectangle((start, 0, start + width, CANVAS), fill=second)
        draw.rectangle((0, start, CANVAS, start + width), fill=second)
    crossing = shade(second, 0.8)
    for x in lines:
        for y in lines:
            draw.rectangle((x, y, x + width, y + width), fill=crossing)
    return cloth


def _dots(colour: Colour, second: Colour, pitch: int, rng: np.random.Generator) -> Image.Image:
    tile = Image.new("RGB", (pitch * 2, pitch * 2), colour)
    draw = ImageDraw.Draw(tile)
    radius = pitch * rng.uniform(0.2, 0.32)
    for x, y in ((0.5, 0.5), (1.5, 1.5)):
        draw.ellipse(
            (x * pitch - radius, y * pitch - radius, x * pitch + radius, y * pitch + radius), fill=second
        )
    return tile


def _flowers(colour: Colour, second: Colour, pitch: int, rng: np.random.Generator) -> Image.Image:
    tile = Image.new("RGB", (pitch * 2, pitch * 2), colour)
    draw = ImageDraw.Draw(tile)
    heart = (235, 190, 70) if colour[2] < 200 else accent(second, 0.5)
    for x, y, size in ((0.5, 0.5, 0.4), (1.5, 1.5, 0.4), (1.5, 0.45, 0.22), (0.5, 1.5, 0.26)):
        turn = rng.uniform(0, 72)
        petal = size * pitch * 0.42
        for step in range(5):
            angle = math.radians(turn + step * 72)
            px, py = x * pitch + petal * 1.1 * math.cos(angle), y * pitch + petal * 1.1 * math.sin(angle)
            draw.ellipse(
                (px - petal * 0.85, py - petal * 0.85, px + petal * 0.85, py + petal * 0.85), fill=second
            )
        draw.ellipse(
            (
                x * pitch - petal * 0.5,
                y * pitch - petal * 0.5,
                x * pitch + petal * 0.5,
                y * pitch + petal * 0.5,
            ),
            fill=heart,
        )
    leaf = accent(colour, 0.25)
    for x, y in ((1.0, 0.9), (0.05, 1.0), (1.0, 1.85)):
        draw.line(
            (x * pitch, y * pitch, (x + 0.2) * pitch, (y - 0.16) * pitch),
            fill=leaf,
            width=max(3, pitch // 10),
        )
    return tile
