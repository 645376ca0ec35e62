# SPDX-License-Identifier: Apache-2.0
"""Cameras against cameras: RRA, RTA and mAA over all pairs, as VGGT's Co3D evaluation has them.

Only relative poses are compared, so no alignment is needed; directions of travel count up to their
sign and know no scale. Next: reconstruction_metrics.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.geometry.transforms import invert_transform

Array = NDArray[np.float64] | NDArray[np.float32]
RRA_LIMIT_DEG = 15.0
MAA_LIMIT_DEG = 30
NO_LENGTH = 1e-15


@dataclass(frozen=True)
class PoseScore:
    """Over all pairs given.

    Attributes:
        rra15, rta15: shares of pairs with an error of rotation, of direction below 15 deg.
        maa30: mean average accuracy to 30 deg (AUC@30).
        pairs: how many.
    """

    rra15: float
    rta15: float
    maa30: float
    pairs: int


def relative_pose_errors(
    T_world_camera: Array, true_T_world_camera: Array
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Angles between all pairs' relative poses, deg: of rotation, and of translation direction.

    The relative pose is E_i E_j^-1 for i < j, E world-to-camera; the other way round, directions
    would be measured in the other camera. Source: VGGT's Co3D evaluation, in float64.

    Args:
        T_world_camera: predicted, (S, 4, 4).
        true_T_world_camera: (S, 4, 4).

    Returns:
        one error a pair, (S (S - 1) / 2,), each; pairs in the order of `combinations`.

    Raises:
        ValueError: shapes differ, there are fewer than two cameras, or a pose is not finite.
    """
    ours = np.asarray(T_world_camera, np.float64)
    truth = np.asarray(true_T_world_camera, np.float64)
    if ours.shape != truth.shape or ours.shape[1:] != (4, 4):
        raise ValueError(f"T_world_camera: expected {truth.shape}, got {ours.shape}")
    if len(truth) < 2:
        raise ValueError(f"T_world_camera: expected at least two cameras, got {len(truth)}")
    if not (np.isfinite(ours).all() and np.isfinite(truth).all()):
        raise ValueError("T_world_camera: expected finite poses, got NaN or infinity")
    rotations, directions = [], []
    for i, j in combinations(range(len(truth)), 2):
        relative = invert_transform(ours[i]) @ ours[j]  # E_i E_j^-1: camera i from camera j
        wanted = invert_transform(truth[i]) @ truth[j]
        rotations.append(rotation_error(relative[:3, :3], wanted[:3, :3]))
        directions.append(direction_error(relative[:3, 3], wanted[:3, 3]))
    return np.array(rotations), np.array(directions)


def rotation_error(R: Array, wanted: Array) -> float:
    """Angle of the rotation between two rotations, deg, 0 to 180.

    Equals arccos(1 - 2 (1 - <q, q'>^2)) of the unit quaternions; the sine is taken in as well, so
    that small angles keep their digits.
    """
    between = np.asarray(R, np.float64).T @ np.asarray(wanted, np.float64)
    axis = np.array(
        [
            between[2, 1] - between[1, 2],
            between[0, 2] - between[2, 0],
            between[1, 0] - between[0, 1],
        ]
    )
    return float(np.degrees(np.arctan2(np.linalg.norm(axis), np.trace(between) - 1.0)))


def direction_error(direction: Array, wanted: Array) -> float:
    """Angle between two directions up to sign, deg, 0 to 90.

    A direction of no length is at right angles to every other, as in the source's code.
    """
    ours, truth = np.asarray(direction, np.float64), np.asarray(wanted, np.float64)
    lengths = np.linalg.norm(ours) * np.linalg.norm(truth)
    if lengths <= NO_LENGTH:
        return 90.0
    sine = np.linalg.norm(np.cross(ours, truth)) / lengths
    return float(np.degrees(np.arctan2(sine, abs(ours @ truth) / lengths)))


def mean_average_accuracy(
    rotation_deg: Array, translation_deg: Array, limit_deg: int = MAA_LIMIT_DEG
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


def score_pairs(rotation_deg: Array, translation_deg: Array) -> PoseScore:
    """Score pairs pooled over the sequences of a category; below 15 deg means less than."""
    rotation: NDArray[np.float64] = np.asarray(rotation_deg, np.float64)
    translation: NDArray[np.float64] = np.asarray(translation_deg, np.float64)
    return PoseScore(
        rra15=float(np.mean(rotation < RRA_LIMIT_DEG)),
        rta15=float(np.mean(translation < RRA_LIMIT_DEG)),
        maa30=mean_average_accuracy(rotation_deg, translation_deg),
        pairs=len(rotation_deg),
    )
