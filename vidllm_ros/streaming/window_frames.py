# SPDX-License-Identifier: Apache-2.0
"""Of the frames a window keeps: which stay in memory, and which make the next window.

A window that is taken late keeps some frames of the one taken before it, its anchors, and spreads
the rest over what came since, so that windows can always be joined however slow the network is.
Pure functions over lists of frames. Next: window.py, which keeps the frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.structures import Corners, Frames

Image = NDArray[np.uint8]
Intrinsics = NDArray[np.float64] | None


@dataclass(eq=False)
class KeptFrame:
    """A frame in memory, at the size the network wants."""

    stamp_ns: int
    rgb: Image
    K: Intrinsics  # may come later than the frame
    corners: Corners | None


def composed(
    kept: Sequence[KeptFrame], anchors: Sequence[KeptFrame], size: int, min_shared: int
) -> list[KeptFrame]:
    """Choose `size` frames: the newest, or anchors and a spread of what came since.

    Args:
        kept: oldest first.
        anchors: frames of the window taken before that this one can be joined by.
        size: frames of the window.
        min_shared: frames it is to share with the anchors, at least.
    """
    newest = list(kept[-size:])
    if not anchors:
        return newest
    oldest_ns = newest[0].stamp_ns
    shared = [frame for frame in anchors if frame.stamp_ns >= oldest_ns]
    wanted = min(len(anchors), min_shared, size - 1)
    if len(shared) >= wanted:
        return newest
    last_ns = anchors[-1].stamp_ns
    since = [frame for frame in kept if frame.stamp_ns > last_ns]
    return [*anchors[-wanted:], *thinned(since, size - wanted, last_ns)]


def bounded(kept: list[KeptFrame], anchors: Sequence[KeptFrame], size: int) -> list[KeptFrame]:
    """Bound the memory: keep a window, and up to another one since the anchors, thinned."""
    if len(kept) <= size:
        return kept
    newest = kept[-size:]
    if not anchors:
        return newest
    last_ns = anchors[-1].stamp_ns
    older = [frame for frame in kept[:-size] if frame.stamp_ns > last_ns]
    return thinned(older, size, last_ns) + newest


def thinned(frames: Sequence[KeptFrame], count: int, start_ns: int) -> list[KeptFrame]:
    """Choose `count` frames evenly in time since `start_ns`, the last among them.

    Drops the one whose neighbours are nearest to each other until few enough are left: whoever
    does so each time a frame comes keeps an even spread over any length of time.
    """
    chosen = list(frames)
    while len(chosen) > count:
        stamps_ns = np.array([start_ns, *(frame.stamp_ns for frame in chosen)])
        del chosen[int(np.argmin(stamps_ns[2:] - stamps_ns[:-2]))]
    return chosen


def join_frames(frames: Sequence[KeptFrame], frame_id: str) -> Frames:
    """Stack frames; K and corners are given only where every frame has them."""
    matrices = [frame.K for frame in frames if frame.K is not None]
    corners = tuple(frame.corners for frame in frames if frame.corners is not None)
    return Frames(
        images=np.stack([frame.rgb for frame in frames]),
        stamps_ns=tuple(frame.stamp_ns for frame in frames),
        frame_id=frame_id,
        K=np.stack(matrices).astype(float) if len(matrices) == len(frames) else None,
        corners=corners if len(corners) == len(frames) else None,
    )
