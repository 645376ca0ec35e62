# SPDX-License-Identifier: Apache-2.0
"""Everything in a room is made of oriented boxes; a material says how each is textured.

A `Model` is built in its own frame: x to its right as seen from behind, y to its front, z up, the
origin on the floor in the middle. `ModelBuilder` collects its parts.
Next: furniture.py and fixtures.py, which build the 18 classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.data.synthrooms.vocabulary import Rgb, hsv

TEXTURES = (
    "plain",  # faint mottling
    "wood",  # grain along the longer edge of the face
    "planks",  # boards with gaps
    "tiles",  # square tiles with grout
    "bricks",  # running bond
    "stripes",  # two colours side by side
    "fabric",  # fine grain
    "plaster",  # coarse, faint mottling
    "checks",  # two colours in squares, faint
    "folds",  # hanging cloth
    "landscape",  # a painting with a horizon
    "abstract",  # a painting of blots
    "sky",  # what is seen through a window
)
TEXTURE_IDS = {name: index for index, name in enumerate(TEXTURES)}


@dataclass(frozen=True)
class Material:
    """How a surface looks.

    Attributes:
        rgb: main colour, display space, [0, 1].
        second_rgb: colour of grain, grout, the other stripe.
        texture: one of `TEXTURES`.
        period_m: size of the pattern's repeat.
        strength: how far the pattern goes towards the second colour, 0 to 1.
        glow: light given off, in units of a white surface under the ambient light.
    """

    rgb: Rgb
    second_rgb: Rgb = (0.2, 0.2, 0.2)
    texture: str = "plain"
    period_m: float = 0.2
    strength: float = 0.5
    glow: float = 0.0


@dataclass(frozen=True)
class Part:
    """A box in its model's frame: tipped back about its x by `tip_rad`, then turned about z."""

    center: tuple[float, float, float]
    size: tuple[float, float, float]
    material: Material
    turn_rad: float = 0.0
    tip_rad: float = 0.0

    def rotation(self) -> NDArray[np.float64]:
        """Return the rotation from the part's axes to the model's, (3, 3)."""
        c, s = math.cos(self.turn_rad), math.sin(self.turn_rad)
        ct, st = math.cos(self.tip_rad), math.sin(self.tip_rad)
        turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        tip = np.array([[1.0, 0.0, 0.0], [0.0, ct, -st], [0.0, st, ct]])
        return turn @ tip

    def half_extent(self) -> tuple[float, float, float]:
        """Return half the edges of the axis-aligned box around the part, in the model's frame."""
        if self.turn_rad == 0.0 and self.tip_rad == 0.0:
            return (self.size[0] / 2, self.size[1] / 2, self.size[2] / 2)
        half = np.abs(self.rotation()) @ (np.array(self.size) / 2)
        return (float(half[0]), float(half[1]), float(half[2]))


@dataclass(frozen=True)
class Model:
    """Parts of one thing, with the tight box around them in the model's frame.

    Attributes:
        low, high: corners of the box around all parts, m.
        color: its colour word, empty if none dominates.
        kind: what sort of the class it is, such as "office chair".
    """

    label: str
    parts: tuple[Part, ...]
    low: tuple[float, float, float]
    high: tuple[float, float, float]
    color: str = ""
    kind: str = ""

    @property
    def size(self) -> tuple[float, float, float]:
        low, high = self.low, self.high
        return (high[0] - low[0], high[1] - low[1], high[2] - low[2])


@dataclass
class ModelBuilder:
    """Collects parts; lengths in metres, z is given as the height of the underside."""

    parts: list[Part] = field(default_factory=list)

    def box(
        self,
        center_xy: tuple[float, float],
        bottom: float,
        size: tuple[float, float, float],
        material: Material,
        turn_rad: float = 0.0,
        tip_rad: float = 0.0,
    ) -> None:
        """Add a box that stands at `center_xy` on the height `bottom`."""
        center = (center_xy[0], center_xy[1], bottom + size[2] / 2)
        self.parts.append(Part(center, size, material, turn_rad, tip_rad))

    def legs(
        self, size: tuple[float, float], height: float, thickness: float, material: Material
    ) -> None:
        """Add four legs under the corners of a rectangle of this size about the origin."""
        for sx in (-0.5, 0.5):
            for sy in (-0.5, 0.5):
                xy = (sx * (size[0] - thickness), sy * (size[1] - thickness))
                self.box(xy, 0.0, (thickness, thickness, height), material)

    def build(self, label: str, color: str = "", kind: str = "") -> Model:
        """Return the model of all parts added so far."""
        low = [math.inf] * 3
        high = [-math.inf] * 3
        for part in self.parts:
            half = part.half_extent()
            for axis in range(3):
                low[axis] = min(low[axis], part.center[axis] - half[axis])
                high[axis] = max(high[axis], part.center[axis] + half[axis])
        return Model(
            label,
            tuple(self.parts),
            (low[0], low[1], low[2]),
            (high[0], high[1], high[2]),
            color,
            kind or label,
        )


def shade(rgb: Rgb, factor: float) -> Rgb:
    """Return the colour made darker (factor below 1) or lighter, kept in [0, 1]."""
    return (min(rgb[0] * factor, 1.0), min(rgb[1] * factor, 1.0), min(rgb[2] * factor, 1.0))


def mix(first: Rgb, second: Rgb, share: float) -> Rgb:
    """Return the colour this share of the way from the first to the second."""
    keep = 1.0 - share
    return (
        first[0] * keep + second[0] * share,
        first[1] * keep + second[1] * share,
        first[2] * keep + second[2] * share,
    )


def pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    """Return one of the options, all as likely."""
    return options[int(rng.integers(len(options)))]


def solid(rgb: Rgb, rng: np.random.Generator, surface: str = "") -> Material:
    """Return a material whose dominant colour is `rgb`.

    A "hard" surface is lacquer or stained wood, a "soft" one cloth, an empty word means either.
    """
    textures = {
        "hard": ("plain", "wood", "wood"),
        "soft": ("fabric", "fabric", "stripes", "checks"),
    }
    texture = pick(rng, textures.get(surface, ("plain", "wood", "fabric")))
    second = shade(rgb, 0.72) if max(rgb) > 0.2 else mix(rgb, (1.0, 1.0, 1.0), 0.12)
    period = {"stripes": (0.06, 0.2), "checks": (0.08, 0.25)}.get(texture, (0.15, 0.4))
    return Material(
        rgb, second, texture, float(rng.uniform(*period)), float(rng.uniform(0.35, 0.8))
    )


def metal(rng: np.random.Generator) -> Material:
    """Return a handle's or a leg's metal: bright, dull or black."""
    return Material(hsv(220.0, 0.04, float(rng.choice([0.12, 0.4, 0.7, 0.82]))), strength=0.2)


def neutral_wood(rng: np.random.Generator) -> Material:
    """Return unpainted wood, light to dark; for legs and frames, never the dominant part."""
    rgb = hsv(
        float(rng.uniform(24, 34)), float(rng.uniform(0.35, 0.6)), float(rng.uniform(0.3, 0.75))
    )
    return Material(rgb, shade(rgb, 0.7), "wood", 0.2, 0.6)
