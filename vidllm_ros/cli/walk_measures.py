# SPDX-License-Identifier: Apache-2.0
"""How far a walk drifts from its truth, and how often an object changes its name on the way.

A trajectory is what a robot heard while it walked: each frame's pose as first published. Only its
first pose is laid on the truth, neither scale nor anything later. Next: bench_walk.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree

from vidllm_ros.data.samples import SceneObject
from vidllm_ros.geometry.transforms import (
    T_WORLD_OPTICAL_LEVEL,
    invert_transform,
    rotation_angle,
    transform_points,
)
from vidllm_ros.streaming.registration import chain, place_frames
from vidllm_ros.streaming.results import WindowResult
from vidllm_ros.structures import GroundedBox, Reconstruction

Float64 = NDArray[np.float64]
NEAREST_M = 0.5


@dataclass(frozen=True)
class Drift:
    """Errors of a trajectory whose first pose was laid on the truth.

    Attributes:
        error_m: root mean square distance of the camera centres.
        end_m: distance of the last one.
        path_m: length of the true path.
        percent_of_path: the end's distance in % of it.
        turn_deg: median angle between the cameras.
    """

    error_m: float
    end_m: float
    path_m: float
    percent_of_path: float
    turn_deg: float


def measure_drift(poses: Float64, truth: Float64) -> Drift:
    """Compare trajectories (S, 4, 4) of the same frames."""
    laid = lay_on_first(poses, truth)
    apart = np.linalg.norm(laid[:, :3, 3] - truth[:, :3, 3], axis=1)
    path_m = float(np.linalg.norm(np.diff(truth[:, :3, 3], axis=0), axis=1).sum())
    turn = rotation_angle(np.swapaxes(laid[:, :3, :3], 1, 2) @ truth[:, :3, :3])
    return Drift(
        error_m=float(np.sqrt((apart**2).mean())),
        end_m=float(apart[-1]),
        path_m=path_m,
        percent_of_path=float(100 * apart[-1] / path_m) if path_m > 0 else float("nan"),
        turn_deg=float(np.degrees(np.median(turn))),
    )


def lay_on_first(poses: Float64, truth: Float64) -> Float64:
    """Move a trajectory so that its first pose is the true one."""
    return np.asarray(truth[0] @ invert_transform(poses[0]) @ poses, float)


def trajectory_of(results: Sequence[WindowResult]) -> dict[int, Float64]:
    """Return each frame's pose in the map, by stamp, as first published."""
    poses: dict[int, Float64] = {}
    for result in results:
        for stamp_ns, pose in zip(result.reconstruction.stamps_ns, result.poses_map, strict=True):
            poses.setdefault(stamp_ns, pose)
    return poses


def chained_trajectory(windows: Sequence[Reconstruction]) -> dict[int, Float64]:
    """Return the same of windows that are chained by their newest shared frame alone."""
    poses: dict[int, Float64] = {}
    T_map_window = T_WORLD_OPTICAL_LEVEL
    for i, window in enumerate(windows):
        if i > 0:
            found = chain(place_frames(windows[i - 1], T_map_window), window)
            if found is None:
                raise ValueError(f"windows: expected shared frames, got none with window {i}")
            T_map_window = found
        for stamp_ns, pose in zip(
            window.stamps_ns, T_map_window @ window.T_world_camera, strict=True
        ):
            poses.setdefault(stamp_ns, pose)
    return poses


@dataclass
class IdentityScore:
    """How lasting the objects' ids are, window after window.

    Attributes:
        ids: of each true object, those it had, in order; a change is a switch.
    """

    ids: dict[int, list[str]] = field(default_factory=dict)

    def add(self, tracked: Sequence[GroundedBox], truth: Sequence[SceneObject]) -> None:
        """Note who is who in one window: same label, nearest centres in all, in one frame."""
        if not tracked or not truth:
            return
        apart = np.linalg.norm(
            np.array([entry.box.center for entry in truth])[:, None]
            - np.array([box.center for box in tracked])[None],
            axis=2,
        )
        reach = [max(NEAREST_M, float(np.linalg.norm(e.box.size)) / 2) for e in truth]
        same = np.array([[e.label == box.label for box in tracked] for e in truth])
        cost = np.where(same & (apart < np.array(reach)[:, None]), apart, 1e6)
        for row, column in zip(*linear_sum_assignment(cost), strict=True):
            if cost[row, column] < 1e6:
                names = self.ids.setdefault(truth[row].object_id, [])
                name = tracked[column].object_id
                if not names or names[-1] != name:
                    names.append(name)

    @property
    def objects(self) -> int:
        """True objects that had an id at some time."""
        return len(self.ids)

    @property
    def switches(self) -> int:
        return sum(len(names) - 1 for names in self.ids.values())

    @property
    def switches_per_object(self) -> float:
        return self.switches / self.objects if self.ids else float("nan")


def boxes_in_room(result: WindowResult, T_room_camera: Float64) -> tuple[GroundedBox, ...]:
    """Lay a window's objects on the truth by its newest camera, so that drift does not count."""
    from vidllm_ros.geometry.boxes import transform_box

    T_room_map = T_room_camera @ invert_transform(result.poses_map[-1])
    return tuple(transform_box(T_room_map, box) for box in result.objects)


def map_error_m(points_map: NDArray[np.float32], T_room_map: Float64, surface: Float64) -> float:
    """Median distance of map points from the nearest true surface point, m."""
    if len(points_map) == 0:
        return float("nan")
    apart, _ = cKDTree(surface).query(transform_points(T_room_map, points_map), k=1)
    return float(np.median(apart))
