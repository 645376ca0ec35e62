# SPDX-License-Identifier: Apache-2.0
"""A camera's whole stay in a place: frames in, windows placed in one map, questions answered.

`add_frame` and `reset` may be called from any thread; `process_next` and `ask` belong to the one
thread that owns the network (worker.py). The map is z up with its origin at the first camera.
Next: backend.py for what the network must do, ros/ for the node around this.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.geometry.boxes import transform_boxes
from vidllm_ros.geometry.point_cloud import PointCloud
from vidllm_ros.geometry.window_cloud import window_cloud
from vidllm_ros.prompts import clean_text, place_answer
from vidllm_ros.streaming.backend import Backend, uses_corners
from vidllm_ros.streaming.map_files import write_map
from vidllm_ros.streaming.registration import frames_not_placed
from vidllm_ros.streaming.results import (
    EmptyQuestionError,
    NoWindowYetError,
    QuestionTooLongError,
    SavedMap,
    SessionAnswer,
    SessionError,
    SessionSettings,
    WindowOutdatedError,
    WindowResult,
)
from vidllm_ros.streaming.runner import NetworkRunner
from vidllm_ros.streaming.stopwatch import Stopwatch
from vidllm_ros.streaming.tracking import View
from vidllm_ros.streaming.window import Added, FrameCounts, FrameWindow, Window
from vidllm_ros.streaming.world import World, new_world, place_window
from vidllm_ros.structures import GroundedBox

__all__ = [
    "EmptyQuestionError", "NoWindowYetError", "QuestionTooLongError", "SavedMap", "Session",
    "SessionAnswer", "SessionError", "SessionSettings", "WindowOutdatedError", "WindowResult",
]  # fmt: skip

Float64 = NDArray[np.float64]


class Session:
    """Holds windows, map, objects and the scene that questions are asked of."""

    def __init__(self, backend: Backend, settings: SessionSettings | None = None) -> None:
        self._settings = settings or SessionSettings()
        self._runner = NetworkRunner(backend, self._settings.largest)
        self._lock = threading.RLock()
        self._window = FrameWindow(
            self._settings.window,
            prepare=self._runner.prepare,
            gives_corners=uses_corners(backend),
        )
        self._windows_done = 0
        self._worlds = 0
        self._first_world = 0  # frames of worlds before it were reset
        self._world_of_frames = 0  # the world that the map's frames belong to
        self._world = self._new_world()

    # Any thread

    def add_frame(
        self,
        stamp_ns: int,
        rgb: NDArray[np.uint8],
        frame_id: str = "camera_optical_frame",
        K: NDArray[np.float64] | None = None,
        is_remapped: bool = False,
    ) -> Added:
        """Take a frame; where `is_ready` comes back, a window waits for `take_window`.

        Args:
            stamp_ns: acquisition time.
            rgb: (H, W, 3), uint8; not copied, so the caller must not write to it again.
            frame_id: the camera's optical frame.
            K: intrinsics of this image, (3, 3), px, if known.
            is_remapped: as in `FrameWindow.add`.

        Raises:
            ValueError: the image has another shape.
            TypeError: the image has another type.
        """
        if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.size == 0:
            raise ValueError(f"rgb: expected shape (H, W, 3), got {rgb.shape}; convert it first")
        if rgb.dtype != np.uint8:
            raise TypeError(f"rgb: expected uint8, got {rgb.dtype}; convert it first")
        with self._lock:
            return self._window.add(stamp_ns, rgb, frame_id, K, is_remapped)

    def reset(self) -> int:
        """Forget frames, map, objects and scene; return the number of the world that begins.

        A result of an earlier world may still be on its way from `process`.
        """
        with self._lock:
            self._window.restart()
            self._runner.forget_soon()
            self._first_world = self._window.world
            self._world = self._new_world()
            return self._world.index

    def expect_gap(self) -> None:
        """Go on in the same world with the next frame, however late it comes: after a pause."""
        with self._lock:
            self._window.expect_gap()

    def change(self, settings: SessionSettings) -> None:
        """Take new settings; they act from the next window or question on.

        Raises:
            ValueError: the window's settings differ: those are fixed for a session.
        """
        if settings.window != self._settings.window:
            raise ValueError("window: expected the session's own settings; start a new session")
        with self._lock:
            self._settings = settings
            self._world.tracker.settings = settings.tracking

    def check_question(self, question: str) -> str:
        """Return the question as the network will read it; answers at once, on any thread.

        Raises:
            EmptyQuestionError, QuestionTooLongError, NoWindowYetError: why it cannot be asked.
        """
        limit = self._settings.max_question_chars
        if len(question) > limit:
            raise QuestionTooLongError(
                f"question: expected at most {limit} characters, got {len(question)}; ask shorter"
            )
        words = clean_text(question)
        if not words:
            raise EmptyQuestionError("question: expected words, got none; ask something")
        if self._world.newest is None:
            raise NoWindowYetError(
                f"no window has been computed yet, {self.waiting_frames} frames of "
                f"{self._settings.window.min_frames} are here; wait for the first window"
            )
        return words

    @property
    def settings(self) -> SessionSettings:
        return self._settings

    @property
    def counts(self) -> FrameCounts:
        """What became of the frames so far, as a copy."""
        with self._lock:
            return replace(self._window.counts)

    @property
    def waiting_frames(self) -> int:
        """Frames kept for the next window."""
        with self._lock:
            return self._window.kept_count

    @property
    def windows_done(self) -> int:
        """Windows computed since the session began."""
        return self._windows_done

    @property
    def newest(self) -> WindowResult | None:
        """The result that questions are answered from."""
        return self._world.newest

    @property
    def objects(self) -> tuple[GroundedBox, ...]:
        """Every object known, in the map."""
        with self._lock:
            return self._world.tracker.objects

    @property
    def cloud(self) -> PointCloud:
        """The fused cloud, in the map."""
        with self._lock:
            return self._world.cloud.cloud

    # The network's thread

    def process_next(
        self, partial: bool = False, T_map_camera: Float64 | None = None
    ) -> WindowResult | None:
        """Take the newest window and `process` it; None where none is ready.

        Args:
            partial: where none is ready, take the frames not shown yet, however few they are: for
                a film that has ended.
            T_map_camera: as in `process`.
        """
        window = self.take_window(partial)
        return None if window is None else self.process(window, T_map_camera)

    def take_window(self, partial: bool = False) -> Window | None:
        """Return the newest window not yet taken, or None; the next call must be its `process`.

        Each window keeps frames of the one taken before it, so one that is taken and never
        processed would tear the map.
        """
        with self._lock:
            return self._window.take(partial)

    def process(self, window: Window, T_map_camera: Float64 | None = None) -> WindowResult:
        """Reconstruct a window, place it in the map and learn from it.

        Where memory does not suffice, the same window is computed smaller (memory_steps.py) and
        the result says so.

        Args:
            window: from `take_window`.
            T_map_camera: pose of its first camera where something else knows it (TF), used by the
                first window of a world; without it that camera is at the origin, tilted as the
                window says (geometry/upright.py) or else level.

        Raises:
            WindowOutdatedError: the world was reset meanwhile.
            MemoryError: not even the smallest step fits.
            Exception: whatever the backend raises; the session stays as it was.
        """
        watch = Stopwatch()
        try:
            return self._process(window, T_map_camera, watch)
        except BaseException:
            with self._lock:
                self._window.settle(is_placed=False)
            raise

    def _process(
        self, window: Window, T_map_camera: Float64 | None, watch: Stopwatch
    ) -> WindowResult:
        settings = self._settings
        with self._lock:
            self._require_current(window)
            world = self._world
            is_joinable = window.world == self._world_of_frames
        placed = world.placed if is_joinable else ()
        known = {frame.stamp_ns for frame in placed}
        rec, boxes, reduced = self._runner.compute(window.frames, watch, known)
        with watch("register"):
            place = place_window(placed, rec, T_map_camera, settings.find_up)
        with watch("cloud"):
            points = window_cloud(
                rec, place.T_map_window, settings.confidence_quantile, settings.voxel_m,
                settings.map_frame, settings.max_window_pixels)  # fmt: skip
        found = transform_boxes(place.T_map_window, boxes)
        with self._lock:
            self._require_current(window)
            if (
                place.joined is None and world.placed
            ):  # another camera, a jump of stamps, or a long gap
                world = self._world = self._new_world()
            is_still = window.is_still and bool(world.placed)
            self._world_of_frames = window.world
            with watch("track"):
                depth = np.where(rec.valid, rec.depth, np.inf).astype(np.float32)
                view = View(place.poses_map, rec.K, depth)
                objects = world.tracker.update(found, rec.stamps_ns[-1], view)
            with watch("fuse"):
                if not is_still:  # the same view again would add its errors only
                    world.cloud.add(points.of_frames(frames_not_placed(world.placed, rec)))
            counts = self._window.counts
            result = WindowResult(
                reconstruction=rec,
                T_map_window=place.T_map_window,
                poses_map=place.poses_map,
                cloud=points.cloud,
                objects=objects,
                timings_s=watch.timings_s,
                scale=rec.scale,
                scale_spread=rec.scale_spread,
                dropped_frames=counts.dropped,
                skipped_windows=counts.skipped_windows,
                window_index=self._windows_done,
                world_index=world.index,
                registration=place.joined,
                is_still=is_still,
                reduced=reduced,
                map_voxel_m=world.cloud.voxel_m,
            )
            if not is_still:
                world.placed = place.frames
            world.newest = result
            self._windows_done += 1
            self._window.settle(is_placed=True)
            return result

    def ask(self, question: str) -> SessionAnswer:
        """Answer from the newest window; boxes come back in the map.

        Where a place is asked for and no box is sure enough to be it, the answer is "not seen".

        Raises:
            NoWindowYetError, EmptyQuestionError, QuestionTooLongError: as `check_question`.
            Exception: whatever the backend raises.
        """
        words = self.check_question(question)
        with self._lock:
            world = self._world
        newest = world.newest
        if newest is None:  # reset since the check
            raise NoWindowYetError("the map was reset; wait for the next window")
        answer = self._runner.answer(newest.reconstruction.scene, words)
        boxes = transform_boxes(newest.T_map_window, answer.boxes)
        with self._lock:
            named = world.tracker.identify(boxes)
        return SessionAnswer(
            text=place_answer(words, answer.text, bool(named)),
            confidence=answer.confidence,
            boxes=named,
            stamps_ns=answer.stamps_ns,
            window_index=newest.window_index,
        )

    def save_map(self, path: str | Path) -> SavedMap:
        """Write the fused cloud to `path` (.ply) and the objects beside it (.json), each whole.

        Raises:
            ValueError: the path does not end in .ply.
            FileNotFoundError: its folder does not exist.
            NoWindowYetError: there is no map yet.
        """
        with self._lock:
            newest = self._world.newest
            fused, objects = self._world.cloud, self._world.tracker.objects
            cloud, voxel_m = fused.cloud, fused.voxel_m
        if newest is None:
            raise NoWindowYetError("there is no map yet; wait for the first window")
        stamp_ns = newest.reconstruction.stamps_ns[-1]
        return write_map(Path(path), cloud, objects, stamp_ns, voxel_m)

    def _require_current(self, window: Window) -> None:
        """Refuse windows from before a reset, or older than the map."""
        if window.world < max(self._first_world, self._world_of_frames):
            raise WindowOutdatedError("window: its world was reset; take the next one")

    def _new_world(self) -> World:
        self._worlds += 1
        return new_world(self._worlds - 1, self._settings)
