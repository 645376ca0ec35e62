# SPDX-License-Identifier: Apache-2.0
"""What configure makes and cleanup frees: a session, and the one thread that may call the network.

The node's callbacks hand frames and questions in here and return at once; windows are computed on
the worker's thread, which also publishes them. The only file that knows how streaming/ is used.
Next: streaming/session.py.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.network.memory import trim_memory
from vidllm_ros.ros.parameters import NodeParameters
from vidllm_ros.ros.pixel_grid import CameraView, PixelGrid, grid_of
from vidllm_ros.ros.scale_check import ScaleCheck
from vidllm_ros.ros.transform_tree import TransformLookupError
from vidllm_ros.streaming.loading import LoadedBackend
from vidllm_ros.streaming.session import (
    SavedMap,
    Session,
    SessionAnswer,
    SessionSettings,
    WindowOutdatedError,
    WindowResult,
)
from vidllm_ros.streaming.tracking import TrackingSettings
from vidllm_ros.streaming.window import Added, FrameCounts, WindowSettings
from vidllm_ros.streaming.worker import JobKind, Worker, WorkerClosedError
from vidllm_ros.structures import Frames

CLOSE_TIMEOUT_S = 2.0
"""Longest wait for the worker's thread where it is idle, or where the process ends."""
TRIM_EVERY = 8
"""Windows after which freed memory is handed back to the system; costs some milliseconds."""
Locate = Callable[[str, int], NDArray[np.float64]]
"""Optical frame and stamp in ns to T_map_camera; raises where TF does not know it."""


def session_settings(parameters: NodeParameters) -> SessionSettings:
    """Put the node's parameters as the session takes them."""
    return SessionSettings(
        window=WindowSettings(
            size=parameters.window_size,
            stride=parameters.window_stride,
            min_frames=parameters.window_min_frames,
            min_gap_s=parameters.min_gap_s,
            min_motion=parameters.min_motion,
            keyframe_motion=parameters.keyframe_motion,
            max_gap_s=parameters.max_gap_s,
            backward_tolerance_s=parameters.clock_jump_s,
        ),
        map_frame=parameters.world_frame,
        voxel_m=parameters.voxel_m,
        confidence_quantile=parameters.confidence_quantile,
        max_map_points=parameters.max_map_points,
        max_question_chars=parameters.max_question_chars,
        find_up=parameters.find_up,
        tracking=TrackingSettings(min_windows=parameters.object_min_windows),
    )


