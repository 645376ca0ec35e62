# SPDX-License-Identifier: Apache-2.0
"""Patterns evaluated where a ray lands: no image files, no seams, any resolution.

A pattern gives each point of a face two numbers: how far its colour goes from the main to the
second colour, and a gain on the result. Coordinates are metres on the face (u across, v up or
along), so that a board is as wide on a table as on the floor. Detail finer than the pixel fades to
its mean. Next: shading.py, which lights the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import torch
from torch import Tensor

from vidllm_ros.data.synthrooms.parts import TEXTURES

TILE = 512


@dataclass(frozen=True)
class FacePoints:
    """Points of one texture, P of them.

    Attributes:
        u, v: place on the face, m, with the pattern's offset; the grain runs along u.
        height: v without the offset, in the box's own axis, m, from its middle.
        period, strength: of the material.
        footprint: size of the pixel on the face, m.
        seed: a number of the box, for what differs from box to box.
    """

    u: Tensor
    v: Tensor
    height: Tensor
    period: Tensor
    strength: Tensor
    footprint: Tensor
    seed: Tensor


Pattern = Callable[[FacePoints, "NoiseTables"], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class NoiseTables:
    """Tables that are the same for every room: smooth noise in [-1, 1] and white noise in [0, 1].

    Attributes:
        smooth: (TILE * TILE,), repeats in both directions.
        white: (65536,).
    """

    smooth: Tensor
    white: Tensor

    def cloud(self, x: Tensor, y: Tensor) -> Tensor:
        """Return smooth noise at table coordinates; neighbouring cells agree over about 16."""
        column, row = whole(x).bitwise_and_(TILE - 1), whole(y).bitwise_and_(TILE - 1)
        return self.smooth.index_select(0, row.mul_(TILE).add_(column))

    def cell(self, i: Tensor, j: Tensor, seed: Tensor) -> Tensor:
        """Return one random number in [0, 1] for each integer cell."""
        key = i.int() * 7919 + j.int() * 104729 + seed.int() * 1299709  # overflow is welcome
        return self.white.index_select(0, key.bitwise_and_(65535))


def whole(values: Tensor) -> Tensor:
    """Return the largest integers below; 32 bits, half the memory and time of 64."""
    return values.floor().to(torch.int32)


@lru_cache(maxsize=4)
def noise_tables(device: str) -> NoiseTables:
    """Return the tables on a device."""
    rng = np.random.default_rng(20240229)
    total = np.zeros((TILE, TILE), np.float32)
    for octave in range(5):
        cells = 2 ** (octave + 4)
        grid = np.pad(rng.standard_normal((cells, cells)).astype(np.float32), 2, mode="wrap")
        scale = TILE // cells
        grown = cv2.resize(grid, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        total += grown[2 * scale : -2 * scale, 2 * scale : -2 * scale] * 0.6**octave
    total /= 2.2 * total.std()
    white = rng.random(65536, dtype=np.float32)
    return NoiseTables(
        torch.from_numpy(np.clip(total, -1, 1).ravel()).to(device),
        torch.from_numpy(white).to(device),
    )


def fade(points: FacePoints, detail: Tensor | float) -> Tensor:
    """Return 1 where detail of this size is well resolved, 0 where it is below a pixel."""
    return (1.5 - 1.5 * points.footprint / detail).clamp(0.0, 1.0)


def line(position: Tensor, width: Tensor | float, points: FacePoints) -> Tensor:
    """Return 1 on lines of a width in m at integer positions in periods; thin ones smear."""
    away = (position - position.round()).abs() * points.period
    half = width / 2 + points.footprint / 2
    cover = width / (points.footprint + width)
    return (away < half) * cover


def plain(p: FacePoints, noise: NoiseTables) -> tuple[Tensor, Tensor]:
    gain = 1 + 0.05 * noise.cloud(p.u * 60, p.v * 60)
    return torch.zeros_like(p.u), gain


def wood(p: FacePoints, noise: NoiseTables) -> tuple[Tensor, Tensor]:
    grain = noise.cloud(p.u * 25, p.v * 420 + p.seed * 37)
    broad = noise.cloud(p.u * 12, p.v * 110)
    mix = p.strength * (0.3 + 0.35 * grain * fade(p, 0.03) + 0.3 * broad)
    return mix.clamp(0, 1), torch.ones_like(p.u)


def planks(p: FacePoints, noise: NoiseTables) -> tuple[Tensor, Tensor]:
    row = p.v / p.period
    index = row.floor()
    zero = torch.zeros_like(index)
    shifted = p.u / (p.period * 8) + noise.cell(index, zero, p.seed)
    tone = noise.cell(index, shifted.floor(), p.seed + 1)
    grain = noise.cloud(p.u * 25 + tone * 300, p.v * 420) * fade(p, 0.03)
    gap = torch.maximum(line(row, 0.006, p), line(shifted, 0.05, p) * fade(p, 0.02))
    mix = p.strength * (0.65 * tone + 0.2 * grain)
    return torch.maximum(mix, gap).clamp(0, 1), 1 - 0.35 * gap


def tiles(p: FacePoints, noise: NoiseTables) -> tuple[Tensor, Tensor]:
    x, y = p.u / p.period, p.v / p.period
    grout = torch.maximum(line(x, 0.012, p), line(y, 0.012, p))
    tone = noise.cell((x + 0.5).floor(), (y + 0.5).floor(), p.seed)
    vein = noise.cloud(p.u * 50, p.v * 50)
    return grout * (0.4 + 0.6 * p.strength), 1 + 0.14 * (tone - 0.5) + 0.04 * vein


def bricks(p: FacePoints, noise: NoiseTables) -> tuple[Tensor, Tensor]:
    row = p.v / (p.period * 0.34)
    index = (row + 0.5).floor()
    x = p.u / p.period + 0.5 * (index % 2)
    joint = torch.maximum(line(row, 0.03, p), line(x, 0.012, p))
    tone = noise.cell((x + 0.5).floor(), index, p.seed)
    return joint * (0.4 + 0.6 * p.strength), 1 + 0.3 * (tone - 0.5)


def stripes(p: FacePoints, noise: NoiseTables) -> tuple[Tensor, Tensor]:
    phase = p.v / p.period
    on = ((phase - phase.floor()) < 0.35) * fade(p, p.period * 0.5)
    mean = 0.35 * (1 - fade(p, p.period * 0.5))
    return p.strength * (on + mean), 1 + 0.04 * noise.cloud(p.u * 90, p.v * 90)


def fabric(p: FacePoints, noise: NoiseTables) -> tuple[Tensor, Tensor]:
    weave = noise.cloud(p.u * 500, p.v * 500) * fade(p, 0.02)
    fold = noise.cloud(p.u * 40, p.v * 40)
    return torch.zeros_like(p.u), 1 + p.strength * (0.16 * weave + 0.12 * fold)


def plaster(p: FacePoints, noise: NoiseTables) -> tuple[Tensor, Tensor]:
    coarse = noise.cloud(p.u * 20 / p.period, p.v * 20 / p.period)
    fine = noise.cloud(p.v * 220, p.u * 220) * fade(p, 0.05)
    return torch.zeros_like(p.u), 1 + p.strength * (0.12 * coarse + 0.12 * fine)


def checks(p: FacePoints, noise: NoiseTables) -> tuple[Tensor, Tensor]:
    parity = ((p.u / p.period).floor() + (p.v / p.period).floor()) % 2
    sharp = fade(p, p.period * 0.6)
    mix = p.strength * 0.8 * (parity * sharp + 0.5 * (1 - sharp))
    return mix, 1 + 0.03 * noise.cloud(p.u * 90, p.v * 90)


def folds(p: FacePoints, noise: NoiseTables) -> tuple[Tensor, Tensor]:
    wave = torch.sin(p.v * (6.2832 / p.period))
    ripple = noise.cloud(p.v * 150, p.u * 15)
    return p.strength * (0.25 + 0.25 * wave * fade(p, p.period * 0.7) + 0.15 * ripple), (
        torch.ones_like(p.u)
    )


def landscape(p: FacePoints, noise: NoiseTables) -> tuple[Tensor, Tensor]:
    ridge = noise.cloud(p.u * 60, p.seed * 13) * 0.12 - 0.22
    below = (p.height / p.period < ridge) * 1.0
    haze = (0.12 * noise.cloud(p.u * 40, p.v * 140)).clamp(min=-0.05)
    return (below * p.strength + haze).clamp(0, 1), 1 + 0.2 * (p.height / p.period)


def abstract(p: FacePoints, noise: NoiseTables) -> tuple[Tensor, Tensor]:
    blot = noise.cloud(p.u * 110, p.v * 110) > 0.42
    streak = noise.cloud(p.v * 60 + 200, p.u * 60 + 100)
    return blot * p.strength, 1 + 0.25 * streak


def sky(p: FacePoints, noise: NoiseTables) -> tuple[Tensor, Tensor]:
    skyline = -0.18 + 0.1 * noise.cloud(p.u * 50, p.seed * 29)
    below = (p.height / p.period < skyline) * 1.0
    cloud = noise.cloud(p.u * 30, p.v * 90)
    return below * 0.9, 1 + 0.12 * cloud + 0.1 * (p.height / p.period)


PATTERNS: dict[str, Pattern] = {
    "plain": plain,
    "wood": wood,
    "planks": planks,
    "tiles": tiles,
    "bricks": bricks,
    "stripes": stripes,
    "fabric": fabric,
    "plaster": plaster,
    "checks": checks,
    "folds": folds,
    "landscape": landscape,
    "abstract": abstract,
    "sky": sky,
}
if tuple(PATTERNS) != TEXTURES:  # the index in a material is the index here
    raise AssertionError("PATTERNS and TEXTURES list different patterns")
