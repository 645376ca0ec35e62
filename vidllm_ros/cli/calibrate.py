# SPDX-License-Identifier: Apache-2.0
"""`vidllm calibrate`: choose a model's box threshold on validation rooms and store it.

The number goes into the folder's config.json, which is written beside and renamed. Next:
evaluation/calibration.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from vidllm_ros.cli.command import note, run_command
from vidllm_ros.evaluation.benchmark_seeds import parse_seeds

FIELD = "grounding_threshold"


def calibrate(
    model: Annotated[Path, typer.Option(help="Folder of the model; its config.json changes.")],
    seeds: Annotated[str, typer.Option(help="Rooms A:B, B not included.")] = "1000000:1000040",
    frames: Annotated[int, typer.Option(help="Frames of a window.")] = 32,
) -> None:
    """Choose the score from which boxes are reported, on rooms of the validation split."""
    first, last = parse_seeds(seeds)
    from rich.progress import track

    from vidllm_ros.data.synthrooms import make_scene
    from vidllm_ros.evaluation.calibration import calibrate as choose
    from vidllm_ros.network.checkpoint import load_vidllm

    network = load_vidllm(str(model))
    rooms = (make_scene(seed, frames=frames) for seed in range(first, last))
    chosen = choose(network, track(rooms, description="rooms", total=last - first))
    for threshold, f1 in chosen.curve:
        print(f"{threshold:.2f}  {f1:.4f}")
    store(model / "config.json", chosen.threshold)
    note(f"{FIELD}: {chosen.threshold} (F1@0.25 {chosen.f1:.3f} on {last - first} rooms)")


def store(config: Path, threshold: float) -> None:
    """Write the threshold into a configuration, in one step."""
    fields = json.loads(config.read_text())
    fields[FIELD] = threshold
    beside = config.with_name(f".{config.name}.{os.getpid()}")
    beside.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")
    os.replace(beside, config)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(calibrate, "calibrate", argv)


if __name__ == "__main__":
    raise SystemExit(main())
