# SPDX-License-Identifier: Apache-2.0
"""What is built into a room: doors, windows, curtains, pictures, kitchen and bathroom ware.

As in furniture.py the front is +y; wall pieces have their back at the wall and their own height
over the floor. Next: clutter.py, then layout.py, which finds a place for each.
"""

from __future__ import annotations

import numpy as np

from vidllm_ros.data.synthrooms.furniture import add_doors, pick_leg
from vidllm_ros.data.synthrooms.parts import (
    Material,
    Model,
    ModelBuilder,
    metal,
    mix,
    pick,
    shade,
    solid,
)
from vidllm_ros.data.synthrooms.vocabulary import COLORS, hsv, sample_rgb


def build_door(rng: np.random.Generator, color: str) -> Model:
    """Build a leaf with panels and a handle in a frame."""
    b = ModelBuilder()
    rgb = sample_rgb(color, rng)
    main = solid(rgb, rng, "hard")
    inset = Material(shade(rgb, 0.84), main.second_rgb, main.texture, main.period_m, main.strength)
    width, height = float(rng.uniform(0.76, 0.95)), float(rng.uniform(1.98, 2.1))
    frame = main if rng.random() < 0.5 else Material(hsv(40, 0.05, rng.uniform(0.75, 0.95)))
    b.box((0, 0.02), 0.0, (width, 0.04, height), main)
    for sx in (-1, 1):
        b.box((sx * (width / 2 + 0.04), 0.03), 0.0, (0.08, 0.06, height + 0.08), frame)
    b.box((0, 0.03), height, (width, 0.058, 0.079), frame)
    style = pick(rng, ("two", "four", "flat", "glass"))
    if style == "glass":
        pane = Material((0.75, 0.85, 0.9), (0.6, 0.7, 0.8), "plain", 0.5, 0.3)
        b.box((0, 0.03), height * 0.55, (width * 0.55, 0.03, height * 0.35), pane)
    elif style != "flat":
        columns = 1 if style == "two" else 2
        for low, high in ((0.08, 0.42), (0.52, 0.93)):
            for i in range(columns):
                wide = (width - 0.2) / columns
                x = -width / 2 + 0.1 + wide * (i + 0.5)
                b.box((x, 0.04), height * low, (wide - 0.06, 0.015, height * (high - low)), inset)
    side = float(rng.choice([-1, 1]))
    b.box((side * (width / 2 - 0.08), 0.06), 1.0, (0.12, 0.05, 0.03), metal(rng))
    return b.build("door", color, "door")


def build_window(rng: np.random.Generator, color: str) -> Model:
    """Build a frame with mullions before a bright sky, and a sill; `color` is the frame's."""
    b = ModelBuilder()
    width, height = float(rng.uniform(0.9, 1.8)), float(rng.uniform(0.95, 1.35))
    sill = float(rng.uniform(0.8, 1.0))
    frame = Material(sample_rgb(color, rng), strength=0.2)
    ground = hsv(float(rng.uniform(70, 130)), 0.35, float(rng.uniform(0.35, 0.6)))
    sky = Material(hsv(210, rng.uniform(0.1, 0.45), 0.95), ground, "sky", height, 0.8, 1.1)
    b.box((0, 0.01), sill, (width, 0.02, height), sky)
    bar, deep = 0.06, 0.05
    for sx in (-1, 1):
        b.box((sx * (width - bar) / 2, deep / 2), sill, (bar, deep, height), frame)
    for z in (sill, sill + height - bar):
        b.box((0, deep / 2), z, (width - bar, deep, bar), frame)
    panes = int(rng.integers(1, 4)) if width > 1.2 else int(rng.integers(1, 3))
    for i in range(1, panes):
        x = -width / 2 + width * i / panes
        b.box((x, deep / 2), sill + 0.01, (0.045, deep - 0.01, height - 0.02), frame)
    if rng.random() < 0.5:
        b.box((0, deep / 2), sill + height * 0.62, (width - 0.02, deep - 0.012, 0.04), frame)
    b.box((0, 0.06), sill - 0.04, (width + 0.1, 0.12, 0.04), frame)
    return b.build("window", "", "window")


