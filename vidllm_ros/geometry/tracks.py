# SPDX-License-Identifier: Apache-2.0
"""Follow corners from frame to frame: the measurements poses are refined by.

Corners are found where none is followed yet (Shi-Tomasi) and followed by pyramidal Lucas-Kanade;
a point that does not come back to where it was, followed backwards, ends its track there. What a
turning camera does to a picture is taken out before corners are followed to a fraction of a pixel.
Source: OpenCV's implementations of both. Next: corner_follower.py, the same over a stream.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from vidllm_ros.geometry.sharpness import SQUARE_PX, sharpness

Float64 = NDArray[np.float64]

BORDER_PX = 2
HALVED_WIDTH_PX = 224  # from here corners are looked for in half the size
MIN_TURN = 12  # points that agree on how the picture was turned
TURN_PX = 3.0  # what is off by more is parallax
TURN_LEVELS = 1  # of the pyramid once it is turned
Criteria = tuple[int, int, float]
FINE: Criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 0.03)
"""When a point is found: after so many steps, or one shorter than so many px."""
COARSE: Criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 10, 0.1)
"""For points that are refound finely afterwards; two thirds of the time."""
BACK_LEVELS = 3  # of the pyramid on the way back, which begins where the median corner came from


@dataclass(frozen=True)
class Tracks:
    """Points seen in several frames: one row an observation, by point, then by frame.

    Attributes:
        frame: (n,).
        point: (n,), 0 to the number of points less one, ascending.
        uv: where the point is in that frame, (n, 2), px, integer pixel centres.
        sharp: what an error in px is multiplied by to be in deviations, (n, 2, 2), as of
            sharpness.py; None where all are alike.
    """

    frame: NDArray[np.int64]
    point: NDArray[np.int64]
    uv: Float64
    sharp: Float64 | None = None

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def points(self) -> int:
        return int(self.point[-1]) + 1 if len(self.point) else 0

    def cut(self, wrong: NDArray[np.bool_]) -> tuple[Tracks, NDArray[np.int64]]:
        """Begin a new track at every wrong observation; pieces of one observation are dropped.

        Args:
            wrong: (n,).

        Returns:
            The tracks that are left, and which rows of this one they are, (m,).
        """
        starts = np.ones(len(self), bool)
        starts[1:] = self.point[1:] != self.point[:-1]
        piece = np.cumsum(starts | wrong) - 1
        rows = np.flatnonzero(np.bincount(piece, minlength=1)[piece] >= 2)
        _, point = np.unique(piece[rows], return_inverse=True)
        sharp = None if self.sharp is None else self.sharp[rows]
        return Tracks(self.frame[rows], point.astype(np.int64), self.uv[rows], sharp), rows


@dataclass
class _Ended:
    """Where finished tracks are gathered."""

    frame: list[NDArray[np.int64]] = field(default_factory=list)
    uv: list[Float64] = field(default_factory=list)

    def take(self, track: list[NDArray[np.float32]], last: int) -> None:
        if len(track) >= 2:
            self.frame.append(np.arange(last - len(track) + 1, last + 1))
            self.uv.append(np.array(track, np.float64))


def track_points(
    images: NDArray[np.uint8], max_points: int = 200, max_return_px: float = 1.2
) -> Tracks:
    """Follow up to `max_points` corners through a run of images.

    Args:
        images: RGB, (S, H, W, 3), in the order they were taken.
        max_points: followed at a time.
        max_return_px: how far a point may end from its start when followed there and back; what
            slides along an edge may, for its sharpness says so.

    Returns:
        Tracks of two frames or more, with their sharpness; none where nothing can be followed.
    """
    width = images.shape[2]
    gray = equalised(images)
    levels = max(1, math.ceil(math.log2(max(width, 28) / 28)) + 1)
    apart = max(4, width // 28)
    ended = _Ended()
    live: list[list[NDArray[np.float32]]] = []
    for number, now in enumerate(gray):
        if live:
            here = np.array([track[-1] for track in live])
            there, good = follow_turned(gray[number - 1], now, here, levels, max_return_px)
            for track, uv, is_good in zip(live, there, good, strict=True):
                if is_good:
                    track.append(uv)
                else:
                    ended.take(track, number - 1)
            live = [track for track, is_good in zip(live, good, strict=True) if is_good]
        if number + 1 < len(gray) and len(live) < max_points:
            here = np.array([track[-1] for track in live]).reshape(-1, 2)
            for corner in find_corners(now, here, max_points, apart)[: max_points - len(live)]:
                live.append([corner])
    for track in live:
        ended.take(track, len(gray) - 1)
    if not ended.frame:
        return Tracks(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 2)))
    lengths = [len(frames) for frames in ended.frame]
    frame, uv = np.concatenate(ended.frame), np.concatenate(ended.uv)
    sharp = sharpness(gray, frame, uv)
    return Tracks(frame, np.repeat(np.arange(len(lengths)), lengths), uv, sharp)


def equalised(images: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Turn RGB images, (S, H, W, 3), into gray ones, (H, W), of like contrast everywhere."""
    contrast = cv2.createCLAHE(2.0, (4, 4))
    return [
        np.asarray(contrast.apply(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)), np.uint8)
        for image in images
    ]


