# SPDX-License-Identifier: Apache-2.0
"""How much of a window this machine has memory for: measured once, when the network is loaded.

A small window is run and what it took is held against the account of network/memory_plan.py; so
corrected, the account says which step of the ladder fits what is free, and where that is tight the
whole window is run as well. Next: loading.py, which asks; memory_steps.py, when memory ends later.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import torch

from vidllm_ros.network import memory
from vidllm_ros.network.acceleration import can_quantize
from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.memory_plan import (
    KINDS,
    LEAST_FRAMES,
    SLACK,
    STEP_NAMES,
    MemoryPlan,
    Rung,
    Weights,
    activation_bytes,
    ladder,
    plan_memory,
)
from vidllm_ros.network.vidllm import VidLLM
from vidllm_ros.streaming.memory_steps import MemoryStep, free_memory, is_out_of_memory
from vidllm_ros.structures import Frames

AUTO = "auto"
PROBE_FRAMES = 8
TIGHT = 0.5
"""Share of free memory from which on the whole window is tried, not only reckoned."""
SAMPLE_S = 0.002
NOTHING = Weights(0, 0, 0)


@dataclass(frozen=True)
class MemoryChoice:
    """What was decided at loading.

    Attributes:
        rung: of the ladder.
        full_frames: of a window that nothing is given up of.
        words: which step, and why, for log and diagnostics.
        is_fixed: whether it was fixed by hand.
    """

    rung: Rung
    full_frames: int
    words: str
    is_fixed: bool = False

    @property
    def step(self) -> MemoryStep:
        """The size of windows to begin with and never to exceed."""
        frames = self.rung.frames
        room = frames if frames < self.full_frames else None
        return MemoryStep(frames / self.full_frames, self.rung.shrink, room)


class MemoryMeter:
    """Measures the most memory held while it is open beyond what was held before, bytes."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.peak_bytes = device, 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory-meter", daemon=True)

    def __enter__(self) -> MemoryMeter:
        if self.device.type == "cpu":
            memory.trim_memory()  # what is taken from holes in the heap would not be seen
        self._before = self._held()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
            self.peak_bytes = max(peak - self._before, 0)
        else:
            self._done.set()
            self._thread.join()

    def _held(self) -> int:
        if self.device.type == "cuda":
            return int(torch.cuda.memory_allocated(self.device))
        return memory.resident_bytes()

    def _watch(self) -> None:
        while not self._done.wait(SAMPLE_S):
            self.peak_bytes = max(self.peak_bytes, self._held() - self._before)


def usable_rungs(frames: int, wanted: str, device: torch.device) -> list[Rung]:
    """Return the rungs to choose from: those that can be had here, or the one fixed by hand.

    Where the window is so small that the ladder has no step of that name, the one it is equal to
    is taken: a quarter of 16 frames is half of them, as windows keep at least 8.

    Args:
        frames: of a full window.
        wanted: `AUTO` or one of `STEP_NAMES`.
        device: where the network will run.

    Raises:
        ValueError: there is no such step, it cannot be had here, or it gives up nothing.
    """
    if wanted not in (AUTO, *STEP_NAMES):
        raise ValueError(f"memory_step: expected {AUTO} or one of {STEP_NAMES}, got {wanted!r}")
    if wanted in KINDS and not can_quantize(wanted, device):
        raise ValueError(
            f"memory_step: expected torchao for {wanted} on {device.type} (int4: a GPU), found "
            "none; pip install torchao, or choose another step"
        )
    if wanted == AUTO:
        return ladder(frames, [kind for kind in KINDS if can_quantize(kind, device)])
    at_most = STEP_NAMES.index(wanted)
    equal = [r for r in ladder(frames, [wanted]) if STEP_NAMES.index(r.name) <= at_most][-1]
    if equal.name == "full" != wanted:
        raise ValueError(
            f"memory_step: expected a step that makes a window of {frames} frames smaller, got "
            f"{wanted!r}; take images_75 or images_50, or a window_size above {LEAST_FRAMES}"
        )
    return [equal]


def rungs_left(rungs: Sequence[Rung], chosen: Rung) -> list[Rung]:
    """Return what can still be chosen once weights are loaded as a rung says."""
    if len(rungs) == 1:
        return list(rungs)
    quantized = ladder(rungs[0].frames, [chosen.quantize])
    return [rung for rung in quantized if rung.quantize == chosen.quantize]


