# SPDX-License-Identifier: Apache-2.0
"""The settings of windows, the windows themselves, and what is said of each frame on arrival.

Next: window.py, which chooses the frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from vidllm_ros.structures import Frames


@dataclass(frozen=True)
class WindowSettings:
    """When a frame is kept and when a window is ready.

    Attributes:
        size: frames of a full window: keyframes, and the newest frame.
        stride: new frames between two windows, keyframes or not.
        min_frames: frames before the first, shorter window of a world; size means no short ones.
        min_shared: frames a window keeps of the one before it, at least.
        min_gap_s: frames closer than this to the last used one, kept or not, are passed over.
        min_motion: frames whose mean brightness change (0..255) to the last keyframe is smaller
            show the same view: they are not kept. 1 px of motion in 640 changes a room by 0.3 to
            0.9, a sensor's noise by 0.2; the change adds up until a frame is kept.
        keyframe_motion: frames whose view has moved by less than this share of the image's width
            since the last keyframe (median of followed corners) are not kept either; 0 keeps
            every frame that is not still.
        keyframe_gap_s: a frame that is not still and this much later than the last keyframe is
            one in any case.
        max_gap_s: a longer pause starts a new world.
        backward_tolerance_s: a frame older than the last by more than this restarts the world (a
            looping bag); one older by less came out of order and is dropped.
    """

    size: int = 32
    stride: int = 8
    min_frames: int = 8
    min_shared: int = 8
    min_gap_s: float = 0.1
    min_motion: float = 0.8
    keyframe_motion: float = 0.08
    keyframe_gap_s: float = 10.0
    max_gap_s: float = 5.0
    backward_tolerance_s: float = 0.5

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size: expected at least 1 frame, got {self.size}")
        for name in ("stride", "min_frames"):
            value = getattr(self, name)
            if not 1 <= value <= self.size:
                raise ValueError(f"{name}: expected 1 to size ({self.size}), got {value}")
        for name in (
            "min_shared", "min_gap_s", "min_motion", "keyframe_motion", "keyframe_gap_s",
            "backward_tolerance_s",
        ):  # fmt: skip
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: expected at least 0, got {getattr(self, name)}")
        if not self.max_gap_s > self.min_gap_s:
            raise ValueError(
                f"max_gap_s: expected more than min_gap_s ({self.min_gap_s}), got {self.max_gap_s}"
            )


class Arrival(Enum):
    """What became of a frame. The newest one that is STILL or BETWEEN is shown, and not kept."""

    KEPT = "kept"
    PASSED_OVER = "too soon after the last frame"
    STILL = "the same view as the last keyframe"
    BETWEEN = "too little motion since the last keyframe"
    DROPPED = "out of order: not newer than the last frame"
    UNUSABLE = "not an image the network can take"


@dataclass(frozen=True)
class Added:
    """The outcome of adding a frame.

    Attributes:
        arrival: what became of it.
        is_ready: a new window waits to be taken.
        restarted: why a new world began with this frame; empty where none did.
        problem: why the frame is unusable; empty where it is not.
        calibrated: earlier frames that came without intrinsics and have been given this frame's.
    """

    arrival: Arrival
    is_ready: bool = False
    restarted: str = ""
    problem: str = ""
    calibrated: int = 0


@dataclass(frozen=True)
class Window:
    """Frames to reconstruct together.

    Attributes:
        frames: oldest first.
        world: number of the world they belong to; another number means that nothing is shared.
        index: number of the window among all that became ready, from 0.
        is_still: all its frames but the newest were in the window taken before, and the newest is
            no keyframe: it has nothing new for a map.
    """

    frames: Frames
    world: int
    index: int
    is_still: bool = False


@dataclass
class FrameCounts:
    """What became of all frames so far."""

    kept: int = 0
    passed_over: int = 0
    still: int = 0
    between: int = 0
    dropped: int = 0
    restarts: int = 0
    skipped_windows: int = 0
