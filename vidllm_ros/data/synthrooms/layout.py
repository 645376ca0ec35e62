# SPDX-License-Identifier: Apache-2.0
"""Find places for models in a room so that nothing runs into anything.

The room's world has its origin on the floor in the middle, x along the room's length, z up. Walls
are numbered south (-y), east (+x), north (+y), west (-x). A placement turns a model about z only;
two placements must not overlap on the floor plan unless one is above the other.
Next: arrange.py, which furnishes rooms by kind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from vidllm_ros.data.synthrooms.parts import Model

MOST_OBJECTS = 20
WALLS = (0, 1, 2, 3)
WALL_YAWS = (0.0, math.pi / 2, math.pi, -math.pi / 2)
Rectangle = tuple[float, float, float, float, float]  # centre x, y, half edges, yaw


@dataclass(frozen=True)
class Placement:
    """A model at a place: origin (x, y, z) m, turn about z; `wall` is -1 if free-standing."""

    model: Model
    x: float
    y: float
    yaw_rad: float
    z: float = 0.0
    wall: int = -1

    @property
    def bottom(self) -> float:
        return self.z + self.model.low[2]

    @property
    def top(self) -> float:
        return self.z + self.model.high[2]

    def point(self, local_x: float, local_y: float) -> tuple[float, float]:
        """Return where a point of the model's floor plan lies in the room."""
        c, s = math.cos(self.yaw_rad), math.sin(self.yaw_rad)
        return (self.x + c * local_x - s * local_y, self.y + s * local_x + c * local_y)

    def rectangle(self) -> Rectangle:
        """Return the floor plan."""
        low, high = self.model.low, self.model.high
        x, y = self.point((low[0] + high[0]) / 2, (low[1] + high[1]) / 2)
        return (x, y, (high[0] - low[0]) / 2, (high[1] - low[1]) / 2, self.yaw_rad)


def rectangle_corners(rectangle: Rectangle) -> list[tuple[float, float]]:
    """Return the four corners in order."""
    x, y, a, b, yaw = rectangle
    c, s = math.cos(yaw), math.sin(yaw)
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    return [(x + c * a * i - s * b * j, y + s * a * i + c * b * j) for i, j in signs]


def rectangles_overlap(first: Rectangle, second: Rectangle, margin: float = 0.0) -> bool:
    """Return whether two turned rectangles come nearer than `margin`; by separating axes."""
    dx, dy = second[0] - first[0], second[1] - first[1]
    reach = math.hypot(first[2], first[3]) + math.hypot(second[2], second[3]) + margin
    if dx * dx + dy * dy > reach * reach:
        return False
    turn = second[4] - first[4]
    c, s = abs(math.cos(turn)), abs(math.sin(turn))
    for own, other in ((first, second), (second, first)):
        cy, sy = math.cos(own[4]), math.sin(own[4])
        along, across = abs(dx * cy + dy * sy), abs(-dx * sy + dy * cy)
        if along > own[2] + other[2] * c + other[3] * s + margin:
            return False
        if across > own[3] + other[2] * s + other[3] * c + margin:
            return False
    return True


