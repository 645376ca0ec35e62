# SPDX-License-Identifier: Apache-2.0
"""`vidllm demo` (`make demo`): a camera, the node and somebody who asks, over real ROS 2.

Four processes in a ROS domain of their own: the node, a recorder of what it publishes, a player of
camera frames, a client of /ask. Here they are started, watched and ended, and what they leave is
laid beside the truth: overview.png, frames.png, scene.ply, report.json. Next: demo_report.py.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from vidllm_ros.cli.command import FAILED, TOPIC_HELP, UserError, note, run_command
from vidllm_ros.cli.output_files import check_folder_target
from vidllm_ros.cli.ros_processes import check_ros
from vidllm_ros.streaming.loading import BackendName
from vidllm_ros.streaming.model_folders import BUNDLED_MODEL, find_model

if TYPE_CHECKING:
    from vidllm_ros.cli.cameras import Camera

UNSEEN_ROOM = 2_000_002  # of the frozen test split; a study, in which nano does as well as usual
FIRST_UNSEEN = 2_000_000
WINDOW = 32
OUTPUTS = ("overview.png", "frames.png", "scene.ply", "report.json")


def demo(
    room: Annotated[
        int, typer.Option(min=0, help="seed of the room; from 2000000 on unseen")
    ] = UNSEEN_ROOM,
    source: Annotated[
        Path | None,
        typer.Option("--input", help="your own video, folder of images, or rosbag2 instead"),
    ] = None,
    topic: Annotated[str | None, typer.Option(help=f"with --input: {TOPIC_HELP}")] = None,
    ask: Annotated[
        list[str] | None, typer.Option(help="what to ask about --input; several times")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder of the results")] = Path("demo_out"),
    rate: Annotated[float | None, typer.Option(min=0.1, help="frames a second")] = None,
    model: Annotated[Path | None, typer.Option(help="folder of weights")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "auto",
    backend: Annotated[
        BackendName, typer.Option(help="standin computes nothing and says so")
    ] = BackendName.VIDLLM,
) -> None:
    """Play a camera to the node over ROS 2, ask it, and draw what it saw beside the truth."""
    check_folder_target("--out", out)
    check_ros()
    if backend is BackendName.VIDLLM:
        model = find_model(model or BUNDLED_MODEL)
    begin = time.monotonic()
    with Console(stderr=True).status("reading the film" if source else f"rendering room {room}"):
        camera = open_camera(room, source, tuple(ask or ()), topic)
    window = min(WINDOW, camera.frames or WINDOW)
    if window < WINDOW:
        note(f"{camera.name}: {window} frames where {WINDOW} are wanted; going on with these")
    from vidllm_ros.cli.demo_report import write_report
    from vidllm_ros.cli.demo_run import DemoSettings, run_demo

    settings = DemoSettings(camera, rate, model, backend, window, device)
    with temporary_folder() as folder, ends_on_sigterm():
        outcome = run_demo(settings, folder)
        report = write_report(settings, outcome, folder / "out", time.monotonic() - begin)
        out.mkdir(parents=True, exist_ok=True)
        for name in OUTPUTS:
            shutil.move(str(folder / "out" / name), out / name)
    print(report)
    if not outcome.all_answered:
        raise typer.Exit(FAILED)


def open_camera(
    room: int, source: Path | None, asked: tuple[str, ...], topic: str | None = None
) -> Camera:
    """Return the film of a person, or a rendered room."""
    from vidllm_ros.cli.cameras import FilmCamera, RoomCamera

    if source is not None:
        return FilmCamera(source, WINDOW, asked, topic)
    if topic is not None:
        raise UserError(f"--topic: expected a bag as --input, got none to look for {topic} in")
    if asked:
        raise UserError(
            "--ask: expected --input beside it; a room is asked what its truth can answer"
        )
    camera = RoomCamera(room)
    if camera.is_of_training:
        note(f"--room: training may have seen room {room}; unseen ones begin at {FIRST_UNSEEN}")
    return camera


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a folder for logs and recordings that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="vidllm-demo-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def ends_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM into what Ctrl-C is, so that nothing is left running."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `vidllm demo` and return the exit code."""
    return run_command(demo, "demo", argv)
