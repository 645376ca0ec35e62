# SPDX-License-Identifier: Apache-2.0
"""Which rungs of the memory ladder there are to choose from, before and after weights are loaded.

Next: memory_probe.py, which measures them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vidllm_ros.network.acceleration import why_not_quantize
from vidllm_ros.network.memory_plan import KINDS, LEAST_FRAMES, STEP_NAMES, Rung, ladder

AUTO = "auto"


def usable_rungs(
    frames: int, wanted: str, device: torch.device, dtype: torch.dtype = torch.bfloat16
) -> list[Rung]:
    """Return the rungs to choose from: those that can be had here, or the one fixed by hand.

    Where the window is so small that the ladder has no step of that name, the one it is equal to
    is taken: a quarter of 16 frames is half of them, as windows keep at least 8.

    Args:
        frames: of a full window.
        wanted: `AUTO` or one of `STEP_NAMES`.
        device: where the network will run.
        dtype: of its weights.

    Raises:
        ValueError: there is no such step, it cannot be had here, or it gives up nothing.
    """
    if wanted not in (AUTO, *STEP_NAMES):
        raise ValueError(f"memory_step: expected {AUTO} or one of {STEP_NAMES}, got {wanted!r}")
    if wanted in KINDS and (reason := why_not_quantize(wanted, device, dtype)):
        raise ValueError(f"memory_step: {reason}")
    if wanted == AUTO:
        return ladder(
            frames, [kind for kind in KINDS if not why_not_quantize(kind, device, dtype)]
        )
    at_most = STEP_NAMES.index(wanted)
    equal = [r for r in ladder(frames, [wanted]) if STEP_NAMES.index(r.name) <= at_most][-1]
    if equal.name == "full" != wanted:
        raise ValueError(
            f"memory_step: expected a step that makes a window of {frames} frames smaller, got "
            f"{wanted!r}; take images_75 or images_50, or a window_size above {LEAST_FRAMES}"
        )
    return [equal]


def rungs_loaded_as(
    rung: Rung, frames: int, device: torch.device, dtype: torch.dtype
) -> list[Rung]:
    """Return the rungs whose weights are loaded as those of one that was chosen before.

    Before loading, room for the weights is all that is asked: windows are measured afterwards.

    Args:
        rung: that was chosen.
        frames: of a full window.
        device: where the network will run.
        dtype: of its weights.

    Raises:
        ValueError: its language model cannot be quantised here.
    """
    if rung.quantize in KINDS and (reason := why_not_quantize(rung.quantize, device, dtype)):
        raise ValueError(f"memory: expected {rung.words}, as was chosen before: {reason}")
    return [one for one in ladder(frames, [rung.quantize]) if one.quantize == rung.quantize]


def rungs_left(rungs: Sequence[Rung], chosen: Rung) -> list[Rung]:
    """Return what can still be chosen once weights are loaded as a rung says."""
    if len(rungs) == 1:
        return list(rungs)
    quantized = ladder(rungs[0].frames, [chosen.quantize])
    return [rung for rung in quantized if rung.quantize == chosen.quantize]
