# SPDX-License-Identifier: Apache-2.0
"""`vidllm evaluate`: put a model through a benchmark and write the report.

Predictions are kept beside the report as they are made, so the same command goes on where it was
stopped; `accelerate launch -m vidllm_ros.cli.evaluate ...` shares the scenes out over processes.
On SynthRooms trivial answers are measured beside: constants fitted on training rooms, and a
language model that never sees a scene (evaluate_baselines.py). Next: evaluate_boxes.py, score.py,
which scores anybody's predictions.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidllm_ros.cli.command import note, run_command
from vidllm_ros.cli.evaluate_boxes import boxes_route, with_rule
from vidllm_ros.cli.evaluate_shards import Shard, find_shard, in_turn, wait_for_all
from vidllm_ros.evaluation.benchmark_registry import BENCHMARKS
from vidllm_ros.evaluation.benchmark_seeds import TEST_SEEDS, parse_seeds

if TYPE_CHECKING:
    from vidllm_ros.evaluation.benchmark_cases import Benchmark, Cases
    from vidllm_ros.evaluation.benchmark_run import RunFolder
    from vidllm_ros.evaluation.predictor import Predictor
    from vidllm_ros.network.vidllm import VidLLM

SYNTHROOMS = "synthrooms"
asked: ContextVar[str] = ContextVar("asked", default="")


def evaluate(
    benchmark: Annotated[str, typer.Argument(help=f"One of {', '.join(BENCHMARKS)}.")],
    out: Annotated[Path, typer.Option(help="Report to write, JSON; the rest lies beside it.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder of the published files; docs/evaluation.md.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Folder of a model of this project, or of `vidllm concatenate`."),
    ] = None,
    predictor: Annotated[
        str, typer.Option(help="module:factory of another model, instead of --model.")
    ] = "",
    split: Annotated[str, typer.Option(help="The benchmark's own where left out.")] = "",
    seeds: Annotated[str, typer.Option(help="SynthRooms: rooms A:B, B not included.")] = "",
    frames: Annotated[int, typer.Option(min=1, help="SynthRooms: frames of a room.")] = 32,
    scenes: Annotated[int, typer.Option(min=0, help="Only so many scenes; 0 takes all.")] = 0,
    pages: Annotated[bool, typer.Option(help="Plots and the page of cases as well.")] = True,
    training_rooms: Annotated[
        Path | None, typer.Option(help="Rendered training rooms for the baselines; else rendered.")
    ] = None,
    baseline_rooms: Annotated[
        int, typer.Option(min=0, help="How many of them; 0 leaves the baselines out.")
    ] = 400,
    text_only_minutes: Annotated[
        float, typer.Option(help="Training time of the text-only answerer; 0 leaves it out.")
    ] = 3.0,
) -> None:
    """Put a model through a benchmark; stopped, the same command goes on where it was."""
    chosen, data, split = open_benchmark(benchmark, data, split, seeds, frames, out)
    shard = find_shard()
    require_model(model, predictor)  # before the cases: SynthRooms' leave files behind
    cases = chosen.load(data, split)
    if scenes:
        cases = cases.first(scenes)
    with in_turn(model, shard):
        run = out.with_name(f"{out.stem}.predictions")
        measured, network = open_predictor(model, predictor, shard.device, cases, run)
        folder = run_folder(run, chosen, cases, measured, data, frames, shard)
        folder.claim()
    started = time.monotonic()
    predict_share(chosen, cases, measured, folder, shard)
    if shard.count > 1:
        wait_for_all()
    if not shard.is_main:
        return
    facts: dict[str, Any] = {
        "given": chosen.given,
        "boxes": with_rule(boxes_route(benchmark, data, cases.scene_ids), benchmark, measured),
        "frames": frames if benchmark == SYNTHROOMS else None,
        "minutes": round((time.monotonic() - started) / 60.0, 1),
        "command": asked.get(),
        "predictions": folder.path.name,
    }
    if memory := getattr(measured, "memory", None):
        facts["memory"] = memory.words
    if benchmark == SYNTHROOMS:
        facts |= {"seeds": cases.split, "rooms": len(cases.scene_ids)}
        if baseline_rooms:
            from vidllm_ros.cli.evaluate_baselines import load_training_rooms, with_baselines

            rooms = load_training_rooms(training_rooms, baseline_rooms, frames)
            chosen, more = with_baselines(chosen, rooms, network, text_only_minutes)
            facts |= more
    finish(chosen, cases, folder.path, measured.name, out, facts, pages)


def open_benchmark(
    name: str, data: Path | None, split: str, seeds: str, frames: int, out: Path
) -> tuple[Benchmark, Path, str]:
    """Return the benchmark, its folder and split.

    Raises:
        ValueError: there is no such benchmark or split, or --data is missing.
        FileNotFoundError: there is no such folder.
    """
    from vidllm_ros.evaluation.benchmark_registry import load_benchmark

    benchmark = load_benchmark(name)
    if name == SYNTHROOMS:
        from vidllm_ros.evaluation.benchmark_synthrooms import with_frames

        split = seeds or (split if split not in ("", "test") else TEST_SEEDS)
        parse_seeds(split)
        return with_frames(frames), data or out.with_name(f"{out.stem}.rooms"), split
    if seeds:
        raise ValueError(f"--seeds: expected with synthrooms only, got it with {name}")
    if data is None:
        raise ValueError(f"--data: expected the folder of {name}'s files: {benchmark.layout}")
    if not data.is_dir():
        raise FileNotFoundError(f"--data: {data} is no folder; give the one with {name}'s files")
    split = split or benchmark.splits[0]
    if split not in benchmark.splits:
        raise ValueError(f"--split: expected one of {benchmark.splits}, got {split!r}")
    return benchmark, data, split


def require_model(model: Path | None, predictor: str) -> None:
    """Refuse what cannot be measured, without loading it.

    Raises:
        ValueError: neither or both are given, or a folder is damaged.
        FileNotFoundError: the folder holds no model.
        ImportError: there is no such module or factory.
    """
    from vidllm_ros.evaluation.predictor import find_factory
    from vidllm_ros.network.checkpoint import check_folder
    from vidllm_ros.network.concat_manifest import has_manifest, read_manifest

    if (model is None) == (not predictor):
        raise ValueError("--model: expected either --model or --predictor; give one of them")
    if model is None:
        find_factory(predictor)
    elif has_manifest(model):
        read_manifest(model)
    else:
        check_folder(model)


def open_predictor(
    model: Path | None, predictor: str, device: str, cases: Cases, run: Path
) -> tuple[Predictor, VidLLM | None]:
    """Return what is measured, and the network where it is one of this project; one is given.

    Public models in a row are loaded as there is memory for the frames of the cases' first scene,
    or as the run in its folder was begun.
    """
    from vidllm_ros.evaluation.predictor import load_predictor

    if model is None:
        return load_predictor(predictor), None
    from vidllm_ros.evaluation.predictor_vidllm import VidLLMPredictor
    from vidllm_ros.network.checkpoint import load_vidllm
    from vidllm_ros.network.concat_manifest import has_manifest

    if has_manifest(model):
        from vidllm_ros.cli.evaluate_concatenation import open_concatenation

        frames = len(cases.open_scene(cases.scene_ids[0]).frames)
        return open_concatenation(model, device, frames, run), None
    network: Any = load_vidllm(model)
    network = network.to(device).eval()
    return VidLLMPredictor(network, f"{model.name} {fingerprint(model)}"), network


def fingerprint(model: Path) -> str:
    """Return a short name of a folder's weights: a change of them is another run."""
    import hashlib

    digest = hashlib.sha256()
    for file in sorted(model.glob("*.safetensors")) + sorted(model.glob("config.json")):
        digest.update(file.name.encode())
        with file.open("rb") as opened:
            while block := opened.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()[:10]


