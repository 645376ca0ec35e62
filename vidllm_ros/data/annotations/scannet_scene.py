# SPDX-License-Identifier: Apache-2.0
"""A ScanNet scene's axis alignment and its instances' boxes, from the four published files.

Vertices of `{s}_vh_clean_2.ply` move by the `axisAlignment` of `{s}.txt`; segments of
`{s}_vh_clean_2.0.010000.segs.json` join into the instances of `{s}.aggregation.json`; an
instance's box is the range of its vertices. Source: the preparation that ScanRefer publishes.
`object_id` is `objectId` of the aggregation, counted from 0: label arrays hold it plus one.
Next: proposals.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.data.annotations.ply import read_vertices
from vidllm_ros.data.annotations.records import (
    AnnotationError,
    Entry,
    load_entries,
    load_json,
    shorten,
)

SCAN_FOLDERS = ("scans", "scannet/scans")
LAYOUT = """scans/{scene}/{scene}.txt                               axisAlignment = 16 numbers
scans/{scene}/{scene}_vh_clean_2.ply                    mesh; its vertices are used
scans/{scene}/{scene}_vh_clean_2.0.010000.segs.json     segIndices, one a vertex
scans/{scene}/{scene}.aggregation.json                  segGroups: objectId, label, segments"""
MAX_CACHED = 2048
ORTHONORMAL_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Instance:
    """One annotated object.

    Attributes:
        object_id: `objectId` of the aggregation file, from 0.
        label: its raw category.
        aabb: (6,), min x y z, max x y z, m, axis-aligned world; None where later instances took
            all of its vertices.
    """

    object_id: int
    label: str
    aabb: NDArray[np.float64] | None


@dataclass(frozen=True)
class ScannetScene:
    """What the benchmarks need of a scan besides its images.

    Attributes:
        scene_id: "scene0000_00".
        T_aligned_scan: the scan's world to the axis-aligned one, (4, 4), m.
        instances: in the order of the aggregation file.
        path: of the aggregation file, for messages.
    """

    scene_id: str
    T_aligned_scan: NDArray[np.float64]
    instances: tuple[Instance, ...]
    path: Path
    _by_id: dict[int, Instance] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._by_id.update({item.object_id: item for item in self.instances})

    def box(self, object_id: int, asked_by: Entry, name: str = "object_id") -> NDArray[np.float64]:
        """Return the true box of an object that a record names: (6,), m, axis-aligned world.

        Raises:
            AnnotationError: the scene has no such object, or its box has no volume; names both
                the record and the scene's file.
        """
        found = self._by_id.get(object_id)
        if found is None:
            raise asked_by.error(
                name,
                f"an objectId of {self.path}",
                str(object_id),
                "the annotations and the scan belong to different releases",
            )
        if found.aabb is None or not (found.aabb[3:] > found.aabb[:3]).all():
            size = (
                "no vertices" if found.aabb is None else f"size {found.aabb[3:] - found.aabb[:3]}"
            )
            raise asked_by.error(
                name,
                "an object whose box has a volume",
                f"object {object_id} ({found.label!r}) of {self.path} with {size}",
                "nothing can overlap such a box; mend the scan's segments",
            )
        return found.aabb


def scan_folder(data_dir: Path, scene_id: str) -> Path:
    """Return the folder of a scan.

    Raises:
        FileNotFoundError: there is none.
    """
    places = [data_dir / folder / scene_id for folder in SCAN_FOLDERS]
    for place in places:
        if place.is_dir():
            return place
    raise FileNotFoundError(
        f"{scene_id}: expected its scan in {' or '.join(map(str, places))}, got none; "
        "put ScanNet's scans there or leave the scene's records out"
    )


def read_axis_alignment(path: Path) -> NDArray[np.float64]:
    """Read `axisAlignment` of a scan's metadata: (4, 4), the scan's world to the aligned one.

    Raises:
        AnnotationError: there is none, or it is no rigid motion.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a scan's metadata, got no file; put it there")
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition("=")
        if name.strip() != "axisAlignment":
            continue
        try:
            matrix = np.array([float(word) for word in value.split()]).reshape(4, 4)
        except ValueError:
            raise AnnotationError(
                f"{path}: axisAlignment: expected 16 numbers, got {value.strip()[:60]!r}; "
                "download the file again"
            ) from None
        R = matrix[:3, :3]
        is_rigid = np.allclose(R @ R.T, np.eye(3), atol=ORTHONORMAL_TOLERANCE)
        if not np.isfinite(matrix).all() or not is_rigid or np.any(matrix[3] != [0, 0, 0, 1]):
            raise AnnotationError(
                f"{path}: axisAlignment: expected a rigid motion, got {matrix.tolist()}; "
                "download the file again"
            )
        return matrix
    raise AnnotationError(
        f"{path}: axisAlignment: expected this line, got none; scans of the train and val splits "
        "have it, boxes cannot be aligned without"
    )