def follow(
    before: NDArray[np.uint8],
    now: NDArray[np.uint8],
    here: NDArray[np.float32],
    levels: int,
    max_return_px: float,
    criteria: Criteria = FINE,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Find points of one image in the next; (n, 2) px, and which came back to their start.

    The way back begins at the corners less their median motion, not at their own start: from there
    everything that looks alike would seem to come back.
    """
    forward, status, _ = cv2.calcOpticalFlowPyrLK(  # type: ignore[call-overload]
        before, now, here[:, None], None, winSize=(SQUARE_PX, SQUARE_PX), maxLevel=levels,
        criteria=criteria,
    )  # fmt: skip
    there, found = forward[:, 0], status[:, 0] > 0
    moved = (there - here)[found]
    home = there - (np.median(moved, axis=0).astype(np.float32) if len(moved) else 0)
    back, returned = refind(now, before, there, home, min(BACK_LEVELS, levels), criteria)
    good = found & returned & inside(there, now, BORDER_PX)
    good &= np.linalg.norm(back - here, axis=1) < max_return_px
    return there, good


def follow_turned(
    before: NDArray[np.uint8],
    now: NDArray[np.uint8],
    here: NDArray[np.float32],
    levels: int,
    max_return_px: float,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Follow points as `follow` does, then again in the earlier image warped onto the later one.

    A square of pixels is stretched on its way to the image's edge; followed as it is, it lags
    there, which adjusts to a longer lens than the camera has. The homography most points agree on
    takes the stretch out, and what the earlier image does not show is filled with the later one.
    Where too few agree, `follow` has the last word.

    Args:
        before: the earlier image, (H, W).
        now: the later one, (H, W).
        here: points in the earlier one, (n, 2), px.
        levels: of the pyramid.
        max_return_px: how far a point may end from its start when followed there and back.

    Returns:
        Where they are in the later one, (n, 2), px, and which came back to their start, (n,).
    """
    there, good = follow(before, now, here, levels, max_return_px)
    if good.sum() < MIN_TURN:
        return there, good
    turn, agree = cv2.findHomography(here[good], there[good], cv2.RANSAC, TURN_PX)
    if turn is None or agree.sum() < max(MIN_TURN, good.sum() / 2):  # on one line, or no one turn
        return there, good
    height, width = now.shape
    warped = cv2.warpPerspective(
        before, turn, (width, height), dst=now.copy(), flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_TRANSPARENT,
    )  # fmt: skip
    turned = np.asarray(warped, np.uint8)
    moved = np.asarray(cv2.perspectiveTransform(here[:, None], turn)[:, 0], np.float32)
    rows = np.flatnonzero(inside(moved, now, 0))
    if len(rows) == 0:
        return there, good
    start = np.where(good[rows, None], there[rows], moved[rows])
    fine, found = refind(turned, now, moved[rows], start, TURN_LEVELS)
    home = fine - np.median(fine - moved[rows], axis=0).astype(np.float32)
    back, returned = refind(now, turned, fine, home, TURN_LEVELS)
    sound = found & returned & inside(fine, now, BORDER_PX)
    sound &= np.linalg.norm(back - moved[rows], axis=1) < max_return_px
    there[rows], good = fine, np.zeros_like(good)
    good[rows] = sound
    return there, good


def inside(uv: NDArray[np.float32], image: NDArray[np.uint8], border: int) -> NDArray[np.bool_]:
    """Say which points lie more than so many pixels within the image, (n,)."""
    last = np.array([image.shape[1], image.shape[0]]) - 1 - border
    return np.asarray(((uv > border) & (uv < last)).all(1))


def refind(
    before: NDArray[np.uint8],
    now: NDArray[np.uint8],
    here: NDArray[np.float32],
    guess: NDArray[np.float32],
    levels: int = 0,
    criteria: Criteria = FINE,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Find points of an image in another from a guess, (n, 2) px, and which were found."""
    there, found, _ = cv2.calcOpticalFlowPyrLK(
        before, now, here[:, None], guess[:, None].copy(), winSize=(SQUARE_PX, SQUARE_PX),
        maxLevel=levels, criteria=criteria, flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
    )  # type: ignore[call-overload]  # fmt: skip
    return np.asarray(there[:, 0], np.float32), found[:, 0] > 0


def find_corners(
    image: NDArray[np.uint8], followed: NDArray[np.float32], count: int, apart: int
) -> NDArray[np.float32]:
    """Return corners at least `apart` px away from those already followed, best first, (n, 2).

    Wide images are looked at in half their size: what looks like a corner there can be followed
    as well, at a sixth of the time.
    """
    height, width = image.shape
    step, block = 1, 5
    if width >= HALVED_WIDTH_PX and height >= HALVED_WIDTH_PX // 4:
        step, block = 2, 3
        size = (width // step, height // step)
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        apart = max(2, apart // step)
    scale = np.array([width, height], np.float32) / image.shape[::-1]
    free = np.full(image.shape, 255, np.uint8)
    for u, v in ((followed + 0.5) / scale - 0.5).astype(int).tolist():
        cv2.circle(free, (u, v), apart, 0, -1)
    corners = cv2.goodFeaturesToTrack(image, count, 0.005, apart, mask=free, blockSize=block)
    if corners is None:
        return np.zeros((0, 2), np.float32)
    found = np.asarray(corners, np.float32).reshape(-1, 2)
    return np.asarray((found + 0.5) * scale - 0.5, np.float32)
