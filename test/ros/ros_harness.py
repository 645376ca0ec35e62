# SPDX-License-Identifier: Apache-2.0
"""A node and a tester over real DDS in one process, with a backend a test can hold back."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.executors import MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.impl import rcutils_logger
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from vidllm_ros.ros.conversions import image_from_rgb
from vidllm_ros.ros.node import EXECUTOR_THREADS, VidllmNode
from vidllm_ros.ros.process import SpinningThread
from vidllm_ros.ros.qos import profile
from vidllm_ros.ros.stamps import header
from vidllm_ros.ros.topics import ASK, Service, Topic
from vidllm_ros.srv import Ask
from vidllm_ros.streaming.backend import StandInBackend
from vidllm_ros.streaming.loading import LoadedBackend
from vidllm_ros.structures import Answer, Frames, Reconstruction, SceneContext

WAIT_S = float(os.environ.get("VIDLLM_TEST_WAIT_S", "120"))  # only a fault waits so long
START_NS = 1_700_000_000_123_456_789
STEP_NS = 100_000_000
FRAME_ID = "front_camera_optical_frame"
QUICK = {
    "backend": "standin",
    "window_size": 4,
    "window_stride": 2,
    "window_min_frames": 4,
    "keyframe_motion": 0.0,  # frames are noise, in which nothing can be followed
    "voxel_m": 0.1,
    "input_timeout_s": 0.5,
}


LOG: list[tuple[str, str]] = []
"""Name of the logger and line of all that was logged in this process."""
_log = rcutils_logger._rclpy.rclpy_logging_rcutils_log


def _record(severity: Any, name: str, message: str, *place: Any) -> None:
    LOG.append((name, message))
    _log(severity, name, message, *place)


rcutils_logger._rclpy.rclpy_logging_rcutils_log = _record


class HeldBackend(StandInBackend):
    """The stand-in, which a test can hold inside a window or an answer, or make fail."""

    def __init__(self) -> None:
        self.may_reconstruct = threading.Event()
        self.may_answer = threading.Event()
        self.may_reconstruct.set()
        self.may_answer.set()
        self.inside = threading.Event()
        self.fails_with: Exception | None = None
        self.window_s = 0.0

    def _hold(self, gate: threading.Event) -> None:
        self.inside.set()
        gate.wait(WAIT_S)
        self.inside.clear()
        if self.fails_with is not None:
            raise self.fails_with

    def reconstruct(self, frames: Frames) -> Reconstruction:
        self._hold(self.may_reconstruct)
        time.sleep(self.window_s)
        return super().reconstruct(frames)

    def answer(self, scene: SceneContext, question: str) -> Answer:
        self._hold(self.may_answer)
        return super().answer(scene, question)


def loaded(backend: StandInBackend) -> LoadedBackend:
    return LoadedBackend(backend, "standin", "cpu", "float32")


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> Any:
    """Wait until the condition holds and return what it gave."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"not within {timeout_s:g} s: {what}")


def slowness() -> float:
    """How much longer than alone a computation takes on this machine now, at least 1."""
    started, used = time.monotonic(), time.process_time()
    while time.process_time() - used < 0.1:
        sum(range(1000))
    return max(1.0, (time.monotonic() - started) / 0.1)


