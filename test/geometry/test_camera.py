# SPDX-License-Identifier: Apache-2.0
"""Projection against unprojection, and intrinsics under resizing and cropping."""

import cv2
import numpy as np
import pytest

from vidllm_ros.geometry.camera import (
    K_from_fov,
    crop_K,
    fov_from_K,
    project,
    scale_K,
    unproject,
)

K = np.array([[100.0, 0, 31.5], [0, 110.0, 20.0], [0, 0, 1]])


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-9), (np.float32, 2e-4)])
def test_project_undoes_unproject(dtype, tolerance):
    rng = np.random.default_rng(0)
    depth = rng.uniform(0.3, 8, (2, 3, 40, 64)).astype(dtype)
    many_K = np.tile(K, (2, 3, 1, 1)) * np.array([1.1, 1.0])[:, None, None, None]
    points = unproject(depth, many_K)
    assert points.shape == (2, 3, 40, 64, 3)
    assert points.dtype == dtype
    uv, z = project(points.reshape(2, 3, -1, 3), many_K)
    u, v = np.meshgrid(np.arange(64), np.arange(40))
    np.testing.assert_allclose(
        uv[..., 0], np.broadcast_to(u.ravel(), uv.shape[:-1]), atol=tolerance
    )
    np.testing.assert_allclose(
        uv[..., 1], np.broadcast_to(v.ravel(), uv.shape[:-1]), atol=tolerance
    )
    np.testing.assert_array_equal(z, depth.reshape(z.shape))


def test_pixel_centres_are_integers():
    points = unproject(np.full((40, 64), 2.0), K)
    np.testing.assert_allclose(points[20, 31], [-0.5 / 100 * 2, 0, 2])


def test_nan_depth_gives_nan_points_and_no_other():
    depth = np.full((4, 5), 1.0)
    depth[1, 2] = np.nan
    bad = np.isnan(unproject(depth, K)).all(axis=-1)
    assert bad.sum() == 1
    assert bad[1, 2]


def test_scaled_K_sees_the_resized_picture():
    """A bright dot is found where the scaled intrinsics put it, after OpenCV's own resize."""
    image = np.zeros((40, 64), np.float32)
    image[12:14, 40:42] = 1  # centre at (40.5, 12.5)
    small = cv2.resize(image, (32, 20), interpolation=cv2.INTER_AREA)
    weights = small / small.sum()
    found = np.array(
        [(weights.sum(0) * np.arange(32)).sum(), (weights.sum(1) * np.arange(20)).sum()]
    )
    ray = np.array([[(40.5 - 31.5) / 100, (12.5 - 20) / 110, 1.0]])
    uv, _ = project(ray, scale_K(K, 0.5, 0.5))
    np.testing.assert_allclose(uv[0], found, atol=1e-6)


def test_scale_and_crop_compose_and_leave_the_input():
    before = K.copy()
    np.testing.assert_allclose(scale_K(scale_K(K, 0.5, 0.25), 2, 4), K)
    np.testing.assert_array_equal(crop_K(K, 3, 5)[:2, 2], [28.5, 15.0])
    np.testing.assert_array_equal(K, before)


def test_field_of_view_round_trip():
    fov = np.radians([[40.0, 55.0], [70.0, 90.0]])
    made = K_from_fov(fov[:, 0], fov[:, 1], 84, 112)
    np.testing.assert_array_equal(made[:, :2, 2], [[56, 42], [56, 42]])
    fov_h, fov_w = fov_from_K(made, 84, 112)
    np.testing.assert_allclose(np.stack([fov_h, fov_w], -1), fov, atol=1e-12)
