# SPDX-License-Identifier: Apache-2.0
"""Simulated time and looping bags: the node follows the clock, its limits keep to the wall's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("rclpy")

from rclpy.qos import QoSProfile
from ros_harness import STEP_NS, HeldBackend, wait_until
from rosgraph_msgs.msg import Clock

from vidllm_ros.ros import topics
from vidllm_ros.ros.stamps import stamp_to_ns
from vidllm_ros.srv import Ask

pytestmark = pytest.mark.ros


class SimulatedClock:
    """Publishes /clock as a bag player does."""

    def __init__(self, harness: Any) -> None:
        self._harness = harness
        self._publisher = harness.tester.create_publisher(Clock, "/clock", QoSProfile(depth=1))
        wait_until(self._publisher.get_subscription_count, "the clock is heard")

    def set(self, now_ns: int) -> None:
        """Set the time and wait until the node lives by it."""
        message = Clock()
        message.clock.sec, message.clock.nanosec = divmod(now_ns, 10**9)

        def is_taken() -> bool:
            self._publisher.publish(message)
            return bool(self._harness.node.get_clock().now().nanoseconds == now_ns)

        wait_until(is_taken, "the node lives by this time")

    def play(self, count: int) -> list[int]:
        """Publish so many frames, the clock with each, and return their stamps."""
        stamps = []
        for _ in range(count):
            self.set(self._harness.stamp_ns + STEP_NS)
            stamps += self._harness.feed(1)
        return stamps


def test_a_bag_under_simulated_time_is_neither_stale_nor_wrongly_stamped(
    start: Callable[..., Any],
) -> None:
    """Its frames are years old by the wall clock and new by the bag's."""
    harness = start(use_sim_time=True)
    harness.wait_active()
    heard = harness.listen(topics.DIAGNOSTICS)
    status = harness.listen(topics.STATUS)
    clock = SimulatedClock(harness)
    stamps = clock.play(4)
    harness.wait_windows(1)
    assert abs(harness.node._health.input_report(0.0).stamp_age_s) < 1.0
    told = wait_until(
        lambda: [a for a in heard if stamp_to_ns(a.header.stamp) >= stamps[0]],
        "diagnostics by the bag's clock",
    )
    assert not [s.message for s in told[-1].status if "after their stamp" in s.message]
    (window,) = wait_until(lambda: status, "the window's status")
    assert [stamp_to_ns(stamp) for stamp in window.frame_stamps] == stamps


def test_a_bag_that_loops_begins_a_new_world_and_goes_on(start: Callable[..., Any]) -> None:
    harness = start(use_sim_time=True)
    harness.wait_active()
    clock = SimulatedClock(harness)
    first = clock.play(4)
    harness.wait_windows(1)
    for world in (1, 2):
        harness.stamp_ns = first[0] - 20 * STEP_NS * world  # it also starts earlier each time
        clock.play(4)
        harness.wait_windows(1 + world)
        newest = harness.node._engine._session.newest
        assert newest.world_index == world
    line = harness.wait_said("a new world begins")
    assert "stamps jumped back by" in line
    assert harness.ask("what is here?").success


def test_a_clock_that_stands_still_delays_no_reply(
    start: Callable[..., Any], held: HeldBackend
) -> None:
    """A paused bag: limits of questions and the rate of diagnostics keep to the wall clock."""
    harness = start(use_sim_time=True)
    harness.wait_active()
    clock = SimulatedClock(harness)
    clock.play(4)
    harness.wait_windows(1)
    held.may_answer.clear()
    reply = harness.ask("while the bag is paused?", timeout_s=0.5)
    assert reply.error_code == Ask.Response.TIMEOUT
    assert reply.latency_s >= 0.5
    heard = harness.listen(topics.DIAGNOSTICS)
    wait_until(lambda: len(heard) >= 2, "diagnostics go on")
    wait_until(
        lambda: any("no usable frame for" in s.message for s in heard[-1].status),
        "the silence is told",
    )
