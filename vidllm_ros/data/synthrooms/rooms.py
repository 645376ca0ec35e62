# SPDX-License-Identifier: Apache-2.0
"""A seed becomes a room: walls, furnished floor, lights, and the boxes all of it is made of.

`Room.boxes` is all the renderer needs; `Room.objects` is all that can be asked about.
Next: walk.py, which leads a camera through it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.data.samples import SceneObject
from vidllm_ros.data.synthrooms.arrange import ROOM_KINDS, ROOM_SIZES, furnish
from vidllm_ros.data.synthrooms.layout import Layout, Placement, Rectangle
from vidllm_ros.data.synthrooms.parts import TEXTURE_IDS, Material, pick, shade
from vidllm_ros.data.synthrooms.vocabulary import LABEL_IDS, hsv, split_of
from vidllm_ros.structures import GroundedBox

LAYOUT_STREAM, SURFACE_STREAM, LIGHT_STREAM = 1, 2, 3
WALL_THICKNESS_M = 0.2
LOWEST_CAMERA_M = 1.1


@dataclass(frozen=True)
class BoxSet:
    """Every box of a room, N of them, in the room's world.

    Attributes:
        centers: (N, 3), m.
        halves: half edges, (N, 3), m.
        rotations: box axes to the room's, (N, 3, 3).
        object_ids: (N,), -1 for structure and clutter.
        label_ids: index into LABELS, (N,).
        textures: index into TEXTURES, (N,).
        rgb, second_rgb: display colours, (N, 3).
        pattern: period m, strength, glow, and two pattern offsets m, (N, 5).
    """

    centers: NDArray[np.float32]
    halves: NDArray[np.float32]
    rotations: NDArray[np.float32]
    object_ids: NDArray[np.int32]
    label_ids: NDArray[np.int16]
    textures: NDArray[np.int64]
    rgb: NDArray[np.float32]
    second_rgb: NDArray[np.float32]
    pattern: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.centers)


@dataclass(frozen=True)
class Light:
    """A point light: position m, colour times power; the falloff halves the light at `reach_m`."""

    position: tuple[float, float, float]
    rgb: tuple[float, float, float]
    reach_m: float


@dataclass(frozen=True)
class Room:
    """A furnished room; origin on the floor in the middle, z up, metres.

    Attributes:
        size: length along x, width along y, height, m.
        lights: the first one casts shadows.
        ambient: light from everywhere, per channel.
        obstacles: floor plans of what stands in a camera's way.
    """

    seed: int
    kind: str
    size: tuple[float, float, float]
    objects: tuple[SceneObject, ...]
    boxes: BoxSet
    lights: tuple[Light, ...]
    ambient: tuple[float, float, float]
    obstacles: tuple[Rectangle, ...]

    @property
    def split(self) -> str:
        return split_of(self.seed)


def generate_room(seed: int, attempt: int = 0) -> Room:
    """Return the room of a seed; another attempt gives another room of the same seed.

    Raises:
        ValueError: the seed is in no split.
    """
    split_of(seed)
    rng = np.random.default_rng([seed, LAYOUT_STREAM, attempt])
    kind = pick(rng, ROOM_KINDS)
    low, high = ROOM_SIZES[kind]
    short, long = sorted(float(rng.uniform(low, high)) for _ in range(2))
    size = (long, short, float(rng.uniform(2.45, 3.0)))
    layout = Layout(size, rng)
    furnish(layout, kind)
    surfaces = np.random.default_rng([seed, SURFACE_STREAM, attempt])
    boxes = collect_boxes(layout, surfaces)
    light_rng = np.random.default_rng([seed, LIGHT_STREAM, attempt])
    lights, ambient = make_lights(layout, light_rng)
    obstacles = tuple(
        p.rectangle() for p in layout.placed if p.bottom < LOWEST_CAMERA_M and p.top > 0.05
    )
    objects = tuple(make_object(index, p) for index, p in enumerate(layout.placed))
    return Room(seed, kind, size, objects, boxes, lights, ambient, obstacles)


def make_object(index: int, placement: Placement) -> SceneObject:
    """Return what can be asked about a placed model, with its tight oriented box."""
    model, yaw = placement.model, math.remainder(placement.yaw_rad, 2 * math.pi)
    x, y, _, _, _ = placement.rectangle()
    sign = 1.0 if math.cos(yaw / 2) >= 0 else -1.0
    box = GroundedBox(
        label=model.label,
        score=1.0,
        center=np.array([x, y, (placement.bottom + placement.top) / 2]),
        size=np.array(model.size),
        quat_xyzw=sign * np.array([0.0, 0.0, math.sin(yaw / 2), math.cos(yaw / 2)]),
        object_id=str(index),
    )
    return SceneObject(index, model.label, box, model.color, {"kind": model.kind})


def collect_boxes(layout: Layout, rng: np.random.Generator) -> BoxSet:
    """Turn structure, furniture and clutter into one set of boxes."""
    rows: list[tuple[NDArray[np.float64], tuple[float, float, float], NDArray[np.float64]]] = []
    ids: list[tuple[int, int]] = []
    materials: list[Material] = []
    for center, edges, label, material in structure(layout.size, rng):
        rows.append((np.array(center), edges, np.eye(3)))
        ids.append((-1, LABEL_IDS[label]))
        materials.append(material)
    named = list(enumerate(layout.placed)) + [(-1, p) for p in layout.clutter]
    for object_id, placement in named:
        c, s = math.cos(placement.yaw_rad), math.sin(placement.yaw_rad)
        turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        origin = np.array([placement.x, placement.y, placement.z])
        for part in placement.model.parts:
            plain = part.turn_rad == 0.0 and part.tip_rad == 0.0
            rotation = turn if plain else turn @ part.rotation()
            rows.append((turn @ np.array(part.center) + origin, part.size, rotation))
            ids.append((object_id, LABEL_IDS[placement.model.label]))
            materials.append(part.material)
    offsets = rng.uniform(0.0, 8.0, (len(rows), 2))
    return BoxSet(
        centers=np.array([row[0] for row in rows], np.float32),
        halves=np.array([row[1] for row in rows], np.float32) / np.float32(2),
        rotations=np.array([row[2] for row in rows], np.float32),
        object_ids=np.array([i for i, _ in ids], np.int32),
        label_ids=np.array([i for _, i in ids], np.int16),
        textures=np.array([TEXTURE_IDS[m.texture] for m in materials], np.int64),
        rgb=np.array([m.rgb for m in materials], np.float32),
        second_rgb=np.array([m.second_rgb for m in materials], np.float32),
        pattern=np.array(
            [
                (m.period_m, m.strength, m.glow, *offset)
                for m, offset in zip(materials, offsets, strict=True)
            ],
            np.float32,
        ),
    )


Slab = tuple[tuple[float, float, float], tuple[float, float, float], str, Material]


def structure(size: tuple[float, float, float], rng: np.random.Generator) -> list[Slab]:
    """Return floor, ceiling, walls and skirting as (center, edges, label, material)."""
    length, width, height = size
    thick = WALL_THICKNESS_M
    wall, floor, ceiling = wall_material(rng), floor_material(rng), ceiling_material(rng)
    accent = wall_material(rng) if rng.random() < 0.35 else wall
    accented = int(rng.integers(4))
    outer = (length + 2 * thick, width + 2 * thick)
    slabs: list[Slab] = [
        ((0.0, 0.0, -thick / 2), (*outer, thick), "floor", floor),
        ((0.0, 0.0, height + thick / 2), (*outer, thick), "ceiling", ceiling),
    ]
    skirting = Material(
        shade(wall.rgb, float(rng.choice([0.5, 0.8, 1.2]))), texture="wood", strength=0.1
    )
    board = 0.08 if rng.random() < 0.7 else 0.0
    for index, (sx, sy) in enumerate(((0, -1), (1, 0), (0, 1), (-1, 0))):
        along = (length if sx == 0 else thick, width if sy == 0 else thick, height)
        center = (sx * (length + thick) / 2, sy * (width + thick) / 2, height / 2)
        slabs.append((center, along, "wall", accent if index == accented else wall))
        if board > 0:
            deep = 0.012
            edges = (length if sx == 0 else deep, width if sy == 0 else deep, board)
            inner = (sx * (length - deep) / 2, sy * (width - deep) / 2, board / 2)
            slabs.append((inner, edges, "wall", skirting))
    return slabs


def wall_material(rng: np.random.Generator) -> Material:
    """Return paint, paper, tiles or bricks; pale, so that furniture stands out."""
    hue, value = float(rng.uniform(0, 360)), float(rng.uniform(0.62, 0.95))
    rgb = hsv(hue, float(rng.uniform(0.02, 0.28)), value)
    texture = str(rng.choice(["plaster"] * 5 + ["stripes", "tiles", "bricks", "checks", "fabric"]))
    second = shade(rgb, float(rng.choice([0.75, 0.85, 1.15])))
    period = {"tiles": (0.15, 0.4), "bricks": (0.2, 0.3), "stripes": (0.1, 0.4)}.get(
        texture, (0.2, 0.6)
    )
    strength = 0.6 if texture in ("tiles", "bricks") else float(rng.uniform(0.25, 0.5))
    return Material(rgb, second, texture, float(rng.uniform(*period)), strength)


def floor_material(rng: np.random.Generator) -> Material:
    """Return boards, tiles, carpet or concrete."""
    texture = str(rng.choice(["planks", "planks", "tiles", "fabric", "checks", "plaster"]))
    if texture == "planks":
        rgb = hsv(
            float(rng.uniform(20, 38)),
            float(rng.uniform(0.25, 0.6)),
            float(rng.uniform(0.35, 0.8)),
        )
        return Material(rgb, shade(rgb, 0.55), texture, float(rng.uniform(0.09, 0.2)), 0.8)
    rgb = hsv(
        float(rng.uniform(0, 360)), float(rng.uniform(0, 0.3)), float(rng.uniform(0.3, 0.85))
    )
    period = float(rng.uniform(0.25, 0.6))
    return Material(rgb, shade(rgb, 0.65), texture, period, float(rng.uniform(0.4, 0.9)))


def ceiling_material(rng: np.random.Generator) -> Material:
    """Return a nearly white ceiling."""
    rgb = hsv(
        float(rng.uniform(20, 60)), float(rng.uniform(0, 0.06)), float(rng.uniform(0.85, 0.98))
    )
    return Material(rgb, shade(rgb, 0.9), "plaster", 0.5, 0.3)


def make_lights(
    layout: Layout, rng: np.random.Generator
) -> tuple[tuple[Light, ...], tuple[float, float, float]]:
    """Return a light under each ceiling lamp, one at each window, and the ambient light."""
    lights = []
    power, warmth = float(rng.uniform(0.7, 1.2)), float(rng.uniform(0.8, 1.0))
    lamps = [p for p in layout.clutter if p.model.kind == "ceiling lamp"]
    for lamp in lamps:
        rgb = (power, power * (0.5 + 0.5 * warmth), power * warmth)
        lights.append(Light((lamp.x, lamp.y, layout.size[2] - 0.2), rgb, 2.4))
    for window in (p for p in layout.placed if p.model.label == "window"):
        x, y = window.point(0.0, 0.35)
        day = float(rng.uniform(0.3, 1.0))
        height = (window.bottom + window.top) / 2
        lights.append(Light((x, y, height), (day * 0.92, day * 0.97, day), 1.8))
    level = float(rng.uniform(0.35, 0.55))
    return tuple(lights), (level, level * 0.98, level * 0.96)
