# SPDX-License-Identifier: Apache-2.0
"""Choose the frames of a window by their stamps alone: no clock, no thread.

The same frames in the same order give the same windows, however fast they come. Where the network
is slower than the camera, a window keeps some frames of the one before it and spreads the rest
over what came since, so that windows can always be joined. Next: registration.py joins them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

import cv2
import numpy as np
from numpy.typing import NDArray

from vidllm_ros.structures import Frames

_GAP_SLACK = 0.95  # a camera's jitter must not halve its frame rate
_THUMBNAIL = (32, 24)


@dataclass(frozen=True)
class WindowSettings:
    """When a frame is kept and when a window is ready.

    Attributes:
        size: frames of a full window.
        stride: new frames between two windows.
        min_frames: frames of the first, shorter window of a world; size means no short windows.
        min_shared: frames a window keeps of the one before it, at least.
        min_gap_s: frames closer than this to the last kept one are passed over.
        min_motion: frames whose mean brightness change (0..255) to the last kept one is smaller
            are passed over.
        max_gap_s: a longer pause starts a new world.
        backward_tolerance_s: a frame older than the last by more than this restarts the world (a
            looping bag); one older by less came out of order and is dropped.
    """

    size: int = 32
    stride: int = 8
    min_frames: int = 8
    min_shared: int = 8
    min_gap_s: float = 0.1
    min_motion: float = 0.0
    max_gap_s: float = 5.0
    backward_tolerance_s: float = 0.5

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size: expected at least 1 frame, got {self.size}")
        for name in ("stride", "min_frames"):
            value = getattr(self, name)
            if not 1 <= value <= self.size:
                raise ValueError(f"{name}: expected 1 to size ({self.size}), got {value}")
        for name in ("min_shared", "min_gap_s", "min_motion", "backward_tolerance_s"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: expected at least 0, got {getattr(self, name)}")
        if not self.max_gap_s > self.min_gap_s:
            raise ValueError(
                f"max_gap_s: expected more than min_gap_s ({self.min_gap_s}), got {self.max_gap_s}"
            )


class Arrival(Enum):
    """What became of a frame."""

    KEPT = "kept"
    PASSED_OVER = "too soon after or too like the last kept frame"
    DROPPED = "out of order: not newer than the last frame"


@dataclass(frozen=True)
class Added:
    """The outcome of adding a frame.

    Attributes:
        arrival: what became of it.
        is_ready: a new window waits to be taken.
        restarted: why a new world began with this frame; empty where none did.
    """

    arrival: Arrival
    is_ready: bool = False
    restarted: str = ""


@dataclass(frozen=True)
class Window:
    """Frames to reconstruct together.

    Attributes:
        frames: oldest first.
        world: number of the world they belong to; another number means that nothing is shared.
        index: number of the window among all that became ready, from 0.
    """

    frames: Frames
    world: int
    index: int


@dataclass(frozen=True)
class _Kept:
    stamp_ns: int
    rgb: NDArray[np.uint8]
    K: NDArray[np.float64] | None


@dataclass
class FrameCounts:
    """What became of all frames so far."""

    kept: int = 0
    passed_over: int = 0
    dropped: int = 0
    restarts: int = 0
    skipped_windows: int = 0


@dataclass
class FrameWindow:
    """Collects frames and hands out windows. Not thread-safe: session.py holds the lock."""

    settings: WindowSettings = field(default_factory=WindowSettings)
    counts: FrameCounts = field(default_factory=FrameCounts)
    world: int = 0

    def __post_init__(self) -> None:
        self._ready_count = 0
        self._frame_id = ""
        self._clear()

    def _clear(self) -> None:
        self._kept: list[_Kept] = []
        self._anchors: list[_Kept] = []
        self._settled_anchors: list[_Kept] = []
        self._pending: tuple[_Kept, ...] | None = None
        self._new = 0
        self._has_emitted = False
        self._last_stamp_ns: int | None = None
        self._thumbnail: NDArray[np.float32] | None = None

    def restart(self) -> None:
        """Forget all frames and begin a new world; the counters stay."""
        self.world += 1
        self.counts.restarts += 1
        self._clear()

    def add(
        self,
        stamp_ns: int,
        rgb: NDArray[np.uint8],
        frame_id: str = "camera_optical_frame",
        K: NDArray[np.float64] | None = None,
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
        self._frame_id = frame_id
        thumbnail = _thumbnail(rgb) if self.settings.min_motion > 0 else None
        if self._is_too_like(stamp_ns, thumbnail):
            self.counts.passed_over += 1
            return Added(Arrival.PASSED_OVER)
        self._thumbnail = thumbnail
        self._kept.append(_Kept(stamp_ns, rgb, K))
        self.counts.kept += 1
        self._new += 1
        self._trim()
        return Added(Arrival.KEPT, self._emit_if_due(), restarted)

    @property
    def kept_count(self) -> int:
        """Frames held for the next window."""
        return min(len(self._kept), self.settings.size)

    @property
    def held_count(self) -> int:
        """Frames in memory, those that join windows included."""
        return len({id(frame) for frame in (*self._kept, *self._anchors)})

    def take(self, partial: bool = False) -> Window | None:
        """Return the newest window that is ready and has not been taken, or None.

        Args:
            partial: where none is ready, take the frames that no window has shown yet, few as they
                are: for a film that has ended.
        """
        if self._pending is None and partial and self._new > 0:
            self._emit()
        if self._pending is None:
            return None
        frames = self._compose(self._pending)
        self._pending = None
        self._anchors = list(frames[-max(self.settings.min_shared, 1) :])
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
        )

    def settle(self, is_placed: bool) -> None:
        """Say whether the window taken last found its place in the map.

        If not, the next window is made to share frames with the last one that did.
        """
        if is_placed:
            self._settled_anchors = self._anchors
        else:
            self._anchors = self._settled_anchors

    def _reason_to_restart(self, stamp_ns: int, rgb: NDArray[np.uint8], frame_id: str) -> str:
        if self._last_stamp_ns is None:
            return ""
        step_s = (stamp_ns - self._last_stamp_ns) * 1e-9
        if step_s < -self.settings.backward_tolerance_s:
            return f"stamps jumped back by {-step_s:.3f} s"
        if step_s > self.settings.max_gap_s:
            return f"no frame for {step_s:.3f} s"
        if self._kept and self._kept[-1].rgb.shape != rgb.shape:
            was, now = self._kept[-1].rgb.shape, rgb.shape
            return f"image size changed from {was[1]} x {was[0]} to {now[1]} x {now[0]}"
        if frame_id != self._frame_id:
            return f"camera changed from {self._frame_id} to {frame_id}"
        return ""

    def _is_too_like(self, stamp_ns: int, thumbnail: NDArray[np.float32] | None) -> bool:
        if not self._kept:
            return False
        gap_s = (stamp_ns - self._kept[-1].stamp_ns) * 1e-9
        if gap_s < _GAP_SLACK * self.settings.min_gap_s:
            return True
        if thumbnail is None or self._thumbnail is None:
            return False
        return float(np.abs(thumbnail - self._thumbnail).mean()) < self.settings.min_motion

    def _emit_if_due(self) -> bool:
        if self._has_emitted:
            is_due = self._new >= self.settings.stride
        else:
            is_due = len(self._kept) >= self.settings.min_frames
        if is_due:
            self._emit()
        return is_due

    def _emit(self) -> None:
        if self._pending is not None:
            self.counts.skipped_windows += 1
        self._pending = tuple(self._kept)
        self._new = 0
        self._has_emitted = True
        self._ready_count += 1

    def _compose(self, kept: Sequence[_Kept]) -> list[_Kept]:
        """Choose a window's frames: the newest, or anchors and a spread of what came since."""
        size = self.settings.size
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


def _thumbnail(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    small = cv2.resize(rgb, _THUMBNAIL, interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32).mean(axis=-1)
