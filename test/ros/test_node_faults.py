# SPDX-License-Identifier: Apache-2.0
"""Whatever arrives as an image, the node drops it in words and goes on with the next."""

from __future__ import annotations

import array
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from ros_harness import FRAME_ID, STEP_NS, wait_until
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from vidllm_ros.ros.conversions import image_from_rgb
from vidllm_ros.ros.pixels import ENCODINGS
from vidllm_ros.ros.stamps import header

pytestmark = pytest.mark.ros
W, H = 56, 42
INTRINSICS = [50.0, 0, 28, 0, 50, 21, 0, 0, 1]


def image(head: Any, **fields: Any) -> Image:
    """Make an image that is whole but for the fields given."""
    values = {"height": H, "width": W, "encoding": "rgb8", "step": 3 * W, **fields}
    if "data" not in values:
        length = values["step"] * values["height"]
        values["data"] = np.random.default_rng(0).bytes(length)  # one brightness is a fault too
    data = values.pop("data")
    return Image(header=head, data=array.array("B", data), **values)


BAD = {
    "empty": {"height": 0, "width": 0, "step": 0, "data": b""},
    "without data": {"data": b""},
    "torn": {"data": bytes(3 * W * H - 7)},
    "too long": {"data": bytes(3 * W * H + 7)},
    "step too small": {"step": 3 * W - 1},
    "unknown encoding": {"encoding": "rgb565"},
    "no encoding": {"encoding": ""},
    "depth": {"encoding": "32FC1", "step": 4 * W},
    "huge": {"height": 2**31, "width": 2**31, "step": 2**32 - 1, "data": b"x"},
    "odd bayer": {"encoding": "bayer_rggb8", "width": 55, "step": 55},
}


def test_bad_images_are_dropped_and_counted(start: Callable[..., Any]) -> None:
    harness = start()
    harness.wait_active()
    harness.feed(1)
    for fields in BAD.values():
        harness.stamp_ns += STEP_NS
        harness.send(image(header(harness.stamp_ns, FRAME_ID), **fields))
    health = harness.node._health
    wait_until(
        lambda: sum(health.input_report(0.0).dropped.values()) >= len(BAD), "all are dropped"
    )
    causes = set(health.input_report(0.0).dropped)
    assert {"image", "step", "data", "encoding", "size"} <= causes
    harness.feed(3)
    harness.wait_windows(1)
    status = harness.node._engine._session.newest
    assert len(status.reconstruction.stamps_ns) == 4


def test_bad_compressed_images_are_dropped(start: Callable[..., Any]) -> None:
    harness = start(image_transport="compressed")
    harness.wait_active()
    for data in (b"", b"\xff\xd8 not quite a jpeg", b"\x89PNG", b"hello"):
        harness.stamp_ns += STEP_NS
        message = CompressedImage(header=header(harness.stamp_ns, FRAME_ID), format="jpeg")
        message.data.frombytes(data)
        harness.send(message, "image/compressed")
    health = harness.node._health
    wait_until(lambda: health.input_report(0.0).dropped.get("data", 0) >= 4, "four drops")
    assert harness.state == "active"


@pytest.mark.parametrize("encodings", [sorted(ENCODINGS)[::2], sorted(ENCODINGS)[1::2]])
def test_every_encoding_makes_windows(start: Callable[..., Any], encodings: list[str]) -> None:
    harness = start(window_size=3, window_min_frames=3)
    harness.wait_active()
    for encoding in encodings:
        kind = ENCODINGS[encoding]
        step = W * kind.channels * np.dtype(kind.dtype).itemsize + 6
        for big in (False, False, True):  # three in a row are a new stream
            harness.stamp_ns += STEP_NS
            head = header(harness.stamp_ns, FRAME_ID)
            harness.send(image(head, encoding=encoding, step=step, is_bigendian=int(big)))
    report = harness.node._health.input_report(0.0)
    assert set(report.dropped) <= {"other stream"}
    harness.wait_windows(1)


def test_size_change_is_followed_after_three_frames(start: Callable[..., Any]) -> None:
    harness = start()
    harness.wait_active()
    harness.feed(4)
    harness.send(harness.frame((70, 42)))  # one odd frame
    harness.feed(2)
    harness.wait_windows(2)
    assert harness.node._engine.counts.restarts == 0
    for _ in range(6):
        harness.send(harness.frame((70, 42)))
    harness.wait_windows(3)
    assert harness.node._engine.counts.restarts == 1


def test_clock_jumps_back_and_the_node_follows(start: Callable[..., Any]) -> None:
    harness = start()
    harness.wait_active()
    first = harness.feed(4)
    harness.wait_windows(1)
    harness.stamp_ns = first[0] - 20 * STEP_NS
    harness.feed(4)
    harness.wait_windows(2)
    newest = harness.node._engine._session.newest
    assert newest.world_index == 1
    assert max(newest.reconstruction.stamps_ns) < first[0]


def test_a_few_frames_are_shown_when_the_camera_stops(start: Callable[..., Any]) -> None:
    harness = start(window_min_frames=4)
    harness.wait_active()
    stamps = harness.feed(3)
    harness.wait_windows(1)
    newest = harness.node._engine._session.newest
    assert list(newest.reconstruction.stamps_ns) == stamps


def test_bad_camera_info_is_ignored(start: Callable[..., Any]) -> None:
    harness = start()
    harness.wait_active()
    bad = [
        CameraInfo(),
        CameraInfo(width=W, height=H, k=[float("nan")] * 9),
        CameraInfo(width=1, height=1, k=INTRINSICS),
        CameraInfo(
            width=W, height=H, k=[50.0, 0, 28, 0, 50, 21, 0, 0, 1], d=[0.1], distortion_model="?"
        ),
    ]
    for info in bad:
        harness.send_info(info)
        harness.feed(1)
    harness.wait_windows(1)
    assert harness.state == "active"


def test_a_placeholder_for_intrinsics_is_said_once_and_not_used(start: Callable[..., Any]) -> None:
    harness = start()
    harness.wait_active()
    placeholder = CameraInfo(width=W, height=H, k=[1.0, 0, 0, 0, 1, 0, 0, 0, 1])
    for _ in range(4):
        harness.send_info(placeholder)
        harness.feed(1)
    harness.wait_said("camera_info: ignored: K: expected fx and fy of")
    assert len([line for line in harness.said() if "camera_info: ignored" in line]) == 1
    assert "ignored" in harness.node._inputs.camera
    assert harness.node._engine._session._window._kept[-1].K is None


def test_parameter_storm(start: Callable[..., Any]) -> None:
    harness = start()
    harness.wait_active()
    for i in range(33):
        result = harness.set_parameter("score_threshold", (i % 11) / 8)
        assert result.successful == (i % 11 <= 8)
    harness.feed(4)
    harness.wait_windows(1)
    assert harness.node._current().score_threshold == 1.0  # the last that was good


def test_two_publishers_of_which_one_is_odd(start: Callable[..., Any]) -> None:
    harness = start()
    harness.wait_active()
    for _ in range(4):
        harness.send(harness.frame())
        odd = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
        harness.send(image_from_rgb(header(harness.stamp_ns + 1, "other"), odd))
    harness.wait_windows(1)
    assert harness.node._engine.counts.restarts == 0
    wait_until(
        lambda: harness.node._health.input_report(0.0).dropped == {"other stream": 4},
        "the odd frames are counted",
    )
