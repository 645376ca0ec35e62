# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from vidllm_ros.cli.measures import (
    Truth,
    first_camera_alignment,
    match_view,
    measure,
    measure_depth,
    measure_objects,
    truth_cloud,
)
from vidllm_ros.cli.recording import Recording, SeenDepth
from vidllm_ros.geometry.boxes import transform_box
from vidllm_ros.geometry.transforms import (
    T_WORLD_OPTICAL_LEVEL,
    make_transform,
    matrix_from_quat_xyzw,
    quat_xyzw_from_matrix,
)
from vidllm_ros.structures import GroundedBox

SHIFT_NS = 1_000_000  # the player's offset from film to topic
SEEN = (2, 4, 6, 8)


def turn(yaw):
    return matrix_from_quat_xyzw([0, 0, np.sin(yaw / 2), np.cos(yaw / 2)])


@pytest.fixture
def truth():
    stamps = tuple(range(0, 10))
    poses = np.stack(
        [
            make_transform(turn(0.1 * i), [0.3 * i, 0.02 * i * i, 1.5]) @ T_WORLD_OPTICAL_LEVEL
            for i in range(10)
        ]
    )
    depth = np.full((10, 24, 32), 2.0, np.float32) + np.arange(32, dtype=np.float32) / 16
    depth[:, 0] = np.nan
    K = np.tile(np.array([[30.0, 0, 16], [0, 30, 12], [0, 0, 1]]), (10, 1, 1))
    box = GroundedBox("bed", 1.0, np.array([1.0, 2.0, 0.3]), np.array([2.0, 1.4, 0.6]))
    images = np.zeros((10, 24, 32, 3), np.uint8)
    return Truth(stamps, images, depth, K, poses, (box,), np.zeros((4, 2)))


def record(truth, factor=1.0, T_world_truth=None):
    """A recording that is the truth seen from another world, its lengths times `factor`."""
    T = make_transform(turn(0.7), [1, -2, 0.5]) if T_world_truth is None else T_world_truth
    poses = T @ truth.T_truth_camera
    poses[:, :3, 3] *= factor
    boxes = [transform_box(T, box) for box in truth.boxes]
    windows = []
    arrays = {}
    for number, seen in enumerate((SEEN[:3], SEEN[1:])):
        rows = [[*poses[i, :3, 3], *quat_xyzw_from_matrix(poses[i, :3, :3])] for i in seen]
        windows.append(
            {
                "stamp_ns": seen[-1] + SHIFT_NS,
                "frame_stamps": [i + SHIFT_NS for i in seen],
                "window_poses": rows,
                "depth_key": f"depth_{number}",
                "points_key": f"points_{number}",
                "timings_s": {"reconstruct": 1.0 + number},
                "objects": [
                    {
                        "id": "bed-1",
                        "label": box.label,
                        "score": 0.5,
                        "center": list(box.center),
                        "size": list(box.size),
                        "quat_xyzw": list(box.quat_xyzw),
                        "last_seen_ns": 5,
                    }
                    for box in boxes
                ],
            }
        )
        arrays[f"depth_{number}"] = truth.depth[seen[-1], 1::2, 1::2] * np.float32(factor)
        arrays[f"points_{number}"] = np.array([[0, 0, number]], np.float32)
        arrays[f"rgb_{number}"] = np.zeros((1, 3), np.uint8)
        arrays[f"confidence_{number}"] = np.ones(1, np.float32)
    return Recording(tuple(windows), arrays, {i + SHIFT_NS: i for i in truth.stamps_ns})


def test_the_truth_itself_has_no_error(truth):
    numbers = measure(record(truth), truth)
    assert numbers["depth_absrel"] == pytest.approx(0.0, abs=1e-6)
    assert numbers["trajectory_error_m"] == pytest.approx(0.0, abs=1e-9)
    assert numbers["trajectory_error_aligned_m"] == pytest.approx(0.0, abs=1e-9)
    assert numbers["rotation_error_aligned_deg"] == pytest.approx(0.0, abs=1e-5)
    assert numbers["objects_recall"] == numbers["objects_precision"] == 1.0
    assert numbers["trajectory_length_m"] == pytest.approx(2.188, abs=0.001)


