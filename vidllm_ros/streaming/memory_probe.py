# SPDX-License-Identifier: Apache-2.0
"""How much of a window this machine has memory for: measured once, when the network is loaded.

A small window is run and what each of its stages took is held against the account of
network/memory_plan.py; so corrected, the account says which step of the ladder fits what is free,
and where that is tight the whole window is run as well. Vid-LLM and public models in a row are
tried alike (memory_prospect.py). Next: loading.py, which asks; memory_steps.py, when memory ends
later.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

import torch

from vidllm_ros.network import memory
from vidllm_ros.network.memory_plan import (
    MemoryPlan,
    Rung,
    Weights,
    plan_memory,
)
from vidllm_ros.streaming.memory_prospect import Loaded, Prospect, made_up_frames
from vidllm_ros.streaming.memory_rungs import AUTO
from vidllm_ros.streaming.memory_steps import MemoryStep, free_memory, is_out_of_memory

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


@dataclass(frozen=True)
class Trial:
    """A window that was run to be measured.

    Attributes:
        took: bytes by stage, of the stages that came to their end.
        refused: why the next one did not; empty where all did.
    """

    took: dict[str, int]
    refused: str = ""

    def words(self, rung: Rung) -> str:
        """Say what was measured with a rung's window."""
        if not self.took:
            return f"not measured, as {rung.words} gave no window: {self.refused}"
        most = max(self.took.values()) / 2**20
        rest = f", and the rest not: {self.refused}" if self.refused else ""
        return f"measured {most:.0f} MiB with {rung.words}{rest}"


class MemoryMeter:
    """Measures the most memory held while it is open beyond what was held before, bytes.

    Attributes:
        peaks: by stage, see `turn_to`.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.peaks: dict[str, int] = {}
        self._stage = ""
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory-meter", daemon=True)

    @property
    def peak_bytes(self) -> int:
        """The most of all stages."""
        return max(self.peaks.values(), default=0)

    def __enter__(self) -> MemoryMeter:
        self._trim()
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
        self._note()
        if self.device.type != "cuda":
            self._done.set()
            self._thread.join()

    def turn_to(self, stage: str) -> None:
        """Count what is held from here on to a stage of this name."""
        self._note()
        self._trim()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self._stage = stage

    def _trim(self) -> None:
        if self.device.type == "cpu":
            memory.trim_memory()  # what is taken from holes in the heap would not be seen

    def _held(self) -> int:
        if self.device.type == "cuda":
            return int(torch.cuda.memory_allocated(self.device))
        return memory.resident_bytes()

    def _note(self) -> None:
        """Take note of what is held; on a GPU of the most since the stage began."""
        stage = self._stage
        is_gpu = self.device.type == "cuda"
        held = torch.cuda.max_memory_allocated(self.device) if is_gpu else self._held()
        self.peaks[stage] = max(self.peaks.get(stage, 0), held - self._before)

    def _watch(self) -> None:
        while not self._done.wait(SAMPLE_S):
            self._note()


def plan_loading(
    prospect: Prospect[Loaded], device: torch.device, rungs: Sequence[Rung], left_out: str = ""
) -> MemoryPlan:
    """Choose a rung before anything is loaded, from sizes of the files and the account.

    Args:
        prospect: what is to be loaded.
        device: where.
        rungs: to choose from.
        left_out: which others there would be, and why there are not, in words.

    Raises:
        ValueError: not even the last of the rungs fits; with both numbers.
    """
    free = memory.free_bytes(str(device))
    whole_first = device.type == "cpu"
    plan = plan_memory(prospect.account, prospect.weights, free, rungs, whole_first=whole_first)
    if not plan.fits:
        words = f"{plan.words}, with {left_out}" if left_out else plan.words
        raise ValueError(
            f"memory: expected room for {prospect.name} on {device}, got none: {words}; take "
            "a smaller model or window_size, free memory, or name another device"
        )
    return plan


def choose_step(
    prospect: Prospect[Loaded],
    model: Loaded,
    device: torch.device,
    rungs: Sequence[Rung],
    full_frames: int,
    wanted: str,
) -> MemoryChoice:
    """Measure what was loaded and choose the largest rung that fits.

    Args:
        prospect: says how.
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
    free_memory()  # what loading left: a GPU's allocator holds it, and free bytes leave it out
    free = memory.free_bytes(str(device))
    guess = plan_memory(prospect.account, NOTHING, free, rungs).rung
    begin = list(rungs).index(guess)
    probe, trial, failed = _measure(prospect, model, device, rungs[begin:])
    left = list(rungs[begin + failed :] if failed else rungs)
    slack = _slack(trial.took, prospect.account.stage_bytes(probe))
    measured = trial.words(probe)
    while left:
        plan = plan_memory(prospect.account, NOTHING, free, left, slack)
        words = f"{plan.words} beside the weights, {measured}"
        if plan.needed_bytes < TIGHT * free:
            return MemoryChoice(plan.rung, full_frames, words)
        try:
            tried = run_window(prospect, model, device, plan.rung)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        else:
            words += "" if tried.refused else ", and tried"
            return MemoryChoice(plan.rung, full_frames, words)
        free_memory()
        left = left[left.index(plan.rung) + 1 :]
    raise _no_room(rungs[-1])


def _slack(took: Mapping[str, int], reckoned: Mapping[str, float]) -> dict[str, float]:
    """Return how many times a stage took what was reckoned, never below 1."""
    return {stage: max(1.0, took[stage] / reckoned[stage]) for stage in reckoned if stage in took}


def _measure(
    prospect: Prospect[Loaded], model: Loaded, device: torch.device, rungs: Sequence[Rung]
) -> tuple[Rung, Trial, int]:
    """Run a small window of the first rung, or of the next that is smaller where memory ends.

    Returns:
        the window that was run; what it took; how many of the rungs are too much.

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
            return probe, run_window(prospect, model, device, probe), index
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


def run_window(
    prospect: Prospect[Loaded], model: Loaded, device: torch.device, rung: Rung
) -> Trial:
    """Run a made-up window and say what each stage of it took; nothing of it is remembered.

    The network may refuse the ramp, as it need not have a depth that can be used; how much of that
    stage was computed is not known then.
    """
    frames = made_up_frames(prospect.size, rung.frames)
    begun: list[str] = []
    refused = ""
    with MemoryMeter(device) as meter:
        try:
            for stage in prospect.rehearse(model, frames, rung.shrink):
                meter.turn_to(stage)
                begun.append(stage)
        except ValueError as error:
            refused = (str(error).strip().splitlines() or [type(error).__name__])[0]
            del begun[-1:]
    return Trial({stage: meter.peaks[stage] for stage in begun}, refused)
