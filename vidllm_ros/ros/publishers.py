# SPDX-License-Identifier: Apache-2.0
"""Publishes what a window gave: cloud, poses, depth, objects, status; all with the frames' stamps.

Called on the worker's thread when a window is done. Nothing is computed here but which poses are
new for the path. Next: messages.py and conversions.py, which build the messages.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from geometry_msgs.msg import PoseStamped
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import qos_policy_name_from_kind

from vidllm_ros.msg import WindowStatus
from vidllm_ros.ros import messages, topics
from vidllm_ros.ros.callbacks import guarded
from vidllm_ros.ros.conversions import (
    cloud_to_msg,
    image_from_depth,
    info_from_intrinsics,
)
from vidllm_ros.ros.parameters import NodeParameters
from vidllm_ros.ros.qos import overridable, profile
from vidllm_ros.ros.stamps import header, ns_to_stamp
from vidllm_ros.streaming.session import WindowResult


@dataclass(frozen=True)
class StatusFacts:
    """What ~/status says beside the window itself."""

    received_frames: int
    dropped_frames: int
    backend: str
    device: str
    precision: str
    memory_bytes: int


class Outputs:
    """The result publishers of an active node."""

    def __init__(self, node: LifecycleNode, world_frame: str) -> None:
        self._node = node
        self._frame = world_frame
        self._lock = threading.Lock()
        self._publishers: dict[topics.Topic, Any] = {}
        self._path: deque[PoseStamped] = deque()
        self._path_end_ns: int | None = None
        self._world_index = 0
        self._first_world = 0  # results of worlds before it were reset

    def open(self) -> None:
        """Create the publishers; they publish once the node is active."""
        for topic in topics.RESULTS:
            events = PublisherEventCallbacks(incompatible_qos=self._incompatible(topic))
            self._publishers[topic] = self._node.create_lifecycle_publisher(
                topic.type,
                topic.name,
                profile(topic.qos),
                qos_overriding_options=overridable(),
                event_callbacks=events,
            )

    def _incompatible(self, topic: topics.Topic) -> Callable[[Any], None]:
        def say(event: Any) -> None:
            policy = qos_policy_name_from_kind(event.last_policy_kind).lower()
            self._node.get_logger().warning(
                f"{topic.name}: a subscriber asks for an incompatible {policy} and hears nothing; "
                "change it there, or override qos_overrides of this topic's publisher here"
            )

        return guarded(self._node, topic.name, say)

    @property
    def listeners(self) -> int:
        """Subscriptions to the results, all topics together."""
        with self._lock:
            return sum(p.get_subscription_count() for p in self._publishers.values())

    def close(self) -> None:
        """Destroy the publishers; may be called again. Waits for a publication in progress."""
        with self._lock:
            publishers, self._publishers = self._publishers, {}
        for publisher in publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)

    def restart(self, world_index: int) -> None:
        """Forget the path: a new world begins. Markers and objects are cleared for listeners.

        Args:
            world_index: of the new world; what was computed of one before is no longer published.
        """
        with self._lock:
            self._first_world = world_index
            self._path.clear()
            self._path_end_ns = None
            stamp_ns = int(self._node.get_clock().now().nanoseconds)
            self._send(topics.PATH, messages.path(stamp_ns, self._frame, []))
            self._send(topics.OBJECTS, messages.object_array(stamp_ns, self._frame, []))
            self._send(topics.MARKERS, messages.object_markers(stamp_ns, self._frame, []))

    def publish(
        self, result: WindowResult, parameters: NodeParameters, facts: StatusFacts
    ) -> bool:
        """Publish one window; False where its world was reset meanwhile."""
        newest_ns = result.reconstruction.stamps_ns[-1]
        boxes = [box for box in result.objects if box.score >= parameters.score_threshold]
        with self._lock:
            if result.world_index < self._first_world:
                return False
            self._publish_geometry(result, newest_ns)
            self._publish_path(result, parameters.max_path_poses)
            self._send(topics.OBJECTS, messages.object_array(newest_ns, self._frame, boxes))
            self._send(topics.MARKERS, messages.object_markers(newest_ns, self._frame, boxes))
            self._send(topics.STATUS, self._status(result, len(boxes), facts))
        return True

    def _send(self, topic: topics.Topic, message: Any) -> None:
        publisher = self._publishers.get(topic)
        if publisher is not None:
            publisher.publish(message)

    def _publish_geometry(self, result: WindowResult, newest_ns: int) -> None:
        window = result.reconstruction
        frame, poses = self._frame, result.poses_map
        self._send(topics.POINTS, cloud_to_msg(header(newest_ns, frame), result.cloud))
        self._send(topics.POSE, messages.pose_stamped(newest_ns, frame, poses[-1]))
        self._send(topics.WINDOW_POSES, messages.pose_array(newest_ns, frame, poses))
        # Depth belongs to the camera: its own optical frame, not the world.
        camera = header(newest_ns, window.frame_id)
        height, width = window.depth.shape[1:]
        depth = image_from_depth(camera, window.depth[-1], window.valid[-1])
        self._send(topics.DEPTH, depth)
        info = info_from_intrinsics(camera, window.K[-1], height, width)
        self._send(topics.DEPTH_INFO, info)

    def _publish_path(self, result: WindowResult, cap: int) -> None:
        """Add the poses of frames that no earlier window had; a new world begins a new path."""
        if result.world_index != self._world_index:
            self._path.clear()
            self._path_end_ns, self._world_index = None, result.world_index
        stamps_ns = result.reconstruction.stamps_ns
        end_ns = self._path_end_ns
        new = [i for i, stamp_ns in enumerate(stamps_ns) if end_ns is None or stamp_ns > end_ns]
        for i, pose in zip(new, messages.poses_from_matrices(result.poses_map[new]), strict=True):
            self._path.append(PoseStamped(header=header(stamps_ns[i], self._frame), pose=pose))
        self._path_end_ns = stamps_ns[-1]
        while len(self._path) > cap:
            self._path.popleft()
        self._send(topics.PATH, messages.path(stamps_ns[-1], self._frame, list(self._path)))

    def _status(self, result: WindowResult, object_count: int, facts: StatusFacts) -> WindowStatus:
        stamps_ns = result.reconstruction.stamps_ns
        now_ns = int(self._node.get_clock().now().nanoseconds)
        return WindowStatus(
            header=header(stamps_ns[-1], self._frame),
            window_index=result.window_index,
            frame_stamps=[ns_to_stamp(stamp_ns) for stamp_ns in stamps_ns],
            scale=float(result.scale),
            scale_spread=float(result.scale_spread),
            point_count=len(result.cloud),
            object_count=object_count,
            window_time_s=float(sum(result.timings_s.values())),
            latency_s=(now_ns - stamps_ns[-1]) / 1e9,
            timing_names=list(result.timings_s),
            timings_s=[float(seconds) for seconds in result.timings_s.values()],
            received_frames=facts.received_frames,
            dropped_frames=facts.dropped_frames,
            skipped_windows=result.skipped_windows,
            backend=facts.backend,
            device=facts.device,
            precision=facts.precision,
            memory_used_bytes=facts.memory_bytes,
        )
