# SPDX-License-Identifier: Apache-2.0
"""Stage 1's teachers among public checkpoints: VGGT's DINO, and CLIP's vision tower.

Next: convert_plan.py, which names them beside the network.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from vidllm_ros.network import convert_language as words
from vidllm_ros.network.convert import VGGT_ENCODER, KeyReport, Shape, assemble
from vidllm_ros.network.convert_sources import Source, blaming, first_of

GEOMETRY_TEACHER, SEMANTIC_TEACHER = "teachers/geometry", "teachers/semantic"


def match_teachers(
    sources: Mapping[str, Source],
) -> tuple[CLIPVisionConfig | None, dict[str, dict[str, Shape]], dict[str, tuple[str, KeyReport]]]:
    """Return stage 1's teachers: VGGT's DINO, and the vision tower of CLIP or of a LLaVA."""
    teachers: dict[str, dict[str, Shape]] = {}
    reports: dict[str, tuple[str, KeyReport]] = {}
    if "vggt" in sources:
        meta = sources["vggt"].files.meta()
        own = {n: tuple(t.shape) for n, t in meta.items() if n.startswith(VGGT_ENCODER)}
        teachers[GEOMETRY_TEACHER] = own
        targets = {name: (name,) if name in own else () for name in meta}
        reports[GEOMETRY_TEACHER] = ("vggt", assemble(meta, targets, own)[1])
    option = first_of(
        sources,
        ("clip", "llava_3d", "llava"),
        lambda s: words.has_tower(s.shapes, only_inside=s.option != "clip"),
    )
    if option is None:
        if "clip" in sources:
            raise ValueError("clip: expected a CLIP vision tower among its tensors, got none")
        return None, teachers, reports
    source = sources[option]
    config = blaming(option, words.tower_config, source.shapes, source.config)
    with torch.device("meta"):
        state = CLIPVisionModel(config).state_dict()
    places = {name: tuple(t.shape) for name, t in state.items()}
    targets = {}
    for name in source.shapes:
        target = words.tower_target(name, places)
        targets[name] = () if target is None else (target,)
    report = blaming(option, assemble, source.files.meta(), targets, places)
    if report.missing:
        raise ValueError(
            f"{option}: expected a whole vision tower, got none of {report.missing[0]} "
            f"and {len(report.missing) - 1} more"
        )
    teachers[SEMANTIC_TEACHER] = places
    reports[SEMANTIC_TEACHER] = (option, report)
    return config, teachers, reports
