# SPDX-License-Identifier: Apache-2.0
"""Exact overlap of many pairs of oriented boxes at once.

The same sum as boxes.oriented_iou, the plain twin: faces of each box clipped by the other, volume
by the divergence theorem. Here all faces of all pairs are cut together, plane by plane, in arrays
whose rows hold as many corners as a cut quad can have. Next: streaming/tracking.py, which joins
the boxes of windows by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.geometry.boxes import FACE_TOLERANCE, aabb_iou, box_corners
from vidllm_ros.geometry.transforms import matrix_from_quat_xyzw
from vidllm_ros.structures import GroundedBox

Float64 = NDArray[np.float64]

_FACES = tuple(product(range(3), (-1.0, 1.0)))


def aabbs_of(boxes: Sequence[GroundedBox]) -> Float64:
    """Return the axis-aligned bounds of boxes, (n, 6): min xyz, max xyz, m."""
    if not boxes:
        return np.zeros((0, 6))
    corners = box_corners(*_numbers(boxes))
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def oriented_iou_matrix(boxes_a: Sequence[GroundedBox], boxes_b: Sequence[GroundedBox]) -> Float64:
    """`boxes.oriented_iou` of every pair, (A, B); pairs whose bounds are apart cost nothing."""
    overlaps = np.zeros((len(boxes_a), len(boxes_b)))
    if not boxes_a or not boxes_b:
        return overlaps
    near = aabb_iou(aabbs_of(boxes_a), aabbs_of(boxes_b)) > 0
    pairs = np.argwhere(near).tolist()
    overlaps[near] = oriented_iou_pairs(
        [boxes_a[i] for i, _ in pairs], [boxes_b[j] for _, j in pairs]
    )
    return overlaps


def oriented_iou_pairs(boxes_a: Sequence[GroundedBox], boxes_b: Sequence[GroundedBox]) -> Float64:
    """Overlap over union of each box with the one at its place in the other list, (n,), 0 to 1.

    Boxes without volume overlap nothing: 0.

    Raises:
        ValueError: the lists differ in length.
    """
    if len(boxes_a) != len(boxes_b):
        raise ValueError(
            f"boxes_b: expected {len(boxes_a)} boxes, one for each of boxes_a, got {len(boxes_b)}"
        )
    if not boxes_a:
        return np.zeros(0)
    center_a, size_a, quat_a = _numbers(boxes_a)
    center_b, size_b, quat_b = _numbers(boxes_b)
    volume_a, volume_b = size_a.prod(axis=1), size_b.prod(axis=1)
    R_a, R_b = matrix_from_quat_xyzw(quat_a), matrix_from_quat_xyzw(quat_b)
    tolerance = FACE_TOLERANCE * np.maximum(size_a.max(axis=1), size_b.max(axis=1))
    R_b_a = np.swapaxes(R_b, 1, 2) @ R_a
    R_a_b = np.swapaxes(R_b_a, 1, 2)
    offset = center_a - center_b
    a_in_b = _turned(np.swapaxes(R_b, 1, 2), offset)
    b_in_a = -_turned(np.swapaxes(R_a, 1, 2), offset)
    # A face of b that coincides with one of a is counted once: a keeps it, b drops it.
    flux = _clipped_flux(
        np.concatenate([size_a, size_b]),
        np.concatenate([R_b_a, R_a_b]),
        np.concatenate([a_in_b, b_in_a]),
        np.concatenate([size_b, size_a]),
        np.concatenate([tolerance, -tolerance]),
        np.concatenate([np.zeros_like(b_in_a), b_in_a]),
    )
    shared = np.clip(flux[: len(boxes_a)] + flux[len(boxes_a) :], 0, None)
    shared = np.minimum(shared, np.minimum(volume_a, volume_b))
    union = volume_a + volume_b - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _numbers(boxes: Sequence[GroundedBox]) -> tuple[Float64, Float64, Float64]:
    """Centres and sizes (n, 3), m, and quaternions (n, 4)."""
    return (
        np.array([box.center for box in boxes], float),
        np.array([box.size for box in boxes], float),
        np.array([box.quat_xyzw for box in boxes], float),
    )


def _turned(R: Float64, vectors: Float64) -> Float64:
    """Turn each vector by its rotation, (n, 3)."""
    return np.asarray((R @ vectors[:, :, None])[:, :, 0], np.float64)


def _clipped_flux(
    size: Float64,
    R: Float64,
    t: Float64,
    clip_size: Float64,
    tolerance: Float64,
    about: Float64,
) -> Float64:
    """Flux of p/3 through the parts of boxes' faces inside |x| <= clip_size / 2, (n,).

    Arguments as in `boxes._clipped_flux`, one row a box.
    """
    half = size / 2
    quads, heights = [], []
    for axis, sign in _FACES:
        one, two = (axis + 1) % 3, (axis + 2) % 3
        normal = sign * R[:, :, axis]
        middle = t + normal * half[:, axis, None]
        side_1, side_2 = R[:, :, one] * half[:, one, None], R[:, :, two] * half[:, two, None]
        corners = [
            middle + a * side_1 + b * side_2 for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))
        ]
        quads.append(np.stack(corners, axis=1))
        heights.append(((middle - about) * normal).sum(axis=1))
    limits = clip_size / 2 + tolerance[:, None]
    areas = _clipped_areas(np.concatenate(quads), np.tile(limits, (len(_FACES), 1)))
    flux: Float64 = areas * np.concatenate(heights) / 3
    return flux.reshape(len(_FACES), len(size)).sum(axis=0)


def _clipped_areas(quads: Float64, limits: Float64) -> Float64:
    """Areas of flat convex quads (m, 4, 3) cut to |x_k| <= limits (m, 3): (m,)."""
    points, count = quads, np.full(len(quads), 4)
    for axis, sign in _FACES:
        points, count = _cut(points, count, sign * points[:, :, axis] - limits[:, axis, None])
    edges = points[:, 1:] - points[:, :1]
    fan = np.cross(edges[:, :-1], edges[:, 1:])
    real = np.arange(2, points.shape[1]) < count[:, None]
    areas: Float64 = np.linalg.norm((fan * real[:, :, None]).sum(axis=1), axis=1) / 2
    return areas


def _cut(
    points: Float64, count: NDArray[np.int64], d: Float64
) -> tuple[Float64, NDArray[np.int64]]:
    """Keep of convex polygons what is not beyond a plane (Sutherland-Hodgman).

    Args:
        points: (m, V, 3), the first `count` of a row are its corners.
        count: (m,).
        d: how far beyond the plane each corner lies, (m, V).

    Returns:
        points (m, V + 1, 3) and count (m,).
    """
    rows, width = np.arange(len(points))[:, None], points.shape[1]
    real = np.arange(width) < count[:, None]
    after = (np.arange(width) + 1) % np.maximum(count, 1)[:, None]
    inside = d <= 0
    crosses = real & (inside != inside[rows, after])
    gap = d - d[rows, after]
    part = np.divide(d, gap, out=np.zeros_like(d), where=crosses)
    cut = points + part[:, :, None] * (points[rows, after] - points)
    both = np.stack([points, cut], axis=2).reshape(len(points), 2 * width, 3)
    kept = np.stack([real & inside, crosses], axis=2).reshape(len(points), 2 * width)
    order = np.argsort(~kept, axis=1, kind="stable")[:, : width + 1]
    return both[rows, order], kept.sum(axis=1)
