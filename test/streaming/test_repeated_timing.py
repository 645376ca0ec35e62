# SPDX-License-Identifier: Apache-2.0
import pytest

from vidllm_ros.streaming.repeated_timing import measure_in_turn, spread_of


def test_spread_is_median_and_quartiles():
    spread = spread_of([5.0, 1.0, 2.0, 3.0, 4.0])
    assert (spread.median, spread.low, spread.high, spread.count) == (3.0, 2.0, 4.0, 5)
    assert spread.in_ms() == {"median_ms": 3e3, "low_ms": 2e3, "high_ms": 4e3, "count": 5}
    with pytest.raises(ValueError, match="at least one measurement"):
        spread_of([])


def test_calls_run_in_turn_and_the_warm_up_does_not_count():
    order: list[str] = []
    ticks = iter(range(1000))
    prepared: list[str] = []
    seconds = measure_in_turn(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b") or next(ticks)},
        repetitions=3,
        warm_up=2,
        clock=lambda: float(next(ticks)),
        before=prepared.append,
    )
    assert order == ["a", "b"] * 5 == prepared
    assert seconds == {"a": [1.0] * 3, "b": [2.0] * 3}  # b itself takes a tick


def test_some_round_must_count():
    with pytest.raises(ValueError, match="repetitions"):
        measure_in_turn({}, 0)
