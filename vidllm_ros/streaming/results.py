# SPDX-License-Identifier: Apache-2.0
"""What a session is told, what it gives back, and how it says no.

Kept apart from session.py so that whoever publishes results need not know how they are made.
Next: session.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.geometry.point_cloud import PointCloud
from vidllm_ros.streaming.memory_steps import FULL, MemoryStep
from vidllm_ros.streaming.registration import Registration
from vidllm_ros.streaming.tracking import TrackingSettings
from vidllm_ros.streaming.window import WindowSettings
from vidllm_ros.structures import Answer, GroundedBox, Reconstruction

Float64 = NDArray[np.float64]


class SessionError(RuntimeError):
    """A request the session cannot serve now; the message says why and what to do."""


class NoWindowYetError(SessionError):
    """Nothing has been reconstructed, so there is nothing to ask about."""


class EmptyQuestionError(SessionError):
    """The question has no words."""


class QuestionTooLongError(SessionError):
    """The question has more characters than allowed."""


class WindowOutdatedError(SessionError):
    """The world was reset while the window was computed; its result is thrown away."""


@dataclass(frozen=True)
class SessionSettings:
    """Everything a session can be told; `Session.change` takes a new one at any time.

    Attributes:
        window: which frames make a window; fixed for a session.
        tracking: when boxes are one object.
        map_frame: name of the map, in clouds and saved files.
        voxel_m: edge of the voxels that thin the clouds.
        confidence_quantile: share of the least confident depths left out of clouds.
        max_map_points: bound of the fused cloud.
        max_window_pixels: bound of the pixels that a window's cloud is made of; where its frames
            have more, one pixel in 2 x 2, 3 x 3, ... of each frame is taken.
        max_question_chars: longest question.
        find_up: where nothing else places a world's first camera, let its first window say how
            that camera is tilted; where it cannot, the camera is taken as level.
        largest: how much of a window there is memory for (memory_probe.py); fixed for a session.
    """

    window: WindowSettings = field(default_factory=WindowSettings)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)
    map_frame: str = "map"
    voxel_m: float = 0.02
    confidence_quantile: float = 0.2
    max_map_points: int = 2_000_000
    max_window_pixels: int = 250_000
    max_question_chars: int = 2000
    find_up: bool = True
    largest: MemoryStep = FULL

    def __post_init__(self) -> None:
        if not self.voxel_m > 0:
            raise ValueError(f"voxel_m: expected an edge above 0 m, got {self.voxel_m}")
        if not 0 <= self.confidence_quantile < 1:
            raise ValueError(
                f"confidence_quantile: expected 0 up to 1, got {self.confidence_quantile}"
            )
        for name in ("max_map_points", "max_window_pixels", "max_question_chars"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class WindowResult:
    """A window in the map.

    Attributes:
        reconstruction: as the backend gave it, in the window's own world.
        T_map_window: that world in the map, (4, 4).
        poses_map: T_map_camera of every frame, (S, 4, 4), m.
        cloud: this window's points in the map, thinned.
        objects: every object known now, in the map, ordered by id.
        timings_s: stages of the work in order: reconstruct, detect, register, cloud, track, fuse.
        scale: metres per unit of the relative reconstruction.
        scale_spread: of the per-frame scales, over their median.
        dropped_frames: frames so far that came out of order.
        skipped_windows: windows so far that a newer one replaced.
        window_index: of the windows computed since the session began, from 0.
        world_index: another number means another map: nothing before it holds any more.
        registration: how it was joined, None for the first window of a world.
        is_still: it shows nothing new, so the map's points and the places that later windows are
            joined to stay as they were.
        reduced: in words, where memory did not suffice for all of it; else empty.
        map_voxel_m: edge of the map's voxels now; above the setting where the map is full.
    """

    reconstruction: Reconstruction
    T_map_window: Float64
    poses_map: Float64
    cloud: PointCloud
    objects: tuple[GroundedBox, ...]
    timings_s: dict[str, float]
    scale: float
    scale_spread: float
    dropped_frames: int
    skipped_windows: int
    window_index: int
    world_index: int
    registration: Registration | None
    is_still: bool = False
    reduced: str = ""
    map_voxel_m: float = 0.0


@dataclass(frozen=True)
class SessionAnswer(Answer):
    """An answer with its boxes in the map, under the objects' ids.

    Attributes:
        window_index: the window it was made from.
    """

    window_index: int = 0


@dataclass(frozen=True)
class SavedMap:
    """What `save_map` wrote, one point in a voxel of `voxel_m`."""

    path: Path
    objects_path: Path
    point_count: int
    object_count: int
    voxel_m: float
