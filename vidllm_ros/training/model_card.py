# SPDX-License-Identifier: Apache-2.0
"""The card beside the weights, written by code from what the run and the benchmark left behind.

Numbers come from `training.json` (the run) and `report.json` (the benchmark); a metric that was not
measured is not on the card. Next: cli/train.py.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from safetensors import safe_open

# Metric, words, its trivial rival and that rival's words; whether more is better.
ROWS: tuple[tuple[str, str, str, str, bool], ...] = (
    ("depth_absrel", "depth AbsRel, no alignment", "baseline_constant_depth_absrel", "constant depth", False),
    ("depth_delta1", "depth delta < 1.25, no alignment", "baseline_constant_depth_delta1", "constant depth", True),
    ("scale_error_median", "scene scale error, median", "baseline_constant_scale_error_median", "constant depth", False),
    ("pose_maa30", "pose mAA(30)", "baseline_still_pose_maa30", "still camera", True),
    ("fscore_10cm", "cloud F-score at 10 cm", "baseline_constant_fscore_10cm", "constant depth, still camera", True),
    ("fscore_5cm", "cloud F-score at 5 cm", "baseline_constant_fscore_5cm", "constant depth, still camera", True),
    ("qa_em", "questions, exact match", "baseline_most_frequent_in_family_qa_em", "most frequent answer of the family", True),
    ("qa_em", "questions, exact match", "qa_em_text_only", "text-only language model", True),
    ("grounding_acc25", "grounding Acc@0.25", "baseline_mean_box_grounding_acc25", "mean box", True),
    ("grounding_acc50", "grounding Acc@0.5", "baseline_mean_box_grounding_acc50", "mean box", True),
    ("caption_cider50", "captions CIDEr@0.5", "", "", True),
)  # fmt: skip


def table(report: dict[str, Any]) -> str:
    """Metrics beside their rivals, as Markdown; says which rival is not beaten."""
    lines = ["| metric | this model | baseline | which baseline |", "|---|---|---|---|"]
    for name, words, rival, rival_words, more_is_better in ROWS:
        if name not in report:
            continue
        ours = float(report[name])
        if rival in report:
            theirs = float(report[rival])
            beaten = ours > theirs if more_is_better else ours < theirs
            note = rival_words if beaten else f"{rival_words} (not beaten)"
            lines.append(f"| {words} | {ours:.3f} | {theirs:.3f} | {note} |")
        elif not rival:
            lines.append(f"| {words} | {ours:.3f} | | |")
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
    """The whole card, Markdown."""
    recipe = training["recipe"]
    data = recipe["data"]
    commands = training.get("commands", {})
    return f"""---
license: apache-2.0
library_name: vidllm_ros
---
# {name}

A Vid-LLM (arXiv 2509.24385) of {parameters / 1e6:.1f} million parameters for two CPU cores: metric depth, camera
poses, object boxes and answers from a handheld video of a room. Trained from scratch on rendered rooms
(SynthRooms) by this project; it has never seen a photograph. bfloat16, {size_bytes / 1e6:.1f} MB.

## How it was made

| | |
|---|---|
| command | `{commands.get("train", "not recorded")}` |
| export | `{commands.get("export", "not recorded")}` |
| evaluation | `{commands.get("evaluate", report.get("command", "not recorded"))}` |
| seed | {recipe["seed"]} |
| data | SynthRooms, train split; {training.get("rooms", "?")} rooms, {training["scenes"]} windows of {data["min_frames"]} to {max(data["max_frames"], data["long_max_frames"] if data["long_share"] else 0)} frames of {data["height"]}x{data["width"]} px |
| steps | {training["steps"]}, {data["frames_per_batch"]} frames a step at most |
| time | {training["minutes"]:.0f} minutes of wall time |
| hardware | {training.get("hardware", "not recorded")} |
| optimizer | {recipe["optimizer"]["name"]}, {recipe["optimizer"]["schedule"]}, averaged weights |

## Measured on {report.get("rooms", "?")} unseen rooms (seeds {report.get("seeds", "?")}), {report.get("frames", "?")} frames each

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
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())
    return total
