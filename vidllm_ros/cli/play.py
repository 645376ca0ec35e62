# SPDX-License-Identifier: Apache-2.0
"""`vidllm play`: a film or a rendered room as a camera topic, for trying a node by hand.

A thin layer: the frames are read here, `python -m vidllm_ros.ros.play` publishes them in the ROS
domain this shell is in. Next: ask.py, which asks the node that watches.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from vidllm_ros.cli.command import FAILED, TOPIC_HELP, UserError, run_command
from vidllm_ros.cli.ros_processes import RosProcess, RosProcesses, check_ros

if TYPE_CHECKING:
    from vidllm_ros.cli.cameras import Camera

NOBODY_LISTENS = 3  # the player's own exit code
POLL_S = 0.1


def play(
    source: Annotated[
        Path | None,
        typer.Argument(metavar="[INPUT]", help="video file, folder of images, or rosbag2"),
    ] = None,
    room: Annotated[
        int | None, typer.Option(min=0, help="seed of a rendered room instead")
    ] = None,
    topic: Annotated[str | None, typer.Option(help=f"of INPUT: {TOPIC_HELP}")] = None,
    rate: Annotated[float | None, typer.Option(min=0.1, help="frames a second")] = None,
    loop: Annotated[int, typer.Option(min=0, help="how often, each a new world; 0 for ever")] = 1,
    image: Annotated[
        str | None, typer.Option(help="topic to publish on; camera_info goes beside it")
    ] = None,
    compressed: Annotated[bool, typer.Option(help="as JPEG, on image/compressed")] = False,
    keep_stamps: Annotated[bool, typer.Option(help="the film's stamps, not the present")] = False,
) -> None:
    """Publish a film or a rendered room on the topics image and camera_info."""
    if (source is None) == (room is None):
        raise UserError("INPUT: expected a film or --room SEED, one of the two")
    if source is None and topic is not None:
        raise UserError(f"--topic: expected a bag as INPUT, got a room to look for {topic} in")
    check_ros()
    from vidllm_ros.cli.cameras import FilmCamera, Playback, RoomCamera

    camera: Camera
    if source is None:
        camera = RoomCamera(room or 0)
    else:
        camera = FilmCamera(source, window=1, topic=topic, is_remembered=False)
    playback = Playback(rate, loop, compressed, keep_stamps, image)
    with tempfile.TemporaryDirectory(prefix="vidllm-play-") as name:
        folder = Path(name)
        with RosProcesses(folder, os.environ) as processes:
            player = camera.play(processes, folder, playback)
            frames = follow(player, camera.name)
            code = player.finish()
            if camera.fault is not None:
                raise camera.fault
            said = player.last_lines().splitlines()[-1:]
            if code in (FAILED, NOBODY_LISTENS) and said and said[0].startswith("play: "):
                raise UserError(said[0].removeprefix("play: "))
            if code != 0:
                raise player.failure("ended with an error")
            print(f"{camera.name}: {frames} frames played")


def follow(player: RosProcess, name: str) -> int:
    """Say how far the player is until it ends; return the number of frames."""
    frames = 0
    with Console(stderr=True).status(f"{name}: waiting for somebody who listens") as status:
        while True:
            has_ended = player.has_ended()
            if has_ended:
                player.finish()
            frames += sum(1 for _ in player.take_lines())
            if has_ended:
                return frames
            if frames:
                status.update(f"{name}: {frames} frames played")
            time.sleep(POLL_S)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `vidllm play` and return the exit code."""
    return run_command(play, "play", argv)
