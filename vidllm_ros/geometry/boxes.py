# SPDX-License-Identifier: Apache-2.0
"""Metric oriented boxes: corners, transforms, membership and exact overlap.

The overlap of two oriented boxes is a convex polyhedron; its faces are pieces of the two boxes'
faces, so its volume follows from clipped quads by the divergence theorem, without sampling.
Next: box_overlap.py, the same for many pairs at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vidllm_ros.geometry.transforms import (
    matrix_from_quat_xyzw,
    nearest_rotation,
    quat_xyzw_from_matrix,
    transform_points,
)
from vidllm_ros.structures import GroundedBox

Float64 = NDArray[np.float64]
_Point = tuple[float, float, float]

_CORNER_SIGNS: Float64 = np.array(list(product((-0.5, 0.5), repeat=3)))  # x slowest, z fastest
FACE_TOLERANCE = 1e-9
"""How far outside a face still counts as on it: m, or as a share of the longest edge."""


def box_corners(center: ArrayLike, size: ArrayLike, quat_xyzw: ArrayLike) -> Float64:
    """Return the corners (..., 8, 3), m; x slowest, z fastest, low before high.

    Args:
        center: (..., 3), m.
        size: full edges, (..., 3), m.
        quat_xyzw: box axes to the frame of the centre, (..., 4).
    """
    R = matrix_from_quat_xyzw(quat_xyzw)
    local = _CORNER_SIGNS * np.asarray(size, float)[..., None, :]
    return local @ np.swapaxes(R, -1, -2) + np.asarray(center, float)[..., None, :]


def corners_of(box: GroundedBox) -> Float64:
    """Return the box's corners, (8, 3), m, in its holder's frame."""
    return box_corners(box.center, box.size, box.quat_xyzw)


def aabb_of(box: GroundedBox) -> Float64:
    """Return the axis-aligned bounds, (6,): min xyz, max xyz, m."""
    corners = corners_of(box)
    return np.concatenate([corners.min(axis=0), corners.max(axis=0)])


def aabb_iou(bounds_a: ArrayLike, bounds_b: ArrayLike) -> Float64:
    """Overlap of axis-aligned boxes (N, 6) and (M, 6), each min then max, m: (N, M), 0 to 1."""
    a = np.asarray(bounds_a, float).reshape(-1, 1, 6)
    b = np.asarray(bounds_b, float).reshape(1, -1, 6)
    edges = np.minimum(a[..., 3:], b[..., 3:]) - np.maximum(a[..., :3], b[..., :3])
    shared = np.clip(edges, 0, None).prod(axis=-1)
    volume_a = (a[..., 3:] - a[..., :3]).prod(axis=-1)
    volume_b = (b[..., 3:] - b[..., :3]).prod(axis=-1)
    union = volume_a + volume_b - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def transform_box(T: ArrayLike, box: GroundedBox) -> GroundedBox:
    """Move a box by a rigid transform or similarity (4, 4); a similarity scales its edges too."""
    return transform_boxes(T, [box])[0]


def transform_boxes(T: ArrayLike, boxes: Sequence[GroundedBox]) -> list[GroundedBox]:
    """Move boxes by one rigid transform or similarity (4, 4); a similarity scales their edges.

    Raises:
        ValueError: it mirrors, or has no scale.
    """
    transform = np.asarray(T, float)
    scale = float(np.cbrt(np.linalg.det(transform[:3, :3])))
    if not scale > 0:
        raise ValueError(f"T: expected a rotation times a positive scale, got {transform[:3, :3]}")
    if not boxes:
        return []
    quats = np.array([box.quat_xyzw for box in boxes], float)
    R = nearest_rotation(transform[:3, :3]) @ matrix_from_quat_xyzw(quats)
    centers = transform_points(transform, np.array([box.center for box in boxes], float))
    moved = zip(boxes, centers, quat_xyzw_from_matrix(R), strict=True)
    return [
        replace(box, center=center, size=np.asarray(box.size, float) * scale, quat_xyzw=quat)
        for box, center, quat in moved
    ]


def points_in_box(points: ArrayLike, box: GroundedBox) -> NDArray[np.bool_]:
    """Say which points (..., 3), m, lie in the box, its faces included: (...,)."""
    R = matrix_from_quat_xyzw(box.quat_xyzw)
    local = (np.asarray(points, float) - np.asarray(box.center, float)) @ R
    inside = np.abs(local) <= np.asarray(box.size, float) / 2 + FACE_TOLERANCE
    return inside.all(axis=-1)


def oriented_iou(box_a: GroundedBox, box_b: GroundedBox) -> float:
    """Overlap of two oriented boxes over their union, 0 to 1, exact up to rounding.

    Boxes without volume overlap nothing: 0.
    """
    size_a, size_b = np.asarray(box_a.size, float), np.asarray(box_b.size, float)
    volumes = float(size_a.prod()), float(size_b.prod())
    if min(volumes) <= 0:
        return 0.0
    offset = np.asarray(box_a.center, float) - np.asarray(box_b.center, float)
    if np.linalg.norm(offset) >= (np.linalg.norm(size_a) + np.linalg.norm(size_b)) / 2:
        return 0.0
    shared = _shared_volume(offset, box_a, box_b)
    shared = min(max(shared, 0.0), *volumes)
    return shared / (volumes[0] + volumes[1] - shared)


def _shared_volume(offset: Float64, box_a: GroundedBox, box_b: GroundedBox) -> float:
    """Volume of the intersection, m^3; `offset` is a's centre in b's centre's frame."""
    R_a, R_b = matrix_from_quat_xyzw(box_a.quat_xyzw), matrix_from_quat_xyzw(box_b.quat_xyzw)
    # Each side clips in the other's axes, where the other is |x| <= half. Its own quads keep their
    # outward normal, and the volume of a closed surface is a third of the sum of n . p dA.
    # A face of b that coincides with one of a is counted once: a keeps it, b drops it.
    tolerance = FACE_TOLERANCE * max(float(np.max(box_a.size)), float(np.max(box_b.size)))
    volume = _clipped_flux(box_a.size, R_b.T @ R_a, R_b.T @ offset, box_b.size, tolerance)
    volume += _clipped_flux(
        box_b.size, R_a.T @ R_b, -(R_a.T @ offset), box_a.size, -tolerance, about=-(R_a.T @ offset)
    )
    return volume


