# SPDX-License-Identifier: Apache-2.0
"""Find points again in frames that lost them, once the poses are roughly known.

A track ends where a point leaves the image, is hidden or blurs, and a camera that turns back sees
it again. After a first adjustment every point has a place in every frame; where it should be seen,
by the network's depth, it is looked for there: the frame it was followed in is warped by the plane
the points lie in, found by Lucas-Kanade from where it should be, there and back, and kept where
the squares are alike. What comes back ties frames together that no track joins.
Source: ours, as guided matching in structure from motion. Next: bundle_adjustment.py, a second
time; network/pose_refinement.py calls both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vidllm_ros.geometry.bundle_adjustment import Adjusted
from vidllm_ros.geometry.sharpness import SQUARE_PX, sharpness
from vidllm_ros.geometry.tracks import Tracks, inside, refind

Float64 = NDArray[np.float64]
Float32 = NDArray[np.float32]
Bools = NDArray[np.bool_]

APART = (3, 4, 6, 8, 11, 15, 20, 26)  # frames; nearer ones were tried by following
LEAST_POINTS = 5  # of a pair of frames: fewer are not worth a warp
MOST_TURN_DEG = 60.0  # beyond it a square looks different however it is warped
REACH = 1 / 14  # of the image's width, px from where a point should be
RETURN_PX = 1.2
SOUND_PX = 2.0  # residual up to which an observation may be looked for elsewhere
LOG_DEPTH = 0.25  # how far the network's depth may be from the point's
ALIKE = 0.8  # correlation of the squares
BORDER_PX = 4
NEAREST_M = 0.1


def relink(
    tracks: Tracks,
    gray: Sequence[NDArray[np.uint8]],
    depth: Float32,
    K: Float64,
    adjusted: Adjusted,
    pixel: float,
) -> Tracks:
    """Add observations of known points in frames that lost them.

    Args:
        tracks: n observations of P points over S frames.
        gray: the frames, contrast equalised, (H, W) each.
        depth: the network's, as the adjustment scales it, (S, H, W), m; NaN where unknown.
        K: (S, 3, 3), px; the focal length as adjusted.
        adjusted: of these tracks.
        pixel: deviation of an observation whose tracks do not say how sharp it is, px; what is
            found is believed no more than that then.

    Returns:
        The tracks with what was found, sharpness of all; as given where nothing was.
    """
    expected = _expect(tracks, gray[0].shape, depth, K, adjusted)
    taken = np.zeros(expected.may_show.shape, bool)
    taken[tracks.point, tracks.frame] = True
    frame, point, uv = [tracks.frame], [tracks.point], [tracks.uv]
    frames = len(gray)
    for apart in APART:  # the nearest view of a point has the first word
        for first in range(max(0, frames - apart)):
            for here, there in ((first, first + apart), (first + apart, first)):
                wanted = expected.is_seen[:, here] & expected.may_show[:, there]
                rows = np.flatnonzero(wanted & ~taken[:, there])
                if len(rows) < LEAST_POINTS:
                    continue
                rows, found = _look(expected, gray, K, adjusted, rows, (here, there))
                taken[rows, there] = True
                frame.append(np.full(len(rows), there))
                point.append(rows)
                uv.append(found)
    if len(frame) == 1:
        return tracks
    new_sharp = sharpness(gray, np.concatenate(frame[1:]), np.concatenate(uv[1:]))
    old_sharp = tracks.sharp
    if old_sharp is None:  # followed in finer images: these know no better
        old_sharp = np.broadcast_to(np.eye(2) / pixel, (len(tracks), 2, 2))
        length = np.linalg.norm(new_sharp, axis=2, keepdims=True)
        new_sharp = new_sharp * np.minimum(1.0, 1.0 / (pixel * length))
    sharp = np.concatenate([old_sharp, new_sharp])
    all_frame, all_point = np.concatenate(frame), np.concatenate(point)
    order = np.lexsort((all_frame, all_point))
    return Tracks(all_frame[order], all_point[order], np.concatenate(uv)[order], sharp[order])


@dataclass(frozen=True)
class _Expected:
    uv: Float64  # where every point should be in every frame, (P, S, 2), px
    z: Float64  # (P, S), m
    may_show: Bools  # (P, S): inside the image, and not hidden as the network sees it
    is_seen: Bools  # (P, S): followed there, and explained
    followed: Float32  # (P, S, 2), px, where it is seen


def _expect(
    tracks: Tracks, shape: tuple[int, ...], depth: Float32, K: Float64, adjusted: Adjusted
) -> _Expected:
    """Project every point into every frame."""
    height, width = shape
    T = adjusted.T_camera_world
    camera = np.einsum("sij,pj->psi", T[:, :3, :3], adjusted.points) + T[:, :3, 3]
    z = camera[..., 2]
    ahead = np.maximum(z, NEAREST_M)
    uv = camera[..., :2] / ahead[..., None] * K[:, [0, 1], [0, 1]] + K[:, :2, 2]
    last = np.array([width, height]) - 1 - BORDER_PX
    inside = (z > NEAREST_M) & ((uv > BORDER_PX) & (uv < last)).all(-1)
    column, row = np.rint(np.clip(uv, 0, [width - 1, height - 1])).astype(int).transpose(2, 0, 1)
    seen_depth = depth[np.arange(len(K)), row, column]
    with np.errstate(divide="ignore", invalid="ignore"):
        is_near = np.abs(np.log(ahead / seen_depth)) < LOG_DEPTH  # False where there is no depth
    is_seen = np.zeros(z.shape, bool)
    followed = np.zeros((*z.shape, 2), np.float32)
    sound = adjusted.residual_px < SOUND_PX
    is_seen[tracks.point[sound], tracks.frame[sound]] = True
    followed[tracks.point, tracks.frame] = tracks.uv
    return _Expected(uv, z, inside & is_near, is_seen, followed)


def _look(
    expected: _Expected,
    gray: Sequence[NDArray[np.uint8]],
    K: Float64,
    adjusted: Adjusted,
    rows: NDArray[np.int64],
    pair: tuple[int, int],
) -> tuple[NDArray[np.int64], Float64]:
    """Look for points of one frame in another: which were found, and where, (m, 2), px."""
    here, there = pair
    nobody = rows[:0], np.zeros((0, 2))
    T = adjusted.T_camera_world
    step = T[there] @ np.linalg.inv(T[here])
    if np.trace(step[:3, :3]) < 1 + 2 * np.cos(np.radians(MOST_TURN_DEG)):
        return nobody
    plane = step[:3, :3].copy()  # the points' median depth, straight ahead of the first
    plane[:, 2] += step[:3, 3] / np.median(expected.z[rows, here])
    warp = K[there] @ plane @ np.linalg.inv(K[here])
    height, width = gray[there].shape
    at = cv2.perspectiveTransform(expected.followed[rows, here][:, None], warp)[:, 0]
    at = np.asarray(at, np.float32)
    kept = inside(at, gray[there], BORDER_PX)
    rows, at = rows[kept], at[kept]
    if len(rows) < LEAST_POINTS:
        return nobody
    warped = np.asarray(
        cv2.warpPerspective(
            gray[here], warp, (width, height), dst=gray[there].copy(), flags=cv2.INTER_CUBIC,
            borderMode=cv2.BORDER_TRANSPARENT,
        ),
        np.uint8,
    )  # fmt: skip
    guess = expected.uv[rows, there].astype(np.float32)
    found, went = refind(warped, gray[there], at, guess)
    back, came = refind(gray[there], warped, found, found + at - guess)
    good = went & came & inside(found, gray[there], BORDER_PX)
    good &= np.linalg.norm(found - guess, axis=1) < REACH * width
    good &= np.linalg.norm(back - at, axis=1) < RETURN_PX
    rows, at, found = rows[good], at[good], found[good]
    alike = correlation(_squares(warped, at), _squares(gray[there], found)) > ALIKE
    return rows[alike], found[alike].astype(np.float64)


def _squares(image: NDArray[np.uint8], uv: Float32) -> Float32:
    """Cut squares of SQUARE_PX around points, bilinear: (n, SQUARE_PX ** 2)."""
    if not len(uv):
        return np.zeros((0, SQUARE_PX**2), np.float32)
    reach = np.arange(SQUARE_PX, dtype=np.float32) - SQUARE_PX // 2
    u = np.broadcast_to(uv[:, 0, None, None] + reach, (len(uv), SQUARE_PX, SQUARE_PX))
    v = np.broadcast_to(uv[:, 1, None, None] + reach[:, None], u.shape)
    flat = (-1, SQUARE_PX)
    cut = cv2.remap(image, u.reshape(flat), v.reshape(flat), cv2.INTER_LINEAR,
                    borderMode=cv2.BORDER_REPLICATE)  # fmt: skip
    return np.asarray(cut, np.float32).reshape(len(uv), -1)


def correlation(a: Float32, b: Float32) -> Float32:
    """Correlation of rows, (n,), -1 to 1; 0 where one of them is flat."""
    a = a - a.mean(1, keepdims=True)
    b = b - b.mean(1, keepdims=True)
    length = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    product = (a * b).sum(1)
    return np.divide(product, length, out=np.zeros_like(product), where=length > 0)
