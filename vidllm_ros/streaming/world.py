# SPDX-License-Identifier: Apache-2.0
"""What is known of one place, and where a window goes in it.

A world begins with a window that nothing joins to what was there; its first camera is placed by
whoever knows better, by the room itself, or as level. Next: session.py, which keeps one at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.geometry.transforms import T_WORLD_OPTICAL_LEVEL, invert_transform
from vidllm_ros.geometry.upright import first_pose
from vidllm_ros.streaming.fused_cloud import FusedCloud
from vidllm_ros.streaming.registration import (
    PlacedFrame,
    Registration,
    place_frames,
    register,
)
from vidllm_ros.streaming.results import SessionSettings, WindowResult
from vidllm_ros.streaming.tracking import ObjectTracker
from vidllm_ros.structures import Reconstruction

Float64 = NDArray[np.float64]


@dataclass
class World:
    """What is known of the place; a new one begins where nothing joins it to the last."""

    index: int
    cloud: FusedCloud
    tracker: ObjectTracker
    placed: tuple[PlacedFrame, ...] = ()
    newest: WindowResult | None = None


def new_world(index: int, settings: SessionSettings) -> World:
    """Return a world of which nothing is known yet."""
    return World(
        index=index,
        cloud=FusedCloud(settings.voxel_m, settings.max_map_points, settings.map_frame),
        tracker=ObjectTracker(settings.tracking),
    )


@dataclass(frozen=True)
class Placement:
    """Where a window is.

    Attributes:
        T_map_window: (4, 4).
        poses_map: of its cameras, (S, 4, 4).
        joined: how it was joined to the map; None where it begins one.
        frames: its frames, for the next window to be joined to.
    """

    T_map_window: Float64
    poses_map: Float64
    joined: Registration | None
    frames: tuple[PlacedFrame, ...]


def place_window(
    placed: Sequence[PlacedFrame],
    rec: Reconstruction,
    T_map_camera: Float64 | None,
    find_up: bool,
) -> Placement:
    """Join a window to the frames in the map, or begin with it.

    Args:
        placed: frames in the map that it may share.
        rec: the window.
        T_map_camera: pose of its first camera where something else knows it, used where nothing
            is shared.
        find_up: whether the window itself may say how its first camera is tilted.
    """
    joined = register(placed, rec)
    if joined is not None:
        T_map_window = joined.T_map_window
    else:
        start = T_map_camera
        if start is None:
            start = first_pose(rec) if find_up else T_WORLD_OPTICAL_LEVEL
        T_map_window = start @ invert_transform(rec.T_world_camera[0])
    return Placement(
        T_map_window, T_map_window @ rec.T_world_camera, joined, place_frames(rec, T_map_window)
    )
