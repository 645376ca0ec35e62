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
from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import qos_policy_name_from_kind
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from vidllm_ros.ros import topics
from vidllm_ros.ros.calibration import Calibration, Rectifier
from vidllm_ros.ros.callbacks import guarded
from vidllm_ros.ros.conversions import (
    calibration_from_info,
    depth_from_image,
    rgb_from_compressed,
    rgb_from_image,
)
from vidllm_ros.ros.engine import Engine
from vidllm_ros.ros.frame_gate import FrameGate, Shape
from vidllm_ros.ros.health import Health, Throttle
from vidllm_ros.ros.parameters import NodeParameters
from vidllm_ros.ros.qos import overridable, profile
from vidllm_ros.ros.stamps import stamp_to_ns
from vidllm_ros.streaming.window import Arrival

COMPLAIN_EVERY_S = 5.0
FLUSH_AFTER_S = 2.0
"""Silence after which the frames that no window has shown yet make a short one."""


class Inputs:
    """The subscriptions of an active node.

    Attributes:
        topic: resolved name of the image topic.
        incompatible_qos: policy a QoS event named; empty while there was none.
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
        self._broken_info = False
        self._subscriptions: list[Any] = []
        self._timer: Any = None
        self._has_new_frames = False
        self.topic = ""
        self.incompatible_qos = ""
        self.is_paused = False

    def open(self) -> None:
        """Subscribe."""
        group = MutuallyExclusiveCallbackGroup()
        compressed = self._parameters().image_transport == "compressed"
        image = topics.COMPRESSED if compressed else topics.IMAGE
        take = self._take_compressed if compressed else self._take_image
        self.topic = self._subscribe(image, take, group)
        self._subscribe(topics.CAMERA_INFO, self._take_info, group)
        self._subscribe(topics.DEPTH_IN, self._take_depth, group)
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
        while self._subscriptions:
            self._node.destroy_subscription(self._subscriptions.pop())

    def _subscribe(
        self,
        topic: topics.Topic,
        callback: Callable[[Any], None],
        group: MutuallyExclusiveCallbackGroup,
    ) -> str:
        def create(events: SubscriptionEventCallbacks) -> Any:
            return self._node.create_subscription(
                topic.type,
                topic.name,
                guarded(self._node, topic.name, callback),
                profile(topic.qos),
                callback_group=group,
                event_callbacks=events,
                qos_overriding_options=overridable(),
            )

        incompatible = self._note_incompatible(topic)
        lost = self._note_lost if topic in (topics.IMAGE, topics.COMPRESSED) else None
        try:
            subscription = create(
                SubscriptionEventCallbacks(incompatible_qos=incompatible, message_lost=lost)
            )
        except UnsupportedEventTypeError:  # not every middleware counts what it loses
            subscription = create(SubscriptionEventCallbacks(incompatible_qos=incompatible))
        self._subscriptions.append(subscription)
        name: str = subscription.topic_name
        return name

    def _note_incompatible(self, topic: topics.Topic) -> Callable[[Any], None]:
        def note(event: Any) -> None:
            policy = qos_policy_name_from_kind(event.last_policy_kind).lower()
            if topic.type in (topics.IMAGE.type, topics.COMPRESSED.type):
                self.incompatible_qos = policy
            self._complain(topic.name, "qos", f"a publisher offers an incompatible {policy}")

        return note

    def _note_lost(self, event: Any) -> None:
        self._health.frames_lost(event.total_count)

    # Frames

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
        try:
            rgb = decode()
        except ValueError as error:
            self._drop(topic.name, str(error).split(":")[0], str(error))
            return
        refusal = self._gate.refuse(
            Shape(rgb.shape[1], rgb.shape[0], encoding, header.frame_id)
        )  # fmt: skip
        if refusal:
            self._drop(topic.name, "other stream", refusal)
            return
        rgb, K = self._rectified(rgb)
        added = self._engine.offer(stamp_ns, rgb, header.frame_id, K)
        if added.arrival is Arrival.DROPPED:
            # Counted by the window; said here.
            self._complain(topic.name, "order", f"frame dropped: {added.arrival.value}")
            return
        if added.restarted:
            self._node.get_logger().warning(f"{self.topic}: {added.restarted}: a new world begins")
        self._health.frame_used(now)
        self._has_new_frames = True

    def _flush_when_silent(self) -> None:
        """Show the last frames once the camera has stopped: they may be too few for a window."""
        silence_s = self._health.input_report(time.monotonic()).silence_s
        if self._has_new_frames and silence_s is not None and silence_s > FLUSH_AFTER_S:
            self._has_new_frames = False
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
            self._node.get_logger().info(f"camera_info: {_describe(calibration)}")

    def _ignore_info(self, words: str) -> None:
        """Say once that the camera info is not used."""
        self._rectifier = None
        if not self._broken_info:
            self._broken_info = True
            self._node.get_logger().warning(f"camera_info: ignored: {words}")

    def _rectified(
        self, rgb: NDArray[np.uint8]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float64] | None]:
        """Return the pinhole frame and its K, or the frame as it is and None."""
        rectifier = self._rectifier
        if rectifier is None:
            return rgb, None
        if rectifier.calibration.is_distorted and not self._parameters().rectify:
            return rgb, rectifier.calibration.K
        try:
            return rectifier.rectify(rgb), rectifier.calibration.K
        except ValueError as error:
            self._complain("camera_info", "size", f"not used: {error}")
            return rgb, None

    # Depth, for checking the scale only

    def _take_depth(self, msg: Image) -> None:
        if self.is_paused:
            return
        try:
            depth = depth_from_image(msg)
        except ValueError as error:
            self._complain(topics.DEPTH_IN.name, str(error).split(":")[0], f"dropped: {error}")
            return
        self._engine.scale_check.offer(stamp_to_ns(msg.header.stamp), depth)


def _describe(calibration: Calibration) -> str:
    info = calibration
    lens = f"{info.model} distortion" if info.is_distorted else "no distortion"
    return f"{info.width}x{info.height}, fx {info.K[0, 0]:.1f}, fy {info.K[1, 1]:.1f}, {lens}"
