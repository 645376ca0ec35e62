# SPDX-License-Identifier: Apache-2.0
"""Which way a room lies, from one window alone: upright, and turned along its walls.

Rooms have walls at right angles, and furniture stands along them. ScanNet's benchmarks are
scored, and the language models of its papers are fed, in scans laid along their rooms; a camera's
own frame has no such order. Source: ours, the circular mean of four times the angle. Next:
network/scene_frame.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.geometry.transforms import make_transform
from vidllm_ros.geometry.upright import Float64, Views, find_up, surface_normals

MIN_WALL_NORMALS = 100
MIN_CONCENTRATION = 0.1
"""Length of the mean of exp(4i angle) over walls: 0 where they lie anyhow, 1 where they agree."""
WALL_COSINE = 0.9
_DOWN_LEVEL = np.array([0.0, 1.0, 0.0])


@dataclass(frozen=True)
class SeenViews:
    """The part of a window that `Views` names; shapes and units there."""

    depth: NDArray[np.float32]
    valid: NDArray[np.bool_]
    K: Float64
    T_world_camera: Float64


def room_frame(views: Views) -> Float64:
    """Return T_room_world, (4, 4), a rotation: x right, y down, z ahead along the nearest wall.

    Of the four turns that fit a room's walls the one nearest the first camera's is taken, so that
    a level camera that looks straight at a wall keeps its own frame. Where up is not sure
    (`find_up`), the first camera counts as level; where no walls are, its own heading stays.
    The origin stays where the window's world has it.
    """
    normals = surface_normals(views)
    up = find_up(views, normals)
    first = views.T_world_camera[0, :3, :3]
    down = first @ _DOWN_LEVEL if up is None else -up
    ahead = first[:, 2] - (first[:, 2] @ down) * down
    if np.linalg.norm(ahead) < 1e-6:  # it looks straight up or down: its lower edge is ahead
        ahead = first[:, 1] - (first[:, 1] @ down) * down
    ahead /= np.linalg.norm(ahead)
    right = np.cross(down, ahead)
    turn = _wall_turn(normals, right, ahead, down)
    z = np.cos(turn) * ahead + np.sin(turn) * right
    return make_transform(np.stack([np.cross(down, z), down, z]), np.zeros(3))


def _wall_turn(normals: Float64, right: Float64, ahead: Float64, down: Float64) -> float:
    """Return the angle from `ahead` towards `right` to the nearest wall's direction, rad."""
    level = normals - (normals @ down)[:, None] * down
    walls = level[np.linalg.norm(level, axis=1) > WALL_COSINE]
    if len(walls) < MIN_WALL_NORMALS:
        return 0.0
    angle = np.arctan2(walls @ right, walls @ ahead)
    mean = np.exp(4j * angle).mean()
    return float(np.angle(mean) / 4) if abs(mean) >= MIN_CONCENTRATION else 0.0
