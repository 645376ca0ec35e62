# SPDX-License-Identifier: Apache-2.0
"""Depth against depth, in plain numpy: Eigen's definitions, and NYUv2's protocol around them.

Nothing is aligned unless a name says so. Poses are compared in pose_metrics.py, clouds in
reconstruction_metrics.py; their functions can be had from here as well. Next: pose_metrics.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.evaluation.pose_metrics import (
    direction_error,
    mean_average_accuracy,
    relative_pose_errors,
)
from vidllm_ros.evaluation.reconstruction_metrics import FScore, f_scores, voxel_downsample

__all__ = [
    "DepthErrors",
    "FScore",
    "depth_errors",
    "direction_error",
    "f_scores",
    "mean_average_accuracy",
    "nyuv2_errors",
    "relative_pose_errors",
    "resize_aligned_corners",
    "scale_error",
    "voxel_downsample",
]

Array = NDArray[np.float64] | NDArray[np.float32]

NYUV2_RANGE_M = (1e-3, 10.0)
NYUV2_SIZE = (480, 640)
EIGEN_ROWS, EIGEN_COLUMNS = slice(45, 471), slice(41, 601)
DELTA = 1.25


@dataclass(frozen=True)
class DepthErrors:
    """Means over valid pixels.

    Attributes:
        absrel: |p - g| / g.
        delta1, delta2, delta3: share within a factor of 1.25, 1.25^2, 1.25^3; the factor itself
            does not count.
        rmse_m: root of the mean squared difference, m.
        log10: |log10 p - log10 g|.
    """

    absrel: float
    delta1: float
    rmse_m: float
    delta2: float
    delta3: float
    log10: float


def depth_errors(
    predicted: Array, target: Array, valid: NDArray[np.bool_], align: bool = False
) -> DepthErrors:
    """Compare depth maps over valid pixels.

    Args:
        predicted: m.
        target: of the same shape, m.
        valid: which targets mean something.
        align: multiply the prediction by median(target) / median(predicted) first.

    Raises:
        ValueError: no pixel is valid, or a prediction there is not finite.
    """
    guess = np.asarray(predicted, dtype=np.float64)[valid]
    truth = np.asarray(target, dtype=np.float64)[valid]
    if truth.size == 0:
        raise ValueError("valid: expected at least one valid pixel, got none")
    if not np.isfinite(guess).all():
        bad = int((~np.isfinite(guess)).sum())
        raise ValueError(
            f"predicted: expected finite depth where the truth is known, got {bad} pixels that "
            "are not; a model has to commit itself everywhere"
        )
    guess = np.clip(guess, 1e-3, None)
    if align:
        guess = guess * (np.median(truth) / np.median(guess))
    return _errors(guess, truth)


def _errors(guess: NDArray[np.float64], truth: NDArray[np.float64]) -> DepthErrors:
    ratio = np.maximum(guess / truth, truth / guess)
    return DepthErrors(
        absrel=float(np.mean(np.abs(guess - truth) / truth)),
        delta1=float(np.mean(ratio < DELTA)),
        delta2=float(np.mean(ratio < DELTA**2)),
        delta3=float(np.mean(ratio < DELTA**3)),
        rmse_m=float(np.sqrt(np.mean((guess - truth) ** 2))),
        log10=float(np.mean(np.abs(np.log10(guess) - np.log10(truth)))),
    )


def scale_error(predicted: Array, target: Array, valid: NDArray[np.bool_]) -> float:
    """How far the scene's scale is off, as a share: |median(predicted / target) - 1|."""
    ratio = np.asarray(predicted, np.float64)[valid] / np.asarray(target, np.float64)[valid]
    return float(abs(np.median(ratio) - 1.0))


def nyuv2_valid(target: Array) -> NDArray[np.bool_]:
    """Tell which true depths count: 1e-3 < g < 10 m, inside the Eigen crop.

    Raises:
        ValueError: the map is not 480 x 640.
    """
    if target.shape != NYUV2_SIZE:
        raise ValueError(f"target: expected shape {NYUV2_SIZE}, got {target.shape}")
    inside = np.zeros(NYUV2_SIZE, bool)
    inside[EIGEN_ROWS, EIGEN_COLUMNS] = True
    nearest, farthest = NYUV2_RANGE_M
    return np.asarray(inside & (target > nearest) & (target < farthest), bool)


def nyuv2_errors(predicted: Array, target: Array, align: bool = False) -> DepthErrors:
    """Score one image by NYUv2's protocol.

    The prediction is brought to the truth's size, then clamped to 1e-3 ... 10 m, where what is not
    a number counts as 1e-3 m and infinity as 10 m. Source: AdaBins' and ZoeDepth's evaluation.

    Args:
        predicted: (h, w), m, the whole image.
        target: (480, 640), m.
        align: multiply by median(target) / median(predicted) over the counted pixels before
            clamping: the "median-scaled" variant, which is no metric depth any more.

    Raises:
        ValueError: the truth has no valid pixel in the crop.
    """
    valid = nyuv2_valid(target)
    if not valid.any():
        raise ValueError("target: expected valid depth inside the Eigen crop, got none")
    guess = resize_aligned_corners(predicted, NYUV2_SIZE)[valid]
    truth = np.asarray(target, np.float64)[valid]
    if align:
        usable = np.isfinite(guess) & (guess > 0)
        if usable.any():
            guess = guess * (np.median(truth) / np.median(guess[usable]))
    nearest, farthest = NYUV2_RANGE_M
    guess = np.nan_to_num(guess, nan=nearest, posinf=farthest, neginf=nearest)
    return _errors(np.clip(guess, nearest, farthest), truth)


def resize_aligned_corners(values: Array, size: tuple[int, int]) -> NDArray[np.float64]:
    """Resize a map bilinearly so that corner pixels fall on corner pixels, (H, W).

    Source: torch's interpolate with align_corners=True, which the protocols use.
    """
    grid = np.asarray(values, np.float64)
    for axis, wanted in enumerate(size):
        have = grid.shape[axis]
        if have == wanted:
            continue
        at = np.linspace(0.0, have - 1.0, wanted)
        low = np.minimum(at.astype(int), max(have - 2, 0))
        high = np.minimum(low + 1, have - 1)
        share = (at - low).reshape((-1, 1) if axis == 0 else (1, -1))
        below, above = np.take(grid, low, axis), np.take(grid, high, axis)
        grid = np.where(share == 0, below, below * (1 - share) + above * share)
    return grid
