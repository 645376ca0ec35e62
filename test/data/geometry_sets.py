# SPDX-License-Identifier: Apache-2.0
"""Hand-made NYUv2, Co3Dv2, RealEstate10K and ScanNet folders of a few records each."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

NYU_SIZE = (480, 640)
FLIP = np.diag([-1.0, -1.0, 1.0])  # OpenCV's camera axes to PyTorch3D's


def write_image(file: Path, image: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(file), image)


def write_nyuv2(folder: Path, depths_m: list[np.ndarray]) -> list[str]:
    """Write a BTS test set; the images are darker to the left. Returns the names."""
    names, lines = [], []
    ramp = np.tile(np.linspace(0, 255, NYU_SIZE[1]).astype(np.uint8), (NYU_SIZE[0], 1))
    for index, depth in enumerate(depths_m):
        name = f"bathroom/rgb_{index:05d}.jpg"
        write_image(folder / "test" / name, cv2.merge([ramp, ramp, ramp]))
        depth_name = f"bathroom/sync_depth_{index:05d}.png"
        coded = np.round(depth * 1000).astype(np.uint16)
        write_image(folder / "test" / depth_name, coded)
        names.append(name)
        lines.append(f"{name} {depth_name} 518.8579")
    (folder / "nyudepthv2_test_files_with_gt.txt").write_text("\n".join(lines) + "\n")
    return names


def random_poses(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, :3] = Rotation.random(count, random_state=seed).as_matrix()
    poses[:, :3, 3] = rng.normal(size=(count, 3))
    return poses


def pytorch3d_viewpoint(T_world_camera: np.ndarray) -> dict[str, object]:
    """x_view = x_world R + T, x left and y up: written here from PyTorch3D's definition."""
    T_camera_world = np.linalg.inv(T_world_camera)
    R = (FLIP @ T_camera_world[:3, :3]).T
    T = FLIP @ T_camera_world[:3, 3]
    return {"R": R.tolist(), "T": T.tolist(), "focal_length": [2.0, 2.0]}


def write_jgz(file: Path, data: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(json.dumps(data).encode()))


def write_co3d(folder: Path, sequences: dict[str, dict[str, tuple[float, np.ndarray]]]) -> None:
    """Write categories: {category: {sequence: (quality, poses)}}; all frames are test frames."""
    for category, of_category in sequences.items():
        frames, listed, annotations = [], [], []
        for name, (quality, poses) in of_category.items():
            annotations.append(
                {
                    "sequence_name": name,
                    "category": category,
                    "viewpoint_quality_score": quality,
                }
            )
            for number, pose in enumerate(poses):
                path = f"{category}/{name}/images/frame{number:06d}.jpg"
                write_image(folder / path, np.full((8, 10, 3), number % 255, np.uint8))
                frames.append(
                    {
                        "sequence_name": name,
                        "frame_number": number,
                        "image": {"path": path, "size": [8, 10]},
                        "viewpoint": pytorch3d_viewpoint(pose),
                    }
                )
                listed.append([name, number, path])
        place = folder / category
        write_jgz(place / "frame_annotations.jgz", frames)
        write_jgz(place / "sequence_annotations.jgz", annotations)
        (place / "set_lists").mkdir(exist_ok=True)
        (place / "set_lists" / "set_lists_fewview_dev.json").write_text(
            json.dumps({"train": [], "val": [], "test": listed})
        )


def write_re10k(folder: Path, name: str, poses: np.ndarray, images: int | None = None) -> None:
    """Write a camera file and the images of its first frames."""
    lines = ["https://www.youtube.com/watch?v=xxxxxxxxxxx"]
    for index, pose in enumerate(poses):
        stamp = 1_000_000 + 33_367 * index
        numbers = " ".join(f"{v:.12g}" for v in np.linalg.inv(pose)[:3].ravel())
        lines.append(f"{stamp} 0.5 0.9 0.5 0.5 0 0 {numbers}")
        if images is None or index < images:
            place = folder / "frames" / "test" / name / f"{stamp}.png"
            write_image(place, np.full((9, 16, 3), index, np.uint8))
    (folder / "test").mkdir(exist_ok=True, parents=True)
    (folder / "test" / f"{name}.txt").write_text("\n".join(lines) + "\n")


def write_scannet(folder: Path, scene: str, lost: int | None = None) -> np.ndarray:
    """Write a scene of three frames before a wall two metres off; returns the mesh's vertices.

    The cameras look along the scan's +y; a second wall, three metres off, is hidden behind it, and
    its far end, x > 5 m, is outside every image.
    """
    place = folder / "posed_images" / scene
    R = np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]])  # optical axes in the scan: x, -z, y
    K = np.array([[32.0, 0, 31.5, 0], [0, 32.0, 23.5, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    for index in range(3):
        write_image(place / f"{index:05d}.jpg", np.full((48, 64, 3), 40 * index, np.uint8))
        write_image(place / f"{index:05d}.png", np.full((48, 64), 2000, np.uint16))
        T = np.eye(4)
        T[:3, :3], T[:3, 3] = R, [0.1 * index, 0, 1.0]
        words = np.full((4, 4), -np.inf) if index == lost else T
        np.savetxt(place / f"{index:05d}.txt", words)
    np.savetxt(place / "intrinsic.txt", K)
    np.savetxt(place / "depth_intrinsic.txt", K)
    near, far = wall(2.0), wall(3.0)
    aside = np.array([[9.0, 2.0, 1.0], [9.1, 2.0, 1.0]])
    vertices = np.concatenate([near, far, aside])
    write_ply(folder / "scans" / scene / f"{scene}_vh_clean_2.ply", vertices)
    return vertices


def wall(y: float) -> np.ndarray:
    """Points every 5 cm on a wall, all inside the first image."""
    x, z = np.meshgrid(np.arange(-1.0, 1.01, 0.05), np.arange(0.2, 1.81, 0.05))
    return np.stack([x.ravel(), np.full(x.size, y), z.ravel()], axis=1)


def write_ply(file: Path, vertices: np.ndarray) -> None:
    """Write an ASCII mesh with one face."""
    file.parent.mkdir(parents=True, exist_ok=True)
    head = [
        "ply",
        "format ascii 1.0",
        f"element vertex {len(vertices)}",
        *(f"property float {axis}" for axis in "xyz"),
        "element face 1",
        "property list uchar int vertex_indices",
        "end_header",
    ]
    body = [" ".join(f"{v:.6g}" for v in row) for row in vertices]
    file.write_text("\n".join([*head, *body, "3 0 1 2"]) + "\n")