def build_curtain(rng: np.random.Generator, color: str, width: float = 1.2) -> Model:
    """Build two hanging panels at the sides of a window of this width, and a rod."""
    b = ModelBuilder()
    bottom, top = float(rng.choice([0.05, 0.7])), float(rng.uniform(2.15, 2.3))
    panel = float(rng.uniform(0.36, 0.55))
    y = 0.19  # clear of the window's sill
    b.box((0, y), top, (width + 2 * panel, 0.03, 0.03), metal(rng))
    cloth = hanging_cloth(rng, color)
    for sx in (-1, 1):
        add_folds(b, (sx * (width / 2 + panel / 2 - 0.1), y), (panel, bottom, top), cloth)
    return b.build("curtain", color, "curtain")


def build_shower_curtain(rng: np.random.Generator, color: str) -> Model:
    """Build one long hanging panel on a rod."""
    b = ModelBuilder()
    width, top = float(rng.uniform(0.8, 1.4)), float(rng.uniform(1.9, 2.05))
    b.box((0, 0), top, (width + 0.15, 0.03, 0.03), metal(rng))
    add_folds(b, (0, 0), (width, float(rng.uniform(0.12, 0.3)), top), hanging_cloth(rng, color))
    return b.build("shower curtain", color, "shower curtain")


def hanging_cloth(rng: np.random.Generator, color: str) -> Material:
    """Return cloth whose folds run down."""
    rgb = sample_rgb(color, rng)
    second = shade(rgb, 0.6) if max(rgb) > 0.2 else mix(rgb, (1, 1, 1), 0.15)
    return Material(rgb, second, "folds", float(rng.uniform(0.07, 0.14)), 0.75)


def add_folds(
    b: ModelBuilder,
    center_xy: tuple[float, float],
    extent: tuple[float, float, float],
    cloth: Material,
) -> None:
    """Add a panel of pleats: (width, bottom, top) made of boxes turned to and fro."""
    width, bottom, top = extent
    count = max(3, round(width / 0.13))
    step = width / count
    for i in range(count):
        x = center_xy[0] - width / 2 + step * (i + 0.5)
        turn = 0.5 if i % 2 else -0.5
        size = (step * 1.22, 0.025, top - bottom)
        b.box((x, center_xy[1]), bottom, size, cloth, turn_rad=turn)


def build_picture(rng: np.random.Generator, color: str) -> Model:
    """Build a framed painting whose main colour is `color`, at the height of the eyes."""
    b = ModelBuilder()
    width, height = float(rng.uniform(0.4, 1.1)), float(rng.uniform(0.35, 0.8))
    middle, edge = float(rng.uniform(1.45, 1.7)), float(rng.uniform(0.025, 0.06))
    other = pick(rng, tuple(word for word in COLORS if word != color))
    texture = pick(rng, ("landscape", "abstract"))
    canvas = Material(sample_rgb(color, rng), sample_rgb(other, rng), texture, height, 0.9)
    frame = pick_leg(rng) if rng.random() < 0.7 else Material((0.93, 0.92, 0.9))
    bottom = middle - height / 2
    b.box((0, 0.015), bottom - edge, (width + 2 * edge, 0.03, height + 2 * edge), frame)
    b.box((0, 0.02), bottom, (width, 0.03, height), canvas)
    return b.build("picture", color, "painting")


