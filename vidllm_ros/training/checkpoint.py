# SPDX-License-Identifier: Apache-2.0
"""A run's checkpoint: one file, whole or not there.

It holds recipe, weights, optimizer, average, place in the run and the generators' states, which is
all a run needs to go on as if it had never stopped. Next: trainer.py.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

CHECKPOINT = "checkpoint.pt"


@dataclass
class RunState:
    """Where a run is.

    Attributes:
        step, scenes: done and seen.
        seconds: of wall time.
        smooth: running means of the logged terms.
    """

    step: int = 0
    scenes: int = 0
    seconds: float = 0.0
    smooth: dict[str, float] = field(default_factory=dict)


def write_atomically(path: Path, content: Any) -> None:
    """`torch.save` beside `path`, then rename: a reader never sees half a file."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    torch.save(content, beside)
    os.replace(beside, path)
