# SPDX-License-Identifier: Apache-2.0
"""ScanNet's posed frames and its mesh: what a video benchmark shows a model, and the truth.

Frames lie as the 3D language models keep them, `posed_images/<scene>/00000.{jpg,png,txt}` with
`intrinsic.txt`: colour, depth in mm, pose of the camera in the scan's world (not axis-aligned).
Frames whose pose was lost hold -inf and are left out before sampling. Next:
evaluation/benchmark_scannet.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.data.annotations.ply import read_vertices
from vidllm_ros.data.published_files import matrix_from_file, read_colour, read_lines
from vidllm_ros.data.seven_scenes import load_depth
from vidllm_ros.data.video import even_places
from vidllm_ros.geometry.camera import scale_K
from vidllm_ros.structures import Frames

POSED_IMAGES = "posed_images"
SCANS = "scans"
MESH_SUFFIX = "_vh_clean_2.ply"

FRAME_NS = 33_333_333
ROTATION_TOLERANCE = 1e-2
_NUMBER = re.compile(r"\d+$")


@dataclass(frozen=True)
class PosedFrames:
    """Frames of a scene with their truth, oldest first.

    Attributes:
        frames: colour with K.
        T_scan_camera: poses in the scan's world, (S, 4, 4), m.
        depth_files: one a frame; read with `load_depths`.
        K_depth: intrinsics of the depth images, (3, 3), px.
    """

    frames: Frames
    T_scan_camera: NDArray[np.float64]
    depth_files: tuple[Path, ...]
    K_depth: NDArray[np.float64]

    def load_depths(self) -> list[NDArray[np.float32]]:
        """Read the depth images, (h, w), m, NaN where there is no reading."""
        depths = []
        for file in self.depth_files:
            height, width = png_size(file)
            depths.append(load_depth(file, height, width))
        return depths


def load_scannet_view(folder: str | Path, scene_id: str, count: int = 32) -> PosedFrames:
    """Read `count` frames evenly over the frames of a scene that have a pose.

    Raises:
        FileNotFoundError: the scene, its intrinsics, or a file of a frame is missing.
        ValueError: a file is torn or not what its name says; names it.
    """
    place = Path(folder) / POSED_IMAGES / scene_id
    if not place.is_dir():
        raise FileNotFoundError(f"{place}: no such scene; see docs/evaluation.md for the layout")
    stems = sorted(file.stem for file in place.glob("*.jpg") if _NUMBER.match(file.stem))
    poses = {stem: T for stem in stems if (T := load_scan_pose(place / f"{stem}.txt")) is not None}
    posed = [stem for stem in stems if stem in poses]
    if not posed:
        raise ValueError(f"{place}: expected frames 00000.jpg with a pose, found none; copy them")
    chosen = [posed[index] for index in even_places(len(posed), count)]
    images = [read_colour(place / f"{stem}.jpg") for stem in chosen]
    for stem, image in zip(chosen, images, strict=True):
        if image.shape != images[0].shape:
            raise ValueError(
                f"{place / stem}.jpg: expected {images[0].shape[:2]} px as the first frame, got "
                f"{image.shape[:2]}; copy it again"
            )
    K = matrix_from_file(place / "intrinsic.txt")[:3, :3]
    K_depth_file = place / "depth_intrinsic.txt"
    depth_files = tuple(place / f"{stem}.png" for stem in chosen)
    for file in depth_files:
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such file; every colour image needs its depth")
    if K_depth_file.is_file():
        K_depth = matrix_from_file(K_depth_file)[:3, :3]
    else:
        height, width = png_size(depth_files[0])
        K_depth = scale_K(K, width / images[0].shape[1], height / images[0].shape[0])
    frames = Frames(
        images=np.stack(images),
        stamps_ns=tuple(int(stem) * FRAME_NS for stem in chosen),
        K=np.tile(K, (len(chosen), 1, 1)),
    )
    return PosedFrames(frames, np.stack([poses[s] for s in chosen]), depth_files, K_depth)


def load_scan_pose(file: Path) -> NDArray[np.float64] | None:
    """Read T_scan_camera, (4, 4), m, or None where the scanner had lost itself (-inf).

    Raises:
        FileNotFoundError, ValueError: the file is missing, or holds something else.
    """
    T = matrix_from_file(file)
    if np.isneginf(T).any():
        return None
    R = T[:3, :3]
    is_rigid = (
        np.isfinite(T).all()
        and np.abs(R @ R.T - np.eye(3)).max() < ROTATION_TOLERANCE
        and np.linalg.det(R) > 0
    )
    if not is_rigid:
        raise ValueError(f"{file}: expected a rigid 4 x 4 transform or -inf, got {T.tolist()}")
    return T


def png_size(file: Path) -> tuple[int, int]:
    """Return height and width of a PNG from its header.

    Raises:
        FileNotFoundError, ValueError: it is missing, or no PNG.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; every colour image needs its depth")
    head = file.read_bytes()[:24]
    if head[:8] != b"\x89PNG\r\n\x1a\n" or len(head) < 24:
        raise ValueError(f"{file}: expected a PNG, got {head[:8]!r}; copy it again")
    return int.from_bytes(head[20:24], "big"), int.from_bytes(head[16:20], "big")


def mesh_file(folder: str | Path, scene_id: str) -> Path:
    """Return the file of a scene's cleaned mesh.

    Raises:
        FileNotFoundError: it is not there.
    """
    place = Path(folder) / SCANS
    for root in (place, Path(folder) / "scans_test"):
        file = root / scene_id / f"{scene_id}{MESH_SUFFIX}"
        if file.is_file():
            return file
    raise FileNotFoundError(
        f"{place / scene_id / scene_id}{MESH_SUFFIX}: no such mesh; see docs/evaluation.md"
    )


def load_mesh_vertices(file: Path) -> NDArray[np.float64]:
    """Read the vertices of a mesh, (V, 3), m, the scan's world.

    Raises:
        FileNotFoundError, ValueError: it is missing or torn, empty, or not finite.
    """
    return read_vertices(file)


def list_scenes(folder: str | Path, split: str = "test") -> tuple[str, ...]:
    """Return the scenes of the published list of a split where it lies there, else all frames.

    Raises:
        FileNotFoundError, ValueError: there is no scene, or the list names one twice.
    """
    folder = Path(folder)
    for name in (f"scannetv2_{split}.txt", f"Tasks/Benchmark/scannetv2_{split}.txt"):
        if (folder / name).is_file():
            scenes = [line for _, line in read_lines(folder / name)]
            twice = {scene for scene in scenes if scenes.count(scene) > 1}
            if twice:
                raise ValueError(f"{folder / name}: {min(twice)} is listed twice; mend the list")
            return tuple(scenes)
    places = folder / POSED_IMAGES
    scenes = sorted(p.name for p in places.iterdir() if p.is_dir()) if places.is_dir() else []
    if not scenes:
        raise FileNotFoundError(
            f"{folder}: expected scannetv2_{split}.txt or folders in {POSED_IMAGES}/, found none"
        )
    return tuple(scenes)
