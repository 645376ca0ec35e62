# SPDX-License-Identifier: Apache-2.0
"""Follow corners through a camera's stream, frame after frame, before images are made small.

A network of 112 px sees a corner to a third of a pixel; the camera's own image says it several
times better, and between two frames it moves little. What is followed tells how far the view has
moved, by which keyframes are chosen (streaming/window.py), and where the same points are in each
of them, by which poses are corrected (network/pose_refinement.py).
Source: OpenCV's Shi-Tomasi corners and pyramidal Lucas-Kanade. Next: tracks.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from vidllm_ros.geometry.tracks import COARSE, Tracks, find_corners, follow, refind
from vidllm_ros.structures import Corners

WORK_WIDTH_PX = 320
MAX_CORNERS = 200
MAX_RETURN_SHARE = 0.002  # of the width: how far a corner may end from its start, there and back
MAX_RETURN_PX = 0.7  # where that is less
MAX_CREEP = 3.0  # of that; what lies farther off at the mark's own picture is something else
MIN_FOLLOWED = 8
MIN_LEFT = 0.3


def work_image(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the grey image that corners are followed in, (h, w), at most WORK_WIDTH_PX wide.

    Args:
        rgb: a camera's image, (H, W, 3).
    """
    height, width = rgb.shape[:2]
    gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    if width > WORK_WIDTH_PX:
        size = (WORK_WIDTH_PX, max(1, round(height * WORK_WIDTH_PX / width)))
        gray = cv2.resize(gray, size, interpolation=cv2.INTER_AREA)
    return np.asarray(gray, np.uint8)


class CornerFollower:
    """Corners of a stream of images of one size, under numbers that stay; bounded in memory.

    Not thread-safe.
    """

    def __init__(self, max_corners: int = MAX_CORNERS) -> None:
        """Begin with nothing.

        Args:
            max_corners: followed at a time.
        """
        if max_corners < MIN_FOLLOWED:
            raise ValueError(f"max_corners: expected at least {MIN_FOLLOWED}, got {max_corners}")
        self._max_corners = max_corners
        self._contrast = cv2.createCLAHE(2.0, (4, 4))
        self._gray: NDArray[np.uint8] | None = None
        self._ids = np.zeros(0, np.int64)
        self._uv = np.zeros((0, 2), np.float32)
        self._mark_gray: NDArray[np.uint8] | None = None
        self._mark_ids = self._ids
        self._mark_uv = self._uv
        self._next_id = 0
        self._scale = np.ones(2)

    def add(self, gray: NDArray[np.uint8], image_size: tuple[int, ...]) -> None:
        """Follow the corners into the next image.

        Args:
            gray: its `work_image`, (h, w).
            image_size: (H, W) of the image itself, px, in which `corners` are given.
        """
        clear: NDArray[np.uint8] = np.asarray(self._contrast.apply(gray)).astype(np.uint8)
        if self._gray is not None and self._gray.shape == clear.shape:
            self._follow(self._gray, clear)
        else:
            self._ids, self._uv = self._ids[:0], self._uv[:0]
        self._gray = clear
        self._scale = np.array(image_size[1::-1]) / np.array(clear.shape[::-1])

    @property
    def corners(self) -> Corners:
        """Where they are in the newest image, in its own pixels."""
        return Corners(self._ids, (self._uv.astype(np.float64) + 0.5) * self._scale - 0.5)

    def mark(self) -> None:
        """Find new corners where none are; remember where all are now: `motion` counts from here.

        Only at marks are corners found, so that each is seen by at least one keyframe.
        """
        if self._gray is None:
            return
        gray = self._gray
        wanted = self._max_corners - len(self._ids)
        if wanted > 0:
            apart = max(4, gray.shape[1] // 28)
            found = find_corners(gray, self._uv, self._max_corners, apart)[:wanted]
            self._ids = np.concatenate([self._ids, self._next_id + np.arange(len(found))])
            self._uv = np.concatenate([self._uv, found])
            self._next_id += len(found)
        self._mark_gray, self._mark_ids, self._mark_uv = gray, self._ids, self._uv

    def motion(self) -> float:
        """Say how far the view has moved since the mark: median of the corners, in image widths.

        Infinity where most of what was there then is out of sight, or where there was too little
        to follow.
        """
        if self._gray is None:
            return math.inf
        then, now = self._since_mark()
        if len(then) < max(MIN_FOLLOWED, MIN_LEFT * len(self._mark_ids)):
            return math.inf
        moved_px = np.linalg.norm(self._uv[now] - self._mark_uv[then], axis=1)
        return float(np.median(moved_px)) / self._gray.shape[1]

    def _since_mark(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Places of the corners that were there at the mark: among those then, and now."""
        _, then, now = np.intersect1d(
            self._mark_ids, self._ids, assume_unique=True, return_indices=True
        )
        return then, now

    def _follow(self, before: NDArray[np.uint8], now: NDArray[np.uint8]) -> None:
        """Move the corners on; those are kept whose picture at the mark is found there again.

        Following from frame to frame finds them however far they go, and creeps; the picture at
        the mark takes that back, so that the way there need not be found finely.
        """
        if len(self._ids) == 0 or self._mark_gray is None:
            return
        width = now.shape[1]
        levels = max(1, math.ceil(math.log2(max(width, 28) / 28)) + 1)
        limit_px = max(MAX_RETURN_PX, MAX_RETURN_SHARE * width)
        there, good = follow(before, now, self._uv, levels, limit_px, COARSE)
        self._ids, self._uv = self._ids[good], there[good]
        then, still = self._since_mark()
        if len(then) == 0:
            return
        guess = self._uv[still]
        found, good = refind(self._mark_gray, now, self._mark_uv[then], guess)
        good &= np.linalg.norm(found - guess, axis=1) < MAX_CREEP * limit_px
        self._uv[still[good]] = found[good]


def tracks_of(corners: Sequence[Corners], image_size: tuple[int, ...]) -> Tracks:
    """Return the corners that two frames or more show, as tracks.

    Args:
        corners: of S frames, oldest first.
        image_size: (H, W); what lies outside is left out.
    """
    frame = np.repeat(np.arange(len(corners)), [len(seen.ids) for seen in corners])
    ids = np.concatenate([seen.ids for seen in corners])
    uv = np.concatenate([seen.uv for seen in corners])
    last = np.array([image_size[1], image_size[0]]) - 1
    inside = ((uv >= 0) & (uv <= last)).all(axis=1)
    frame, ids, uv = frame[inside], ids[inside], uv[inside]
    _, point, count = np.unique(ids, return_inverse=True, return_counts=True)
    often = np.flatnonzero(count[point] >= 2)
    rows = often[np.lexsort((frame[often], point[often]))]
    _, point = np.unique(point[rows], return_inverse=True)
    return Tracks(frame[rows].astype(np.int64), point.astype(np.int64), uv[rows])
