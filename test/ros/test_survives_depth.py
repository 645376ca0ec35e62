# SPDX-License-Identifier: Apache-2.0
"""Whatever a depth camera sends, the node says it in words and checks the scale by the good."""

from __future__ import annotations

import array
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("rclpy")

from ros_harness import FRAME_ID, START_NS, wait_until
from sensor_msgs.msg import Image

from vidllm_ros.ros.conversions import image_from_depth
from vidllm_ros.ros.scale_check import KEPT
from vidllm_ros.ros.stamps import header, stamp_to_ns
from vidllm_ros.streaming.backend import StandInBackend

pytestmark = pytest.mark.ros
W, H = 56, 42
WALL_M = StandInBackend.wall_m


def depth_image(head: Any, **fields: Any) -> Image:
    """Make a 32FC1 depth image of the stand-in's wall, whole but for the fields given."""
    wall = np.full((H, W), WALL_M, np.float32)
    values = {"height": H, "width": W, "encoding": "32FC1", "step": 4 * W, **fields}
    data = values.pop("data", wall.tobytes())
    return Image(header=head, data=array.array("B", data), **values)


def millimetres(step: int, is_big: bool) -> dict[str, Any]:
    """Fields of the wall as 16UC1, with rows of `step` bytes."""
    rows: NDArray[np.uint8] = np.full((H, step), 0xFF, np.uint8)
    wall = np.full((H, W), WALL_M * 1000, ">u2" if is_big else "<u2")
    rows[:, : 2 * W] = wall.view(np.uint8)
    return {
        "encoding": "16UC1", "step": step, "is_bigendian": int(is_big), "data": rows.tobytes(),
    }  # fmt: skip


def send_depth(harness: Any, message: Image) -> None:
    """Publish a depth image and wait until the node has kept it."""
    publisher = harness.publisher(Image, "depth")
    check = harness.node._engine.scale_check
    stamp_ns = stamp_to_ns(message.header.stamp)
    if harness.node._inputs._view is None:
        harness.feed(1)  # before it depth has no place

    def is_kept() -> bool:
        publisher.publish(message)  # best effort: what is lost is sent again
        return stamp_ns in check._depths

    wait_until(is_kept, "the depth is kept")


TORN = {
    "empty": ({"height": 0, "width": 0, "step": 0, "data": b""}, "image"),
    "torn": ({"data": bytes(4 * W * H - 3)}, "data"),
    "short rows": ({"step": 4 * W - 1}, "step"),
    "colours": ({"encoding": "rgb8", "step": 3 * W, "data": bytes(3 * W * H)}, "encoding"),
    "double": ({"encoding": "64FC1", "step": 8 * W, "data": bytes(8 * W * H)}, "encoding"),
    "huge": ({"height": 2**31, "width": 2**31, "step": 2**32 - 1, "data": b"x"}, "step"),
}


@pytest.mark.parametrize("kind", TORN)
def test_depth_that_cannot_be_used_is_said(start: Callable[..., Any], kind: str) -> None:
    fields, cause = TORN[kind]
    harness = start()
    harness.wait_active()
    harness.feed(1)
    publisher = harness.publisher(Image, "depth")
    bad = depth_image(header(START_NS, FRAME_ID), **fields)

    def is_said() -> bool:
        publisher.publish(bad)
        return any(f"depth: dropped: {cause}:" in line for line in harness.said())

    wait_until(is_said, f"the {kind} image is refused")
    assert not harness.node._engine.scale_check._depths
    send_frames_with_depth(harness)
    assert harness.node._engine.scale_check.ratio == pytest.approx(1.0)


def send_frames_with_depth(harness: Any, **fields: Any) -> None:
    """Send a window of frames, each with its depth image, and wait for the window."""
    done = harness.windows()
    for _ in range(4):
        frame = harness.frame()
        send_depth(harness, depth_image(frame.header, **fields))
        harness.send(frame)
    harness.wait_windows(done + 1)


@pytest.mark.parametrize(
    "fields",
    [
        millimetres(2 * W, is_big=False),
        millimetres(2 * W + 6, is_big=True),
        {
            "height": H // 2, "width": W // 2, "step": 2 * W,
            "data": np.full((H // 2, W // 2), WALL_M, "<f4").tobytes(),
        },
        {"is_bigendian": 1, "data": np.full((H, W), WALL_M, ">f4").tobytes()},
    ],
    ids=["millimetres", "big-endian with padded rows", "half the size", "big-endian floats"],
)  # fmt: skip
def test_every_form_of_depth_is_read(start: Callable[..., Any], fields: dict[str, Any]) -> None:
    harness = start()
    harness.wait_active()
    send_frames_with_depth(harness, **fields)
    assert harness.node._engine.scale_check.ratio == pytest.approx(1.0)


def test_depth_that_is_not_finite_spoils_nothing(start: Callable[..., Any]) -> None:
    harness = start()
    harness.wait_active()
    depth = np.full((H, W), 2.0, np.float32)
    depth[::2] = np.nan
    depth[1::4] = np.inf
    harness.feed(1)  # before it depth has no place
    publisher = harness.publisher(Image, "depth")
    check = harness.node._engine.scale_check
    for _ in range(4):
        frame = harness.frame()
        publisher.publish(image_from_depth(frame.header, depth))
        stamp_ns = stamp_to_ns(frame.header.stamp)
        wait_until(lambda stamp_ns=stamp_ns: stamp_ns in check._depths, "the depth")
        harness.send(frame)
    harness.wait_windows(1)
    assert check.ratio == pytest.approx(1.0)


def test_depth_without_frames_is_bounded(start: Callable[..., Any]) -> None:
    harness = start()
    harness.wait_active()
    check = harness.node._engine.scale_check
    for index in range(KEPT + 6):
        send_depth(harness, depth_image(header(START_NS + index, FRAME_ID)))
    assert len(check._depths) == KEPT
    harness.feed(4)
    harness.wait_windows(1)
    assert "none with the stamp of a frame" in check.words


def test_a_slow_window_is_compared_with_the_depths_of_its_frames(
    start: Callable[..., Any], held: Any
) -> None:
    harness = start()
    harness.wait_active()
    held.may_reconstruct.clear()
    for _ in range(4):
        frame = harness.frame()
        harness.send(frame)
        send_depth(harness, depth_image(frame.header))
    wait_until(held.inside.is_set, "the window is being computed")
    for index in range(KEPT):
        send_depth(harness, depth_image(header(harness.stamp_ns + 1 + index, FRAME_ID)))
    held.may_reconstruct.set()
    harness.wait_windows(1)
    assert "1.00 x ours" in harness.node._engine.scale_check.words


def test_depth_before_the_first_image_is_not_cut_as_if_it_were_one(
    start: Callable[..., Any],
) -> None:
    """Its shape says nothing of the image's: the two may be cut differently."""
    harness = start()
    harness.wait_active()
    check, taken = harness.node._engine.scale_check, harness.node._inputs._take_depth
    early = depth_image(header(START_NS, FRAME_ID))
    taken(early)
    assert not check._depths
    harness.send(harness.frame((70, 42)))
    taken(early)
    assert list(check._depths) == [START_NS]
