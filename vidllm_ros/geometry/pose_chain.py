# SPDX-License-Identifier: Apache-2.0
"""A first guess of all poses: each frame from the one before, by depth and followed points.

Depth of the earlier frame lifts the points both frames share; the later camera is found from them
by perspective-n-point inside RANSAC. After a long step depth that errs moves points far: then
twice the distance is allowed, and where that fails too depth is left out: either the given step
explains the points' directions, or a turn alone their flow. What nothing explains is marked, so
that the tracks can be cut there. Source: OpenCV's solvePnPRansac (SQPnP), scipy's align_vectors.
Next: bundle_adjustment.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from vidllm_ros.geometry.tracks import Tracks

Float64 = NDArray[np.float64]

MIN_SHARED = 8
MIN_AGREEING = 0.4  # share of the points; fewer agree by chance when following failed
INLIER_PX = 1.5
LONG_STEP_PX = 2 * INLIER_PX
TURN_REACH_PX = 4 * INLIER_PX  # of a turn alone, which leaves parallax to the bundle adjustment
TURN_ROUNDS = 5
TURN_LEAVES = 0.5  # of the flow, median; a turn that leaves more explains nothing
LEAST_STEP_M = 1e-3  # a shorter step says no direction
LEAST_AHEAD = 0.1  # of a direction's length, along the optical axis
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
        T_camera_world: guess, (S, 4, 4); its steps are kept where too few points are shared, or
            agree with anything.

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
        shared = _Shared(tracks.uv[before], depth[before], K[frame - 1], tracks.uv[now], K[frame])
        given = T_camera_world[frame] @ np.linalg.inv(T_camera_world[frame - 1])
        step, inliers = shared.step(given)
        wrong[now[~inliers]] = True
        chained.append(step @ chained[-1])
    return np.array(chained), wrong


Step = tuple[Float64, NDArray[np.bool_]]  # T_now_before, (4, 4), and who agrees with it


@dataclass(frozen=True)
class _Shared:
    """What two neighbouring frames both see, n points."""

    uv_before: Float64  # (n, 2), px
    depth: Float64  # in the frame before, (n,), m
    K_before: Float64
    uv: Float64  # (n, 2), px
    K: Float64

    def step(self, given: Float64) -> Step:
        """Return the step between the frames, the given one where the points tell none."""
        nobody = np.zeros(len(self.uv), bool)
        if len(self.uv) < MIN_SHARED or not self._is_sound():
            return given, nobody
        for reach in (INLIER_PX, LONG_STEP_PX):
            found = self._by_depth(reach)
            if found is not None and np.isfinite(found[0]).all():
                return found
        explained = self._off_lines(given) < INLIER_PX
        turned = self._turn()
        if turned is not None and turned[1].sum() > explained.sum():
            return turned
        return given, explained if self._enough(int(explained.sum())) else nobody

    def _is_sound(self) -> bool:
        parts = (self.uv_before, self.depth, self.uv, self.K_before, self.K)
        is_finite = all(np.isfinite(part).all() for part in parts)
        return is_finite and min(self.K_before[0, 0], self.K[0, 0]) > 0

    def _enough(self, count: int) -> bool:
        return count >= max(MIN_SHARED, MIN_AGREEING * len(self.uv))

    def _by_depth(self, reach: float) -> Step | None:
        """Perspective-n-point; who lies within `reach` px agrees."""
        points = _rays(self.uv_before, self.K_before) * self.depth[:, None]
        try:
            found, rotation, translation, chosen = cv2.solvePnPRansac(
                points,
                self.uv,
                self.K,
                None,
                iterationsCount=100,
                reprojectionError=reach,
                flags=cv2.SOLVEPNP_SQPNP,
            )
        except cv2.error:  # degenerate samples: no pose, not a fault
            return None
        if not found or chosen is None or not self._enough(len(chosen)):
            return None
        inliers = np.zeros(len(self.uv), bool)
        inliers[np.asarray(chosen)[:, 0]] = True
        rotation, translation = cv2.solvePnPRefineLM(
            points[inliers], self.uv[inliers], self.K, None, rotation, translation
        )
        step = np.eye(4)
        step[:3, :3] = cv2.Rodrigues(rotation)[0]
        step[:3, 3] = np.asarray(translation)[:, 0]
        return step, inliers

    def _off_lines(self, step: Float64) -> Float64:
        """Distance of every point from the line a step leaves it, whatever its depth, (n,), px."""
        if np.linalg.norm(step[:3, 3]) < LEAST_STEP_M:
            return np.full(len(self.uv), np.inf)
        across = np.cross(step[:3, 3], _rays(self.uv_before, self.K_before) @ step[:3, :3].T)
        length = np.linalg.norm(across[:, :2], axis=1)  # 0 for a point in the step's direction
        off = np.abs((_rays(self.uv, self.K) * across).sum(1)) * self.K[0, 0]
        return np.divide(off, length, out=np.full(len(off), np.inf), where=length > 0)

    def _turn(self) -> Step | None:
        """Turn on the spot that brings the directions together; None where it explains little."""
        before, now = _rays(self.uv_before, self.K_before), _rays(self.uv, self.K)
        if self.uv_before.std(axis=0).max() < TURN_REACH_PX:  # in one spot: any turn would do
            return None
        weight = np.ones(len(now))
        for _ in range(TURN_ROUNDS):  # reweighted: the median point decides, not the mean
            turn, _ = Rotation.align_vectors(now, before, weights=weight)
            turned = turn.apply(before)
            ahead = turned[:, 2] > LEAST_AHEAD
            turned = turned[:, :2] / np.maximum(turned[:, 2:], LEAST_AHEAD)
            away = np.linalg.norm((turned - now[:, :2]) * self.K[[0, 1], [0, 1]], axis=1)
            weight = 1.0 / np.maximum(away, INLIER_PX)
        flow = np.linalg.norm(self.uv - self.uv_before, axis=1)
        inliers = ahead & (away < TURN_REACH_PX)
        is_told = self._enough(int(inliers.sum()))
        if not is_told or np.median(away) > TURN_LEAVES * np.median(flow):
            return None
        step = np.eye(4)
        step[:3, :3] = turn.as_matrix()
        return step, inliers


def _rays(uv: Float64, K: Float64) -> Float64:
    """Directions of pixels with z = 1, (n, 3)."""
    return np.concatenate([(uv - K[:2, 2]) / K[[0, 1], [0, 1]], np.ones((len(uv), 1))], axis=1)
