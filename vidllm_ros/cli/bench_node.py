# SPDX-License-Identifier: Apache-2.0
"""`vidllm bench node`: what everything around the network costs, as ratios measured in one run.

Two runs over real ROS 2: the node's own steps in one process that times them (ros/bench.py, with
a recorder that listens), then a node at work whose services are called from outside
(ros/bench_calls.py). The camera is a rendered room, enlarged to 640x480 so that images cost what a
robot's cost. Next: bench_report.py.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from vidllm_ros.cli.bench_report import Bar, print_bars, surroundings, with_bars
from vidllm_ros.cli.command import note, run_command
from vidllm_ros.cli.output_files import check_file_target, write_json
from vidllm_ros.cli.ros_processes import (
    ProcessError,
    RosProcess,
    RosProcesses,
    check_ros,
    isolated_environment,
    json_lines,
)

BARS = (
    Bar("overhead_ratio", 0.10, "all around the network / the network, of a window by stride 8"),
    Bar("pointcloud2_ratio", 3.0, "1 M points into a PointCloud2 / copying its bytes"),
    Bar("encode_once_ratio", 0.6, "encoder's share of a 32/8 window, frames remembered / anew"),
    Bar("second_question_ratio", 0.25, "second question on a scene / first"),
    Bar("callback_p99_ms", 100.0, "lifecycle and parameter calls during inference, 99 %"),
)
WINDOW, STRIDE = 32, 8
IMAGE_SIZE = (480, 640)
STEP_NS = 100_000_000  # 10 Hz, the node's slowest keyframes
PARTS_S, CALLS_S = 1500.0, 1200.0


def bench_node(
    out: Annotated[Path, typer.Option(help="report to write, JSON")] = Path("bench_node.json"),
    model: Annotated[Path, typer.Option(help="folder of the model")] = Path("models/vidllm-nano"),
    room: Annotated[int, typer.Option(help="seed of the rendered room")] = 2_000_007,
    windows: Annotated[int, typer.Option(min=1, help="full windows to time")] = 8,
    repetitions: Annotated[int, typer.Option(min=1, help="of everything else")] = 15,
    calls: Annotated[int, typer.Option(min=1, help="service calls to time")] = 300,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
) -> None:
    """Measure the node around the network; ratios are the bars, quartiles are reported."""
    check_file_target("--out", out, ".json")
    check_ros()
    if not model.is_dir():
        raise FileNotFoundError(f"model: expected a folder of weights, got {model}")
    options = ["--model", str(model.resolve()), "--device", device]
    with tempfile.TemporaryDirectory(prefix="vidllm-bench-") as name:
        folder = Path(name)
        note("rendering the room")
        frames = write_walk(folder / "walk.npz", room, WINDOW + STRIDE * (windows - 1))
        environment = isolated_environment(folder)
        with RosProcesses(folder, environment) as processes:
            note("timing the node's own steps")
            repeated = ["--repetitions", str(repetitions), "--listen", "vidllm_recorder"]
            report = run_parts(processes, folder, [str(frames), *options, *repeated])
            note("calling a node at work")
            report |= run_calls(processes, frames, model, device, calls)
    report |= surroundings(["node", "--out", str(out), "--windows", str(windows)])
    report = with_bars(report, BARS)
    write_json(out, report)
    print_bars(report, BARS, f"{model.name} on {report['cpu']}, {report['cores']} cores")
    print(json.dumps({bar.name: report[bar.name] for bar in BARS}))


def write_walk(path: Path, seed: int, count: int) -> Path:
    """Render a room's walk, enlarge it to a camera's size and write it as the player takes it."""
    import cv2

    from vidllm_ros.data.synthrooms import make_scene

    sample = make_scene(seed, frames=count)
    height, width = IMAGE_SIZE
    images = [cv2.resize(image, (width, height)) for image in sample.frames.images]
    stamps = STEP_NS * np.arange(1, count + 1, dtype=np.int64)
    np.savez(path, images=np.stack(images), stamps_ns=stamps)
    return path


def run_parts(processes: RosProcesses, folder: Path, arguments: list[str]) -> dict[str, Any]:
    """Time the node's own steps while a recorder listens."""
    recorder = processes.start("record", ["--out", str(folder / "record")])
    bench = processes.start("bench", arguments)
    report = result_of(bench, PARTS_S)
    processes.end_well([recorder])
    return report


def run_calls(
    processes: RosProcesses, frames: Path, model: Path, device: str, calls: int
) -> dict[str, Any]:
    """Call a node at work on an endless walk."""
    pairs = [f"model:={model.resolve()}", f"device:={device}"]
    parameters = [word for pair in pairs for word in ("-p", pair)]
    node = processes.start("node", ["--ros-args", *parameters])
    processes.start("play", [str(frames), "--loop", "0", "--rate", "10", "--wait", "120"])
    bench = processes.start("bench_calls", ["--calls", str(calls)])
    try:
        return result_of(bench, CALLS_S)
    except ProcessError as error:
        raise ProcessError(f"{error}\nthe node's last lines:\n{node.last_lines()}") from error


def result_of(process: RosProcess, timeout_s: float) -> dict[str, Any]:
    """Wait for a process and return the line of JSON it printed.

    Raises:
        ProcessError: it failed, printed none, or does not end in time.
    """
    if process.finish(timeout_s) != 0:
        raise process.failure("ended with an error")
    lines = list(json_lines(process.take_lines()))
    if not lines:
        raise process.failure("expected a line of JSON, got none")
    return lines[-1]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(bench_node, "bench node", argv)
