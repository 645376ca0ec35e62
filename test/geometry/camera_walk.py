# SPDX-License-Identifier: Apache-2.0
"""A camera walking past known points: what tracks, poses and depths are when all is exact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from vidllm_ros.geometry.tracks import Tracks


@dataclass(frozen=True)
class Walk:
    """Observations of points by S cameras, and the truth behind them."""

    tracks: Tracks
    depth: np.ndarray
    K: np.ndarray
    T_camera_world: np.ndarray
    points: np.ndarray
    stamps_s: np.ndarray


def walk(
    frames: int = 8,
    noise_px: float = 0.3,
    depth_noise: float = 0.0,
    seed: int = 1,
    count: int = 160,
) -> Walk:
    """Walk sideways and turn, 112x84 px, 10 frames a second; points 1.5 to 4 m ahead."""
    rng = np.random.default_rng(seed)
    K = np.array([[90.0, 0, 56], [0, 90.0, 42], [0, 0, 1]])
    points = rng.uniform([-2.5, -1.2, 1.5], [2.5, 1.2, 4.0], (count, 3))
    T = np.tile(np.eye(4), (frames, 1, 1))
    for i in range(frames):
        T[i, :3, :3] = Rotation.from_euler("yx", [2.5 * i, 0.6 * i], degrees=True).as_matrix()
        T[i, :3, 3] = -T[i, :3, :3] @ np.array([0.05 * i, 0.01 * i, 0.03 * i])
    camera = np.einsum("sij,pj->psi", T[:, :3, :3], points) + T[:, :3, 3]
    uv = camera[..., :2] / camera[..., 2:] * 90.0 + K[:2, 2]
    seen = (camera[..., 2] > 0.3) & (uv > 2).all(-1) & (uv < [109, 81]).all(-1)
    seen &= seen.sum(1, keepdims=True) >= 2
    old, frame = np.nonzero(seen)
    kept, point = np.unique(old, return_inverse=True)
    measured = uv[old, frame] + rng.normal(0.0, noise_px, (len(old), 2)) if noise_px else uv[seen]
    depth = camera[old, frame, 2] * np.exp(rng.normal(0.0, depth_noise, len(old)))
    return Walk(
        Tracks(frame, point, measured),
        depth,
        np.tile(K, (frames, 1, 1)),
        T,
        points[kept],
        np.arange(frames) / 10.0,
    )


def angle_deg(ours: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Rotation error of each pose, (S,)."""
    cosine = (np.einsum("sij,sij->s", ours[:, :3, :3], truth[:, :3, :3]) - 1.0) / 2.0
    return np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))
