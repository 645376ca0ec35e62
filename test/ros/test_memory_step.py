# SPDX-License-Identifier: Apache-2.0
"""What was measured at configure decides the windows' size, and diagnostics say it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("rclpy")

from ros_harness import QUICK, loaded, wait_until

from vidllm_ros.network.memory_plan import Rung
from vidllm_ros.ros.diagnostics import OK, WARN, Situation, _memory
from vidllm_ros.ros.engine import Engine
from vidllm_ros.ros.parameters import NodeParameters
from vidllm_ros.streaming.backend import StandInBackend
from vidllm_ros.streaming.memory_probe import MemoryChoice

FULL = MemoryChoice(Rung("full", "none", 4, 1.0), 4, "4 frames: needs 1 MiB of 9 MiB free")
HALF = MemoryChoice(Rung("half_frames", "none", 2, 1.0), 4, "2 frames: needs 1 MiB of 2 MiB free")


def test_windows_are_computed_at_the_step_that_was_chosen() -> None:
    parameters = NodeParameters(**{**QUICK, "window_size": 4, "window_min_frames": 4})
    windows: list[int] = []
    failures: list[str] = []
    engine = Engine(
        replace(loaded(StandInBackend()), memory=HALF),
        lambda: parameters,
        lambda result: windows.append(len(result.reconstruction.stamps_ns)),
        failures.append,
        failures.append,
    )
    engine.resume()
    try:
        for i in range(1, 5):
            rgb = np.random.default_rng(i).integers(0, 256, (42, 56, 3), np.uint8)
            engine.offer(i * 1_000_000_000, rgb, "camera_optical_frame", None)
        wait_until(lambda: bool(windows or failures), "a window")
    finally:
        engine.close()
    assert (windows, failures) == ([2], [])


def test_diagnostics_warn_of_a_smaller_step_and_name_any() -> None:
    level, words, values = _memory(Situation(memory=FULL))
    assert level == OK
    assert (values["step"], values["step_why"]) == ("full", FULL.words)
    level, words, values = _memory(Situation(memory=HALF))
    assert level == WARN
    assert words.startswith("short of memory since configure: 2 frames: needs")
    assert values["step"] == "half_frames"
    level, words, values = _memory(Situation(memory=HALF, reduced="short of memory: 2 of 4"))
    assert words.startswith("short of memory: 2 of 4")
    assert _memory(Situation(memory=replace(HALF, is_fixed=True)))[0] == OK  # as it was asked for
    assert _memory(Situation())[2]["step"] == ""
