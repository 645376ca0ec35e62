# SPDX-License-Identifier: Apache-2.0
"""What becomes of a finished window: published, counted, and told in the log.

Runs on the engine's thread. What is out of the ordinary is said when it begins, not for every
window. Next: publishers.py, which makes the messages.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.lifecycle import LifecycleNode

from vidllm_ros.ros.health import Health
from vidllm_ros.ros.model_memory import memory_used_bytes
from vidllm_ros.ros.parameters import NodeParameters
from vidllm_ros.ros.publishers import Outputs, StatusFacts
from vidllm_ros.ros.transforms import CameraTransform
from vidllm_ros.streaming.loading import LoadedBackend
from vidllm_ros.streaming.session import WindowResult


class WindowReports:
    """Hands the windows of a node on; `clear` begins anew with each configure.

    Attributes:
        outputs: the publishers while the node is active, else None.
        transform: the camera's place in /tf, where the node is to publish or ask for it.
    """

    def __init__(
        self,
        node: LifecycleNode,
        health: Health,
        parameters: Callable[[], NodeParameters],
    ) -> None:
        self._node = node
        self._health = health
        self._parameters = parameters
        self._reduced = ""  # how the last window was cut for lack of memory
        self._coarse_world: int | None = None  # the world whose full map was last warned of
        self.outputs: Outputs | None = None
        self.transform: CameraTransform | None = None

    def clear(self) -> None:
        """Forget what was warned of (configure): the numbers of worlds begin again."""
        self._reduced, self._coarse_world = "", None

    def publish(self, result: WindowResult, loaded: LoadedBackend) -> None:
        """Publish a finished window."""
        outputs, transform = self.outputs, self.transform
        seconds = sum(result.timings_s.values())
        self._health.window_computed(seconds, result.skipped_windows)
        if outputs is None:
            return
        if not outputs.publish(result, self._parameters(), self._facts(loaded)):
            return
        if transform is not None:
            window = result.reconstruction
            transform.publish(window.stamps_ns[-1], window.frame_id, result.poses_map[-1])
        found = f"{len(result.cloud)} points, {len(result.objects)} objects"
        log = self._node.get_logger()
        log.info(f"window {result.window_index}: {found}, {seconds:.2f} s")
        if result.reduced and result.reduced != self._reduced:
            fix = "a smaller window_size or model, or another device, avoids it"
            log.warning(f"window {result.window_index}: {result.reduced}; {fix}")
        self._reduced = result.reduced
        self._say_if_coarse(result)

    def failed(self, words: str) -> None:
        """Say that a window could not be computed; the node goes on."""
        self._health.failed(words)
        self._node.get_logger().error(words)

    def _facts(self, loaded: LoadedBackend) -> StatusFacts:
        report = self._health.input_report(time.monotonic())
        return StatusFacts(
            received_frames=report.received,
            dropped_frames=sum(report.dropped.values()),
            backend=loaded.name,
            device=loaded.device,
            precision=loaded.precision,
            memory_bytes=memory_used_bytes(loaded.device),
        )

    def _say_if_coarse(self, result: WindowResult) -> None:
        """Warn once a world that its map has reached its bound."""
        wanted_m = self._parameters().voxel_m
        if result.map_voxel_m <= wanted_m or result.world_index == self._coarse_world:
            return
        self._coarse_world = result.world_index
        self._node.get_logger().warning(
            f"map: full at max_map_points, its voxels grew from {wanted_m:g} to "
            f"{result.map_voxel_m:g} m and grow on; a larger max_map_points or voxel_m, or a "
            "reset, avoids it"
        )
