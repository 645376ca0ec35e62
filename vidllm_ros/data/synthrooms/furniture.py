# SPDX-License-Identifier: Apache-2.0
"""Movable furniture: chair, sofa, bed, table, desk, cabinet, bookshelf, trash can.

Each function draws sizes from real-world ranges and builds a model whose dominant colour is the
word it is given. The front is +y. Next: fixtures.py for what is built into a room.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vidllm_ros.data.synthrooms.parts import (
    Material,
    Model,
    ModelBuilder,
    metal,
    mix,
    neutral_wood,
    pick,
    shade,
    solid,
)
from vidllm_ros.data.synthrooms.vocabulary import COLORS, hsv, sample_rgb

Maker = Callable[[np.random.Generator, str], Model]


def build_chair(rng: np.random.Generator, color: str) -> Model:
    """Build a dining chair, an office chair or an armchair."""
    kind = pick(rng, ("dining chair", "dining chair", "office chair", "armchair"))
    return {
        "dining chair": build_dining_chair,
        "office chair": build_office_chair,
        "armchair": build_armchair,
    }[kind](rng, color)


def build_dining_chair(rng: np.random.Generator, color: str) -> Model:
    """Build four legs, a seat, a solid or slatted back."""
    b = ModelBuilder()
    main = solid(sample_rgb(color, rng), rng)
    legs = main if rng.random() < 0.6 else pick_leg(rng)
    width, depth = rng.uniform(0.40, 0.48), rng.uniform(0.40, 0.47)
    seat, thick = rng.uniform(0.42, 0.47), rng.uniform(0.04, 0.08)
    b.legs((width - 0.02, depth - 0.02), seat - thick, rng.uniform(0.035, 0.05), legs)
    b.box((0, 0), seat - thick, (width, depth, thick), main)
    back, y = rng.uniform(0.38, 0.52), -depth / 2 + 0.02
    if rng.random() < 0.6:
        gap = rng.uniform(0.0, 0.10)
        b.box((0, y), seat + gap, (width, 0.035, back - gap), main, tip_rad=0.10)
        for sx in (-1, 1):
            b.box((sx * (width / 2 - 0.025), y), seat, (0.03, 0.03, back - 0.05), legs, 0.0, 0.10)
    else:
        for sx in (-1, 1):
            b.box((sx * (width / 2 - 0.02), y), seat, (0.04, 0.035, back), main, tip_rad=0.08)
        for level in (0.35, 0.62, 0.9):
            b.box((0, y), seat + back * level - 0.05, (width - 0.04, 0.03, 0.09), main)
    return b.build("chair", color, "dining chair")


def build_office_chair(rng: np.random.Generator, color: str) -> Model:
    """Build a star foot, a column, a padded seat and back, sometimes arms."""
    b = ModelBuilder()
    rgb = sample_rgb(color, rng)
    main = Material(rgb, shade(rgb, 0.8), "fabric", 0.2, 0.4)
    frame = metal(rng)
    seat, width, depth = rng.uniform(0.42, 0.50), rng.uniform(0.46, 0.54), rng.uniform(0.44, 0.5)
    for turn in (0.0, 1.05, 2.09):
        b.box((0, 0), 0.03, (0.56, 0.05, 0.05), frame, turn_rad=turn)
    b.box((0, 0), 0.06, (0.06, 0.06, seat - 0.14), frame)
    b.box((0, 0), seat - 0.09, (width, depth, 0.09), main)
    high = rng.uniform(0.45, 0.65)
    b.box((0, -depth / 2 + 0.03), seat + 0.06, (width - 0.04, 0.08, high), main, tip_rad=0.12)
    b.box((0, -depth / 2 + 0.03), seat - 0.06, (0.08, 0.04, 0.2), frame)
    if rng.random() < 0.6:
        for sx in (-1, 1):
            x = sx * (width / 2 + 0.03)
            b.box((x, 0), seat + 0.18, (0.06, 0.28, 0.035), frame)
            b.box((x, 0), seat - 0.05, (0.03, 0.05, 0.24), frame)
    return b.build("chair", color, "office chair")


def build_armchair(rng: np.random.Generator, color: str) -> Model:
    """Build a padded chair with arms, for one."""
    return build_seat(rng, color, float(rng.uniform(0.72, 0.88)), 1, ("chair", "armchair"))


def build_sofa(rng: np.random.Generator, color: str) -> Model:
    """Build a sofa for two or three."""
    cushions = int(rng.integers(2, 4))
    width = float(rng.uniform(1.45, 1.75)) if cushions == 2 else float(rng.uniform(1.8, 2.2))
    return build_seat(rng, color, width, cushions, ("sofa", f"{cushions}-seat sofa"))


def build_seat(
    rng: np.random.Generator, color: str, width: float, cushions: int, names: tuple[str, str]
) -> Model:
    """Build base, arms, back and cushions; sofas and armchairs."""
    b = ModelBuilder()
    rgb = sample_rgb(color, rng)
    main = solid(rgb, rng, "soft")
    pad = Material(mix(rgb, (1, 1, 1), 0.06), main.second_rgb, "fabric", 0.2, 0.35)
    depth, seat, top = rng.uniform(0.78, 0.95), rng.uniform(0.38, 0.45), rng.uniform(0.72, 0.9)
    arm, back, foot = rng.uniform(0.12, 0.2), rng.uniform(0.16, 0.22), rng.uniform(0.04, 0.12)
    b.legs((width - 0.06, depth - 0.06), foot, 0.06, pick_leg(rng))
    b.box((0, 0), foot, (width, depth, seat - 0.14 - foot), main)
    b.box((0, -depth / 2 + back / 2), foot, (width, back, top - foot), main)
    for sx in (-1, 1):
        x = sx * (width - arm) / 2
        b.box((x, 0.005), foot, (arm, depth, rng.uniform(0.55, 0.62) - foot), main)
    each = (width - 2 * arm) / cushions
    for i in range(cushions):
        x = -width / 2 + arm + each * (i + 0.5)
        b.box((x, back / 2), seat - 0.14, (each - 0.015, depth - back, 0.14), pad)
        b.box((x, -depth / 2 + back + 0.06), seat, (each - 0.02, 0.12, 0.34), pad, 0.0, 0.15)
    if rng.random() < 0.5:
        other = solid(sample_rgb(pick(rng, COLORS), rng), rng, "soft")
        x = float(rng.choice([-1, 1])) * (width / 2 - arm - 0.2)
        b.box((x, 0.0), seat, (0.34, 0.1, 0.32), other, turn_rad=0.3, tip_rad=0.35)
    return b.build(names[0], color, names[1])


def build_bed(rng: np.random.Generator, color: str) -> Model:
    """Build frame, mattress, blanket over most of it, pillows; the head is at the back."""
    b = ModelBuilder()
    double = rng.random() < 0.55
    width = float(rng.uniform(1.35, 1.75)) if double else float(rng.uniform(0.9, 1.1))
    length, height = float(rng.uniform(1.95, 2.1)), float(rng.uniform(0.42, 0.58))
    rgb = sample_rgb(color, rng)
    cloth = solid(rgb, rng, "soft")
    frame = solid(rgb, rng, "hard") if rng.random() < 0.5 else neutral_wood(rng)
    sheet = Material(hsv(45, 0.05, rng.uniform(0.8, 0.95)), texture="fabric", strength=0.1)
    b.box((0, 0), 0.08, (width, length, height - 0.28), frame)
    b.legs((width - 0.08, length - 0.08), 0.08, 0.08, frame)
    b.box((0, 0.02), height - 0.2, (width - 0.04, length - 0.06, 0.2), sheet)
    cover = length * rng.uniform(0.66, 0.78)
    y = length / 2 - cover / 2 + 0.015
    hang = rng.uniform(0.18, min(0.34, height - 0.12))
    b.box((0, y), height - hang, (width + 0.03, cover, hang + 0.035), cloth)
    head = rng.uniform(0.85, 1.15)
    b.box((0, -length / 2 - 0.03), 0.0, (width + 0.04, 0.06, head), frame)
    for x in (-width / 4, width / 4) if double else (0.0,):
        wide = min(width * 0.42, 0.66) if double else width * 0.7
        b.box((x, -length / 2 + 0.25), height, (wide, 0.36, 0.12), sheet, tip_rad=-0.15)
    return b.build("bed", color, "double bed" if double else "single bed")


def build_table(rng: np.random.Generator, color: str) -> Model:
    """Build a dining table or a coffee table."""
    return (build_dining_table if rng.random() < 0.6 else build_coffee_table)(rng, color)


def build_dining_table(rng: np.random.Generator, color: str) -> Model:
    size = (float(rng.uniform(1.1, 1.8)), float(rng.uniform(0.75, 0.95)))
    return build_table_of(rng, color, size, float(rng.uniform(0.71, 0.77)), "dining table")


def build_coffee_table(rng: np.random.Generator, color: str) -> Model:
    size = (float(rng.uniform(0.75, 1.2)), float(rng.uniform(0.5, 0.65)))
    return build_table_of(rng, color, size, float(rng.uniform(0.36, 0.5)), "coffee table")


def build_table_of(
    rng: np.random.Generator, color: str, size: tuple[float, float], height: float, kind: str
) -> Model:
    """Build a top on four legs, on two panels or on a foot."""
    b = ModelBuilder()
    main = solid(sample_rgb(color, rng), rng, "hard")
    thick = rng.uniform(0.03, 0.06)
    under = main if rng.random() < 0.7 else pick_leg(rng)
    style = pick(rng, ("legs", "legs", "panels", "foot"))
    if style == "legs":
        b.legs((size[0] - 0.04, size[1] - 0.04), height - thick, rng.uniform(0.05, 0.09), under)
        b.box((0, 0), height - thick - 0.07, (size[0] - 0.12, size[1] - 0.12, 0.07), main)
    elif style == "panels":
        for sx in (-1, 1):
            x = sx * (size[0] / 2 - 0.12)
            b.box((x, 0), 0.0, (0.05, size[1] - 0.1, height - thick), under)
        b.box((0, 0), height * 0.3, (size[0] - 0.24, 0.04, 0.1), under)
    else:
        b.box((0, 0), 0.0, (size[0] * 0.5, size[1] * 0.6, 0.04), under)
        b.box((0, 0), 0.03, (0.14, 0.14, height - thick - 0.02), under)
    b.box((0, 0), height - thick, (*size, thick), main)
    return b.build("table", color, kind)


def build_desk(rng: np.random.Generator, color: str) -> Model:
    """Build a top, side panels, a back panel and a stack of drawers at one side."""
    b = ModelBuilder()
    rgb = sample_rgb(color, rng)
    main = solid(rgb, rng, "hard")
    width, depth = float(rng.uniform(1.05, 1.6)), float(rng.uniform(0.55, 0.72))
    height, grip = float(rng.uniform(0.71, 0.77)), metal(rng)
    side = float(rng.choice([-1, 1]))
    b.box((0, 0), height - 0.035, (width, depth, 0.035), main)
    b.box((-side * (width / 2 - 0.02), 0), 0.0, (0.035, depth - 0.03, height - 0.035), main)
    b.box((0, -depth / 2 + 0.06), 0.3, (width - 0.06, 0.02, height - 0.335), main)
    x = side * (width / 2 - 0.21)
    b.box((x, 0), 0.04, (0.4, depth - 0.04, height - 0.075), main)
    front = Material(shade(rgb, 0.9), main.second_rgb, main.texture, main.period_m, main.strength)
    drawers = int(rng.integers(2, 5))
    each = (height - 0.13) / drawers
    for i in range(drawers):
        z = 0.06 + each * i
        b.box((x, depth / 2 - 0.015), z + 0.008, (0.37, 0.02, each - 0.016), front)
        b.box((x, depth / 2 + 0.005), z + each * 0.6, (0.14, 0.025, 0.02), grip)
    return b.build("desk", color, "desk")


def build_cabinet(rng: np.random.Generator, color: str) -> Model:
    """Build a sideboard, a wardrobe or a nightstand."""
    kind = pick(rng, ("sideboard", "sideboard", "wardrobe", "nightstand"))
    return build_cabinet_of(rng, color, kind)


def build_cabinet_of(rng: np.random.Generator, color: str, kind: str) -> Model:
    """Build a body with rows of doors or drawers, gaps between them, handles on them."""
    low, high, columns, rows = {
        "sideboard": ((0.8, 0.36, 0.7), (1.6, 0.48, 1.0), (2, 4), (1, 2)),
        "wardrobe": ((0.85, 0.5, 1.75), (1.3, 0.62, 2.1), (2, 3), (1, 2)),
        "nightstand": ((0.4, 0.36, 0.45), (0.55, 0.45, 0.62), (1, 1), (2, 3)),
    }[kind]
    size = tuple(float(rng.uniform(a, z)) for a, z in zip(low, high, strict=True))
    b = ModelBuilder()
    rgb = sample_rgb(color, rng)
    main = solid(rgb, rng, "hard")
    front = Material(shade(rgb, 0.94), main.second_rgb, main.texture, main.period_m, main.strength)
    foot = float(rng.choice([0.0, 0.05, 0.1]))
    if foot > 0:
        b.legs((size[0] - 0.04, size[1] - 0.04), foot, 0.05, metal(rng))
    gap = Material(shade(rgb, 0.35))
    b.box((0, 0), foot, (size[0], size[1], size[2] - foot), main)
    b.box((0, size[1] / 2), foot + 0.02, (size[0] - 0.04, 0.01, size[2] - foot - 0.04), gap)
    grid = (int(rng.integers(columns[0], columns[1] + 1)), int(rng.integers(rows[0], rows[1] + 1)))
    add_doors(
        b, grid, (size[0], size[1] / 2 + 0.005, foot + 0.02, size[2] - 0.02), front, metal(rng)
    )
    return b.build("cabinet", color, kind)


def add_doors(
    b: ModelBuilder,
    grid: tuple[int, int],
    face: tuple[float, float, float, float],
    front: Material,
    grip: Material,
) -> None:
    """Add columns x rows of door panels with handles on a face.

    The face is given by its width, its y, and the heights of its lower and upper edge.
    """
    width, y, bottom, top = face
    wide, high = (width - 0.04) / grid[0], (top - bottom) / grid[1]
    for i in range(grid[0]):
        for j in range(grid[1]):
            x, z = -width / 2 + 0.02 + wide * (i + 0.5), bottom + high * j
            b.box((x, y + 0.005), z + 0.008, (wide - 0.016, 0.02, high - 0.016), front)
            if high > wide:
                inner = x + (wide / 2 - 0.07) * (1 if i % 2 == 0 else -1)
                b.box(
                    (inner, y + 0.025),
                    z + high * 0.45,
                    (0.025, 0.025, min(0.16, high * 0.4)),
                    grip,
                )
            else:
                b.box((x, y + 0.025), z + high * 0.6, (min(0.18, wide * 0.4), 0.025, 0.025), grip)


def build_bookshelf(rng: np.random.Generator, color: str) -> Model:
    """Build sides, back, shelves, and books on most of them."""
    b = ModelBuilder()
    rgb = sample_rgb(color, rng)
    main = solid(rgb, rng, "hard")
    dim = Material(shade(rgb, 0.85), main.second_rgb, main.texture, main.period_m, main.strength)
    width, depth = float(rng.uniform(0.7, 1.2)), float(rng.uniform(0.26, 0.36))
    height, edge = float(rng.uniform(1.3, 2.1)), 0.04
    shelves = max(3, round(height / rng.uniform(0.34, 0.44)))
    for sx in (-1, 1):
        b.box((sx * (width - edge) / 2, 0), 0.0, (edge, depth, height), main)
    b.box((0, -depth / 2 + 0.01), 0.0, (width - edge, 0.02, height - 0.01), dim)
    step = (height - edge) / shelves
    for i in range(shelves + 1):
        b.box((0, 0.005), step * i, (width - edge, depth - 0.012, edge), main)
        if i < shelves and rng.random() < 0.8:
            add_books(b, rng, (width - 2 * edge, depth, step * i + edge, step - edge))
    return b.build("bookshelf", color, "bookshelf")


def add_books(
    b: ModelBuilder, rng: np.random.Generator, shelf: tuple[float, float, float, float]
) -> None:
    """Add blocks of books to a shelf of (width, depth, height of its board, clear height)."""
    width, depth, bottom, clear = shelf
    x = -width / 2 + 0.01 + (rng.uniform(0, 0.3) if rng.random() < 0.4 else 0.0)
    end = width / 2 - 0.02 - (rng.uniform(0, 0.4) if rng.random() < 0.5 else 0.0)
    while x < end - 0.04:
        wide = min(float(rng.uniform(0.04, 0.13)), end - x)
        high = min(float(rng.uniform(0.18, 0.3)), clear - 0.03)
        rgb = sample_rgb(pick(rng, COLORS), rng)
        paper = Material(rgb, shade(rgb, 0.6), "stripes", float(rng.uniform(0.025, 0.05)), 0.4)
        deep = depth * 0.7
        b.box(
            (x + wide / 2, -depth / 2 + 0.02 + deep / 2), bottom, (wide - 0.004, deep, high), paper
        )
        x += wide


def build_trash_can(rng: np.random.Generator, color: str) -> Model:
    """Build an open bin with a dark inside, or a tall one with a lid."""
    b = ModelBuilder()
    rgb = sample_rgb(color, rng)
    main = Material(rgb, shade(rgb, 0.8), pick(rng, ("plain", "plain", "stripes")), 0.05, 0.4)
    width = float(rng.uniform(0.24, 0.36))
    depth, height = width * float(rng.uniform(0.8, 1.0)), float(rng.uniform(0.3, 0.45))
    if rng.random() < 0.35:
        height += 0.2
        b.box((0, 0), 0.0, (width, depth, height - 0.08), main)
        b.box((0, 0), height - 0.07, (width + 0.02, depth + 0.02, 0.07), solid(rgb, rng, "hard"))
        b.box((0, 0), height - 0.085, (width - 0.02, depth - 0.02, 0.02), Material((0.05,) * 3))
        return b.build("trash can", color, "trash can with a lid")
    wall = 0.02
    for sign in (-1, 1):
        b.box((sign * (width - wall) / 2, 0), 0.0, (wall, depth, height), main)
        b.box((0, sign * (depth - wall) / 2), 0.0, (width - wall, wall, height - 0.001), main)
    b.box((0, 0), 0.0, (width - wall, depth - wall, height * 0.55), Material((0.08, 0.08, 0.08)))
    return b.build("trash can", color, "open trash can")


def pick_leg(rng: np.random.Generator) -> Material:
    """Return metal or bare wood."""
    return metal(rng) if rng.random() < 0.5 else neutral_wood(rng)
