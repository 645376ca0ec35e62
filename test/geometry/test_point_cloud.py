# SPDX-License-Identifier: Apache-2.0
"""Thinning that never invents points, and a PLY another program reads back."""

import numpy as np
import pytest
import torch

from vidllm_ros.geometry.camera import K_from_fov, unproject
from vidllm_ros.geometry.point_cloud import (
    PointCloud,
    cloud_from_reconstruction,
    empty_cloud,
    join_clouds,
    voxel_thin,
    write_ply,
)
from vidllm_ros.geometry.transforms import make_transform, transform_points
from vidllm_ros.structures import Reconstruction, SceneContext


def random_cloud(count=2000, seed=0):
    rng = np.random.default_rng(seed)
    return PointCloud(
        rng.uniform(-1, 1, (count, 3)).astype(np.float32),
        rng.integers(0, 256, (count, 3), np.uint8),
        rng.integers(1, 5, count).astype(np.float32),
    )


def make_reconstruction():
    rng = np.random.default_rng(1)
    depth = rng.uniform(1, 3, (2, 6, 8)).astype(np.float32)
    valid = np.ones(depth.shape, bool)
    valid[0, :3] = False
    depth[0, 0, 0] = np.nan
    depth[1, 2, 3] = np.nan  # called valid and still not a number: must not come out
    confidence = rng.uniform(1, 2, depth.shape).astype(np.float32)
    poses = np.stack([np.eye(4), make_transform(np.eye(3), [0.5, 0, 0])])
    scene = SceneContext(torch.zeros(0, 4), torch.zeros(0, 3), (1, 2), poses)
    K = np.tile(K_from_fov(1.0, 1.2, 6, 8), (2, 1, 1))
    images = rng.integers(0, 256, (2, 6, 8, 3), np.uint8)
    return Reconstruction(images, (1, 2), depth, valid, confidence, K, poses, 1.0, 0.0, scene)


@pytest.mark.parametrize("reach", [1.0, 400_000.0])
def test_thinning_keeps_the_most_confident_point_of_each_voxel(reach):
    """Near points share one sort key with their index, far ones do not: both ways agree."""
    cloud = random_cloud()
    cloud.points[-2:] *= reach
    thin = voxel_thin(cloud, 0.25)
    cells = [tuple(c) for c in np.floor(cloud.points.astype(float) / 0.25).astype(int)]
    best: dict[tuple[int, ...], int] = {}
    for i, cell in enumerate(cells):
        if cell not in best or cloud.confidence[i] > cloud.confidence[best[cell]]:
            best[cell] = i
    want = sorted(best.values())
    np.testing.assert_array_equal(thin.points, cloud.points[want])
    np.testing.assert_array_equal(thin.rgb, cloud.rgb[want])
    np.testing.assert_array_equal(thin.confidence, cloud.confidence[want])


def test_thinning_twice_changes_nothing_and_handles_nothing():
    thin = voxel_thin(random_cloud(), 0.1)
    again = voxel_thin(thin, 0.1)
    np.testing.assert_array_equal(again.points, thin.points)
    assert len(voxel_thin(empty_cloud(), 0.1)) == 0


def test_thinning_refuses_what_it_cannot_index():
    cloud = random_cloud(2)
    with pytest.raises(ValueError, match="above 0 m"):
        voxel_thin(cloud, 0)
    far = PointCloud(cloud.points * 1e6, cloud.rgb, cloud.confidence)
    with pytest.raises(ValueError, match="larger voxel"):
        voxel_thin(far, 0.01)


def test_join_needs_one_frame():
    a, b = random_cloud(5), random_cloud(7, seed=2)
    assert len(join_clouds([a, b])) == 12
    with pytest.raises(ValueError, match="one frame"):
        join_clouds([a, empty_cloud("map")])


def test_cloud_of_a_reconstruction_is_its_valid_points():
    rec = make_reconstruction()
    T = make_transform([[0, -1, 0], [1, 0, 0], [0, 0, 1]], [1.0, 2.0, 3.0])
    cloud = cloud_from_reconstruction(rec, T, frame="map")
    keep = rec.valid & np.isfinite(rec.depth)
    assert cloud.frame == "map"
    assert len(cloud) == keep.sum()
    assert np.isfinite(cloud.points).all()
    points = transform_points(T @ rec.T_world_camera, unproject(rec.depth, rec.K))
    np.testing.assert_allclose(cloud.points, points[keep], atol=1e-5)
    np.testing.assert_array_equal(cloud.rgb, rec.images[keep])


def test_confidence_quantile_drops_that_share():
    rec = make_reconstruction()
    total = len(cloud_from_reconstruction(rec, np.eye(4)))
    kept = cloud_from_reconstruction(rec, np.eye(4), min_confidence_quantile=0.25)
    assert len(kept) == pytest.approx(0.75 * total, abs=1)
    dropped = sorted(
        set(rec.confidence[rec.valid & np.isfinite(rec.depth)]) - set(kept.confidence)
    )
    assert max(dropped) < kept.confidence.min()


def test_ply_is_read_back_by_open3d(tmp_path):
    open3d = pytest.importorskip("open3d")
    cloud = random_cloud(100)
    write_ply(tmp_path / "a.ply", cloud)
    theirs = open3d.io.read_point_cloud(str(tmp_path / "a.ply"))
    np.testing.assert_allclose(np.asarray(theirs.points), cloud.points, atol=1e-7)
    np.testing.assert_allclose(np.asarray(theirs.colors) * 255, cloud.rgb, atol=1e-3)


def test_ply_layout_and_nothing_left_behind(tmp_path):
    cloud = random_cloud(3)
    write_ply(tmp_path / "a.ply", cloud)
    header, _, body = (tmp_path / "a.ply").read_bytes().partition(b"end_header\n")
    assert b"element vertex 3\n" in header
    assert len(body) == 3 * (12 + 3 + 4)
    write_ply(tmp_path / "a.ply", empty_cloud())
    assert b"element vertex 0\n" in (tmp_path / "a.ply").read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["a.ply"]
    with pytest.raises(FileNotFoundError, match="existing folder"):
        write_ply(tmp_path / "none" / "a.ply", cloud)
