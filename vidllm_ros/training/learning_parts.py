# SPDX-License-Identifier: Apache-2.0
"""Which parts of the network a stage teaches where its recipe names them; all others stay.

Source: ours (docs/deviations.md, D79, D80). Next: stages.py and words_stage.py, which ask.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from torch import nn

from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.vidllm import VidLLM
from vidllm_ros.training.recipe import Recipe

WORDS = ("projector", "places", "language", "grounding", "box_features")
"""Parts of the language branch: all that the words stage may teach."""
BOXES = tuple(f"box_features.{name}" for name in ("content", "center", "size", "norm"))
"""Of the given boxes' features, what answers and phrases share."""


def learning_parts(model: VidLLM, recipe: Recipe) -> list[nn.Module]:
    """Return the parts that learn; a tied weight learns wherever it is.

    Args:
        model: the network.
        recipe: names module paths in `learn`, in the words stage inside WORDS; without, all that
            the stage may teach.

    Raises:
        ValueError: a path leads nowhere, out of what the stage may teach, or to what no loss of
            the recipe reaches; or a loss reaches nothing that learns.
    """
    modules = dict(model.named_modules())
    parts = [name for name, _ in model.named_children()]
    advice = "the joint stage teaches the whole network"
    if recipe.stage == "words":
        parts = [name for name in WORDS if name in modules]
        advice = "geometry and meaning learn in stages 'joint' and 'distil'"
    for name in recipe.learn:
        if name not in modules or name.split(".")[0] not in parts:
            known = [path for path in modules if path.split(".")[0] in parts]
            near = [] if name in modules else difflib.get_close_matches(name, known, n=1)
            advice = f"did you mean {near[0]}?" if near else advice
            raise ValueError(f"learn: expected modules of {parts}, got {name!r}; {advice}")
        if not any(True for _ in modules[name].parameters()):
            raise ValueError(f"learn: expected modules with weights, got {name!r}, which has none")
    if recipe.learn:
        refuse_idle(recipe, reach(recipe, model.config))
    return [modules[name] for name in recipe.learn or parts]


def refuse_idle(recipe: Recipe, reached: dict[str, tuple[str, ...]]) -> None:
    """Refuse parts that no loss teaches, and losses that teach no part.

    Args:
        recipe: names parts in `learn`.
        reached: module paths by loss, see `reach`.
    """
    weights = {name: getattr(recipe.losses, name) for name in reached}
    for part in recipe.learn:
        teachers = [name for name, paths in reached.items() if overlap(part, paths)]
        if not any(weights[name] for name in teachers):
            fix = " or ".join(f"losses.{name}" for name in teachers)
            raise ValueError(
                f"learn: expected modules that a loss reaches, got {part!r}; "
                + (f"set {fix} above 0" if fix else "this stage has none for it")
            )
    for name, paths in reached.items():
        if weights[name] and not any(overlap(part, paths) for part in recipe.learn):
            raise ValueError(
                f"losses.{name}: expected 0 where {list(recipe.learn)} learn alone, which it does "
                f"not reach, got {weights[name]}"
            )


def overlap(part: str, paths: Iterable[str]) -> bool:
    """Whether a module path lies inside one of these, or one of them inside it."""
    return any(
        f"{part}.".startswith(f"{path}.") or f"{path}.".startswith(f"{part}.") for path in paths
    )


def reach(recipe: Recipe, config: VidLLMConfig) -> dict[str, tuple[str, ...]]:
    """Return the module paths that each loss of the stage has a gradient for.

    Args:
        recipe: of stage "joint" or "words".
        config: of the network; says what trains the encoder.
    """
    heard = ("projector", "places", "language")
    phrases = (*heard, "grounding", *BOXES, "box_features.feature")
    answers = (*heard, *BOXES, "box_features.to_language")
    if recipe.stage == "words":
        return {"language": answers, "guide_evidence": answers, "grounding": phrases}
    branch = ("encoder", "adapter", "aggregator")
    meaning = ("adapter", "encoder") if config.language_trains_encoder else ("adapter",)
    seen = ("encoder",) if config.metric_trains_encoder else ()
    reached = {
        "camera": (*branch, "camera_head"),
        "depth": (*branch, "depth_head"),
        "metric": (*seen, "metric_depth"),
        "guide_attention": branch,
        "guide_ray": branch,
        "oracle_label": meaning,
        "oracle_color": meaning,
        "language": (*meaning, "patches", *answers),
        "grounding": (*meaning, "patches", *phrases),
    }
    if config.point_head:
        reached["points"] = (*branch, "point_head")
    return reached