def build_counter(rng: np.random.Generator, color: str) -> Model:
    """Build base units with doors under one worktop."""
    b = ModelBuilder()
    rgb = sample_rgb(color, rng)
    main = solid(rgb, rng, "hard")
    front = Material(shade(rgb, 0.95), main.second_rgb, main.texture, main.period_m, main.strength)
    width, depth = float(rng.uniform(1.3, 2.4)), float(rng.uniform(0.58, 0.65))
    height = float(rng.uniform(0.86, 0.95))
    stone = Material(
        hsv(40, rng.uniform(0, 0.2), rng.uniform(0.25, 0.9)), (0.5, 0.5, 0.5), "fabric"
    )
    b.box((0, -0.03), 0.0, (width - 0.02, depth - 0.1, 0.09), Material(shade(rgb, 0.3)))
    b.box((0, -0.01), 0.08, (width, depth - 0.04, height - 0.12), main)
    gap = Material(shade(rgb, 0.35))
    face = depth / 2 - 0.03
    b.box((0, face), 0.1, (width - 0.04, 0.01, height - 0.16), gap)
    units = (max(2, round(width / 0.55)), 1)
    add_doors(b, units, (width, face + 0.005, 0.1, height - 0.06), front, metal(rng))
    b.box((0, 0.0), height - 0.04, (width + 0.02, depth + 0.02, 0.04), stone)
    return b.build("counter", color, "counter")


def build_refrigerator(rng: np.random.Generator, color: str) -> Model:
    """Build two doors over each other, a dark seam, long handles."""
    b = ModelBuilder()
    rgb = sample_rgb(color, rng)
    main = Material(rgb, shade(rgb, 0.9), "plain", 0.4, 0.2)
    width, depth = float(rng.uniform(0.56, 0.75)), float(rng.uniform(0.58, 0.7))
    height, seam = float(rng.uniform(1.45, 1.85)), float(rng.uniform(0.35, 0.68))
    dark, grip = Material(shade(rgb, 0.3)), metal(rng)
    b.box((0, -0.02), 0.0, (width, depth - 0.06, height), main)
    b.box((0, depth / 2 - 0.045), 0.04, (width - 0.02, 0.02, height - 0.06), dark)
    split, x = height * seam, width / 2 - 0.06
    b.box((0, depth / 2 - 0.02), 0.05, (width, 0.04, split - 0.06), main)
    b.box((0, depth / 2 - 0.02), split + 0.01, (width, 0.04, height - split - 0.01), main)
    b.box((x, depth / 2 + 0.02), split - 0.38, (0.03, 0.04, 0.3), grip)
    b.box((x, depth / 2 + 0.02), split + 0.06, (0.03, 0.04, min(0.3, height - split - 0.1)), grip)
    return b.build("refrigerator", color, "refrigerator")


def build_toilet(rng: np.random.Generator, color: str) -> Model:
    """Build foot, bowl, seat, open or closed lid, cistern at the back."""
    b = ModelBuilder()
    rgb = sample_rgb(color, rng)
    main = Material(rgb, shade(rgb, 0.9), "plain", 0.3, 0.15)
    width, rim = float(rng.uniform(0.36, 0.42)), float(rng.uniform(0.38, 0.43))
    bowl = float(rng.uniform(0.44, 0.5))
    y = 0.11
    b.box((0, y - 0.04), 0.0, (width * 0.6, bowl * 0.75, rim * 0.5), main)
    b.box((0, y), rim * 0.45, (width, bowl, rim * 0.5), main)
    b.box((0, y + bowl / 2), rim * 0.5, (width * 0.62, 0.1, rim * 0.4), main)
    seat = Material(shade(rgb, 0.93)) if max(rgb) > 0.2 else Material(mix(rgb, (1, 1, 1), 0.1))
    if rng.random() < 0.5:
        b.box((0, y), rim * 0.95, (width + 0.01, bowl + 0.02, 0.045), seat)
    else:
        b.box((0, y), rim * 0.95, (width + 0.01, bowl + 0.02, 0.025), seat)
        b.box(
            (0, y + 0.02),
            rim * 0.95 + 0.02,
            (width * 0.6, bowl * 0.6, 0.008),
            Material((0.2,) * 3),
        )
        b.box((0, y - bowl / 2 + 0.03), rim, (width, 0.03, 0.4), seat, tip_rad=0.12)
    tank = float(rng.uniform(0.7, 0.82))
    b.box((0, y - bowl / 2 - 0.11), rim * 0.8, (width + 0.04, 0.18, tank - rim * 0.8), main)
    b.box((0, y - bowl / 2 - 0.11), tank, (width + 0.06, 0.2, 0.03), seat)
    b.box((0, y - bowl / 2 - 0.11), tank + 0.03, (0.05, 0.05, 0.015), metal(rng))
    return b.build("toilet", color, "toilet")


