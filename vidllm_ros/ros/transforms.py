# SPDX-License-Identifier: Apache-2.0
"""TF: publish the camera's pose where nobody else does, and place the world by TF where it can.

A frame has one parent (REP 105). Where the camera frame already hangs from a robot, publishing a
second parent would break its tree, so the node listens first and holds back, saying so once.
Next: transform_tree.py, what lookups fall back to without tf2.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.lifecycle import LifecycleNode
from tf2_msgs.msg import TFMessage

from vidllm_ros.ros import topics
from vidllm_ros.ros.callbacks import guarded
from vidllm_ros.ros.conversions import transform_buffer
from vidllm_ros.ros.messages import transform_stamped
from vidllm_ros.ros.qos import profile
from vidllm_ros.ros.stamps import stamp_to_ns
from vidllm_ros.ros.transform_tree import TransformLookupError

KEPT_OWN = 256
"""Transforms of ours that are known again when they come back: minutes of windows."""


class CameraTransform:
    """Listens to /tf and /tf_static, and publishes world -> camera where it is asked to."""

    def __init__(self, node: LifecycleNode, world_frame: str, is_publishing: bool) -> None:
        self._node = node
        self._world = world_frame
        self._is_publishing = is_publishing
        self._parents: dict[str, str] = {}
        self._sent: deque[tuple[str, int]] = deque(maxlen=KEPT_OWN)
        self._buffer = transform_buffer()
        self._subscriptions: list[Any] = []
        self._publisher: Any = None
        self._has_warned = False

    def open(self) -> None:
        """Listen, and prepare to publish."""
        group = MutuallyExclusiveCallbackGroup()
        for topic, is_static in ((topics.TF_IN, False), (topics.TF_STATIC_IN, True)):
            self._subscriptions.append(
                self._node.create_subscription(
                    topic.type,
                    topic.name,
                    guarded(self._node, topic.name, self._listener(is_static)),
                    profile(topic.qos),
                    callback_group=group,
                )
            )
        if self._is_publishing:
            topic = topics.TF
            self._publisher = self._node.create_publisher(
                topic.type, topic.name, profile(topic.qos)
            )

    def close(self) -> None:
        """Stop; may be called again."""
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            self._node.destroy_publisher(publisher)
        while self._subscriptions:
            self._node.destroy_subscription(self._subscriptions.pop())

    def _listener(self, is_static: bool) -> Any:
        def listen(msg: TFMessage) -> None:
            for transform in msg.transforms:
                parent, child = transform.header.frame_id, transform.child_frame_id
                sent = child, stamp_to_ns(transform.header.stamp)
                is_own = not is_static and parent == self._world and sent in self._sent
                if not is_own:
                    self._parents[child] = parent
                    self._buffer.add(transform, is_static)

        return listen

    def lookup_camera(self, camera: str, stamp_ns: int) -> NDArray[np.float64]:
        """Return T_world_camera (4, 4) of TF at this time.

        Raises:
            TransformLookupError: TF does not know it; the message says why.
        """
        if not camera:
            raise TransformLookupError("the images carry no frame_id")
        return self._buffer.lookup(self._world, camera, stamp_ns)

    def publish(self, stamp_ns: int, camera: str, T_world_camera: ArrayLike) -> None:
        """Publish the camera's pose unless its frame has a parent or no name."""
        if self._publisher is None:
            return
        parent = self._parents.get(camera)
        if parent is not None or not camera:
            self._warn(parent, camera)
            return
        self._sent.append((camera, stamp_ns))  # before it is heard
        message = transform_stamped(stamp_ns, self._world, camera, T_world_camera)
        self._publisher.publish(TFMessage(transforms=[message]))

    def _warn(self, parent: str | None, camera: str) -> None:
        """Say once why nothing is published."""
        if self._has_warned:
            return
        self._has_warned = True
        reason = "the images carry no frame_id"
        if camera:
            reason = f"{camera!r} has the parent {parent!r}; a second would break the tree"
        self._node.get_logger().warning(f"publish_tf: held back: {reason}")
