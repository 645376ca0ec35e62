# SPDX-License-Identifier: Apache-2.0
"""Goes on with fewer frames where memory ran out, and lets no broken number through.

Stands between the session and the network: a window that does not fit is computed again at once
with half its frames, and so are those after it; when enough of them went well, twice as many are
tried again. A reconstruction that is not finite is refused here, before it can spoil the map.
Next: streaming/session.py, which sees an ordinary backend.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from vidllm_ros.streaming.backend import Backend
from vidllm_ros.structures import Answer, Frames, GroundedBox, Reconstruction, SceneContext

LEAST_FRAMES = 2
TRY_MORE_AFTER = 32
"""Windows in a row that must go well before twice as many frames are tried again."""
_WORDS = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether memory ran out: torch has a type for a GPU's, and words for a CPU's."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS)


def spread_frames(frames: Frames, count: int) -> Frames:
    """Choose `count` frames: the newest quarter, by which windows join, and a spread of the rest.

    Args:
        frames: of a window, oldest first.
        count: how many, at least 2 and fewer than there are.
    """
    newest = max(1, count // 4)
    spread = np.linspace(0, len(frames) - newest - 1, count - newest).round().astype(int)
    return frames.select([*spread.tolist(), *range(len(frames) - newest, len(frames))])


def check_finite(reconstruction: Reconstruction) -> None:
    """Refuse poses, intrinsics or a scale that are not numbers.

    Raises:
        ValueError: naming the first that is not finite, and in how many frames.
    """
    for name in ("T_world_camera", "K"):
        values = getattr(reconstruction, name)
        bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
        if bad.any():
            raise ValueError(
                f"{name}: expected finite numbers from the network, got NaN or infinity in "
                f"{int(bad.sum())} of {len(bad)} frames; the window is left out"
            )
    scale = reconstruction.scale
    if not (np.isfinite(scale) and scale > 0):
        raise ValueError(
            f"scale: expected a positive number from the network, got {scale}; the window is "
            "left out"
        )
    if not np.isfinite(reconstruction.depth[reconstruction.valid]).all():
        raise ValueError(
            "depth: expected finite values where valid, got NaN or infinity from the network; "
            "the window is left out"
        )


class SteppingBackend:
    """A backend that takes a smaller step when memory runs out; the rest it hands on.

    Attributes:
        frame_limit: frames that a window may have now; None while there was no lack of memory.
    """

    def __init__(
        self,
        backend: Backend,
        free_memory: Callable[[], object],
        on_step: Callable[[str], None],
    ) -> None:
        """Wrap a backend.

        Args:
            backend: the network.
            free_memory: hands what nobody holds back to the device.
            on_step: told in a sentence whenever the number of frames changes.
        """
        self._backend = backend
        self._free_memory = free_memory
        self._on_step = on_step
        self._went_well = 0
        self.frame_limit: int | None = None

    def reconstruct(self, frames: Frames) -> Reconstruction:
        """Reconstruct the window, with fewer frames where all do not fit.

        Raises:
            ValueError: the network gave numbers that are not finite.
            Exception: whatever the network raises; lack of memory only with the fewest frames.
        """
        self._try_more(len(frames))
        while True:
            limit = self.frame_limit
            chosen = frames if limit is None or limit >= len(frames) else spread_frames(
                frames, limit
            )  # fmt: skip
            lack = ""
            try:
                result = self._backend.reconstruct(chosen)
            except Exception as error:
                if not is_out_of_memory(error) or len(chosen) <= LEAST_FRAMES:
                    raise
                lack = str(error).strip().split("\n")[0] or type(error).__name__
            if not lack:
                check_finite(result)
                self._went_well += 1
                return result
            # Out of the handler: the exception no longer holds the network's tensors.
            self._step_down(len(chosen), lack)

    def _step_down(self, count: int, lack: str) -> None:
        self.frame_limit = max(LEAST_FRAMES, count // 2)
        self._went_well = 0
        self._free_memory()
        self._on_step(
            f"out of memory with {count} frames ({lack[:200]}): going on with {self.frame_limit} "
            "a window; a smaller window_size, another device or a smaller model avoids it"
        )

    def _try_more(self, count: int) -> None:
        """Undo a step after a while: what took the memory may be gone."""
        limit = self.frame_limit
        if limit is None or self._went_well < TRY_MORE_AFTER:
            return
        self._went_well = 0
        self.frame_limit = 2 * limit if 2 * limit < count else None
        self._on_step(f"memory sufficed for {TRY_MORE_AFTER} windows: trying {2 * limit} frames")

    def answer(self, scene: SceneContext, question: str) -> Answer:
        """Answer; a lack of memory frees what nobody holds, and is tried once more."""
        try:
            return self._backend.answer(scene, question)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        self._free_memory()
        return self._backend.answer(scene, question)

    def detect(self, scene: SceneContext) -> tuple[GroundedBox, ...]:
        return self._backend.detect(scene)

    def ground(self, scene: SceneContext, phrase: str) -> tuple[GroundedBox, ...]:
        return self._backend.ground(scene, phrase)

    def describe(self, scene: SceneContext, box: GroundedBox) -> Answer:
        return self._backend.describe(scene, box)
