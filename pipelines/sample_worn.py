"""The silhouettes of what is worn, one function a type, each in its own square of [-1, 1]."""

from __future__ import annotations

import numpy as np

from pipelines.sample_drawing import (
    DARK,
    GOLD,
    WHITE,
    Pen,
    accent,
    box,
    metal_of,
    mirror,
    oval,
    shade,
    smooth,
)


def t_shirt(pen: Pen) -> None:
    """Draw a T-shirt, laid flat."""
    sleeve, waist, neck = pen.rng.uniform(-0.06, 0.12), pen.rng.uniform(0.5, 0.58), pen.rng.uniform(0.2, 0.27)
    right = [
        (0, -0.66),
        (neck * 0.7, -0.7),
        (neck, -0.84),
        (0.55, -0.72),
        (0.98, -0.2 + sleeve),
        (0.74, -0.02 + sleeve),
    ]
    pen.fill(oval(0, -0.82, neck, 0.1), shade(pen.colour, 0.5))
    pen.fabric(mirror([*right, (0.53, -0.25), (waist, 0.88)]))
    pen.stroke(oval(0, -0.84, neck, 0.2, 0, 180), 0.06)
    for side in (-1, 1):
        pen.stroke([(side * 0.53, -0.25), (side * 0.57, -0.68)], 0.015)
        pen.stroke([(side * 0.93, -0.24 + sleeve), (side * 0.69, -0.07 + sleeve)], 0.015)
    pen.stroke([(-waist + 0.01, 0.8), (waist - 0.01, 0.8)], 0.015)


def dress(pen: Pen) -> None:
    """Draw a dress with straps and a belt."""
    hem, waist, length = pen.rng.uniform(0.62, 0.9), pen.rng.uniform(0.2, 0.26), pen.rng.uniform(0.8, 0.98)
    top = [(0, -0.66), (0.14, -0.72), (0.17, -0.97), (0.26, -0.97), (0.3, -0.62), (0.33, -0.55)]
    pen.fabric(mirror([*top, (waist, -0.18), (hem, length - 0.05), (hem * 0.5, length)]))
    pen.stroke([(-waist, -0.18), (waist, -0.18)], 0.09, accent(pen.colour, 0.5))
    for fold in (-0.55, -0.2, 0.2, 0.55):
        pen.stroke([(fold * waist, -0.1), (fold * hem, length - 0.06)], 0.018)


def trousers(pen: Pen) -> None:
    """Draw trousers."""
    cuff, spread = pen.rng.uniform(0.2, 0.34), pen.rng.uniform(0.26, 0.38)
    leg = [(0.36, -0.97), (0.45, -0.55), (spread + cuff / 2, 0.97), (spread - cuff / 2, 0.97), (0.02, -0.28)]
    pen.fabric(mirror(leg))
    pen.fabric(box(-0.37, -0.98, 0.37, -0.86), 0.8)
    pen.stroke([(0, -0.86), (0, -0.3)], 0.02)
    for side in (-1, 1):
        pen.stroke([(side * 0.22, -0.84), (side * 0.39, -0.62)], 0.025)
        pen.stroke([(side * 0.26, -0.5), (side * spread, 0.95)], 0.015)
        pen.stroke([(side * 0.18, -0.98), (side * 0.18, -0.84)], 0.03)
    pen.fill(oval(0, -0.92, 0.03, 0.03), metal_of(pen))


