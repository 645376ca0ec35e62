# SPDX-License-Identifier: Apache-2.0
"""ScanNet reconstruction by hand: the masking, the pose that lays the cloud, no scale."""

import numpy as np
import pytest
from geometry_sets import wall, write_ply, write_scannet

from vidllm_ros.data.scannet_frames import mesh_file
from vidllm_ros.evaluation.benchmark_scannet import SCANNET_RECONSTRUCTION as BENCHMARK
from vidllm_ros.geometry.transforms import invert_transform, transform_points

SCENE = "scene0707_00"


@pytest.fixture
def cases(tmp_path):
    write_scannet(tmp_path, SCENE)
    return BENCHMARK.load(tmp_path, "test")


def score(cases, points_scan, scale=1.0):
    case = next(iter(cases))
    first = case.truth.posed().T_scan_camera[0]
    cloud = transform_points(invert_transform(first), points_scan) * scale
    record = {"case_id": SCENE, "cloud": cloud}
    return BENCHMARK.score(cases, {SCENE: record}).values


def test_the_near_wall_is_all_that_was_seen(cases):
    values = score(cases, wall(2.0))
    assert values["precision"] == values["recall"] == values["f"] == 1.0
    assert values["acc_m"] == pytest.approx(0, abs=1e-6)
    near = len(wall(2.0))
    assert values["seen_share"] == pytest.approx(near / (2 * near + 2))
    assert values["recall_whole_scan"] == pytest.approx(near / (2 * near + 2), abs=0.01)


def test_half_the_wall_has_full_precision_and_half_the_recall(cases):
    points = wall(2.0)
    values = score(cases, points[points[:, 0] < -0.02])
    assert values["precision"] == 1.0
    assert 0.45 < values["recall"] < 0.55


def test_scale_is_not_forgiven(cases):
    values = score(cases, wall(2.0), scale=1.1)
    assert values["precision"] == values["recall"] == 0.0
    assert values["acc_m"] == pytest.approx(0.2, abs=0.02)


def test_an_empty_cloud_counts_as_far_off(cases):
    values = score(cases, np.zeros((0, 3)))
    assert values["f"] == 0.0
    assert values["acc_m"] == values["comp_m"] == 5.0


def test_wrong_records_and_foreign_meshes_are_named(cases, tmp_path):
    with pytest.raises(ValueError, match=f"'{SCENE}': expected 'cloud' to be finite"):
        BENCHMARK.score(cases, {SCENE: {"case_id": SCENE, "cloud": np.full((2, 3), np.nan)}})
    with pytest.raises(ValueError, match=f"'{SCENE}': expected 'cloud' of shape"):
        BENCHMARK.score(cases, {SCENE: {"case_id": SCENE, "cloud": np.zeros((2, 2))}})
    write_ply(mesh_file(tmp_path, SCENE), wall(2.0) + 100)
    with pytest.raises(ValueError, match="mesh and poses do not belong together"):
        score(cases, wall(2.0))


class Wall:
    name = "wall"

    def see(self, view):
        return invert_transform(view.T_benchmark_first)

    def cloud(self, seen):
        return transform_points(seen, wall(2.0))


def test_a_predictor_gives_its_cloud_in_the_first_camera(cases):
    model = Wall()
    case = next(iter(cases))
    record = BENCHMARK.predict(model, model.see(cases.open_scene(SCENE)), case)
    assert record["cloud"].dtype == np.float32
    assert BENCHMARK.score(cases, {SCENE: record}).values["f"] == 1.0
