# SPDX-License-Identifier: Apache-2.0
"""A room as ScanNet lays out a scan: mesh, segments, instances, alignment, posed images.

    scans/{s}/{s}.txt, {s}_vh_clean_2.ply, {s}_vh_clean_2.0.010000.segs.json, {s}.aggregation.json
    scans/{s}/{color,depth,pose,intrinsic}/    as ScanNet's own tool extracts them
    posed_images/{s}/00000.{jpg,png,txt}       as the 3D language models keep them

The mesh holds the room and the objects the walk shows, one segment a part, points every few
centimetres on every face, hidden ones too. Rooms are axis-aligned as they are.
Next: published.py, which writes whole splits.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vidllm_ros.data.samples import SceneSample
from vidllm_ros.data.synthrooms.rooms import Room

SPACING_M = 0.1
JPEG_QUALITY = 95
VERTEX = np.dtype([("xyz", "<f4", 3), ("rgba", "u1", 4)])
FACE = np.dtype([("count", "u1"), ("corners", "<i4", 3)])


def shown_parts(room: Room, sample: SceneSample) -> NDArray[np.int64]:
    """Return the rows of `room.boxes` that are structure, clutter or objects of the sample."""
    seen = np.array([-1, *(item.object_id for item in sample.objects)])
    return np.flatnonzero(np.isin(room.boxes.object_ids, seen))


def face_grid(
    edges: NDArray[np.float64], axis: int, side: int, spacing_m: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return points (P, 3) on one face of a box about the origin, and triangles (T, 3)."""
    across, along = (a for a in range(3) if a != axis)
    columns, rows = (max(2, int(np.ceil(edges[a] / spacing_m)) + 1) for a in (across, along))
    u, v = (np.linspace(-0.5, 0.5, n) * edges[a] for n, a in ((columns, across), (rows, along)))
    points = np.zeros((columns * rows, 3))
    points[:, across], points[:, along] = np.repeat(u, rows), np.tile(v, columns)
    points[:, axis] = (side - 0.5) * edges[axis]
    first = (np.arange(columns - 1)[:, None] * rows + np.arange(rows - 1)).ravel()
    right, up = first + rows, first + 1
    halves = [np.stack([first, right, up], 1), np.stack([right, right + 1, up], 1)]
    triangles = np.concatenate(halves)
    outward = (side == 1) == (axis != 1)
    return points, triangles if outward else triangles[:, ::-1]


def mesh_of(
    room: Room, parts: NDArray[np.int64], spacing_m: float
) -> tuple[NDArray[np.void], NDArray[np.void], NDArray[np.int64]]:
    """Return vertices (V,), triangles (T,) and each vertex's segment, the part's row, (V,)."""
    boxes = room.boxes
    inside = np.array([room.size[0] / 2, room.size[1] / 2, room.size[2]]) + 1e-3
    vertices, faces, segments, total = [], [], [], 0
    for row in parts:
        for axis in range(3):
            for side in (0, 1):
                edges = 2.0 * boxes.halves[row].astype(np.float64)
                local, triangles = face_grid(edges, axis, side, spacing_m)
                points = local @ boxes.rotations[row].T.astype(np.float64) + boxes.centers[row]
                center = np.abs(points.mean(0) - [0, 0, room.size[2] / 2])
                if (
                    boxes.object_ids[row] < 0
                    and (center > inside - [0, 0, room.size[2] / 2]).any()
                ):
                    continue  # the far side of a wall
                vertex = np.zeros(len(points), VERTEX)
                vertex["xyz"] = points
                vertex["rgba"][:, :3] = np.round(boxes.rgb[row] * 255)
                vertex["rgba"][:, 3] = 255
                face = np.zeros(len(triangles), FACE)
                face["count"], face["corners"] = 3, triangles + total
                vertices.append(vertex)
                faces.append(face)
                segments.append(np.full(len(points), row))
                total += len(points)
    return np.concatenate(vertices), np.concatenate(faces), np.concatenate(segments)


def write_ply(path: Path, vertices: NDArray[np.void], faces: NDArray[np.void]) -> None:
    """Write a binary PLY with the properties of ScanNet's meshes."""
    colors = "".join(f"property uchar {name}\n" for name in ("red", "green", "blue", "alpha"))
    header = (
        "ply\nformat binary_little_endian 1.0\n"
        f"element vertex {len(vertices)}\n"
        "property float x\nproperty float y\nproperty float z\n"
        f"{colors}element face {len(faces)}\n"
        "property list uchar int vertex_indices\nend_header\n"
    )
    path.write_bytes(header.encode() + vertices.tobytes() + faces.tobytes())


