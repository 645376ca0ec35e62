# SPDX-License-Identifier: Apache-2.0
"""The node as a process: it ends with 0 in time, and the small clients work against it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("vidllm_ros.msg", reason="the interfaces are not built")

from rclpy.node import Node
from ros_harness import slowness

from vidllm_ros.ros.frame_stream import CameraFrame
from vidllm_ros.ros.play import ImagePlayer

pytestmark = pytest.mark.ros
QUICK = [
    "backend:=standin",
    "window_size:=4",
    "window_stride:=2",
    "window_min_frames:=4",
    "keyframe_motion:=0.0",
]
PATIENCE_S = 240.0  # of a very busy machine; a healthy one needs a few seconds

STUCK = """
import time
from vidllm_ros.streaming.backend import StandInBackend
def reconstruct(self, frames):
    print("INSIDE", flush=True)
    end = time.monotonic() + 600
    while time.monotonic() < end:  # as a network: neither sleeps nor can be interrupted
        sum(range(1000))
StandInBackend.reconstruct = reconstruct
from vidllm_ros.ros.node import main
raise SystemExit(main())
"""
Launch = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def launch() -> Iterator[Launch]:
    """Return a function that starts python with these arguments; what still runs is killed."""
    running: list[subprocess.Popen[str]] = []

    def begin(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


def node_arguments(*values: str) -> list[str]:
    parameters = [part for value in (*QUICK, *values) for part in ("-p", value)]
    return ["--ros-args", *parameters]


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """Read the output of a process until it says these words."""
    seen = []
    assert process.stdout is not None
    for line in process.stdout:
        seen.append(line)
        if words in line:
            return line
    raise AssertionError(f"never said {words!r}:\n{''.join(seen)}")


def make_frames(folder: Path, count: int = 12) -> Path:
    images = np.random.default_rng(0).integers(0, 256, (count, 42, 56, 3), np.uint8)
    stamps = 5_000_000_001 + np.arange(count) * 100_000_000
    K = np.array([[50.0, 0, 28], [0, 50, 21], [0, 0, 1]])
    np.savez(folder / "frames.npz", images=images, stamps_ns=stamps, K=K, frame_id="cam_optical")
    return folder / "frames.npz"


def stop(process: subprocess.Popen[str], number: signal.Signals) -> float:
    """Send a signal; return the seconds until it ended with status 0, as of a free machine."""
    before = slowness()
    started = time.monotonic()
    process.send_signal(number)
    output, _ = process.communicate(timeout=PATIENCE_S)
    seconds = time.monotonic() - started
    assert process.returncode == 0, output
    return seconds / max(before, slowness())


def test_sigterm_in_the_middle_of_a_window(launch: Launch, ros: None) -> None:
    node = launch("-c", STUCK, *node_arguments())
    read_until(node, "waiting for frames")
    camera = Node("camera")
    player = ImagePlayer(camera)
    assert player.wait_for_listener(PATIENCE_S, threading.Event())
    inside = threading.Event()
    threading.Thread(target=lambda: (read_until(node, "INSIDE"), inside.set())).start()
    stamp_ns = 5_000_000_000
    rgb = np.random.default_rng(0).integers(0, 256, (42, 56, 3), np.uint8)
    while not inside.wait(0.05):
        stamp_ns += 100_000_000
        player.publish(CameraFrame(stamp_ns, rgb, "cam"), stamp_ns)
    camera.destroy_node()
    assert stop(node, signal.SIGTERM) < 5


TWICE = """
import os, signal, sys
from vidllm_ros.ros.process import stop_event
signal.signal(signal.SIGINT, signal.default_int_handler)
with stop_event() as stop:
    if sys.argv[1] == "interrupted":
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.wait(10)
        os.kill(os.getpid(), signal.SIGINT)
os.kill(os.getpid(), signal.SIGINT)
"""


def test_a_second_interrupt_does_not_kill_a_clean_end(launch: Launch) -> None:
    ended = launch("-c", TWICE, "interrupted")
    output, _ = ended.communicate(timeout=PATIENCE_S)
    assert ended.returncode == 0, output
    undisturbed = launch("-c", TWICE, "not")
    output, _ = undisturbed.communicate(timeout=PATIENCE_S)
    assert "KeyboardInterrupt" in output  # the earlier handler is back


def test_play_record_and_ask_against_the_node(launch: Launch, tmp_path: Path) -> None:
    node = launch("-m", "vidllm_ros.ros.node", *node_arguments())
    out = tmp_path / "out"
    record = launch("-m", "vidllm_ros.ros.record", "--out", str(out), "--windows", "2")
    played = tmp_path / "played.json"
    read_until(node, "waiting for frames")
    play = launch("-m", "vidllm_ros.ros.play", str(make_frames(tmp_path)), "--log", str(played))
    ask = launch(
        "-m", "vidllm_ros.ros.ask", "what is here?", "--json", "--timeout", "200", "--retry", "200"
    )
    assert play.communicate(timeout=PATIENCE_S)[0].count("12 frames published") == 1
    output, _ = ask.communicate(timeout=PATIENCE_S)
    assert ask.returncode == 0, output
    answer = json.loads(output.splitlines()[-1])
    assert (answer["success"], answer["error"]) == (True, "OK")
    assert answer["objects"][0]["label"] == "stand-in"

    saved = tmp_path / "map.ply"
    save = launch("-m", "vidllm_ros.ros.ask", "--save-map", str(saved))
    reply = json.loads(save.communicate(timeout=PATIENCE_S)[0].splitlines()[-1])
    assert (reply["success"], reply["path"]) == (True, str(saved))
    assert saved.is_file()

    output, _ = record.communicate(timeout=PATIENCE_S)
    assert record.returncode == 0, output
    result = json.loads((out / "record.json").read_text())
    assert len(result["windows"]) >= 2
    sent = {frame["published_ns"] for frame in json.loads(played.read_text())["frames"]}
    window = result["windows"][-1]
    assert set(window["frame_stamps"]) <= sent
    assert len(window["window_poses"]) == len(window["frame_stamps"])
    assert window["camera_frame"] == "cam_optical"
    arrays = np.load(out / "record.npz")
    assert arrays[window["points_key"]].shape == (window["point_count"], 3)
    assert arrays[window["depth_key"]].ndim == 2
    assert stop(node, signal.SIGINT) < 5


def test_parameters_without_ros_args_are_said_to_be_ignored(launch: Launch) -> None:
    node = launch("-m", "vidllm_ros.ros.node", "-p", "window:=8", *node_arguments())
    line = read_until(node, "not known to this node")
    assert "arguments -p window:=8: " in line
    assert "come after --ros-args" in line
    read_until(node, "waiting for frames")
    assert stop(node, signal.SIGINT) < 5


def test_ask_says_that_nobody_serves(launch: Launch) -> None:
    ask = launch("-m", "vidllm_ros.ros.ask", "anybody?", "--timeout", "0.5", "--service", "nobody")
    output, _ = ask.communicate(timeout=PATIENCE_S)
    assert ask.returncode == 3
    assert "nobody serves /nobody" in output


def test_player_reads_a_stream_and_says_what_is_wrong(launch: Launch, tmp_path: Path) -> None:
    missing = launch("-m", "vidllm_ros.ros.play", str(tmp_path / "no.npz"), "--wait", "0")
    output, _ = missing.communicate(timeout=PATIENCE_S)
    assert missing.returncode != 0
    assert output.count("\n") == 1, output