class Harness:
    """The node under test, and another node that talks to it."""

    def __init__(
        self, overrides: dict[str, Any], namespace: str = "", arguments: Sequence[str] = ()
    ) -> None:
        self._log_start = len(LOG)
        values = {**QUICK, **overrides}
        given = [Parameter(name, value=value) for name, value in values.items()]
        self.node = VidllmNode(
            parameter_overrides=given, namespace=namespace, cli_args=list(arguments)
        )
        self.tester = Node("tester", namespace=namespace)
        self._node_thread = SpinningThread(self.node, MultiThreadedExecutor(EXECUTOR_THREADS))
        self._tester_thread = SpinningThread(self.tester, SingleThreadedExecutor())
        self._node_thread.__enter__()
        self._tester_thread.__enter__()
        self._clients: dict[str, Any] = {}
        self._publishers: dict[str, Any] = {}
        self.stamp_ns = START_NS

    # The log

    def said(self) -> list[str]:
        """Return what the node has logged so far."""
        name = self.node.get_logger().name
        return [words for logger, words in tuple(LOG)[self._log_start :] if logger == name]

    def wait_said(self, words: str) -> str:
        """Wait until the node has logged a line with these words; return the newest such line."""

        def found() -> str:
            return next((line for line in reversed(self.said()) if words in line), "")

        try:
            line: str = wait_until(found, words)
        except AssertionError:
            raise AssertionError(f"never said {words!r}: {self.said()[-20:]}") from None
        return line

    def close(self) -> None:
        self.node.release()
        self._node_thread.__exit__()
        self._tester_thread.__exit__()
        self.node.destroy_node()  # before any verdict: a node left over would answer later tests
        self.tester.destroy_node()
        for thread in (self._node_thread, self._tester_thread):
            assert thread.failed is None, f"a callback raised {thread.failed!r}"

    # Services

    def name(self, name: str) -> str:
        return name.replace("~", self.node.get_fully_qualified_name())

    def call(self, service_type: Any, name: str, request: Any, timeout_s: float = WAIT_S) -> Any:
        """Call a service and return the reply."""
        return self.start_call(service_type, name, request)(timeout_s)

    def start_call(
        self, service_type: Any, name: str, request: Any
    ) -> Callable[[float], Any]:  # fmt: skip
        """Send a request; return the function that waits for its reply."""
        client = self._clients.get(name)
        if client is None:
            client = self._clients[name] = self.tester.create_client(
                service_type, self.name(name), qos_profile=profile("service")
            )
        assert client.wait_for_service(WAIT_S), f"nobody serves {name}"
        done = threading.Event()
        future = client.call_async(request)
        future.add_done_callback(lambda _: done.set())

        def reply(timeout_s: float = WAIT_S) -> Any:
            assert done.wait(timeout_s), f"{name} did not reply within {timeout_s:g} s"
            return future.result()

        return reply

    def command(self, service: Service, request: Any) -> Any:
        return self.call(service.type, service.name, request)

    def ask(self, question: str, **fields: Any) -> Any:
        return self.command(ASK, Ask.Request(question=question, **fields))

    @property
    def state(self) -> str:
        reply = self.call(GetState, "~/get_state", GetState.Request())
        label: str = reply.current_state.label
        return label

    def change(self, transition: int) -> bool:
        """Walk a lifecycle transition through its service."""
        request = ChangeState.Request(transition=Transition(id=transition))
        return bool(self.call(ChangeState, "~/change_state", request).success)

    def wait_active(self) -> None:
        wait_until(
            lambda: self.node._state_machine.current_state[0] == State.PRIMARY_STATE_ACTIVE,
            "the node is active",
        )

    def set_parameter(self, name: str, value: Any) -> Any:
        """Set a parameter through the service; return its result."""
        parameter = Parameter(name, value=value).to_parameter_msg()
        request = SetParameters.Request(parameters=[parameter])
        return self.call(SetParameters, "~/set_parameters", request).results[0]

    def get_parameter(self, name: str) -> Any:
        request = GetParameters.Request(names=[name])
        reply = self.call(GetParameters, "~/get_parameters", request)
        value = reply.values[0]
        by_type = {
            ParameterType.PARAMETER_STRING: "string_value",
            ParameterType.PARAMETER_DOUBLE: "double_value",
            ParameterType.PARAMETER_INTEGER: "integer_value",
            ParameterType.PARAMETER_BOOL: "bool_value",
        }
        return getattr(value, by_type[value.type])

    # Topics

    def listen(self, topic: Topic, qos: str = "") -> list[Any]:
        """Collect what comes on a topic of the node from now on."""
        heard: list[Any] = []
        self.tester.create_subscription(
            topic.type, self.name(topic.name), heard.append, profile(qos or topic.qos)
        )
        return heard

    def publisher(self, message_type: Any, name: str) -> Any:
        if name not in self._publishers:
            self._publishers[name] = self.tester.create_publisher(
                message_type, name, profile("reliable")
            )
            wait_until(
                lambda: self._publishers[name].get_subscription_count() > 0, f"{name} is heard"
            )
        return self._publishers[name]

    def send(self, message: Image | CompressedImage, name: str = "image") -> None:
        """Publish one frame and wait until the node has had it, whole or not."""
        publisher = self.publisher(type(message), name)
        before = self._handled()
        for _ in range(20):  # best effort: what is lost is sent again
            publisher.publish(message)
            end = time.monotonic() + 2.0
            while time.monotonic() < end:
                if self._handled() > before:
                    return
                time.sleep(0.002)
        raise AssertionError(f"the node never had a frame on {name}")

    def _received(self) -> int:
        return int(self.node._health.input_report(time.monotonic()).received)

    def _handled(self) -> int:
        report = self.node._health.input_report(time.monotonic())
        return int(report.usable + sum(report.dropped.values()))

    def send_info(self, info: CameraInfo) -> None:
        self.publisher(CameraInfo, "camera_info").publish(info)

    def frame(self, size: tuple[int, int] = (56, 42)) -> Image:
        """Make the next good frame."""
        self.stamp_ns += STEP_NS
        seed = self.stamp_ns // STEP_NS
        rgb = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
        return image_from_rgb(header(self.stamp_ns, FRAME_ID), rgb)

    def feed(self, count: int) -> list[int]:
        """Publish so many good frames, one after the other; return their stamps."""
        stamps = []
        for _ in range(count):
            self.send(self.frame())
            stamps.append(self.stamp_ns)
        return stamps

    def windows(self) -> int:
        return int(self.node._health.window_report().computed)

    def wait_windows(self, count: int) -> None:
        wait_until(lambda: self.windows() >= count, f"{count} windows are computed")
