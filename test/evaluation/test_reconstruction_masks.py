# SPDX-License-Identifier: Apache-2.0
"""What frames see, by hand: in the image, before what the depth shows, near enough."""

import numpy as np

from vidllm_ros.evaluation.reconstruction_masks import judged_points, seen_points

K = np.array([[50.0, 0, 50.0], [0, 50.0, 40.0], [0, 0, 1]])


def seen(points, depth=2.0, T=None):
    image = np.full((80, 100), depth, np.float32)
    poses = np.eye(4)[None] if T is None else T
    return seen_points(np.array(points, float), [image] * len(poses), K, poses).tolist()


def test_a_point_is_seen_in_front_of_the_wall_only():
    on, behind, little_behind = [0, 0, 2.0], [0, 0, 2.2], [0, 0, 2.04]
    assert seen([on, behind, little_behind, [0, 0, 1.0], [0, 0, -1.0]]) == [
        True,
        False,
        True,
        True,
        False,
    ]


def test_a_point_outside_the_image_is_not_seen():
    # column 50 + 50 x / 2 is inside for x below 1.98 m
    assert seen([[1.9, 0, 2.0], [2.1, 0, 2.0], [-1.9, 0, 2.0], [0, 1.7, 2.0]]) == [
        True,
        False,
        True,
        False,
    ]


def test_a_pixel_without_depth_sees_nothing():
    assert seen([[0, 0, 2.0]], depth=np.nan) == [False]


def test_far_points_are_not_asked_for():
    assert seen([[0, 0, 4.9], [0, 0, 5.1]], depth=6.0) == [True, False]


def test_one_frame_is_enough():
    aside = np.eye(4)
    aside[0, 3] = 5.0
    assert seen([[0, 0, 2.0], [5, 0, 2.0], [9, 0, 2.0]], T=np.stack([np.eye(4), aside])) == [
        True,
        True,
        False,
    ]


def judged(points, depth=2.0, T=None):
    image = np.full((80, 100), depth, np.float32) if np.isscalar(depth) else depth
    poses = np.eye(4)[None] if T is None else T
    found = judged_points(np.array(points, float), [image] * len(poses), K, poses)
    return found.tolist()


def test_a_predicted_point_is_judged_wherever_the_sensor_measured():
    """Too near and too far are both wrong, not unseen: the true depth is not compared."""
    assert judged([[0, 0, 2.0]]) == judged([[0, 0, 0.7]]) == judged([[0, 0, 7.0]]) == [True]


def test_what_the_sensor_never_saw_is_not_judged():
    assert judged([[0, 0, 2.0]], depth=np.nan) == [False]  # a window, say
    assert judged([[0, 0, 2.0]], depth=5.5) == [False]  # beyond what is used of its readings
    assert judged([[0, 0, -2.0], [9.0, 0, 2.0], [0, 9.0, 2.0]]) == [False] * 3


def test_predicted_points_hide_each_other():
    near, behind = [0, 0, 2.0], [0, 0, 2.6]
    assert judged([near, behind]) == [True, False]
    assert judged([near, [0, 0, 2.4]]) == [True, True]  # noise is not hidden by its own front
    aside = np.eye(4)
    aside[:3, :3] = [[0, 0, -1], [0, 1, 0], [1, 0, 0]]  # looks along -x from x = 3 m, z = 2.6 m
    aside[:3, 3] = [3, 0, 2.6]
    assert judged([near, behind], T=np.stack([np.eye(4), aside])) == [True, True]


def test_a_wall_seen_aslant_does_not_hide_itself():
    x = np.linspace(-1, 1, 201)
    wall = np.stack([x, 0 * x, 3 + x * np.tan(np.radians(50))], axis=1)
    assert all(judged(wall[wall[:, 2] > 1.5], depth=3.0))
