# SPDX-License-Identifier: Apache-2.0
"""Depth, pose and cloud metrics, in plain numpy.

Depth after Eigen's definitions without any alignment, pose after VGGT's Co3D protocol, clouds
after NeuralRecon's nearest-neighbour F-score. Next: text_metrics.py, then benchmark.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Array = NDArray[np.float64] | NDArray[np.float32]


@dataclass(frozen=True)
class DepthErrors:
    """Means over valid pixels: |p - g| / g, share within a factor of 1.25, RMSE in metres."""

    absrel: float
    delta1: float
    rmse_m: float


@dataclass(frozen=True)
class FScore:
    """Shares of points within the threshold of the other cloud, and their harmonic mean."""

    precision: float
    recall: float
    f: float


def depth_errors(
    predicted: Array, target: Array, valid: NDArray[np.bool_], align: bool = False
) -> DepthErrors:
    """Compare depth maps over valid pixels.

    Args:
        predicted: m.
        target: of the same shape, m.
        valid: which targets mean something.
        align: multiply the prediction by median(target) / median(predicted) first.
    """
    guess = np.asarray(predicted, dtype=np.float64)[valid]
    truth = np.asarray(target, dtype=np.float64)[valid]
    if truth.size == 0:
        raise ValueError("valid: expected at least one valid pixel, got none")
    guess = np.clip(guess, 1e-3, None)
    if align:
        guess = guess * (np.median(truth) / np.median(guess))
    ratio = np.maximum(guess / truth, truth / guess)
    return DepthErrors(
        absrel=float(np.mean(np.abs(guess - truth) / truth)),
        delta1=float(np.mean(ratio < 1.25)),
        rmse_m=float(np.sqrt(np.mean((guess - truth) ** 2))),
    )


def scale_error(predicted: Array, target: Array, valid: NDArray[np.bool_]) -> float:
    """How far the scene's scale is off, as a share: |median(predicted / target) - 1|."""
    ratio = np.asarray(predicted, np.float64)[valid] / np.asarray(target, np.float64)[valid]
    return float(abs(np.median(ratio) - 1.0))


def relative_pose_errors(
    T_world_camera: Array, true_T_world_camera: Array
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Angles between all pairs' relative poses, deg: of rotation, and of translation direction.

    Source: VGGT's Co3D evaluation. A translation direction counts up to its sign, so its error is
    at most 90 deg. A pair whose true cameras coincide has no direction: that error is 0.

    Args:
        T_world_camera: predicted, (S, 4, 4).
        true_T_world_camera: (S, 4, 4).
    """
    ours = np.asarray(T_world_camera, np.float64)
    truth = np.asarray(true_T_world_camera, np.float64)
    rotations, directions = [], []
    for i, j in combinations(range(len(truth)), 2):
        relative = np.linalg.inv(ours[j]) @ ours[i]  # camera j from camera i
        wanted = np.linalg.inv(truth[j]) @ truth[i]
        cosine = (np.trace(relative[:3, :3].T @ wanted[:3, :3]) - 1.0) / 2.0
        rotations.append(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))
        directions.append(direction_error(relative[:3, 3], wanted[:3, 3]))
    return np.array(rotations), np.array(directions)


def direction_error(direction: Array, wanted: Array) -> float:
    """Angle between two directions up to sign, deg, 0 to 90."""
    if np.linalg.norm(wanted) < 1e-4:
        return 0.0
    if np.linalg.norm(direction) < 1e-9:
        return 90.0
    cosine = abs(direction @ wanted) / (np.linalg.norm(direction) * np.linalg.norm(wanted))
    return float(np.degrees(np.arccos(np.clip(cosine, 0.0, 1.0))))


def mean_average_accuracy(
    rotation_deg: Array, translation_deg: Array, limit_deg: int = 30
) -> float:
    """Mean over thresholds of 1 to `limit_deg` of the share of pairs below it; mAA(30), AUC@30.

    Source: VGGT's evaluation: the larger of both errors, histogram of one-degree bins, cumulative.
    As numpy's last bin is closed, an error of exactly `limit_deg` still counts in it.
    """
    error = np.maximum(rotation_deg, translation_deg)
    if len(error) == 0:
        raise ValueError("errors: expected at least one pair of cameras, got none; use two frames")
    counts, _ = np.histogram(error, bins=np.arange(limit_deg + 1))
    return float(np.mean(np.cumsum(counts / len(error))))


def voxel_downsample(points: Array, voxel_m: float) -> NDArray[np.float64]:
    """Mean of the points of every voxel, (M, 3), m."""
    points = np.asarray(points, np.float64)
    if len(points) == 0:
        return points.reshape(0, 3)
    keys = np.floor((points - points.min(0)) / voxel_m).astype(np.int64)
    span = keys.max(0) + 1
    flat = (keys[:, 0] * span[1] + keys[:, 1]) * span[2] + keys[:, 2]
    _, inverse, counts = np.unique(flat, return_inverse=True, return_counts=True)
    sums = np.stack([np.bincount(inverse, points[:, axis]) for axis in range(3)], axis=1)
    return sums / counts[:, None]


def f_scores(
    predicted: Array, target: Array, thresholds_m: tuple[float, ...], voxel_m: float = 0.02
) -> dict[float, FScore]:
    """Compare clouds in one frame, at several distances; both are thinned first.

    Args:
        predicted: (N, 3), m; none scores 0.
        target: (M, 3), m.
        thresholds_m: distances that still count as a hit.
        voxel_m: thinning.
    """
    ours, truth = voxel_downsample(predicted, voxel_m), voxel_downsample(target, voxel_m)
    if len(ours) == 0 or len(truth) == 0:
        return {limit: FScore(0.0, 0.0, 0.0) for limit in thresholds_m}
    to_truth, _ = cKDTree(truth).query(ours)
    to_ours, _ = cKDTree(ours).query(truth)
    scores = {}
    for limit in thresholds_m:
        precision = float(np.mean(to_truth < limit))
        recall = float(np.mean(to_ours < limit))
        total = precision + recall
        scores[limit] = FScore(precision, recall, 2 * precision * recall / total if total else 0.0)
    return scores
