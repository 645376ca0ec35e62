# SPDX-License-Identifier: Apache-2.0
"""The words of SynthRooms: classes, colours, splits.

The 18 object classes are those of the ScanNet benchmark. Colours are words with a range of hue,
saturation and value each; the ranges are far enough apart to be told from one another under the
renderer's lights. Next: parts.py, which turns colours into materials.
"""

from __future__ import annotations

import colorsys

import numpy as np

STRUCTURE_LABELS = ("wall", "floor", "ceiling", "other")
OBJECT_LABELS = (
    "cabinet",
    "bed",
    "chair",
    "sofa",
    "table",
    "door",
    "window",
    "bookshelf",
    "picture",
    "counter",
    "desk",
    "curtain",
    "refrigerator",
    "shower curtain",
    "toilet",
    "sink",
    "bathtub",
    "trash can",
)
LABELS = STRUCTURE_LABELS + OBJECT_LABELS
LABEL_IDS = {label: index for index, label in enumerate(LABELS)}
PLURALS = {label: label + "s" for label in OBJECT_LABELS} | {"bookshelf": "bookshelves"}

# Hue in degrees (may pass 360), saturation, value: (low, high) each, in display space.
COLOR_RANGES: dict[str, tuple[tuple[float, float], ...]] = {
    "red": ((354.0, 364.0), (0.82, 0.95), (0.66, 0.85)),
    "orange": ((22.0, 30.0), (0.88, 1.0), (0.92, 1.0)),
    "yellow": ((51.0, 57.0), (0.75, 0.92), (0.88, 0.98)),
    "green": ((105.0, 145.0), (0.60, 0.85), (0.42, 0.64)),
    "blue": ((208.0, 226.0), (0.68, 0.90), (0.55, 0.82)),
    "purple": ((273.0, 290.0), (0.52, 0.75), (0.48, 0.66)),
    "brown": ((20.0, 28.0), (0.58, 0.74), (0.30, 0.42)),
    "white": ((30.0, 60.0), (0.0, 0.04), (0.92, 0.99)),
    "gray": ((200.0, 240.0), (0.0, 0.06), (0.44, 0.54)),
    "black": ((200.0, 240.0), (0.0, 0.15), (0.05, 0.12)),
}
COLORS = tuple(COLOR_RANGES)

# First seed of each split; a split ends where the next begins.
SPLITS = {"train": 0, "val": 1_000_000, "test": 2_000_000}
SPLIT_SIZE = 1_000_000

Rgb = tuple[float, float, float]


def split_of(seed: int) -> str:
    """Return the split a room's seed belongs to.

    Raises:
        ValueError: the seed is in no split.
    """
    for name, first in SPLITS.items():
        if first <= seed < first + SPLIT_SIZE:
            return name
    raise ValueError(f"seed: expected 0 to {len(SPLITS) * SPLIT_SIZE - 1}, got {seed}")


def hsv(hue_deg: float, saturation: float, value: float) -> Rgb:
    """Return display RGB in [0, 1] of a hue in degrees, a saturation and a value."""
    return colorsys.hsv_to_rgb(hue_deg % 360.0 / 360.0, saturation, value)


def sample_rgb(color: str, rng: np.random.Generator) -> Rgb:
    """Return a display RGB that people would call by this word."""
    hue, saturation, value = (float(rng.uniform(*limits)) for limits in COLOR_RANGES[color])
    return hsv(hue, saturation, value)


def color_words(rgb: Rgb) -> tuple[str, ...]:
    """Return every colour word whose range holds this RGB; empty between the ranges."""
    hue, saturation, value = colorsys.rgb_to_hsv(*rgb)
    found = []
    for word, (hues, saturations, values) in COLOR_RANGES.items():
        turned = hue * 360.0 + (360.0 if hue * 360.0 < hues[0] and hues[1] > 360.0 else 0.0)
        colorless = saturations[0] == 0.0
        fits_hue = colorless or hues[0] - 1e-6 <= turned <= hues[1] + 1e-6
        fits_saturation = saturations[0] - 1e-6 <= saturation <= saturations[1] + 1e-6
        if fits_hue and fits_saturation and values[0] - 1e-6 <= value <= values[1] + 1e-6:
            found.append(word)
    return tuple(found)
