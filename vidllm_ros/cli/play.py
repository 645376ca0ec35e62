# SPDX-License-Identifier: Apache-2.0
"""`vidllm play`: a film or a rendered room as a camera topic, for trying a node by hand.

A thin layer: the frames are read here, `python -m vidllm_ros.ros.play` publishes them in the ROS
domain this shell is in. Next: ask.py, which asks the node that watches.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from vidllm_ros.cli.command import UserError, run_command
from vidllm_ros.cli.ros_processes import RosProcesses, check_ros


def play(
    source: Annotated[
        Path | None,
        typer.Argument(metavar="[INPUT]", help="video file, folder of images, or rosbag2"),
    ] = None,
    room: Annotated[int | None, typer.Option(help="seed of a rendered room instead")] = None,
    rate: Annotated[float | None, typer.Option(min=0.1, help="frames a second")] = None,
) -> None:
    """Publish a film or a rendered room on the topics image and camera_info."""
    if (source is None) == (room is None):
        raise UserError("INPUT: expected a film or --room SEED, one of the two")
    check_ros()
    from vidllm_ros.cli.cameras import Camera, FilmCamera, RoomCamera

    camera: Camera
    camera = RoomCamera(room or 0) if source is None else FilmCamera(source, window=1)
    with tempfile.TemporaryDirectory(prefix="vidllm-play-") as name:
        folder = Path(name)
        with RosProcesses(folder, os.environ) as processes:
            player = camera.play(processes, folder, rate)
            code = player.finish()
            if camera.fault is not None:
                raise camera.fault
            if code != 0:
                raise player.failure("ended with an error")
            print(f"{camera.name}: {sum(1 for _ in player.take_lines())} frames played")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `vidllm play` and return the exit code."""
    return run_command(play, "play", argv)
