# SPDX-License-Identifier: Apache-2.0
"""Models that are none, memory that runs out, states that change under way: said, and survived."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("rclpy")

from lifecycle_msgs.msg import Transition
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from ros_harness import WAIT_S, HeldBackend, wait_until

from vidllm_ros.ros import topics
from vidllm_ros.ros.model_memory import memory_used_bytes
from vidllm_ros.srv import Ask
from vidllm_ros.structures import Frames, Reconstruction

pytestmark = pytest.mark.ros
CONFIGURE, CLEANUP = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_CLEANUP
ACTIVATE, DEACTIVATE = Transition.TRANSITION_ACTIVATE, Transition.TRANSITION_DEACTIVATE
ROUNDS = Path(__file__).parent / "lifecycle_rounds.py"
BALLAST = 200 * 2**20  # far above what the rest of a test process comes and goes with
NANO = Path(__file__).resolve().parents[2] / "models" / "vidllm-nano"


def start_inside_a_window(start: Callable[..., Any], held: HeldBackend) -> Any:
    """Start a node whose network computes its first window until `may_reconstruct` is set."""
    harness = start()
    harness.wait_active()
    held.may_reconstruct.clear()
    harness.feed(4)
    wait_until(held.inside.is_set, "a window is being computed")
    return harness


def missing(folder: Path) -> Path:
    return folder / "nowhere"


def truncated(folder: Path) -> Path:
    copy = folder / "truncated"
    shutil.copytree(NANO, copy)
    shard = sorted(copy.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    return copy


def without_a_shard(folder: Path) -> Path:
    copy = folder / "partial"
    shutil.copytree(NANO, copy)
    sorted(copy.glob("*.safetensors"))[0].unlink()
    return copy


def foreign(folder: Path) -> Path:
    copy = folder / "foreign"
    copy.mkdir()
    (copy / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (copy / "tokenizer.json").write_text("{}")
    return copy


def not_json(folder: Path) -> Path:
    copy = folder / "torn"
    shutil.copytree(NANO, copy)
    (copy / "config.json").write_text('{"model_type": "vid')
    return copy


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (missing, "expected a folder of weights or a bundled name"),
        (truncated, "got a truncated or damaged file"),
        (without_a_shard, "copy the whole folder"),
        (foreign, "expected model_type 'vidllm'"),
        (not_json, "expected JSON in"),
    ],
)
def test_a_model_that_is_none_is_a_failure_in_words(
    start: Callable[..., Any], tmp_path: Path, make: Callable[[Path], Path], words: str
) -> None:
    harness = start(autostart=False, backend="vidllm", model=str(make(tmp_path)), device="cpu")
    assert not harness.change(CONFIGURE)
    assert words in harness.wait_said("configure: model: ")
    assert harness.state == "unconfigured"
    assert harness.set_parameter("backend", "standin").successful
    assert harness.change(CONFIGURE)  # the node itself is well


def test_autostart_says_what_to_do_after_the_fix(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    harness = start(backend="vidllm", model=str(missing(tmp_path)), device="cpu")
    harness.wait_said("not started; after the fix: ros2 lifecycle set /vidllm configure")
    assert harness.state == "unconfigured"


def test_out_of_memory_takes_a_smaller_step(
    start: Callable[..., Any], held: HeldBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = HeldBackend.reconstruct

    def small(self: HeldBackend, frames: Frames) -> Reconstruction:
        if len(frames) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return whole(self, frames)

    monkeypatch.setattr(HeldBackend, "reconstruct", small)
    harness = start(window_size=8, window_min_frames=8)
    harness.wait_active()
    heard = harness.listen(topics.DIAGNOSTICS)
    harness.feed(8)
    line = harness.wait_said("short of memory: 4 of 8 frames")
    assert "a smaller window_size or model, or another device" in line
    harness.wait_windows(1)
    newest = harness.node._engine._session.newest
    assert len(newest.reconstruction.stamps_ns) == 4
    assert newest.reconstruction.stamps_ns[-1] == harness.stamp_ns
    harness.feed(2)
    harness.wait_windows(2)
    assert harness.node._engine._session.newest.world_index == 0  # still joined to the map
    wait_until(
        lambda: heard and any("short of memory" in status.message for status in heard[-1].status),
        "the diagnostic says it",
    )
    assert harness.ask("are you well?").success


def test_cleanup_in_the_middle_of_a_window_and_a_question(
    start: Callable[..., Any], held: HeldBackend
) -> None:
    harness = start()
    harness.wait_active()
    harness.feed(4)
    harness.wait_windows(1)
    held.may_reconstruct.clear()
    harness.feed(2)
    wait_until(held.inside.is_set, "a window is being computed")
    wait = harness.start_call(
        topics.ASK.type, topics.ASK.name, topics.ASK.type.Request(question="?")
    )
    wait_until(lambda: harness.node._questions.waiting == 1, "a question waits")
    assert harness.change(DEACTIVATE)
    assert wait().error_code == Ask.Response.INACTIVE
    assert harness.change(CLEANUP)
    harness.wait_said("the network is at work and cannot be interrupted")
    assert not [line for line in harness.said() if "MiB given back" in line]  # not true yet
    held.may_reconstruct.set()
    harness.wait_said("MiB given back on cpu")
    assert harness.change(CONFIGURE)
    assert harness.change(ACTIVATE)
    done = harness.windows()
    harness.feed(4)
    harness.wait_windows(done + 1)


def test_what_cleanup_says_was_given_back_is_true(
    start: Callable[..., Any], held: HeldBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a window: what the network holds then comes back when it ends."""
    whole = HeldBackend.reconstruct

    def heavy(self: HeldBackend, frames: Frames) -> Reconstruction:
        ballast = np.ones(BALLAST // 8)
        window = whole(self, frames)
        return window if ballast.any() else None

    monkeypatch.setattr(HeldBackend, "reconstruct", heavy)
    harness = start_inside_a_window(start, held)
    inside = memory_used_bytes("cpu")
    for transition in (DEACTIVATE, CLEANUP):
        assert harness.change(transition)
    harness.wait_said("the network is at work and cannot be interrupted")
    assert abs(memory_used_bytes("cpu") - inside) < 0.2 * BALLAST  # nothing has come back yet
    held.may_reconstruct.set()
    line = harness.wait_said("MiB given back on cpu")
    said = float(line.split("cleanup: ")[1].split(" MiB")[0]) * 2**20
    assert said > 0.8 * BALLAST
    assert abs(inside - memory_used_bytes("cpu") - said) < 0.2 * BALLAST


def test_the_end_waits_for_a_cleanup_under_way(
    start: Callable[..., Any], held: HeldBackend
) -> None:
    """A thread that is inside torch while the interpreter ends brings the process down."""
    harness = start_inside_a_window(start, held)
    for transition in (DEACTIVATE, CLEANUP):
        assert harness.change(transition)
    for _ in range(2):
        assert not harness.node.release()  # the network is still at work
    threading.Timer(0.2, held.may_reconstruct.set).start()
    wait_until(harness.node.release, "the cleanup ends")
    assert "MiB given back on cpu" in harness.said()[-1]
    assert "vidllm-cleanup" not in {thread.name for thread in threading.enumerate()}


def test_the_end_waits_for_a_window_without_a_cleanup(
    start: Callable[..., Any], held: HeldBackend
) -> None:
    harness = start_inside_a_window(start, held)
    for _ in range(2):
        assert not harness.node.release()
    held.may_reconstruct.set()
    wait_until(harness.node.release, "the window ends")


def test_twenty_rounds_leave_nothing_behind(start: Callable[..., Any]) -> None:
    harness = start(autostart=False)
    for turn in range(20):
        for transition in (CONFIGURE, ACTIVATE):
            assert harness.change(transition)
        if turn % 5 == 0:
            harness.feed(4)
            wait_until(lambda: harness.node._engine.windows_done, "a window")
        for transition in (DEACTIVATE, CLEANUP):
            assert harness.change(transition)

    def given_back() -> list[str]:
        return [line for line in harness.said() if "MiB given back on cpu" in line]

    wait_until(lambda: len(given_back()) == 20, "memory is given back every time")
    assert harness.node._managed_entities == set()
    assert not [t for t in threading.enumerate() if t.name == "vidllm-worker"]


@pytest.mark.parametrize(("leak_mib", "grows"), [(0.0, False), (0.3, True)])
def test_memory_over_twenty_rounds_of_a_node_alone(leak_mib: float, grows: bool) -> None:
    command = [sys.executable, str(ROUNDS), str(int(leak_mib * 2**20))]
    # One arena and no pool of Python's own: what either adds is 1 to 1.4 MiB at once, and no leak.
    env = {**os.environ, "MALLOC_ARENA_MAX": "1", "PYTHONMALLOC": "malloc"}
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=2 * WAIT_S, check=False, env=env
    )
    assert run.returncode == 0, run.stderr
    used = [int(line) / 2**20 for line in run.stdout.split()]
    assert len(used) == 20
    early, middle, late = (statistics.median(used[i : i + 5]) for i in (5, 10, 15))
    growth = min(middle - early, late - middle) / 5  # a leak never rests, a step comes once
    assert (growth > 0.1) is grows, used  # MiB a round; 0.01 to 0.02 seen