def metadata(room: Room, sample: SceneSample) -> str:
    """Return `{scene}.txt`: alignment, sizes, intrinsics."""
    height, width = sample.depth.shape[1:]
    K = sample.K[0]
    lines = ["axisAlignment = " + " ".join(f"{value:.6f}" for value in np.eye(4).ravel())]
    for kind in ("color", "depth"):
        lines += [f"{kind}Height = {height}", f"{kind}Width = {width}"]
        for name, value in (("fx", K[0, 0]), ("fy", K[1, 1]), ("mx", K[0, 2]), ("my", K[1, 2])):
            lines.append(f"{name}_{kind} = {value:.6f}")
    lines += [f"numColorFrames = {len(sample)}", f"numDepthFrames = {len(sample)}"]
    return "\n".join([*lines, f"sceneType = {room.kind}"]) + "\n"


def write_scan(
    folder: Path, scene_id: str, room: Room, sample: SceneSample, spacing_m: float = SPACING_M
) -> None:
    """Write mesh, segments, instances and alignment of a room into `folder`/scans."""
    place = folder / "scans" / scene_id
    place.mkdir(parents=True, exist_ok=True)
    parts = shown_parts(room, sample)
    vertices, faces, segments = mesh_of(room, parts, spacing_m)
    write_ply(place / f"{scene_id}_vh_clean_2.ply", vertices, faces)
    name = f"{scene_id}_vh_clean_2.0.010000.segs.json"
    document = {"sceneId": scene_id, "segIndices": segments.tolist()}
    (place / name).write_text(json.dumps(document))
    groups = [
        {
            "id": index,
            "objectId": item.object_id,
            "label": item.label,
            "segments": np.flatnonzero(room.boxes.object_ids == item.object_id).tolist(),
        }
        for index, item in enumerate(sample.objects)
    ]
    document = {"sceneId": f"scannet.{scene_id}", "segGroups": groups, "segmentsFile": name}
    (place / f"{scene_id}.aggregation.json").write_text(json.dumps(document))
    (place / f"{scene_id}.txt").write_text(metadata(room, sample))


def write_images(folder: Path, scene_id: str, sample: SceneSample) -> None:
    """Write colour, depth in mm, poses and intrinsics in both layouts."""
    extracted, posed = folder / "scans" / scene_id, folder / "posed_images" / scene_id
    for place in (posed, *(extracted / n for n in ("color", "depth", "pose", "intrinsic"))):
        place.mkdir(parents=True, exist_ok=True)
    for index in range(len(sample)):
        picture = np.ascontiguousarray(sample.frames.images[index][..., ::-1])
        jpeg = encode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        millimeters = np.round(np.nan_to_num(sample.depth[index]) * 1000).astype(np.uint16)
        png, pose = encode(".png", millimeters, []), matrix_text(sample.T_world_camera[index])
        for name, data in (("jpg", jpeg), ("png", png), ("txt", pose)):
            (posed / f"{index:05d}.{name}").write_bytes(data)
        (extracted / "color" / f"{index}.jpg").write_bytes(jpeg)
        (extracted / "depth" / f"{index}.png").write_bytes(png)
        (extracted / "pose" / f"{index}.txt").write_bytes(pose)
    K = np.eye(4)
    K[:3, :3] = sample.K[0]
    for file in (posed / "intrinsic.txt", extracted / "intrinsic" / "intrinsic_color.txt"):
        file.write_bytes(matrix_text(K))
    for file in (posed / "depth_intrinsic.txt", extracted / "intrinsic" / "intrinsic_depth.txt"):
        file.write_bytes(matrix_text(K))
    for kind in ("color", "depth"):
        (extracted / "intrinsic" / f"extrinsic_{kind}.txt").write_bytes(matrix_text(np.eye(4)))


def encode(
    suffix: str, image: NDArray[np.uint8] | NDArray[np.uint16], options: list[int]
) -> bytes:
    """Return an image file's bytes."""
    done, data = cv2.imencode(suffix, image, options)
    if not done:
        raise ValueError(f"image: expected pixels OpenCV can write, got {image.shape}")
    return data.tobytes()


def matrix_text(matrix: NDArray[np.float64]) -> bytes:
    """Return a matrix as rows of numbers."""
    return "".join(" ".join(f"{v:.8f}" for v in row) + "\n" for row in matrix).encode()