def plan_folder(
    folder: Path, device: torch.device, dtype: torch.dtype, rungs: Sequence[Rung]
) -> MemoryPlan:
    """Choose a rung before anything is loaded, from sizes of the files and the account.

    Raises:
        ValueError: not even the last of the rungs fits; with both numbers.
    """
    config = VidLLMConfig.from_pretrained(folder)
    weights = memory.stored_weights(folder, dtype)
    free = memory.free_bytes(str(device))
    size = usual_size(config)
    plan = plan_memory(config, weights, free, size, rungs[0].frames, dtype.itemsize, rungs)
    if not plan.fits:
        raise ValueError(
            f"memory: expected room for {folder.name} on {device}, got none: {plan.words}; take a "
            "smaller model or window_size, free memory, or name another device"
        )
    return plan


def choose_step(
    model: VidLLM, device: torch.device, rungs: Sequence[Rung], full_frames: int, wanted: str
) -> MemoryChoice:
    """Measure the loaded network and choose the largest rung that fits.

    Args:
        model: loaded, quantised as the rungs say.
        device: where it is.
        rungs: to choose from, the largest first; one where it is fixed by hand.
        full_frames: of a window that nothing is given up of.
        wanted: what was asked for, for the words.

    Raises:
        MemoryError: not even the last rung could be run.
    """
    if wanted != AUTO:
        words = f"{rungs[0].words}, fixed by memory_step"
        return MemoryChoice(rungs[0], full_frames, words, is_fixed=True)
    size, width = usual_size(model.config), next(model.parameters()).element_size()
    free = memory.free_bytes(str(device))
    guess = plan_memory(model.config, NOTHING, free, size, full_frames, width, rungs).rung
    begin = list(rungs).index(guess)
    probe, took, failed = _measure(model, device, size, rungs[begin:])
    left = list(rungs[begin + failed :] if failed else rungs)
    if took is None:
        slack, measured = SLACK, f"not measured, as {probe.words} gave no window"
    else:
        slack = max(1.0, took / activation_bytes(model.config, size, probe, width))
        measured = f"measured {took / 2**20:.0f} MiB with {probe.words}"
    while left:
        plan = plan_memory(model.config, NOTHING, free, size, full_frames, width, left, slack)
        words = f"{plan.words} beside the weights, {measured}"
        if plan.needed_bytes < TIGHT * free:
            return MemoryChoice(plan.rung, full_frames, words)
        try:
            tried = run_window(model, device, size, plan.rung)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        else:
            words += ", and tried" if tried is not None else ""
            return MemoryChoice(plan.rung, full_frames, words)
        free_memory()
        left = left[left.index(plan.rung) + 1 :]
    raise _no_room(rungs[-1])


def _measure(
    model: VidLLM, device: torch.device, size: tuple[int, int], rungs: Sequence[Rung]
) -> tuple[Rung, int | None, int]:
    """Run a small window of the first rung, or of the next that is smaller where memory ends.

    Returns:
        the window that was run; bytes it took, None if it was refused; how many of the rungs are
        too much.

    Raises:
        MemoryError: not even the last rung could be run.
    """
    tried: list[Rung] = []
    for index, rung in enumerate(rungs):
        probe = Rung("probe", rung.quantize, min(PROBE_FRAMES, rung.frames), rung.shrink)
        if probe in tried:
            continue
        tried.append(probe)
        try:
            return probe, run_window(model, device, size, probe), index
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        free_memory()  # not inside `except`: the traceback holds the network's tensors
    raise _no_room(rungs[-1])


def _no_room(last: Rung) -> MemoryError:
    return MemoryError(
        f"memory: expected room for a window of {last.words}, and memory ended; free some, "
        "or take a smaller model"
    )


def usual_size(config: VidLLMConfig) -> tuple[int, int]:
    """Return (H, W) at the network of a 4:3 camera, px."""
    patches = config.image_size // config.patch_size
    height = round(0.75 * patches) if config.resize_mode == "width" else patches
    return max(2, height) * config.patch_size, patches * config.patch_size


def run_window(
    model: VidLLM, device: torch.device, size: tuple[int, int], rung: Rung
) -> int | None:
    """Run a made-up window, detection included; return the bytes it took at most.

    None where the network refused the ramp, as it need not have a depth that can be used: how
    much of the window was computed is not known then. Nothing of it is remembered afterwards.
    """
    height, width = size
    row, column = np.mgrid[0:height, 0:width]
    ramp = ((row * 3 + column * 2) % 256).astype(np.uint8)
    images = np.stack([np.roll(ramp, 4 * i, axis=1) for i in range(rung.frames)])
    frames = Frames(
        images=np.repeat(images[..., None], 3, axis=-1),
        stamps_ns=tuple(range(1, rung.frames + 1)),
        frame_id="probe_optical_frame",
    )
    try:
        with MemoryMeter(device) as meter:
            model.detect(model.reconstruct(frames, rung.shrink).scene)
    except ValueError:
        return None
    finally:
        model.eval()  # forgets frames and scenes
    return meter.peak_bytes
