# SPDX-License-Identifier: Apache-2.0
"""Counters add up, and silence has one cause."""

from __future__ import annotations

import pytest

from vidllm_ros.ros.health import Health, Throttle, cause_of_silence


def test_rate_and_drops() -> None:
    health = Health()
    health.set_listening(0.0)
    for i in range(11):
        health.frame_received(10 + i * 0.1, 0.02)
    health.frame_used(11.0)
    health.frame_dropped("data", "torn")
    health.frames_lost(4)
    report = health.input_report(11.5)
    assert report.lost == 4
    assert report.received == 11
    assert report.rate_hz == pytest.approx(10.0)
    assert report.dropped == {"data": 1}
    assert report.silence_s == pytest.approx(0.5)
    assert report.stamp_age_s == 0.02
    assert health.input_report(100.0).rate_hz == 0


def test_windows() -> None:
    health = Health()
    health.window_computed(1.0, 0)
    health.window_computed(3.0, 2)
    health.failed("out of memory")
    report = health.window_report()
    assert (report.computed, report.skipped, report.mean_s, report.max_s) == (2, 2, 2.0, 3.0)
    assert report.last_error == "out of memory"
    health.clear()
    assert health.window_report().last_error == ""


@pytest.mark.parametrize(
    ("publishers", "qos", "torn", "words"),
    [
        (0, "", False, "nobody publishes /image"),
        (2, "", False, "2 publisher"),
        (1, "durability", False, "incompatible durability"),
        (1, "", True, "all are dropped: step too small"),
    ],
)
def test_silence_has_one_cause(publishers: int, qos: str, torn: bool, words: str) -> None:
    health = Health()
    health.set_listening(0.0)
    if torn:
        for t in (5.0, 5.5):
            health.frame_received(t, 0.0)
            health.frame_dropped("step", "step too small")
    said = cause_of_silence("/image", publishers, qos, health.input_report(6.0), 5.0)
    assert words in said
    assert cause_of_silence("/image", 0, "", health.input_report(4.0), 5.0) == ""


def test_throttle_counts_what_it_holds_back() -> None:
    throttle = Throttle(5.0)
    assert throttle.held_back("a", 0.0) == 1
    assert throttle.held_back("b", 0.1) == 1
    assert [throttle.held_back("a", t) for t in (1.0, 4.9)] == [None, None]
    assert throttle.held_back("a", 5.0) == 3
