# SPDX-License-Identifier: Apache-2.0
"""Rigid transforms and similarities: `T_a_b` maps coordinates in b to a.

Quaternions are x y z w with w >= 0, as ROS and VGGT store them. Everything takes any leading
dimensions. Next: camera.py, which turns pixels into points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vidllm_ros.structures import check_shape

Float64 = NDArray[np.float64]

T_WORLD_OPTICAL_LEVEL: Float64 = np.array(
    [[0.0, 0.0, 1.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
)
"""World with z up, seen from a level camera's optical frame: x forward, y left, z up (REP 103)."""
T_WORLD_OPTICAL_LEVEL.setflags(write=False)


def make_transform(R: ArrayLike, t: ArrayLike) -> Float64:
    """Join a rotation (..., 3, 3) and a translation (..., 3), m, into T (..., 4, 4)."""
    rotation, translation = np.asarray(R, float), np.asarray(t, float)
    lead = np.broadcast_shapes(rotation.shape[:-2], translation.shape[:-1])
    T = np.zeros((*lead, 4, 4))
    T[..., :3, :3] = rotation
    T[..., :3, 3] = translation
    T[..., 3, 3] = 1.0
    return T


def invert_transform(T: ArrayLike) -> Float64:
    """Invert rigid transforms (..., 4, 4) by transposing the rotation: T_b_a from T_a_b."""
    transform = np.asarray(T, float)
    R_inverse = np.swapaxes(transform[..., :3, :3], -1, -2)
    return make_transform(R_inverse, -(R_inverse @ transform[..., :3, 3:])[..., 0])


def transform_points(T: ArrayLike, points: ArrayLike) -> Float64:
    """Map points (..., 3) by one transform (4, 4), or by transforms (..., 4, 4) of points' lead.

    Leading dimensions of T broadcast against those of the points but the last: T (S, 4, 4) maps
    points (S, N, 3).
    """
    transform, p = np.asarray(T, float), np.asarray(points)
    p = p.astype(float, copy=False)
    if transform.ndim == 2:
        return p @ transform[:3, :3].T + transform[:3, 3]
    extra = p.ndim - 1 - (transform.ndim - 2)
    if extra < 0:
        raise ValueError(
            f"T: expected at most {p.ndim - 1} leading dimensions for points of shape {p.shape}, "
            f"got shape {transform.shape}; add an axis to the points"
        )
    lead = transform.reshape(*transform.shape[:-2], *(1,) * max(extra - 1, 0), 4, 4)
    if extra == 0:
        return (lead[..., :3, :3] @ p[..., None])[..., 0] + lead[..., :3, 3]
    return p @ np.swapaxes(lead[..., :3, :3], -1, -2) + lead[..., None, :3, 3]


def quat_xyzw_from_matrix(R: ArrayLike) -> Float64:
    """Turn rotations (..., 3, 3) into unit quaternions (..., 4), x y z w, w >= 0.

    Takes the largest of the four candidate components as pivot, so that no angle is ill-posed.
    """
    m = np.asarray(R, float)
    trace = m[..., 0, 0] + m[..., 1, 1] + m[..., 2, 2]
    diagonal = np.stack([m[..., 0, 0], m[..., 1, 1], m[..., 2, 2], trace], axis=-1)
    pivot = diagonal.argmax(axis=-1)
    yz, zx, xy = (m[..., 2, 1], m[..., 0, 2], m[..., 1, 0])
    zy, xz, yx = (m[..., 1, 2], m[..., 2, 0], m[..., 0, 1])
    one = 1.0 - trace
    candidates = np.stack(
        [
            np.stack([one + 2 * m[..., 0, 0], xy + yx, zx + xz, yz - zy], axis=-1),
            np.stack([xy + yx, one + 2 * m[..., 1, 1], yz + zy, zx - xz], axis=-1),
            np.stack([zx + xz, yz + zy, one + 2 * m[..., 2, 2], xy - yx], axis=-1),
            np.stack([yz - zy, zx - xz, xy - yx, 1.0 + trace], axis=-1),
        ],
        axis=-2,
    )  # (..., 4 pivots, 4)
    quat = np.take_along_axis(candidates, pivot[..., None, None], axis=-2)[..., 0, :]
    return normalize_quat_xyzw(quat)


