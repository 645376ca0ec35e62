# SPDX-License-Identifier: Apache-2.0
"""Whatever is asked, by whomever and however often, each question gets its reply."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("rclpy")

from lifecycle_msgs.msg import Transition
from ros_harness import HeldBackend, wait_until

from vidllm_ros.ros.topics import ASK
from vidllm_ros.srv import Ask

pytestmark = pytest.mark.ros
Reply = Ask.Response


def with_a_window(harness: Any) -> Any:
    harness.wait_active()
    harness.feed(4)
    harness.wait_windows(1)
    return harness


def test_fifty_at_once_while_a_window_is_computed(
    start: Callable[..., Any], held: HeldBackend
) -> None:
    harness = with_a_window(start(ask_queue=8))
    held.may_reconstruct.clear()
    harness.feed(2)
    wait_until(held.inside.is_set, "a window is being computed")
    waits = [harness.start_call(Ask, ASK.name, Ask.Request(question=f"{i}?")) for i in range(50)]
    harness.wait_said("questions are waiting already; ask again later")
    held.may_reconstruct.set()
    codes = Counter(wait().error_code for wait in waits)
    assert set(codes) == {Reply.OK, Reply.BUSY}
    assert codes[Reply.OK] >= 8  # all that were accepted
    assert sum(codes.values()) == 50
    assert harness.node._questions.waiting == 0
    harness.wait_windows(2)  # and the window was not lost for them


@pytest.mark.parametrize(
    ("question", "code", "words"),
    [
        ("x" * 100_000, Reply.TOO_LONG, "at most 2000 characters, got 100000"),
        ("", Reply.EMPTY_QUESTION, "expected words, got none"),
        ("\x07\x1b[31mwhat is red?", Reply.OK, ""),
        ("\x00\x01\n\t", Reply.EMPTY_QUESTION, "expected words, got none"),
        ("where is the 🛋️ \u202e?", Reply.OK, ""),
    ],
    ids=["100 kB", "empty", "escape codes", "control characters", "emoji"],
)
def test_odd_questions(start: Callable[..., Any], question: str, code: int, words: str) -> None:
    harness = with_a_window(start())
    reply = harness.ask(question)
    assert (reply.error_code, reply.success) == (code, code == Reply.OK)
    assert words in reply.message
    line = harness.wait_said("ask: ")
    assert len(line) < 1000
    assert line.isprintable()  # a log must not be rewritten by what is asked
    assert harness.ask("and now?").success


ASKER = """
import sys, rclpy
from rclpy.node import Node
from vidllm_ros.srv import Ask
rclpy.init()
node = Node("doomed")
client = node.create_client(Ask, "ask")
client.wait_for_service()
futures = [client.call_async(Ask.Request(question=f"{i}, before I go?")) for i in range(3)]
rclpy.spin(node)
"""


def test_kill_9_of_a_client_in_the_middle_of_its_questions(
    start: Callable[..., Any], held: HeldBackend
) -> None:
    harness = with_a_window(start())
    held.may_answer.clear()
    client = subprocess.Popen([sys.executable, "-c", ASKER], env=dict(os.environ))
    try:
        wait_until(lambda: harness.node._questions.waiting == 3, "its questions are there")
    finally:
        client.send_signal(signal.SIGKILL)
        client.wait()
    held.may_answer.set()
    wait_until(lambda: harness.node._questions.waiting == 0, "the places are free again")
    harness.wait_said("before I go?")
    assert harness.ask("who is still there?").success
    harness.feed(2)
    harness.wait_windows(2)
    assert harness.state == "active"


def test_deactivation_in_the_middle_of_questions(
    start: Callable[..., Any], held: HeldBackend
) -> None:
    harness = with_a_window(start())
    held.may_answer.clear()
    waits = [harness.start_call(Ask, ASK.name, Ask.Request(question=f"{i}?")) for i in range(4)]
    wait_until(lambda: harness.node._questions.waiting == 4, "all are there")
    wait_until(held.inside.is_set, "one is being answered")
    assert harness.change(Transition.TRANSITION_DEACTIVATE)
    harness.wait_said("the node was deactivated while the question waited")
    held.may_answer.set()
    codes = Counter(wait().error_code for wait in waits)
    assert set(codes) <= {Reply.OK, Reply.INACTIVE}  # whose answer was under way may still get it
    assert codes[Reply.INACTIVE] >= 3
