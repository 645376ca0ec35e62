# SPDX-License-Identifier: Apache-2.0
"""The engine alone: a window that was taken is computed, whatever becomes of TF meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from ros_harness import QUICK, HeldBackend, loaded, wait_until

from vidllm_ros.geometry.transforms import T_WORLD_OPTICAL_LEVEL, make_transform
from vidllm_ros.ros.engine import Engine
from vidllm_ros.ros.parameters import NodeParameters
from vidllm_ros.ros.transform_tree import TransformLookupError
from vidllm_ros.streaming.backend import StandInBackend

STEP_NS = 100_000_000


class Run:
    """An engine, and what it said."""

    def __init__(self, kind: type[Engine] = Engine, backend: StandInBackend | None = None) -> None:
        parameters = NodeParameters(**QUICK)
        self.windows: list[Any] = []
        self.failures: list[str] = []
        self.warnings: list[str] = []
        self.engine = kind(
            loaded(backend or StandInBackend()),
            lambda: parameters,
            self.windows.append,
            self.failures.append,
            self.warnings.append,
        )
        self.engine.resume()
        self._count = 0

    def feed(self, count: int) -> None:
        for _ in range(count):
            self._count += 1
            rgb = np.random.default_rng(self._count).integers(0, 256, (42, 56, 3), np.uint8)
            self.engine.offer(self._count * STEP_NS, rgb, "camera_optical_frame", None)

    def skip_s(self, seconds: float) -> None:
        """Let no frame come for so long."""
        self._count += int(seconds * 1e9) // STEP_NS

    def wait_windows(self, count: int) -> None:
        wait_until(lambda: len(self.windows) >= count or self.failures, f"{count} windows")
        assert self.failures == []


@pytest.fixture
def backend() -> HeldBackend:
    return HeldBackend()


@pytest.fixture
def held_run(runs: list[Run], backend: HeldBackend) -> Run:
    runs.append(Run(backend=backend))
    return runs[-1]


@pytest.fixture
def runs() -> Iterator[list[Run]]:
    made: list[Run] = []
    yield made
    for run in made:
        assert run.engine.close()


def test_a_world_that_tf_cannot_place_says_why_once(runs: list[Run]) -> None:
    run = Run()
    runs.append(run)

    def unknown(camera: str, stamp_ns: int) -> np.ndarray:
        raise TransformLookupError(f"{camera}: no transform leads from it to map")

    run.engine.locate = unknown
    run.feed(4)
    run.wait_windows(1)
    run.feed(2)
    run.wait_windows(2)  # joined to the first: where TF sees it does not matter
    (words,) = run.warnings
    assert "world 0 is not placed by TF" in words
    assert "camera_optical_frame: no transform leads from it to map" in words
    run.engine.reset()
    run.feed(4)
    run.wait_windows(3)
    assert len(run.warnings) == 2
    assert "world 1 is not placed by TF" in run.warnings[1]


def test_a_lookup_that_fails_otherwise_costs_no_window(runs: list[Run]) -> None:
    run = Run()
    runs.append(run)

    def broken(camera: str, stamp_ns: int) -> np.ndarray:
        raise IndexError("list index out of range")

    run.engine.locate = broken
    run.feed(4)
    run.wait_windows(1)
    assert "IndexError" in run.warnings[0]
    run.feed(2)
    run.wait_windows(2)
    assert [window.world_index for window in run.windows] == [0, 0]


def test_world_goes_on_after_a_stop_of_any_length(runs: list[Run]) -> None:
    run = Run()
    runs.append(run)
    run.feed(4)
    run.wait_windows(1)
    run.engine.pause()
    run.engine.resume()
    run.skip_s(60.0)
    run.feed(2)
    run.wait_windows(2)
    assert [window.world_index for window in run.windows] == [0, 0]
    run.engine.reset()
    run.feed(4)
    run.wait_windows(3)
    assert [window.window_index for window in run.windows] == [0, 1, 2]  # as WindowStatus says


def test_close_does_not_wait_for_a_window(held_run: Run, backend: HeldBackend) -> None:
    backend.may_reconstruct.clear()
    held_run.feed(4)
    wait_until(backend.inside.is_set, "a window is being computed")
    waited: list[float] = []
    close = held_run.engine._worker.close

    def spy(timeout_s: float) -> bool:
        waited.append(timeout_s)
        return close(timeout_s)

    held_run.engine._worker.close = spy  # type: ignore[method-assign]
    assert not held_run.engine.close()
    assert waited == [0.0]
    backend.may_reconstruct.set()
    held_run.engine.wait_for_end()
    assert held_run.engine.close()


class Cleared(Engine):
    """An engine whose `locate` another thread clears right after it was read."""

    @property
    def locate(self) -> Any:
        now, self._locate_now = self._locate_now, None
        return now

    @locate.setter
    def locate(self, value: Any) -> None:
        self._locate_now = value


def test_locate_cleared_on_another_thread_costs_no_window(runs: list[Run]) -> None:
    run = Run(Cleared)
    runs.append(run)
    T_map_camera = make_transform(T_WORLD_OPTICAL_LEVEL[:3, :3], [5.0, 6.0, 7.0])
    run.engine.locate = lambda camera, stamp_ns: T_map_camera
    run.feed(4)
    run.wait_windows(1)
    np.testing.assert_allclose(run.windows[0].poses_map[0], T_map_camera, atol=1e-9)
    assert run.warnings == []
