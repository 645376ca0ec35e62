# SPDX-License-Identifier: Apache-2.0
"""The run of a demo: start node, recorder and player, follow them, ask, save the map, end them.

The questions are put after the last frame, when the node has done its last window: then what it
answers from is known, and with a room so is the truth about those very frames.
Next: demo_report.py, which makes pictures and numbers of the outcome.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from vidllm_ros.cli.cameras import AskedQuestion, Camera, Playback
from vidllm_ros.cli.recording import Recording
from vidllm_ros.cli.ros_processes import (
    ProcessError,
    RosProcess,
    RosProcesses,
    isolated_environment,
    json_lines,
)
from vidllm_ros.evaluation.text_metrics import exact_match
from vidllm_ros.streaming.loading import BackendName

START_S = 300.0
FIRST_WINDOW_S = 90.0
QUIET_S = 15.0
STRIDE = 8
ANSWER_S = 60.0
POLL_S = 0.1


@dataclass(frozen=True)
class DemoSettings:
    """What a person may choose.

    Attributes:
        camera: what is played.
        rate_hz: frames a second, or None for the camera's own.
        model: folder of weights, or None for the stand-in.
        backend: who computes.
        window: frames of a window.
        device: where torch computes.
    """

    camera: Camera
    rate_hz: float | None
    model: Path | None
    backend: BackendName
    window: int
    device: str


@dataclass(frozen=True)
class DemoOutcome:
    """What a run leaves.

    Attributes:
        recording: what the node published.
        questions: one entry each: question, answer, truth, correct, latency_s and more.
        frames_played: by the player.
        all_answered: every reply of /ask said success.
        map_ply: the node's own map.
    """

    recording: Recording
    questions: tuple[dict[str, Any], ...]
    frames_played: int
    all_answered: bool
    map_ply: Path


@dataclass
class _State:
    original_ns: dict[int, int] = field(default_factory=dict)
    windows: list[dict[str, Any]] = field(default_factory=list)
    changed: float = field(default_factory=time.monotonic)


def run_demo(settings: DemoSettings, folder: Path) -> DemoOutcome:
    """Run the processes to their end; what they leave lies in `folder`.

    Raises:
        ProcessError: one of them failed; its last lines are in the text.
    """
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<20}"),
        BarColumn(bar_width=28),
        TextColumn("{task.fields[said]}"),
        TimeElapsedColumn(),
    )
    progress = Progress(*columns, console=Console())
    with RosProcesses(folder, isolated_environment(folder)) as processes, progress:
        return DemoRun(settings, folder, processes, progress).run()


class DemoRun:
    """One run; the steps in the order of `run`."""

    def __init__(
        self, settings: DemoSettings, folder: Path, processes: RosProcesses, progress: Progress
    ) -> None:
        self.settings = settings
        self.folder = folder
        self.processes = processes
        self.progress = progress
        self.state = _State()

    def run(self) -> DemoOutcome:
        node = self.processes.start("node", node_arguments(self.settings))
        try:
            return self._run(node)
        except ProcessError as error:
            if not str(error).startswith(f"{node.name}:"):
                said = f"{error}\nthe node's last lines:\n{node.last_lines()}"
                raise ProcessError(said) from error
            raise

    def _run(self, node: RosProcess) -> DemoOutcome:
        recorder = self.processes.start("record", ["--out", str(self.folder / "record")])
        playback = Playback(self.settings.rate_hz)
        player = self.settings.camera.play(self.processes, self.folder, playback)
        self.follow(node, recorder, player)
        questions = self.ask()
        map_ply = self.save_map()
        self.processes.end_well([recorder, player, node])
        return DemoOutcome(
            recording=Recording.load(self.folder / "record", self.state.original_ns),
            questions=tuple(questions),
            frames_played=len(self.state.original_ns),
            all_answered=all(entry["success"] for entry in questions),
            map_ply=map_ply,
        )

    def follow(self, node: RosProcess, recorder: RosProcess, player: RosProcess) -> None:
        """Watch until the film is over and the node has done its last window."""
        camera, state = self.settings.camera, self.state
        task = self.progress.add_task("starting the node", total=camera.frames, said="")
        begin = time.monotonic()
        while not self._is_settled(player):
            self.processes.check()
            if camera.fault is not None:
                raise camera.fault
            self._take(recorder, player)
            self.progress.update(
                task,
                completed=len(state.original_ns),
                description="playing the camera" if state.original_ns else "starting the node",
                said=f"{len(state.original_ns)} frames, {len(state.windows)} windows",
            )
            if not state.original_ns and time.monotonic() - begin > START_S:
                raise node.failure(f"expected it to listen within {START_S:.0f} s, it does not")
            time.sleep(POLL_S)
        self.progress.update(task, total=len(state.original_ns))
        if not state.windows:
            raise node.failure(f"expected a window of {len(state.original_ns)} frames, got none")

    def _take(self, recorder: RosProcess, player: RosProcess) -> None:
        for line in json_lines(player.take_lines()):
            if "published_ns" in line:
                self.state.original_ns[int(line["published_ns"])] = int(line["original_ns"])
                self.state.changed = time.monotonic()
        for line in json_lines(recorder.take_lines()):
            self.state.windows.append(line)
            self.state.changed = time.monotonic()

    def _is_settled(self, player: RosProcess) -> bool:
        """Say whether the film is over and no further window is to be expected."""
        if not player.has_ended() or player.lines:
            return False
        waited_s = time.monotonic() - self.state.changed
        if not self.state.windows:
            return waited_s > FIRST_WINDOW_S
        newest = max(self.state.windows[-1]["frame_stamps"])
        waiting = sum(stamp > newest for stamp in self.state.original_ns)
        if waiting < window_stride(self.settings.window):
            return True
        spent = self.state.windows[-1].get("timings_s", {})
        return waited_s > max(QUIET_S, 4.0 * sum(float(value) for value in spent.values()))

    def ask(self) -> list[dict[str, Any]]:
        """Put the questions, print each with its answer and the truth, and return them."""
        last = self.state.windows[-1]["frame_stamps"]
        seen = [self.state.original_ns[int(stamp)] for stamp in last]
        questions = self.settings.camera.questions(seen)
        task = self.progress.add_task("asking", total=len(questions), said="")
        words = [entry.question for entry in questions]
        options = ["--json", "--timeout", str(ANSWER_S), "--retry", str(ANSWER_S)]
        client = self.processes.start("ask", [*options, "--", *words], accepted=(0, 1))
        entries: list[dict[str, Any]] = []
        end = time.monotonic() + ANSWER_S * (len(questions) + 1)
        while len(entries) < len(questions):
            was_over = client.has_ended()
            if was_over:
                client.finish()
            for reply in json_lines(client.take_lines()):
                entry = judge(questions[len(entries)], reply)
                entries.append(entry)
                self.progress.console.out(question_lines(entry), highlight=False)
                self.progress.update(task, completed=len(entries))
            self.processes.check()
            if len(entries) < len(questions) and (was_over or time.monotonic() > end):
                raise client.failure(f"expected {len(questions)} replies, got {len(entries)}")
            time.sleep(POLL_S)
        return entries

    def save_map(self) -> Path:
        """Let the node write its map and return the file."""
        path = self.folder / "scene.ply"
        client = self.processes.start("ask", ["--save-map", str(path)])
        code = client.finish(ANSWER_S)
        if code != 0 or not path.is_file():
            replies = list(json_lines(client.take_lines()))
            said = replies[-1].get("message", "") if replies else ""
            raise client.failure(f"expected {path.name}, got none: {said}")
        return path


def node_arguments(settings: DemoSettings) -> list[str]:
    """Return the node's command line."""
    parameters = {
        "backend": settings.backend.value,
        "window_size": str(settings.window),
        "window_stride": str(window_stride(settings.window)),
        "device": settings.device,
    }
    if settings.model is not None:
        parameters["model"] = str(settings.model.resolve())
    pairs = [f"{name}:={value}" for name, value in parameters.items()]
    return ["--ros-args", *(word for pair in pairs for word in ("-p", pair))]


