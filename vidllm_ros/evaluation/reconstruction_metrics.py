# SPDX-License-Identifier: Apache-2.0
"""Clouds against clouds: accuracy, completeness, precision, recall and F-score.

Precision asks of every predicted point whether the truth is near, recall of every true point
whether the prediction is; Acc and Comp are the mean distances the same two ways. Both clouds are
thinned first. Source: NeuralRecon's evaluation (Atlas' released code swaps the two). Next:
reconstruction_masks.py, what of the truth was seen at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Array = NDArray[np.float64] | NDArray[np.float32]
THINNING_M = 0.02
HIT_M = 0.05


@dataclass(frozen=True)
class FScore:
    """Shares of points within the threshold of the other cloud, and their harmonic mean."""

    precision: float
    recall: float
    f: float


@dataclass(frozen=True)
class CloudScore:
    """One scene.

    Attributes:
        acc_m: mean distance from a predicted point to the truth, m.
        comp_m: mean distance from a true point to the prediction, m.
        precision: share of predicted points nearer to the truth than 5 cm.
        recall: share of true points nearer to the prediction than 5 cm.
        f: their harmonic mean.
    """

    acc_m: float
    comp_m: float
    precision: float
    recall: float
    f: float


def voxel_downsample(points: Array, voxel_m: float) -> NDArray[np.float64]:
    """Mean of the points of every voxel, (M, 3), m.

    Voxels are counted from half a voxel below the lowest coordinates, as Open3D counts them.
    """
    points = np.asarray(points, np.float64)
    if len(points) == 0:
        return points.reshape(0, 3)
    keys = np.floor((points - points.min(0)) / voxel_m + 0.5).astype(np.int64)
    span = keys.max(0) + 1
    flat = (keys[:, 0] * span[1] + keys[:, 1]) * span[2] + keys[:, 2]
    _, inverse, counts = np.unique(flat, return_inverse=True, return_counts=True)
    sums = np.stack([np.bincount(inverse, points[:, axis]) for axis in range(3)], axis=1)
    return sums / counts[:, None]


def nearest_distances(
    predicted: Array, target: Array, voxel_m: float | None = THINNING_M
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances prediction -> truth, (N,), and truth -> prediction, (M,), of thinned clouds, m.

    Args:
        predicted: (N, 3), m.
        target: (M, 3), m.
        voxel_m: thinning; None where both are thinned already.

    Raises:
        ValueError: a cloud has no points, or points that are not finite.
    """
    for name, points in (("predicted", predicted), ("target", target)):
        if len(points) == 0:
            raise ValueError(f"{name}: expected points, got none")
        if not np.isfinite(points).all():
            raise ValueError(f"{name}: expected finite points, got NaN or infinity")
    ours, truth = np.asarray(predicted, np.float64), np.asarray(target, np.float64)
    if voxel_m is not None:
        ours, truth = voxel_downsample(ours, voxel_m), voxel_downsample(truth, voxel_m)
    to_truth, _ = cKDTree(truth).query(ours)
    to_ours, _ = cKDTree(ours).query(truth)
    return np.asarray(to_truth), np.asarray(to_ours)


def cloud_score(
    predicted: Array, target: Array, limit_m: float = HIT_M, voxel_m: float | None = THINNING_M
) -> CloudScore:
    """Score one scene; both clouds in one frame.

    Args:
        predicted: (N, 3), m.
        target: (M, 3), m.
        limit_m: distances below it are hits.
        voxel_m: thinning; None where both are thinned already.

    Raises:
        ValueError: a cloud has no points, or points that are not finite.
    """
    to_truth, to_ours = nearest_distances(predicted, target, voxel_m)
    score = f_score(to_truth, to_ours, limit_m)
    return CloudScore(
        acc_m=float(to_truth.mean()),
        comp_m=float(to_ours.mean()),
        precision=score.precision,
        recall=score.recall,
        f=score.f,
    )


def f_score(to_truth: Array, to_ours: Array, limit_m: float) -> FScore:
    """Turn the two ways' distances into precision, recall and F."""
    precision = float(np.mean(to_truth < limit_m))
    recall = float(np.mean(to_ours < limit_m))
    total = precision + recall
    return FScore(precision, recall, 2 * precision * recall / total if total else 0.0)


def f_scores(
    predicted: Array,
    target: Array,
    thresholds_m: tuple[float, ...],
    voxel_m: float = THINNING_M,
) -> dict[float, FScore]:
    """Compare clouds in one frame, at several distances; both are thinned first.

    Args:
        predicted: (N, 3), m; none scores 0.
        target: (M, 3), m.
        thresholds_m: distances below them are hits.
        voxel_m: thinning.

    Raises:
        ValueError: the truth has no points, or a cloud has points that are not finite.
    """
    if len(predicted) == 0 and len(target):
        return {limit: FScore(0.0, 0.0, 0.0) for limit in thresholds_m}
    to_truth, to_ours = nearest_distances(predicted, target, voxel_m)
    return {limit: f_score(to_truth, to_ours, limit) for limit in thresholds_m}
