# SPDX-License-Identifier: Apache-2.0
"""Clouds against Open3D and by hand; precision and recall are not swapped."""

import numpy as np
import open3d
import pytest

from vidllm_ros.evaluation import reconstruction_metrics as m


def open3d_cloud(points):
    return open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points))


def test_scores_are_open3ds():
    rng = np.random.default_rng(0)
    ours, truth = rng.uniform(0, 1, (900, 3)), rng.uniform(0, 1.1, (1500, 3))
    score = m.cloud_score(ours, truth, limit_m=0.08)
    thin_ours = open3d_cloud(ours).voxel_down_sample(0.02)
    thin_truth = open3d_cloud(truth).voxel_down_sample(0.02)
    to_truth = np.asarray(thin_ours.compute_point_cloud_distance(thin_truth))
    to_ours = np.asarray(thin_truth.compute_point_cloud_distance(thin_ours))
    assert score.acc_m == pytest.approx(to_truth.mean(), rel=1e-6)
    assert score.comp_m == pytest.approx(to_ours.mean(), rel=1e-6)
    assert score.precision == pytest.approx(np.mean(to_truth < 0.08), abs=1e-9)
    assert score.recall == pytest.approx(np.mean(to_ours < 0.08), abs=1e-9)
    both = score.precision, score.recall
    assert score.f == pytest.approx(2 * both[0] * both[1] / sum(both))


def test_thinning_is_open3ds():
    points = np.random.default_rng(1).uniform(-1, 1, (4000, 3))
    ours = m.voxel_downsample(points, 0.2)
    theirs = np.asarray(open3d_cloud(points).voxel_down_sample(0.2).points)
    assert np.allclose(np.sort(ours, axis=0), np.sort(theirs, axis=0))


def test_precision_and_recall_are_not_swapped():
    """Trap: half the truth found, nothing wrong: precision 1, recall one half."""
    truth = np.array([[x, 0.0, 0.0] for x in range(10)])
    found = truth[:5]
    score = m.cloud_score(found, truth)
    assert (score.precision, score.recall) == (1.0, 0.5)
    assert score.acc_m == 0.0
    assert score.comp_m == pytest.approx((1 + 2 + 3 + 4 + 5) / 10)
    assert score.f == pytest.approx(2 / 3)
    swapped = m.cloud_score(truth, found)
    assert (swapped.precision, swapped.recall) == (0.5, 1.0)


def test_the_limit_itself_is_no_hit():
    truth, far = np.zeros((1, 3)), np.array([[0.05, 0, 0]])
    assert m.cloud_score(far, truth).precision == 0.0
    assert m.cloud_score(far * 0.99, truth).precision == 1.0


def test_clouds_without_points_or_with_nan_are_refused():
    points = np.zeros((2, 3))
    with pytest.raises(ValueError, match="predicted: expected points, got none"):
        m.cloud_score(np.zeros((0, 3)), points)
    with pytest.raises(ValueError, match="target: expected finite"):
        m.cloud_score(points, points * np.nan)
    assert m.f_scores(np.zeros((0, 3)), points, (0.05,))[0.05].f == 0.0
    with pytest.raises(ValueError, match="target: expected points, got none"):
        m.f_scores(points, np.zeros((0, 3)), (0.05,))
