# SPDX-License-Identifier: Apache-2.0
"""`vidllm evaluate`: measure a model on a benchmark and write a flat report.json.

Trivial rivals are measured on the same rooms: constants fitted on training rooms, and a language
model that never sees a scene, trained here for a few minutes. Next: evaluation/benchmark.py.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidllm_ros.cli.command import note, run_command

if TYPE_CHECKING:
    from vidllm_ros.data.samples import Question, SceneSample
    from vidllm_ros.evaluation.benchmark import TextOnly
    from vidllm_ros.network.vidllm import VidLLM

BENCHMARKS = ("synthrooms",)


def evaluate(
    benchmark: Annotated[str, typer.Argument(help=f"One of {', '.join(BENCHMARKS)}.")],
    model: Annotated[Path, typer.Option(help="Folder of the model.")],
    out: Annotated[Path, typer.Option(help="Report to write, JSON.")],
    seeds: Annotated[str, typer.Option(help="Rooms A:B, B not included.")] = "2000000:2000100",
    frames: Annotated[int, typer.Option(help="Frames of a window.")] = 32,
    training_rooms: Annotated[
        Path | None, typer.Option(help="Rendered training rooms for the baselines; else rendered.")
    ] = None,
    baseline_rooms: Annotated[int, typer.Option(help="How many of them.")] = 400,
    text_only_minutes: Annotated[
        float, typer.Option(help="Training time of the text-only answerer; 0 leaves it out.")
    ] = 3.0,
) -> None:
    """Measure a model on rooms it has not seen, beside trivial baselines."""
    if benchmark not in BENCHMARKS:
        raise ValueError(f"benchmark: expected one of {BENCHMARKS}, got {benchmark!r}")
    first, last = parse_seeds(seeds)
    from rich.progress import track

    from vidllm_ros.data.synthrooms import make_scene
    from vidllm_ros.evaluation.baselines import fit_baselines
    from vidllm_ros.evaluation.benchmark import Tally, measure_room
    from vidllm_ros.network.vidllm import VidLLM

    network = VidLLM.from_pretrained(model)
    note("fitting the baselines on training rooms")
    questions: list[Question] = []
    rooms = load_training_rooms(training_rooms, baseline_rooms, frames)
    baselines = fit_baselines(noting_questions(rooms, questions))
    text_only = train_text_only(network, questions, text_only_minutes)
    tally, started = Tally(), time.monotonic()
    for seed in track(range(first, last), description="rooms"):
        measure_room(tally, network, make_scene(seed, frames=frames), baselines, text_only)
    report = {
        **{name: round(value, 5) for name, value in tally.report().items()},
        "benchmark": benchmark,
        "seeds": seeds,
        "rooms": last - first,
        "frames": frames,
        "minutes": round((time.monotonic() - started) / 60.0, 1),
        "baseline_depth_m": round(baselines.depth_m, 3),
        "baseline_answer": baselines.answer,
        "baseline_rooms": baselines.rooms,
        "command": f"vidllm evaluate {shlex.join(sys.argv[2:])}",
    }
    write_report(out, report)
    print(json.dumps(report, indent=1))


def parse_seeds(text: str) -> tuple[int, int]:
    """Read A:B.

    Raises:
        ValueError: it is not two whole numbers, the second greater.
    """
    parts = text.split(":")
    if len(parts) != 2 or not all(part.strip().isdigit() for part in parts):
        raise ValueError(f"seeds: expected A:B such as 2000000:2000100, got {text!r}")
    first, last = int(parts[0]), int(parts[1])
    if first >= last:
        raise ValueError(f"seeds: expected A below B, got {text!r}")
    return first, last


def load_training_rooms(folder: Path | None, count: int, frames: int) -> Iterator[SceneSample]:
    """Rooms of the training split: from a folder of rendered ones, or rendered now."""
    from vidllm_ros.data.synthrooms import load_sample, make_scene

    if folder is None:
        yield from (make_scene(seed, frames=frames) for seed in range(count))
        return
    files = sorted(folder.glob("*.npz"))[:count]
    if not files:
        raise FileNotFoundError(f"training-rooms: expected rendered rooms in {folder}, got none")
    yield from (load_sample(file) for file in files)


def noting_questions(
    rooms: Iterable[SceneSample], questions: list[Question]
) -> Iterator[SceneSample]:
    """Pass rooms on, one in memory at a time, and keep what is asked about them."""
    for room in rooms:
        questions += room.questions
        yield room


def train_text_only(
    network: VidLLM, questions: Sequence[Question], minutes: float
) -> TextOnly | None:
    """Train the answerer that never sees a scene, on these questions."""
    if minutes <= 0:
        return None
    from vidllm_ros.evaluation.text_only import TextOnlyAnswerer

    note(f"training the text-only answerer on {len(questions)} questions")
    answerer = TextOnlyAnswerer(network.config.language_config(), network.language.tokenizer)
    loss = answerer.fit(questions, minutes)
    note(f"its loss: {loss:.3f}")
    return answerer


def write_report(path: Path, report: dict[str, object]) -> None:
    """Write JSON beside its place, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(report, indent=1) + "\n")
    os.replace(beside, path)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(evaluate, "evaluate", argv)


if __name__ == "__main__":
    raise SystemExit(main())
