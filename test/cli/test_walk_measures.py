# SPDX-License-Identifier: Apache-2.0
"""What a walk's numbers mean, on trajectories whose errors are known."""

from dataclasses import replace

import numpy as np
import pytest

from vidllm_ros.cli.walk_measures import IdentityScore, map_error_m, measure_drift
from vidllm_ros.data.samples import SceneObject
from vidllm_ros.geometry.transforms import make_transform
from vidllm_ros.structures import GroundedBox


def straight(count=11, step_m=0.1):
    return np.stack([make_transform(np.eye(3), [step_m * i, 0, 0]) for i in range(count)])


def test_only_the_first_pose_is_laid_on_the_truth():
    turn = make_transform([[0, -1, 0], [1, 0, 0], [0, 0, 1]], [3.0, 1.0, 2.0])
    drift = measure_drift(turn @ straight(), straight())
    assert drift.error_m == pytest.approx(0, abs=1e-9)
    short = straight(step_m=0.09)
    drift = measure_drift(turn @ short, straight())
    assert drift.end_m == pytest.approx(0.1)
    assert drift.path_m == pytest.approx(1.0)
    assert drift.percent_of_path == pytest.approx(10)
    assert drift.error_m == pytest.approx(0.01 * np.sqrt((np.arange(11) ** 2).mean()))
    assert drift.turn_deg == pytest.approx(0)


def things():
    boxes = [
        GroundedBox("chair", 1.0, np.array([x, 0.0, 0.5]), np.array([0.5, 0.5, 1.0]))
        for x in (0.0, 2.0)
    ]
    return [SceneObject(i, "chair", box, "red") for i, box in enumerate(boxes)]


def named(thing, object_id, shift_m=0.1, label="chair"):
    center = np.add(thing.box.center, [shift_m, 0, 0])
    return replace(thing.box, object_id=object_id, center=center, label=label)


def test_another_id_is_a_switch_and_absence_is_none():
    a, b = things()
    score = IdentityScore()
    score.add([named(a, "chair_1"), named(b, "chair_2")], [a, b])
    score.add([named(a, "chair_1", -0.2)], [a, b])
    score.add([named(b, "chair_2"), named(a, "chair_1")], [a, b])
    assert (score.objects, score.switches) == (2, 0)
    score.add([named(a, "chair_7"), named(b, "chair_2")], [a, b])
    score.add([named(a, "chair_1"), named(b, "chair_2")], [a, b])
    assert (score.switches, score.switches_per_object) == (2, 1.0)


def test_far_or_misnamed_boxes_are_nobody():
    a, b = things()
    score = IdentityScore()
    score.add([named(a, "chair_1", shift_m=1.0), named(b, "table_1", label="table")], [a, b])
    score.add([], [a, b])
    assert score.objects == 0
    assert np.isnan(score.switches_per_object)


def test_map_error_is_the_distance_from_the_surface():
    u, v = np.meshgrid(np.linspace(0, 1, 50), np.linspace(0, 1, 50))
    surface = np.stack([u.ravel(), v.ravel(), np.zeros(2500)], axis=1)
    points = np.add(surface, [0, 0, 0.07]).astype(np.float32)
    assert map_error_m(points, np.eye(4), surface) == pytest.approx(0.07, abs=1e-6)
    assert np.isnan(map_error_m(points[:0], np.eye(4), surface))
