# SPDX-License-Identifier: Apache-2.0
"""What the node published during a run, by the stamps the film had before it was played.

The recorder (`python -m vidllm_ros.ros.record`) leaves record.json and record.npz; the player
prints which published stamp belongs to which original one. Everything here is in the node's world:
z up, metres. Next: measures.py compares it with the truth.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.geometry.point_cloud import PointCloud, empty_cloud, join_clouds, voxel_thin
from vidllm_ros.geometry.transforms import make_transform, matrix_from_quat_xyzw
from vidllm_ros.structures import GroundedBox

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class SeenDepth:
    """A depth image the node published.

    Attributes:
        stamp_ns: of the frame, as the film has it.
        depth: (h, w), m, NaN where unknown.
    """

    stamp_ns: int
    depth: NDArray[np.float32]


@dataclass(frozen=True)
class Recording:
    """All windows of a run.

    Attributes:
        windows: the entries of record.json, oldest first.
        arrays: the entries of record.npz.
        original_ns: stamp in the film by stamp on the topic.
    """

    windows: tuple[dict[str, Any], ...]
    arrays: Mapping[str, NDArray[Any]]
    original_ns: Mapping[int, int]

    @classmethod
    def load(cls, folder: Path, original_ns: Mapping[int, int]) -> Recording:
        """Read what the recorder left behind."""
        content = json.loads((folder / "record.json").read_text())
        with np.load(folder / "record.npz") as stored:
            arrays = {name: stored[name] for name in stored.files}
        return cls(tuple(content["windows"]), arrays, dict(original_ns))

    def poses(self) -> dict[int, Float64]:
        """Return the newest estimate of each frame's T_world_camera by the film's stamp."""
        poses: dict[int, Float64] = {}
        for window in self.windows:
            rows = window.get("window_poses") or []
            for stamp, row in zip(window["frame_stamps"], rows, strict=False):
                original = self.original_ns.get(int(stamp))
                if original is not None:
                    values = np.asarray(row, float)
                    poses[original] = make_transform(matrix_from_quat_xyzw(values[3:]), values[:3])
        return dict(sorted(poses.items()))

    def depths(self) -> tuple[SeenDepth, ...]:
        """Return the depth image of each window that published one, oldest first."""
        seen = []
        for window in self.windows:
            original = self.original_ns.get(int(window["stamp_ns"]))
            key = str(window.get("depth_key"))
            if original is not None and key in self.arrays:
                seen.append(SeenDepth(original, self.arrays[key]))
        return tuple(seen)

    def cloud(self, voxel_m: float) -> PointCloud:
        """Return the points of all windows, thinned together."""
        clouds = []
        for window in self.windows:
            key = str(window.get("points_key"))
            if key in self.arrays:
                index = key.removeprefix("points_")
                points, rgb = self.arrays[key], self.arrays[f"rgb_{index}"]
                confidence = self.arrays[f"confidence_{index}"]
                clouds.append(PointCloud(points, rgb, confidence, "world"))
        if not clouds:
            return empty_cloud()
        return voxel_thin(join_clouds(clouds), voxel_m)

    def boxes(self) -> tuple[GroundedBox, ...]:
        """Return the objects as the last window left them."""
        for window in reversed(self.windows):
            if window.get("objects") is not None:
                return tuple(box_from_entry(entry) for entry in window["objects"])
        return ()

    def timings_s(self) -> dict[str, float]:
        """Return the mean time of each stage of a window, s."""
        stages: dict[str, list[float]] = {}
        for window in self.windows:
            for name, seconds in window.get("timings_s", {}).items():
                stages.setdefault(name, []).append(float(seconds))
        return {name: float(np.mean(seconds)) for name, seconds in stages.items()}


def box_from_entry(entry: Mapping[str, Any]) -> GroundedBox:
    """Build a box from its entry in record.json or in a reply of /ask."""
    return GroundedBox(
        label=str(entry["label"]),
        score=float(entry["score"]),
        center=np.asarray(entry["center"], float),
        size=np.asarray(entry["size"], float),
        quat_xyzw=np.asarray(entry["quat_xyzw"], float),
        object_id=str(entry.get("id", "")),
        last_seen_ns=int(entry.get("last_seen_ns", 0)),
    )
