# SPDX-License-Identifier: Apache-2.0
"""Times things in turn, many times over: ratios that a busy machine does not decide.

A benchmark's two sides run alternately, so that both meet the same moments of the machine, and are
compared by their medians; quartiles say how much to believe. Used by the benchmarks of cli/ and
ros/. Next: cli/bench_node.py, cli/bench_model.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Clock = Callable[[], float]
Call = Callable[[], object]


@dataclass(frozen=True)
class Spread:
    """Repeated measurements of one thing, in s.

    Attributes:
        median: the figure.
        low, high: first and third quartile.
        count: how many measurements.
    """

    median: float
    low: float
    high: float
    count: int

    def in_ms(self) -> dict[str, float | int]:
        """Return the numbers for a report, in ms."""
        return {
            "median_ms": round(1e3 * self.median, 4),
            "low_ms": round(1e3 * self.low, 4),
            "high_ms": round(1e3 * self.high, 4),
            "count": self.count,
        }


def spread_of(seconds: Sequence[float]) -> Spread:
    """Summarise measurements.

    Raises:
        ValueError: there is none.
    """
    if not len(seconds):
        raise ValueError("seconds: expected at least one measurement, got none")
    low, median, high = np.quantile(np.asarray(seconds, float), [0.25, 0.5, 0.75])
    return Spread(float(median), float(low), float(high), len(seconds))


def measure_in_turn(
    calls: Mapping[str, Call],
    repetitions: int,
    warm_up: int = 1,
    clock: Clock = time.perf_counter,
    before: Callable[[str], object] | None = None,
) -> dict[str, list[float]]:
    """Run every call in turn, `repetitions` times; return its times in s.

    Args:
        calls: what to time, by name; results are dropped before the next call begins.
        repetitions: rounds that count.
        warm_up: rounds before them.
        clock: seconds; for a GPU one that waits for it first; `time.thread_time` for work of one
            thread, which leaves out what other processes take.
        before: called with the name before each call, outside its time.

    Raises:
        ValueError: no round counts.
    """
    if repetitions < 1:
        raise ValueError(f"repetitions: expected at least 1, got {repetitions}")
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(warm_up + repetitions):
        for name, call in calls.items():
            if before is not None:
                before(name)
            begin = clock()
            result = call()
            end = clock()
            del result
            if turn >= warm_up:
                seconds[name].append(end - begin)
    return seconds
