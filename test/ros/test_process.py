# SPDX-License-Identifier: Apache-2.0
"""A spinning node survives what another thread destroys under it; other errors are kept."""

from __future__ import annotations

import pytest

rclpy = pytest.importorskip("rclpy")

from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.impl.implementation_singleton import rclpy_implementation  # noqa: E402
from rclpy.node import Node  # noqa: E402

from vidllm_ros.ros.process import SpinningThread  # noqa: E402

pytestmark = pytest.mark.ros


class Raising(SingleThreadedExecutor):
    """Raises out of the first spins, as rclpy does."""

    def __init__(self, error: Exception, times: int) -> None:
        super().__init__()
        self.error, self.left, self.spins = error, times, 0

    def spin(self) -> None:
        self.spins += 1
        if self.left:
            self.left -= 1
            raise self.error


def test_what_was_destroyed_while_waited_for_does_not_end_the_node(ros: None) -> None:
    node = Node("destroyed_under")
    executor = Raising(rclpy_implementation.InvalidHandle("gone"), 3)
    with SpinningThread(node, executor) as thread:
        assert thread.ended.wait(10.0)
    assert thread.failed is None
    assert executor.spins == 4
    node.destroy_node()


def test_what_a_callback_raises_is_kept(ros: None) -> None:
    node = Node("raising")
    executor = Raising(RuntimeError("mine"), 1)
    with SpinningThread(node, executor) as thread:
        assert thread.ended.wait(10.0)
    assert repr(thread.failed) == "RuntimeError('mine')"
    assert executor.spins == 1
    node.destroy_node()
