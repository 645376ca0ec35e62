# SPDX-License-Identifier: Apache-2.0
"""Whose boxes a model works with in a benchmark: a line of the report of `vidllm evaluate`.

A number from given boxes and one from a model's own are two protocols, and where several boxes may
be meant the rule by which a model takes them is part of the number. Next: evaluate_baselines.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vidllm_ros.evaluation.predictor import Predictor

SYNTHROOMS = "synthrooms"
TRUE_BOXES = ("nr3d", "sr3d")
SEVERAL_BOXES = "multi3drefer"
BOX_BENCHMARKS = (SYNTHROOMS, "scan2cap", "scanrefer", SEVERAL_BOXES, *TRUE_BOXES)
SHOWN = 5
PROPOSALS = "given proposals"


def boxes_route(name: str, data: Path, scene_ids: Sequence[str]) -> str | None:
    """Say whose boxes a model works with; None where the benchmark has none.

    Proposals are optional scene by scene: one file too few makes another protocol of the number.
    Of the true boxes those are named that do not exist, because the object has no vertices.
    """
    from vidllm_ros.data.annotations.proposals import find_proposals

    if name not in BOX_BENCHMARKS:
        return None
    if name in TRUE_BOXES:
        return f"chosen among the true ones{objects_left_out(data, scene_ids)}"
    given = 0 if name == SYNTHROOMS else sum(bool(find_proposals(data, s)) for s in scene_ids)
    if given in (0, len(scene_ids)):
        return f"chosen among {PROPOSALS}" if given else "the model's own"
    return f"mixed: {PROPOSALS} in {given} of {len(scene_ids)} scenes, elsewhere its own"


def with_rule(route: str | None, name: str, predictor: Predictor) -> str | None:
    """Add which of given proposals a model takes, where it may take none or several."""
    rule = getattr(predictor, "proposal_rule", "")
    if name != SEVERAL_BOXES or not rule or route is None or PROPOSALS not in route:
        return route
    return f"{route}; of them {rule}"


def objects_left_out(data: Path, scene_ids: Sequence[str]) -> str:
    """Name the annotated objects that cannot be chosen, "" where there are none."""
    from vidllm_ros.data.annotations.scannet_scene import read_scene
    from vidllm_ros.evaluation.scannet_views import without_box

    found = [
        f"{scene_id} object {item.object_id} ({item.label})"
        for scene_id in scene_ids
        for item in without_box(read_scene(data, scene_id))
    ]
    if not found:
        return ""
    more = f", {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"; no candidates, being without vertices: {', '.join(found[:SHOWN])}{more}"