def test_a_wrong_scale_shows_where_it_should(truth):
    numbers = measure(record(truth, factor=1.2, T_world_truth=np.eye(4)), truth)
    assert numbers["scale_error"] == pytest.approx(0.2, abs=1e-6)
    assert numbers["depth_absrel"] == pytest.approx(0.2, abs=1e-6)
    assert numbers["depth_absrel_median_scaled"] == pytest.approx(0.0, abs=1e-6)
    assert numbers["trajectory_error_m"] > 0.1
    assert numbers["trajectory_error_aligned_m"] == pytest.approx(0.0, abs=1e-9)


def test_rotation_error_of_a_straight_path_is_that_of_the_rotations(truth):
    truth.T_truth_camera[:, 1, 3] = 0.0  # now a line: any turn about it fits the positions
    recording = record(truth)
    assert measure(recording, truth)["rotation_error_aligned_deg"] == pytest.approx(0.0, abs=1e-5)
    for window in recording.windows:
        window["window_poses"][0][3:] = [0, 0, 0, 1]
    assert measure(recording, truth)["rotation_error_aligned_deg"] > 10


def test_first_camera_is_laid_on_the_true_one(truth):
    recording = record(truth)
    T_truth_world = first_camera_alignment(recording, truth)
    first = next(iter(recording.poses().values()))
    np.testing.assert_allclose(T_truth_world @ first, truth.T_truth_camera[SEEN[0]], atol=1e-12)


def test_the_newest_pose_of_a_frame_counts(truth):
    recording = record(truth)
    recording.windows[1]["window_poses"][0] = [9.0, 9, 9, 0, 0, 0, 1]
    assert list(recording.poses()) == list(SEEN)
    assert recording.poses()[SEEN[1]][:3, 3] == pytest.approx([9, 9, 9])


def test_recording_joins_its_windows(truth):
    recording = record(truth)
    assert [seen.stamp_ns for seen in recording.depths()] == [6, 8]
    assert len(recording.cloud(0.1)) == 2
    assert recording.timings_s() == {"reconstruct": 1.5}
    box = recording.boxes()[0]
    assert (box.label, box.object_id, box.last_seen_ns) == ("bed", "bed-1", 5)


def test_nothing_published_is_none_and_no_crash(truth):
    empty = Recording(({"stamp_ns": 1, "frame_stamps": []},), {}, {})
    numbers = measure(empty, truth)
    assert numbers["depth_absrel"] is None
    assert numbers["trajectory_error_m"] is None
    assert len(empty.cloud(0.1)) == 0
    with pytest.raises(ValueError, match="poses: expected at least one"):
        first_camera_alignment(empty, truth)


def test_depth_without_reading_is_not_compared(truth):
    shown = np.full((24, 32), np.nan, np.float32)
    shown[5, 5] = 2 * truth.depth[0, 5, 5]
    numbers = measure_depth([SeenDepth(0, shown)], truth)
    assert numbers["depth_absrel"] == pytest.approx(1.0)
    assert numbers["depth_absrel_median_scaled"] == pytest.approx(0.0)


@pytest.mark.parametrize("shape", [(12, 16), (24, 32), (48, 64), (13, 16)])
def test_match_view_of_the_whole_image(shape):
    depth = np.arange(24 * 32, dtype=np.float32).reshape(24, 32)
    matched = match_view(depth, shape)
    assert matched.shape == shape
    assert matched[0, 0] <= depth[1, 1]
    assert matched[-1, -1] >= depth[-2, -2]


def test_match_view_of_a_crop_is_the_centre():
    depth = np.arange(40 * 20, dtype=np.float32).reshape(40, 20)
    np.testing.assert_array_equal(match_view(depth, (20, 20)), depth[10:30])


def test_objects_need_place_and_name():
    def box(label, x):
        return GroundedBox(label, 0.5, np.array([x, 0.0, 0.0]), np.ones(3))

    true = [box("bed", 0), box("chair", 3), box("chair", 6)]
    found = [box("bed", 0.1), box("bed", 0.0), box("table", 3), box("chair", 6.2)]
    numbers = measure_objects(found, true)
    assert numbers == {"objects_recall": pytest.approx(2 / 3), "objects_precision": 0.5}
    assert measure_objects([], true) == {"objects_recall": 0.0, "objects_precision": None}


def test_truth_cloud_is_in_the_truths_world(truth):
    points, rgb = truth_cloud(truth, frames=10, step=1)
    assert len(points) == len(rgb) == 10 * 23 * 32
    behind = points[:, 0].min()
    assert behind > -0.5  # the cameras look along +x from x = 0 on
