# SPDX-License-Identifier: Apache-2.0
"""What of a scene's truth 32 frames have seen: nobody is asked for the rest.

A true point counts as seen where a frame's true depth at its pixel is no nearer than the point,
within a tolerance: neither outside the images nor behind something. This stands in for
NeuralRecon's rendering and re-fusing of a mesh, which a model that gives a cloud does not have.
Next: benchmark_scannet.py.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.geometry.camera import project
from vidllm_ros.geometry.transforms import invert_transform, transform_points

Float64 = NDArray[np.float64]
BEHIND_M = 0.05
FARTHEST_M = 5.0  # NeuralRecon's cut of depth


def seen_points(
    points: Float64,
    depths: Iterable[NDArray[np.float32]],
    K: Float64,
    T_world_camera: Float64,
    behind_m: float = BEHIND_M,
    farthest_m: float = FARTHEST_M,
) -> NDArray[np.bool_]:
    """Tell which points at least one frame sees, (N,).

    Args:
        points: (N, 3), m, in the world of the poses.
        depths: true depth of every frame, (h, w), m, NaN where there is no reading.
        K: of the depth images, (3, 3), px.
        T_world_camera: (S, 4, 4), m.
        behind_m: a point so far behind what the pixel shows is still seen.
        farthest_m: depth from which readings are not used.
    """
    seen = np.zeros(len(points), bool)
    for depth, T in zip(depths, T_world_camera, strict=True):
        seen |= seen_from(points, depth, K, T, behind_m, farthest_m)
    return seen


def seen_from(
    points: Float64,
    depth: NDArray[np.float32],
    K: Float64,
    T_world_camera: Float64,
    behind_m: float,
    farthest_m: float,
) -> NDArray[np.bool_]:
    """Tell which points one frame sees, (N,); arguments as `seen_points`."""
    local = transform_points(invert_transform(T_world_camera), points)
    z = local[:, 2]
    seen = (z > 0) & (z < farthest_m)
    places = np.flatnonzero(seen)
    pixels, _ = project(local[places], K)
    column, row = np.round(pixels).astype(int).T
    height, width = depth.shape
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    seen[places[~inside]] = False
    places, row, column = places[inside], row[inside], column[inside]
    shown = depth[row, column]
    with np.errstate(invalid="ignore"):
        seen[places] = np.isfinite(shown) & (z[places] <= shown + behind_m)
    return seen
