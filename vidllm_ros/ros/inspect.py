# SPDX-License-Identifier: Apache-2.0
"""Looks at a running camera as the node would: `python -m vidllm_ros.ros.inspect --image TOPIC`.

Listens for a few seconds and prints one JSON object: who publishes, with which quality of service,
what the frames, camera_info and TF say, and whether a node runs. Judges nothing: that is
cli/doctor_camera.py, which reads it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSCompatibility, qos_check_compatible, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage

from vidllm_ros.ros import topics
from vidllm_ros.ros.camera_link import cameras_elsewhere
from vidllm_ros.ros.conversions import calibration_from_info, rgb_from_compressed, rgb_from_image
from vidllm_ros.ros.process import SpinningThread, ros_context
from vidllm_ros.ros.qos import profile
from vidllm_ros.ros.stamps import stamp_to_ns


class Camera:
    """What is heard of one camera."""

    def __init__(self, node: Node, image: str, camera_info: str, is_compressed: bool) -> None:
        self._node = node
        self._type = CompressedImage if is_compressed else Image
        self.topic = node.resolve_topic_name(image)
        self._frames: list[float] = []
        self._frame: dict[str, Any] = {}
        self._info: dict[str, Any] | None = None
        self._parents: dict[str, str] = {}
        node.create_subscription(self._type, image, self._take, qos_profile_sensor_data)
        node.create_subscription(CameraInfo, camera_info, self._take_info, qos_profile_sensor_data)
        for topic in (topics.TF_IN, topics.TF_STATIC_IN):
            node.create_subscription(topic.type, topic.name, self._take_tf, profile(topic.qos))

    def _take(self, msg: Image | CompressedImage) -> None:
        self._frames.append(time.monotonic())
        age_ns = int(self._node.get_clock().now().nanoseconds) - stamp_to_ns(msg.header.stamp)
        encoding = msg.format if isinstance(msg, CompressedImage) else msg.encoding
        frame = {"encoding": encoding, "frame_id": msg.header.frame_id, "age_s": age_ns / 1e9}
        try:
            is_compressed = isinstance(msg, CompressedImage)
            rgb = rgb_from_compressed(msg) if is_compressed else rgb_from_image(msg)
            frame |= {"width": rgb.shape[1], "height": rgb.shape[0], "problem": ""}
        except ValueError as error:
            frame["problem"] = str(error)
        self._frame = frame

    def _take_info(self, msg: CameraInfo) -> None:
        info: dict[str, Any] = {"width": msg.width, "height": msg.height, "problem": ""}
        try:
            calibration = calibration_from_info(msg)
            info["is_calibrated"] = calibration is not None
            info["frame_id"] = msg.header.frame_id
        except ValueError as error:
            info["problem"] = str(error)
        self._info = info

    def _take_tf(self, msg: TFMessage) -> None:
        for transform in msg.transforms:
            self._parents[transform.child_frame_id] = transform.header.frame_id

    def report(self, seconds: float) -> dict[str, Any]:
        """Put what was heard in plain values."""
        ours = profile("sensor")
        publishers = []
        for info in self._node.get_publishers_info_by_topic(self.topic):
            fits, reason = qos_check_compatible(info.qos_profile, ours)
            publishers.append(
                {
                    "node": info.node_name,
                    "type": info.topic_type,
                    "reliability": info.qos_profile.reliability.name.lower(),
                    "fits": fits != QoSCompatibility.ERROR,
                    "reason": reason,
                }
            )
        span = self._frames[-1] - self._frames[0] if len(self._frames) > 1 else 0.0
        ask = topics.type_name(topics.ASK.type)
        asked = [name for name, kinds in self._node.get_service_names_and_types() if ask in kinds]
        wanted = topics.type_name(self._type)
        return {
            "topic": self.topic,
            "wanted_type": wanted,
            "seconds": seconds,
            "publishers": publishers,
            "elsewhere": list(cameras_elsewhere(self._node, wanted, self.topic)),
            "frames": len(self._frames),
            "rate_hz": (len(self._frames) - 1) / span if span > 0 else 0.0,
            "frame": self._frame,
            "camera_info": self._info,
            "parent": self._parents.get(self._frame.get("frame_id", ""), ""),
            "transforms": len(self._parents),
            "ask_services": asked,
        }


def main(argv: Sequence[str] | None = None) -> int:
    """Listen, print, and end."""
    with ros_context(sys.argv if argv is None else ["inspect", *argv]) as arguments:
        parser = argparse.ArgumentParser("inspect", description="Look at a running camera.")
        parser.add_argument("--image", default="image")
        parser.add_argument("--camera-info", default="")
        parser.add_argument("--compressed", action="store_true")
        parser.add_argument("--seconds", type=float, default=3.0)
        options = parser.parse_args(arguments[1:])
        beside = "/".join([*options.image.split("/")[:-1], "camera_info"])
        image = f"{options.image}/compressed" if options.compressed else options.image
        node = Node("vidllm_inspector")
        camera = Camera(node, image, options.camera_info or beside, options.compressed)
        with SpinningThread(node) as spinning:
            spinning.ended.wait(options.seconds)
            print(json.dumps(camera.report(options.seconds)), flush=True)
        node.destroy_node()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
