# SPDX-License-Identifier: Apache-2.0
"""What moves the weights: AdamW, or Muon beside it, a schedule over progress, and an average.

Progress is a number from 0 to 1, not a step count, so that a run bounded by wall time ends with
its learning rate decayed whatever the machine did. Next: trainer.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from vidllm_ros.training.muon import Muon
from vidllm_ros.training.recipe_parts import OptimizerRecipe
from vidllm_ros.training.sharding import clip_norm, cut, cut_like, local

# Tables and final projections are matrices by shape only: Muon is for hidden linear maps.
NOT_MUON = ("embed", "lm_head", "position_embeddings", "token", "oracle", "teacher")


def lr_factor(progress: float, recipe: OptimizerRecipe) -> float:
    """Learning rate over its peak at this progress.

    Args:
        progress: 0 at the first step, 1 at the end.
        recipe: names the schedule.
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress < recipe.warmup:
        return max(progress / recipe.warmup, 1e-3)
    if recipe.schedule == "constant":
        return 1.0
    if recipe.schedule == "wsd":
        start = 1.0 - recipe.decay
        if progress <= start:
            return 1.0
        return recipe.final + (1.0 - recipe.final) * (1.0 - progress) / recipe.decay
    done = (progress - recipe.warmup) / (1.0 - recipe.warmup)
    return recipe.final + (1.0 - recipe.final) * 0.5 * (1.0 + math.cos(math.pi * done))


def split_parameters(
    named: Iterable[tuple[str, nn.Parameter]], muon: bool
) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Sort parameters into (Muon's, AdamW's with decay, AdamW's without decay)."""
    matrices: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        hidden = parameter.ndim == 2 and min(parameter.shape) >= 16
        if muon and hidden and not any(word in name for word in NOT_MUON):
            matrices.append(parameter)
        elif parameter.ndim >= 2 and "embed" not in name and "token" not in name:
            decayed.append(parameter)
        else:
            free.append(parameter)
    return matrices, decayed, free


class Optimizer:
    """One or two torch optimizers behind one step, with a schedule over progress.

    Args:
        module: whose parameters move.
        recipe: names the optimizer and its rates.
    """

    def __init__(self, module: nn.Module, recipe: OptimizerRecipe) -> None:
        self.recipe = recipe
        self.module = module
        muon = recipe.name == "muon"
        matrices, decayed, free = split_parameters(module.named_parameters(), muon)
        adamw = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": recipe.weight_decay},
                {"params": free, "weight_decay": 0.0},
            ],
            lr=recipe.lr,
            betas=recipe.betas,
        )
        self.parts: list[torch.optim.Optimizer] = [adamw]
        self.peaks = [recipe.lr]
        if matrices:
            self.parts.append(Muon(matrices, lr=recipe.muon_lr, weight_decay=recipe.weight_decay))
            self.peaks.append(recipe.muon_lr)

    def step(self, progress: float) -> tuple[Tensor, float]:
        """Clip, set the rates, step and clear; return (gradient norm, learning rate factor).

        On a CPU a gradient that is not finite moves nothing; a GPU is not waited for, its norm
        tells the trainer afterwards.
        """
        parameters = [p for p in self.module.parameters() if p.grad is not None]
        norm = clip_norm(parameters, self.recipe.clip)
        factor = lr_factor(progress, self.recipe)
        if norm.device.type != "cpu" or math.isfinite(float(norm)):
            for part, peak in zip(self.parts, self.peaks, strict=True):
                for group in part.param_groups:
                    group["lr"] = peak * factor
                part.step()
        for part in self.parts:
            part.zero_grad(set_to_none=True)
        return norm, factor

    def state_dict(self) -> list[dict[str, object]]:
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        if len(states) != len(self.parts):
            raise ValueError(
                f"optimizer: expected the state of {len(self.parts)}, got {len(states)}; "
                "the checkpoint was made with another optimizer.name"
            )
        for part, state in zip(self.parts, states, strict=True):
            parameters = [p for group in part.param_groups for p in group["params"]]
            moments = {
                index: {
                    name: value if name == "step" else cut_like(value, parameters[index])
                    for name, value in kept.items()
                }
                for index, kept in state["state"].items()
            }
            part.load_state_dict({**state, "state": moments})


class WeightAverage:
    """Exponential moving average of a module's weights; young averages forget faster.

    Args:
        module: whose floating-point state is averaged; the rest is copied.
        decay: of an old average.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.weights = {
            name: value.detach().clone() for name, value in module.state_dict().items()
        }

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averaged: list[Tensor] = []
        fresh: list[Tensor] = []
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                averaged.append(local(self.weights[name]))
                fresh.append(local(value.detach()))
            else:
                self.weights[name].copy_(value)
        torch._foreach_lerp_(averaged, fresh, 1.0 - decay)

    def state_dict(self) -> dict[str, object]:
        return {"updates": self.updates, "weights": self.weights}

    def load_state_dict(self, state: dict[str, object]) -> None:
        self.updates = int(state["updates"])  # type: ignore[call-overload]
        weights: dict[str, Tensor] = state["weights"]  # type: ignore[assignment]
        for name, value in cut(weights, self.weights).items():
            self.weights[name].copy_(value)
