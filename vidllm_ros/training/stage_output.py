# SPDX-License-Identifier: Apache-2.0
"""What a stage and the trainer say to each other, and nothing more.

A stage is a module whose forward takes a batch and the run's progress and returns a `StageOutput`;
its `model` is what is shipped of it. Next: trainer.py drives stages, stages.py has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from vidllm_ros.training.run_log import Validated


@dataclass(frozen=True)
class StageOutput:
    """What a step gives.

    Attributes:
        loss: scalar to minimise.
        terms: named scalars for the log, on the loss's device; every process names the same.
        scenes: how many scenes were seen.
    """

    loss: Tensor
    terms: Mapping[str, Tensor]
    scenes: int


class Stage(Protocol):
    """A module to train: `forward(batch, progress)`; `model` is what is shipped of it."""

    model: nn.Module

    def __call__(self, batch: Any, progress: float) -> StageOutput: ...


class Validator(Protocol):
    """Looks at a stage from time to time; cli/validation.py has one."""

    def __call__(self, stage: nn.Module, folder: Path, step: int) -> Validated: ...
