# SPDX-License-Identifier: Apache-2.0
"""How a ROS process of ours starts and ends: SIGINT and SIGTERM set an event, nothing is raised.

rclpy's own handlers interrupt callbacks wherever they are; here the main thread sees the event and
releases in order. What ROS cannot make of the arguments is one sentence, no traceback. Used by the
node and by the small clients. Next: play.py, ask.py and record.py.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import rclpy
from rclpy.exceptions import NameValidationException
from rclpy.executors import Executor, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args, try_shutdown

_OF_THE_ARGUMENTS = (
    rclpy_implementation.RCLError,
    rclpy_implementation.UnknownROSArgsError,
    NameValidationException,
)
_is_constructed = threading.Event()
LEAVE_S = 3.0
"""Longest wait for a spin to return; at once on a free machine, where no callback hangs."""


@contextlib.contextmanager
def stop_event() -> Iterator[threading.Event]:
    """Yield an event that SIGINT and SIGTERM set; earlier handlers come back afterwards.

    But after one of them SIGINT stays ignored: a terminal and `ros2 launch` both send Ctrl-C, and
    the second must not kill a process that is ending cleanly. SIGTERM still can.
    """
    stop = threading.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: stop.set()) for number in signals]
    try:
        yield stop
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
        if stop.is_set():
            signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def ros_context(argv: Sequence[str]) -> Iterator[list[str]]:
    """Start rclpy without its signal handlers; yield the arguments that are not ROS's own.

    What rcl raises up to `end_construction`, which a SpinningThread calls, is taken to be of the
    arguments, see `refused_arguments`; what it raises later is a fault and keeps its traceback.
    """
    name = Path(argv[0]).stem
    _is_constructed.clear()
    with refused_arguments(name):
        rclpy.init(args=list(argv), signal_handler_options=SignalHandlerOptions.NO)
    try:
        yield list(remove_ros_args(list(argv)))
    except _OF_THE_ARGUMENTS as error:
        if _is_constructed.is_set():
            raise
        with refused_arguments(name):
            raise error
    finally:
        try_shutdown()


@contextlib.contextmanager
def refused_arguments(name: str) -> Iterator[None]:
    """End the process with 1 and one sentence for a rule or a name that ROS does not allow.

    With VIDLLM_TRACEBACK=1 in the environment with the traceback. For what is made of the
    arguments: nodes and their topics.

    Args:
        name: of the program, which the sentence begins with.
    """
    try:
        yield
    except _OF_THE_ARGUMENTS as error:
        if os.environ.get("VIDLLM_TRACEBACK"):
            raise
        print(f"{name}: {_sentence(error)}", file=sys.stderr)
        raise SystemExit(1) from None


def end_construction() -> None:
    """Say that ROS has taken the arguments; see `ros_context`."""
    _is_constructed.set()


def _sentence(error: Exception) -> str:
    """Leave out of what rcl says the places in its source, and the mark under a name."""
    words = re.sub(r",? at /\S+?:\d+", "", str(error))
    return " ".join(words.split()).removesuffix(" ^")


def end_process(status: int) -> NoReturn:
    """End the process with this status now, even where a thread would keep it alive."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


class SpinningThread:
    """Spins an executor beside the main thread, which is left free to wait for a signal.

    Attributes:
        failed: what a callback raised out of spin, if one did; waiting code should look.
    """

    def __init__(self, node: Node, executor: Executor | None = None) -> None:
        self._executor = executor or SingleThreadedExecutor()
        self._executor.add_node(node)
        self.failed: BaseException | None = None
        self.ended = threading.Event()
        self._left = threading.Event()
        self._is_shut_down = False
        self._thread = threading.Thread(target=self._spin, name="executor", daemon=True)

    def __enter__(self) -> SpinningThread:
        end_construction()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Executor.shutdown() takes the guard conditions away under a running spin, which then
        # raises: the thread ends first, and a task is what makes spin_once() return.
        self._left.set()
        self._executor.create_task(lambda: None)
        self._thread.join(timeout=LEAVE_S)
        self._is_shut_down = True
        self._executor.shutdown(timeout_sec=1.0)

    def _spin(self) -> None:
        try:
            while not self._left.is_set() and self._executor.context.ok():
                try:
                    self._executor.spin_once()
                except rclpy_implementation.InvalidHandle:
                    # Another thread destroyed what was being waited for or just taken: rclpy
                    # raises that out of spin, and a node that stopped here would be deaf.
                    self._left.wait(0.001)
        except Exception as error:
            if not self._is_shut_down:  # else it is the shutdown itself that a late spin met
                self.failed = error
        finally:
            self.ended.set()
