# SPDX-License-Identifier: Apache-2.0
"""Every question gets a reply: an answer with its evidence, or the code of what hindered it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("rclpy")

from lifecycle_msgs.msg import Transition
from ros_harness import WAIT_S, HeldBackend, wait_until

from vidllm_ros.ros.stamps import stamp_to_ns
from vidllm_ros.ros.topics import ASK
from vidllm_ros.srv import Ask

pytestmark = pytest.mark.ros
Reply = Ask.Response


def test_answer_comes_with_its_evidence(start: Callable[..., Any]) -> None:
    harness = start()
    harness.wait_active()
    stamps = harness.feed(4)
    harness.wait_windows(1)
    reply = harness.ask("  what is \x07 here? 🛋 ")
    assert (reply.success, reply.error_code, reply.message) == (True, Reply.OK, "")
    assert "stand-in" in reply.answer
    assert "what is here? 🛋" in reply.answer
    assert [stamp_to_ns(stamp) for stamp in reply.frame_stamps] == stamps
    assert reply.objects.header.frame_id == "vidllm_world"
    assert stamp_to_ns(reply.objects.header.stamp) == stamps[-1]
    (box,) = reply.objects.objects
    assert box.id
    assert box.pose.position.x == pytest.approx(2.0)  # ahead of the camera, in a z-up world
    assert 0 < reply.latency_s < WAIT_S


def test_no_window_yet_and_empty_question(start: Callable[..., Any]) -> None:
    harness = start()
    harness.wait_active()
    for question in ("", " \n\t", "\x00\x01"):
        assert harness.ask(question).error_code == Reply.EMPTY_QUESTION
    reply = harness.ask("where am I?")
    assert (reply.success, reply.error_code) == (False, Reply.NO_WINDOW_YET)
    assert "0 frames of 4" in reply.message


def test_long_question(start: Callable[..., Any]) -> None:
    harness = start()
    harness.wait_active()
    reply = harness.ask("x" * 100_000)
    assert reply.error_code == Reply.TOO_LONG
    assert "at most 2000 characters, got 100000" in reply.message


def test_inactive_node_says_so(start: Callable[..., Any]) -> None:
    harness = start(autostart=False)
    assert harness.ask("hello?").error_code == Reply.INACTIVE
    harness.change(Transition.TRANSITION_CONFIGURE)
    assert harness.ask("hello?").error_code == Reply.INACTIVE


def test_full_queue_is_busy_at_once_and_nothing_accepted_is_lost(
    start: Callable[..., Any], held: HeldBackend
) -> None:
    harness = start(ask_queue=3)
    harness.wait_active()
    harness.feed(4)
    harness.wait_windows(1)
    held.may_answer.clear()
    waits = [harness.start_call(Ask, ASK.name, Ask.Request(question=f"{i}?")) for i in range(3)]
    wait_until(lambda: harness.node._questions.waiting == 3, "three questions wait")
    reply = harness.ask("one too many?")
    assert reply.error_code == Reply.BUSY
    assert "3 questions are waiting" in reply.message
    held.may_answer.set()
    answers = [wait() for wait in waits]
    assert all(reply.success for reply in answers)
    assert sorted(reply.answer[-2:] for reply in answers) == ["0?", "1?", "2?"]
    assert harness.node._questions.waiting == 0


def test_timeout_is_kept(start: Callable[..., Any], held: HeldBackend) -> None:
    harness = start()
    harness.wait_active()
    harness.feed(4)
    harness.wait_windows(1)
    held.may_answer.clear()
    reply = harness.ask("are you there?", timeout_s=1.5)  # held: without a limit it never came
    assert reply.error_code == Reply.TIMEOUT
    assert reply.latency_s >= 1.5
    assert "the network is still answering it" in reply.message
    behind = harness.ask("and I?", timeout_s=0.5)  # the first is still inside the network
    assert behind.error_code == Reply.TIMEOUT
    assert "has not come to it: another question" in behind.message
    held.may_answer.set()
    assert harness.ask("and now?").success


def test_waits_for_a_new_window(start: Callable[..., Any]) -> None:
    harness = start()
    harness.wait_active()
    harness.feed(4)
    harness.wait_windows(1)
    request = Ask.Request(question="what is new?", wait_for_new_window=True, timeout_s=WAIT_S)
    wait = harness.start_call(Ask, ASK.name, request)
    wait_until(lambda: harness.node._questions.waiting, "the question waits")
    newest = harness.feed(2)[-1]
    reply = wait()
    assert reply.success
    assert stamp_to_ns(reply.frame_stamps[-1]) == newest
    late = harness.ask("and then?", wait_for_new_window=True, timeout_s=0.3)
    assert late.error_code == Reply.TIMEOUT


def test_deactivation_answers_who_waits(start: Callable[..., Any]) -> None:
    harness = start()
    harness.wait_active()
    request = Ask.Request(question="anybody?", wait_for_new_window=True, timeout_s=60.0)
    wait = harness.start_call(Ask, ASK.name, request)
    wait_until(lambda: harness.node._questions.waiting, "the question waits")
    assert harness.change(Transition.TRANSITION_DEACTIVATE)
    assert wait().error_code == Reply.INACTIVE


def test_failing_network_is_an_internal_error_and_the_node_goes_on(
    start: Callable[..., Any], held: HeldBackend
) -> None:
    harness = start()
    harness.wait_active()
    harness.feed(4)
    harness.wait_windows(1)
    held.fails_with = RuntimeError("CUDA out of memory")
    reply = harness.ask("why?")
    assert reply.error_code == Reply.INTERNAL
    assert "out of memory" in reply.message
    harness.feed(2)
    wait_until(
        lambda: "out of memory" in harness.node._health.window_report().last_error, "it is told"
    )
    held.fails_with = None
    harness.feed(2)
    harness.wait_windows(2)
    assert harness.ask("and now?").success


def test_many_at_once_all_get_a_reply(start: Callable[..., Any]) -> None:
    harness = start()
    harness.wait_active()
    harness.feed(4)
    harness.wait_windows(1)
    waits = [harness.start_call(Ask, ASK.name, Ask.Request(question=f"{i}?")) for i in range(50)]
    codes = [wait().error_code for wait in waits]
    assert set(codes) <= {Reply.OK, Reply.BUSY}
    assert codes.count(Reply.OK) >= 8
    assert threading.active_count() < 100
