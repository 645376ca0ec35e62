# SPDX-License-Identifier: Apache-2.0
"""Place a new window in the map by the frames it shares with windows already placed.

A shared frame shows the same pixels in both, so each pixel is a pair of points, and its two poses
are a pair of cameras: the transform is fitted to all of them, robustly. The network is metric, so
the scale is kept; what a free scale would have been is reported. `chain` is the plain twin, one
frame and no robustness. Next: session.py, which calls this once a window.
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
    umeyama,
)
from vidllm_ros.structures import Reconstruction

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class RegistrationSettings:
    """How windows are joined.

    Attributes:
        grid_step: one pixel in this many, along rows and columns, becomes a pair of points.
        iterations: reweightings of the robust fit.
        huber: residuals above this many times their median count less.
        camera_share: weight of all camera pairs against all point pairs.
        lever_m: cameras enter as points this far along their axes, so that their turn counts.
        with_scale: fit a scale too; off, because a map whose scale follows each window drifts.
    """

    grid_step: int = 6
    iterations: int = 8
    huber: float = 1.5
    camera_share: float = 1.0
    lever_m: float = 1.0
    with_scale: bool = False

    def __post_init__(self) -> None:
        for name in ("grid_step", "iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("huber", "lever_m"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected above 0, got {getattr(self, name)}")
        if not self.camera_share >= 0:
            raise ValueError(f"camera_share: expected at least 0, got {self.camera_share}")


@dataclass(frozen=True)
class PlacedFrame:
    """A frame of a window that has its place in the map, thinned to a grid of its pixels.

    Attributes:
        stamp_ns: which frame.
        T_map_camera: its pose, (4, 4), m.
        points_map: of the grid, (h, w, 3), m.
        weight: of each point, (h, w): 0 where the depth means nothing.
    """

    stamp_ns: int
    T_map_camera: Float64
    points_map: Float64
    weight: Float64


@dataclass(frozen=True)
class Registration:
    """Where a window lies in the map, and how sure that is.

    Attributes:
        T_map_window: the window's world in the map, (4, 4); rigid unless a scale was asked for.
        shared_frames: frames it was found by; 0 for the first window of a world.
        residual_m: median distance of the point pairs after the fit, NaN without any.
        scale_ratio: map metres per metre of the new window, had the scale been free; 1 is perfect.
        turn_rad: how far the robust fit turned from plain chaining.
    """

    T_map_window: Float64
    shared_frames: int
    residual_m: float
    scale_ratio: float
    turn_rad: float


def place_frames(
    rec: Reconstruction, T_map_window: Float64, grid_step: int
) -> tuple[PlacedFrame, ...]:
    """Remember a placed window as frames that a later window can be registered to."""
    points, weight = _grid(rec, grid_step)
    T_map_camera = T_map_window @ rec.T_world_camera
    points_map = transform_points(T_map_camera, points)
    return tuple(
        PlacedFrame(stamp_ns, rigid(T_map_camera[i]), points_map[i], weight[i])
        for i, stamp_ns in enumerate(rec.stamps_ns)
    )


def register(
    placed: Sequence[PlacedFrame], rec: Reconstruction, settings: RegistrationSettings
) -> Registration | None:
    """Find the window's place by every placed frame it shares; None where it shares none.

    Args:
        placed: frames of earlier windows; one frame may be there once for each of its windows.
        rec: the new window.
        settings: how.
    """
    index_of = {stamp_ns: i for i, stamp_ns in enumerate(rec.stamps_ns)}
    pairs = [(frame, index_of[frame.stamp_ns]) for frame in placed if frame.stamp_ns in index_of]
    if not pairs:
        return None
    points, weight = _grid(rec, settings.grid_step)
    points_window = transform_points(rec.T_world_camera, points)  # (S, h, w, 3)
    source, target, weights = [], [], []
    for frame, i in pairs:
        if frame.weight.shape != weight[i].shape:
            continue  # the network changed its image size: its cameras still count
        both = np.minimum(frame.weight, weight[i])
        used = both > 0
        source.append(points_window[i][used])
        target.append(frame.points_map[used])
        weights.append(both[used])
    T_chain = average_transform(
        np.stack([f.T_map_camera @ invert_transform(rec.T_world_camera[i]) for f, i in pairs])
    )
    cameras = _lever_points(rec.T_world_camera[[i for _, i in pairs]], settings.lever_m)
    cameras_map = _lever_points(np.stack([f.T_map_camera for f, _ in pairs]), settings.lever_m)
    empty = np.zeros((0, 3))
    problem = _Pairs(
        np.concatenate([empty, *source]),
        np.concatenate([empty, *target]),
        np.concatenate([np.zeros(0), *weights]),
        cameras,
        cameras_map,
    )
    T_map_window, residual_m = _fit(problem, T_chain, settings, settings.with_scale)
    T_free, _ = _fit(problem, T_chain, settings, True)
    return Registration(
        T_map_window=T_map_window,
        shared_frames=len({frame.stamp_ns for frame, _ in pairs}),
        residual_m=residual_m,
        scale_ratio=float(np.cbrt(np.linalg.det(T_free[:3, :3]))),
        turn_rad=float(rotation_angle(T_chain[:3, :3].T @ rigid(T_map_window)[:3, :3])),
    )


def chain(placed: Sequence[PlacedFrame], rec: Reconstruction) -> Float64 | None:
    """Place the window by the newest shared frame's two poses alone: the plain twin."""
    index_of = {stamp_ns: i for i, stamp_ns in enumerate(rec.stamps_ns)}
    shared = [frame for frame in placed if frame.stamp_ns in index_of]
    if not shared:
        return None
    newest = max(shared, key=lambda frame: frame.stamp_ns)
    T_window_camera = rec.T_world_camera[index_of[newest.stamp_ns]]
    return newest.T_map_camera @ invert_transform(T_window_camera)


