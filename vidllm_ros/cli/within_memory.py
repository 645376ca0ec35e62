# SPDX-License-Identifier: Apache-2.0
"""Public models in a row on the command line, within the memory there is: the node's own ladder.

They are many times the bundled network, so `vidllm infer` and `vidllm evaluate` measure at loading
how much of a window there is room for, as the node does at configure, and say which step they take
and why. Next: evaluate_concatenation.py; streaming/memory_probe.py, which measures.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from vidllm_ros.cli.command import note
from vidllm_ros.streaming.loading import CONCATENATIONS, BackendName, Fit, load_backend

if TYPE_CHECKING:
    from vidllm_ros.network.memory_plan import Rung
    from vidllm_ros.streaming.backend import ThriftyBackend
    from vidllm_ros.streaming.loading import LoadedBackend
    from vidllm_ros.structures import Frames, Reconstruction


def load_within_memory(
    name: BackendName | str, model: str | Path, device: str, frames: int, rung: Rung | None = None
) -> LoadedBackend:
    """Load what computes; of public models in a row no more than there is room for, and say so.

    Args:
        name: who computes.
        model: folder of the weights, or the name of a bundled model.
        device: auto, cpu, cuda or cuda:N.
        frames: that are to be computed at once.
        rung: of the memory ladder, the only one to take; None takes the largest that fits.

    Raises:
        LoadingError: it cannot be loaded, or not even the smallest step fits.
    """
    fit = Fit(frames, rung=rung) if BackendName(name) in CONCATENATIONS else None
    loaded = load_backend(name, model, device, fit=fit)
    if loaded.memory is not None:
        note(f"memory for {loaded.memory.words}" + (", as the run began" if rung else ""))
    return loaded


def reconstruct_within_memory(loaded: LoadedBackend, frames: Frames) -> Reconstruction:
    """Reconstruct frames as the step chosen at loading says; first and last are among them.

    More frames than were measured then are computed whole where the step keeps them all.
    """
    if loaded.memory is None:
        return loaded.backend.reconstruct(frames)
    from vidllm_ros.streaming.memory_steps import thin_frames

    step, backend = loaded.memory.step, cast("ThriftyBackend", loaded.backend)
    return backend.reconstruct(thin_frames(frames, step), step.shrink)
