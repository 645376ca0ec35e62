# SPDX-License-Identifier: Apache-2.0
"""Run the network within the memory there is: frames made small once, smaller windows when short.

Everything but `prepare` and `forget_soon` belongs to the network's thread.
Next: memory_steps.py for the steps, session.py for who calls.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from vidllm_ros.streaming.backend import Backend, ThriftyBackend
from vidllm_ros.streaming.memory_steps import (
    FULL,
    MemoryStep,
    MemorySteps,
    free_memory,
    is_out_of_memory,
    thin_frames,
)
from vidllm_ros.streaming.stopwatch import Stopwatch
from vidllm_ros.streaming.window import Prepare
from vidllm_ros.structures import Answer, Frames, GroundedBox, Reconstruction, SceneContext


class NetworkRunner:
    """A backend, what it can do to save memory, and how small windows must be now."""

    def __init__(self, backend: Backend, first: MemoryStep = FULL) -> None:
        self._backend = backend
        self._thrifty = backend if isinstance(backend, ThriftyBackend) else None
        self._steps = MemorySteps(first)
        self._is_forgetting = False

    @property
    def prepare(self) -> Prepare | None:
        """Makes a frame small on arrival, on any thread; None where the backend cannot."""
        thrifty = self._thrifty
        if thrifty is None:
            return None

        return thrifty.prepare

    def forget_soon(self) -> None:
        """Have the next window begin with nothing remembered of frames; any thread."""
        self._is_forgetting = True

    def compute(
        self, frames: Frames, watch: Stopwatch, known: Collection[int] = ()
    ) -> tuple[Reconstruction, tuple[GroundedBox, ...], str]:
        """Reconstruct a window and find its objects, smaller where memory is short.

        Args:
            frames: the window.
            watch: takes the times of "reconstruct" and "detect".
            known: stamps of frames with a place in the map; some of them are kept in any case.

        Returns:
            the window; its boxes, in the window's world; in words, what was left out.

        Raises:
            MemoryError: not even the smallest step fits.
            ValueError: the network gave numbers that are not finite.
            Exception: whatever else the backend raises.
        """
        if self._is_forgetting:
            self._is_forgetting = False
            self._forget_frames()
        began_at = self._steps.index
        while True:
            try:
                with watch("reconstruct"):
                    rec = self._reconstruct(frames, known)
                with watch("detect"):
                    boxes = self._backend.detect(rec.scene)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error)
            else:
                words = self._steps.words(len(frames))
                self._steps.worked()
                return rec, boxes, words
            self._give_back()  # not inside `except`: the traceback holds the network's tensors
            if not self._steps.down():
                self._steps.back_to(began_at)
                raise MemoryError(
                    f"window: expected memory for its smallest step, got: {reason}; "
                    "free memory, or choose a smaller window_size"
                )

    def answer(self, scene: SceneContext, question: str) -> Answer:
        """Ask; where memory is short once more, with what is remembered of frames given back."""
        try:
            return self._backend.answer(scene, question)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        self._give_back()
        return self._backend.answer(scene, question)

    def _reconstruct(self, frames: Frames, known: Collection[int]) -> Reconstruction:
        step = self._steps.step
        thinned = thin_frames(frames, step, known)
        if self._thrifty is None:
            rec = self._backend.reconstruct(thinned)
        else:
            rec = self._thrifty.reconstruct(thinned, step.shrink)
        check_finite(rec)
        return rec

    def _give_back(self) -> None:
        self._forget_frames()
        free_memory()

    def _forget_frames(self) -> None:
        if self._thrifty is not None:
            self._thrifty.forget_frames()


def check_finite(rec: Reconstruction) -> None:
    """Refuse a window with poses, intrinsics or a scale that would spoil the map.

    Depth that is not finite is harmless: clouds and registration leave it out.

    Raises:
        ValueError: naming what is not finite, and in how many frames.
    """
    for name in ("T_world_camera", "K"):
        values = getattr(rec, name)
        bad = int((~np.isfinite(values).reshape(len(values), -1).all(axis=1)).sum())
        if bad:
            raise ValueError(
                f"{name}: expected finite numbers from the network, got NaN or infinity in "
                f"{bad} of {len(values)} frames; the window is left out"
            )
    if not (np.isfinite(rec.scale) and rec.scale > 0):
        raise ValueError(
            f"scale: expected a positive number from the network, got {rec.scale}; the window is "
            "left out"
        )
