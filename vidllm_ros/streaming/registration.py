# SPDX-License-Identifier: Apache-2.0
"""Place a new window in the map by the frames it shares with the window before it.

Each shared frame has a pose in both, so each alone says where the new window lies; their geometric
median is taken, so that a few wild poses do not matter. Points take no part in it: a window whose
metric scale is off moves its points far more than its cameras, and fits that used them drifted
twice as far (docs/log.md). They tell how well the windows agree: residual and ratio of the scales.
The scale itself is never touched, the network is metric. `chain` is the plain twin, by one frame.
Next: session.py, which calls this once a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.geometry.camera import unproject
from vidllm_ros.geometry.transforms import (
    invert_transform,
    make_transform,
    nearest_rotation,
    rotation_angle,
    transform_points,
)
from vidllm_ros.structures import Reconstruction

Float64 = NDArray[np.float64]

GRID_STEP_PX = 6
_ITERATIONS = 20
_SMALLEST_DISTANCE = 1e-6


@dataclass(frozen=True)
class PlacedFrame:
    """A frame that has its place in the map, with a coarse grid of its pixels.

    Attributes:
        stamp_ns: which frame.
        T_map_camera: its pose, (4, 4), m.
        points_camera: of the grid, (h, w, 3), m.
        valid: which of them mean something, (h, w).
    """

    stamp_ns: int
    T_map_camera: Float64
    points_camera: Float64
    valid: NDArray[np.bool_]


@dataclass(frozen=True)
class Registration:
    """Where a window lies in the map, and how well it agrees with what is there.

    Attributes:
        T_map_window: the window's world in the map, (4, 4), rigid.
        shared_frames: frames it was found by.
        spread_m: median distance of the camera centres from their places in the map.
        spread_rad: median turn of the cameras from theirs.
        residual_m: median distance of the same pixels' points, NaN where none is valid in both.
        scale_ratio: the map's depth over the window's for the same pixels, median; 1 is perfect.
    """

    T_map_window: Float64
    shared_frames: int
    spread_m: float
    spread_rad: float
    residual_m: float
    scale_ratio: float


def place_frames(
    rec: Reconstruction, T_map_window: Float64, grid_step_px: int = GRID_STEP_PX
) -> tuple[PlacedFrame, ...]:
    """Remember a placed window as frames that the next can be registered to.

    Args:
        rec: the window.
        T_map_window: its place, (4, 4), rigid.
        grid_step_px: one pixel in this many, along rows and columns, is remembered.
    """
    points, valid = _grid(rec, grid_step_px)
    T_map_camera = T_map_window @ rec.T_world_camera
    return tuple(
        PlacedFrame(stamp_ns, T_map_camera[i], points[i], valid[i])
        for i, stamp_ns in enumerate(rec.stamps_ns)
    )


def frames_not_placed(placed: Sequence[PlacedFrame], rec: Reconstruction) -> list[int]:
    """Return which of a window's frames the map has not learnt from: each does so once."""
    known = {frame.stamp_ns for frame in placed}
    return [i for i, stamp_ns in enumerate(rec.stamps_ns) if stamp_ns not in known]


def register(
    placed: Sequence[PlacedFrame], rec: Reconstruction, grid_step_px: int = GRID_STEP_PX
) -> Registration | None:
    """Find the window's place by the frames it shares; None where it shares none.

    Args:
        placed: frames in the map, of the same grid.
        rec: the new window.
        grid_step_px: as in `place_frames`.
    """
    pairs = _shared(placed, rec)
    if not pairs:
        return None
    T_window_camera = rec.T_world_camera[[i for _, i in pairs]]
    T_map_camera = np.stack([frame.T_map_camera for frame, _ in pairs])
    T_map_window = average_transform(T_map_camera @ invert_transform(T_window_camera))
    found = T_map_window @ T_window_camera
    apart = np.linalg.norm(found[:, :3, 3] - T_map_camera[:, :3, 3], axis=1)
    turn = rotation_angle(np.swapaxes(found[:, :3, :3], 1, 2) @ T_map_camera[:, :3, :3])
    residual_m, scale_ratio = _agreement(pairs, rec, found, grid_step_px)
    return Registration(
        T_map_window=T_map_window,
        shared_frames=len(pairs),
        spread_m=float(np.median(apart)),
        spread_rad=float(np.median(turn)),
        residual_m=residual_m,
        scale_ratio=scale_ratio,
    )


