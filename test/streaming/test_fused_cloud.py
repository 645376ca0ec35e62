# SPDX-License-Identifier: Apache-2.0
"""The fused cloud is what thinning everything at once would give, and stays bounded."""

import numpy as np
import pytest

from vidllm_ros.geometry.point_cloud import PointCloud, empty_cloud, join_clouds, voxel_thin
from vidllm_ros.streaming.fused_cloud import FusedCloud


def random_cloud(seed, count=3000, reach=1.0):
    rng = np.random.default_rng(seed)
    return PointCloud(
        rng.uniform(-reach, reach, (count, 3)).astype(np.float32),
        rng.integers(0, 256, (count, 3), np.uint8),
        rng.permutation(count).astype(np.float32) + seed / 100,  # no ties
        "map",
    )


def rows(cloud):
    return sorted(map(tuple, np.column_stack([cloud.points, cloud.rgb, cloud.confidence])))


def test_adding_by_and_by_is_thinning_at_once():
    parts = [random_cloud(seed) for seed in range(5)]
    fused = FusedCloud(0.2, 100_000)
    for part in parts:
        fused.add(part)
    want = voxel_thin(join_clouds(parts), 0.2)
    assert len(fused) == len(want)
    assert rows(fused.cloud) == rows(want)


def test_order_of_equal_points_does_not_matter():
    cloud = random_cloud(0)
    fused = FusedCloud(0.1, 100_000)
    fused.add(cloud)
    before = rows(fused.cloud)
    fused.add(cloud)
    assert rows(fused.cloud) == before


def test_full_map_gets_larger_voxels_and_stays_spread_out():
    fused = FusedCloud(0.05, 500)
    for seed in range(4):
        fused.add(random_cloud(seed))
        assert len(fused) <= 500
    assert fused.voxel_m == pytest.approx(0.05 * 2 ** np.log2(fused.voxel_m / 0.05).round())
    assert fused.voxel_m > 0.05
    np.testing.assert_array_less(0.7, np.ptp(fused.cloud.points, axis=0) / 2)
    want = voxel_thin(fused.cloud, fused.voxel_m)
    assert len(want) == len(fused)


def test_given_cloud_does_not_change_later():
    fused = FusedCloud(0.2, 100_000)
    fused.add(random_cloud(0))
    held = fused.cloud
    before = rows(held)
    fused.add(random_cloud(1))
    assert rows(held) == before


def test_useless_points_are_left_out():
    cloud = random_cloud(0, 4)
    cloud.points[0] = np.nan
    cloud.points[1] = 1e9
    fused = FusedCloud(0.01, 100)
    fused.add(cloud)
    assert len(fused) == 2
    fused.add(empty_cloud("map"))
    assert len(fused) == 2


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="max_points"):
        FusedCloud(0.1, 0)
    with pytest.raises(ValueError, match="voxel_m"):
        FusedCloud(0.0, 1)
    with pytest.raises(ValueError, match="expected frame 'map', got 'world'"):
        FusedCloud(0.1, 1).add(empty_cloud("world"))