def build_sink(rng: np.random.Generator, color: str) -> Model:
    """Build a basin on a column or on a small base, with a tap."""
    b = ModelBuilder()
    rgb = sample_rgb(color, rng)
    main = Material(rgb, shade(rgb, 0.9), "plain", 0.3, 0.15)
    width, depth = float(rng.uniform(0.48, 0.66)), float(rng.uniform(0.4, 0.5))
    height = float(rng.uniform(0.8, 0.9))
    if rng.random() < 0.55:
        b.box((0, -0.05), 0.0, (0.17, 0.16, height - 0.13), main)
        kind = "pedestal sink"
    else:
        b.box((0, -0.01), 0.0, (width * 0.92, depth * 0.9, height - 0.14), main)
        b.box(
            (0, depth * 0.44), 0.05, (width * 0.8, 0.02, height - 0.26), Material(shade(rgb, 0.8))
        )
        kind = "vanity sink"
    add_basin(b, (width, depth, height - 0.15, 0.15), main, metal(rng))
    return b.build("sink", color, kind)


def build_counter_sink(rng: np.random.Generator, color: str, height: float) -> Model:
    """Build a basin that stands on a worktop of this height."""
    b = ModelBuilder()
    rgb = sample_rgb(color, rng)
    main = Material(rgb, shade(rgb, 0.9), "plain", 0.3, 0.15)
    size = (float(rng.uniform(0.42, 0.56)), float(rng.uniform(0.36, 0.42)), height, 0.16)
    add_basin(b, size, main, metal(rng))
    return b.build("sink", color, "basin on a counter")


def add_basin(
    b: ModelBuilder, size: tuple[float, float, float, float], main: Material, tap: Material
) -> None:
    """Add four rims, a floor and a tap: (width, depth, underside, height of the basin)."""
    width, depth, bottom, high = size
    rim = 0.05
    for sign in (-1, 1):
        b.box((sign * (width - rim) / 2, 0), bottom, (rim, depth, high), main)
        b.box((0, sign * (depth - rim) / 2), bottom, (width - rim, rim, high - 0.001), main)
    inner = Material(shade(main.rgb, 0.86))
    b.box((0, 0), bottom, (width - rim, depth - rim, high * 0.35), inner)
    b.box((0, 0), bottom + high * 0.35, (0.05, 0.05, 0.004), Material((0.15, 0.15, 0.15)))
    b.box((0, -depth / 2 + 0.03), bottom + high, (0.035, 0.035, 0.16), tap)
    b.box((0, -depth / 2 + 0.09), bottom + high + 0.13, (0.03, 0.13, 0.03), tap)


def build_bathtub(rng: np.random.Generator, color: str) -> Model:
    """Build a hollow tub, its long side along the wall, with a tap at one end."""
    b = ModelBuilder()
    rgb = sample_rgb(color, rng)
    main = Material(rgb, shade(rgb, 0.9), "plain", 0.4, 0.15)
    width, depth = float(rng.uniform(1.45, 1.75)), float(rng.uniform(0.68, 0.8))
    height, rim = float(rng.uniform(0.5, 0.6)), 0.08
    for sign in (-1, 1):
        b.box((sign * (width - rim) / 2, 0), 0.0, (rim, depth, height), main)
        b.box((0, sign * (depth - rim) / 2), 0.0, (width - rim, rim, height - 0.001), main)
    inner = Material(shade(rgb, 0.95))
    b.box((0, 0), 0.0, (width - rim, depth - rim, 0.16), inner)
    side, tap = float(rng.choice([-1, 1])), metal(rng)
    b.box((side * (width / 2 - 0.04), 0), height, (0.04, 0.05, 0.18), tap)
    b.box((side * (width / 2 - 0.1), 0), height + 0.14, (0.14, 0.04, 0.035), tap)
    return b.build("bathtub", color, "bathtub")