def normalize_quat_xyzw(quat_xyzw: ArrayLike) -> Float64:
    """Scale quaternions (..., 4) to unit norm and w >= 0."""
    quat = np.asarray(quat_xyzw, float)
    quat = quat / np.linalg.norm(quat, axis=-1, keepdims=True)
    return np.where(quat[..., 3:] < 0, -quat, quat)


def matrix_from_quat_xyzw(quat_xyzw: ArrayLike) -> Float64:
    """Turn quaternions (..., 4), x y z w, of any norm into rotations (..., 3, 3)."""
    quat = np.asarray(quat_xyzw, float)
    x, y, z, w = np.moveaxis(quat / np.linalg.norm(quat, axis=-1, keepdims=True), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def rotation_angle(R: ArrayLike) -> Float64:
    """Return the angle of rotations (..., 3, 3), rad, 0 to pi.

    From sine and cosine together: arccos of the trace alone loses half the digits near zero.
    """
    m = np.asarray(R, float)
    axis = np.stack(
        [
            m[..., 2, 1] - m[..., 1, 2],
            m[..., 0, 2] - m[..., 2, 0],
            m[..., 1, 0] - m[..., 0, 1],
        ],
        axis=-1,
    )
    trace = np.trace(m, axis1=-2, axis2=-1)
    return np.arctan2(np.linalg.norm(axis, axis=-1), trace - 1.0)


def nearest_rotation(M: ArrayLike) -> Float64:
    """Project matrices (..., 3, 3) onto the closest rotations (least squares, det +1)."""
    u, _, vt = np.linalg.svd(np.asarray(M, float))
    sign = np.ones(u.shape[:-1])
    sign[..., 2] = np.sign(np.linalg.det(u @ vt))
    return (u * sign[..., None, :]) @ vt


@dataclass(frozen=True)
class Similarity:
    """p_target = scale * R p_source + t.

    Attributes:
        scale: target metres per source metre.
        R: (3, 3).
        t: (3,), m, in the target frame.
    """

    scale: float
    R: Float64
    t: Float64

    @property
    def matrix(self) -> Float64:
        """(4, 4), the scale multiplied into the rotation block."""
        return make_transform(self.scale * self.R, self.t)

    def apply(self, points: ArrayLike) -> Float64:
        """Map points (..., 3) from source to target."""
        return self.scale * (np.asarray(points, float) @ self.R.T) + self.t


def umeyama(
    source: ArrayLike, target: ArrayLike, with_scale: bool, weights: ArrayLike | None = None
) -> Similarity:
    """Fit the similarity that maps source to target with the least weighted squared error.

    Where the points do not fix a rotation (fewer than three, or on a line), one of the equally
    good rotations comes back; the caller adds what it knows. Source: Umeyama 1991.

    Args:
        source: (N, 3), m.
        target: (N, 3), m.
        with_scale: fit the scale too, else it is 1.
        weights: (N,), >= 0, not all zero.
    """
    a, b = np.asarray(source, float), np.asarray(target, float)
    check_shape("source", a, (None, 3))
    check_shape("target", b, (len(a), 3))
    if len(a) == 0:
        raise ValueError("source: expected at least one point, got none")
    w = np.ones(len(a)) if weights is None else np.asarray(weights, float)
    check_shape("weights", w, (len(a),))
    total = float(w.sum())
    if not total > 0:
        raise ValueError(f"weights: expected a positive sum, got {total}")
    w = w / total
    mean_a, mean_b = w @ a, w @ b
    a0, b0 = a - mean_a, b - mean_b
    covariance = (b0 * w[:, None]).T @ a0  # (3, 3)
    u, singular, vt = np.linalg.svd(covariance)
    sign = np.array([1.0, 1.0, 1.0 if np.linalg.det(u @ vt) > 0 else -1.0])
    R = (u * sign) @ vt
    variance = float(w @ (a0 * a0).sum(axis=1))
    scale = float((singular * sign).sum() / variance) if with_scale and variance > 0 else 1.0
    return Similarity(scale=scale, R=R, t=mean_b - scale * (R @ mean_a))
