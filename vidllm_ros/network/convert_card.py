# SPDX-License-Identifier: Apache-2.0
"""What a converted checkpoint says of itself: where each part comes from, and under which licence.

The card is written from the plan alone, so it cannot say more than was done; a licence that nobody
states is called unknown. `report_of` is the same for programs, tensor by tensor. Next:
cli/convert.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from vidllm_ros.network.convert import NamedShape
from vidllm_ros.network.convert_plan import Plan, part_of
from vidllm_ros.network.convert_sources import Source
from vidllm_ros.network.convert_teachers import GEOMETRY_TEACHER, SEMANTIC_TEACHER

PART_WORDS = {
    "encoder": "vision encoder",
    "adapter": "cross-task adapter (passes tokens on unchanged)",
    "aggregator": "frame and global attention",
    "camera_head": "camera head",
    "depth_head": "depth head",
    "point_head": "point head (training only)",
    "metric_depth": "metric depth",
    "patches": "3D position embedding",
    "language": "language model",
    "projector": "projector into the language model",
    "places": "embedding of places for the language model",
    "grounding": "grounding decoder",
    "box_features": "embedding of given boxes",
}
SOURCE_WORDS = {
    "vggt": "VGGT",
    "dinov2": "DINOv2 with registers",
    "clip": "CLIP",
    "llava": "LLaVA-1.5",
    "llava_3d": "LLaVA-3D",
    "language_model": "language model",
}
UNTRAINED = "untrained"


@dataclass(frozen=True)
class PartRow:
    """A part of the network, or a teacher.

    Attributes:
        part: its name in the network, or its folder.
        words: what it is.
        option: the source; "" where untrained.
        tensors, parameters: how many.
    """

    part: str
    words: str
    option: str
    tensors: int
    parameters: int


def part_rows(plan: Plan) -> list[PartRow]:
    """Account for every part of the network, then for the teachers."""
    rows = []
    for part in dict.fromkeys(part_of(name) for name in plan.places):
        names = [name for name in plan.places if part_of(name) == part]
        options = sorted({plan.pieces[n].option for n in names if n in plan.pieces})
        size = sum(prod(plan.places[name]) for name in names)
        rows.append(PartRow(part, PART_WORDS[part], "".join(options), len(names), size))
    titles = {GEOMETRY_TEACHER: "stage 1: VGGT's encoder", SEMANTIC_TEACHER: "stage 1: CLIP"}
    for folder, places in plan.teachers.items():
        option = next(iter(plan.teacher_pieces[folder].values())).option
        size = sum(prod(shape) for shape in places.values())
        rows.append(PartRow(folder, titles[folder], option, len(places), size))
    return rows


def report_of(plan: Plan, sources: Mapping[str, Source]) -> dict[str, Any]:
    """Return the whole key report as plain values: used, missing, left over, and the parts."""
    return {
        "parts": [{**vars(row), "source": row.option or UNTRAINED} for row in part_rows(plan)],
        "sources": {
            option: {
                "where": source.located.where,
                "licence": source.located.licence,
                "tensors": len(source.files.tensors),
                "used": [
                    {**_entry(used.source), "targets": [_entry(t) for t in used.targets]}
                    for used in plan.reports[option].used
                ],
                "left_over": [_entry(left) for left in plan.reports[option].left_over],
            }
            for option, source in sources.items()
        },
        "missing": [_entry(missing) for missing in plan.missing],
        "notes": list(plan.notes),
    }


def _entry(named: NamedShape) -> dict[str, Any]:
    return {"name": named.name, "shape": list(named.shape)}


def card_text(name: str, plan: Plan, sources: Mapping[str, Source], command: str) -> str:
    """Write the whole card, Markdown."""
    rows = part_rows(plan)
    parts = [
        f"| {row.words} | `{row.part}` | {row.parameters / 1e6:.2f} M | {_origin(row, sources)} |"
        for row in rows
    ]
    licences = [
        f"| {SOURCE_WORDS[option]} | `{source.located.where}` | {source.located.licence} | "
        f"{len(plan.reports[option].used)} of {len(source.files.tensors)} |"
        for option, source in sources.items()
    ]
    untrained = ", ".join(row.words for row in rows if not row.option) or "nothing"
    notes = "\n".join(f"- {note}" for note in plan.notes)
    return f"""---
license: other
library_name: vidllm_ros
---
# {name}

A Vid-LLM (arXiv 2509.24385) network filled with public weights. It has not been trained: no public
weights of Vid-LLM exist. Made by `{command}`.

## Where the weights come from

| part | name | parameters | from |
|---|---|---|---|
{chr(10).join(parts)}

## Licences, as given beside the weights

| source | from | licence | tensors used |
|---|---|---|---|
{chr(10).join(licences)}

Every licence above applies to this folder; the strictest decides what it may be used for.

## Still untrained

{untrained}.

{notes}
- {_meaning(plan, rows)}
- Words are untrained as a whole until stage 1 and stage 2: the language model has never read this
  encoder's tokens.

Stage 1 and 2: `config/train/paper_stage1.yaml`, `config/train/paper_stage2.yaml`; how:
docs/public_weights.md. Every tensor: `key_report.json`.
"""


def _origin(row: PartRow, sources: Mapping[str, Source]) -> str:
    if not row.option:
        return f"**{UNTRAINED}** (initial values)"
    source = sources[row.option]
    return f"{SOURCE_WORDS[row.option]} `{source.located.where}`, {source.located.licence}"


def _meaning(plan: Plan, rows: list[PartRow]) -> str:
    """Say what depth and poses of this checkpoint are worth."""
    from_where = {row.part: row.option for row in rows}
    if "vggt" in {from_where["aggregator"]} and from_where["encoder"] == "vggt":
        return (
            "Depth, poses and points are VGGT's, in its own relative unit, not metres "
            f"(`scale_alignment: {plan.config.scale_alignment}`)."
        )
    if from_where["aggregator"] == "vggt":
        return "Depth and poses need stage 1 first: VGGT's aggregator does not know this encoder."
    return "Depth and poses are untrained."
