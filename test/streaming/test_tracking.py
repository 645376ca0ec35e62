# SPDX-License-Identifier: Apache-2.0
"""Objects keep their names over windows, and go when they are gone rather than out of view."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from vidllm_ros.geometry.box_overlap import oriented_iou_matrix
from vidllm_ros.geometry.boxes import oriented_iou
from vidllm_ros.geometry.camera import K_from_fov
from vidllm_ros.geometry.transforms import T_WORLD_OPTICAL_LEVEL
from vidllm_ros.streaming.tracking import (
    ObjectTracker,
    TrackingSettings,
    View,
    likeness,
    suppress_twins,
)
from vidllm_ros.structures import GroundedBox


def box(label="chair", center=(2, 0, 0), size=(0.5, 0.5, 0.8), score=0.7):
    return GroundedBox(label, score, np.array(center, float), np.array(size, float))


def ids(objects):
    return [entry.object_id for entry in objects]


def look(depth_m=10.0, T=T_WORLD_OPTICAL_LEVEL):
    """Four frames of a camera at the origin of the map that looks along x."""
    return View(
        np.tile(T, (4, 1, 1)),
        np.tile(K_from_fov(0.9, 1.1, 42, 56), (4, 1, 1)),
        np.full((4, 42, 56), depth_m, np.float32),
    )


def test_names_are_label_and_number_and_stay():
    tracker = ObjectTracker()
    table = box("Coffee Table", (0, 3, 0))
    assert ids(tracker.update([box(), table, box(center=(2, 2, 0))], 5)) == [
        "chair_1",
        "chair_2",
        "coffee_table_1",
    ]
    moved = [box(center=(2.05, 1.95, 0)), table, box(center=(1.97, 0.04, 0.02))]
    objects = tracker.update(moved, 6)
    assert ids(objects) == ["chair_1", "chair_2", "coffee_table_1"]
    np.testing.assert_allclose(objects[0].center, [1.985, 0.02, 0.01])
    assert [entry.last_seen_ns for entry in objects] == [6, 6, 6]


def test_objects_are_ordered_by_number_not_by_letters():
    tracker = ObjectTracker()
    objects = tracker.update([box(center=(2, 2 * i, 0)) for i in range(12)], 1)
    assert ids(objects) == [f"chair_{i}" for i in range(1, 13)]


def test_position_settles_on_the_mean_of_noisy_boxes():
    rng = np.random.default_rng(0)
    tracker = ObjectTracker()
    truth = np.array([2.0, 1.0, 0.3])
    for stamp in range(30):
        objects = tracker.update([box(center=truth + rng.normal(0, 0.05, 3))], stamp)
        assert ids(objects) == ["chair_1"]
    assert np.linalg.norm(objects[0].center - truth) < 0.06


def test_sizes_are_averaged_only_where_the_edges_are_the_same():
    def table(degrees, size):
        half = np.radians(degrees) / 2
        quat_xyzw = np.array([0, 0, np.sin(half), np.cos(half)])
        return replace(box("table", size=size), quat_xyzw=quat_xyzw)

    tracker = ObjectTracker()
    tracker.update([table(45, (2.0, 0.5, 1.0))], 1)
    (same,) = tracker.update([table(-45, (0.5, 2.0, 1.0))], 2)  # the same box, written otherwise
    assert oriented_iou(same, table(45, (2.0, 0.5, 1.0))) > 0.99
    flipped = table(45, (2.4, 0.5, 1.0))
    flipped = replace(flipped, quat_xyzw=-flipped.quat_xyzw)  # the same turn, the other sign
    (joined,) = tracker.update([flipped], 3)
    assert 2.0 < joined.size[0] < 2.4


def test_neighbours_do_not_swap():
    """Two near chairs, both shifted: only the joint choice keeps both names."""
    tracker = ObjectTracker()
    tracker.update([box(center=(2, 0, 0)), box(center=(2, 0.5, 0))], 1)
    shifted = [box(center=(2, 0.3, 0)), box(center=(2, 0.8, 0))]
    objects = tracker.update(shifted, 2)
    assert ids(objects) == ["chair_1", "chair_2"]
    assert objects[0].center[1] < objects[1].center[1]


def test_label_follows_the_votes_while_the_name_stays():
    tracker = ObjectTracker()
    tracker.update([box("chair", score=0.4)], 1)
    tracker.update([box("sofa", score=0.9)], 2)
    (entry,) = tracker.update([box("sofa", score=0.9)], 3)
    assert (entry.object_id, entry.label) == ("chair_1", "sofa")


def test_other_label_nearby_is_another_object():
    tracker = ObjectTracker()
    assert ids(tracker.update([box("chair"), box("table", (2.3, 0, 0))], 1)) == [
        "chair_1",
        "table_1",
    ]


def test_twins_in_one_window_are_one_object():
    tracker = ObjectTracker()
    twins = [box(score=0.5), box(score=0.9), box("sofa", score=0.6)]
    (entry,) = tracker.update(twins, 1)
    assert (entry.object_id, entry.score) == ("chair_1", 0.9)


def test_faint_boxes_begin_nothing_but_continue():
    tracker = ObjectTracker(TrackingSettings(min_score=0.5))
    assert tracker.update([box(score=0.4)], 1) == ()
    tracker.update([box(score=0.8)], 2)
    (entry,) = tracker.update([box(score=0.4)], 3)
    assert entry.last_seen_ns == 3
    assert entry.score < 0.8


def test_object_is_reported_once_enough_windows_found_it():
    """All are at first, when there were no more windows; ids are given at the first find."""
    tracker = ObjectTracker(TrackingSettings(min_windows=3))
    sofa = box("sofa", (0, 3, 0))
    assert ids(tracker.update([box(), sofa], 1)) == ["chair_1", "sofa_1"]
    assert ids(tracker.update([box()], 2)) == ["chair_1"]
    late = box("table", (0, -3, 0))
    assert ids(tracker.update([box(), late], 3)) == ["chair_1"]
    tracker.update([late, sofa], 4)
    assert ids(tracker.objects) == ["chair_1"]
    assert ids(tracker.identify([late])) == ["table_1"]  # an answer may name it before
    assert ids(tracker.update([late, sofa], 5)) == ["chair_1", "sofa_1", "table_1"]


def test_object_in_plain_view_that_is_not_found_is_forgotten():
    tracker = ObjectTracker(TrackingSettings(forget=3, min_windows=1))
    tracker.update([box(score=0.8)], 1)
    scores = [tracker.update([], stamp, look())[0].score for stamp in (2, 3)]
    assert 0.8 > scores[0] > scores[1]
    assert tracker.update([], 4, look()) == ()
    assert ids(tracker.update([box()], 5, look())) == ["chair_2"]  # names are never given twice


@pytest.mark.parametrize("view", [look(depth_m=1.0), look(T=np.eye(4)), None])
def test_object_hidden_or_out_of_view_is_remembered(view):
    tracker = ObjectTracker(TrackingSettings(min_windows=1))
    tracker.update([box()], 1)
    for stamp in range(2, 12):
        (entry,) = tracker.update([], stamp, view)
    assert (entry.object_id, entry.last_seen_ns, entry.score) == ("chair_1", 1, 0.7)


def test_being_found_again_forgives_the_misses():
    tracker = ObjectTracker(TrackingSettings(forget=2, min_windows=1))
    for stamp in range(1, 9):
        objects = tracker.update([box()] if stamp % 2 else [], stamp, look())
        assert ids(objects) == ["chair_1"]


def test_number_of_objects_is_bounded_and_the_newest_stay():
    tracker = ObjectTracker(TrackingSettings(max_objects=3, min_windows=1))
    for stamp in range(6):
        objects = tracker.update([box(center=(2, 2 * stamp, 0))], stamp)
    assert ids(objects) == ["chair_4", "chair_5", "chair_6"]


def test_box_of_an_answer_gets_the_name_and_teaches_nothing():
    tracker = ObjectTracker()
    tracker.update([box()], 7)
    (asked,) = tracker.identify([replace(box(center=(2.05, 0, 0)), score=0.2)])
    assert (asked.object_id, asked.last_seen_ns, asked.score) == ("chair_1", 7, 0.2)
    assert tracker.identify([box(center=(9, 9, 0))])[0].object_id == ""
    np.testing.assert_array_equal(tracker.objects[0].center, [2, 0, 0])


def test_boxes_of_one_answer_never_share_a_name():
    tracker = ObjectTracker()
    tracker.update([box(center=(2, 0, 0)), box("table", center=(5, 0, 0))], 1)
    near = [box(center=(2.05, 0, 0), score=0.9), box(center=(2, 0.3, 0), score=0.8)]
    (both,) = tracker.identify(near)  # the second may only be the same chair
    assert both.object_id == "chair_1"
    far = tracker.identify([*near, box(center=(9, 0, 0), score=0.5)])
    assert [entry.object_id for entry in far] == ["chair_1", ""]
    assert tracker.identify([]) == ()


def test_label_without_letters_still_makes_a_name():
    assert ids(ObjectTracker().update([box("?!")], 1)) == ["object_1"]


def random_boxes(count, seed):
    rng = np.random.default_rng(seed)
    quat = rng.normal(size=(count, 4))
    quat /= np.linalg.norm(quat, axis=1, keepdims=True)
    return [
        GroundedBox(
            str(rng.choice(["chair", "table"])), float(rng.uniform()), rng.uniform(-1, 1, 3),
            rng.uniform(0.2, 1.5, 3), quat[i] * np.sign(quat[i, 3]),
        )
        for i in range(count)
    ]  # fmt: skip


def test_ruling_pairs_out_changes_nothing():
    """The plain twin clips every pair of boxes."""
    settings = TrackingSettings()
    a, b = random_boxes(25, 0), random_boxes(30, 1)
    got = likeness(a, b, settings)
    overlap = oriented_iou_matrix(a, b)
    for i, box_a in enumerate(a):
        for j, box_b in enumerate(b):
            reach = 0.4 * (np.linalg.norm(box_a.size) + np.linalg.norm(box_b.size)) / 2
            near = max(0.0, 1 - np.linalg.norm(box_a.center - box_b.center) / reach)
            same = box_a.label == box_b.label
            is_one = (overlap[i, j] >= 0.15 or near > 0) if same else overlap[i, j] >= 0.5
            want = overlap[i, j] + near + same if is_one else 0.0
            assert got[i, j] == pytest.approx(want, abs=1e-9)
    ordered = sorted(a, key=lambda box: -box.score)
    every = oriented_iou_matrix(ordered, ordered)
    kept = []
    for i, box in enumerate(ordered):
        if all(every[i, j] < (0.15 if ordered[j].label == box.label else 0.5) for j in kept):
            kept.append(i)
    assert suppress_twins(a, settings) == tuple(ordered[i] for i in kept)
    assert likeness([], b, settings).shape == (0, 30)
    assert suppress_twins([], settings) == ()


def test_noisy_boxes_keep_their_names():
    """Eight objects, 60 windows: boxes 10 cm and 15 % off, one in five missed."""
    rng = np.random.default_rng(0)
    centers = np.array([[1.2 * (i % 4), 1.5 * (i // 4), 0.4] for i in range(8)])
    tracker = ObjectTracker()
    ids = [[] for _ in centers]
    for window in range(60):
        seen = [i for i in range(8) if rng.uniform() > 0.2]
        boxes = [
            GroundedBox(
                "chair", float(rng.uniform(0.4, 1)), centers[i] + rng.normal(0, 0.1, 3),
                np.array([0.5, 0.5, 0.8]) * np.exp(rng.normal(0, 0.15, 3)),
            )
            for i in seen
        ]  # fmt: skip
        objects = tracker.update(boxes, window)
        for i, center in enumerate(centers):
            near = [b for b in objects if np.linalg.norm(b.center - center) < 0.5]
            if near:
                ids[i].append(min(near, key=lambda b: np.linalg.norm(b.center - center)).object_id)
    switches = sum(a != b for names in ids for a, b in pairwise(names))
    assert switches <= 2
    assert len(tracker.objects) <= 10
    for box in tracker.objects[:8]:
        assert np.linalg.norm(centers - box.center, axis=1).min() < 0.15  # merged: better than one
