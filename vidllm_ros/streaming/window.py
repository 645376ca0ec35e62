# SPDX-License-Identifier: Apache-2.0
"""Choose the frames of a window by their stamps alone: no clock, no thread.

The same frames in the same order make the same windows due, however fast they come. Where the
network is slower than the camera, which of them are computed depends on its speed. Frames are kept
by motion: neighbours a centimetre apart say nothing of distance. Where the camera stands still or
creeps, windows go on at the same pace: the keyframes so far and the newest frame, which is shown
but not kept. Corners are followed through all of them. Intrinsics decide the metre of a map: where
they come later than the first frames, those are given them, or a new world begins. Next:
window_frames.py makes windows of the frames kept; registration.py joins windows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from vidllm_ros.geometry.corner_follower import CornerFollower, work_image
from vidllm_ros.streaming.window_frames import (
    Image,
    Intrinsics,
    KeptFrame,
    bounded,
    composed,
    join_frames,
)
from vidllm_ros.streaming.window_types import (
    Added,
    Arrival,
    FrameCounts,
    Window,
    WindowSettings,
)
from vidllm_ros.structures import Frames

__all__ = ["Added", "Arrival", "FrameCounts", "FrameWindow", "Window", "WindowSettings"]

_GAP_SLACK = 0.95  # a camera's jitter must not halve its frame rate
_THUMBNAIL = (32, 24)

Prepare = Callable[[Frames], Frames]
"""Bring a frame to the size the network wants; ValueError where that cannot be."""


@dataclass
class FrameWindow:
    """Collects frames and hands out windows. Not thread-safe: session.py holds the lock.

    Attributes:
        settings: when a frame is kept.
        counts: what became of all frames.
        world: number of the world that frames belong to now.
        prepare: makes a frame smaller when it is kept, once; None keeps it as it is.
        gives_corners: whether windows are to hold the followed corners.
    """

    settings: WindowSettings = field(default_factory=WindowSettings)
    counts: FrameCounts = field(default_factory=FrameCounts)
    world: int = 0
    prepare: Prepare | None = None
    gives_corners: bool = True

    def __post_init__(self) -> None:
        self._ready_count = 0
        self._frame_id = ""
        self._shape: tuple[int, ...] = ()
        self._clear()

    def _clear(self) -> None:
        self._kept: list[KeptFrame] = []
        self._anchors: list[KeptFrame] = []
        self._settled_anchors: list[KeptFrame] = []
        self._pending: tuple[tuple[KeptFrame, ...], KeptFrame | None] | None = None
        self._since = 0  # frames kept or passing since the last window became due
        self._unshown = 0  # of them, those that no partial window has shown either
        self._has_emitted = False
        self._last_stamp_ns: int | None = None
        self._is_gap_expected = False
        self._used_stamp_ns = 0  # of the last frame that was kept or passing
        self._passing: KeptFrame | None = None  # the newest frame, where it is no keyframe
        self._has_taken_without_K = False
        self._follower = CornerFollower()
        self._thumbnail: NDArray[np.float32] | None = None

    def restart(self) -> None:
        """Forget all frames and begin a new world; the counters stay."""
        self.world += 1
        self.counts.restarts += 1
        self._clear()

    def expect_gap(self) -> None:
        """Take the next frame as of the same place, however much later it comes: after a pause."""
        self._is_gap_expected = True

    def add(
        self,
        stamp_ns: int,
        rgb: Image,
        frame_id: str = "camera_optical_frame",
        K: Intrinsics = None,
        is_remapped: bool = False,
    ) -> Added:
        """Take a frame in the order of arrival.

        Args:
            stamp_ns: acquisition time.
            rgb: (H, W, 3), uint8; not copied, so the caller must not write to it again.
            frame_id: the camera's optical frame.
            K: intrinsics, (3, 3), px, if known.
            is_remapped: whether the image was undistorted for this K, so that an earlier one,
                taken without, has other pixels.
        """
        if problem := self._problem_of(rgb):  # one such frame must not cost the world
            self.counts.dropped += 1
            return Added(Arrival.UNUSABLE, problem=problem)
        restarted = self._reason_to_restart(stamp_ns, rgb, frame_id)
        if not restarted:
            if self._last_stamp_ns is not None and stamp_ns <= self._last_stamp_ns:
                self.counts.dropped += 1
                return Added(Arrival.DROPPED)
            restarted = self._reason_of_lens(K, is_remapped)
        if restarted:
            self.restart()
        self._last_stamp_ns = stamp_ns
        self._is_gap_expected = False
        self._frame_id, self._shape = frame_id, rgb.shape
        if self._is_too_soon(stamp_ns):
            self.counts.passed_over += 1
            return Added(Arrival.PASSED_OVER)
        gray = work_image(rgb)
        if self._is_following:
            self._follower.add(gray, rgb.shape)
        thumbnail = _thumbnail(gray)
        arrival = self._judge(stamp_ns, thumbnail)
        if self._is_following and arrival is Arrival.KEPT:
            self._follower.mark()
        try:
            frame = self._made_small(stamp_ns, rgb, K)
        except ValueError as error:
            self.counts.dropped += 1
            return Added(Arrival.UNUSABLE, restarted=restarted, problem=str(error))
        calibrated = self._calibrate(frame.K)
        self._used_stamp_ns = stamp_ns
        self._since += 1
        self._unshown += 1
        if arrival is Arrival.KEPT:
            self.counts.kept += 1
            self._thumbnail = thumbnail
            self._passing = None
            self._kept.append(frame)
            self._kept = bounded(self._kept, self._anchors, self.settings.size)
        else:
            self.counts.still += arrival is Arrival.STILL
            self.counts.between += arrival is Arrival.BETWEEN
            self._passing = frame
        return Added(arrival, self._emit_if_due(), restarted, calibrated=calibrated)

    @property
    def kept_count(self) -> int:
        """Frames held for the next window."""
        return min(len(self._kept), self.settings.size)

    @property
    def held_count(self) -> int:
        """Frames in memory, those that join windows included."""
        passing = [] if self._passing is None else [self._passing]
        return len({id(frame) for frame in (*self._kept, *self._anchors, *passing)})

    def take(self, partial: bool = False) -> Window | None:
        """Return the newest window that is ready and has not been taken, or None.

        Args:
            partial: where none is ready, take the frames that no window has shown yet, few as they
                are: for a film that has ended. When the next ones are due stays as it was.
        """
        if self._pending is None and partial and self._unshown > 0:
            self._emit()
        if self._pending is None:
            return None
        kept, passing = self._pending
        self._pending = None
        is_still = passing is not None and bool(self._anchors) and kept[-1] is self._anchors[-1]
        size = self.settings.size - (passing is not None)
        frames = composed(kept, self._anchors, size, self.settings.min_shared)
        self._anchors = list(frames[-max(self.settings.min_shared, 1) :])
        if passing is not None:
            frames = [*frames, passing]
        joined = join_frames(frames, self._frame_id)
        self._has_taken_without_K = joined.K is None
        return Window(
            joined,
            self.world,
            self._ready_count - 1,
            is_still,
        )

    def settle(self, is_placed: bool) -> None:
        """Say whether the window taken last found its place in the map.

        If not, the next window is made to share frames with the last one that did.
        """
        if is_placed:
            self._settled_anchors = self._anchors
        else:
            self._anchors = self._settled_anchors

    def _reason_to_restart(self, stamp_ns: int, rgb: Image, frame_id: str) -> str:
        if self._last_stamp_ns is None:
            return ""
        step_s = (stamp_ns - self._last_stamp_ns) * 1e-9
        if step_s < -self.settings.backward_tolerance_s:
            return f"stamps jumped back by {-step_s:.3f} s"
        if step_s > self.settings.max_gap_s and not self._is_gap_expected:
            return f"no frame for {step_s:.3f} s"
        if self._kept and self._shape != rgb.shape:
            was, now = self._shape, rgb.shape
            return f"image size changed from {was[1]} x {was[0]} to {now[1]} x {now[0]}"
        if frame_id != self._frame_id:
            return f"camera changed from {self._frame_id} to {frame_id}"
        return ""

    def _without_K(self) -> list[KeptFrame]:
        """List the frames that a window may show and that came without intrinsics, each once."""
        waiting = () if self._pending is None else (*self._pending[0], self._pending[1])
        known = (*self._kept, *self._anchors, *self._settled_anchors, self._passing, *waiting)
        return list({id(one): one for one in known if one is not None and one.K is None}.values())

    def _reason_of_lens(self, K: Intrinsics, is_remapped: bool) -> str:
        """Say why frames with intrinsics cannot join those without; empty where they can."""
        if K is None or not self._without_K():
            return ""
        if self._has_taken_without_K:
            return "intrinsics came after a window without them, whose metre was another"
        return "intrinsics came after frames that were not undistorted" if is_remapped else ""

    def _calibrate(self, K: Intrinsics) -> int:
        """Give the frames that came without intrinsics those of the newest; say how many."""
        if K is None:
            return 0
        late = self._without_K()
        for frame in late:
            frame.K = K
        return len(late)

    @property
    def _is_following(self) -> bool:
        """Whether anything asks where corners are: it costs milliseconds a frame."""
        wanted = self.gives_corners or self.settings.keyframe_motion > 0
        return wanted and self.settings.size > 1

    def _is_too_soon(self, stamp_ns: int) -> bool:
        gap_s = (stamp_ns - self._used_stamp_ns) * 1e-9
        return bool(self._kept) and gap_s < _GAP_SLACK * self.settings.min_gap_s

    def _problem_of(self, rgb: Image) -> str:
        """Say why an image of another size than the last cannot be used; empty where it can."""
        if self.prepare is None or self._shape in ((), rgb.shape):
            return ""
        try:
            self.prepare(Frames(rgb[None], (0,)))
        except ValueError as error:
            return str(error)
        return ""

    def _made_small(self, stamp_ns: int, rgb: Image, K: Intrinsics) -> KeptFrame:
        intrinsics = None if K is None else np.asarray(K, float)[None]
        corners = (self._follower.corners,) if self._is_following else None
        frames = Frames(rgb[None], (stamp_ns,), self._frame_id, intrinsics, corners)
        if self.prepare is not None:
            frames = self.prepare(frames)
        return KeptFrame(
            stamp_ns,
            frames.images[0],
            None if frames.K is None else frames.K[0],
            None if frames.corners is None else frames.corners[0],
        )

    def _judge(self, stamp_ns: int, thumbnail: NDArray[np.float32]) -> Arrival:
        """Say whether a frame that the follower has seen is a keyframe."""
        settings = self.settings
        if not self._kept or self._thumbnail is None or settings.size == 1:
            return Arrival.KEPT
        if float(np.abs(thumbnail - self._thumbnail).mean()) < settings.min_motion:
            return Arrival.STILL
        gap_s = (stamp_ns - self._kept[-1].stamp_ns) * 1e-9
        if settings.keyframe_motion == 0 or gap_s >= settings.keyframe_gap_s:
            return Arrival.KEPT
        is_between = self._follower.motion() < settings.keyframe_motion
        return Arrival.BETWEEN if is_between else Arrival.KEPT

    def _emit_if_due(self) -> bool:
        settings = self.settings
        is_due = self._since >= (settings.stride if self._has_emitted else settings.min_frames)
        if is_due:
            self._emit()
            self._since = 0
            self._has_emitted = True
        return is_due

    def _emit(self) -> None:
        if self._pending is not None:
            self.counts.skipped_windows += 1
        self._pending = tuple(self._kept), self._passing
        self._unshown = 0
        self._ready_count += 1


def _thumbnail(gray: Image) -> NDArray[np.float32]:
    return np.asarray(cv2.resize(gray, _THUMBNAIL, interpolation=cv2.INTER_AREA), np.float32)
