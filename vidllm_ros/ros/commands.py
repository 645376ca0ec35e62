# SPDX-License-Identifier: Apache-2.0
"""The services that steer an active node: reset, pause, save_map.

Each answers `success: false` with the reason where it cannot do what is asked, and says in the log
what it did. Next: engine.py, which holds the map.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rclpy.lifecycle import LifecycleNode
from std_srvs.srv import SetBool, Trigger

from vidllm_ros.ros.engine import Engine
from vidllm_ros.ros.inputs import Inputs
from vidllm_ros.ros.publishers import Outputs
from vidllm_ros.srv import SaveMap
from vidllm_ros.streaming.session import SavedMap, SessionError


class Commands:
    """Answers the commands as long as the node lives."""

    def __init__(
        self,
        node: LifecycleNode,
        active_engine: Callable[[], Engine | None],
        inputs: Callable[[], Inputs | None],
        outputs: Callable[[], Outputs | None],
    ) -> None:
        """Serve commands; the three functions give None while the node is not active."""
        self._node = node
        self._active_engine = active_engine
        self._inputs = inputs
        self._outputs = outputs

    def reset(self, _: Trigger.Request, reply: Trigger.Response) -> Trigger.Response:
        """Forget the map and begin a new world."""
        engine, outputs = self._active_engine(), self._outputs()
        if engine is None or outputs is None:
            reply.message = "the node is not active; nothing was reset"
            return reply
        outputs.restart(engine.reset())
        reply.success = True
        reply.message = "map and objects are empty; a new world begins"
        self._node.get_logger().info(f"reset: {reply.message}")
        return reply

    def pause(self, request: SetBool.Request, reply: SetBool.Response) -> SetBool.Response:
        """Ignore frames, or take them again in the same world; questions are answered throughout.

        However long it was: who moved the camera elsewhere meanwhile calls reset.
        """
        engine, inputs = self._active_engine(), self._inputs()
        if engine is None or inputs is None:
            reply.message = "the node is not active; it takes no frames anyway"
            return reply
        if inputs.is_paused and not request.data:
            engine.expect_gap()
        inputs.is_paused = request.data
        reply.success, reply.message = True, "paused" if request.data else "running"
        self._node.get_logger().info(f"pause: {reply.message}")
        return reply

    def save_map(self, request: SaveMap.Request, reply: SaveMap.Response) -> SaveMap.Response:
        """Write the map; success only when both files are whole."""
        engine = self._active_engine()
        try:
            if engine is None:
                raise SessionError("the node is not active; there is no map")
            saved = engine.save_map(_absolute(request.path))
        except (OSError, ValueError, SessionError) as error:
            reply.message = str(error) or repr(error)
            self._node.get_logger().info(f"save_map: {reply.message}")
            return reply
        reply.success, reply.message = True, _resolution(saved, engine.voxel_m)
        reply.path, reply.objects_path = str(saved.path), str(saved.objects_path)
        reply.point_count, reply.object_count = saved.point_count, saved.object_count
        self._node.get_logger().info(f"save_map: {reply.path}: {reply.message}")
        return reply


def _absolute(path: str) -> Path:
    """Take a path that means the same file wherever the node was started."""
    if not Path(path).is_absolute():
        raise ValueError(
            f"path: expected an absolute path (~ is not expanded), got {path!r}; begin it with /"
        )
    return Path(path)


def _resolution(saved: SavedMap, wanted_m: float) -> str:
    """Say how fine the saved map is."""
    words = f"one point in a voxel of {saved.voxel_m:g} m"
    if saved.voxel_m > wanted_m:
        words += f" (voxel_m is {wanted_m:g}: the map is full, see max_map_points)"
    return words