def aligned_vertices(folder: Path, T_aligned_scan: NDArray[np.float64]) -> NDArray[np.float64]:
    """Read a scan's vertices in the axis-aligned world: (V, 3), m."""
    vertices = read_vertices(folder / f"{folder.name}_vh_clean_2.ply")
    moved = vertices @ T_aligned_scan[:3, :3].T + T_aligned_scan[:3, 3]
    return np.asarray(moved, np.float64)


def read_segments(path: Path, vertices: int) -> NDArray[np.int64]:
    """Read the segment of every vertex: (V,)."""
    document = load_json(path)
    values = document.get("segIndices") if isinstance(document, dict) else None
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise AnnotationError(
            f"{path}: segIndices: expected a list of integers, got {shorten(values)}; "
            "download the file again"
        )
    if len(values) != vertices:
        raise AnnotationError(
            f"{path}: segIndices: expected one for each of the mesh's {vertices} vertices, got "
            f"{len(values)}; mesh and segments belong to different meshes"
        )
    return np.array(values, np.int64)


def instance_of_vertices(
    segments: NDArray[np.int64], groups: list[Entry]
) -> tuple[NDArray[np.int64], list[tuple[int, str]]]:
    """Return the position in `groups` of each vertex's instance, (V,), -1 for none, and its name.

    A segment that several groups claim belongs to the last, as in ScanRefer's preparation.
    """
    known, position = np.unique(segments, return_inverse=True)
    owner = np.full(len(known), -1, np.int64)
    names: list[tuple[int, str]] = []
    seen: set[int] = set()
    for index, group in enumerate(groups):
        object_id = group.integer("objectId")
        if object_id in seen:
            raise group.error("objectId", "every id once", f"{object_id} again")
        seen.add(object_id)
        names.append((object_id, group.text("label")))
        wanted = np.array(group.integers("segments"), np.int64)
        places = np.searchsorted(known, wanted).clip(max=len(known) - 1)
        strange = wanted[known[places] != wanted]
        if len(strange):
            raise group.error("segments", "segments of the mesh", f"{strange[0]}, which is none")
        owner[places] = index
    return owner[position.reshape(-1)], names


def read_scene(data_dir: Path, scene_id: str) -> ScannetScene:
    """Read a scan's alignment and instance boxes; the last ones read are remembered.

    Raises:
        FileNotFoundError: the scan or one of its files is missing.
        AnnotationError: a file is not what its format says; names file, record and field.
    """
    return _read_scene(data_dir.resolve(), scene_id)


@lru_cache(maxsize=MAX_CACHED)
def _read_scene(data_dir: Path, scene_id: str) -> ScannetScene:
    folder = scan_folder(data_dir, scene_id)
    T_aligned_scan = read_axis_alignment(folder / f"{scene_id}.txt")
    vertices = aligned_vertices(folder, T_aligned_scan)
    segments = read_segments(folder / f"{scene_id}_vh_clean_2.0.010000.segs.json", len(vertices))
    path = folder / f"{scene_id}.aggregation.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected the scan's instances, got no file")
    groups = load_entries(path, ("objectId", "label"), under="segGroups")
    owner, names = instance_of_vertices(segments, groups)
    order = np.argsort(owner, kind="stable")
    starts = np.searchsorted(owner[order], np.arange(len(groups) + 1))
    instances = []
    for index, (object_id, label) in enumerate(names):
        own = vertices[order[starts[index] : starts[index + 1]]]
        aabb = np.concatenate([own.min(0), own.max(0)]) if len(own) else None
        instances.append(Instance(object_id, label, aabb))
    return ScannetScene(scene_id, T_aligned_scan, tuple(instances), path)
