# SPDX-License-Identifier: Apache-2.0
"""The fast cloud of a window is the plain one: same points, same choice in every voxel."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from vidllm_ros.geometry.camera import K_from_fov
from vidllm_ros.geometry.point_cloud import cloud_from_reconstruction
from vidllm_ros.geometry.transforms import invert_transform, make_transform, transform_points
from vidllm_ros.geometry.window_cloud import voxel_cells, window_cloud
from vidllm_ros.structures import Reconstruction, SceneContext

# no pixel's ray lies in the side of a voxel, where rounding would decide
TURN = make_transform(Rotation.from_euler("zyx", [0.4, 0.1, -0.2]).as_matrix(), [1.0, 2.0, 3.0])


def make_window(frames=5, height=20, width=30, far=1.0, seed=0):
    rng = np.random.default_rng(seed)
    depth = (far * rng.uniform(1, 3, (frames, height, width))).astype(np.float32)
    valid = rng.uniform(size=depth.shape) < 0.9
    depth[0, 0, 0], valid[0, 0, 0] = np.nan, True  # must not come out
    # in eighths: what the packed sort compares is exact
    confidence = (1 + rng.integers(0, 2000, depth.shape) / 8).astype(np.float32)
    poses = np.stack([make_transform(np.eye(3), [0.1 * i, 0, 0]) for i in range(frames)])
    scene = SceneContext(torch.zeros(0, 4), torch.zeros(0, 3), tuple(range(frames)), poses)
    K = np.tile(K_from_fov(0.9, 1.2, height, width), (frames, 1, 1))
    images = rng.integers(0, 256, (frames, height, width, 3), np.uint8)
    stamps = tuple(range(frames))
    return Reconstruction(images, stamps, depth, valid, confidence, K, poses, 1.0, 0.0, scene)


def best_of_each_voxel(cloud, voxel_m):
    """The plain loop, of a cloud that is not thinned: indices by voxel."""
    cells = [tuple(c) for c in np.stack([voxel_cells(p, voxel_m) for p in cloud.points.T], 1)]
    best = {}
    for i, cell in enumerate(cells):
        if cell not in best or cloud.confidence[i] > cloud.confidence[best[cell]]:
            best[cell] = i
    return [best[cell] for cell in sorted(best)]


@pytest.mark.parametrize("far", [1.0, 3000.0])
@pytest.mark.parametrize("quantile", [0.0, 0.2, 0.5])
def test_fast_cloud_equals_the_plain_one(quantile, far):
    """Also far out, where voxel, confidence and index do not fit one integer."""
    rec = make_window(far=far)
    everything = cloud_from_reconstruction(rec, TURN, quantile, 0.0, "map")
    want = best_of_each_voxel(everything, 0.05)
    got = window_cloud(rec, TURN, quantile, 0.05, "map")
    assert got.cloud.frame == "map"
    np.testing.assert_allclose(got.cloud.points, everything.points[want], atol=1e-6 * 3 * far)
    np.testing.assert_array_equal(got.cloud.rgb, everything.rgb[want])
    np.testing.assert_array_equal(got.cloud.confidence, everything.confidence[want])


def test_every_point_knows_its_frame():
    rec = make_window()
    got = window_cloud(rec, TURN, 0.0, 0.05)
    T_camera_world = invert_transform(TURN @ rec.T_world_camera)
    for i in range(5):
        part = got.of_frames([i])
        assert len(part) > 0
        p = transform_points(T_camera_world[i], part.points)
        u = p[:, 0] / p[:, 2] * rec.K[i, 0, 0] + rec.K[i, 0, 2]
        v = p[:, 1] / p[:, 2] * rec.K[i, 1, 1] + rec.K[i, 1, 2]
        np.testing.assert_allclose([u, v], np.round([u, v]), atol=1e-3)
        u, v = np.round([u, v]).astype(int)
        np.testing.assert_array_equal(part.rgb, rec.images[i, v, u])
    assert sum(len(got.of_frames([i])) for i in range(5)) == len(got.cloud)
    assert len(got.of_frames([])) == 0


@pytest.mark.parametrize("max_pixels", [3000, 800, 340, 1])
def test_few_pixels_are_spread_over_the_frames(max_pixels):
    rec = make_window()
    every = cloud_from_reconstruction(rec, TURN, 0.0, 0.0)
    some = window_cloud(rec, TURN, 0.0, 1e-4, max_pixels=max_pixels).cloud
    assert 0 < len(some) <= max(max_pixels, 5)
    have = {tuple(np.round(p, 3)) for p in every.points}
    found = [tuple(np.round(p, 3)) in have for p in some.points]
    assert np.mean(found) > 0.95  # rounding at the third digit


def test_a_surface_seen_by_neighbours_has_no_gaps():
    """Each frame gives one pixel in four, another one each time: four frames give all."""
    rec = make_window(frames=4, height=8, width=8)
    poses = np.tile(np.eye(4), (4, 1, 1))
    still = Reconstruction(
        rec.images, rec.stamps_ns, np.full_like(rec.depth, 2.0), np.ones_like(rec.valid),
        rec.confidence, rec.K, poses, 1.0, 0.0, rec.scene,
    )  # fmt: skip
    assert len(window_cloud(still, np.eye(4), 0.0, 1e-3, max_pixels=64).cloud) == 64


def test_pixels_much_denser_than_voxels_are_not_all_lifted():
    rec = make_window(height=60, width=80)
    rec.depth[:] = np.linspace(1, 3, 80)
    coarse = window_cloud(rec, np.eye(4), 0.0, 0.5).cloud
    every = best_of_each_voxel(cloud_from_reconstruction(rec, np.eye(4), 0.0, 0.0), 0.5)
    assert len(coarse) > 0.85 * len(every)


def test_nothing_valid_gives_nothing():
    rec = make_window()
    rec.valid[:] = False
    got = window_cloud(rec, np.eye(4), 0.2, 0.05, "map")
    assert (len(got.cloud), len(got.frame_index), got.cloud.frame) == (0, 0, "map")
