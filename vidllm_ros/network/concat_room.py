# SPDX-License-Identifier: Apache-2.0
"""The room a public 3D language model knows: z up, along the walls, floor at 0, centred.

LLaVA-3D learnt its places in ScanNet's axis-aligned scans; a window's world is the optical frame
of its first camera. A rigid move takes one to the other (`SceneContext.T_world_scene` takes it
back), so that boxes written as text end up where the robot is. Next: concat_llava3d.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vidllm_ros import prompts
from vidllm_ros.geometry.boxes import transform_box
from vidllm_ros.geometry.room_axes import room_frame
from vidllm_ros.geometry.transforms import (
    T_WORLD_OPTICAL_LEVEL,
    invert_transform,
    transform_points,
)
from vidllm_ros.structures import GroundedBox, Reconstruction, SceneContext

Float64 = NDArray[np.float64]
NOISE_SHARE = 0.02  # of the points along an axis: beyond them nothing is a floor or a wall
_MOST_POINTS = 20_000


def room_of(rec: Reconstruction, points: Float64) -> Float64:
    """Return T_room_window, (4, 4): z up and along the walls as the window shows them, floor at 0.

    Source: ours; geometry/room_axes.py finds the axes, and what it falls back to.

    Args:
        rec: the window, for its poses and depth; its scene is not looked at.
        points: what the room is put around, (N, 3), m, in the window's world; none leaves the
            first camera at the origin.
    """
    T_room_window = np.asarray(T_WORLD_OPTICAL_LEVEL @ room_frame(rec), np.float64)
    if len(points) == 0:
        return T_room_window
    step = max(1, len(points) // _MOST_POINTS)
    placed = transform_points(T_room_window, points[::step])
    low, high = np.quantile(placed, [NOISE_SHARE, 1 - NOISE_SHARE], axis=0)
    middle = (low + high) / 2
    T_room_window[:3, 3] -= [middle[0], middle[1], low[2]]
    return T_room_window


def in_room(scene: SceneContext, box: GroundedBox) -> GroundedBox:
    """Return a box of the window's world in the room, where it may be oriented."""
    return transform_box(invert_transform(scene.T_world_scene), box)


def boxes_from_text(
    scene: SceneContext, text: str, label: str, score: float
) -> tuple[GroundedBox, ...]:
    """Return every box a text holds, in the window's world; none where it holds none.

    Args:
        scene: whose room the numbers are in.
        text: six numbers a box, centre and full edges, m; a box without extent is none.
        label: of every box.
        score: of every box.
    """
    found = [box for box in prompts.parse_boxes(text) if min(box.size) > 0]
    return tuple(
        transform_box(
            scene.T_world_scene,
            GroundedBox(label, score, np.array(box.center), np.array(box.size)),
        )
        for box in found
    )


def spread_frames(count: int, most: int) -> Sequence[int]:
    """Return at most `most` of `count` frames, evenly, first and last included, ascending."""
    if count <= most:
        return range(count)
    return sorted({round(i) for i in np.linspace(0, count - 1, most)})