def run_folder(
    run: Path,
    benchmark: Benchmark,
    cases: Cases,
    predictor: Predictor,
    data: Path,
    frames: int,
    shard: Shard,
) -> RunFolder:
    """Return where this run keeps its predictions: beside the report."""
    from vidllm_ros.evaluation.benchmark_run import MEMORY_STEP, RunFolder

    identity = {
        "benchmark": benchmark.name,
        "split": cases.split,
        "model": getattr(predictor, "name", type(predictor).__name__),
        "data": str(data.resolve()),
    }
    if benchmark.name == SYNTHROOMS:
        identity["frames"] = str(frames)
    if step := getattr(predictor, "memory_step", ""):
        identity[MEMORY_STEP] = step
    return RunFolder(run, identity, shard.index)


def predict_share(
    benchmark: Benchmark, cases: Cases, predictor: Predictor, folder: RunFolder, shard: Shard
) -> None:
    """Predict this process's scenes, with a bar in the first process.

    Raises:
        ValueError: memory ended at a scene; names it. What was predicted is kept.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from vidllm_ros.evaluation.benchmark_run import predict_cases
    from vidllm_ros.streaming.memory_steps import is_out_of_memory

    share = cases.part(shard.index, shard.count)
    columns = (
        TextColumn("scenes" if shard.count == 1 else f"scenes of process 1 of {shard.count}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[done]} cases"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not shard.is_main) as progress:
        task = progress.add_task("", total=len(share.scene_ids), done=0)

        ended: list[int] = []  # cases of each scene that is done

        def on_scene(count: int) -> None:
            ended.append(count)
            progress.update(task, advance=1, done=sum(ended))

        try:
            predict_cases(benchmark, share, predictor, folder, on_scene)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise ValueError(
                out_of_memory_at(share.scene_ids[len(ended)], predictor, shard.device)
            ) from error


def out_of_memory_at(scene_id: str, predictor: Predictor, device: str) -> str:
    """Say that memory ended at a scene, for how much it was measured, and what to do."""
    memory = getattr(predictor, "memory", None)
    measured = f" (measured for a scene of {memory.full_frames} frames)" if memory else ""
    return (
        f"{scene_id}: expected memory on {device} for all of this scene, got less{measured}; free "
        "memory, or take a smaller model: the same command goes on at this scene"
    )


def finish(
    benchmark: Benchmark,
    cases: Cases,
    predictions: Path,
    model: str,
    out: Path,
    facts: dict[str, Any],
    pages: bool,
) -> None:
    """Score what was predicted, write the report and print it."""
    from vidllm_ros.evaluation.benchmark_run import read_predictions
    from vidllm_ros.evaluation.report import Outcome, report_entries, write_report

    records = read_predictions(predictions, benchmark.array_fields)
    note(f"scoring {len(records)} predictions")
    scores = benchmark.score(cases, records)
    known = {name: value for name, value in facts.items() if value is not None}
    spare = len(set(records) - set(scores.per_case))
    if spare:
        known["predictions_not_scored"] = spare
        note(
            f"{spare} of {len(records)} predictions are of no case that was asked for: not scored"
        )
    outcome = Outcome(benchmark, cases, records, scores, model, known)
    written = write_report(out, outcome, pages)
    print(json.dumps(report_entries(outcome), indent=1))
    note("wrote " + ", ".join(str(file) for file in written))


def note_command(name: str, argv: Sequence[str] | None) -> None:
    """Remember the command line for the report."""
    arguments = sys.argv[1:] if argv is None else argv
    asked.set(f"vidllm {name} {shlex.join(arguments)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    note_command("evaluate", argv)
    return run_command(evaluate, "evaluate", argv)


if __name__ == "__main__":
    raise SystemExit(main())
