# SPDX-License-Identifier: Apache-2.0
"""The map on disk: a PLY of its points and a plain JSON of its objects, each whole or not there.

Any program reads them: the PLY is what every viewer takes, the JSON has names, positions and sizes
in metres. Next: session.py calls this.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vidllm_ros.geometry.point_cloud import PointCloud, write_atomically, write_ply
from vidllm_ros.streaming.results import SavedMap
from vidllm_ros.structures import GroundedBox


def write_map(
    path: Path,
    cloud: PointCloud,
    objects: Sequence[GroundedBox],
    stamp_ns: int,
    voxel_m: float,
) -> SavedMap:
    """Write cloud and objects, both in the cloud's frame.

    Args:
        path: of the PLY; the JSON gets the same name with another ending.
        cloud: the points.
        objects: the boxes.
        stamp_ns: of the newest frame in the map.
        voxel_m: edge of the voxels that hold one point each.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: the path does not end in .ply.
    """
    if path.suffix.lower() != ".ply":
        raise ValueError(f"path: expected a name ending in .ply, got {path.name!r}")
    content = {
        "frame": cloud.frame,
        "unit": "m",
        "stamp_ns": stamp_ns,
        "voxel_m": voxel_m,
        "objects": [_as_plain(box) for box in objects],
    }
    write_ply(path, cloud)
    objects_path = path.with_suffix(".json")
    write_atomically(objects_path, (json.dumps(content, indent=1) + "\n").encode())
    return SavedMap(path, objects_path, len(cloud), len(objects), voxel_m)


def _as_plain(box: GroundedBox) -> dict[str, Any]:
    return {
        "id": box.object_id,
        "label": box.label,
        "score": float(box.score),
        "center": [float(value) for value in box.center],
        "size": [float(value) for value in box.size],
        "quat_xyzw": [float(value) for value in box.quat_xyzw],
        "last_seen_ns": int(box.last_seen_ns),
    }