def window_stride(window: int) -> int:
    """Return how many new frames make the next window."""
    return min(STRIDE, window)


def judge(asked: AskedQuestion, reply: Mapping[str, Any]) -> dict[str, Any]:
    """Return the report's entry for a question: its answer beside the truth, if there is one."""
    answer = str(reply.get("answer", ""))
    is_right = None if asked.answers is None else exact_match(answer, asked.answers)
    return {
        "question": asked.question,
        "answer": answer,
        "truth": None if asked.answers is None else asked.answers[0],
        "accepted": asked.answers,
        "correct": is_right,
        "latency_s": reply.get("latency_s"),
        "round_trip_s": reply.get("round_trip_s"),
        "confidence": reply.get("confidence"),
        "success": bool(reply.get("success")),
        "message": reply.get("message", ""),
        "objects": reply.get("objects", []),
    }


def question_lines(entry: Mapping[str, Any]) -> str:
    """Return question, answer and truth as they are printed."""
    answer = entry["answer"] if entry["success"] else f"(no answer: {entry['message']})"
    marks = {True: "right", False: "wrong", None: ""}
    truth = "not known" if entry["truth"] is None else entry["truth"]
    mark = marks[entry["correct"]]
    return (
        f"Q: {entry['question']}\nA: {answer}   ({entry['latency_s'] or 0.0:.2f} s)\n"
        f"   truth: {truth}{'  -> ' + mark if mark else ''}"
    )
