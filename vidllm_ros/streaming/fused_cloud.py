# SPDX-License-Identifier: Apache-2.0
"""The map's cloud over all windows: one point a voxel, the most confident, bounded in number.

Voxels lie sorted by key, so that a window costs its own points and one pass of copying, however
large the map. When the map is full its voxels double. Next: session.py, which saves it.
"""

from __future__ import annotations

from typing import Any

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
        self._merge(_within(cloud, self.voxel_m * _HALF))
        while len(self._cloud) > self._max_points:
            self.voxel_m *= 2
            full, self._cloud = self._cloud, empty_cloud(self.frame)
            self._keys = self._keys[:0]
            self._merge(full)

    def _merge(self, cloud: PointCloud) -> None:
        """Put new points among the old ones, both in the order of their voxels."""
        keys = _keys_of(cloud, self.voxel_m)
        order = np.argsort(keys)
        if (keys[order[1:]] == keys[order[:-1]]).any():
            cloud = voxel_thin(cloud, self.voxel_m)
            keys = _keys_of(cloud, self.voxel_m)
            order = np.argsort(keys)
        keys = keys[order]
        place = np.searchsorted(self._keys, keys)
        known = np.zeros(len(keys), bool)
        within = place < len(self._keys)
        known[within] = self._keys[place[within]] == keys[within]

        fresh = np.flatnonzero(~known)
        fresh_at = place[fresh] + np.arange(len(fresh))
        is_old = np.ones(len(self._keys) + len(fresh), bool)
        is_old[fresh_at] = False
        old_at = np.flatnonzero(is_old)
        both = np.flatnonzero(known)
        better = both[cloud.confidence[order[both]] > self._cloud.confidence[place[both]]]
        changed_at = np.concatenate([fresh_at, old_at[place[better]]])
        source = order[np.concatenate([fresh, better])]

        def joined(old: NDArray[Any], new: NDArray[Any]) -> NDArray[Any]:
            result = np.empty((len(is_old), *old.shape[1:]), old.dtype)
            result[old_at] = old
            result[changed_at] = new[source]
            return result

        given = np.empty_like(keys)
        given[order] = keys
        self._keys = joined(self._keys, given)
        self._cloud = PointCloud(
            joined(self._cloud.points, cloud.points),
            joined(self._cloud.rgb, cloud.rgb),
            joined(self._cloud.confidence, cloud.confidence),
            self.frame,
        )


def _within(cloud: PointCloud, reach_m: float) -> PointCloud:
    """Leave out points that are not finite or too far; costs little where there are none."""
    with np.errstate(invalid="ignore"):
        inside = np.abs(cloud.points) < 0.99 * reach_m  # false for NaN
    return cloud if inside.all() else cloud.select(np.asarray(inside.all(axis=1), bool))


def _keys_of(cloud: PointCloud, voxel_m: float) -> NDArray[np.int64]:
    """Return each point's voxel as a number, (N,); by columns, much faster than by rows."""
    keys = np.zeros(len(cloud), np.int64)
    for axis in range(3):
        cell = np.floor(cloud.points[:, axis].astype(np.float64) / voxel_m).astype(np.int64)
        keys = (keys << _BITS) | (cell + _HALF)
    return keys
