# SPDX-License-Identifier: Apache-2.0
"""A window's thinned cloud in a few milliseconds: one sort finds each voxel's best point.

Voxel, confidence and index of a point share one integer, so that plain sorting puts the most
confident point of each voxel first; only the points that stay are gathered. The plain twin is
`point_cloud.cloud_from_reconstruction`. Next: streaming/fused_cloud.py, which takes these clouds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vidllm_ros.geometry.point_cloud import PointCloud, empty_cloud
from vidllm_ros.structures import Reconstruction

_LEAST_CONFIDENCE_BITS = 17  # exponent and 9 bits: points within 0.2 % of each other may swap
_FAR_SHARE = 0.9
_SAMPLE_STEP = 7


@dataclass(frozen=True)
class WindowCloud:
    """The cloud, and which frame each of its points is from.

    Attributes:
        cloud: thinned, in the order of its voxels.
        frame_index: place of its frame in the window, (N,).
    """

    cloud: PointCloud
    frame_index: NDArray[np.int64]

    def of_frames(self, indices: ArrayLike) -> PointCloud:
        """Return the points of some of the frames, in the same order."""
        wanted = np.asarray(indices, np.int64)
        return self.cloud.select(np.flatnonzero(np.isin(self.frame_index, wanted)))


def voxel_cells(values: NDArray[np.float32], voxel_m: float) -> NDArray[np.int32]:
    """Return the voxel of coordinates along one axis; cheap, and the same for all who ask."""
    scaled = values * np.float32(1 / voxel_m)
    return np.floor(scaled, out=scaled).astype(np.int32)


def window_cloud(
    rec: Reconstruction,
    T_world_window: ArrayLike,
    min_confidence_quantile: float,
    voxel_m: float,
    frame: str = "world",
    max_pixels: int = 1 << 40,
) -> WindowCloud:
    """Lift a window's valid depth to one thinned cloud.

    Only one pixel in so many rows and columns is taken that nine tenths of the scene still have
    two a voxel, and no more than `max_pixels` are left. Which one differs from frame to frame,
    so that neighbours, which see the same surfaces, fill each other's gaps.

    Args:
        rec: the window.
        T_world_window: the window's world in the cloud's frame, (4, 4).
        min_confidence_quantile: share of the valid points, the least confident, to leave out.
        voxel_m: edge of the thinning voxel, above 0 m.
        frame: name of the cloud's frame.
        max_pixels: bound of the pixels that are lifted.
    """
    grid = _choose_pixels(rec, voxel_m, max_pixels)
    depth, confidence = grid.pick(rec.depth), grid.pick(rec.confidence)
    keep = grid.pick(rec.valid) & np.isfinite(depth) & np.isfinite(confidence)
    _drop_least(keep, confidence, min_confidence_quantile)
    kept = np.flatnonzero(keep)
    if len(kept) == 0:
        return WindowCloud(empty_cloud(frame), np.zeros(0, np.int64))
    axes = _points(rec, np.asarray(T_world_window, float), np.where(keep, depth, 0), grid)
    sure = np.maximum(confidence, 0).astype(np.float32, copy=False)
    best = _best_of_voxels([voxel_cells(axis, voxel_m) for axis in axes], sure, kept)
    cloud = PointCloud(
        np.stack([axis.ravel().take(best) for axis in axes], axis=1),
        grid.pick(rec.images).reshape(-1, 3).take(best, axis=0),
        confidence.astype(np.float32, copy=False).ravel().take(best),
        frame,
    )
    return WindowCloud(cloud, best // depth[0].size)


def _best_of_voxels(
    cells: list[NDArray[np.int32]], sure: NDArray[np.float32], kept: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the flat index of the most confident kept point of each voxel, by voxel."""
    lows = [int(cell.min()) for cell in cells]
    spans = [int(cell.max()) - low + 1 for cell, low in zip(cells, lows, strict=True)]
    index_bits = sure.size.bit_length()
    voxel_bits = (spans[0] * spans[1] * spans[2]).bit_length()
    confidence_bits = min(31, 63 - voxel_bits - index_bits)
    if confidence_bits < _LEAST_CONFIDENCE_BITS:  # a cloud that reaches very far
        x, y, z = (cell.ravel()[kept] for cell in cells)
        order = np.lexsort((kept, -sure.ravel()[kept], z, y, x))
        x, y, z = x[order], y[order], z[order]
        is_first = np.ones(len(order), bool)
        is_first[1:] = (x[1:] != x[:-1]) | (y[1:] != y[:-1]) | (z[1:] != z[:-1])
        return kept[order[is_first]]
    key = cells[0] if voxel_bits <= 31 else cells[0].astype(np.int64)
    key = key - lows[0]
    for axis in (1, 2):
        key *= spans[axis]
        key += cells[axis] - lows[axis]
    doubt = sure.view(np.int32).ravel().take(kept) >> (31 - confidence_bits)  # ordered as floats
    np.subtract((1 << confidence_bits) - 1, doubt, out=doubt)
    packed = key.ravel().take(kept).astype(np.int64)
    packed <<= confidence_bits
    packed |= doubt
    packed <<= index_bits
    packed |= kept
    packed.sort()
    voxel = packed >> (confidence_bits + index_bits)
    is_first = np.ones(len(voxel), bool)
    np.not_equal(voxel[1:], voxel[:-1], out=is_first[1:])
    best = packed.take(np.flatnonzero(is_first))
    best &= (1 << index_bits) - 1
    return best