@dataclass
class Layout:
    """The room being furnished.

    Attributes:
        size: length along x, width along y, height, m.
        placed: things with a name, in the order they came.
        clutter: things without.
        kept_free: floor that furniture must not cover (before doors), with no height.
    """

    size: tuple[float, float, float]
    rng: np.random.Generator
    placed: list[Placement] = field(default_factory=list)
    clutter: list[Placement] = field(default_factory=list)
    kept_free: list[Rectangle] = field(default_factory=list)

    def wall_length(self, wall: int) -> float:
        return self.size[0] if wall % 2 == 0 else self.size[1]

    def at_wall(
        self, model: Model, wall: int, along: float, gap: float | None = 0.02
    ) -> Placement:
        """Return the model at a wall, `along` m right of its middle as seen from the wall.

        `gap` is the space between the model's back and the wall; None puts its origin on the wall.
        """
        yaw = WALL_YAWS[wall]
        depth = self.size[1] if wall % 2 == 0 else self.size[0]
        off = 0.0 if gap is None else gap - model.low[1]
        c, s = math.cos(yaw), math.sin(yaw)
        inward = -depth / 2 + off
        return Placement(model, c * along - s * inward, s * along + c * inward, yaw, wall=wall)

    def fits(self, placement: Placement, margin: float = 0.02) -> bool:
        """Return whether the placement lies inside the room, not yet full, clear of everything."""
        if len(self.placed) >= MOST_OBJECTS:
            return False
        rectangle = placement.rectangle()
        edge = (self.size[0] / 2 + 1e-6, self.size[1] / 2 + 1e-6)
        if any(abs(x) > edge[0] or abs(y) > edge[1] for x, y in rectangle_corners(rectangle)):
            return False
        if placement.top > self.size[2] - 0.05:
            return False
        if placement.bottom < 0.3 and any(
            rectangles_overlap(rectangle, free) for free in self.kept_free
        ):
            return False
        return not any(
            placement.bottom < other.top + 0.01
            and other.bottom < placement.top + 0.01
            and rectangles_overlap(rectangle, other.rectangle(), margin)
            for other in self.placed
        )

    def try_place(self, placement: Placement, margin: float = 0.02) -> Placement | None:
        """Place it if it fits."""
        if not self.fits(placement, margin):
            return None
        self.placed.append(placement)
        return placement

    def against_wall(
        self, model: Model, walls: tuple[int, ...] = WALLS, tries: int = 16, hung: bool = False
    ) -> Placement | None:
        """Place the model with its back at some wall.

        What is hung (doors, windows, pictures) has its origin in the wall's plane.
        """
        for _ in range(tries):
            wall = int(self.rng.choice(walls))
            room = self.wall_length(wall) / 2 - model.size[0] / 2 - 0.03
            if room <= 0:
                continue
            along = float(self.rng.uniform(-room, room))
            if not hung and self.rng.random() < 0.35:
                along = float(np.sign(along)) * room  # into a corner, as people do
            gap = None if hung else float(self.rng.uniform(0.01, 0.05))
            found = self.try_place(self.at_wall(model, wall, along, gap))
            if found is not None:
                return found
        return None

    def free_standing(self, model: Model, clear: float, tries: int = 24) -> Placement | None:
        """Place the model anywhere with this much floor around it."""
        for _ in range(tries):
            x = float(self.rng.uniform(-0.5, 0.5)) * (self.size[0] - model.size[0] - clear)
            y = float(self.rng.uniform(-0.5, 0.5)) * (self.size[1] - model.size[1] - clear)
            yaw = float(self.rng.choice(WALL_YAWS) + self.rng.normal(0, 0.12))
            placement = Placement(model, x, y, yaw)
            if self.fits(placement, clear):
                self.placed.append(placement)
                return placement
        return None

    def in_front(
        self, model: Model, of: Placement, side: int, along: float, gap: float, turn: float = 0.0
    ) -> Placement | None:
        """Place a model before one side of another, its front towards it.

        Sides are 0 front (+y), 1 left (-x), 2 back, 3 right (+x) of the other model; `along` is
        the offset along that side and `gap` the space between the two, m; `turn` turns the new
        one, rad.
        """
        low, high = of.model.low, of.model.high
        reach = (high[1], -low[0], -low[1], high[0])[side] + gap + model.high[1]
        angle = side * math.pi / 2
        c, s = math.cos(angle), math.sin(angle)
        x, y = of.point(c * along - s * reach, s * along + c * reach)
        yaw = of.yaw_rad + angle + math.pi + turn
        return self.try_place(Placement(model, x, y, yaw))

    def beside(self, model: Model, of: Placement, gap: float) -> Placement | None:
        """Place a model at the same wall, right or left of another one."""
        if of.wall < 0:
            return None
        c, s = math.cos(of.yaw_rad), math.sin(of.yaw_rad)
        middle = c * of.x + s * of.y
        sides = (1, -1) if self.rng.random() < 0.5 else (-1, 1)
        for sign in sides:
            edge = of.model.high[0] if sign > 0 else -of.model.low[0]
            along = middle + sign * (edge + gap + model.size[0] / 2)
            found = self.try_place(self.at_wall(model, of.wall, along))
            if found is not None:
                return found
        return None

    def on_top(self, model: Model, of: Placement) -> None:
        """Put clutter on another thing, clear of what already stands there."""
        low, high = of.model.low, of.model.high
        for _ in range(6):
            x = float(self.rng.uniform(-0.5, 0.5)) * max(high[0] - low[0] - model.size[0], 0.0)
            y = float(self.rng.uniform(-0.5, 0.5)) * max(high[1] - low[1] - model.size[1], 0.0)
            turn = float(self.rng.normal(0, 0.2))
            placement = Placement(model, *of.point(x, y), of.yaw_rad + turn, of.top)
            blocked = any(
                placement.bottom < other.top
                and other.bottom < placement.top
                and rectangles_overlap(placement.rectangle(), other.rectangle())
                for other in (*self.clutter, *self.placed)
                if other is not of and other.model.kind != "rug"
            )
            if not blocked:
                self.clutter.append(placement)
                return
