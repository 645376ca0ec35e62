# SPDX-License-Identifier: Apache-2.0
"""Let the images themselves correct the poses the network predicts.

The camera head says roughly where each frame was taken; followed corners, lifted by the network's
metric depth, say it to a fraction of a degree, all the better where the camera's own images were
followed on the way (geometry/corner_follower.py). By the adjusted poses lost points are found
again (geometry/relink.py), and all is adjusted once more. VGGT's authors offer bundle adjustment
after their network in the same place. Switched by `config.pose_refinement`; where the camera is
calibrated, its intrinsics are used, else the window says how long its lens is, and depth and
scale follow it. Source: ours (docs/deviations.md, D45, D58, D75). Next: patches3d.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from vidllm_ros.geometry.bundle_adjustment import Adjusted, Trust, adjust
from vidllm_ros.geometry.corner_follower import tracks_of
from vidllm_ros.geometry.pose_chain import MIN_SHARED, chain_poses, depth_at
from vidllm_ros.geometry.relink import relink
from vidllm_ros.geometry.tracks import Tracks, equalised, track_points
from vidllm_ros.network.metric_geometry import MetricGeometry
from vidllm_ros.structures import Corners

MIN_OBSERVATIONS = 40
MAX_MEDIAN_PX = 2.0
MAX_DEPTH_CHANGE = 1.5
MOST_RISE = 1.3  # of the median error of what was followed, once lost points are found again
LEAST_PX = 0.1  # an error below says nothing
FIRST_STOP = 1e-3  # of the adjustment that lost points are looked for with; it goes on after it
SHARP_OUTLIER = 2.0  # deviations; where points say how sharp they are, large errors are fewer
MAX_FOCAL_CHANGE = 1.5  # beyond it the points, not the guess, are wrong
KNOWN_LENS = Trust()
# Nano's guess is 0.11 off; a fifth of that, for what the points say is not independent: corners
# slide and depths err alike, which would count as thousands of measurements against one guess.
GUESSED_LENS = Trust(log_focal=0.02)


def refine_poses(
    metric: MetricGeometry,
    images: NDArray[np.uint8],
    K: NDArray[np.float64] | None,
    stamps_ns: Sequence[Sequence[int]],
    corners: Sequence[Sequence[Corners] | None] | None = None,
) -> MetricGeometry:
    """Correct poses, intrinsics and each frame's depth scale by followed points.

    A window in which too little can be followed keeps what the network said.

    Args:
        metric: B windows of S frames, all of them dense.
        images: (B, S, H, W, 3), RGB.
        K: of a calibrated camera, (B, S, 3, 3), px; None begins with the network's, its median
            over the window, and adjusts its focal length, one for all frames.
        stamps_ns: of each window's frames.
        corners: of each window's frames, followed through the film they were chosen from; where
            there are none, or too few, corners are followed from frame to frame here.

    Raises:
        ValueError: not every frame of the window is dense.
    """
    if metric.depth.shape[:2] != images.shape[:2]:
        raise ValueError(
            f"metric: expected depth of all {images.shape[:2]} frames, got "
            f"{tuple(metric.depth.shape[:2])}; leave dense_frames out"
        )
    depth = metric.depth.detach().float().cpu().numpy().copy()
    valid = metric.valid.cpu().numpy()
    poses = metric.T_world_camera.detach().double().cpu().numpy().copy()
    guess = metric.K.detach().double().cpu().numpy()
    lens = np.broadcast_to(np.median(guess, axis=1, keepdims=True), guess.shape)
    lens = np.array(lens if K is None else K, np.float64)
    trust = GUESSED_LENS if K is None else KNOWN_LENS
    scale = metric.scale.clone()
    for b in range(len(depth)):
        middle = float(np.median(depth[b][valid[b]])) if valid[b].any() else 1.0
        filled = np.where(valid[b], depth[b], middle).astype(np.float32)
        seconds = (np.asarray(stamps_ns[b], np.int64) - stamps_ns[b][0]) / 1e9
        tracks = _tracks(images[b], None if corners is None else corners[b])
        seen = np.where(valid[b], filled, np.float32(np.nan))
        found = _refine_window(tracks, images[b], filled, seen, lens[b], poses[b], seconds, trust)
        if found is not None:
            poses[b] = found.T_world_camera
            depth[b] *= found.depth_factor[:, None, None]
            lens[b][:, [0, 1], [0, 1]] *= found.focal_factor
            scale[b] *= found.focal_factor
    device = metric.depth.device
    return replace(
        metric,
        depth=torch.as_tensor(depth, device=device, dtype=metric.depth.dtype),
        K=torch.as_tensor(lens, device=device, dtype=metric.K.dtype),
        T_world_camera=torch.as_tensor(poses, device=device, dtype=metric.T_world_camera.dtype),
        scale=scale,
    )


@dataclass(frozen=True)
class _Refined:
    T_world_camera: NDArray[np.float64]  # (S, 4, 4), m
    depth_factor: NDArray[np.float32]  # (S,), the lens's part in it
    focal_factor: float


def _tracks(images: NDArray[np.uint8], corners: Sequence[Corners] | None) -> Tracks:
    if corners is not None:
        tracks = tracks_of(corners, images.shape[1:3])
        if len(tracks) >= MIN_OBSERVATIONS:
            return tracks
    return track_points(images)


def _refine_window(
    tracks: Tracks,
    images: NDArray[np.uint8],
    depth: NDArray[np.float32],
    seen: NDArray[np.float32],
    K: NDArray[np.float64],
    T_world_camera: NDArray[np.float64],
    stamps_s: NDArray[np.float64],
    trust: Trust,
) -> _Refined | None:
    """Return what a window's tracks say; None where nothing holds.

    Args:
        tracks: of the window.
        images: RGB, (S, H, W, 3).
        depth: (S, H, W), m, filled where the network has none.
        seen: likewise, NaN there.
        K: (S, 3, 3), px.
        T_world_camera: the network's, (S, 4, 4), m.
        stamps_s: (S,), s.
        trust: deviations.
    """
    if len(tracks) < MIN_OBSERVATIONS:
        return None
    known = depth_at(tracks, depth)
    guess = np.asarray(np.linalg.inv(T_world_camera), np.float64)
    poses, wrong = chain_poses(tracks, known, K, guess)
    tracks, rows = tracks.cut(wrong)
    if len(tracks) < MIN_OBSERVATIONS:
        return None
    known = known[rows]
    if tracks.sharp is not None:
        trust = replace(trust, pixel_outlier=SHARP_OUTLIER)
    roughly = replace(trust, stop=FIRST_STOP)
    result = adjust(tracks, known, K, poses, stamps_s, roughly)
    if not _is_sound(result):
        return None
    factors = depth_factors(result, tracks.frame, known * result.focal, len(depth))
    again = _with_lost_points(tracks, images, seen, K, result, factors, trust)
    tries = (tracks,) if again is tracks else (again, tracks)
    for more in tries:  # without what was found, where that contradicts the rest
        known = depth_at(more, depth)
        better = adjust(more, known, K, result.T_camera_world, stamps_s, trust, result.focal)
        if _is_sound(better) and _agrees(better, more, result, tracks):
            result = better
            factors = depth_factors(result, more.frame, known * result.focal, len(depth))
            break
    T_world_camera = np.asarray(np.linalg.inv(result.T_camera_world), np.float64)
    return _Refined(T_world_camera, factors * np.float32(result.focal), result.focal)


def _is_sound(result: Adjusted) -> bool:
    """Say whether an adjustment explains most of what was followed."""
    is_sound = bool(np.isfinite(result.T_camera_world).all())
    is_sound &= 1 / MAX_FOCAL_CHANGE < result.focal < MAX_FOCAL_CHANGE
    return is_sound and bool(np.median(result.residual_px) <= MAX_MEDIAN_PX)


def _agrees(better: Adjusted, more: Tracks, result: Adjusted, tracks: Tracks) -> bool:
    """Say whether what was followed is still explained once more points are."""
    count = len(result.T_camera_world)
    is_old = np.isin(more.point * count + more.frame, tracks.point * count + tracks.frame)
    median = float(np.median(better.residual_px[is_old]))
    return median <= MOST_RISE * max(float(np.median(result.residual_px)), LEAST_PX)


def _with_lost_points(
    tracks: Tracks,
    images: NDArray[np.uint8],
    seen: NDArray[np.float32],
    K: NDArray[np.float64],
    result: Adjusted,
    factors: NDArray[np.float32],
    trust: Trust,
) -> Tracks:
    """Look for the points of an adjustment in frames that lost them."""
    lens = K.copy()
    lens[:, [0, 1], [0, 1]] *= result.focal
    scaled = seen * (factors * np.float32(result.focal))[:, None, None]
    return relink(tracks, equalised(images), scaled, lens, result, trust.pixel)


def depth_factors(
    result: Adjusted, frame: NDArray[np.int64], depth: NDArray[np.float64], frames: int
) -> NDArray[np.float32]:
    """Say what each frame's depth is to be multiplied by to agree with the points, (S,).

    Args:
        result: of the adjustment of n observations.
        frame: of every observation, (n,).
        depth: the network's at every observation, (n,), m.
        frames: S; one with few sound observations keeps 1.
    """
    factors = np.ones(frames, np.float32)
    sound = result.residual_px < MAX_MEDIAN_PX
    for number in range(frames):
        rows = sound & (frame == number)
        if rows.sum() >= MIN_SHARED:
            ratio = np.exp(np.median(np.log(result.depth[rows] / depth[rows])))
            factors[number] = np.clip(ratio, 1 / MAX_DEPTH_CHANGE, MAX_DEPTH_CHANGE)
    return factors
