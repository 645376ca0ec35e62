# SPDX-License-Identifier: Apache-2.0
"""Where a frame was at a time: the small part of tf2 the node needs, for where tf2 is not there.

Keeps ten seconds of every moving transform, interpolates between stamps, walks the tree. The same
names and results as conversions.Tf2Tree, which wraps tf2's own buffer. Next: transforms.py, which
feeds it from /tf and /tf_static.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.geometry.transforms import (
    invert_transform,
    make_transform,
    matrix_from_quat_xyzw,
)

HISTORY_NS = 10_000_000_000
_ROOTS_DEEP = 1000


class TransformLookupError(LookupError):
    """The tree does not know this transform at this time; the message says why."""


@dataclass
class _Edge:
    """One child's transforms to its parent, by stamp."""

    parent: str
    is_static: bool
    stamps_ns: list[int] = field(default_factory=list)
    positions: list[NDArray[np.float64]] = field(default_factory=list)
    quats_xyzw: list[NDArray[np.float64]] = field(default_factory=list)

    def put(self, stamp_ns: int, position: NDArray[np.float64], quat: NDArray[np.float64]) -> None:
        if self.is_static:
            self.stamps_ns, self.positions, self.quats_xyzw = [stamp_ns], [position], [quat]
            return
        index = bisect.bisect_left(self.stamps_ns, stamp_ns)
        if index < len(self.stamps_ns) and self.stamps_ns[index] == stamp_ns:
            self.positions[index], self.quats_xyzw[index] = position, quat
            return
        self.stamps_ns.insert(index, stamp_ns)
        self.positions.insert(index, position)
        self.quats_xyzw.insert(index, quat)
        old = bisect.bisect_left(self.stamps_ns, self.stamps_ns[-1] - HISTORY_NS)
        del self.stamps_ns[:old], self.positions[:old], self.quats_xyzw[:old]

    def at(self, stamp_ns: int, child: str) -> NDArray[np.float64]:
        """Return T_parent_child at this time, interpolated."""
        if self.is_static:
            return _matrix(self.positions[0], self.quats_xyzw[0])
        first, last = self.stamps_ns[0], self.stamps_ns[-1]
        if not first <= stamp_ns <= last:
            raise TransformLookupError(
                f"{child}: expected a stamp from {first} to {last} ns, got {stamp_ns}"
            )
        after = bisect.bisect_left(self.stamps_ns, stamp_ns)
        if self.stamps_ns[after] == stamp_ns:
            return _matrix(self.positions[after], self.quats_xyzw[after])
        before = after - 1
        span = self.stamps_ns[after] - self.stamps_ns[before]
        share = (stamp_ns - self.stamps_ns[before]) / span
        position = (1 - share) * self.positions[before] + share * self.positions[after]
        return _matrix(position, _slerp(self.quats_xyzw[before], self.quats_xyzw[after], share))


def _matrix(position: NDArray[np.float64], quat: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(make_transform(matrix_from_quat_xyzw(quat), position))


def _slerp(
    start: NDArray[np.float64], end: NDArray[np.float64], share: float
) -> NDArray[np.float64]:
    """Turn from one unit quaternion to another on the shorter arc."""
    cosine = float(start @ end)
    if cosine < 0:
        end, cosine = -end, -cosine
    if cosine > 1 - 1e-9:  # too close for the sine; linear is exact to double precision
        return (1 - share) * start + share * end
    angle = np.arccos(cosine)
    parts = np.sin((1 - share) * angle) * start + np.sin(share * angle) * end
    return np.asarray(parts / np.sin(angle))


class TransformTree:
    """Frames with one parent each; add() from messages, lookup() between any two; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._edges: dict[str, _Edge] = {}

    @staticmethod
    def matrix(msg: Any) -> NDArray[np.float64]:
        """Return a geometry_msgs/TransformStamped as T_parent_child (4, 4)."""
        return _matrix(*_parts(msg))

    def add(self, msg: Any, is_static: bool) -> None:
        """Take a geometry_msgs/TransformStamped; a frame's newest parent counts."""
        child, parent = msg.child_frame_id, msg.header.frame_id
        stamp = msg.header.stamp
        with self._lock:
            edge = self._edges.get(child)
            if edge is None or edge.parent != parent or edge.is_static != is_static:
                edge = self._edges[child] = _Edge(parent, is_static)
            edge.put(stamp.sec * 1_000_000_000 + stamp.nanosec, *_parts(msg))

    def lookup(self, target: str, source: str, stamp_ns: int) -> NDArray[np.float64]:
        """Return T_target_source (4, 4) at this time; stamp 0 is the newest common time.

        Raises:
            TransformLookupError: a frame is missing, they are not connected, or the time is not
                covered.
        """
        with self._lock:
            return self._lookup(target, source, stamp_ns)

    def _lookup(self, target: str, source: str, stamp_ns: int) -> NDArray[np.float64]:
        up_source = list(self._ancestors(source))
        up_target = list(self._ancestors(target))
        root = next((frame for frame in up_source if frame in up_target), None)
        if root is None:
            raise TransformLookupError(f"{source}: no transform leads from it to {target}")
        below_source = up_source[: up_source.index(root)]
        below_target = up_target[: up_target.index(root)]
        when = stamp_ns or self._newest_common([*below_source, *below_target])
        T_root_source, T_root_target = np.eye(4), np.eye(4)
        for child in below_source:
            T_root_source = self._edges[child].at(when, child) @ T_root_source
        for child in below_target:
            T_root_target = self._edges[child].at(when, child) @ T_root_target
        return np.asarray(invert_transform(T_root_target) @ T_root_source)

    def _ancestors(self, frame: str) -> Iterator[str]:
        for _ in range(_ROOTS_DEEP):  # a loop of parents must not hang the node
            yield frame
            edge = self._edges.get(frame)
            if edge is None:
                return
            frame = edge.parent

    def _newest_common(self, children: list[str]) -> int:
        newest = [
            self._edges[child].stamps_ns[-1]
            for child in children
            if not self._edges[child].is_static
        ]
        return min(newest, default=0)


def _parts(msg: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Take position and quaternion x y z w out of a TransformStamped."""
    t, q = msg.transform.translation, msg.transform.rotation
    return np.array([t.x, t.y, t.z]), np.array([q.x, q.y, q.z, q.w])
