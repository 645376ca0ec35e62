# SPDX-License-Identifier: Apache-2.0
"""Coloured metric point clouds: made from a reconstruction, thinned by voxels, written as PLY.

Thinning keeps one measured point a voxel, the most confident, and never averages: no point floats
between two surfaces. Next: streaming/session.py fuses these clouds over windows.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vidllm_ros.geometry.camera import unproject
from vidllm_ros.geometry.transforms import transform_points
from vidllm_ros.structures import Reconstruction, check_shape

_PLY_TYPE = np.dtype(
    [
        ("x", "<f4"),
        ("y", "<f4"),
        ("z", "<f4"),
        ("red", "u1"),
        ("green", "u1"),
        ("blue", "u1"),
        ("confidence", "<f4"),
    ]
)
_PLY_NAMES = {"<f4": "float", "|u1": "uchar"}
_VOXELS_PER_AXIS = 1 << 21


@dataclass(frozen=True)
class PointCloud:
    """Loose points with colour and confidence; every value is finite.

    Attributes:
        points: (N, 3), m, float32, in `frame`.
        rgb: (N, 3), uint8.
        confidence: (N,), float32, higher is surer.
        frame: the frame the points are in.
    """

    points: NDArray[np.float32]
    rgb: NDArray[np.uint8]
    confidence: NDArray[np.float32]
    frame: str = "world"

    def __post_init__(self) -> None:
        check_shape("points", self.points, (None, 3))
        check_shape("rgb", self.rgb, (len(self.points), 3))
        check_shape("confidence", self.confidence, (len(self.points),))

    def __len__(self) -> int:
        return len(self.points)

    def select(self, indices: NDArray[np.int64] | NDArray[np.bool_]) -> PointCloud:
        """Return the points at these indices, or where this mask is true."""
        return PointCloud(
            self.points[indices], self.rgb[indices], self.confidence[indices], self.frame
        )


def empty_cloud(frame: str = "world") -> PointCloud:
    """Return a cloud without points."""
    return PointCloud(
        np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8), np.zeros(0, np.float32), frame
    )


def join_clouds(clouds: Sequence[PointCloud]) -> PointCloud:
    """Put clouds of one frame behind each other.

    Raises:
        ValueError: there is none, or their frames differ.
    """
    frames = {cloud.frame for cloud in clouds}
    if len(frames) != 1:
        raise ValueError(f"clouds: expected clouds of one frame, got frames {sorted(frames)}")
    return PointCloud(
        np.concatenate([cloud.points for cloud in clouds]),
        np.concatenate([cloud.rgb for cloud in clouds]),
        np.concatenate([cloud.confidence for cloud in clouds]),
        frames.pop(),
    )


def voxel_thin(cloud: PointCloud, voxel_m: float) -> PointCloud:
    """Keep the most confident point of each voxel; on a tie the first, so it is repeatable.

    Voxels are aligned to the frame's origin: clouds thinned apart and joined thin consistently.

    Raises:
        ValueError: the edge is not positive, or the cloud spans more than two million voxels.
    """
    if not voxel_m > 0:
        raise ValueError(f"voxel_m: expected an edge above 0 m, got {voxel_m}")
    if len(cloud) == 0:
        return cloud
    cells = []
    for axis in range(3):  # columns: reducing along rows of three is several times slower
        cell = np.floor(cloud.points[:, axis].astype(np.float64) / voxel_m).astype(np.int64)
        cells.append(cell - cell.min())
    span = max(int(cell.max()) for cell in cells)
    if span >= _VOXELS_PER_AXIS:
        raise ValueError(
            f"voxel_m: expected a cloud within {_VOXELS_PER_AXIS} voxels of {voxel_m} m, got "
            f"{span} along one axis; use a larger voxel or drop far points"
        )
    order, starts = _grouped(*cells)
    confidence = cloud.confidence[order]
    best = np.maximum.reduceat(confidence, starts)
    sizes = np.diff(starts, append=len(order))
    is_best = np.flatnonzero(confidence == np.repeat(best, sizes))
    first = is_best[np.searchsorted(is_best, starts)]  # indices ascend within a voxel
    return cloud.select(np.sort(order[first]))


def _grouped(
    x: NDArray[np.int64], y: NDArray[np.int64], z: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Bring points of one voxel together: their order, and where each voxel begins in it.

    Voxel and index share one integer where both fit, because sorting plain integers is several
    times faster than sorting indices by a key.
    """
    columns, layers = int(y.max()) + 1, int(z.max()) + 1
    cells = (int(x.max()) + 1) * columns * layers
    index_bits = len(x).bit_length()
    if cells.bit_length() + index_bits <= 63:
        key = (x * columns + y) * layers + z
        packed = np.sort((key << index_bits) | np.arange(len(x)))
        order, key = packed & ((1 << index_bits) - 1), packed >> index_bits
    else:
        key = (x << 42) | (y << 21) | z
        order = np.argsort(key, kind="stable")
        key = key[order]
    changes = np.flatnonzero(key[1:] != key[:-1]) + 1
    return order, np.concatenate([np.zeros(1, np.int64), changes])


def cloud_from_reconstruction(
    rec: Reconstruction,
    T_world_window: ArrayLike,
    min_confidence_quantile: float = 0.0,
    voxel_m: float = 0.0,
    frame: str = "world",
) -> PointCloud:
    """Lift a window's valid depth to one cloud.

    Args:
        rec: the window.
        T_world_window: the window's world in the cloud's frame, (4, 4); may be a similarity.
        min_confidence_quantile: share of the valid points, the least confident, to leave out.
        voxel_m: edge of the thinning voxel, m; 0 keeps every point.
        frame: name of the cloud's frame.
    """
    keep = rec.valid & np.isfinite(rec.depth) & np.isfinite(rec.confidence)
    if min_confidence_quantile > 0 and keep.any():
        keep &= rec.confidence >= np.quantile(rec.confidence[keep], min_confidence_quantile)
    T_world_camera = np.asarray(T_world_window, float) @ rec.T_world_camera
    pointmap = unproject(np.where(keep, rec.depth, 0).astype(np.float32), rec.K)
    points = [
        transform_points(T, pointmap[i][keep[i]]).astype(np.float32)
        for i, T in enumerate(T_world_camera)
    ]
    cloud = PointCloud(
        np.concatenate(points), rec.images[keep], rec.confidence[keep].astype(np.float32), frame
    )
    return voxel_thin(cloud, voxel_m) if voxel_m > 0 else cloud


def write_ply(path: str | Path, cloud: PointCloud) -> None:
    """Write a binary little-endian PLY; the file appears whole or not at all.

    Raises:
        FileNotFoundError: the folder does not exist.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"path: expected an existing folder, got {target.parent}; make it")
    vertices = np.empty(len(cloud), _PLY_TYPE)
    for axis, name in enumerate("xyz"):
        vertices[name] = cloud.points[:, axis]
    for channel, name in enumerate(("red", "green", "blue")):
        vertices[name] = cloud.rgb[:, channel]
    vertices["confidence"] = cloud.confidence
    properties = [
        f"property {_PLY_NAMES[_PLY_TYPE[name].str]} {name}" for name in _PLY_TYPE.names or ()
    ]
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"comment frame {cloud.frame}, metres",
        f"element vertex {len(cloud)}",
        *properties,
        "end_header",
    ]
    write_atomically(target, "\n".join(header).encode() + b"\n" + vertices.tobytes())


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write beside the target, then rename over it: readers never see half a file."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