def sneaker(pen: Pen) -> None:
    """Draw a sneaker from the side."""
    collar, sole = pen.rng.uniform(-0.5, -0.36), pen.rng.uniform(0.14, 0.2)
    pale = WHITE if pen.rng.random() < 0.8 else GOLD
    pen.fill(oval(-0.5, collar + 0.02, 0.3, 0.1), shade(pen.colour, 0.4))
    upper = [
        (-0.86, collar),
        (-0.8, collar + 0.08),
        (-0.5, collar + 0.14),
        (-0.22, collar - 0.04),
        (0.02, -0.22),
    ]
    pen.fabric(
        smooth([*upper, (0.38, 0.0), (0.78, 0.08), (0.97, 0.3), (0.9, 0.42), (-0.9, 0.42), (-0.94, 0.1)])
    )
    pen.fill(smooth([(0.56, 0.05), (0.8, 0.1), (0.97, 0.3), (0.94, 0.42), (0.56, 0.42)]), shade(pale, 0.95))
    lower = [
        (-0.98, 0.36),
        (0, 0.4),
        (1.0, 0.34),
        (0.99, 0.42 + sole),
        (0, 0.43 + sole),
        (-0.95, 0.42 + sole),
    ]
    pen.fill(lower, pale)
    pen.stroke([(-0.95, 0.39 + sole), (0.98, 0.39 + sole)], 0.05, shade(pale, 0.55))
    pen.stroke([(-0.96, 0.36), (0.98, 0.36)], 0.015, shade(pale, 0.5))
    pen.fill([(-0.92, -0.2), (-0.72, -0.2), (-0.68, 0.34), (-0.96, 0.34)], shade(pen.colour, 0.75))
    for step in range(5):
        x, y = -0.2 + step * 0.13, -0.33 + step * 0.08
        pen.stroke(
            [(x - 0.1, y + 0.14), (x + 0.06, y - 0.03)], 0.04, WHITE if sum(pen.colour) < 600 else DARK
        )
    if pen.rng.random() < 0.6:
        for step in range(int(pen.rng.integers(1, 4))):
            pen.stroke(
                [(-0.42 + step * 0.14, 0.32), (-0.22 + step * 0.14, -0.08)], 0.055, accent(pen.colour, 0.7)
            )
    else:
        pen.stroke([(-0.6, 0.05), (-0.3, 0.22), (0.25, -0.02)], 0.08, accent(pen.colour, 0.7))


def boot(pen: Pen) -> None:
    """Draw a boot from the side."""
    top, heel, width = pen.rng.uniform(-0.97, -0.7), pen.rng.uniform(0.12, 0.26), pen.rng.uniform(0.1, 0.18)
    pen.fill(oval((width - 0.55) / 2, top, (width + 0.55) / 2, 0.07), shade(pen.colour, 0.4))
    leg = [
        (-0.55, top),
        (width, top),
        (width - 0.04, 0.0),
        (width + 0.08, 0.2),
        (0.5, 0.33),
        (0.82, 0.48),
        (0.88, 0.7),
    ]
    pen.fabric([*leg, (-0.5, 0.7), (-0.54, 0.4), (-0.48, 0.1)])
    sole = DARK if sum(pen.colour) > 200 else (150, 120, 85)
    pen.fill(
        [(-0.53, 0.68), (0.9, 0.68), (0.88, 0.78), (-0.05, 0.78), (-0.1, 0.7 + heel), (-0.5, 0.7 + heel)],
        sole,
    )
    if pen.rng.random() < 0.5:
        for step in range(6):
            y = top + 0.14 + step * (0.05 - top) / 7
            pen.stroke([(width - 0.26, y), (width - 0.03, y + 0.03)], 0.035, accent(pen.colour, 0.75))
    else:
        pen.fill([(-0.3, top + 0.15), (0, top + 0.15), (-0.02, 0.05), (-0.28, 0.05)], shade(pen.colour, 0.55))
    pen.stroke([(-0.5, 0.42), (-0.1, 0.36), (0.12, 0.22)], 0.02)
    pen.stroke([(0.42, 0.32), (0.46, 0.5), (0.4, 0.68)], 0.02)


def hat(pen: Pen) -> None:
    """Draw a hat with a brim and a band."""
    high, wide, tilt = pen.rng.uniform(0.55, 0.75), pen.rng.uniform(0.45, 0.56), pen.rng.uniform(0.2, 0.3)
    pen.fabric(oval(0, 0.35, 1.0, tilt), 0.85)
    top = 0.32 - high
    crown = [(-wide, 0.34), (-wide * 0.92, top + 0.12), (-wide * 0.5, top - 0.08), (0, top + 0.02)]
    pen.fabric([*smooth([*crown, *((-x, y) for x, y in reversed(crown[:3])), (0, 0.42)])])
    band = [DARK, WHITE, accent(pen.colour, 0.7)][int(pen.rng.integers(3))]
    pen.fill(
        [
            (-wide * 1.0, 0.16),
            (0, 0.24),
            (wide * 1.0, 0.16),
            (wide * 1.02, 0.34),
            (0, 0.44),
            (-wide * 1.02, 0.34),
        ],
        band,
    )
    pen.stroke([(-wide * 0.15, top + 0.06), (0, top + 0.2), (wide * 0.15, top + 0.06)], 0.02)


