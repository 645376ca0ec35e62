# SPDX-License-Identifier: Apache-2.0
"""From camera messages to frames for the window: decode, check, rectify, hand on.

Runs in its own callback group, one message at a time; what cannot be used is counted and said in
the log at most every few seconds, with the topic and the cause. The network is never called
here. Next: engine.py, which takes the frames.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from numpy.typing import NDArray
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from vidllm_ros.ros import topics
from vidllm_ros.ros.calibration import Calibration, Rectifier
from vidllm_ros.ros.callbacks import guarded
from vidllm_ros.ros.camera_link import CameraLink
from vidllm_ros.ros.conversions import (
    calibration_from_info,
    depth_from_image,
    rgb_from_compressed,
    rgb_from_image,
)
from vidllm_ros.ros.engine import Engine
from vidllm_ros.ros.frame_gate import FrameGate, Shape, blindness
from vidllm_ros.ros.health import Health, Throttle
from vidllm_ros.ros.parameters import NodeParameters
from vidllm_ros.ros.pixel_grid import CameraView
from vidllm_ros.ros.stamps import stamp_to_ns
from vidllm_ros.streaming.window import Arrival

COMPLAIN_EVERY_S = 5.0
MOST_REASONS = 10
FLUSH_AFTER_S = 2.0
"""After so long without a frame that counts, those that no window has shown make a short one."""


class Inputs:
    """The subscriptions of an active node.

    Attributes:
        links: one for each topic listened to, the images' first.
        camera: what is known of the camera's intrinsics, in words.
        is_paused: frames are ignored while true.
    """

    def __init__(
        self,
        node: LifecycleNode,
        parameters: Callable[[], NodeParameters],
        engine: Engine,
        health: Health,
    ) -> None:
        self._node = node
        self._parameters = parameters
        self._engine = engine
        self._health = health
        self._throttle = Throttle(COMPLAIN_EVERY_S)
        self._gate = FrameGate()
        self._rectifier: Rectifier | None = None
        self._ignored_infos: set[str] = set()
        self._view: CameraView | None = None  # of the newest frame, for the depth beside it
        self._timer: Any = None
        self._kept_at: float | None = None  # the newest frame that waits for a window
        self.links: list[CameraLink] = []
        self.camera = "no camera_info: intrinsics are estimated"
        self.is_paused = False

    def open(self) -> None:
        """Subscribe."""
        group = MutuallyExclusiveCallbackGroup()
        compressed = self._parameters().image_transport == "compressed"
        image = topics.COMPRESSED if compressed else topics.IMAGE
        take = self._take_compressed if compressed else self._take_image
        for topic, callback in (
            (image, take),
            (topics.CAMERA_INFO, self._take_info),
            (topics.DEPTH_IN, self._take_depth),
        ):
            link = CameraLink(self._node, topic, self._complain)
            self.links.append(link)
            link.open(callback, group)
        self._timer = self._node.create_timer(
            FLUSH_AFTER_S / 4,
            guarded(self._node, "silence", self._flush_when_silent),
            callback_group=group,
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )
        self._health.set_listening(time.monotonic())
        self._node.get_logger().info(f"waiting for frames on {self.topic}")

    def close(self) -> None:
        """Unsubscribe; may be called again."""
        self._health.set_listening(None)
        timer, self._timer = self._timer, None
        if timer is not None:
            self._node.destroy_timer(timer)
        for link in self.links:
            link.close()

    @property
    def topic(self) -> str:
        """Resolved name of the image topic."""
        return self.links[0].topic if self.links else ""

    # Frames

    @property
    def incompatible(self) -> dict[str, str]:
        """Name the input topics with an incompatible publisher, and the policy."""
        return {link.topic: link.incompatible_qos for link in self.links if link.incompatible_qos}

    def _take_image(self, msg: Image) -> None:
        self._take(topics.IMAGE, msg.header, msg.encoding, lambda: rgb_from_image(msg))

    def _take_compressed(self, msg: CompressedImage) -> None:
        self._take(topics.COMPRESSED, msg.header, msg.format, lambda: rgb_from_compressed(msg))

    def _take(
        self,
        topic: topics.Topic,
        header: Any,
        encoding: str,
        decode: Callable[[], NDArray[np.uint8]],
    ) -> None:
        if self.is_paused:
            return
        now = time.monotonic()
        stamp_ns = stamp_to_ns(header.stamp)
        if self._health.frame_received(now, self._age_s(header.stamp)) == 1:
            self._node.get_logger().info(f"first frame on {self.topic}: {encoding}")
        picture = self._picture(topic.name, header.frame_id, encoding, decode)
        if picture is None:
            return
        rgb, K, rectifier = self._rectified(picture)
        self._view = CameraView(rgb.shape[0], rgb.shape[1], rectifier)
        is_remapped = rectifier is not None and rectifier.calibration.is_distorted
        added = self._engine.offer(stamp_ns, rgb, header.frame_id, K, is_remapped)
        if added.arrival is Arrival.DROPPED:
            self._drop(topic.name, "order", f"{added.arrival.value}: {_stamp_words(stamp_ns)}")
            return
        if added.arrival is Arrival.UNUSABLE:
            self._drop(topic.name, "size", added.problem)
            return
        if added.restarted:
            self._node.get_logger().warning(f"{self.topic}: {added.restarted}: a new world begins")
        if added.calibrated:
            words = f"camera_info: its K is given to the {added.calibrated} frame(s) before it too"
            self._node.get_logger().info(words)
        self._health.frame_used(now)
        if added.arrival is not Arrival.PASSED_OVER:
            self._kept_at = now

    def _picture(
        self, topic: str, frame_id: str, encoding: str, decode: Callable[[], NDArray[np.uint8]]
    ) -> NDArray[np.uint8] | None:
        """Decode a frame; drop it, with the cause, where it is torn, odd or shows nothing."""
        try:
            rgb = decode()
        except ValueError as error:
            self._drop(topic, str(error).split(":")[0], str(error))
            return None
        refusals = {
            "other stream": self._gate.refuse(
                Shape(rgb.shape[1], rgb.shape[0], encoding, frame_id)
            ),
            "shows nothing": blindness(rgb),
        }
        for cause, words in refusals.items():
            if words:
                self._drop(topic, cause, words)
                return None
        return rgb

    def _flush_when_silent(self) -> None:
        """Show the last frames once no more come: they may be too few for a window."""
        if self._kept_at is not None and time.monotonic() - self._kept_at > FLUSH_AFTER_S:
            self._kept_at = None
            self._engine.flush()

    def _age_s(self, stamp: Time) -> float:
        now_ns = int(self._node.get_clock().now().nanoseconds)
        return (now_ns - stamp_to_ns(stamp)) / 1e9

    def _drop(self, topic: str, cause: str, words: str) -> None:
        self._health.frame_dropped(cause, words)
        self._complain(topic, cause, f"frame dropped: {words}")

    def _complain(self, topic: str, cause: str, words: str) -> None:
        times = self._throttle.held_back(f"{topic} {cause}", time.monotonic())
        if times is not None:
            often = f" ({times} times since last said)" if times > 1 else ""
            self._node.get_logger().warning(f"{topic}: {words}{often}")

    # Camera info

    def _take_info(self, msg: CameraInfo) -> None:
        try:
            calibration = calibration_from_info(msg)
        except ValueError as error:
            self._ignore_info(str(error))
            return
        if calibration is None:
            self._ignore_info("K[0] is 0: the camera is uncalibrated, intrinsics are estimated")
            return
        known = self._rectifier.calibration if self._rectifier else None
        if not calibration.is_same(known):
            self._rectifier = Rectifier(calibration)
            self.camera = _describe(calibration)
            if self._throttle.held_back("camera_info changed", time.monotonic()) is not None:
                self._node.get_logger().info(f"camera_info: {self.camera}")

    def _ignore_info(self, words: str) -> None:
        """Say that the camera info is not used; once for each reason."""
        self._rectifier = None
        self.camera = f"camera_info ignored: {words}"
        if words not in self._ignored_infos and len(self._ignored_infos) < MOST_REASONS:
            self._ignored_infos.add(words)
            self._node.get_logger().warning(f"camera_info: ignored: {words}")

    def _rectified(
        self, rgb: NDArray[np.uint8]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float64] | None, Rectifier | None]:
        """Return the pinhole frame, its K and what made it, or the frame as it is and None."""
        rectifier = self._rectifier
        if rectifier is None:
            return rgb, None, None
        if rectifier.calibration.is_distorted and not self._parameters().rectify:
            return rgb, rectifier.calibration.K, None
        try:
            return rectifier.rectify(rgb), rectifier.calibration.K, rectifier
        except ValueError as error:
            self.camera = f"camera_info not used: {error}"
            self._complain("camera_info", "size", f"not used: {error}")
            return rgb, None, None

    # Depth, for checking the scale only

    def _take_depth(self, msg: Image) -> None:
        view = self._view  # before the first frame nobody knows what the depth shows
        if self.is_paused or view is None:
            return
        try:
            depth = depth_from_image(msg)
            self._engine.offer_depth(stamp_to_ns(msg.header.stamp), depth, view)
        except ValueError as error:
            self._complain(topics.DEPTH_IN.name, str(error).split(":")[0], f"dropped: {error}")
            return


def _stamp_words(stamp_ns: int) -> str:
    """Say what a stamp was; a camera that sets none is a common fault."""
    return "its stamp is 0: the camera sets none" if stamp_ns == 0 else f"its stamp is {stamp_ns}"


def _describe(calibration: Calibration) -> str:
    info = calibration
    lens = f"{info.model} distortion" if info.is_distorted else "no distortion"
    return f"{info.width}x{info.height}, fx {info.K[0, 0]:.1f}, fy {info.K[1, 1]:.1f}, {lens}"