class Engine:
    """A loaded backend at work.

    Attributes:
        loaded: what computes, and where.
        scale_check: compares measured depth with ours.
        locate: asks TF where a camera was; None where TF is not used.
    """

    def __init__(
        self,
        loaded: LoadedBackend,
        parameters: Callable[[], NodeParameters],
        on_window: Callable[[WindowResult], None],
        on_failed: Callable[[str], None],
        on_warning: Callable[[str], None],
    ) -> None:
        """Start the worker.

        Args:
            loaded: what computes.
            parameters: the node's current ones.
            on_window: called on the worker's thread with each finished window.
            on_failed: called on the worker's thread with a sentence when a window failed.
            on_warning: called there with a sentence when one is less than was asked for.
        """
        self.loaded = loaded
        self.scale_check = ScaleCheck()
        self.locate: Locate | None = None
        self._grid: tuple[CameraView, PixelGrid] | None = None
        self._parameters = parameters
        self._on_window = on_window
        self._on_failed = on_failed
        self._on_warning = on_warning
        self._applied = parameters()
        settings = session_settings(self._applied)
        if loaded.memory is not None:
            settings = replace(settings, largest=loaded.memory.step)
        self._session = Session(loaded.backend, settings)
        self._worker = Worker(self._applied.ask_queue)
        self._is_running = False
        self._questions: set[Future[SessionAnswer]] = set()
        self._changed = threading.Condition()

    # Frames and windows

    def offer(
        self,
        stamp_ns: int,
        rgb: NDArray[np.uint8],
        frame_id: str,
        K: NDArray[np.float64] | None,
        is_remapped: bool = False,
    ) -> Added:
        """Take a frame; a window that becomes ready is computed as soon as the worker is free."""
        added = self._session.add_frame(stamp_ns, rgb, frame_id, K, is_remapped)
        if added.is_ready:
            self._submit(partial=False)
        return added

    def offer_depth(self, stamp_ns: int, depth: NDArray[np.float32], view: CameraView) -> None:
        """Take a measured depth image of the camera's view, (H, W), m, to check the scale by.

        Raises:
            ValueError: the network cannot use images of this view.
        """
        if self._grid is None or self._grid[0] != view:
            self._grid = view, grid_of(self.loaded.backend, view)
        self.scale_check.offer(stamp_ns, depth, self._grid[1])

    def flush(self) -> None:
        """Compute the frames that no window has shown yet, few as they are: the film has ended."""
        self._submit(partial=True)

    def _submit(self, partial: bool) -> None:
        if not self._is_running:
            return
        with contextlib.suppress(WorkerClosedError):  # closed since
            self._worker.submit(lambda: self._compute(partial), JobKind.WINDOW)

    @property
    def counts(self) -> FrameCounts:
        """What became of the frames."""
        return self._session.counts

    @property
    def reduced(self) -> str:
        """How the newest window was cut where memory was short, in words; else empty."""
        newest = self._session.newest
        return newest.reduced if newest else ""

    @property
    def windows_done(self) -> int:
        return self._session.windows_done

    def _compute(self, partial: bool) -> None:
        """Compute and publish the newest window; runs on the worker's thread, never raises."""
        if not self._is_running:
            return
        self._apply()
        window = self._session.take_window(partial)
        if window is None:
            return
        self.scale_check.hold(window.frames.stamps_ns)
        try:
            T_map_camera, problem = self._located(window.frames)
            result = self._session.process(window, T_map_camera)
            if problem and result.registration is None:
                self._on_warning(
                    f"place_by_tf: world {result.world_index} is not placed by TF, its origin is "
                    f"its first camera: {problem}; see that TF has world_frame -> camera at the "
                    "images' stamps, then reset"
                )
            self.scale_check.compare(result.reconstruction)
            self._on_window(result)
            del result
            if self._session.windows_done % TRIM_EVERY == 0:
                trim_memory()
        except WindowOutdatedError:
            return  # the world was reset while it was computed
        except Exception as error:
            self._on_failed(f"window {window.index} failed, going on with the next: {error!r}")
        finally:
            with self._changed:
                self._changed.notify_all()

    def _located(self, frames: Frames) -> tuple[NDArray[np.float64] | None, str]:
        """Return T_map_camera of a window's first frame, or None and why TF has none; no raise."""
        locate = self.locate  # once: deactivate clears it on another thread
        if locate is None:
            return None, ""
        try:
            return locate(frames.frame_id, frames.stamps_ns[0]), ""
        except TransformLookupError as error:
            return None, str(error)
        except Exception as error:  # a window that was taken must go to `process`
            return None, repr(error)

    def _apply(self) -> None:
        """Let live parameters act."""
        current = self._parameters()
        if current is not self._applied:
            self._session.change(session_settings(current))
            self._worker.ask_limit = current.ask_queue
            self._applied = current

    def expect_gap(self) -> None:
        """Go on in the same world with the next frame, however late it comes."""
        self._session.expect_gap()

    def reset(self) -> int:
        """Forget map, objects and frames; return the number of the world that begins."""
        return self._session.reset()

    # Questions

    def check_question(self, question: str) -> str:
        """Return the question as the network reads it, or raise a SessionError that says why."""
        self._apply()
        return self._session.check_question(question)

    def ask(self, question: str) -> Future[SessionAnswer]:
        """Put a question to the worker.

        Raises:
            BusyError, WorkerClosedError: it takes none.
        """
        future = self._worker.submit(lambda: self._session.ask(question), JobKind.ASK)
        self._questions.add(future)
        future.add_done_callback(self._questions.discard)
        return future

    def wait_for_window(self, done: int, timeout_s: float) -> bool:
        """Wait until more than `done` windows are computed; False if not in time or stopped."""
        end = time.monotonic() + timeout_s
        with self._changed:
            while self._is_running and self._session.windows_done <= done:
                left = end - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
        return self._session.windows_done > done

    def why_late(self, question: Future[SessionAnswer]) -> str:
        """Say what a question that has no answer yet is waiting for."""
        if question.running():
            return "the network is still answering it"
        ahead = self._worker.waiting_before(question)
        running = {JobKind.WINDOW: "a window", JobKind.ASK: "another question"}
        busy = [running[kind]] if (kind := self._worker.running) else []
        waiting = [f"{ahead} question(s) in front of it"] if ahead else []
        return f"the network has not come to it: {', '.join(busy + waiting) or 'it is next'}"

    @property
    def voxel_m(self) -> float:
        """Edge of the voxels that the map was asked to have."""
        return self._session.settings.voxel_m

    def save_map(self, path: Path) -> SavedMap:
        """Write the map; see `Session.save_map`. Costs the caller's thread, not the worker's."""
        return self._session.save_map(path)

    # Life

    @property
    def is_running(self) -> bool:
        return self._is_running

    def resume(self) -> None:
        """Compute windows from now on; the world goes on where it stood."""
        self._session.expect_gap()
        self._is_running = True

    def pause(self) -> None:
        """Compute no more windows and cancel the questions that wait; the model stays."""
        with self._changed:
            self._is_running = False
            self._changed.notify_all()
        for future in tuple(self._questions):
            future.cancel()

    def close(self, busy_wait_s: float = 0.0) -> bool:
        """End the worker; return whether it ended, or is still inside the network.

        Args:
            busy_wait_s: longest wait where it is inside the network.
        """
        self.pause()
        return self._worker.close(busy_wait_s if self._worker.is_busy else CLOSE_TIMEOUT_S)

    @property
    def wait_for_end(self) -> Callable[[], None]:
        """The function that waits for the closed worker's end, holding no model meanwhile."""
        return self._worker.join