@dataclass(frozen=True)
class _Grid:
    """One pixel in `step` x `step` of each frame, another one from frame to frame."""

    step: int
    left: NDArray[np.int64]  # (S,), px
    top: NDArray[np.int64]
    height: int
    width: int

    def pick(self, values: NDArray[Any]) -> NDArray[Any]:
        """Take the pixels out of maps (S, H, W, ...)."""
        if self.step == 1:
            return values
        picked = np.empty((len(values), self.height, self.width, *values.shape[3:]), values.dtype)
        for i, (left, top) in enumerate(zip(self.left, self.top, strict=True)):
            some = values[i, top :: self.step, left :: self.step]
            picked[i] = some[: self.height, : self.width]
        return picked

    @property
    def u(self) -> NDArray[np.float32]:
        """Columns, (S, w), px."""
        return (self.left[:, None] + self.step * np.arange(self.width)).astype(np.float32)

    @property
    def v(self) -> NDArray[np.float32]:
        """Rows, (S, h), px."""
        return (self.top[:, None] + self.step * np.arange(self.height)).astype(np.float32)


def _choose_pixels(rec: Reconstruction, voxel_m: float, max_pixels: int) -> _Grid:
    frames, height, width = rec.depth.shape
    step = max(_voxel_step(rec, voxel_m), int(np.ceil(np.sqrt(rec.depth.size / max_pixels))))
    step = min(step, height, width)
    phase = np.arange(frames) % (step * step)
    return _Grid(step, phase % step, phase // step, height // step, width // step)


def _voxel_step(rec: Reconstruction, voxel_m: float) -> int:
    """Return how many pixels make half a voxel where the scene is far; at least 1."""
    sample = rec.depth[:, ::_SAMPLE_STEP, ::_SAMPLE_STEP]
    sample = sample[rec.valid[:, ::_SAMPLE_STEP, ::_SAMPLE_STEP] & np.isfinite(sample)]
    if len(sample) == 0:
        return 1
    far_m = float(np.quantile(sample, _FAR_SHARE))
    focal_px = float(np.median(rec.K[:, 0, 0]))
    return max(1, int(voxel_m * focal_px / max(far_m, 1e-6) / 2))


def _drop_least(keep: NDArray[np.bool_], confidence: NDArray[np.float32], quantile: float) -> None:
    """Clear the share of `keep` that is the least confident, as `numpy.quantile` would."""
    if quantile <= 0 or not keep.any():
        return
    values = confidence[keep]
    rank = int(np.ceil(quantile * (len(values) - 1) - 1e-9))
    keep &= confidence >= np.partition(values, rank)[rank]


def _points(
    rec: Reconstruction, T_world_window: NDArray[np.float64], depth: NDArray[Any], grid: _Grid
) -> list[NDArray[np.float32]]:
    """Lift pixels to the world, one array (S, h, w) an axis: a ray is linear in u and v."""
    T = T_world_window @ rec.T_world_camera
    rays = (T[:, :3, :3] @ np.linalg.inv(rec.K)).astype(np.float32)
    t = T[:, :3, 3].astype(np.float32)
    u, v = grid.u, grid.v
    axes = []
    for axis in range(3):
        of_rows = rays[:, axis, 1, None] * v + rays[:, axis, 2, None]  # (S, h)
        points = (rays[:, axis, 0, None] * u)[:, None] + of_rows[:, :, None]
        points *= depth
        points += t[:, axis, None, None]
        axes.append(points)
    return axes
