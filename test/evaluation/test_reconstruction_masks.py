# SPDX-License-Identifier: Apache-2.0
"""What frames see, by hand: in the image, before what the depth shows, near enough."""

import numpy as np

from vidllm_ros.evaluation.reconstruction_masks import seen_points

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
