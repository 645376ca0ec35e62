# SPDX-License-Identifier: Apache-2.0
"""What the benchmark times is what the node does, and its numbers add up; no speed is asserted."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("vidllm_ros.msg", reason="the interfaces are not built")

from rclpy.lifecycle import LifecycleNode

from vidllm_ros.ros import bench
from vidllm_ros.ros.bench_calls import Caller, measure
from vidllm_ros.ros.frame_stream import CameraFrame
from vidllm_ros.ros.parameters import NodeParameters
from vidllm_ros.streaming.backend import StandInBackend

pytestmark = pytest.mark.ros
EVERY_FRAME = NodeParameters(keyframe_motion=0.0)  # of noise, in which nothing can be followed


class OnCpu(StandInBackend):
    device, dtype = "cpu", "float32"


@pytest.fixture
def walk() -> list[CameraFrame]:
    rng = np.random.default_rng(0)
    return [
        CameraFrame(100_000_000 * (i + 1), rng.integers(0, 256, (60, 80, 3), np.uint8), "camera")
        for i in range(40)
    ]


def test_every_full_window_is_timed_and_split(ros: None, walk: list[CameraFrame]) -> None:
    node = LifecycleNode("vidllm_bench_test")
    window = bench.WindowBench(node, OnCpu(), EVERY_FRAME)  # type: ignore[arg-type]
    window.open()
    window.run(walk)
    window.close()
    report = window.report()
    node.destroy_node()
    assert len(window.windows) == 2  # of 8, 16, 24, 32 and 40 frames two hold 32
    stages = report["stages"]
    around = set(stages) - set(bench.NETWORK_STAGES)
    assert around == {"convert", "window", "register", "cloud", "track", "fuse", "publish"}
    assert all(stage["median_ms"] > 0 for stage in stages.values())
    total = sum(stages[name]["median_ms"] for name in around)
    assert report["around_network"]["median_ms"] == pytest.approx(total, rel=0.2)
    assert len(report["overhead_ratio_per_window"]) == 2


def test_too_few_frames_are_no_measurement(ros: None, walk: list[CameraFrame]) -> None:
    node = LifecycleNode("vidllm_bench_test")
    window = bench.WindowBench(node, OnCpu(), EVERY_FRAME)  # type: ignore[arg-type]
    window.run(walk[:9])
    with pytest.raises(ValueError, match="full window"):
        window.report()
    node.destroy_node()


def test_a_working_node_is_called(start) -> None:
    harness = start(window_size=8, window_stride=2, window_min_frames=2, backend="standin")
    caller = Caller(harness.tester, harness.node.get_name())
    harness.feed(4)
    report = measure(caller, 10, 30.0)
    assert report["callback_calls"] == 10
    assert 0 < report["callback_median_ms"] <= report["callback_p99_ms"]
    assert report["callback_p99_ms"] <= report["callback_max_ms"]
    assert set(report["callback_p99_ms_by_service"]) == set(caller.calls())
    assert 0.3 <= harness.node._current().score_threshold <= 0.41
