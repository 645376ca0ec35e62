# SPDX-License-Identifier: Apache-2.0
"""A first guess of all poses: each frame from the one before, by depth and followed points.

Depth of the earlier frame lifts the points both frames share; the later camera is found from them
by perspective-n-point inside RANSAC. What RANSAC refuses is marked, so that the tracks can be cut
there. Source: OpenCV's solvePnPRansac (SQPnP). Next: bundle_adjustment.py.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from vidllm_ros.geometry.tracks import Tracks

Float64 = NDArray[np.float64]

MIN_SHARED = 8
MIN_AGREEING = 0.4  # share of the points; fewer agree by chance when following failed
INLIER_PX = 1.5
MIN_DEPTH_M = 0.05


def depth_at(tracks: Tracks, depth: NDArray[np.float32]) -> Float64:
    """Depth of every observation, (n,), m, bilinear; at least MIN_DEPTH_M.

    Args:
        tracks: n observations.
        depth: (S, H, W), m, finite.
    """
    found = np.zeros(len(tracks))
    for frame in np.unique(tracks.frame):
        rows = tracks.frame == frame
        u, v = tracks.uv[rows].astype(np.float32).T
        sampled = cv2.remap(
            depth[frame], u[None], v[None], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        found[rows] = sampled[0]
    return np.maximum(found, MIN_DEPTH_M)


def chain_poses(
    tracks: Tracks, depth: Float64, K: Float64, T_camera_world: Float64
) -> tuple[Float64, NDArray[np.bool_]]:
    """Chain poses from frame to frame; the first stays as it is.

    Args:
        tracks: n observations over S frames.
        depth: of every observation, (n,), m.
        K: (S, 3, 3), px.
        T_camera_world: guess, (S, 4, 4); its steps are kept where too few points are shared.

    Returns:
        T_camera_world, (S, 4, 4), and which observations no pose explains, (n,).
    """
    chained = [np.asarray(T_camera_world[0], np.float64)]
    wrong = np.zeros(len(tracks), bool)
    for frame in range(1, len(T_camera_world)):
        before = np.flatnonzero(tracks.frame == frame - 1)
        now = np.flatnonzero(tracks.frame == frame)
        _, i, j = np.intersect1d(
            tracks.point[before], tracks.point[now], assume_unique=True, return_indices=True
        )
        before, now = before[i], now[j]
        step, inliers = _step(
            tracks.uv[before], depth[before], K[frame - 1], tracks.uv[now], K[frame]
        )
        if step is None:
            step = T_camera_world[frame] @ np.linalg.inv(T_camera_world[frame - 1])
        wrong[now[~inliers]] = True
        chained.append(step @ chained[-1])
    return np.array(chained), wrong


def _step(
    uv_before: Float64, depth: Float64, K_before: Float64, uv: Float64, K: Float64
) -> tuple[Float64 | None, NDArray[np.bool_]]:
    """T_camera_before of two frames and who agrees with it; None where too few do."""
    nobody = np.zeros(len(uv), bool)
    if len(uv) < MIN_SHARED:
        return None, nobody
    rays = (uv_before - K_before[:2, 2]) / K_before[[0, 1], [0, 1]]
    points = np.concatenate([rays, np.ones((len(rays), 1))], axis=1) * depth[:, None]
    try:
        found, rotation, translation, chosen = cv2.solvePnPRansac(
            points,
            uv,
            K,
            None,
            iterationsCount=100,
            reprojectionError=INLIER_PX,
            flags=cv2.SOLVEPNP_SQPNP,
        )
    except cv2.error:  # degenerate samples: no pose, not a fault
        return None, nobody
    if not found or chosen is None or len(chosen) < max(MIN_SHARED, MIN_AGREEING * len(uv)):
        return None, nobody
    inliers = nobody.copy()
    inliers[np.asarray(chosen)[:, 0]] = True
    rotation, translation = cv2.solvePnPRefineLM(
        points[inliers], uv[inliers], K, None, rotation, translation
    )
    step = np.eye(4)
    step[:3, :3] = cv2.Rodrigues(rotation)[0]
    step[:3, 3] = np.asarray(translation)[:, 0]
    return (step, inliers) if np.isfinite(step).all() else (None, nobody)
