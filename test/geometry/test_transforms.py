# SPDX-License-Identifier: Apache-2.0
"""Identities of transforms, and scipy as an independent judge of rotations."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vidllm_ros.geometry.transforms import (
    T_WORLD_OPTICAL_LEVEL,
    invert_transform,
    make_transform,
    matrix_from_quat_xyzw,
    nearest_rotation,
    quat_xyzw_from_matrix,
    rotation_angle,
    transform_points,
    umeyama,
)


@pytest.fixture
def poses():
    rng = np.random.default_rng(0)
    R = Rotation.random(20, random_state=1).as_matrix().reshape(4, 5, 3, 3)
    return make_transform(R, rng.normal(size=(4, 5, 3)))


def test_invert_undoes(poses):
    product = invert_transform(poses) @ poses
    np.testing.assert_allclose(product, np.broadcast_to(np.eye(4), product.shape), atol=1e-12)


def test_chain_of_points(poses):
    points = np.random.default_rng(2).normal(size=(7, 3))
    T_a_b, T_b_c = poses[0, 0], poses[1, 1]
    chained = transform_points(T_a_b, transform_points(T_b_c, points))
    np.testing.assert_allclose(transform_points(T_a_b @ T_b_c, points), chained, atol=1e-12)


@pytest.mark.parametrize("lead", [(), (6,), (3, 6)])
def test_transform_points_broadcasts_leading_dimensions(poses, lead):
    points = np.random.default_rng(3).normal(size=(5, *lead, 3))
    moved = transform_points(poses[0], points)
    for i in range(5):
        want = points[i] @ poses[0, i, :3, :3].T + poses[0, i, :3, 3]
        np.testing.assert_allclose(moved[i], want, atol=1e-12)


def test_transform_points_refuses_more_transforms_than_points(poses):
    with pytest.raises(ValueError, match="leading dimensions"):
        transform_points(poses, np.zeros(3))


def test_quaternion_agrees_with_scipy_and_has_positive_w(poses):
    quat = quat_xyzw_from_matrix(poses[..., :3, :3])
    assert quat.shape == (4, 5, 4)
    assert (quat[..., 3] >= 0).all()
    theirs = Rotation.from_quat(quat.reshape(-1, 4)).as_matrix()
    np.testing.assert_allclose(theirs, poses[..., :3, :3].reshape(-1, 3, 3), atol=1e-12)
    np.testing.assert_allclose(matrix_from_quat_xyzw(quat), poses[..., :3, :3], atol=1e-12)


@pytest.mark.parametrize(
    "axis", [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.6, 0.0, -0.8], [0.6, 0.64, 0.48]]
)
@pytest.mark.parametrize("angle", [0.0, 1e-9, np.pi / 2, np.pi - 1e-9, np.pi])
def test_quaternion_and_angle_at_the_hard_places(axis, angle):
    R = Rotation.from_rotvec(np.array(axis) * angle).as_matrix()
    np.testing.assert_allclose(matrix_from_quat_xyzw(quat_xyzw_from_matrix(R)), R, atol=1e-12)
    np.testing.assert_allclose(rotation_angle(R), angle, atol=1e-12)


def test_quaternion_of_any_norm_is_a_rotation():
    R = matrix_from_quat_xyzw([0.0, 0.0, 3.0, 3.0])
    np.testing.assert_allclose(R, [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-12)


def test_level_camera_looks_along_x_with_z_up():
    right, down, forward = np.eye(3)
    np.testing.assert_array_equal(transform_points(T_WORLD_OPTICAL_LEVEL, forward), [1, 0, 0])
    np.testing.assert_array_equal(transform_points(T_WORLD_OPTICAL_LEVEL, right), [0, -1, 0])
    np.testing.assert_array_equal(transform_points(T_WORLD_OPTICAL_LEVEL, down), [0, 0, -1])
    assert np.linalg.det(T_WORLD_OPTICAL_LEVEL) == pytest.approx(1)
    with pytest.raises(ValueError, match="read-only"):
        T_WORLD_OPTICAL_LEVEL[0, 0] = 1


def test_nearest_rotation_is_a_rotation_and_keeps_one():
    M = np.random.default_rng(4).normal(size=(50, 3, 3))
    R = nearest_rotation(M)
    np.testing.assert_allclose(
        R @ np.swapaxes(R, -1, -2), np.broadcast_to(np.eye(3), R.shape), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(R), 1, atol=1e-12)
    np.testing.assert_allclose(nearest_rotation(R), R, atol=1e-12)


@pytest.mark.parametrize("with_scale", [True, False])
def test_umeyama_finds_the_similarity(with_scale):
    rng = np.random.default_rng(5)
    scale = 1.7 if with_scale else 1.0
    R = Rotation.random(random_state=6).as_matrix()
    source = rng.normal(size=(30, 3))
    target = scale * source @ R.T + [1.0, -2.0, 3.0]
    fit = umeyama(source, target, with_scale, weights=rng.uniform(0.1, 1, 30))
    np.testing.assert_allclose(fit.scale, scale, atol=1e-12)
    np.testing.assert_allclose(fit.R, R, atol=1e-12)
    np.testing.assert_allclose(fit.apply(source), target, atol=1e-12)
    np.testing.assert_allclose(transform_points(fit.matrix, source), target, atol=1e-12)


def test_umeyama_ignores_points_without_weight_and_never_mirrors():
    rng = np.random.default_rng(7)
    source = rng.normal(size=(20, 3))
    target = source.copy()
    target[0] += 100
    weights = np.ones(20)
    weights[0] = 0
    fit = umeyama(source, target, True, weights)
    np.testing.assert_allclose(fit.matrix, np.eye(4), atol=1e-12)
    mirrored = umeyama(source, source * [1, 1, -1], True)
    assert np.linalg.det(mirrored.R) == pytest.approx(1)


@pytest.mark.parametrize(
    ("source", "weights", "words"),
    [(np.zeros((0, 3)), None, "at least one point"), (np.zeros((2, 3)), [0, 0], "positive sum")],
)
def test_umeyama_says_what_is_wrong(source, weights, words):
    with pytest.raises(ValueError, match=words):
        umeyama(source, source, False, weights)