def test_the_models_memory_comes_back() -> None:
    """In a process of its own: in one that freed much before, weights lie in what it kept."""
    run = subprocess.run(
        [sys.executable, str(ROUNDS), "0", "vidllm-nano"],
        capture_output=True, text=True, timeout=2 * WAIT_S, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    held, freed = np.array([int(line) for line in run.stdout.split()]).reshape(2, 2).T
    weights = sum(file.stat().st_size for file in NANO.glob("*.safetensors"))
    lines = [line for line in run.stderr.splitlines() if "MiB given back on cpu" in line]
    given_back = [float(line.split("cleanup: ")[1].split(" MiB")[0]) for line in lines]
    assert len(given_back) == 2
    assert min(given_back) * 2**20 > 0.5 * weights
    assert (held - freed > 0.5 * weights).all()


def test_a_storm_of_parameters_at_once(start: Callable[..., Any], held: HeldBackend) -> None:
    harness = start_inside_a_window(start, held)
    waits = []
    for i in range(60):
        value = Parameter("stale_after_s", value=float(i - 10)).to_parameter_msg()
        request = SetParameters.Request(parameters=[value])
        waits.append(harness.start_call(SetParameters, "~/set_parameters", request))
    results = [wait().results[0] for wait in waits]
    refused = [result.reason for result in results if not result.successful]
    assert len(refused) == 11  # -10 to 0
    assert all("stale_after_s" in reason for reason in refused)
    assert harness.node._current().stale_after_s == 49.0
    held.may_reconstruct.set()
    harness.wait_windows(1)