def chain(placed: Sequence[PlacedFrame], rec: Reconstruction) -> Float64 | None:
    """Place the window by the newest shared frame alone, (4, 4): the plain twin of `register`."""
    pairs = _shared(placed, rec)
    if not pairs:
        return None
    frame, i = max(pairs, key=lambda pair: pair[0].stamp_ns)
    return frame.T_map_camera @ invert_transform(rec.T_world_camera[i])


def average_transform(transforms: Float64) -> Float64:
    """Return the geometric median of rigid transforms (N, 4, 4): wild ones barely count.

    One radian of turn weighs as much as one metre of shift. Source: Weiszfeld's iteration, with
    chordal means of the rotations.
    """
    weights = np.ones(len(transforms))
    R, t = np.eye(3), np.zeros(3)
    for _ in range(_ITERATIONS):
        share = weights / weights.sum()
        R = nearest_rotation(np.einsum("n,nij->ij", share, transforms[:, :3, :3]))
        t = share @ transforms[:, :3, 3]
        turn = rotation_angle(R.T @ transforms[:, :3, :3])
        shift = np.linalg.norm(transforms[:, :3, 3] - t, axis=1)
        weights = 1 / np.maximum(np.hypot(turn, shift), _SMALLEST_DISTANCE)
    return make_transform(R, t)


def _shared(placed: Sequence[PlacedFrame], rec: Reconstruction) -> list[tuple[PlacedFrame, int]]:
    """Pair placed frames with the places of the same frames in the window."""
    index_of = {stamp_ns: i for i, stamp_ns in enumerate(rec.stamps_ns)}
    return [(frame, index_of[frame.stamp_ns]) for frame in placed if frame.stamp_ns in index_of]


def _agreement(
    pairs: Sequence[tuple[PlacedFrame, int]],
    rec: Reconstruction,
    T_map_camera: Float64,
    grid_step_px: int,
) -> tuple[float, float]:
    """Compare the points of the same pixels: residual, m, and ratio of their depths."""
    points, valid = _grid(rec, grid_step_px)
    apart, ratios = [np.zeros(0)], [np.zeros(0)]
    for (frame, i), T_found in zip(pairs, T_map_camera, strict=True):
        if frame.valid.shape != valid[i].shape:
            continue  # the network changed its image size: there are no same pixels
        both = frame.valid & valid[i]
        old, new = frame.points_camera[both], points[i][both]
        moved = transform_points(invert_transform(frame.T_map_camera) @ T_found, new)
        apart.append(np.linalg.norm(moved - old, axis=1))
        ratios.append(old[:, 2] / new[:, 2])
    distances = np.concatenate(apart)
    if len(distances) == 0:
        return float("nan"), 1.0
    return float(np.median(distances)), float(np.median(np.concatenate(ratios)))


def _grid(rec: Reconstruction, step: int) -> tuple[Float64, NDArray[np.bool_]]:
    """Points of a pixel grid in their cameras' frames, (S, h, w, 3), m, and which are valid."""
    every = slice(step // 2, None, step)
    depth = rec.depth[:, every, every].astype(float)
    valid = rec.valid[:, every, every] & np.isfinite(depth) & (depth > 0)
    K = rec.K.copy()
    K[:, :2] /= step
    K[:, :2, 2] -= (step // 2) / step
    return unproject(np.where(valid, depth, 1.0), K).astype(np.float64), valid
