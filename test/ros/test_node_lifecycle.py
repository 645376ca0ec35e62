# SPDX-License-Identifier: Apache-2.0
"""The node walks its states over real services, refuses in words, and keeps nothing."""

from __future__ import annotations

import gc
import json
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")

from lifecycle_msgs.msg import Transition
from ros_harness import HeldBackend, loaded, slowness, wait_until

from vidllm_ros.ros import node as node_module

pytestmark = pytest.mark.ros
CONFIGURE, CLEANUP = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_CLEANUP
ACTIVATE, DEACTIVATE = Transition.TRANSITION_ACTIVATE, Transition.TRANSITION_DEACTIVATE


def test_starts_by_itself(start: Callable[..., Any]) -> None:
    harness = start()
    harness.wait_active()
    assert harness.state == "active"


def test_starts_before_simulated_time_does(start: Callable[..., Any]) -> None:
    harness = start(use_sim_time=True)
    harness.wait_active()
    harness.feed(4)
    harness.wait_windows(1)


def test_walks_all_states_and_keeps_nothing(start: Callable[..., Any]) -> None:
    harness = start(autostart=False)
    assert harness.state == "unconfigured"
    engines = []
    for _ in range(2):
        assert harness.change(CONFIGURE)
        assert harness.state == "inactive"
        engines.append(weakref.ref(harness.node._engine))
        for _ in range(2):
            assert harness.change(ACTIVATE)
            harness.feed(4)
            wait_until(lambda: harness.node._engine.windows_done, "a window")
            assert harness.change(DEACTIVATE)
            assert harness.state == "inactive"
            assert harness.node._handles == []
        assert harness.change(CLEANUP)
        assert harness.state == "unconfigured"

    def are_gone() -> bool:
        gc.collect()  # a window may still be computed when cleanup answers
        return [engine() for engine in engines] == [None, None]

    wait_until(are_gone, "the engines are freed")
    assert harness.node._managed_entities == set()


def test_deactivated_node_publishes_and_hears_nothing(start: Callable[..., Any]) -> None:
    harness = start(autostart=False)
    harness.change(CONFIGURE)
    names = {name for name, _ in harness.tester.get_topic_names_and_types()}
    assert "/vidllm/points" not in names
    assert harness.node.count_subscribers("image") == 0


def test_missing_model_is_a_failure_with_the_reason(start: Callable[..., Any]) -> None:
    harness = start(autostart=False, backend="vidllm", model="/no/such/folder")
    assert not harness.change(CONFIGURE)
    assert harness.state == "unconfigured"
    reason = harness.node._health.window_report().last_error
    assert "expected a folder of weights or a bundled name, got '/no/such/folder'" in reason
    assert harness.set_parameter("backend", "standin").successful
    assert harness.change(CONFIGURE)


def test_foreign_model_is_a_failure_with_the_reason(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (tmp_path / "tokenizer.json").write_text("{}")
    harness = start(autostart=False, backend="vidllm", model=str(tmp_path), device="cpu")
    assert not harness.change(CONFIGURE)
    assert harness.state == "unconfigured"
    assert "bert" in harness.node._health.window_report().last_error


def test_bad_parameter_at_start_is_a_failure_with_the_reason(start: Callable[..., Any]) -> None:
    harness = start(autostart=False, window_stride=7, voxel_m=-1.0, window_size=4)
    problems = " ".join(harness.node._parameter_server.problems())
    assert "window_stride: expected at most window_size (4), got 7" in problems
    assert "voxel_m: expected 0.001 to 1, got -1.0" in problems
    assert not harness.change(CONFIGURE)
    assert harness.set_parameter("window_stride", 2).successful
    assert not harness.change(CONFIGURE)
    assert harness.set_parameter("voxel_m", 0.1).successful
    assert harness.change(CONFIGURE)
    assert harness.node._current().window_size == 4


def test_exception_in_configure_is_logged_and_undone(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no such luck")

    monkeypatch.setattr(node_module, "load_backend", broken)
    harness = start(autostart=False)
    assert not harness.change(CONFIGURE)
    assert harness.state == "unconfigured"
    monkeypatch.setattr(node_module, "load_backend", lambda *_: loaded(HeldBackend()))
    assert harness.change(CONFIGURE)


def test_deactivate_and_cleanup_during_a_window(
    start: Callable[..., Any], held: HeldBackend
) -> None:
    harness = start()
    harness.wait_active()
    held.may_reconstruct.clear()
    harness.feed(4)
    wait_until(held.inside.is_set, "a window is being computed")
    assert harness.change(DEACTIVATE)
    assert harness.change(CLEANUP)
    assert held.inside.is_set()  # neither waited for it
    held.may_reconstruct.set()
    assert harness.change(CONFIGURE)
    assert harness.change(ACTIVATE)
    done = harness.windows()
    harness.feed(4)
    harness.wait_windows(done + 1)


def test_services_answer_while_a_window_is_computed(
    start: Callable[..., Any], held: HeldBackend
) -> None:
    harness = start()
    harness.wait_active()
    assert harness.state == "active"  # the clients are connected from here on
    harness.get_parameter("window_size")
    held.may_reconstruct.clear()
    harness.feed(4)
    wait_until(held.inside.is_set, "a window is being computed")
    times, before = [], slowness()
    for _ in range(20):
        started = time.monotonic()
        assert harness.state == "active"
        assert harness.get_parameter("window_size") == 4
        times.append((time.monotonic() - started) / 2)
    assert held.inside.is_set()
    # Alone 0.01 s, measured by `vidllm bench node`; waiting anywhere would take seconds.
    assert sorted(times)[10] < 0.5 * max(before, slowness())


def test_parameters_are_rejected_with_the_reason(start: Callable[..., Any]) -> None:
    harness = start()
    harness.wait_active()
    for name, value, words in (
        ("window_size", 8, "acts at configure"),
        ("autostart", False, "read-only"),
        ("score_threshold", 2.0, "score_threshold"),
        ("score_threshold", 1, ""),
        ("ask_queue", 0, "ask_queue"),
    ):
        result = harness.set_parameter(name, value)
        assert not result.successful, name
        assert words in result.reason
    assert harness.get_parameter("window_size") == 4


def test_live_parameters_act_at_once(start: Callable[..., Any]) -> None:
    harness = start()
    harness.wait_active()
    assert harness.set_parameter("max_question_chars", 5).successful
    harness.feed(4)
    harness.wait_windows(1)
    reply = harness.ask("a question of more than five characters")
    assert reply.error_code == reply.TOO_LONG
    assert harness.node._current().max_question_chars == 5
