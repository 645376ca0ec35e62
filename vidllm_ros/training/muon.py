# SPDX-License-Identifier: Apache-2.0
"""Muon whose Newton-Schulz iteration runs in a precision the device is fast in.

`torch.optim.Muon` orthogonalises in bfloat16 wherever it runs. A CPU without bfloat16 units
multiplies such matrices fifty times slower than float32 ones, and a step of nano then waits longer
for the optimizer than for the network. Matrices of one shape are taken side by side.
Source: K. Jordan et al., "Muon: An optimizer for hidden layers"; state as torch's, so that its
checkpoints go on. Next: optimizer.py, which calls it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MATCH_ADAMW = 0.2  # RMS of AdamW's steps; source: Moonshot, "Muon is Scalable for LLM Training"


def orthogonalise(
    matrices: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> Tensor:
    """Replace the singular values of matrices by numbers around 1, in the matrices' own type.

    Args:
        matrices: (n, rows, columns).
        coefficients: of the quintic polynomial a step applies to them.
        steps: how often.
        eps: smallest norm that is divided by.

    Returns:
        as `matrices`.
    """
    a, b, c = coefficients
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    found = matrices.mT if is_tall else matrices
    found = found / found.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = found @ found.mT
        change = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        found = torch.baddbmm(found, change, found, beta=a)
    return found.mT if is_tall else found


class Muon(torch.optim.Muon):
    """torch's Muon, on a CPU in float32; steps as long as AdamW's.

    Args:
        matrices: hidden linear maps, two dimensions each.
        lr: as AdamW's.
        weight_decay: decoupled.
    """

    def __init__(self, matrices: list[torch.nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(
            matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Take one step; with a closure, return its loss."""
        if any(p.device.type != "cpu" for group in self.param_groups for p in group["params"]):
            return super().step(closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    alike[matrix.shape].append(matrix)
            for matrices in alike.values():
                self._move(matrices, group)
        return loss

    def _move(self, matrices: list[Tensor], group: dict[str, Any]) -> None:
        """Step matrices of one shape."""
        momentum = group["momentum"]
        updates = []
        for matrix in matrices:
            state, gradient = self.state[matrix], matrix.grad
            if gradient is None:
                raise AssertionError("a matrix without gradient")
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(gradient)
            buffer = state["momentum_buffer"]
            buffer.lerp_(gradient, 1 - momentum)
            updates.append(gradient.lerp(buffer, momentum) if group["nesterov"] else buffer)
        stacked = torch.stack(updates).float()
        turned = orthogonalise(stacked, group["ns_coefficients"], group["ns_steps"], group["eps"])
        rate = group["lr"] * MATCH_ADAMW * math.sqrt(max(matrices[0].shape))
        for matrix, update in zip(matrices, turned, strict=True):
            matrix.mul_(1 - group["lr"] * group["weight_decay"])
            matrix.add_(update, alpha=-rate)
