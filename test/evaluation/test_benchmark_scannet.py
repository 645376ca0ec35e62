# SPDX-License-Identifier: Apache-2.0
"""ScanNet reconstruction by hand: the masking, the pose that lays the cloud, no scale."""

import numpy as np
import pytest
from geometry_sets import wall, write_image, write_ply, write_scannet

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
    nowhere = score(cases, np.array([[50.0, 50.0, 50.0]]))  # where no frame looks
    assert (nowhere["f"], nowhere["judged_share"]) == (0.0, 0.0)


def test_the_prediction_is_cut_as_the_truth_is(cases):
    """Trap: points outside every image are neither right nor wrong; the whole scan counts them."""
    outside = np.array([[7.0 + 0.1 * i, 2.0, 1.0] for i in range(20)])
    values = score(cases, np.concatenate([wall(2.0), outside]))
    assert values["precision"] == values["f"] == 1.0
    near = len(wall(2.0))
    assert values["judged_share"] == pytest.approx(near / (near + 20))
    assert values["precision_whole_scan"] == pytest.approx(near / (near + 20))
    assert values["acc_m_whole_scan"] > values["acc_m"] == pytest.approx(0, abs=1e-6)


def test_right_is_what_is_near_any_vertex_found_has_to_be_what_was_seen(cases):
    """The wall behind is hidden: nobody is asked for it, and who has it is not wrong."""
    alone = score(cases, wall(2.0))
    both = score(cases, np.concatenate([wall(2.0), wall(3.0)]))
    behind = score(cases, wall(3.0))
    assert alone["recall"] == both["recall"] == both["precision"] == 1.0
    assert (behind["precision"], behind["recall"]) == (1.0, 0.0)


def test_stray_points_in_front_do_not_take_away_what_was_found(cases):
    """Trap: they hide right points from precision; recall is searched in the whole cloud."""
    camera = next(iter(cases)).truth.posed().T_scan_camera[0, :3, 3]
    right = wall(2.0)
    stray = camera + 0.5 * (right[right[:, 0] < 0] - camera)
    values = score(cases, np.concatenate([right, stray]))
    assert values["judged_share"] < 0.9  # some of the wall is behind a stray point
    assert values["recall"] == 1.0
    assert values["comp_m"] == pytest.approx(0, abs=1e-6)
    whole = len(right) / (len(right) + len(stray))
    assert values["precision"] <= values["precision_whole_scan"] == pytest.approx(whole, abs=0.02)
    assert (
        "recall searches all predicted points"
        in BENCHMARK.score(cases, {SCENE: {"case_id": SCENE, "cloud": right}}).variant
    )


def test_a_wall_too_far_behind_is_wrong_not_unseen(cases):
    """Trap: cutting predictions by the true depth would forgive every depth that is too great."""
    values = score(cases, wall(2.5))
    assert values["judged_share"] == 1.0
    assert values["precision"] == 0.0
    assert values["acc_m"] == pytest.approx(0.5, abs=0.01)


def test_a_pixel_without_a_reading_judges_nothing(cases, tmp_path):
    depth = np.full((48, 64), 2000, np.uint16)
    depth[:, :32] = 0  # the left half, x < 0, has no reading
    for index in range(3):
        write_image(tmp_path / "posed_images" / SCENE / f"{index:05d}.png", depth)
    points = wall(2.0)
    wrong = points + np.where(points[:, :1] < -0.2, [0, 0.4, 0], 0.0)
    values = score(cases, wrong)
    assert values["precision"] == 1.0
    assert values["judged_share"] < 0.7
    assert values["precision_whole_scan"] < 0.7


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
