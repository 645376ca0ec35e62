# SPDX-License-Identifier: Apache-2.0
"""RealEstate10K: camera files as published, and the frames one has taken from the films.

A camera file has the film's address, then a line a frame: microseconds, fx fy cx cy as shares of
the image, two zeros, and the extrinsics (world to camera, OpenCV) row by row. Images are
`frames/<split>/<sequence>/<microseconds>.png` or `.jpg`. Next: evaluation/benchmark_poses.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.data.published_files import read_lines
from vidllm_ros.geometry.transforms import invert_transform

LIST_NAME = "re10k_test_1800.txt"
COLUMNS = 19
ROTATION_TOLERANCE = 1e-2
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class CameraFile:
    """The cameras of a sequence.

    Attributes:
        name: of the file, without its ending.
        stamps_us: one a frame, ascending.
        K_norm: intrinsics as shares of width and height, (S, 3, 3).
        T_world_camera: (S, 4, 4), in a unit of the sequence's own.
    """

    name: str
    stamps_us: tuple[int, ...]
    K_norm: NDArray[np.float64]
    T_world_camera: NDArray[np.float64]


def load_camera_file(file: Path) -> CameraFile:
    """Read a camera file.

    Raises:
        FileNotFoundError, ValueError: it is missing; a line has not 19 numbers, or numbers that
            are no camera; a time comes twice. Names file and line.
    """
    stamps: list[int] = []
    K_norm: list[NDArray[np.float64]] = []
    poses: list[NDArray[np.float64]] = []
    for number, line in read_lines(file):
        words = line.split()
        if number == 1 and len(words) == 1:
            continue  # the film's address
        where = f"{file}, line {number}"
        try:
            stamp, values = int(words[0]), np.array([float(word) for word in words[1:]])
        except ValueError:
            raise ValueError(f"{where}: expected numbers, got {line!r:.60}; copy it") from None
        if len(words) != COLUMNS or not np.isfinite(values).all():
            raise ValueError(
                f"{where}: expected {COLUMNS} finite numbers, got {len(words)}: {line!r:.60}"
            )
        T_camera_world = np.vstack([values[6:].reshape(3, 4), [0.0, 0.0, 0.0, 1.0]])
        R = T_camera_world[:3, :3]
        if np.abs(R @ R.T - np.eye(3)).max() > ROTATION_TOLERANCE:
            raise ValueError(f"{where}: expected a rotation in columns 8 to 18, got {R.tolist()}")
        if stamps and stamp <= stamps[-1]:
            raise ValueError(f"{where}: expected a time after {stamps[-1]}, got {stamp}; mend it")
        fx, fy, cx, cy = values[:4]
        stamps.append(stamp)
        K_norm.append(np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]]))
        poses.append(invert_transform(T_camera_world))
    if not stamps:
        raise ValueError(f"{file}: expected a line a frame, got none; copy it again")
    return CameraFile(file.stem, tuple(stamps), np.stack(K_norm), np.stack(poses))


def list_sequences(folder: Path, split: str = "test") -> tuple[str, ...]:
    """Return the sequences of PoseDiffusion's list where it lies there, else all there are.

    Raises:
        FileNotFoundError, ValueError: there is no camera file, or the list names one twice.
    """
    folder = Path(folder)
    if (folder / LIST_NAME).is_file():
        names: list[str] = []
        for number, line in read_lines(folder / LIST_NAME):
            name = Path(line.split()[0]).stem
            if name in names:
                raise ValueError(f"{folder / LIST_NAME}, line {number}: {name} is listed twice")
            names.append(name)
        return tuple(names)
    files = sorted((folder / split).glob("*.txt"))
    if not files:
        raise FileNotFoundError(
            f"{folder / split}: expected camera files (*.txt), found none; see docs/evaluation.md"
        )
    return tuple(file.stem for file in files)


def image_of(folder: Path, split: str, name: str, stamp_us: int) -> Path | None:
    """Return the image of a frame, or None where nobody has taken it from the film."""
    for root in (folder / "frames" / split / name, folder / split / name):
        for suffix in IMAGE_SUFFIXES:
            if (root / f"{stamp_us}{suffix}").is_file():
                return root / f"{stamp_us}{suffix}"
    return None
