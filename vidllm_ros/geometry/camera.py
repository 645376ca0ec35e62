# SPDX-License-Identifier: Apache-2.0
"""Pinhole camera: pixels to points and back, and what resizing does to the intrinsics.

Pixel centres are integers (u = 0..W-1, no half pixel), as OpenCV, ROS and VGGT have it; depth is z
along the optical axis. The torch twins inside the network are in network/camera_head.py.
Next: image.py, which resizes frames together with their K.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vidllm_ros.structures import FloatArray

Float64 = NDArray[np.float64]


def unproject(depth: FloatArray, K: ArrayLike) -> FloatArray:
    """Lift depth (..., H, W), m, to pointmap_camera (..., H, W, 3), m, in the optical frame.

    NaN depth gives NaN points. Source: Vid-LLM eq. (3) without the pose.

    Args:
        depth: z along the optical axis, (..., H, W), m.
        K: (..., 3, 3), px, of this image size, without skew.
    """
    intrinsics: NDArray[Any] = np.asarray(K, float).astype(depth.dtype)
    height, width = depth.shape[-2:]
    u: NDArray[Any] = np.arange(width).astype(depth.dtype)
    v: NDArray[Any] = np.arange(height).astype(depth.dtype)[:, None]
    fx, fy, cx, cy = (
        intrinsics[..., i, j][..., None, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2))
    )
    return np.stack([(u - cx) / fx * depth, (v - cy) / fy * depth, depth], axis=-1)


def project(points_camera: FloatArray, K: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Project points (..., N, 3), m, by K (..., 3, 3) to uv (..., N, 2), px, and z (..., N), m.

    Points behind the camera keep their (mirrored) uv: look at z before using it.
    """
    intrinsics = np.asarray(K, float)[..., None, :, :]
    z = points_camera[..., 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        xy = points_camera[..., :2] / z[..., None]
    focal = np.stack([intrinsics[..., 0, 0], intrinsics[..., 1, 1]], axis=-1)
    return xy * focal + intrinsics[..., :2, 2], z


def scale_K(K: ArrayLike, sx: float, sy: float) -> Float64:
    """Intrinsics after resizing the image by sx = new W / old W and sy = new H / old H.

    The image's edge is at -0.5, so centres move by (c + 0.5) s - 0.5 and not by c s.
    """
    scaled = np.array(K, float)
    for row, factor in ((0, sx), (1, sy)):
        scaled[..., row, :2] *= factor
        scaled[..., row, 2] = (scaled[..., row, 2] + 0.5) * factor - 0.5
    return scaled


def crop_K(K: ArrayLike, left: float, top: float) -> Float64:
    """Intrinsics after cutting `left` columns and `top` rows off the image, px."""
    cropped = np.array(K, float)
    cropped[..., 0, 2] -= left
    cropped[..., 1, 2] -= top
    return cropped


def fov_from_K(K: ArrayLike, height: int, width: int) -> tuple[Float64, Float64]:
    """Return (fov_h, fov_w), rad, as VGGT encodes them: 2 atan((H/2)/fy), 2 atan((W/2)/fx)."""
    intrinsics = np.asarray(K, float)
    fov_h = 2 * np.arctan2(height / 2, intrinsics[..., 1, 1])
    fov_w = 2 * np.arctan2(width / 2, intrinsics[..., 0, 0])
    return fov_h, fov_w


def K_from_fov(fov_h: ArrayLike, fov_w: ArrayLike, height: int, width: int) -> Float64:
    """Build K (..., 3, 3), px, from angles (...,), rad, with cx = W/2 and cy = H/2 (VGGT)."""
    h, w = np.broadcast_arrays(np.asarray(fov_h, float), np.asarray(fov_w, float))
    K = np.zeros((*h.shape, 3, 3))
    K[..., 0, 0] = (width / 2) / np.tan(w / 2)
    K[..., 1, 1] = (height / 2) / np.tan(h / 2)
    K[..., 0, 2] = width / 2
    K[..., 1, 2] = height / 2
    K[..., 2, 2] = 1.0
    return K