def average_transform(transforms: Float64, iterations: int = 10) -> Float64:
    """Average rigid transforms (N, 4, 4) so that a few wild ones do not matter.

    Rotations by the chordal mean, translations by the mean, both reweighted by 1 / distance: the
    geometric median.
    """
    weights = np.ones(len(transforms))
    for _ in range(iterations):
        share = weights / weights.sum()
        R = nearest_rotation(np.einsum("n,nij->ij", share, transforms[:, :3, :3]))
        t = share @ transforms[:, :3, 3]
        turn = rotation_angle(R.T @ transforms[:, :3, :3])
        shift = np.linalg.norm(transforms[:, :3, 3] - t, axis=1)
        weights = 1 / np.maximum(turn + shift, 1e-6)
    return make_transform(R, t)


def rigid(T: Float64) -> Float64:
    """Drop the scale of a similarity (4, 4) and make its rotation one again."""
    return make_transform(nearest_rotation(T[:3, :3]), T[:3, 3])


@dataclass(frozen=True)
class _Pairs:
    """What the fit has to bring together, window to map."""

    points: Float64
    points_map: Float64
    weights: Float64
    levers: Float64
    levers_map: Float64


def _fit(
    pairs: _Pairs, start: Float64, settings: RegistrationSettings, with_scale: bool
) -> tuple[Float64, float]:
    """Reweighted Umeyama over points and cameras: T_map_window and the points' residual, m.

    Points are weighted by Huber's rule around their median residual, and once more by 1 / distance
    from the camera squared through their weight, because depth errors grow with depth.
    """
    source = np.concatenate([pairs.points, pairs.levers])
    target = np.concatenate([pairs.points_map, pairs.levers_map])
    count = len(pairs.points)
    transform = start
    residual_m = float("nan")
    for _ in range(settings.iterations):
        error = np.linalg.norm(transform_points(transform, source) - target, axis=1)
        weights = np.empty(len(source))
        if count:
            residual_m = float(np.median(error[:count]))
            weights[:count] = pairs.weights * _huber(error[:count], settings.huber)
            weights[:count] /= max(float(weights[:count].sum()), 1e-12)
        share = settings.camera_share if count else 1.0
        weights[count:] = _huber(error[count:], settings.huber)
        weights[count:] *= share / max(float(weights[count:].sum()), 1e-12)
        transform = umeyama(source, target, with_scale, weights).matrix
    return transform, residual_m


def _huber(error: Float64, factor: float) -> Float64:
    limit = factor * max(float(np.median(error)), 1e-6)
    return limit / np.maximum(error, limit)


def _lever_points(T: Float64, lever_m: float) -> Float64:
    """Each camera's centre and three points along its axes, (4 N, 3), m."""
    arms = np.concatenate([np.zeros((1, 3)), lever_m * np.eye(3)])
    return transform_points(T, np.broadcast_to(arms, (len(T), 4, 3))).reshape(-1, 3)


def _grid(rec: Reconstruction, step: int) -> tuple[Float64, Float64]:
    """Points of a pixel grid in their cameras' frames, (S, h, w, 3), m, and weights, (S, h, w)."""
    rows = slice(step // 2, None, step)
    depth = rec.depth[:, rows, rows].astype(float)
    valid = rec.valid[:, rows, rows] & np.isfinite(depth) & (depth > 0)
    K = rec.K.copy()
    K[:, :2] /= step
    K[:, :2, 2] -= (step // 2) / step
    points = unproject(np.where(valid, depth, 1.0), K)
    confidence = rec.confidence[:, rows, rows].astype(float)
    weight = np.where(valid & np.isfinite(confidence), confidence, 0.0)
    return points.astype(np.float64), weight / np.where(valid, depth, 1.0) ** 2
