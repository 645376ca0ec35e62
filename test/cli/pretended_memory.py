# SPDX-License-Identifier: Apache-2.0
"""`vidllm evaluate` where each process finds memory for another step of the ladder.

PRETENDED_STEPS names for each rank the largest step there is memory for, as measured once a model
is loaded.
"""

from __future__ import annotations

import os
from typing import Any

from vidllm_ros.cli import evaluate
from vidllm_ros.network.memory_plan import STEP_NAMES
from vidllm_ros.streaming import memory_probe
from vidllm_ros.streaming.memory_probe import MemoryChoice


def choose_step(
    prospect: Any, model: Any, device: Any, rungs: Any, frames: int, wanted: str
) -> MemoryChoice:
    """Take the first step that is small enough."""
    largest = os.environ["PRETENDED_STEPS"].split()[int(os.environ.get("RANK", "0"))]
    for rung in rungs:
        if STEP_NAMES.index(rung.name) >= STEP_NAMES.index(largest):
            return MemoryChoice(rung, frames, f"{rung.words}: pretended")
    raise memory_probe._no_room(rungs[-1])


if __name__ == "__main__":
    memory_probe.choose_step = choose_step
    raise SystemExit(evaluate.main())
