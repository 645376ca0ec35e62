# SPDX-License-Identifier: Apache-2.0
"""What has become of the frames and windows: counters, ages, last error, and the cause of silence.

Counts from every thread, reads from the diagnostics timer; plain Python, no ROS, times are handed
in, so that a test owns the clock. Next: diagnostics.py, which publishes it once a second.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import dataclass, field

_RECENT = 64


@dataclass(frozen=True)
class InputReport:
    """The camera's side: what came, what was lost, how old it was.

    Attributes:
        received: frames since configure.
        usable: frames that were whole and went to the window.
        dropped: frames that entered no window, by cause.
        rate_hz: of the last frames; 0 without two of them.
        stamp_age_s: clock minus stamp of the newest frame on arrival; None before the first.
        silence_s: since the last usable frame, or since activate; None while not active.
        last_drop: why all frames since the last usable one were dropped, the newest cause in
            words; empty where none came since.
    """

    received: int
    usable: int
    dropped: dict[str, int]
    rate_hz: float
    stamp_age_s: float | None
    silence_s: float | None
    last_drop: str


@dataclass(frozen=True)
class LinkReport:
    """The topic's side: who publishes it, and what the middleware says of it.

    Attributes:
        topic: resolved name.
        publishers: how many publish it with the type that is wanted.
        other_types: other types under this name.
        wanted_type: as `ros2 topic list -t` shows it.
        elsewhere: other topics of the wanted type that somebody publishes.
        incompatible_qos: policy that a QoS event named; empty without one.
        lost: frames that the transport lost on the way, as far as the middleware knows.
        missed_deadlines: times that a deadline asked for by override was missed.
    """

    topic: str = ""
    publishers: int = 0
    other_types: tuple[str, ...] = ()
    wanted_type: str = ""
    elsewhere: tuple[str, ...] = ()
    incompatible_qos: str = ""
    lost: int = 0
    missed_deadlines: int = 0


@dataclass(frozen=True)
class WindowReport:
    """The network's side: windows and how long they took.

    Attributes:
        computed: windows since configure.
        skipped: windows not computed because a newer one was there.
        mean_s: of the last ones.
        max_s: of the last ones.
        last_error: in words; stays until the next configure.
        is_failing: whether nothing has gone well since the last error.
    """

    computed: int
    skipped: int
    mean_s: float
    max_s: float
    last_error: str
    is_failing: bool


@dataclass
class _Input:
    received: int = 0
    usable: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    arrivals: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    stamp_age_s: float | None = None
    since: float | None = None
    last_drop: str = ""


class Health:
    """Thread-safe counters of one node, from configure to cleanup."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._input = _Input()
        self._window_times: deque[float] = deque(maxlen=_RECENT)
        self._computed = 0
        self._skipped = 0
        self._last_error = ""
        self._is_failing = False

    def clear(self) -> None:
        """Start counting anew (configure)."""
        with self._lock:
            self._input = _Input()
            self._window_times.clear()
            self._computed = self._skipped = 0
            self._last_error = ""
            self._is_failing = False

    def set_listening(self, now: float | None) -> None:
        """Note when listening began (monotonic s), or None when it ended."""
        with self._lock:
            self._input.since = now
            self._input.arrivals.clear()
            self._input.last_drop = ""

    def frame_received(self, now: float, stamp_age_s: float) -> int:
        """Count a frame that arrived; return how many there were."""
        with self._lock:
            self._input.received += 1
            self._input.arrivals.append(now)
            self._input.stamp_age_s = stamp_age_s
            return self._input.received

    def frame_used(self, now: float) -> None:
        """Note that a frame was whole and went to the window."""
        with self._lock:
            self._input.usable += 1
            self._input.last_drop = ""
            if self._input.since is not None:
                self._input.since = now

    def frame_dropped(self, cause: str, words: str) -> int:
        """Count a frame that cannot be used; return how many had this cause."""
        with self._lock:
            self._input.dropped[cause] += 1
            self._input.last_drop = words
            return self._input.dropped[cause]

    def window_computed(self, seconds: float, skipped: int) -> None:
        """Note a finished window, and how many were skipped since configure."""
        with self._lock:
            self._computed += 1
            self._is_failing = False
            self._skipped = skipped
            self._window_times.append(seconds)

    def failed(self, words: str) -> None:
        """Keep the newest error for the diagnostic."""
        with self._lock:
            self._last_error = words
            self._is_failing = True

    def input_report(self, now: float) -> InputReport:
        with self._lock:
            state = self._input
            recent = [t for t in state.arrivals if now - t < 10.0]
            span = recent[-1] - recent[0] if len(recent) > 1 else 0.0
            return InputReport(
                received=state.received,
                usable=state.usable,
                dropped=dict(state.dropped),
                rate_hz=(len(recent) - 1) / span if span > 0 else 0.0,
                stamp_age_s=state.stamp_age_s,
                silence_s=None if state.since is None else now - state.since,
                last_drop=state.last_drop,
            )

    def window_report(self) -> WindowReport:
        with self._lock:
            times = self._window_times
            return WindowReport(
                computed=self._computed,
                skipped=self._skipped,
                mean_s=sum(times) / len(times) if times else 0.0,
                max_s=max(times, default=0.0),
                last_error=self._last_error,
                is_failing=self._is_failing,
            )


def cause_of_silence(link: LinkReport, report: InputReport, timeout_s: float) -> str:
    """Name the one reason for which no usable frame came, with its remedy; empty if one came.

    Args:
        link: how the image topic stands.
        report: of `Health.input_report`.
        timeout_s: silence from which it is worth a word.
    """
    if report.silence_s is None or report.silence_s < timeout_s:
        return ""
    wait = f"no usable frame for {report.silence_s:.0f} s: "
    topic = link.topic
    if report.rate_hz > 0 and report.last_drop:
        return f"{wait}frames arrive on {topic} and all are dropped: {report.last_drop}"
    if link.publishers == 0 and link.other_types:
        others = ", ".join(link.other_types)
        return (
            f"{wait}{topic} carries {others} and not {link.wanted_type}; remap image to the "
            "camera's images, or set image_transport"
        )
    if link.publishers == 0:
        return f"{wait}{_absent_words(link, report.received)}"
    if link.incompatible_qos:
        return (
            f"{wait}the publisher of {topic} offers an incompatible {link.incompatible_qos}; "
            f"change it there, or override qos_overrides.{topic}.subscription here"
        )
    count = f"{link.publishers} publisher(s) of {topic}"
    return f"{wait}{count} are there but send nothing; is the camera running, or its bag paused?"


def _absent_words(link: LinkReport, received: int) -> str:
    if received:
        return (
            f"the publisher of {link.topic} has gone after {received} frames; start it again, "
            "the node goes on by itself"
        )
    if link.elsewhere:
        there = ", ".join(link.elsewhere[:3])
        return f"nobody publishes {link.topic}, but there is {there}; remap image to it"
    return f"nobody publishes {link.topic}; start the camera or remap image to its topic"


class Throttle:
    """Lets a repeated complaint through once in a while, with how often it came meanwhile."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._lock = threading.Lock()
        self._said: dict[str, float] = {}
        self._held: Counter[str] = Counter()

    def held_back(self, key: str, now: float) -> int | None:
        """Return None while to be silent, else how often the key came since it was last said."""
        with self._lock:
            self._held[key] += 1
            last = self._said.get(key)
            if last is not None and now - last < self._period_s:
                return None
            self._said[key] = now
            return self._held.pop(key)
