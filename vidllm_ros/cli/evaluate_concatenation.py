# SPDX-License-Identifier: Apache-2.0
"""Public models in a row, put through benchmarks by `vidllm evaluate` within the memory there is.

A step of the memory ladder changes the numbers, so it is part of the run's name and of the report.
Next: evaluation/predictor_concatenation.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.cli.command import note
from vidllm_ros.cli.within_memory import load_within_memory, reconstruct_within_memory
from vidllm_ros.evaluation.predictor import Float64, SceneView
from vidllm_ros.evaluation.predictor_concatenation import ConcatenationPredictor
from vidllm_ros.evaluation.predictor_vidllm import SeenScene
from vidllm_ros.network.concat_manifest import read_manifest
from vidllm_ros.streaming.loading import LoadedBackend


class PredictorWithinMemory(ConcatenationPredictor):
    """Put a concatenation through benchmarks, each scene as far as there is memory for it.

    Words, boxes and the cloud come from the frames that are computed; depth and poses, which
    benchmarks want of every frame, are refused where some are not.

    Args:
        loaded: a concatenation.
        folder: of its manifest.
    """

    def __init__(self, loaded: LoadedBackend, folder: Path) -> None:
        backend: Any = loaded.backend
        super().__init__(backend, folder)
        self.loaded, self.memory = loaded, loaded.memory
        if self.memory is not None and self.memory.rung.name != "full":
            self.name = f"{self.name} ({self.memory.rung.words})"  # other numbers, another run

    def see(self, view: SceneView) -> SeenScene:
        return SeenScene(view, reconstruct_within_memory(self.loaded, view.frames))

    def depth(self, seen: SeenScene) -> NDArray[np.float32]:
        self._require_all(seen, "depth")
        return super().depth(seen)

    def poses(self, seen: SeenScene) -> Float64:
        self._require_all(seen, "poses")
        return super().poses(seen)

    def _require_all(self, seen: SeenScene, what: str) -> None:
        wanted, there = len(seen.view.frames), len(seen.reconstruction.stamps_ns)
        if there < wanted:
            raise ValueError(
                f"{seen.view.scene_id}: expected memory for {what} of all {wanted} frames, got "
                f"room for {there}; free memory, take a smaller model, or a benchmark of words "
                "or boxes alone"
            )


def open_concatenation(folder: Path, device: str, frames: int) -> PredictorWithinMemory:
    """Return public models in a row as a predictor, and say what they are, whose and how much.

    Args:
        folder: of their manifest.
        device: auto, cpu, cuda or cuda:N.
        frames: of a scene.

    Raises:
        LoadingError: they cannot be loaded.
    """
    loaded = load_within_memory(read_manifest(folder).backend, folder, device, frames)
    for line in (str(loaded), *loaded.notes):
        note(line)
    return PredictorWithinMemory(loaded, folder)