def wrist_watch(pen: Pen) -> None:
    """Draw a wrist watch, its strap open."""
    face, strap = pen.rng.uniform(0.42, 0.5), pen.rng.uniform(0.24, 0.31)
    metal = metal_of(pen)
    pen.fabric([(-strap, -0.3), (-strap * 0.8, -1), (strap * 0.8, -1), (strap, -0.3)])
    pen.fabric([(-strap, 0.3), (-strap * 0.8, 1), (strap * 0.8, 1), (strap, 0.3)])
    pen.stroke(box(-strap * 0.75, -0.98, strap * 0.75, -0.86), 0.05, metal)
    for step in range(3):
        pen.fill(oval(0, 0.62 + step * 0.12, 0.03, 0.03), DARK)
    pen.fill(box(face - 0.02, -0.06, face + 0.1, 0.06), metal)
    pen.fill(oval(0, 0, face, face), shade(metal, 0.6))
    pen.fill(oval(0, 0, face - 0.03, face - 0.03), metal)
    dial = shade(pen.colour, 0.9) if pen.rng.random() < 0.5 else WHITE
    ink = DARK if sum(dial) > 380 else WHITE
    pen.fill(oval(0, 0, face - 0.1, face - 0.1), dial)
    for x, y in oval(0, 0, face - 0.16, face - 0.16)[::3]:
        pen.stroke([(x, y), (x * 0.85, y * 0.85)], 0.03, ink)
    hour, minute = pen.rng.uniform(0, 6.28, 2)
    pen.stroke([(0, 0), (0.16 * np.cos(hour), 0.16 * np.sin(hour))], 0.045, ink)
    pen.stroke([(0, 0), (0.27 * np.cos(minute), 0.27 * np.sin(minute))], 0.03, ink)


def sunglasses(pen: Pen) -> None:
    """Draw sunglasses from the front, their arms folded back."""
    drop, round_, thick = pen.rng.uniform(0.52, 0.72), pen.rng.uniform(0.0, 0.1), pen.rng.uniform(0.1, 0.15)
    tint = [(52, 50, 58), (74, 56, 40), (46, 62, 66)][int(pen.rng.integers(3))]
    pen.fabric([(-0.2, -0.26), (0, -0.2), (0.2, -0.26), (0.2, -0.06), (0, -0.02), (-0.2, -0.06)], 0.9)
    for side in (-1, 1):
        arm = [(0.86, -0.3), (1.0, -0.26), (0.84, -0.66), (0.74, -0.68)]
        pen.fabric([(side * x, y) for x, y in arm], 0.7)
        pen.fabric(_lens(side, drop, round_, thick))
        pen.fill(_lens(side, drop, round_, 0.0), tint)
        x = side * 0.5
        pen.fill([(x - 0.24, -0.14), (x - 0.12, -0.16), (x - 0.2, 0.08)], shade(tint, 1.3))
        pen.stroke([(side * 0.9, -0.24), (side * 0.97, -0.24)], 0.05, metal_of(pen))


def _lens(side: int, drop: float, round_: float, rim: float) -> list[tuple[float, float]]:
    inner, outer, top, bottom = 0.15 - rim * 0.6, 0.84 + rim, -0.24 - rim, drop - 0.24 + rim
    corners = [(inner, top + 0.05), (0.5, top - 0.03), (outer, top), (outer - 0.03, bottom - 0.26)]
    lower = [(0.66, bottom - round_ * 0.4), (0.4, bottom), (inner + 0.07, bottom - 0.22 + round_)]
    return smooth([(side * x, y) for x, y in [*corners, *lower]])
