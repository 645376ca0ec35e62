# SPDX-License-Identifier: Apache-2.0
"""A spinning node survives what another thread destroys under it; other errors are kept."""

from __future__ import annotations

import threading
import time

import pytest

rclpy = pytest.importorskip("rclpy")

from rclpy.executors import MultiThreadedExecutor, SingleThreadedExecutor  # noqa: E402
from rclpy.impl.implementation_singleton import rclpy_implementation  # noqa: E402
from rclpy.node import Node  # noqa: E402

from vidllm_ros.ros.process import SpinningThread  # noqa: E402

pytestmark = pytest.mark.ros


class Raising(SingleThreadedExecutor):
    """Raises out of the first spins, as rclpy does."""

    def __init__(self, error: Exception, times: int) -> None:
        super().__init__()
        self.error, self.left, self.spins = error, times, 0
        self.survived = threading.Event()

    def spin_once(self, timeout_sec: float | None = None) -> None:
        self.spins += 1
        if self.left:
            self.left -= 1
            raise self.error
        self.survived.set()
        super().spin_once(timeout_sec)


def test_what_was_destroyed_while_waited_for_does_not_end_the_node(ros: None) -> None:
    node = Node("destroyed_under")
    executor = Raising(rclpy_implementation.InvalidHandle("gone"), 3)
    with SpinningThread(node, executor) as thread:
        assert executor.survived.wait(10.0)
        assert not thread.ended.is_set()
    assert thread.failed is None
    assert thread.ended.is_set()
    assert executor.spins >= 4
    node.destroy_node()


def test_what_a_callback_raises_is_kept(ros: None) -> None:
    node = Node("raising")
    executor = Raising(RuntimeError("mine"), 1)
    with SpinningThread(node, executor) as thread:
        assert thread.ended.wait(10.0)
    assert repr(thread.failed) == "RuntimeError('mine')"
    assert executor.spins == 1
    node.destroy_node()


@pytest.mark.parametrize("several", [False, True], ids=["one thread", "several"])
def test_leaving_never_disturbs_a_spin_that_is_being_set_up(ros: None, several: bool) -> None:
    """Executor.shutdown() takes its guards away; a spin that has just begun would raise."""
    base = MultiThreadedExecutor if several else SingleThreadedExecutor

    class Slow(base):  # type: ignore[misc, valid-type]
        """Gathers what to wait for slowly, so that leaving falls into the middle of it."""

        def get_nodes(self) -> list[Node]:
            gathering.set()
            time.sleep(0.05)
            return list(super().get_nodes())

    gathering = threading.Event()
    node = Node("leaving")
    thread = SpinningThread(node, Slow())
    with thread:
        assert gathering.wait(10.0)
    assert thread.failed is None
    assert thread.ended.is_set()
    node.destroy_node()
