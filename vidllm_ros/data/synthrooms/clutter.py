# SPDX-License-Identifier: Apache-2.0
"""Small things without a name: they carry the label "other" and no instance id.

Clutter makes pictures real and questions hard; nobody is asked about it.
Next: layout.py, which puts it on tables and floors.
"""

from __future__ import annotations

import numpy as np

from vidllm_ros.data.synthrooms.parts import (
    Material,
    Model,
    ModelBuilder,
    metal,
    mix,
    pick,
    shade,
)
from vidllm_ros.data.synthrooms.vocabulary import COLORS, hsv, sample_rgb

DARK = Material((0.06, 0.06, 0.07))


def build_monitor(rng: np.random.Generator) -> Model:
    """Build a dark screen on a foot, or one that is on."""
    b = ModelBuilder()
    wide = float(rng.uniform(0.42, 0.6))
    b.box((0, 0), 0.0, (0.22, 0.16, 0.02), DARK)
    b.box((0, -0.03), 0.0, (0.05, 0.03, 0.16), DARK)
    b.box((0, 0), 0.12, (wide, 0.04, wide * 0.62), DARK)
    if rng.random() < 0.6:
        screen = mix(any_rgb(rng), (0.5, 0.6, 0.8), 0.6)
        b.box(
            (0, 0.015), 0.14, (wide - 0.04, 0.02, wide * 0.62 - 0.04), Material(screen, glow=0.6)
        )
    return b.build("other", "", "monitor")


def build_lamp(rng: np.random.Generator) -> Model:
    b = ModelBuilder()
    b.box((0, 0), 0.0, (0.12, 0.12, 0.02), DARK)
    b.box((0, 0), 0.0, (0.03, 0.03, 0.28), metal(rng))
    b.box(
        (0, 0), 0.24, (0.2, 0.2, 0.17), Material(mix(any_rgb(rng), (1, 0.95, 0.8), 0.7), glow=0.7)
    )
    return b.build("other", "", "lamp")


def build_books(rng: np.random.Generator) -> Model:
    b = ModelBuilder()
    for level in range(int(rng.integers(1, 4))):
        turn = float(rng.uniform(-0.4, 0.4))
        b.box((0, 0), 0.035 * level, (0.2, 0.27, 0.035), Material(any_rgb(rng)), turn_rad=turn)
    return b.build("other", "", "books")


def build_plant(rng: np.random.Generator) -> Model:
    b = ModelBuilder()
    pot = float(rng.uniform(0.12, 0.2))
    leaf = Material(hsv(115, 0.7, 0.4), (0.1, 0.2, 0.08), "abstract", 0.2)
    b.box((0, 0), 0.0, (pot, pot, pot), Material(any_rgb(rng)))
    for turn in (0.0, 1.2):
        b.box((0, 0), pot, (pot * 1.7, pot * 0.4, pot * 1.8), leaf, turn, 0.2)
    return b.build("other", "", "plant")


def build_mug(rng: np.random.Generator) -> Model:
    b = ModelBuilder()
    b.box((0, 0), 0.0, (0.08, 0.08, 0.1), Material(any_rgb(rng)))
    return b.build("other", "", "mug")


def build_carton(rng: np.random.Generator) -> Model:
    b = ModelBuilder()
    rgb = any_rgb(rng)
    main = Material(rgb, shade(rgb, 0.7), pick(rng, ("plain", "stripes", "fabric")), 0.06)
    size = (float(rng.uniform(0.2, 0.35)), 0.2, float(rng.uniform(0.1, 0.2)))
    b.box((0, 0), 0.0, size, main, turn_rad=float(rng.uniform(-0.5, 0.5)))
    return b.build("other", "", "box")


def build_rug(rng: np.random.Generator) -> Model:
    b = ModelBuilder()
    rgb, second = any_rgb(rng), any_rgb(rng)
    weave = Material(rgb, second, pick(rng, ("stripes", "checks", "fabric")), 0.3, 0.5)
    size = (float(rng.uniform(1.2, 2.0)), float(rng.uniform(0.9, 1.4)))
    b.box((0, 0), 0.0, (*size, 0.008), weave)
    edge = Material(shade(rgb, 0.6), texture="fabric")
    b.box((0, 0), 0.0, (size[0] + 0.1, size[1] + 0.1, 0.005), edge)
    return b.build("other", "", "rug")


def build_ceiling_lamp(rng: np.random.Generator) -> Model:
    """Build a glowing pane that hangs down from z = 0."""
    b = ModelBuilder()
    wide = float(rng.uniform(0.25, 0.5))
    b.box((0, 0), -0.06, (wide, wide, 0.06), Material((1.0, 0.97, 0.9), glow=1.6))
    return b.build("other", "", "ceiling lamp")


TABLE_CLUTTER = {
    "monitor": build_monitor,
    "lamp": build_lamp,
    "books": build_books,
    "plant": build_plant,
    "mug": build_mug,
    "box": build_carton,
}


def any_rgb(rng: np.random.Generator) -> tuple[float, float, float]:
    """Return any nameable colour."""
    return sample_rgb(pick(rng, COLORS), rng)
