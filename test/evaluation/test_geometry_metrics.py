# SPDX-License-Identifier: Apache-2.0
"""Depth, pose and cloud metrics against slow twins and known answers."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vidllm_ros.evaluation import geometry_metrics as m


def random_poses(count: int, rng: np.random.Generator) -> np.ndarray:
    poses = np.repeat(np.eye(4)[None], count, axis=0)
    poses[:, :3, :3] = Rotation.random(count, random_state=int(rng.integers(1000))).as_matrix()
    poses[:, :3, 3] = rng.normal(size=(count, 3))
    return poses


def test_depth_errors_are_their_loop():
    rng = np.random.default_rng(0)
    target, predicted = rng.uniform(0.5, 5, (2, 6, 7))
    valid = rng.random((6, 7)) > 0.3
    target[~valid] = np.nan
    absrel, hits, squares, n = 0.0, 0, 0.0, 0
    for p, g, ok in zip(predicted.flat, target.flat, valid.flat, strict=True):
        if ok:
            absrel += abs(p - g) / g
            hits += max(p / g, g / p) < 1.25
            squares += (p - g) ** 2
            n += 1
    errors = m.depth_errors(predicted, target, valid)
    assert errors.absrel == pytest.approx(absrel / n)
    assert errors.delta1 == pytest.approx(hits / n)
    assert errors.rmse_m == pytest.approx((squares / n) ** 0.5)
    with pytest.raises(ValueError, match="at least one valid pixel"):
        m.depth_errors(predicted, target, np.zeros_like(valid))


def test_alignment_forgives_scale_only():
    rng = np.random.default_rng(0)
    target = rng.uniform(0.5, 5, (6, 7))
    valid = np.ones((6, 7), bool)
    assert m.depth_errors(target * 1.3, target, valid, align=True).absrel == pytest.approx(0)
    assert m.depth_errors(target * 1.3, target, valid).absrel == pytest.approx(0.3)
    assert m.scale_error(target * 1.3, target, valid) == pytest.approx(0.3)
    assert m.scale_error(target * 0.7, target, valid) == pytest.approx(0.3)


def test_relative_errors_know_rotation_and_direction():
    rng = np.random.default_rng(0)
    truth = random_poses(5, rng)
    world = random_poses(1, rng)[0]
    rotation, direction = m.relative_pose_errors(world @ truth, truth)
    assert len(rotation) == 10
    assert np.allclose(rotation, 0, atol=1e-3)
    assert np.allclose(direction, 0, atol=1e-3)
    scaled = truth.copy()
    scaled[:, :3, 3] *= 7.0  # directions do not know scale
    assert np.allclose(m.relative_pose_errors(scaled, truth)[1], 0, atol=1e-3)
    turned = truth.copy()
    turn = Rotation.from_euler("z", 20, degrees=True).as_matrix()
    turned[0, :3, :3] = truth[0, :3, :3] @ turn
    rotation, _ = m.relative_pose_errors(turned, truth)
    assert np.allclose(rotation[:4], 20, atol=1e-3)
    assert np.allclose(rotation[4:], 0, atol=1e-3)


def test_direction_counts_up_to_sign():
    assert m.direction_error(np.array([0, 0, -2.0]), np.array([0, 0, 1.0])) == pytest.approx(0)
    assert m.direction_error(np.array([1, 0, 0.0]), np.array([0, 0, 1.0])) == pytest.approx(90)
    assert m.direction_error(np.zeros(3), np.array([0, 0, 1.0])) == 90.0
    assert m.direction_error(np.ones(3), np.zeros(3)) == 90.0  # as the source


def test_maa_counts_thresholds():
    zero = np.zeros(8)
    assert m.mean_average_accuracy(zero, zero) == pytest.approx(1.0)
    assert m.mean_average_accuracy(zero + 31, zero) == 0.0
    assert m.mean_average_accuracy(zero + 30.0, zero) == pytest.approx(1 / 30)
    rng = np.random.default_rng(0)
    rotation, direction = rng.uniform(0, 40, (2, 200))
    worst = np.maximum(rotation, direction)
    slow = np.mean([np.mean(worst < limit) for limit in range(1, 31)])
    assert m.mean_average_accuracy(rotation, direction) == pytest.approx(slow)


def test_voxels_hold_means():
    points = np.array([[0.0, 0, 0], [0.004, 0, 0], [0.5, 0.5, 0.5]])
    thin = m.voxel_downsample(points, 0.02)
    assert sorted(thin[:, 0].tolist()) == pytest.approx([0.002, 0.5])
    assert len(m.voxel_downsample(np.zeros((0, 3)), 0.02)) == 0


def test_f_score_is_its_loop():
    rng = np.random.default_rng(0)
    ours, truth = rng.uniform(0, 1, (60, 3)), rng.uniform(0, 1, (80, 3))
    score = m.f_scores(ours, truth, (0.15,), voxel_m=1e-4)[0.15]
    precision = np.mean([np.linalg.norm(truth - p, axis=1).min() < 0.15 for p in ours])
    recall = np.mean([np.linalg.norm(ours - p, axis=1).min() < 0.15 for p in truth])
    assert score.precision == pytest.approx(precision)
    assert score.recall == pytest.approx(recall)
    assert score.f == pytest.approx(2 * precision * recall / (precision + recall))
    assert m.f_scores(np.zeros((0, 3)), truth, (0.1,))[0.1].f == 0.0
