# SPDX-License-Identifier: Apache-2.0
"""`vidllm score`: score anybody's predictions by the same code as `vidllm evaluate`.

Predictions are JSON, one record a case; docs/evaluation.md says which fields each benchmark reads.
Next: evaluation/benchmark_run.py, which reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from vidllm_ros.cli.command import run_command
from vidllm_ros.cli.evaluate import (
    SYNTHROOMS,
    asked,
    finish,
    note_command,
    open_benchmark,
)


def score(
    benchmark: Annotated[str, typer.Argument(help="As of vidllm evaluate.")],
    predictions: Annotated[
        Path, typer.Option(help=".json, .jsonl, or the folder an evaluation has written.")
    ],
    data: Annotated[Path, typer.Option(help="Folder of the published files.")],
    out: Annotated[
        Path | None, typer.Option(help="Report to write; else beside the predictions.")
    ] = None,
    name: Annotated[str, typer.Option(help="What the report calls the model.")] = "",
    split: Annotated[str, typer.Option(help="The benchmark's own where left out.")] = "",
    seeds: Annotated[str, typer.Option(help="SynthRooms: rooms A:B, B not included.")] = "",
    frames: Annotated[int, typer.Option(min=1, help="SynthRooms: frames of a room.")] = 32,
    scenes: Annotated[int, typer.Option(min=0, help="Only so many scenes; 0 takes all.")] = 0,
    pages: Annotated[bool, typer.Option(help="Plots and the page of cases as well.")] = True,
) -> None:
    """Score predictions, whoever made them."""
    if not predictions.exists():
        raise FileNotFoundError(
            f"--predictions: {predictions} is not there; give a file or folder"
        )
    target = out or predictions.with_name(f"{predictions.stem}.scores.json")
    chosen, data, split = open_benchmark(benchmark, data, split, seeds, frames, target)
    cases = chosen.load(data, split)
    if scenes:
        cases = cases.first(scenes)
    facts = {
        "frames": frames if benchmark == SYNTHROOMS else None,
        "command": asked.get(),
    }
    finish(chosen, cases, predictions, name or predictions.stem, target, facts, pages)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    note_command("score", argv)
    return run_command(score, "score", argv)


if __name__ == "__main__":
    raise SystemExit(main())
