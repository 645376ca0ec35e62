# SPDX-License-Identifier: Apache-2.0
"""Boxes against boxes: ScanRefer's accuracy and Multi3DRefer's F1, axis-aligned in the room.

Predicted boxes arrive oriented, in the window's world; the room's axes come from the first
camera's true pose (docs/deviations.md). Next: grounding_benchmarks.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from vidllm_ros.geometry.boxes import aabb_iou, box_corners
from vidllm_ros.structures import GroundedBox


def room_aabb(box: GroundedBox, T_room_window: NDArray[np.float64]) -> NDArray[np.float64]:
    """Smallest box along the room's axes around the corners: (6,), min x y z, max x y z, m."""
    corners = np.asarray(box_corners(box.center, box.size, box.quat_xyzw), np.float64)
    corners = corners @ T_room_window[:3, :3].T + T_room_window[:3, 3]
    return np.concatenate([corners.min(0), corners.max(0)])


def best_iou(predicted: NDArray[np.float64] | None, targets: NDArray[np.float64]) -> float:
    """IoU of one box, (6,), with the nearest of several targets, (G, 6); 0 for no prediction."""
    if predicted is None or len(targets) == 0:
        return 0.0
    return float(np.asarray(aabb_iou(predicted[None], targets)).max())


def check_box(box: NDArray[np.float64], record: Mapping[str, Any]) -> NDArray[np.float64]:
    """Return a predicted box, (6,); one whose min is above its max is refused, naming its case.

    A box without volume is allowed: it overlaps nothing and scores 0.
    """
    if (box[3:] < box[:3]).any():
        raise ValueError(
            f"prediction {record.get('case_id')!r}: expected a box as min x y z, max x y z, got "
            f"{box.tolist()}; centre and size have to be converted"
        )
    return box


def accuracy_at(ious: Sequence[float], threshold: float) -> float:
    """Share of phrases whose box reaches the threshold. Source: ScanRefer Acc@k."""
    if len(ious) == 0:
        raise ValueError("ious: expected at least one phrase, got none")
    return float(np.mean(np.asarray(ious) >= threshold))


def multi_f1(
    predicted: NDArray[np.float64], targets: NDArray[np.float64], threshold: float
) -> float:
    """F1 of a set of boxes for one phrase; a phrase of nothing scores 1 if nothing is predicted.

    Source: Multi3DRefer: boxes are paired at greatest IoU, pairs of at least `threshold` are hits.

    Args:
        predicted: (P, 6).
        targets: (G, 6).
        threshold: least IoU of a hit.
    """
    if len(targets) == 0:
        return 1.0 if len(predicted) == 0 else 0.0
    if len(predicted) == 0:
        return 0.0
    iou = np.asarray(aabb_iou(predicted, targets))
    rows, columns = linear_sum_assignment(-iou)
    hits = int((iou[rows, columns] >= threshold).sum())
    return 2.0 * hits / (len(predicted) + len(targets))
