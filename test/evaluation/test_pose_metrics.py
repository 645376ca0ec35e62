# SPDX-License-Identifier: Apache-2.0
"""RRA, RTA and mAA against quaternions, scipy and a slow count, and each trap of the protocol."""

from itertools import combinations

import numpy as np
import pytest
from geometry_sets import random_poses
from scipy.spatial.transform import Rotation

from vidllm_ros.evaluation import pose_metrics as m


def source_formulas(ours, truth):
    """The published formulas, word by word: E_i E_j^-1, quaternions, 1 - <t, t'>^2."""
    rotations, directions = [], []
    for i, j in combinations(range(len(truth)), 2):
        pair = [np.linalg.inv(T[i]) @ T[j] for T in (ours, truth)]
        q, q_true = (Rotation.from_matrix(T[:3, :3]).as_quat() for T in pair)
        rotations.append(np.degrees(np.arccos(1 - 2 * max(1 - (q @ q_true) ** 2, 1e-15))))
        t, t_true = (T[:3, 3] / (np.linalg.norm(T[:3, 3]) + 1e-15) for T in pair)
        angle = np.degrees(np.arccos(np.sqrt(1 - max(1 - (t @ t_true) ** 2, 1e-15))))
        directions.append(min(angle, 180 - angle))
    return np.array(rotations), np.array(directions)


def test_errors_are_the_published_formulas():
    ours, truth = random_poses(10, 1), random_poses(10, 2)
    rotation, direction = m.relative_pose_errors(ours, truth)
    assert len(rotation) == len(direction) == 45
    slow_rotation, slow_direction = source_formulas(ours, truth)
    assert np.allclose(rotation, slow_rotation, atol=1e-5)
    assert np.allclose(direction, slow_direction, atol=1e-5)


def test_rotation_angle_is_scipys():
    a, b = Rotation.random(40, random_state=1), Rotation.random(40, random_state=2)
    ours = [m.rotation_error(x, y) for x, y in zip(a.as_matrix(), b.as_matrix(), strict=True)]
    assert np.allclose(ours, np.degrees((a.inv() * b).magnitude()))


def test_small_and_large_angles_keep_their_digits():
    for degrees in (1e-6, 1e-3, 90.0, 179.999):
        R = Rotation.from_euler("xyz", [0, 0, degrees], degrees=True).as_matrix()
        assert m.rotation_error(R, np.eye(3)) == pytest.approx(degrees, rel=1e-6)


def test_the_direction_is_measured_in_camera_i():
    """Trap: E_j E_i^-1 instead of E_i E_j^-1 has the same rotation but another direction."""
    truth = np.tile(np.eye(4), (2, 1, 1))
    truth[1, :3, 3] = [1, 0, 0]
    ours = truth.copy()
    ours[1, :3, :3] = Rotation.from_euler("y", 40, degrees=True).as_matrix()
    rotation, direction = m.relative_pose_errors(ours, truth)
    assert rotation == pytest.approx([40])
    assert direction == pytest.approx([0], abs=1e-9)  # seen from camera 1 it would be 40


def test_direction_counts_up_to_sign():
    truth = np.tile(np.eye(4), (2, 1, 1))
    truth[1, :3, 3] = [0, 0, 1]
    ours = truth.copy()
    ours[1, :3, 3] = [0, 0, -7]
    assert m.relative_pose_errors(ours, truth)[1] == pytest.approx([0], abs=1e-9)
    ours[1, :3, 3] = [0, 3, 0]
    assert m.relative_pose_errors(ours, truth)[1] == pytest.approx([90])


def test_a_direction_without_length_is_at_right_angles():
    truth = np.tile(np.eye(4), (2, 1, 1))
    truth[1, :3, 3] = [0, 0, 1]
    still = np.tile(np.eye(4), (2, 1, 1))
    assert m.relative_pose_errors(still, truth)[1].tolist() == [90]
    assert m.relative_pose_errors(truth, still)[1].tolist() == [90]


def test_maas_last_bin_is_closed():
    """Trap: exactly 30 degrees still counts in the last bin and adds 1/30; more does not."""
    zero = np.zeros(4)
    assert m.mean_average_accuracy(zero, zero) == 1.0
    assert m.mean_average_accuracy(zero + 30.0, zero) == pytest.approx(1 / 30)
    assert m.mean_average_accuracy(zero + 30.0001, zero) == 0.0
    assert m.mean_average_accuracy(zero + 1.0, zero) == pytest.approx(29 / 30)  # open elsewhere


def test_maa_takes_the_worse_error_of_a_pair():
    rotation, direction = np.array([0.5, 29.5]), np.array([29.5, 0.5])
    assert m.mean_average_accuracy(rotation, direction) == pytest.approx(1 / 30)


def test_fifteen_degrees_is_not_below_fifteen():
    score = m.score_pairs(np.array([14.999, 15.0, 40.0]), np.array([0.0, 0.0, 15.0]))
    assert score.rra15 == pytest.approx(1 / 3)
    assert score.rta15 == pytest.approx(2 / 3)
    assert score.pairs == 3


def test_what_cannot_be_compared_is_refused():
    poses = random_poses(3, 1)
    with pytest.raises(ValueError, match=r"expected \(3, 4, 4\), got \(2, 4, 4\)"):
        m.relative_pose_errors(poses[:2], poses)
    with pytest.raises(ValueError, match="at least two cameras"):
        m.relative_pose_errors(poses[:1], poses[:1])
    with pytest.raises(ValueError, match="finite poses"):
        m.relative_pose_errors(poses * np.nan, poses)
