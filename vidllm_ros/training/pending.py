# SPDX-License-Identifier: Apache-2.0
"""A step whose numbers may still be on their way from the GPU.

Reading a number makes the CPU wait for the GPU; the trainer therefore reads a step's numbers, all
at once, while the next one runs. Next: trainer.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pending:
    """A step that was made and not yet looked at.

    Attributes:
        place: where the run was after it, for the log: "step", "scenes", "seconds", "progress".
        batch: what it learnt from.
        names: of the numbers.
        numbers: the loss, the gradient's norm and the terms, (T,).
        measured: what is known without the GPU.
    """

    place: Mapping[str, Any]
    batch: Any
    names: tuple[str, ...]
    numbers: Tensor
    measured: Mapping[str, float]

    @property
    def step(self) -> int:
        return int(self.place["step"])

    def read(self) -> dict[str, float]:
        """Wait for the numbers and return them by name."""
        values = self.numbers.tolist()
        return {**self.measured, **dict(zip(self.names, values, strict=True))}


def stack_numbers(
    loss: Tensor, norm: Tensor, terms: Mapping[str, Tensor]
) -> tuple[tuple[str, ...], Tensor]:
    """Put a step's numbers into one tensor, terms in the order of their names."""
    names = tuple(sorted(terms))
    values = [loss.detach(), norm.detach(), *(terms[name] for name in names)]
    stacked = torch.stack([value.to(loss.device).float() for value in values])
    return ("loss", "gradient_norm", *names), stacked


def what_is_not_finite(numbers: Mapping[str, float]) -> str:
    """Say which of the loss and the gradient is not a number; "" where both are."""
    for name, words in (("loss", "the loss"), ("gradient_norm", "the gradient's norm")):
        if not math.isfinite(numbers[name]):
            return f"{words} is {numbers[name]}"
    return ""
