# SPDX-License-Identifier: Apache-2.0
"""Publishes /diagnostics once a second: input, inference and memory, in plain words.

Runs on its own timer and callback group, on the steady clock, so that it keeps coming while a
window is computed and while simulated time stands still. Next: health.py for the counters.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.callback_groups import CallbackGroup
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.lifecycle import LifecycleNode

from vidllm_ros.ros import topics
from vidllm_ros.ros.callbacks import guarded
from vidllm_ros.ros.dds_profile import PROFILE, find_profile
from vidllm_ros.ros.health import Health, InputReport, LinkReport, cause_of_silence
from vidllm_ros.ros.parameters import NodeParameters
from vidllm_ros.ros.qos import profile

if TYPE_CHECKING:  # it imports the network, and with it transformers
    from vidllm_ros.streaming.memory_probe import MemoryChoice

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
PERIOD_S = 1.0
LOST_WORTH_A_WORD, LOST_SHARE = 10, 0.2


@dataclass
class Situation:
    """What the node tells its diagnostics beside the counters.

    Attributes:
        state: label of the lifecycle state.
        device: where the network runs, in words; empty before configure.
        link: how the image topic stands; None while not active.
        incompatible: other input topics with an incompatible publisher, and the policy.
        camera: what is known of the intrinsics, in words.
        is_paused: whether frames are ignored on request.
        waiting_questions: questions in the queue.
        memory_bytes: held by the process on the device.
        free_bytes: free on the device.
        reduced: how the newest window was cut where memory was short, in words; else empty.
        memory: how much of a window there is memory for; None where that was not measured.
        listeners: subscriptions to the results, all topics together.
        scale_check: measured depth against ours, in words; empty without a depth topic.
    """

    state: str = "unconfigured"
    device: str = ""
    link: LinkReport | None = None
    incompatible: dict[str, str] = field(default_factory=dict)
    camera: str = ""
    is_paused: bool = False
    waiting_questions: int = 0
    memory_bytes: int = 0
    free_bytes: int = 0
    reduced: str = ""
    memory: MemoryChoice | None = None
    listeners: int = 0
    scale_check: str = ""


Part = tuple[bytes, str, dict[str, object]]


class Diagnostics:
    """The timer and publisher of /diagnostics; lives as long as the node."""

    def __init__(
        self,
        node: LifecycleNode,
        health: Health,
        parameters: Callable[[], NodeParameters],
        situation: Callable[[], Situation],
    ) -> None:
        self._node = node
        self._health = health
        self._parameters = parameters
        self._situation = situation
        topic = topics.DIAGNOSTICS
        self._publisher = node.create_publisher(topic.type, topic.name, profile(topic.qos))

    def open_timer(self, group: CallbackGroup) -> None:
        """Start the timer in this callback group."""
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        callback = guarded(self._node, "diagnostics", self.publish)
        self._node.create_timer(PERIOD_S, callback, callback_group=group, clock=steady)

    def publish(self) -> None:
        """Publish the three statuses."""
        situation = self._situation()
        parts = {
            "input": self._input(situation),
            "inference": self._inference(situation),
            "memory": _memory(situation),
        }
        who = self._node.get_fully_qualified_name().lstrip("/")  # robots share the topic
        message = DiagnosticArray(
            status=[
                DiagnosticStatus(
                    level=level,
                    name=f"{who}: {part}",
                    message=words,
                    hardware_id=situation.device,
                    values=[KeyValue(key=k, value=_text(v)) for k, v in values.items()],
                )
                for part, (level, words, values) in parts.items()
            ]
        )
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)

    def _input(self, situation: Situation) -> Part:
        report = self._health.input_report(time.monotonic())
        link = situation.link
        values: dict[str, object] = {
            "topic": link.topic if link else "",
            "publishers": link.publishers if link else 0,
            "rate_hz": report.rate_hz,
            "received_frames": report.received,
            "dropped_frames": sum(report.dropped.values()),
            "lost_in_transport": link.lost if link else 0,
            "missed_deadlines": link.missed_deadlines if link else 0,
            "stamp_age_s": report.stamp_age_s,
            "camera_info": situation.camera,
        }
        values |= {f"dropped: {cause}": count for cause, count in report.dropped.items()}
        if situation.state != "active" or link is None:
            return OK, f"{situation.state}: not listening", values
        if situation.is_paused:
            return OK, "paused by ~/pause", values
        level, words = input_words(situation, link, report, self._parameters())
        return level, words, values

    def _inference(self, situation: Situation) -> Part:
        report = self._health.window_report()
        values: dict[str, object] = {
            "windows": report.computed,
            "skipped_windows": report.skipped,
            "window_time_mean_s": report.mean_s,
            "window_time_max_s": report.max_s,
            "waiting_questions": situation.waiting_questions,
            "listeners": situation.listeners,
            "last_error": report.last_error,
            "scale_check": situation.scale_check,
        }
        if report.is_failing:
            return ERROR, report.last_error, values
        if not report.computed:
            return OK, "no window yet", values
        words = f"{report.computed} windows, {report.mean_s:.2f} s each"
        if report.skipped > report.computed:
            words += f"; {report.skipped} skipped: the camera is faster than the network"
        if not situation.listeners and situation.state == "active":
            words += "; nobody listens to the results"
        return OK, words, values


def input_words(
    situation: Situation, link: LinkReport, report: InputReport, limits: NodeParameters
) -> tuple[bytes, str]:
    """Say how the camera does: its rate, or the one thing that is wrong, the worst first."""
    silence = cause_of_silence(link, report, limits.input_timeout_s)
    if silence:
        return ERROR, silence
    age = report.stamp_age_s
    if age is not None and abs(age) > limits.stale_after_s:
        return WARN, _stale_words(age)
    for topic, policy in situation.incompatible.items():
        return WARN, f"a publisher of {topic} offers an incompatible {policy} and is not heard"
    if link.lost > max(LOST_WORTH_A_WORD, report.received * LOST_SHARE):
        return WARN, _lost_words(link.lost, report.received)
    return OK, f"{report.rate_hz:.1f} Hz" if report.received else "waiting for the first frame"


def _memory(situation: Situation) -> Part:
    values: dict[str, object] = {
        "device": situation.device,
        "used_bytes": situation.memory_bytes,
        "free_bytes": situation.free_bytes,
        "state": situation.state,
        "step": situation.memory.rung.name if situation.memory else "",
        "step_why": situation.memory.words if situation.memory else "",
    }
    used, free = situation.memory_bytes / 2**20, situation.free_bytes / 2**20
    who = situation.device or "the node, no model loaded"
    words = f"{used:.0f} MiB used by {who}; {free:.0f} MiB free"
    if situation.reduced:
        return WARN, f"{situation.reduced}; {words}", values
    memory = situation.memory
    if memory is not None and memory.rung.name != "full" and not memory.is_fixed:
        return WARN, f"short of memory since configure: {memory.words}; {words}", values
    return OK, words, values


def _lost_words(lost: int, received: int) -> str:
    return (
        f"the transport lost {lost} frames while {received} arrived: send "
        "compressed or smaller images, make camera and node reliable (qos_overrides), or start "
        f"the camera with FASTRTPS_DEFAULT_PROFILES_FILE={find_profile() or PROFILE}"
    )


def _stale_words(age_s: float) -> str:
    if age_s > 0:
        return f"frames arrive {age_s:.1f} s after their stamp: slow link, or clocks disagree"
    ahead = f"frames are stamped {-age_s:.1f} s ahead of this clock"
    return f"{ahead}: set use_sim_time, or the clocks disagree"


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)
