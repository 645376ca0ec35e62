# SPDX-License-Identifier: Apache-2.0
"""Public models in a row, put through benchmarks by `vidllm evaluate` within the memory there is.

A step of the memory ladder changes the numbers, so it is part of the run's name and of the report,
and one run has one: what its first process measured. The others, and whoever goes on with the run,
take that step or none. Next: evaluation/predictor_concatenation.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.cli.command import note
from vidllm_ros.cli.within_memory import load_within_memory, reconstruct_within_memory
from vidllm_ros.evaluation.benchmark_run import MEMORY_STEP, read_identity
from vidllm_ros.evaluation.predictor import Float64, SceneView
from vidllm_ros.evaluation.predictor_concatenation import ConcatenationPredictor, fingerprint
from vidllm_ros.evaluation.predictor_vidllm import SeenScene
from vidllm_ros.network.concat_manifest import read_manifest
from vidllm_ros.network.memory_plan import Rung
from vidllm_ros.streaming.loading import LoadedBackend
from vidllm_ros.streaming.memory_probe import MemoryChoice
from vidllm_ros.streaming.model_folders import LoadingError

ALL = "all"


class PredictorWithinMemory(ConcatenationPredictor):
    """Put a concatenation through benchmarks, each scene as the run's step of memory says.

    The step was measured for the first scene, as opening one reads its images. Where it keeps all
    frames, a longer scene is computed whole and the run may stop there for memory
    (evaluate.py); where it keeps so many, it is so many of each scene.

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
        self.memory_step = ""
        if self.memory is not None and self.memory.rung.name != "full":
            self.memory_step = step_as_text(self.memory)
            self.name = f"{self.name} ({words_of(self.memory)})"  # other numbers, another run

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


def words_of(choice: MemoryChoice) -> str:
    """Say what a step gives up, whatever the length of scenes that nothing is given up of."""
    rung = choice.rung
    given_up = [f"language model in {rung.quantize}"] if rung.quantize != "none" else []
    if rung.frames < choice.full_frames:
        given_up.append(f"{rung.frames} frames")
    if rung.shrink < 1:
        given_up.append(f"images at {rung.shrink:.0%}")
    return ", ".join(given_up)


def step_as_text(choice: MemoryChoice) -> str:
    """Write a step down for a run's identity: name, language model, frames, share of the size."""
    rung = choice.rung
    frames = rung.frames if rung.frames < choice.full_frames else ALL
    return f"{rung.name} {rung.quantize} {frames} {rung.shrink:g}"


def step_of_run(run: Path, model: str, frames: int) -> Rung | None:
    """Return the step a run began with; None where there is no run, or another model's.

    Args:
        run: folder of its predictions.
        model: how the run's model is called, without what was given up.
        frames: of a scene nothing is given up of.
    """
    was = read_identity(run)
    if not str(was.get("model", "")).startswith(model):
        return None
    try:
        name, quantize, count, shrink = was.get(MEMORY_STEP, f"full none {ALL} 1").split()
        return Rung(name, quantize, frames if count == ALL else int(count), float(shrink))
    except (ValueError, AttributeError):
        return None  # written by hand: said where the folder is claimed


def open_concatenation(folder: Path, device: str, frames: int, run: Path) -> PredictorWithinMemory:
    """Return public models in a row as a predictor, and say what they are, whose and how much.

    Args:
        folder: of their manifest.
        device: auto, cpu, cuda or cuda:N.
        frames: of a scene.
        run: where its predictions will be; the step of a run that is there already is kept.

    Raises:
        LoadingError: they cannot be loaded, or there is no memory for that step.
    """
    manifest = read_manifest(folder)
    began = step_of_run(run, f"{manifest.title} {fingerprint(folder)}", frames)
    try:
        loaded = load_within_memory(manifest.backend, folder, device, frames, began)
    except LoadingError as error:
        if began is None or "memory" not in str(error):
            raise
        raise LoadingError(
            f"{run}: expected memory for {began.words}, as the run began: {error}, or remove "
            "the folder and begin anew"
        ) from error
    for line in (str(loaded), *loaded.notes):
        note(line)
    return PredictorWithinMemory(loaded, folder)
