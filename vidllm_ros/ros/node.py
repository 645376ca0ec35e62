# SPDX-License-Identifier: Apache-2.0
"""The lifecycle node `vidllm`: wires topics, services and parameters to one engine.

configure loads the model, activate subscribes and publishes, deactivate stops consuming and keeps
the model, cleanup frees it. Read the callbacks in that order; the work is in inputs.py,
questions.py, commands.py, window_reports.py and engine.py. Next: engine.py.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.executors import MultiThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from vidllm_ros.network.memory import free_bytes, keep_one_arena
from vidllm_ros.ros import topics
from vidllm_ros.ros.callbacks import guarded, logged_transition
from vidllm_ros.ros.commands import Commands
from vidllm_ros.ros.conversions import describe_libraries
from vidllm_ros.ros.diagnostics import Diagnostics, Situation
from vidllm_ros.ros.engine import CLOSE_TIMEOUT_S, Engine
from vidllm_ros.ros.health import Health
from vidllm_ros.ros.inputs import Inputs
from vidllm_ros.ros.model_memory import (
    describe_memory,
    describe_torch,
    memory_used_bytes,
    release_memory,
)
from vidllm_ros.ros.parameter_server import ParameterServer
from vidllm_ros.ros.parameters import NodeParameters
from vidllm_ros.ros.process import (
    SpinningThread,
    end_process,
    ros_context,
    stop_event,
)
from vidllm_ros.ros.publishers import Outputs
from vidllm_ros.ros.qos import profile
from vidllm_ros.ros.questions import Questions
from vidllm_ros.ros.transforms import CameraTransform
from vidllm_ros.ros.window_reports import WindowReports
from vidllm_ros.streaming.loading import Fit, load_backend
from vidllm_ros.streaming.model_folders import LoadingError

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
EXECUTOR_THREADS = 48
"""Bound, not cost: threads start when needed. 32 questions may wait, the rest keep answering."""


class VidllmNode(LifecycleNode):
    """See docs/ros_interface.md for what a robot programmer can rely on."""

    def __init__(self, **node_options: Any) -> None:
        super().__init__(topics.NODE_NAME, **node_options)
        self._engine: Engine | None = None
        self._inputs: Inputs | None = None
        self._handles: list[Callable[[], None]] = []
        """What activate opened, as the functions that close it; see `_release`."""
        self._release_lock = threading.RLock()
        self._watchers: list[threading.Thread] = []
        """Wait for networks that were at work when they were given back."""
        self._health = Health()
        self._parameter_server = ParameterServer(self, lambda: self._engine is None)
        self._windows = WindowReports(self, self._health, self._current)
        self._questions = Questions(self, self._current, self._active_engine)
        self._commands = Commands(
            self, self._active_engine, lambda: self._inputs, lambda: self._windows.outputs
        )
        self._diagnostics = Diagnostics(self, self._health, self._current, self._situation)
        self._diagnostics.open_timer(MutuallyExclusiveCallbackGroup())
        self._serve()
        if self._current().autostart:
            # Steady: simulated time may not run yet.
            clock = Clock(clock_type=ClockType.STEADY_TIME)
            start = guarded(self, "autostart", self._start)
            self._autostart = self.create_timer(0.0, start, clock=clock)
        else:
            self.get_logger().info("autostart is off: waiting for configure")

    def _serve(self) -> None:
        """Offer the services; they answer in every state."""
        questions, commands = ReentrantCallbackGroup(), MutuallyExclusiveCallbackGroup()
        for service, handler, group in (
            (topics.ASK, self._questions.handle, questions),
            (topics.RESET, self._commands.reset, commands),
            (topics.PAUSE, self._commands.pause, commands),
            (topics.SAVE_MAP, self._commands.save_map, questions),
        ):
            quality = profile("service")
            self.create_service(
                service.type, service.name, handler, qos_profile=quality, callback_group=group
            )

    def _start(self) -> None:
        """Walk to active by itself, once."""
        self.destroy_timer(self._autostart)
        if self.trigger_configure() == SUCCESS:
            self.trigger_activate()
        else:
            self.get_logger().error(
                f"not started; after the fix: ros2 lifecycle set {self.get_fully_qualified_name()}"
                " configure, then activate"
            )

    # What the parts ask of the node

    def _current(self) -> NodeParameters:
        return self._parameter_server.current

    def _active_engine(self) -> Engine | None:
        return self._engine if self._inputs is not None else None

    def _situation(self) -> Situation:
        engine, inputs, outputs = self._engine, self._inputs, self._windows.outputs
        loaded = engine.loaded if engine else None
        return Situation(
            state=self._state_machine.current_state[1],
            device=str(loaded) if loaded else "",
            link=inputs.links[0].report() if inputs else None,
            incompatible=inputs.incompatible if inputs else {},
            camera=inputs.camera if inputs else "",
            is_paused=bool(inputs and inputs.is_paused),
            waiting_questions=self._questions.waiting,
            memory_bytes=memory_used_bytes(loaded.device if loaded else "cpu"),
            free_bytes=free_bytes(loaded.device if loaded else "cpu"),
            reduced=engine.reduced if engine else "",
            memory=loaded.memory if loaded else None,
            listeners=outputs.listeners if outputs else 0,
            scale_check=engine.scale_check.words if engine else "",
        )

    # Lifecycle

    @logged_transition
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Check the parameters and load the model; FAILURE with the reason where it cannot."""
        log = self.get_logger()
        for line in self._parameter_server.unknown():
            log.warning(f"configure: {line}")
        problems = self._parameter_server.problems()
        if problems:
            log.error(f"configure: {'; '.join(problems)}")
            return FAILURE
        wanted, used = self._current(), memory_used_bytes("cpu")
        started = time.monotonic()
        log.info(f"configure: {describe_torch()}; {describe_libraries()}")
        try:
            fit = Fit(wanted.window_size, wanted.memory_step)
            loaded = load_backend(
                wanted.backend, wanted.model, wanted.device, wanted.precision, fit
            )
        except LoadingError as error:
            log.error(f"configure: {error}")
            self._health.failed(str(error))
            return FAILURE
        self._health.clear()
        self._windows.clear()
        self._engine = Engine(
            loaded,
            self._current,
            lambda result: self._windows.publish(result, loaded),
            self._windows.failed,
            log.warning,
        )
        log.info(f"configure: {describe_memory(loaded, used)}, {time.monotonic() - started:.1f} s")
        if loaded.memory is not None:
            log.info(f"configure: memory for {loaded.memory.words}")
        for line in loaded.notes:
            log.info(f"configure: {line}")
        if loaded.name == "standin":
            log.warning("backend is 'standin': no network runs, every reply says so")
        return super().on_configure(state)

    @logged_transition
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Publish and subscribe."""
        if self._engine is None:
            self.get_logger().error("activate: expected a configured node; configure it first")
            return FAILURE
        parameters = self._current()
        try:
            outputs = Outputs(self, parameters.world_frame)
            self._handles.append(outputs.close)
            outputs.open()
            if parameters.publish_tf or parameters.place_by_tf:
                self._open_transform(parameters)
            inputs = Inputs(self, self._current, self._engine, self._health)
            self._handles.append(inputs.close)
            inputs.open()
        except Exception:
            self._release()
            raise
        self._windows.outputs, self._inputs = outputs, inputs
        self._engine.resume()
        return super().on_activate(state)

    def _open_transform(self, parameters: NodeParameters) -> None:
        transform = CameraTransform(self, parameters.world_frame, parameters.publish_tf)
        self._handles.append(transform.close)
        transform.open()
        self._windows.transform = transform
        if self._engine is not None and parameters.place_by_tf:
            self._engine.locate = transform.lookup_camera

    @logged_transition
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop consuming, keep the model; waiting questions are answered INACTIVE."""
        self._release()
        return super().on_deactivate(state)

    @logged_transition
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model and say what that gave back."""
        self._release()
        self._free()
        return super().on_cleanup(state)

    @logged_transition
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything."""
        self._release()
        self._free()
        return super().on_shutdown(state)

    @logged_transition
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Undo activation and configuration; the node is unconfigured again."""
        self._release()
        self._free()
        return SUCCESS

    def _release(self) -> None:
        """Close all that activate opened; deactivate, cleanup, shutdown and error share it."""
        with self._release_lock:
            self._inputs = self._windows.outputs = self._windows.transform = None
            if self._engine is not None:
                self._engine.pause()
                self._engine.locate = None
            while self._handles:
                self._handles.pop()()

    def _free(self) -> None:
        """Give the model back and say how much that was; may be called again."""
        with self._release_lock:
            engine, self._engine = self._engine, None
            if engine is None:
                return
            device = engine.loaded.device
            before = memory_used_bytes(device)
            has_ended, wait = engine.close(), engine.wait_for_end
            del engine

            def report() -> None:
                wait()
                freed = before - release_memory(device)
                self.get_logger().info(f"cleanup: {freed / 2**20:.1f} MiB given back on {device}")

            if not has_ended:
                self.get_logger().warning(
                    "cleanup: the network is at work and cannot be interrupted; what it holds "
                    "comes back when that ends"
                )
                self._watch(report)
        if has_ended:
            report()

    def _watch(self, wait: Callable[[], None]) -> None:
        """Wait for a network at work on a thread that `release` knows of."""
        watcher = threading.Thread(target=wait, name="vidllm-cleanup", daemon=True)
        watcher.start()
        self._watchers = [one for one in self._watchers if one.is_alive()] + [watcher]

    def release(self) -> bool:
        """Stop everything, from any state; return whether no network is at work any more.

        For the end of the process, which gives all memory back at once, before `destroy_node`; may
        be called again. An interpreter that ends while a thread is inside torch is aborted; `main`
        does not wait for such a one.
        """
        until = time.monotonic() + CLOSE_TIMEOUT_S
        self._release()
        with self._release_lock:
            engine, self._engine = self._engine, None
            if engine is not None and not engine.close(max(until - time.monotonic(), 0.0)):
                self._watch(engine.wait_for_end)
            watchers = self._watchers
        for watcher in watchers:
            watcher.join(max(until - time.monotonic(), 0.0))
        return not any(watcher.is_alive() for watcher in watchers)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; release everything and end with 0 within 5 s."""
    keep_one_arena()
    words = sys.argv if argv is None else ["vidllm_node", *argv]
    with ros_context(words) as arguments, stop_event() as stop:
        node = VidllmNode()
        if extra := arguments[1:]:
            node.get_logger().warning(
                f"arguments {' '.join(extra)}: not known to this node, ignored; those of ROS come "
                "after --ros-args"
            )
        with SpinningThread(node, MultiThreadedExecutor(EXECUTOR_THREADS)) as spinning:
            while not stop.wait(0.2) and not spinning.ended.is_set():
                pass
            node.get_logger().info("stopping")
            node.release()
        if spinning.failed is not None:
            node.get_logger().fatal(f"stopped by {spinning.failed!r}")
        node.destroy_node()
    status = 0 if spinning.failed is None else 1
    # All is released. A thread inside the network cannot be interrupted, and to take torch down
    # module by module costs seconds on a busy machine (8 s seen; launch kills after 5): end here.
    end_process(status)


if __name__ == "__main__":
    raise SystemExit(main())
