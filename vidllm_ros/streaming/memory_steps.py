# SPDX-License-Identifier: Apache-2.0
"""Out of memory: compute the same window smaller, say so, and try the full size again later.

First fewer frames, spread over the window, then smaller images: a step costs resolution,
never a window. After some windows that worked the step above is tried; each time that fails, the
next try waits twice as long. Next: runner.py, which climbs these steps.
"""

from __future__ import annotations

import gc
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from vidllm_ros.structures import Frames

FEWEST_FRAMES = 2
_WORDS = (
    "out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory",
    "alloc_failed",
)  # fmt: skip
_PATIENCE, _LONGEST_PATIENCE = 8, 128


@dataclass(frozen=True)
class MemoryStep:
    """How much of a window is computed.

    Attributes:
        frames: share of its frames.
        shrink: share of the network's image size; only backends that can (backend.py) do it.
        room: frames there is memory for, however short the window is; None where only the share
            is known.
    """

    frames: float
    shrink: float
    room: int | None = None


FULL = MemoryStep(1.0, 1.0)
STEPS = (
    FULL,
    MemoryStep(0.75, 1.0),
    MemoryStep(0.5, 1.0),
    MemoryStep(0.25, 1.0),
    MemoryStep(0.25, 0.75),
    MemoryStep(0.25, 0.5),
)


class MemorySteps:
    """Where on the steps the session stands; used by the network's thread alone.

    Args:
        first: where it begins and what it never exceeds: what was chosen when the network was
            loaded (memory_probe.py).
    """

    def __init__(self, first: MemoryStep = FULL) -> None:
        below = (s for s in STEPS if _is_below(s, first))
        as_many = (replace(s, room=first.room) if s.frames == first.frames else s for s in below)
        self._steps = (first, *as_many)
        self._index = 0
        self._patience = _PATIENCE
        self._done = 0
        self._climbed = False

    @property
    def step(self) -> MemoryStep:
        return self._steps[self._index]

    @property
    def index(self) -> int:
        """0 is the size to begin with."""
        return self._index

    def down(self) -> bool:
        """Take the next smaller step; False at the last one."""
        if self._climbed:  # the step above was tried and is still too much
            self._patience = min(2 * self._patience, _LONGEST_PATIENCE)
        self._climbed, self._done = False, 0
        if self._index + 1 == len(self._steps):
            return False
        self._index += 1
        return True

    def back_to(self, index: int) -> None:
        """Return to a step: not even the smallest worked, so size was not the matter."""
        self._index, self._done, self._climbed = index, 0, False

    def worked(self) -> None:
        """Note that a window was computed; after enough of them the step above is tried."""
        if self._climbed:
            self._climbed, self._patience = False, _PATIENCE
        if self._index == 0:
            return
        self._done += 1
        if self._done >= self._patience:
            self._index -= 1
            self._done, self._climbed = 0, True

    def words(self, frames: int) -> str:
        """Say in words what a window of so many frames is reduced to; empty at the first step."""
        if self._index == 0:
            return ""
        step = self.step
        size = "" if step.shrink == 1 else f", images at {step.shrink:.0%} of the network's size"
        return f"short of memory: {count_of(frames, step)} of {frames} frames{size}"


def _is_below(step: MemoryStep, first: MemoryStep) -> bool:
    is_within = step.frames <= first.frames and step.shrink <= first.shrink
    return is_within and (step.frames, step.shrink) != (first.frames, first.shrink)


def count_of(frames: int, step: MemoryStep) -> int:
    """Frames of a window of `frames` that a step computes: its share, or those with room."""
    share = max(FEWEST_FRAMES, round(frames * step.frames))
    return min(frames, share if step.room is None else step.room)


def thin_frames(frames: Frames, step: MemoryStep, known: Collection[int] = ()) -> Frames:
    """Choose a step's frames: the newest, a spread of the others, and some that the map knows.

    Args:
        frames: of a window, oldest first.
        step: says how many.
        known: stamps of frames with a place in the map; up to half of the chosen are such, for by
            them the window is joined.
    """
    count = count_of(len(frames), step)
    if count == len(frames):
        return frames
    last = len(frames) - 1
    shared = [i for i, stamp in enumerate(frames.stamps_ns) if stamp in known and i < last]
    chosen = {last, *_spread(shared, count // 2)}
    others = [i for i in range(len(frames)) if i not in chosen]
    chosen.update(_spread(others, count - len(chosen)))
    return frames.select(sorted(chosen))


def _spread(places: Sequence[int], count: int) -> list[int]:
    """Choose `count` evenly, the first and the last among them where there are two or more."""
    if count >= len(places):
        return list(places)
    if count == 1:
        return [places[-1]]
    return [places[int(i)] for i in np.linspace(0, len(places) - 1, count).round()]


def is_out_of_memory(error: BaseException) -> bool:
    """Tell a lack of memory, on the host or a device, from other failures."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS)


def free_memory() -> None:
    """Give back what nobody holds any more, on the host and on a GPU in use."""
    gc.collect(1)  # young cycles: what a failed window left; a full pass takes a second
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
