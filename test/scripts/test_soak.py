# SPDX-License-Identifier: Apache-2.0
"""The soak's verdict: growth after warm-up, lost replies and errors fail it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

PATH = Path(__file__).resolve().parents[2] / "scripts" / "soak.py"
_spec = importlib.util.spec_from_file_location("soak", PATH)
assert _spec is not None
assert _spec.loader is not None
soak = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(soak)

GOOD: dict[str, Any] = {
    "memory": {"growth": 0.01},
    "dropped_replies": 0,
    "replies": {"OK": 9, "EMPTY_QUESTION": 2},
    "node_exit_code": 0,
}


def test_growth_is_of_medians_after_the_warm_up() -> None:
    seconds = [float(i) for i in range(60)]
    rss = [5 * 2**20] * 10 + [100 * 2**20] * 25 + [110 * 2**20] * 25
    rss[30] = 900 * 2**20  # a window in progress
    assert soak.growth(seconds, rss, 10.0)["growth"] == pytest.approx(0.1)
    with pytest.raises(ValueError, match="expected 10 samples after it, got 5"):
        soak.growth(seconds, rss, 55.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, ""),
        ({"memory": {"growth": 0.03}}, "memory: expected growth under 3%"),
        ({"dropped_replies": 1}, "1 lack"),
        ({"replies": {"INACTIVE": 3}}, "expected answers"),
        ({"replies": {"OK": 3, "INTERNAL": 1}}, "expected no INTERNAL"),
        ({"node_exit_code": -9}, "exit code 0, got -9"),
    ],
)
def test_verdict(change: dict[str, Any], words: str) -> None:
    faults = soak.verdict({**GOOD, **change})
    assert len(faults) == bool(words)
    assert words in "".join(faults)
