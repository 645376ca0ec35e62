# SPDX-License-Identifier: Apache-2.0
"""Choose the frames of a window by their stamps alone: no clock, no thread.

The same frames in the same order make the same windows due, however fast they come. Where the
network is slower than the camera, which of them are computed depends on its speed: a window then
keeps some frames of the one taken before it and spreads the rest over what came since, so that
windows can always be joined. Where the camera stands still, windows
go on at the same pace: the views kept so far and the newest frame, which is shown but not kept.
Next: registration.py joins them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

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

Image = NDArray[np.uint8]
Intrinsics = NDArray[np.float64] | None
Prepare = Callable[[Image, Intrinsics], tuple[Image, Intrinsics]]
"""Bring an image and its K to the size the network wants; ValueError where that cannot be."""


@dataclass(frozen=True)
class _Kept:
    stamp_ns: int
    rgb: Image
    K: Intrinsics


@dataclass
class FrameWindow:
    """Collects frames and hands out windows. Not thread-safe: session.py holds the lock.

    Attributes:
        settings: when a frame is kept.
        counts: what became of all frames.
        world: number of the world that frames belong to now.
        prepare: makes a frame smaller when it is kept, once; None keeps it as it is.
    """

    settings: WindowSettings = field(default_factory=WindowSettings)
    counts: FrameCounts = field(default_factory=FrameCounts)
    world: int = 0
    prepare: Prepare | None = None

    def __post_init__(self) -> None:
        self._ready_count = 0
        self._frame_id = ""
        self._shape: tuple[int, ...] = ()
        self._clear()

    def _clear(self) -> None:
        self._kept: list[_Kept] = []
        self._anchors: list[_Kept] = []
        self._settled_anchors: list[_Kept] = []
        self._pending: tuple[tuple[_Kept, ...], _Kept | None] | None = None
        self._since = 0  # frames kept or still since the last window became due
        self._unshown = 0  # of them, those that no partial window has shown either
        self._has_emitted = False
        self._last_stamp_ns: int | None = None
        self._is_gap_expected = False
        self._used_stamp_ns = 0  # of the last frame that was kept or still
        self._still: _Kept | None = None  # the newest frame, where it shows the last kept view
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
    ) -> Added:
        """Take a frame in the order of arrival.

        Args:
            stamp_ns: acquisition time.
            rgb: (H, W, 3), uint8; not copied, so the caller must not write to it again.
            frame_id: the camera's optical frame.
            K: intrinsics, (3, 3), px, if known.
        """
        restarted = self._reason_to_restart(stamp_ns, rgb, frame_id)
        if restarted:
            self.restart()
        elif self._last_stamp_ns is not None and stamp_ns <= self._last_stamp_ns:
            self.counts.dropped += 1
            return Added(Arrival.DROPPED)
        self._last_stamp_ns = stamp_ns
        self._is_gap_expected = False
        self._frame_id, self._shape = frame_id, rgb.shape
        if self._is_too_soon(stamp_ns):
            self.counts.passed_over += 1
            return Added(Arrival.PASSED_OVER)
        try:
            small, K = (rgb, K) if self.prepare is None else self.prepare(rgb, K)
        except ValueError as error:
            self.counts.dropped += 1
            return Added(Arrival.UNUSABLE, restarted=restarted, problem=str(error))
        self._used_stamp_ns = stamp_ns
        self._since += 1
        self._unshown += 1
        frame = _Kept(stamp_ns, small, K)
        if self._is_still(small):
            self._still = frame
            self.counts.still += 1
            return Added(Arrival.STILL, self._emit_if_due(), restarted)
        self._still = None
        self._kept.append(frame)
        self.counts.kept += 1
        self._trim()
        return Added(Arrival.KEPT, self._emit_if_due(), restarted)

    @property
    def kept_count(self) -> int:
        """Frames held for the next window."""
        return min(len(self._kept), self.settings.size)

    @property
    def held_count(self) -> int:
        """Frames in memory, those that join windows included."""
        still = [] if self._still is None else [self._still]
        return len({id(frame) for frame in (*self._kept, *self._anchors, *still)})

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
        kept, still = self._pending
        self._pending = None
        is_still = still is not None and bool(self._anchors) and kept[-1] is self._anchors[-1]
        frames = self._compose(kept, self.settings.size - (still is not None))
        self._anchors = list(frames[-max(self.settings.min_shared, 1) :])
        if still is not None:
            frames = [*frames, still]
        has_K = all(frame.K is not None for frame in frames)
        return Window(
            Frames(
                images=np.stack([frame.rgb for frame in frames]),
                stamps_ns=tuple(frame.stamp_ns for frame in frames),
                frame_id=self._frame_id,
                K=np.stack([np.asarray(frame.K, float) for frame in frames]) if has_K else None,
            ),
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

    def _is_too_soon(self, stamp_ns: int) -> bool:
        gap_s = (stamp_ns - self._used_stamp_ns) * 1e-9
        return bool(self._kept) and gap_s < _GAP_SLACK * self.settings.min_gap_s

    def _is_still(self, rgb: Image) -> bool:
        """Say whether a frame shows the view kept last; remember its view where it does not."""
        if self.settings.min_motion == 0 or self.settings.size == 1:
            return False
        thumbnail = _thumbnail(rgb)
        if self._kept and self._thumbnail is not None:
            change = float(np.abs(thumbnail - self._thumbnail).mean())
            if change < self.settings.min_motion:
                return True
        self._thumbnail = thumbnail
        return False

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
        self._pending = tuple(self._kept), self._still
        self._unshown = 0
        self._ready_count += 1

    def _compose(self, kept: Sequence[_Kept], size: int) -> list[_Kept]:
        """Choose `size` frames: the newest, or anchors and a spread of what came since."""
        newest = list(kept[-size:])
        if not self._anchors:
            return newest
        oldest_ns = newest[0].stamp_ns
        shared = [frame for frame in self._anchors if frame.stamp_ns >= oldest_ns]
        wanted = min(len(self._anchors), self.settings.min_shared, size - 1)
        if len(shared) >= wanted:
            return newest
        since = [frame for frame in kept if frame.stamp_ns > self._anchors[-1].stamp_ns]
        return self._anchors[-wanted:] + _thinned(since, size - wanted, self._anchors[-1].stamp_ns)

    def _trim(self) -> None:
        """Bound the memory: keep a window, and up to another one since the anchors, thinned."""
        size = self.settings.size
        if len(self._kept) <= size:
            return
        newest = self._kept[-size:]
        older = self._kept[:-size]
        if not self._anchors:
            self._kept = newest
            return
        older = [frame for frame in older if frame.stamp_ns > self._anchors[-1].stamp_ns]
        self._kept = _thinned(older, size, self._anchors[-1].stamp_ns) + newest


def _thinned(frames: list[_Kept], count: int, start_ns: int) -> list[_Kept]:
    """Choose `count` frames evenly in time since `start_ns`, the last among them.

    Drops the one whose neighbours are nearest to each other until few enough are left: whoever
    does so each time a frame comes keeps an even spread over any length of time.
    """
    chosen = list(frames)
    while len(chosen) > count:
        stamps_ns = np.array([start_ns, *(frame.stamp_ns for frame in chosen)])
        del chosen[int(np.argmin(stamps_ns[2:] - stamps_ns[:-2]))]
    return chosen


def _thumbnail(rgb: Image) -> NDArray[np.float32]:
    small = cv2.resize(rgb, _THUMBNAIL, interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32).mean(axis=-1)
