# SPDX-License-Identifier: Apache-2.0
"""The map's cloud over all windows: one point a voxel, the most confident, bounded in number.

Voxels lie sorted by key, so that a window costs its own points and one pass of copying, however
large the map. When the map is full its voxels double. Next: session.py, which saves it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.geometry.point_cloud import PointCloud, empty_cloud, voxel_thin

_BITS = 21
_HALF = 1 << (_BITS - 1)


class FusedCloud:
    """A cloud that grows by windows; not thread-safe: session.py holds the lock.

    Attributes:
        voxel_m: edge of its voxels now; doubles when the cloud is full.
        frame: what its points are in.
    """

    def __init__(self, voxel_m: float, max_points: int, frame: str = "map") -> None:
        """Start empty.

        Args:
            voxel_m: edge of a voxel.
            max_points: bound, at least 1.
            frame: name of the points' frame.
        """
        if max_points < 1:
            raise ValueError(f"max_points: expected at least 1, got {max_points}")
        if not voxel_m > 0:
            raise ValueError(f"voxel_m: expected an edge above 0 m, got {voxel_m}")
        self.voxel_m = voxel_m
        self.frame = frame
        self._max_points = max_points
        self._keys: NDArray[np.int64] = np.zeros(0, np.int64)
        self._cloud = empty_cloud(frame)

    def __len__(self) -> int:
        return len(self._cloud)

    @property
    def cloud(self) -> PointCloud:
        """The points now; never changed in place, so the holder may keep it."""
        return self._cloud

    def add(self, cloud: PointCloud) -> None:
        """Take a window's points; where a voxel has one, the more confident stays.

        Points farther than a million voxels from the origin are left out.
        """
        if cloud.frame != self.frame:
            raise ValueError(f"cloud: expected frame {self.frame!r}, got {cloud.frame!r}")
        cloud = cloud.select(np.asarray(np.isfinite(cloud.points).all(axis=1), bool))
        keys, inside = _keys_of(cloud, self.voxel_m)
        cloud = voxel_thin(cloud.select(inside), self.voxel_m)
        keys, _ = _keys_of(cloud, self.voxel_m)
        order = np.argsort(keys, kind="stable")
        self._merge(keys[order], cloud.select(order))
        while len(self._cloud) > self._max_points:
            self.voxel_m *= 2
            thin = voxel_thin(self._cloud, self.voxel_m)
            keys, _ = _keys_of(thin, self.voxel_m)
            order = np.argsort(keys, kind="stable")
            self._keys, self._cloud = keys[order], thin.select(order)

    def _merge(self, keys: NDArray[np.int64], cloud: PointCloud) -> None:
        """Put sorted new voxels among the sorted old ones."""
        old = self._cloud
        place = np.searchsorted(self._keys, keys)
        known = np.zeros(len(keys), bool)
        within = place < len(self._keys)
        known[within] = self._keys[place[within]] == keys[within]
        better = np.zeros(len(keys), bool)
        better[known] = cloud.confidence[known] > old.confidence[place[known]]
        points, rgb, confidence = old.points.copy(), old.rgb.copy(), old.confidence.copy()
        points[place[better]] = cloud.points[better]
        rgb[place[better]] = cloud.rgb[better]
        confidence[place[better]] = cloud.confidence[better]
        fresh = ~known
        self._keys = np.insert(self._keys, place[fresh], keys[fresh])
        self._cloud = PointCloud(
            np.insert(points, place[fresh], cloud.points[fresh], axis=0),
            np.insert(rgb, place[fresh], cloud.rgb[fresh], axis=0),
            np.insert(confidence, place[fresh], cloud.confidence[fresh]),
            self.frame,
        )


def _keys_of(cloud: PointCloud, voxel_m: float) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return each point's voxel as a number, (N,), and which are near enough to have one."""
    cell = np.floor(cloud.points.astype(np.float64) / voxel_m)
    inside = np.asarray((np.abs(cell) < _HALF).all(axis=1), bool)
    shifted = np.where(inside[:, None], cell, 0).astype(np.int64) + _HALF
    keys = (shifted[:, 0] << 2 * _BITS) | (shifted[:, 1] << _BITS) | shifted[:, 2]
    return keys.astype(np.int64, copy=False), inside
