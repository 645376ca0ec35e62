# SPDX-License-Identifier: Apache-2.0
"""What the node says to TF and takes from it: never against a robot that places its own camera."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from ros_harness import FRAME_ID, START_NS, STEP_NS, wait_until
from tf2_msgs.msg import TFMessage

from vidllm_ros.geometry.transforms import make_transform
from vidllm_ros.ros import topics
from vidllm_ros.ros.messages import matrix_from_pose, transform_stamped
from vidllm_ros.ros.qos import profile
from vidllm_ros.ros.stamps import stamp_to_ns
from vidllm_ros.ros.transform_tree import TransformLookupError

pytestmark = pytest.mark.ros


def test_transform_is_published_where_nobody_else_does(start: Callable[..., Any]) -> None:
    harness = start(publish_tf=True)
    harness.wait_active()
    heard = harness.listen(topics.TF)
    wait_until(lambda: harness.tester.count_publishers("/tf"), "tf")
    stamps = harness.feed(4)
    wait_until(lambda: heard, "a transform")
    (transform,) = heard[0].transforms
    assert transform.header.frame_id == "vidllm_world"
    assert transform.child_frame_id == FRAME_ID
    assert stamp_to_ns(transform.header.stamp) == stamps[-1]

    robot = harness.tester.create_publisher(TFMessage, "/tf_static", profile("tf_static"))
    mount = transform_stamped(START_NS, "base_link", FRAME_ID, np.eye(4))
    robot.publish(TFMessage(transforms=[mount]))
    wait_until(lambda: FRAME_ID in harness.node._windows.transform._parents, "the mount is known")
    count = len(heard)
    harness.feed(4)
    harness.wait_windows(2)
    assert [t for m in heard[count:] for t in m.transforms if t.child_frame_id == FRAME_ID] == []


def test_our_own_transforms_do_not_hold_us_back_and_another_of_our_parent_does(
    start: Callable[..., Any],
) -> None:
    harness = start(publish_tf=True)
    harness.wait_active()
    heard = harness.listen(topics.TF)
    wait_until(lambda: harness.tester.count_publishers("/tf"), "tf")
    for windows in (1, 2):
        harness.feed(4)
        wait_until(lambda windows=windows: len(heard) >= windows, f"{windows} transforms")
    slam = harness.tester.create_publisher(TFMessage, "/tf", profile("tf"))
    wait_until(slam.get_subscription_count, "tf is heard")
    placed = transform_stamped(START_NS + 1, "vidllm_world", FRAME_ID, np.eye(4))
    slam.publish(TFMessage(transforms=[placed]))
    wait_until(lambda: FRAME_ID in harness.node._windows.transform._parents, "it is known")
    harness.feed(4)
    assert FRAME_ID in harness.wait_said("publish_tf: held back")


def test_no_transform_unless_asked_for(start: Callable[..., Any]) -> None:
    harness = start()
    harness.wait_active()
    harness.feed(4)
    harness.wait_windows(1)
    assert harness.tester.count_publishers("/tf") == 0


def test_world_is_placed_by_tf_where_asked_for(start: Callable[..., Any]) -> None:
    harness = start(place_by_tf=True, world_frame="map")
    harness.wait_active()
    robot = harness.tester.create_publisher(TFMessage, "/tf", profile("tf"))
    wait_until(robot.get_subscription_count, "tf is heard")
    T_map_camera = make_transform([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], [5.0, 6.0, 1.5])
    for step in (0, 20):
        moved = transform_stamped(START_NS + step * STEP_NS, "map", FRAME_ID, T_map_camera)
        robot.publish(TFMessage(transforms=[moved]))
    transform = harness.node._windows.transform

    def is_known() -> bool:
        with contextlib.suppress(TransformLookupError):
            return len(transform.lookup_camera(FRAME_ID, START_NS + STEP_NS)) == 4
        return False

    wait_until(is_known, "tf arrived")
    heard = harness.listen(topics.WINDOW_POSES)
    wait_until(lambda: harness.tester.count_publishers("/vidllm/window_poses"), "poses")
    harness.feed(4)
    wait_until(lambda: heard, "poses")
    assert heard[0].header.frame_id == "map"
    np.testing.assert_allclose(matrix_from_pose(heard[0].poses[0]), T_map_camera, atol=1e-9)
    assert not [line for line in harness.said() if "not placed by TF" in line]


def test_world_that_tf_does_not_know_is_not_placed_in_silence(start: Callable[..., Any]) -> None:
    harness = start(place_by_tf=True, world_frame="map")
    harness.wait_active()
    harness.feed(4)
    line = harness.wait_said("place_by_tf: world 0 is not placed by TF")
    assert FRAME_ID in line
