"""The silhouettes of the drawn products, one function a type, each in its own square of [-1, 1]."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from pipelines.sample_drawing import (
    CANVAS,
    Colour,
    Pen,
    accent,
    box,
    draw_background,
    draw_shadow,
    mirror,
    oval,
    photograph,
    shade,
    smooth,
)

_GOLD: Colour = (205, 170, 90)
_STEEL: Colour = (185, 190, 198)
_WHITE: Colour = (240, 240, 236)
_DARK: Colour = (45, 42, 42)
_WOOD: Colour = (120, 82, 50)


def _metal(pen: Pen) -> Colour:
    return _GOLD if pen.rng.random() < 0.5 else _STEEL


def _t_shirt(pen: Pen) -> None:
    sleeve, waist, neck = pen.rng.uniform(-0.06, 0.12), pen.rng.uniform(0.5, 0.58), pen.rng.uniform(0.2, 0.27)
    right = [(0, -0.66), (neck * 0.7, -0.7), (neck, -0.84), (0.55, -0.72), (0.98, -0.2 + sleeve), (0.74, -0.02 + sleeve)]
    pen.fill(oval(0, -0.82, neck, 0.1), shade(pen.colour, 0.5))
    pen.fabric(mirror([*right, (0.53, -0.25), (waist, 0.88)]))
    pen.stroke(oval(0, -0.84, neck, 0.2, 0, 180), 0.06)
    for side in (-1, 1):
        pen.stroke([(side * 0.53, -0.25), (side * 0.57, -0.68)], 0.015)
        pen.stroke([(side * 0.93, -0.24 + sleeve), (side * 0.69, -0.07 + sleeve)], 0.015)
    pen.stroke([(-waist + 0.01, 0.8), (waist - 0.01, 0.8)], 0.015)


def _dress(pen: Pen) -> None:
    hem, waist, length = pen.rng.uniform(0.62, 0.9), pen.rng.uniform(0.2, 0.26), pen.rng.uniform(0.8, 0.98)
    top = [(0, -0.66), (0.14, -0.72), (0.17, -0.97), (0.26, -0.97), (0.3, -0.62), (0.33, -0.55)]
    pen.fabric(mirror([*top, (waist, -0.18), (hem, length - 0.05), (hem * 0.5, length)]))
    pen.stroke([(-waist, -0.18), (waist, -0.18)], 0.09, accent(pen.colour, 0.5))
    for fold in (-0.55, -0.2, 0.2, 0.55):
        pen.stroke([(fold * waist, -0.1), (fold * hem, length - 0.06)], 0.018)


def _trousers(pen: Pen) -> None:
    cuff, spread = pen.rng.uniform(0.2, 0.34), pen.rng.uniform(0.26, 0.38)
    leg = [(0.36, -0.97), (0.45, -0.55), (spread + cuff / 2, 0.97), (spread - cuff / 2, 0.97), (0.02, -0.28)]
    pen.fabric(mirror(leg))
    pen.fabric(box(-0.37, -0.98, 0.37, -0.86), 0.8)
    pen.stroke([(0, -0.86), (0, -0.3)], 0.02)
    for side in (-1, 1):
        pen.stroke([(side * 0.22, -0.84), (side * 0.39, -0.62)], 0.025)
        pen.stroke([(side * 0.26, -0.5), (side * spread, 0.95)], 0.015)
        pen.stroke([(side * 0.18, -0.98), (side * 0.18, -0.84)], 0.03)
    pen.fill(oval(0, -0.92, 0.03, 0.03), _metal(pen))


def _sneaker(pen: Pen) -> None:
    collar, sole = pen.rng.uniform(-0.5, -0.36), pen.rng.uniform(0.14, 0.2)
    pale = _WHITE if pen.rng.random() < 0.8 else _GOLD
    pen.fill(oval(-0.5, collar + 0.02, 0.3, 0.1), shade(pen.colour, 0.4))
    upper = [(-0.86, collar), (-0.8, collar + 0.08), (-0.5, collar + 0.14), (-0.22, collar - 0.04), (0.02, -0.22)]
    pen.fabric(smooth([*upper, (0.38, 0.0), (0.78, 0.08), (0.97, 0.3), (0.9, 0.42), (-0.9, 0.42), (-0.94, 0.1)]))
    pen.fill(smooth([(0.56, 0.05), (0.8, 0.1), (0.97, 0.3), (0.94, 0.42), (0.56, 0.42)]), shade(pale, 0.95))
    lower = [(-0.98, 0.36), (0, 0.4), (1.0, 0.34), (0.99, 0.42 + sole), (0, 0.43 + sole), (-0.95, 0.42 + sole)]
    pen.fill(lower, pale)
    pen.stroke([(-0.95, 0.39 + sole), (0.98, 0.39 + sole)], 0.05, shade(pale, 0.55))
    pen.stroke([(-0.96, 0.36), (0.98, 0.36)], 0.015, shade(pale, 0.5))
    pen.fill([(-0.92, -0.2), (-0.72, -0.2), (-0.68, 0.34), (-0.96, 0.34)], shade(pen.colour, 0.75))
    for step in range(5):
        x, y = -0.2 + step * 0.13, -0.33 + step * 0.08
        pen.stroke([(x - 0.1, y + 0.14), (x + 0.06, y - 0.03)], 0.04, _WHITE if sum(pen.colour) < 600 else _DARK)
    if pen.rng.random() < 0.6:
        for step in range(int(pen.rng.integers(1, 4))):
            pen.stroke([(-0.42 + step * 0.14, 0.32), (-0.22 + step * 0.14, -0.08)], 0.055, accent(pen.colour, 0.7))
    else:
        pen.stroke([(-0.6, 0.05), (-0.3, 0.22), (0.25, -0.02)], 0.08, accent(pen.colour, 0.7))


def _boot(pen: Pen) -> None:
    top, heel, width = pen.rng.uniform(-0.97, -0.7), pen.rng.uniform(0.12, 0.26), pen.rng.uniform(0.1, 0.18)
    pen.fill(oval((width - 0.55) / 2, top, (width + 0.55) / 2, 0.07), shade(pen.colour, 0.4))
    leg = [(-0.55, top), (width, top), (width - 0.04, 0.0), (width + 0.08, 0.2), (0.5, 0.33), (0.82, 0.48), (0.88, 0.7)]
    pen.fabric([*leg, (-0.5, 0.7), (-0.54, 0.4), (-0.48, 0.1)])
    sole = _DARK if sum(pen.colour) > 200 else (150, 120, 85)
    pen.fill([(-0.53, 0.68), (0.9, 0.68), (0.88, 0.78), (-0.05, 0.78), (-0.1, 0.7 + heel), (-0.5, 0.7 + heel)], sole)
    if pen.rng.random() < 0.5:
        for step in range(6):
            y = top + 0.14 + step * (0.05 - top) / 7
            pen.stroke([(width - 0.26, y), (width - 0.03, y + 0.03)], 0.035, accent(pen.colour, 0.75))
    else:
        pen.fill([(-0.3, top + 0.15), (0, top + 0.15), (-0.02, 0.05), (-0.28, 0.05)], shade(pen.colour, 0.55))
    pen.stroke([(-0.5, 0.42), (-0.1, 0.36), (0.12, 0.22)], 0.02)
    pen.stroke([(0.42, 0.32), (0.46, 0.5), (0.4, 0.68)], 0.02)


def _handbag(pen: Pen) -> None:
    top, flare, reach = pen.rng.uniform(-0.25, -0.08), pen.rng.uniform(0.06, 0.22), pen.rng.uniform(0.6, 0.8)
    pen.stroke(oval(0, top, 0.42, reach, 180, 360), 0.09, shade(pen.colour, 0.65))
    pen.fabric(smooth([(-0.8, top), (0, top - 0.02), (0.8, top), (0.8 + flare, 0.75), (0.7, 0.86), (0, 0.88), (-0.7, 0.86), (-0.8 - flare, 0.75)]))
    metal = _metal(pen)
    if pen.rng.random() < 0.5:
        pen.fabric(smooth([(-0.8, top), (0, top), (0.8, top), (0.76, top + 0.4), (0, top + 0.56), (-0.76, top + 0.4)]), 0.85)
        pen.fill(box(-0.09, top + 0.44, 0.09, top + 0.62), metal)
    else:
        pen.stroke([(-0.78, top + 0.12), (0.78, top + 0.12)], 0.025)
        pen.stroke([(-0.86, 0.66), (0.86, 0.66)], 0.02)
        pen.stroke([(0, top + 0.12), (0.05, top + 0.3)], 0.03, metal)
    for side in (-0.42, 0.42):
        pen.stroke(oval(side, top + 0.06, 0.06, 0.06), 0.035, metal)


def _backpack(pen: Pen) -> None:
    wide = pen.rng.uniform(0.55, 0.68)
    pen.stroke(oval(0, -0.84, 0.16, 0.14, 180, 360), 0.07, shade(pen.colour, 0.6))
    for side in (-1, 1):
        pen.stroke([(side * 0.4, -0.7), (side * (wide + 0.16), -0.2), (side * (wide + 0.12), 0.6)], 0.1, shade(pen.colour, 0.6))
        pen.fabric(box(side * wide - 0.14, 0.2, side * wide + 0.14, 0.82, 0.08), 0.75)
    body = [(0, -0.9), (0.35, -0.84), (wide, -0.4), (wide + 0.02, 0.4), (wide - 0.06, 0.88), (0, 0.94)]
    pen.fabric(smooth(mirror(body)))
    pen.fabric(box(-wide + 0.1, 0.12, wide - 0.1, 0.84, 0.12), 0.86)
    pen.stroke([(-wide + 0.14, 0.28), (wide - 0.14, 0.28)], 0.04, accent(pen.colour, 0.6))
    pen.stroke(oval(0, -0.12, wide - 0.08, 0.56, 195, 345), 0.035, accent(pen.colour, 0.6))
    pen.fill(box(-0.14, -0.4, 0.14, -0.24), shade(pen.colour, 0.5))
    pen.stroke([(wide - 0.2, 0.28), (wide - 0.2, 0.42)], 0.035, _metal(pen))


def _mug(pen: Pen) -> None:
    tall, taper = pen.rng.uniform(0.65, 0.85), pen.rng.uniform(0, 0.1)
    pen.stroke(oval(0.5, 0.02, 0.36, tall * 0.55, -80, 80), 0.16, pen.outline)
    pen.stroke(oval(0.5, 0.02, 0.36, tall * 0.55, -80, 80), 0.12, shade(pen.colour, 0.85))
    pen.fabric([(-0.75, -tall), *oval(-0.08, tall - 0.05, 0.67 - taper, 0.16, 180, 0), (0.59, -tall)])
    pen.fabric(oval(-0.08, -tall, 0.67, 0.17))
    inside = _WHITE if pen.rng.random() < 0.5 else shade(pen.colour, 0.6)
    pen.fill(oval(-0.08, -tall, 0.6, 0.13), inside)
    pen.fill(oval(-0.08, -tall + 0.05, 0.5, 0.075), (82, 52, 34))
    pen.stroke([(-0.58, -tall + 0.4), (-0.56 + taper, tall - 0.25)], 0.06, shade(pen.colour, 1.45))


def _teapot(pen: Pen) -> None:
    fat = pen.rng.uniform(0.5, 0.6)
    pen.stroke(oval(0.5, 0.15, 0.38, 0.38, -95, 95), 0.14, pen.outline)
    pen.stroke(oval(0.5, 0.15, 0.38, 0.38, -95, 95), 0.1, shade(pen.colour, 0.8))
    pen.fabric(smooth([(-0.4, 0.0), (-0.7, -0.12), (-0.84, -0.42), (-1.0, -0.5), (-0.92, -0.3), (-0.8, 0.2), (-0.42, 0.5)]), 0.9)
    pen.fabric([*oval(0, 0.2, 0.6, fat)])
    pen.fill(box(-0.3, 0.14 + fat, 0.3, 0.26 + fat, 0.04), shade(pen.colour, 0.6))
    pen.fabric(oval(0, 0.24 - fat, 0.36, 0.17, 180, 360), 0.92)
    pen.stroke([(-0.38, 0.24 - fat), (0.38, 0.24 - fat)], 0.05, shade(pen.colour, 0.6))
    pen.fabric(oval(0, 0.0 - fat, 0.09, 0.09), 0.8)
    pen.stroke(oval(0, 0.2, 0.46, fat - 0.14, 190, 240), 0.06, shade(pen.colour, 1.5))


def _table_lamp(pen: Pen) -> None:
    top, wide, stem = pen.rng.uniform(0.26, 0.45), pen.rng.uniform(0.62, 0.78), pen.rng.uniform(0.05, 0.11)
    metal = [_GOLD, _STEEL, _WOOD, _DARK][int(pen.rng.integers(4))]
    pen.fill([(-stem, 0), (stem, 0), (stem, 0.85), (-stem, 0.85)], metal)
    if pen.rng.random() < 0.5:
        pen.fill(oval(0, 0.5, 0.26, 0.32), metal)
    pen.fill(oval(0, 0.88, 0.42, 0.1), metal)
    pen.stroke([(-0.4, 0.9), (0.4, 0.9)], 0.03, shade(metal, 0.6))
    pen.fill(oval(0, 0.06, wide, 0.1), (255, 236, 170))
    pen.fabric([(-top, -0.95), (top, -0.95), *oval(0, 0.04, wide, 0.1, 0, 180)])
    pen.stroke([(-top, -0.93), (top, -0.93)], 0.04)
    pen.stroke([(wide * 0.5, 0.1), (wide * 0.5, 0.32)], 0.015, metal)


def _armchair(pen: Pen) -> None:
    back, round_ = pen.rng.uniform(-0.95, -0.75), pen.rng.uniform(0.08, 0.22)
    leg = _WOOD if pen.rng.random() < 0.6 else _DARK
    for side in (-1, 1):
        pen.fill([(side * 0.78, 0.68), (side * 0.6, 0.68), (side * 0.7, 0.97), (side * 0.78, 0.97)], leg)
    pen.fabric(box(-0.66, back, 0.66, 0.45, round_), 0.92)
    pen.fabric(box(-0.7, 0.32, 0.7, 0.76, 0.05), 0.8)
    pen.fabric(box(-0.62, 0.1, 0.62, 0.42, 0.1))
    for side in (-1, 1):
        pen.fabric(box(side * 0.77 - 0.18, -0.12, side * 0.77 + 0.18, 0.78, 0.16))
    if pen.rng.random() < 0.5:
        for x in (-0.3, 0.0, 0.3):
            pen.fill(oval(x, back + 0.35, 0.035, 0.035), pen.outline)
    else:
        pen.stroke([(0, back + 0.1), (0, 0.08)], 0.018)


def _wrist_watch(pen: Pen) -> None:
    face, strap = pen.rng.uniform(0.42, 0.5), pen.rng.uniform(0.24, 0.31)
    metal = _metal(pen)
    pen.fabric([(-strap, -0.3), (-strap * 0.8, -1), (strap * 0.8, -1), (strap, -0.3)])
    pen.fabric([(-strap, 0.3), (-strap * 0.8, 1), (strap * 0.8, 1), (strap, 0.3)])
    pen.stroke(box(-strap * 0.75, -0.98, strap * 0.75, -0.86), 0.05, metal)
    for step in range(3):
        pen.fill(oval(0, 0.62 + step * 0.12, 0.03, 0.03), _DARK)
    pen.fill(box(face - 0.02, -0.06, face + 0.1, 0.06), metal)
    pen.fill(oval(0, 0, face, face), shade(metal, 0.6))
    pen.fill(oval(0, 0, face - 0.03, face - 0.03), metal)
    dial = shade(pen.colour, 0.9) if pen.rng.random() < 0.5 else _WHITE
    ink = _DARK if sum(dial) > 380 else _WHITE
    pen.fill(oval(0, 0, face - 0.1, face - 0.1), dial)
    for x, y in oval(0, 0, face - 0.16, face - 0.16)[::3]:
        pen.stroke([(x, y), (x * 0.85, y * 0.85)], 0.03, ink)
    hour, minute = pen.rng.uniform(0, 6.28, 2)
    pen.stroke([(0, 0), (0.16 * np.cos(hour), 0.16 * np.sin(hour))], 0.045, ink)
    pen.stroke([(0, 0), (0.27 * np.cos(minute), 0.27 * np.sin(minute))], 0.03, ink)


def _umbrella(pen: Pen) -> None:
    high = pen.rng.uniform(0.75, 0.95)
    pole = [_STEEL, _WOOD, _DARK][int(pen.rng.integers(3))]
    pen.stroke([(0, -0.98), (0, 0.78)], 0.05, pole)
    pen.stroke(oval(0.13, 0.78, 0.13, 0.15, 180, 0), 0.08, _WOOD)
    scallops = [point for x in (0.75, 0.25, -0.25, -0.75) for point in oval(x, 0.05, 0.25, 0.1, 0, -180)]
    pen.fabric([*oval(0, 0.05, 1.0, high, 180, 360), *scallops])
    for x in (-0.5, 0.0, 0.5):
        pen.stroke([(0, 0.05 - high), (x * 0.72, -0.5 * high), (x, 0.05)], 0.02)


def _hat(pen: Pen) -> None:
    high, wide, tilt = pen.rng.uniform(0.55, 0.75), pen.rng.uniform(0.45, 0.56), pen.rng.uniform(0.2, 0.3)
    pen.fabric(oval(0, 0.35, 1.0, tilt), 0.85)
    top = 0.32 - high
    crown = [(-wide, 0.34), (-wide * 0.92, top + 0.12), (-wide * 0.5, top - 0.08), (0, top + 0.02)]
    pen.fabric([*smooth([*crown, *((-x, y) for x, y in reversed(crown[:3])), (0, 0.42)])])
    band = [_DARK, _WHITE, accent(pen.colour, 0.7)][int(pen.rng.integers(3))]
    pen.fill([(-wide * 1.0, 0.16), (0, 0.24), (wide * 1.0, 0.16), (wide * 1.02, 0.34), (0, 0.44), (-wide * 1.02, 0.34)], band)
    pen.stroke([(-wide * 0.15, top + 0.06), (0, top + 0.2), (wide * 0.15, top + 0.06)], 0.02)


SHAPES: Mapping[str, Callable[[Pen], None]] = {
    "t-shirt": _t_shirt, "dress": _dress, "trousers": _trousers, "sneakers": _sneaker, "boots": _boot,
    "handbag": _handbag, "backpack": _backpack, "mug": _mug, "teapot": _teapot, "table lamp": _table_lamp,
    "armchair": _armchair, "watch": _wrist_watch, "umbrella": _umbrella, "hat": _hat,
}  # fmt: skip


def draw_product(product_type: str, colour: Colour, pattern: str, rng: np.random.Generator) -> bytes:
    """Draw a photo of one product.

    product_type: a key of `SHAPES`; pattern: plain, striped, dotted or checked. Returns a JPEG of 224 x 224.
    """
    image = draw_background(rng)
    jitter = rng.integers(-10, 11, 3)
    red, green, blue = (int(value) for value in np.clip(np.asarray(colour) + jitter, 0, 255))
    pen = Pen(image, (red, green, blue), pattern, rng)
    draw_shadow(image, pen)
    SHAPES[product_type](pen)
    assert image.size == (CANVAS, CANVAS)
    return photograph(image, rng)
