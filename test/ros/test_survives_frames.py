# SPDX-License-Identifier: Apache-2.0
"""Whatever a camera does, the node says it in words and takes the next good frame."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    QoSProfile,
    ReliabilityPolicy,
    qos_profile_sensor_data,
)
from ros_harness import FRAME_ID, STEP_NS, HeldBackend, wait_until
from sensor_msgs.msg import Image, PointCloud2

from vidllm_ros.ros import topics
from vidllm_ros.ros.conversions import image_from_rgb
from vidllm_ros.ros.stamps import header, stamp_to_ns
from vidllm_ros.structures import Frames, Reconstruction

pytestmark = pytest.mark.ros
W, H = 56, 42


def diagnostic(harness: Any) -> Callable[[str], bool]:
    """Listen to /diagnostics; return what tells whether the newest says these words."""
    heard = harness.listen(topics.DIAGNOSTICS)
    return lambda words: bool(heard) and any(words in s.message for s in heard[-1].status)


def test_each_fault_is_said_with_topic_and_cause(start: Callable[..., Any]) -> None:
    harness = start()
    harness.wait_active()
    harness.feed(1)
    good = harness.frame()
    faults: tuple[tuple[dict[str, Any], str], ...] = (
        ({"height": 0, "width": 0, "step": 0, "data": b""}, "image: frame dropped: image:"),
        ({"data": bytes(good.data)[:-7]}, "image: frame dropped: data:"),
        ({"step": 3 * W - 1}, "image: frame dropped: step:"),
        ({"encoding": "rgb565"}, "image: frame dropped: encoding:"),
        ({"encoding": "32FC1", "step": 4 * W, "data": bytes(4 * W * H)}, "32FC1"),
    )
    for fields, words in faults:
        harness.stamp_ns += STEP_NS
        values = {"height": H, "width": W, "encoding": "rgb8", "step": 3 * W, **fields}
        data = values.pop("data", bytes(good.data))
        message = Image(header=header(harness.stamp_ns, FRAME_ID), **values)
        message.data.frombytes(data)
        harness.send(message)
        if "32FC1" not in words:  # the same cause is said once in a while
            harness.wait_said(words)
    assert "expected" in harness.wait_said("frame dropped: step:")
    harness.feed(3)
    harness.wait_windows(1)
    assert len(harness.node._engine._session.newest.reconstruction.stamps_ns) == 4


def wait_shown(harness: Any) -> None:
    """Wait until the newest frame sent is in a window."""

    def is_shown() -> bool:
        newest = harness.node._engine._session.newest
        return newest is not None and newest.reconstruction.stamps_ns[-1] == harness.stamp_ns

    wait_until(is_shown, "the newest frame is shown")


def test_size_and_clock_changes_are_told(start: Callable[..., Any]) -> None:
    harness = start()
    harness.wait_active()
    harness.feed(4)
    harness.send(harness.frame((70, 42)))
    harness.wait_said(
        "the stream is 56x42 rgb8 in front_camera_optical_frame, this frame is 70x42"
    )
    harness.feed(1)  # the stream goes on as if nothing had been
    assert harness.node._engine.counts.restarts == 0
    wait_shown(harness)
    for _ in range(6):
        harness.send(harness.frame((70, 42)))
    harness.wait_said("image size changed from 56 x 42 to 70 x 42: a new world begins")
    wait_shown(harness)
    harness.stamp_ns -= 100 * STEP_NS  # a bag that loops
    for _ in range(4):
        harness.send(harness.frame((70, 42)))
    harness.wait_said("stamps jumped back by")
    wait_shown(harness)
    harness.stamp_ns += 200 * STEP_NS  # and one that skips
    for _ in range(4):
        harness.send(harness.frame((70, 42)))
    harness.wait_said("no frame for 20.")
    wait_shown(harness)
    assert harness.node._engine._session.newest.world_index == 3


def test_stamps_that_stand_still_are_the_named_cause(start: Callable[..., Any]) -> None:
    harness = start()
    harness.wait_active()
    says = diagnostic(harness)
    rgb = np.random.default_rng(0).integers(0, 256, (H, W, 3), np.uint8)
    wait_until(lambda: harness.publisher(Image, "image"), "a listener")

    def told() -> bool:
        harness.send(image_from_rgb(header(0, FRAME_ID), rgb))
        return says("all are dropped: out of order")

    wait_until(told, "the diagnostic names the stamps")
    harness.wait_said("its stamp is 0: the camera sets none")


def test_a_covered_lens_is_the_named_cause_and_enters_no_window(start: Callable[..., Any]) -> None:
    harness = start()
    harness.wait_active()
    says = diagnostic(harness)
    harness.feed(2)
    dark = np.full((H, W, 3), 3, np.uint8)

    def told() -> bool:
        harness.send(image_from_rgb(header(harness.stamp_ns + 1, FRAME_ID), dark))
        return says("all are dropped: the image is of one brightness (3 of 255")

    wait_until(told, "the diagnostic names the lens")
    harness.wait_said("is the lens covered, the light off")
    harness.feed(2)
    harness.wait_windows(1)
    assert len(harness.node._engine._session.newest.reconstruction.stamps_ns) == 4


def test_network_that_gives_no_numbers_loses_one_window(
    start: Callable[..., Any], held: HeldBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = HeldBackend.reconstruct

    def broken(self: HeldBackend, frames: Frames) -> Reconstruction:
        good = whole(self, frames)
        return dataclasses.replace(good, T_world_camera=good.T_world_camera * np.nan)

    harness = start()
    harness.wait_active()
    says = diagnostic(harness)
    monkeypatch.setattr(HeldBackend, "reconstruct", broken)
    harness.feed(4)
    harness.wait_said("window 0 failed, going on with the next: ")
    wait_until(lambda: says("T_world_camera: expected finite numbers"), "the diagnostic says it")
    monkeypatch.setattr(HeldBackend, "reconstruct", whole)
    harness.feed(4)
    harness.wait_windows(1)
    wait_until(lambda: says("1 windows") or says("2 windows"), "the diagnostic is well again")
    assert np.isfinite(harness.node._engine._session.newest.poses_map).all()


def test_publisher_dies_and_returns(start: Callable[..., Any]) -> None:
    harness = start()
    harness.wait_active()
    says = diagnostic(harness)
    harness.feed(4)
    harness.wait_windows(1)
    harness.tester.destroy_publisher(harness._publishers.pop("image"))
    harness.wait_said("image: the last publisher has gone; frames go on when one comes back")
    wait_until(lambda: says("the publisher of /image has gone after"), "the cause of silence")
    done = harness.windows()
    harness.feed(4)
    harness.wait_said("/image: a publisher is back")
    harness.wait_windows(done + 1)

    def well() -> bool:
        harness.stamp_ns = time.time_ns()
        harness.feed(1)
        return says(" Hz")

    wait_until(well, "the diagnostic is well again")


def test_sixty_hertz_into_a_slow_network(start: Callable[..., Any], held: HeldBackend) -> None:
    held.window_s = 0.3
    harness = start(window_size=8, min_gap_s=0.0)
    harness.wait_active()
    says = diagnostic(harness)
    publisher = harness.publisher(Image, "image")
    threads, sent = threading.active_count(), []
    for _ in range(120):
        frame = harness.frame()
        publisher.publish(frame)
        sent.append(stamp_to_ns(frame.header.stamp))
        time.sleep(1 / 60)
    session = harness.node._engine._session
    assert session._window.held_count <= 3 * 8 + 8  # bounded, however many came
    assert threading.active_count() < threads + 60
    wait_until(
        lambda: session.newest and session.newest.reconstruction.stamps_ns[-1] >= sent[-10],
        "one of the newest frames is shown",
    )
    wait_until(lambda: says("skipped: the camera is faster than the network"), "it is told")
    report = harness.node._health.window_report()
    assert 0 < report.computed < 60
    assert harness.state == "active"


def test_both_kinds_of_peers_are_served(start: Callable[..., Any]) -> None:
    harness = start()
    harness.wait_active()
    clouds: dict[str, list[PointCloud2]] = {"best effort": [], "reliable": []}
    name = harness.name(topics.POINTS.name)
    for kind, quality in (
        ("best effort", qos_profile_sensor_data),
        ("reliable", QoSProfile(depth=5)),
    ):
        harness.tester.create_subscription(PointCloud2, name, clouds[kind].append, quality)
    late = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    harness.tester.create_subscription(PointCloud2, name, print, late)
    harness.wait_said(
        "~/points: a subscriber asks for an incompatible durability and hears nothing"
    )
    cameras = [
        harness.tester.create_publisher(Image, "image", QoSProfile(depth=1, reliability=policy))
        for policy in (ReliabilityPolicy.BEST_EFFORT, ReliabilityPolicy.RELIABLE)
    ]
    wait_until(lambda: all(c.get_subscription_count() for c in cameras), "both are heard")
    received = 0
    for camera in cameras * 4:
        frame = harness.frame()
        for _ in range(20):
            camera.publish(frame)
            end = time.monotonic() + 1
            while harness._received() == received and time.monotonic() < end:
                time.sleep(0.005)
            if harness._received() > received:
                break
        received = harness._received()
    harness.wait_windows(2)
    wait_until(lambda: all(clouds.values()), "both kinds hear the cloud")


def test_events_of_the_middleware_become_words(start: Callable[..., Any]) -> None:
    overrides = {
        "qos_overrides./image.subscription.reliability": "reliable",
        "qos_overrides./image.subscription.deadline": 200_000_000,
    }
    harness = start(**overrides)
    harness.wait_active()
    says = diagnostic(harness)
    weak = harness.tester.create_publisher(Image, "image", qos_profile_sensor_data)
    harness.wait_said("image: a publisher offers an incompatible")
    wait_until(lambda: says("offers an incompatible"), "the cause of silence")
    harness.tester.destroy_publisher(weak)
    promise = QoSProfile(depth=5)
    promise.deadline = harness.node._inputs.links[0]._subscription.qos_profile.deadline
    harness._publishers["image"] = harness.tester.create_publisher(Image, "image", promise)
    wait_until(harness._publishers["image"].get_subscription_count, "the good one is heard")
    harness.feed(4)
    harness.wait_windows(1)
    harness.wait_said("no message within the deadline asked for")
    assert harness.node._inputs.links[0].incompatible_qos == ""


def test_names_say_where_the_images_are(start: Callable[..., Any]) -> None:
    harness = start()
    harness.wait_active()
    says = diagnostic(harness)
    harness.tester.create_publisher(Image, "/front/image_raw", QoSProfile(depth=1))
    other = Node("vidllm", namespace="robot2")  # its depth image is no camera to listen to
    other.create_publisher(Image, "~/depth/image", QoSProfile(depth=1))
    wait_until(
        lambda: len(harness.node.get_publishers_info_by_topic("/robot2/vidllm/depth/image")),
        "the other robot is known",
    )
    wait_until(lambda: says("but there is /front/image_raw; remap image to it"), "the hint")
    other.destroy_node()