def _clipped_flux(
    size: ArrayLike,
    R: Float64,
    t: Float64,
    clip_size: ArrayLike,
    tolerance: float,
    about: Float64 | None = None,
) -> float:
    """Flux of p/3 through the part of a box's faces inside the axis-aligned |x| <= clip_size / 2.

    Args:
        size: full edges of the box.
        R: its axes, in the clipping box's axes.
        t: its centre, in the clipping box's axes.
        clip_size: full edges of the clipping box.
        tolerance: how far outside a face still counts as inside; negative for strictly inside.
        about: where p is measured from, so that both halves of the surface agree.
    """
    half = np.asarray(size, float) / 2
    limits = [float(edge) / 2 + tolerance for edge in np.asarray(clip_size, float)]
    origin = np.zeros(3) if about is None else about
    flux = 0.0
    for axis, sign in product(range(3), (-1.0, 1.0)):
        normal = sign * R[:, axis]
        side_1, side_2 = R[:, (axis + 1) % 3], R[:, (axis + 2) % 3]
        h_1, h_2 = half[(axis + 1) % 3], half[(axis + 2) % 3]
        middle = t + normal * half[axis]
        quad = [
            tuple((middle + a * h_1 * side_1 + b * h_2 * side_2).tolist())
            for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))
        ]
        polygon = _clip_polygon(quad, limits)
        if len(polygon) >= 3:
            flux += _area(polygon) * float(normal @ (middle - origin)) / 3
    return flux


def _clip_polygon(polygon: list[_Point], limits: list[float]) -> list[_Point]:
    """Cut a convex polygon to |x_k| <= limits[k] for each axis (Sutherland-Hodgman)."""
    for axis, sign in product(range(3), (-1.0, 1.0)):
        limit = limits[axis]
        kept: list[_Point] = []
        for start, end in zip(polygon, polygon[1:] + polygon[:1], strict=True):
            d_start, d_end = sign * start[axis] - limit, sign * end[axis] - limit
            if d_start <= 0:
                kept.append(start)
            if (d_start <= 0) != (d_end <= 0):
                part = d_start / (d_start - d_end)
                kept.append(
                    (
                        start[0] + part * (end[0] - start[0]),
                        start[1] + part * (end[1] - start[1]),
                        start[2] + part * (end[2] - start[2]),
                    )
                )
        polygon = kept
        if len(polygon) < 3:
            return []
    return polygon


def _area(polygon: list[_Point]) -> float:
    """Area of a flat convex polygon."""
    p = np.array(polygon)
    return float(np.linalg.norm(np.cross(p[1:-1] - p[0], p[2:] - p[0]).sum(axis=0)) / 2)
