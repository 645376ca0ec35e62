# SPDX-License-Identifier: Apache-2.0
"""The card beside the weights, written by code from what the run and the benchmark left behind.

Numbers come from `training.json` (the run) and `report.json` (the benchmark); a metric that was
not measured is not on the card. Next: cli/train.py.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

CONSTANT, STILL = "constant depth", "constant depth, still camera"


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        metric: its name in the report.
        words: what a person calls it.
        rival: name of the trivial rival's number; empty where there is none.
        rival_words: what the rival is.
        is_more_better: how the two compare.
    """

    metric: str
    words: str
    rival: str = ""
    rival_words: str = ""
    is_more_better: bool = True


ROWS = (
    Row("depth_absrel", "depth AbsRel", "baseline_constant_depth_absrel", CONSTANT, False),
    Row("depth_delta1", "depth delta < 1.25", "baseline_constant_depth_delta1", CONSTANT),
    Row(
        "scale_error_median",
        "scene scale error, median",
        "baseline_constant_scale_error_median",
        CONSTANT,
        False,
    ),
    Row("pose_maa30", "pose mAA(30)", "baseline_still_pose_maa30", "still camera"),
    Row("fscore_10cm", "cloud F-score at 10 cm", "baseline_constant_fscore_10cm", STILL),
    Row("fscore_5cm", "cloud F-score at 5 cm", "baseline_constant_fscore_5cm", STILL),
    Row(
        "qa_em",
        "questions, exact match",
        "baseline_most_frequent_in_family_qa_em",
        "most frequent answer of the family",
    ),
    Row("qa_em", "questions, exact match", "qa_em_text_only", "text-only language model"),
    Row("grounding_acc25", "grounding Acc@0.25", "baseline_mean_box_grounding_acc25", "mean box"),
    Row("grounding_acc50", "grounding Acc@0.5", "baseline_mean_box_grounding_acc50", "mean box"),
    Row("multi_f1_25", "phrases of none, one or many, F1@0.25"),
    Row("caption_cider50", "captions CIDEr@0.5"),
)


def table(report: dict[str, Any]) -> str:
    """Metrics beside their rivals, as Markdown; says which rival is not beaten."""
    lines = ["| metric | this model | baseline | which baseline |", "|---|---|---|---|"]
    for row in ROWS:
        if row.metric not in report:
            continue
        ours = float(report[row.metric])
        if row.rival in report:
            theirs = float(report[row.rival])
            is_beaten = ours > theirs if row.is_more_better else ours < theirs
            note = row.rival_words if is_beaten else f"{row.rival_words} (not beaten)"
            lines.append(f"| {row.words} | {ours:.3f} | {theirs:.3f} | {note} |")
        elif not row.rival:
            lines.append(f"| {row.words} | {ours:.3f} | | |")
    families = sorted(
        name[len("qa_em_") :]
        for name in report
        if name.startswith("qa_em_") and f"qa_em_text_only_{name[len('qa_em_') :]}" in report
    )
    if families:
        lines += ["", "| question family | exact match | text-only |", "|---|---|---|"]
        lines += [
            f"| {family} | {report[f'qa_em_{family}']:.3f} "
            f"| {report[f'qa_em_text_only_{family}']:.3f} |"
            for family in families
        ]
    return "\n".join(lines)


def card_text(
    name: str, training: dict[str, Any], report: dict[str, Any], parameters: int, size_bytes: int
) -> str:
    """Write the whole card, Markdown."""
    recipe = training["recipe"]
    data = recipe["data"]
    longest = max(data["max_frames"], data["long_max_frames"] if data["long_share"] else 0)
    windows = (
        f"{training['scenes']} windows of {data['min_frames']} to {longest} frames "
        f"of {data['height']}x{data['width']} px"
    )
    measured = (
        f"{report.get('rooms', '?')} unseen rooms (seeds {report.get('seeds', '?')}), "
        f"{report.get('frames', '?')} frames each"
    )
    commands = training.get("commands", {})
    return f"""---
license: apache-2.0
library_name: vidllm_ros
---
# {name}

A Vid-LLM (arXiv 2509.24385) of {parameters / 1e6:.1f} million parameters for two CPU cores: metric
depth, camera poses, object boxes and answers from a handheld video of a room. Trained from scratch
on rendered rooms (SynthRooms) by this project; it has never seen a photograph.
bfloat16, {size_bytes / 1e6:.1f} MB.

## How it was made

| | |
|---|---|
| command | `{commands.get("train", "not recorded")}` |
| export | `{commands.get("export", "not recorded")}` |
| evaluation | `{commands.get("evaluate", report.get("command", "not recorded"))}` |
| seed | {recipe["seed"]} |
| data | SynthRooms, train split; {training.get("rooms", "?")} rooms, {windows} |
| steps | {training["steps"]}, {data["frames_per_batch"]} frames a step at most |
| time | {training["minutes"]:.0f} minutes of wall time |
| hardware | {training.get("hardware", "not recorded")} |
| changed on the way | {training.get("history") or "nothing"} |
| optimizer | {recipe["optimizer"]["name"]}, {recipe["optimizer"]["schedule"]} |
| weights | {training.get("weights", "averaged")} |

## Measured on {measured}

{table(report)}

Depth, scale and clouds are metric and not aligned to the truth; clouds are compared in the first
camera's frame. A pose counts by the worse of its rotation error and the error of its translation's
direction up to sign. Boxes are compared along the room's axes, which the first camera's true pose
gives. Answers are compared after cleaning. The text-only model has the same language model and was
trained on the same questions without any scene.

## Limits

Rendered rooms only: on real video expect far worse numbers. Boxes are of the 18 ScanNet classes.
Questions outside the templates of SynthRooms get an answer in their style, not a refusal.
"""


def write_card(folder: str | Path, report_file: str | Path, parameters: int, size: int) -> Path:
    """Write README.md beside the weights, in one step.

    Raises:
        FileNotFoundError: the run's facts or the report are missing.
    """
    home = Path(folder)
    sources = (home / "training.json", Path(report_file))
    for source in sources:
        if not source.is_file():
            raise FileNotFoundError(f"card: expected {source}; export and evaluate first")
    training, report = (json.loads(source.read_text()) for source in sources)
    beside = home / f".README.md.{os.getpid()}"
    beside.write_text(card_text(home.name, training, report, parameters, size))
    os.replace(beside, home / "README.md")
    return home / "README.md"


def count_parameters(folder: str | Path) -> int:
    """Parameters stored in a model folder's shards."""
    total = 0
    for shard in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(str(shard), framework="pt") as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in list(file.keys()))
    return total
