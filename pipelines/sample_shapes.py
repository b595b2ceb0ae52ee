"""The silhouettes of what is carried or stands in a home (`sample_worn` has the rest), and who draws what."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from pipelines.sample_drawing import (
    DARK,
    GOLD,
    STEEL,
    WHITE,
    WOOD,
    Colour,
    Pen,
    accent,
    box,
    metal_of,
    mirror,
    oval,
    shade,
    smooth,
)
from pipelines.sample_photo import photograph
from pipelines.sample_worn import boot, dress, hat, sneaker, sunglasses, t_shirt, trousers, wrist_watch


def _handbag(pen: Pen) -> None:
    top, flare, reach = pen.rng.uniform(-0.25, -0.08), pen.rng.uniform(0.06, 0.22), pen.rng.uniform(0.6, 0.8)
    pen.stroke(oval(0, top, 0.42, reach, 180, 360), 0.09, shade(pen.colour, 0.65))
    pen.fabric(
        smooth(
            [
                (-0.8, top),
                (0, top - 0.02),
                (0.8, top),
                (0.8 + flare, 0.75),
                (0.7, 0.86),
                (0, 0.88),
                (-0.7, 0.86),
                (-0.8 - flare, 0.75),
            ]
        )
    )
    metal = metal_of(pen)
    if pen.rng.random() < 0.5:
        pen.fabric(
            smooth(
                [(-0.8, top), (0, top), (0.8, top), (0.76, top + 0.4), (0, top + 0.56), (-0.76, top + 0.4)]
            ),
            0.85,
        )
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
        pen.stroke(
            [(side * 0.4, -0.7), (side * (wide + 0.16), -0.2), (side * (wide + 0.12), 0.6)],
            0.1,
            shade(pen.colour, 0.6),
        )
        pen.fabric(box(side * wide - 0.14, 0.2, side * wide + 0.14, 0.82, 0.08), 0.75)
    body = [(0, -0.9), (0.35, -0.84), (wide, -0.4), (wide + 0.02, 0.4), (wide - 0.06, 0.88), (0, 0.94)]
    pen.fabric(smooth(mirror(body)))
    pen.fabric(box(-wide + 0.1, 0.12, wide - 0.1, 0.84, 0.12), 0.86)
    pen.stroke([(-wide + 0.14, 0.28), (wide - 0.14, 0.28)], 0.04, accent(pen.colour, 0.6))
    pen.stroke(oval(0, -0.12, wide - 0.08, 0.56, 195, 345), 0.035, accent(pen.colour, 0.6))
    pen.fill(box(-0.14, -0.4, 0.14, -0.24), shade(pen.colour, 0.5))
    pen.stroke([(wide - 0.2, 0.28), (wide - 0.2, 0.42)], 0.035, metal_of(pen))


def _mug(pen: Pen) -> None:
    tall, taper = pen.rng.uniform(0.65, 0.85), pen.rng.uniform(0, 0.1)
    pen.stroke(oval(0.5, 0.02, 0.36, tall * 0.55, -80, 80), 0.16, pen.outline)
    pen.stroke(oval(0.5, 0.02, 0.36, tall * 0.55, -80, 80), 0.12, shade(pen.colour, 0.85))
    pen.fabric([(-0.75, -tall), *oval(-0.08, tall - 0.05, 0.67 - taper, 0.16, 180, 0), (0.59, -tall)])
    pen.fabric(oval(-0.08, -tall, 0.67, 0.17))
    inside = WHITE if pen.rng.random() < 0.5 else shade(pen.colour, 0.6)
    pen.fill(oval(-0.08, -tall, 0.6, 0.13), inside)
    pen.fill(oval(-0.08, -tall + 0.05, 0.5, 0.075), (82, 52, 34))
    pen.stroke([(-0.58, -tall + 0.4), (-0.56 + taper, tall - 0.25)], 0.06, shade(pen.colour, 1.45))


def _teapot(pen: Pen) -> None:
    fat = pen.rng.uniform(0.5, 0.6)
    pen.stroke(oval(0.5, 0.15, 0.38, 0.38, -95, 95), 0.14, pen.outline)
    pen.stroke(oval(0.5, 0.15, 0.38, 0.38, -95, 95), 0.1, shade(pen.colour, 0.8))
    pen.fabric(
        smooth(
            [
                (-0.4, 0.0),
                (-0.7, -0.12),
                (-0.84, -0.42),
                (-1.0, -0.5),
                (-0.92, -0.3),
                (-0.8, 0.2),
                (-0.42, 0.5),
            ]
        ),
        0.9,
    )
    pen.fabric([*oval(0, 0.2, 0.6, fat)])
    pen.fill(box(-0.3, 0.14 + fat, 0.3, 0.26 + fat, 0.04), shade(pen.colour, 0.6))
    pen.fabric(oval(0, 0.24 - fat, 0.36, 0.17, 180, 360), 0.92)
    pen.stroke([(-0.38, 0.24 - fat), (0.38, 0.24 - fat)], 0.05, shade(pen.colour, 0.6))
    pen.fabric(oval(0, 0.0 - fat, 0.09, 0.09), 0.8)
    pen.stroke(oval(0, 0.2, 0.46, fat - 0.14, 190, 240), 0.06, shade(pen.colour, 1.5))


def _table_lamp(pen: Pen) -> None:
    top, wide, stem = pen.rng.uniform(0.26, 0.45), pen.rng.uniform(0.62, 0.78), pen.rng.uniform(0.05, 0.11)
    metal = [GOLD, STEEL, WOOD, DARK][int(pen.rng.integers(4))]
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
    leg = WOOD if pen.rng.random() < 0.6 else DARK
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


def _umbrella(pen: Pen) -> None:
    high = pen.rng.uniform(0.75, 0.95)
    pole = [STEEL, WOOD, DARK][int(pen.rng.integers(3))]
    pen.stroke([(0, -0.98), (0, 0.78)], 0.05, pole)
    pen.stroke(oval(0.13, 0.78, 0.13, 0.15, 180, 0), 0.08, WOOD)
    scallops = [point for x in (0.75, 0.25, -0.25, -0.75) for point in oval(x, 0.05, 0.25, 0.1, 0, -180)]
    pen.fabric([*oval(0, 0.05, 1.0, high, 180, 360), *scallops])
    for x in (-0.5, 0.0, 0.5):
        pen.stroke([(0, 0.05 - high), (x * 0.72, -0.5 * high), (x, 0.05)], 0.02)


# Those that stand on a floor; the others are photographed lying or hanging flat.
STANDING = frozenset(
    {"sneakers", "boots", "handbag", "backpack", "mug", "teapot", "table lamp", "armchair", "umbrella", "hat"}
)

SHAPES: Mapping[str, Callable[[Pen], None]] = {
    "T-shirt": t_shirt, "dress": dress, "trousers": trousers, "sneakers": sneaker, "boots": boot,
    "handbag": _handbag, "backpack": _backpack, "mug": _mug, "teapot": _teapot, "table lamp": _table_lamp,
    "armchair": _armchair, "watch": wrist_watch, "sunglasses": sunglasses, "umbrella": _umbrella, "hat": hat,
}  # fmt: skip


def draw_product(product_type: str, colour: Colour, pattern: str, rng: np.random.Generator) -> bytes:
    """Draw a photo of one product: a JPEG of 224 x 224.

    product_type: a key of `SHAPES`; pattern: plain, striped, dotted, checked or floral.
    """
    dyed = np.asarray(colour) * rng.uniform(0.95, 1.05, 3) + rng.integers(-4, 5, 3)
    red, green, blue = (int(value) for value in np.clip(dyed, 0, 255))
    pen = Pen((red, green, blue), pattern, rng)
    SHAPES[product_type](pen)
    return photograph(pen, product_type in STANDING, rng)
