# SPDX-License-Identifier: Apache-2.0
"""What the node publishes: names, types, quality of service, frames, stamps and numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy")

from lifecycle_msgs.msg import Transition
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from ros_harness import FRAME_ID, START_NS, wait_until
from sensor_msgs.msg import CompressedImage
from std_srvs.srv import SetBool, Trigger
from visualization_msgs.msg import Marker

from vidllm_ros.ros import topics
from vidllm_ros.ros.conversions import cloud_from_msg, info_from_intrinsics
from vidllm_ros.ros.messages import matrix_from_pose
from vidllm_ros.ros.stamps import header, stamp_to_ns
from vidllm_ros.srv import SaveMap

pytestmark = pytest.mark.ros
K = np.array([[50.0, 0, 28], [0, 50, 21], [0, 0, 1]])


def test_everything_is_published_with_the_frames_own_stamps(start: Callable[..., Any]) -> None:
    harness = start()
    harness.wait_active()
    heard = {topic: harness.listen(topic) for topic in topics.RESULTS}
    for topic in topics.RESULTS:
        name = harness.name(topic.name)
        wait_until(lambda name=name: harness.tester.count_publishers(name), name)
    stamps = harness.feed(4)
    wait_until(lambda: all(heard.values()), "a message on every topic")
    for topic, messages in heard.items():
        if topic is topics.MARKERS:
            continue
        head = messages[0].header
        assert stamp_to_ns(head.stamp) == stamps[-1], topic.name
        is_camera = topic in (topics.DEPTH, topics.DEPTH_INFO)
        assert head.frame_id == (FRAME_ID if is_camera else "vidllm_world"), topic.name

    poses = [matrix_from_pose(pose) for pose in heard[topics.WINDOW_POSES][0].poses]
    assert len(poses) == 4
    # Optical z (forward) is the world's x, optical y (down) its -z: the world is z up.
    np.testing.assert_allclose(poses[0][:3, :3] @ [0, 0, 1], [1, 0, 0], atol=1e-9)
    np.testing.assert_allclose(poses[0][:3, :3] @ [0, 1, 0], [0, 0, -1], atol=1e-9)
    np.testing.assert_allclose(poses[-1][:3, 3], [0, -0.05 * 0.3, 0], atol=1e-9)
    pose = matrix_from_pose(heard[topics.POSE][0].pose)
    np.testing.assert_allclose(pose, poses[-1], atol=1e-12)
    path = heard[topics.PATH][0]
    assert [stamp_to_ns(p.header.stamp) for p in path.poses] == stamps

    cloud = cloud_from_msg(heard[topics.POINTS][0])
    assert len(cloud) > 100
    np.testing.assert_allclose(cloud.points[:, 0], 2.0, atol=1e-5)  # the wall ahead

    depth, info = heard[topics.DEPTH][0], heard[topics.DEPTH_INFO][0]
    assert (depth.encoding, depth.height, depth.width) == ("32FC1", info.height, info.width)
    assert info.k[2] == pytest.approx(info.width / 2)

    status = heard[topics.STATUS][0]
    assert [stamp_to_ns(stamp) for stamp in status.frame_stamps] == stamps
    assert (status.backend, status.device, status.precision) == ("standin", "cpu", "float32")
    assert (status.point_count, status.object_count) == (len(cloud), 1)
    assert status.received_frames >= 4
    assert status.window_time_s == pytest.approx(sum(status.timings_s), rel=1e-4)
    assert "reconstruct" in status.timing_names
    assert status.memory_used_bytes > 0

    markers = heard[topics.MARKERS][0].markers
    assert markers[0].action == Marker.DELETEALL
    assert {marker.header.frame_id for marker in markers} == {"vidllm_world"}
    (box,) = heard[topics.OBJECTS][0].objects
    assert box.label == "stand-in"
    assert box.id == harness.node._engine._session.objects[0].object_id


def test_quality_of_service_is_as_tabled(start: Callable[..., Any]) -> None:
    harness = start()
    harness.wait_active()
    for topic in topics.RESULTS:
        name = harness.name(topic.name)
        (info,) = wait_until(
            lambda name=name: harness.tester.get_publishers_info_by_topic(name), name
        )
        assert info.qos_profile.reliability == ReliabilityPolicy.RELIABLE, name
        expected = DurabilityPolicy.TRANSIENT_LOCAL if topic.qos == "latched" else None
        if expected is not None:
            assert info.qos_profile.durability == expected
    for name in ("/image", "/camera_info", "/depth"):
        (info,) = wait_until(
            lambda name=name: harness.tester.get_subscriptions_info_by_topic(name), name
        )
        assert info.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT


def test_quality_of_service_can_be_overridden(start: Callable[..., Any]) -> None:
    harness = start(**{"qos_overrides./image.subscription.reliability": "reliable"})
    harness.wait_active()
    (info,) = wait_until(lambda: harness.tester.get_subscriptions_info_by_topic("/image"), "image")
    assert info.qos_profile.reliability == ReliabilityPolicy.RELIABLE
    harness.feed(4)
    harness.wait_windows(1)


def test_status_is_latched_and_the_path_is_capped(start: Callable[..., Any]) -> None:
    harness = start(max_path_poses=5)
    harness.wait_active()
    path = harness.listen(topics.PATH)
    wait_until(lambda: harness.tester.count_publishers("/vidllm/path"), "path")
    stamps = harness.feed(4)
    for count in (1, 2, 3, 4):
        harness.wait_windows(count)
        stamps += harness.feed(2) if count < 4 else []
    wait_until(lambda: path and stamp_to_ns(path[-1].header.stamp) == stamps[-1], "the last path")
    # A window of 4 shares 3 frames with the one before: 4 + 1 + 1 + 1 poses, of which 5 are kept.
    poses = [stamp_to_ns(pose.header.stamp) for pose in path[-1].poses]
    assert len(poses) == 5
    assert poses == sorted(poses)
    assert set(poses) <= set(stamps)
    assert poses[-1] == stamps[-1]
    late = harness.listen(topics.STATUS)
    wait_until(
        lambda: late and stamp_to_ns(late[-1].header.stamp) == stamps[-1], "the latched status"
    )


def test_diagnostics_come_in_every_state(start: Callable[..., Any]) -> None:
    harness = start(autostart=False)
    heard = harness.listen(topics.DIAGNOSTICS)
    wait_until(lambda: len(heard) >= 2, "diagnostics")
    names = [status.name for status in heard[-1].status]
    assert names == ["vidllm: input", "vidllm: inference", "vidllm: memory"]
    assert "unconfigured" in heard[-1].status[0].message


def test_silence_is_explained(start: Callable[..., Any]) -> None:
    harness = start()
    harness.wait_active()
    heard = harness.listen(topics.DIAGNOSTICS)

    def says(words: str) -> bool:
        return any(words in status.message for status in heard[-1].status) if heard else False

    wait_until(lambda: says("nobody publishes /image"), "no publisher")
    harness.publisher(topics.IMAGE.type, "image")
    wait_until(lambda: says("are there but send nothing"), "a silent publisher")


def test_full_map_says_once_that_it_grows_coarser(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    harness = start(voxel_m=0.001, max_map_points=1000)
    harness.wait_active()
    for done, count in enumerate((4, 2, 2), start=1):
        harness.feed(count)
        harness.wait_windows(done)
    reply = harness.command(topics.SAVE_MAP, SaveMap.Request(path=str(tmp_path / "map.ply")))
    assert reply.success
    assert "voxel_m is 0.001: the map is full, see max_map_points" in reply.message

    def warned() -> int:
        return len([line for line in harness.said() if "map: full at max_map_points" in line])

    assert warned() == 1
    for change in ("DEACTIVATE", "CLEANUP", "CONFIGURE", "ACTIVATE"):
        assert harness.change(getattr(Transition, f"TRANSITION_{change}"))
    harness.feed(4)
    harness.wait_windows(1)
    wait_until(lambda: warned() == 2, "a warning of the new map")


def test_two_robots_in_their_namespaces(start: Callable[..., Any]) -> None:
    robots = [start(namespace=name) for name in ("robot1", "robot2")]
    for robot in robots:
        robot.wait_active()
    heard = [robot.listen(topics.STATUS) for robot in robots]
    robots[0].feed(4)
    wait_until(lambda: heard[0], "robot1's window")
    assert heard[1] == []
    assert robots[0].ask("who?").success
    assert robots[1].ask("who?").error_code == topics.ASK.type.Response.NO_WINDOW_YET
    assert robots[0].node.resolve_service_name("ask") == "/robot1/ask"
    told = robots[0].listen(topics.DIAGNOSTICS)
    names = {f"robot{number}/vidllm: input" for number in (1, 2)}
    wait_until(lambda: names <= {s.name for array in told for s in array.status}, "both are told")


def test_compressed_images(start: Callable[..., Any]) -> None:
    harness = start(image_transport="compressed")
    harness.wait_active()
    for _ in range(4):
        image = harness.frame()
        rgb = np.frombuffer(image.data, np.uint8).reshape(image.height, image.width, 3)
        message = CompressedImage(header=image.header, format="jpeg")
        message.data.frombytes(cv2.imencode(".jpg", rgb)[1].tobytes())
        harness.send(message, "image/compressed")
    harness.wait_windows(1)


def test_depth_topic_checks_the_scale(start: Callable[..., Any]) -> None:
    from vidllm_ros.ros.conversions import image_from_depth

    harness = start()
    harness.wait_active()
    harness.feed(1)  # before it depth has no place
    depth = np.full((42, 56), 2.5, np.float32)
    publisher = harness.publisher(topics.DEPTH_IN.type, "depth")
    for _ in range(4):
        frame = harness.frame()
        publisher.publish(image_from_depth(frame.header, depth))
        check = harness.node._engine.scale_check
        wait_until(lambda: stamp_to_ns(frame.header.stamp) in check._depths, "the depth")  # noqa: B023
        harness.send(frame)
    harness.wait_windows(1)
    assert harness.node._engine.scale_check.ratio == pytest.approx(1.25)


def test_intrinsics_reach_the_window(start: Callable[..., Any]) -> None:
    harness = start()
    harness.wait_active()
    harness.send_info(info_from_intrinsics(header(START_NS, FRAME_ID), K, 42, 56))
    wait_until(lambda: harness.node._inputs._rectifier, "the camera_info")
    harness.feed(3)
    (kept,) = harness.node._engine._session._window._kept[-1:]
    np.testing.assert_array_equal(kept.K, K)


def test_intrinsics_after_the_first_frame_count_for_it_too(start: Callable[..., Any]) -> None:
    harness = start()
    harness.wait_active()
    harness.feed(1)
    harness.send_info(info_from_intrinsics(header(START_NS, FRAME_ID), K, 42, 56))
    wait_until(lambda: harness.node._inputs._rectifier, "the camera_info")
    harness.feed(3)
    harness.wait_said("camera_info: its K is given to the 1 frame(s) before it too")
    harness.wait_windows(1)
    kept = harness.node._engine._session._window._kept
    np.testing.assert_array_equal([frame.K for frame in kept], [K] * 4)


def test_window_that_was_finished_before_a_reset_is_not_published_after_it(
    start: Callable[..., Any],
) -> None:
    harness = start()
    harness.wait_active()
    harness.feed(4)
    harness.wait_said("window 0:")  # said once it is published
    node = harness.node
    late = node._engine._session.newest
    clouds = harness.listen(topics.POINTS)
    wait_until(lambda: harness.tester.count_publishers("/vidllm/points"), "the cloud's publisher")
    assert harness.command(topics.RESET, Trigger.Request()).success
    node._windows.publish(late, node._engine.loaded)
    harness.feed(4)
    harness.wait_windows(2)
    wait_until(lambda: clouds, "the new world's cloud")
    assert len(clouds) == 1
    assert stamp_to_ns(clouds[0].header.stamp) == harness.stamp_ns


def test_reset_pause_and_save(start: Callable[..., Any], tmp_path: Any) -> None:
    harness = start()
    assert not harness.command(topics.SAVE_MAP, SaveMap.Request(path="/tmp/x.ply")).success
    harness.wait_active()
    harness.feed(4)
    harness.wait_windows(1)

    target = tmp_path / "map.ply"
    reply = harness.command(topics.SAVE_MAP, SaveMap.Request(path=str(target)))
    assert reply.success, reply.message
    assert (reply.path, reply.objects_path) == (str(target), str(target.with_suffix(".json")))
    assert target.stat().st_size > reply.point_count * 12
    assert reply.object_count == 1
    wrong = harness.command(topics.SAVE_MAP, SaveMap.Request(path=str(tmp_path / "no" / "m.ply")))
    assert not wrong.success
    assert "expected an existing folder" in wrong.message
    assert reply.message == "one point in a voxel of 0.1 m"
    assert json.loads(target.with_suffix(".json").read_text())["voxel_m"] == 0.1
    for path in ("map.ply", "~/map.ply", ""):
        relative = harness.command(topics.SAVE_MAP, SaveMap.Request(path=path))
        assert not relative.success
        assert f"expected an absolute path (~ is not expanded), got {path!r}" in relative.message
    assert not Path("map.ply").exists()

    assert harness.command(topics.PAUSE, SetBool.Request(data=True)).success
    before = harness._received()
    publisher = harness.publisher(topics.IMAGE.type, "image")
    for _ in range(5):
        publisher.publish(harness.frame())
    assert harness.ask("while paused?").success
    assert harness._received() == before
    harness.stamp_ns += 60 * 10**9  # the pause is no gap: map and world stay
    assert harness.command(topics.PAUSE, SetBool.Request(data=False)).success
    assert harness.feed(1)
    assert not [line for line in harness.said() if "a new world begins" in line]

    objects = harness.listen(topics.OBJECTS)
    wait_until(lambda: harness.tester.count_publishers("/vidllm/objects"), "objects")
    assert harness.command(topics.RESET, Trigger.Request()).success
    wait_until(lambda: objects and objects[-1].objects == [], "an empty list of objects")
    assert not harness.ask("what now?").success
    harness.feed(4)
    harness.wait_windows(2)
    assert harness.ask("and now?").success
