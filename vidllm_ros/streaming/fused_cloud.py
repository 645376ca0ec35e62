# SPDX-License-Identifier: Apache-2.0
"""The map's cloud over all windows: one point a voxel, the most confident, bounded in number.

The numbers of occupied voxels lie sorted; each names the place of its point in buffers that only
grow at their end, so that a window costs its own points and a merge of the numbers, however large
the map. When the map is full its voxels double, and `voxel_m` says so. Next: session.py, which
saves it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.geometry.point_cloud import PointCloud, empty_cloud
from vidllm_ros.geometry.window_cloud import voxel_cells

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
        self._clear()

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def byte_count(self) -> int:
        """Memory of its buffers, those kept free for what comes included."""
        held = (self._keys, self._places, self._points, self._rgb, self._confidence)
        return sum(array.nbytes for array in held)

    @property
    def cloud(self) -> PointCloud:
        """The points now, as a copy, in the order they came."""
        count = len(self)
        return PointCloud(
            self._points[:count].copy(),
            self._rgb[:count].copy(),
            self._confidence[:count].copy(),
            self.frame,
        )

    def add(self, cloud: PointCloud) -> None:
        """Take a window's points; where a voxel has one, the more confident stays.

        Points farther than a million voxels from the origin are left out. Costs least where the
        points come in the order of their voxels, as `window_cloud` gives them.
        """
        if cloud.frame != self.frame:
            raise ValueError(f"cloud: expected frame {self.frame!r}, got {cloud.frame!r}")
        self._merge(_within(cloud, self.voxel_m * _HALF))
        while len(self) > self._max_points:
            self.voxel_m *= 2
            full = self.cloud
            self._clear()
            self._merge(full)

    def _clear(self) -> None:
        nothing = empty_cloud(self.frame)
        self._keys: NDArray[np.int64] = np.zeros(0, np.int64)
        self._places: NDArray[np.int32] = np.zeros(0, np.int32)
        self._points, self._rgb = nothing.points, nothing.rgb
        self._confidence = nothing.confidence

    def _merge(self, cloud: PointCloud) -> None:
        keys, order = _best_by_voxel(_keys_of(cloud, self.voxel_m), cloud.confidence)
        at = np.searchsorted(self._keys, keys)
        known = np.zeros(len(keys), bool)
        within = at < len(self._keys)
        known[within] = self._keys[at[within]] == keys[within]

        both = np.flatnonzero(known)
        place, source = self._places[at[both]], order[both]
        better = cloud.confidence[source] > self._confidence[place]
        self._put(place[better], cloud, source[better])

        fresh = np.flatnonzero(~known)
        if len(fresh) == 0:
            return
        count = len(self)
        self._reserve(count + len(fresh))
        new_places = np.arange(count, count + len(fresh), dtype=np.int32)
        self._put(new_places, cloud, order[fresh])
        fresh_at = at[fresh] + np.arange(len(fresh))
        is_old = np.ones(count + len(fresh), bool)
        is_old[fresh_at] = False
        merged_keys, merged_places = (
            np.empty(len(is_old), np.int64),
            np.empty(len(is_old), np.int32),
        )
        merged_keys[is_old], merged_keys[fresh_at] = self._keys, keys[fresh]
        merged_places[is_old], merged_places[fresh_at] = self._places, new_places
        self._keys, self._places = merged_keys, merged_places

    def _put(
        self, places: NDArray[np.int32], cloud: PointCloud, source: NDArray[np.int64]
    ) -> None:
        self._points[places] = cloud.points.take(source, axis=0)
        self._rgb[places] = cloud.rgb.take(source, axis=0)
        self._confidence[places] = cloud.confidence[source]

    def _reserve(self, count: int) -> None:
        """Make the buffers long enough, by doubling, so that growing costs little over time."""
        have = len(self._confidence)
        if count <= have:
            return
        longer = max(count, 2 * have)

        def grown(old: NDArray[np.float32]) -> NDArray[np.float32]:
            new = np.empty((longer, *old.shape[1:]), old.dtype)
            new[:have] = old
            return new

        self._points, self._confidence = grown(self._points), grown(self._confidence)
        rgb = np.empty((longer, 3), np.uint8)
        rgb[:have] = self._rgb
        self._rgb = rgb


def _best_by_voxel(
    keys: NDArray[np.int64], confidence: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the voxels in ascending order and the index of the most confident point of each."""
    if (keys[1:] > keys[:-1]).all():
        return keys, np.arange(len(keys))
    order = np.lexsort((-confidence, keys))
    keys = keys[order]
    is_first = np.ones(len(keys), bool)
    np.not_equal(keys[1:], keys[:-1], out=is_first[1:])
    return keys[is_first], order[is_first]


def _within(cloud: PointCloud, reach_m: float) -> PointCloud:
    """Leave out points that are not finite or too far; costs little where there are none."""
    with np.errstate(invalid="ignore"):
        farthest = float(np.abs(cloud.points).max(initial=0.0))
        if farthest < 0.99 * reach_m:  # false for NaN
            return cloud
        inside = np.abs(cloud.points) < 0.99 * reach_m
    return cloud.select(np.asarray(inside.all(axis=1), bool))


def _keys_of(cloud: PointCloud, voxel_m: float) -> NDArray[np.int64]:
    """Return each point's voxel as a number, (N,); by columns, much faster than by rows."""
    keys = np.zeros(len(cloud), np.int64)
    for axis in range(3):
        keys <<= _BITS
        keys |= voxel_cells(cloud.points[:, axis], voxel_m) + _HALF
    return keys
