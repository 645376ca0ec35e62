# SPDX-License-Identifier: Apache-2.0
"""A 7-Scenes folder: real colour with depth and camera poses, to measure the whole path on.

Files are frame-NNNNNN.color.jpg (or .png), .depth.png (16 bit, mm) and .pose.txt (T_world_camera,
4 x 4, m). Depth is aligned with colour only approximately, and the world is not upright: it is the
first camera of the scene's reconstruction. Never train on it. Next: cli/measures.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vidllm_ros.data.image_folder import INTRINSICS_FILE, ImageFolder
from vidllm_ros.data.video import even_places, join_frames
from vidllm_ros.structures import Frames, check_shape

PUBLISHED_K = ((585.0, 0.0, 320.0), (0.0, 585.0, 240.0), (0.0, 0.0, 1.0))  # of 640 x 480 px
PUBLISHED_SIZE = (480, 640)
MM_PER_M = 1000.0
NO_READING = (0, 65535)
ROTATION_TOLERANCE = 1e-2
_COLOR_NAME = re.compile(r"(frame-\d+)\.color\.\w+$")


@dataclass(frozen=True)
class SevenScenesSequence:
    """Colour, depth and poses of a sequence, oldest first.

    Attributes:
        frames: colour with K, stamped as `data.video.iterate_frames` stamps the folder.
        depth: z along the optical axis, (S, H, W), m, NaN where there is no reading.
        T_world_camera: (S, 4, 4), m.
    """

    frames: Frames
    depth: NDArray[np.float32]
    T_world_camera: NDArray[np.float64]

    def __post_init__(self) -> None:
        check_shape("depth", self.depth, self.frames.images.shape[:3])
        check_shape("T_world_camera", self.T_world_camera, (len(self.frames), 4, 4))
        if self.frames.K is None:
            raise ValueError("frames: expected K, got none; set it")

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def K(self) -> NDArray[np.float64]:
        """Intrinsics of the frames, (S, 3, 3), px."""
        if self.frames.K is None:  # refused when built
            raise AssertionError("a sequence without intrinsics")
        return self.frames.K


def is_sequence(path: str | Path) -> bool:
    """Tell whether this is a folder of colour images with depth and a pose beside each."""
    path = Path(path)
    if not path.is_dir():
        return False
    names = {entry.name for entry in path.iterdir()}
    stems = [match[1] for name in names if (match := _COLOR_NAME.match(name))]
    return bool(stems) and all(
        f"{stem}.depth.png" in names and f"{stem}.pose.txt" in names for stem in stems
    )


def load_sequence(folder: str | Path, count: int | None = None) -> SevenScenesSequence:
    """Read a sequence, or `count` frames evenly over it.

    Raises:
        FileNotFoundError: the folder, or a frame's depth or pose, is not there.
        ValueError: a file is not what its name says, or K is not known for this size.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give a 7-Scenes sequence")
    source = ImageFolder(folder)
    available = source.count()
    places = even_places(available, available if count is None else count)
    stems = [_stem(source.files[place]) for place in places]
    frames = join_frames(source, places)
    if frames is None:
        raise ValueError(f"count: expected at least 1 frame, got {count}")
    height, width = frames.images.shape[1:3]
    if frames.K is None:
        if (height, width) != PUBLISHED_SIZE:
            raise ValueError(
                f"{folder}: expected {INTRINSICS_FILE} beside images of {width} x {height} px, "
                "found none; write it"
            )
        frames = replace(frames, K=np.tile(np.array(PUBLISHED_K), (len(frames), 1, 1)))
    depth = np.empty(frames.images.shape[:3], np.float32)
    for row, stem in enumerate(stems):
        depth[row] = load_depth(folder / f"{stem}.depth.png", height, width)
    poses = np.stack([load_pose(folder / f"{stem}.pose.txt") for stem in stems])
    return SevenScenesSequence(frames, depth, poses)


def _stem(file: Path) -> str:
    match = _COLOR_NAME.match(file.name)
    if match is None:
        raise ValueError(f"{file}: expected a name like frame-000000.color.jpg; rename it")
    return match[1]


def load_depth(file: Path, height: int, width: int) -> NDArray[np.float32]:
    """Read a 16 bit image in mm as metres, (H, W), NaN where it has no reading.

    Raises:
        FileNotFoundError, ValueError: it is missing, or not such an image.
    """
    if not file.exists():
        raise FileNotFoundError(f"{file}: no such file; every colour image needs its depth")
    data = np.frombuffer(file.read_bytes(), np.uint8)
    coded = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if coded is None or coded.dtype != np.uint16 or coded.shape != (height, width):
        found = "no image" if coded is None else f"{coded.dtype} {coded.shape}"
        raise ValueError(
            f"{file}: expected 16 bit depth of ({height}, {width}), got {found}; copy it again"
        )
    return np.where(np.isin(coded, NO_READING), np.nan, coded / MM_PER_M).astype(np.float32)


def load_pose(file: Path) -> NDArray[np.float64]:
    """Read T_world_camera, (4, 4), m.

    Raises:
        FileNotFoundError, ValueError: it is missing, or no rigid transform.
    """
    if not file.exists():
        raise FileNotFoundError(f"{file}: no such file; every colour image needs its pose")
    try:
        T = np.array([float(word) for word in file.read_text().split()]).reshape(4, 4)
    except ValueError:
        T = np.full((4, 4), np.nan)
    R = T[:3, :3]
    is_rigid = (
        np.isfinite(T).all()
        and np.abs(R @ R.T - np.eye(3)).max() < ROTATION_TOLERANCE
        and np.linalg.det(R) > 0
        and np.allclose(T[3], [0, 0, 0, 1])
    )
    if not is_rigid:
        raise ValueError(f"{file}: expected a rigid 4 x 4 transform, got something else; mend it")
    return T
