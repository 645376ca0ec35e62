# SPDX-License-Identifier: Apache-2.0
"""`vidllm train`: a recipe in, a run's folder out; again to go on; `--export` to ship it.

A run's folder holds the recipe, the tokenizer, the newest checkpoint and the logs. Stopping it
with Ctrl-C or SIGTERM saves first. Next: training/build.py.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from vidllm_ros.cli.command import note, run_command

COMMANDS_FILE = "commands.json"


class ExportedWeights(str, Enum):
    """Which weights of a checkpoint are shipped."""

    AVERAGE = "average"
    LAST = "last"


def train(
    config: Annotated[Path, typer.Option(help="Recipe, a file of config/train/.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; an unfinished one goes on.")],
    export: Annotated[Path | None, typer.Option(help="Write the weights here when done.")] = None,
    weights: Annotated[
        ExportedWeights, typer.Option(help="Which weights: averaged over the run, or the last.")
    ] = ExportedWeights.AVERAGE,
    export_only: Annotated[
        bool, typer.Option(help="Write what the newest checkpoint holds and do not train.")
    ] = False,
    steps: Annotated[int, typer.Option(help="Stop after this many more steps; 0: do not.")] = 0,
    minutes: Annotated[
        float, typer.Option(help="Stop, saved, after this wall time; 0: do not. Again to go on.")
    ] = 0.0,
    report: Annotated[
        Path | None, typer.Option(help="report.json of vidllm evaluate, for the model's card.")
    ] = None,
) -> None:
    """Train the network after a recipe, or go on where a run stopped."""
    from vidllm_ros.training.recipe import load_recipe

    recipe = load_recipe(config)
    if export_only and export is None:
        raise ValueError("export-only: expected --export FOLDER beside it, got none")
    if export is not None and recipe.stage == "image_text":
        raise ValueError(
            "export: expected a recipe of the network, got stage 'image_text'; stage 1 reads this "
            "teacher from its run's folder"
        )
    if not export_only:
        from vidllm_ros.cli.validation import build_validator
        from vidllm_ros.training.build import build_trainer

        validator = build_validator(recipe)
        if validator is not None:
            validator.check()
        trainer = build_trainer(recipe, out, validator)
        if trainer.accelerator.is_main_process:
            remember_command(out, "train", typed_command("train"))
        if trainer.load():
            note(f"goes on from step {trainer.state.step}")
        state = trainer.run(steps or None, minutes)
        note(f"step {state.step}, {state.scenes} scenes, {state.seconds / 60:.1f} minutes")
    if export is not None and is_first_process():
        ship(out, export, report, weights)


def is_first_process() -> bool:
    """Whether this is the one process that ships.

    The others end meanwhile: waiting for gigabytes to be written could meet a time-out of theirs.
    """
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available()).is_main_process


def ship(
    run: Path,
    target: Path,
    report: Path | None,
    weights: ExportedWeights = ExportedWeights.AVERAGE,
) -> None:
    """Export the newest checkpoint of a run; with a report, write the card too.

    Raises:
        ValueError: it would be the bundled model and is too large for the repository.
    """
    from vidllm_ros.streaming.model_folders import BUNDLED_MODEL
    from vidllm_ros.training.export import MAX_BUNDLED_BYTES, export_model, folder_bytes
    from vidllm_ros.training.model_card import count_parameters, write_card

    largest = MAX_BUNDLED_BYTES if target.resolve().name == BUNDLED_MODEL else None
    export_model(run, target, weights is ExportedWeights.AVERAGE, largest)
    size = folder_bytes(target)
    note(f"{target}: {size / 1e6:.1f} MB")
    if report is not None:
        note(str(write_card(target, report, count_parameters(target), size)))


def remember_command(run: Path, name: str, command: str) -> None:
    """Keep what was typed beside the run, for the card."""
    path = run / COMMANDS_FILE
    known = json.loads(path.read_text()) if path.is_file() else {}
    known.setdefault(name, command)
    path.write_text(json.dumps(known, indent=1) + "\n")


def typed_command(name: str) -> str:
    """Return the command line of this process as `vidllm <name> ...`."""
    arguments = sys.argv[2:] if sys.argv[1:2] == [name] else sys.argv[1:]
    return f"vidllm {name} {shlex.join(arguments)}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(train, "train", argv)


if __name__ == "__main__":
    raise SystemExit(main())
