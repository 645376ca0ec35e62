# SPDX-License-Identifier: Apache-2.0
"""Counters add up, and silence has one cause."""

from __future__ import annotations

import dataclasses
import re

import pytest

from vidllm_ros.ros.health import Health, LinkReport, Throttle, cause_of_silence


def test_rate_and_drops() -> None:
    health = Health()
    health.set_listening(0.0)
    for i in range(11):
        health.frame_received(10 + i * 0.1, 0.02)
    health.frame_used(11.0)
    health.frame_dropped("data", "torn")
    report = health.input_report(11.5)
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
    assert (report.last_error, report.is_failing) == ("out of memory", True)
    health.window_computed(1.0, 2)  # what went wrong stays on record, and is over
    report = health.window_report()
    assert (report.last_error, report.is_failing) == ("out of memory", False)
    health.clear()
    assert health.window_report().last_error == ""


IMAGE = "sensor_msgs/msg/Image"


@pytest.mark.parametrize(
    ("link", "words"),
    [
        (LinkReport(), "nobody publishes /image; start the camera"),
        (LinkReport(elsewhere=("/cam/image_raw",)), "but there is /cam/image_raw; remap image"),
        (LinkReport(publishers=2), "2 publisher.* send nothing"),
        (LinkReport(publishers=1, incompatible_qos="durability"), "incompatible durability"),
        (LinkReport(other_types=("a/msg/B",)), "carries a/msg/B and not sensor_msgs/msg/Image"),
    ],
)
def test_silence_has_one_cause(link: LinkReport, words: str) -> None:
    health = Health()
    health.set_listening(0.0)
    link = dataclasses.replace(link, topic="/image", wanted_type=IMAGE)
    said = cause_of_silence(link, health.input_report(6.0), 5.0)
    assert re.search(words, said)
    assert cause_of_silence(link, health.input_report(4.0), 5.0) == ""


def test_dropped_frames_are_the_cause_only_while_they_come() -> None:
    health = Health()
    health.set_listening(0.0)
    link = LinkReport("/image", publishers=1)
    for t in (5.0, 5.5):
        health.frame_received(t, 0.0)
        health.frame_dropped("step", "step too small")
    said = cause_of_silence(link, health.input_report(6.0), 5.0)
    assert said.endswith("all are dropped: step too small")
    health.frame_received(7.0, 0.0)
    health.frame_used(7.0)
    said = cause_of_silence(link, health.input_report(12.5), 5.0)
    assert "send nothing" in said
    assert "step" not in said


def test_a_camera_that_went_is_told_from_one_that_never_was() -> None:
    health = Health()
    health.set_listening(0.0)
    health.frame_received(1.0, 0.0)
    health.frame_used(1.0)
    said = cause_of_silence(LinkReport("/image"), health.input_report(9.0), 5.0)
    assert "the publisher of /image has gone after 1 frames" in said


def test_throttle_counts_what_it_holds_back() -> None:
    throttle = Throttle(5.0)
    assert throttle.held_back("a", 0.0) == 1
    assert throttle.held_back("b", 0.1) == 1
    assert [throttle.held_back("a", t) for t in (1.0, 4.9)] == [None, None]
    assert throttle.held_back("a", 5.0) == 3
