# SPDX-License-Identifier: Apache-2.0
"""Boxes brought to the room, ScanRefer's accuracy, Multi3DRefer's F1."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vidllm_ros.evaluation import grounding_metrics as m
from vidllm_ros.structures import GroundedBox

UNIT = np.array([0.0, 0, 0, 1, 1, 1])


def shifted(x: float) -> np.ndarray:
    return UNIT + np.array([x, 0, 0, x, 0, 0])


def test_room_aabb_undoes_the_window():
    T_room_window = np.eye(4)
    T_room_window[:3, :3] = Rotation.from_euler("xyz", [110, 5, 40], degrees=True).as_matrix()
    T_room_window[:3, 3] = [1.0, 2.0, 1.5]
    T_window_room = np.linalg.inv(T_room_window)
    center, size = np.array([2.0, 3.0, 0.5]), np.array([1.0, 0.6, 0.4])
    quat = Rotation.from_matrix(T_window_room[:3, :3]).as_quat()
    box = GroundedBox(
        "chair", 1.0, T_window_room[:3, :3] @ center + T_window_room[:3, 3], size, quat
    )
    expected = np.concatenate([center - size / 2, center + size / 2])
    assert np.allclose(m.room_aabb(box, T_room_window), expected)


def test_best_iou_and_accuracy():
    assert m.best_iou(shifted(0.5), np.stack([shifted(5), UNIT])) == pytest.approx(1 / 3)
    assert m.best_iou(None, UNIT[None]) == 0.0
    assert m.accuracy_at([0.2, 0.25, 0.6], 0.25) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="at least one phrase"):
        m.accuracy_at([], 0.25)


def test_multi_f1_more_found_than_true_and_the_other_way():
    none = np.zeros((0, 6))
    assert m.multi_f1(none, none, 0.5) == 1.0
    assert m.multi_f1(UNIT[None], none, 0.5) == 0.0
    assert m.multi_f1(none, UNIT[None], 0.5) == 0.0
    two = np.stack([UNIT, shifted(10)])
    assert m.multi_f1(two, UNIT[None], 0.5) == pytest.approx(2 / 3)
    assert m.multi_f1(UNIT[None], two, 0.5) == pytest.approx(2 / 3)
    # Best total IoU pairs each box once, though both touch the first.
    close = np.stack([shifted(0.1), shifted(0.2)])
    assert m.multi_f1(close, np.stack([UNIT, shifted(0.3)]), 0.5) == 1.0
