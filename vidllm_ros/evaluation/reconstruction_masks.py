# SPDX-License-Identifier: Apache-2.0
"""What of a scene 32 frames have seen: of the truth and of a prediction, nothing else counts.

A true point counts where a frame's true depth at its pixel is no nearer than the point, within a
tolerance: neither outside the images nor behind something. A predicted point counts where it is
at a pixel that has a true depth and not far behind the other predicted ones there: the sensor can
say nothing of the rest, such as what lies behind a window. Its own depth is not compared with the
true one: a wall too far behind is wrong, not unseen. This stands in for NeuralRecon's rendering
and re-fusing of the predicted mesh at the true poses, which needs a mesh. Next:
benchmark_scannet.py.
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
CELLS_ACROSS = 80  # of the picture in which predicted points hide each other
HIDDEN_M = 0.5  # more than the noise of a cloud, whose front would else hide the rest


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
    places, row, column, z = _pixels_of(points, depth.shape, K, T_world_camera)
    seen = np.zeros(len(points), bool)
    shown = depth[row, column]
    with np.errstate(invalid="ignore"):
        seen[places] = np.isfinite(shown) & (z <= shown + behind_m) & (z < farthest_m)
    return seen


def judged_points(
    points: Float64,
    depths: Iterable[NDArray[np.float32]],
    K: Float64,
    T_world_camera: Float64,
    hidden_m: float = HIDDEN_M,
    farthest_m: float = FARTHEST_M,
) -> NDArray[np.bool_]:
    """Tell which predicted points the sensor can say something of, (N,).

    Args:
        points: predicted, (N, 3), m, in the world of the poses; thinned, so that a cell of the
            picture holds few of them.
        depths: true depth of every frame, (h, w), m, NaN where there is no reading.
        K: of the depth images, (3, 3), px.
        T_world_camera: (S, 4, 4), m.
        hidden_m: a point farther than this behind the nearest one of its cell is hidden.
        farthest_m: pixels with a true depth from here on say nothing.
    """
    judged = np.zeros(len(points), bool)
    for depth, T in zip(depths, T_world_camera, strict=True):
        judged |= judged_from(points, depth, K, T, hidden_m, farthest_m)
    return judged


def judged_from(
    points: Float64,
    depth: NDArray[np.float32],
    K: Float64,
    T_world_camera: Float64,
    hidden_m: float,
    farthest_m: float,
) -> NDArray[np.bool_]:
    """Tell which predicted points one frame judges, (N,); arguments as `judged_points`."""
    places, row, column, z = _pixels_of(points, depth.shape, K, T_world_camera)
    size = max(1, depth.shape[1] // CELLS_ACROSS)
    cells = (row // size) * (depth.shape[1] // size + 1) + column // size
    nearest = np.full(int(cells.max(initial=0)) + 1, np.inf)
    np.minimum.at(nearest, cells, z)
    with np.errstate(invalid="ignore"):
        known = np.isfinite(depth[row, column]) & (depth[row, column] < farthest_m)
    judged = np.zeros(len(points), bool)
    judged[places] = known & (z <= nearest[cells] + hidden_m)
    return judged


def _pixels_of(
    points: Float64, shape: tuple[int, ...], K: Float64, T_world_camera: Float64
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp], Float64]:
    """Return which points lie in the image, and their row, column and z, (M,) each."""
    local = transform_points(invert_transform(T_world_camera), points)
    places = np.flatnonzero(local[:, 2] > 0)
    pixels, _ = project(local[places], K)
    column, row = np.round(pixels).astype(np.intp).T
    inside = (column >= 0) & (column < shape[1]) & (row >= 0) & (row < shape[0])
    places = places[inside]
    return places, row[inside], column[inside], local[places, 2]
