# SPDX-License-Identifier: Apache-2.0
"""Common Objects in 3D, version 2: the sequences and frames on which camera poses are measured.

Read from the published files of each category: `frame_annotations.jgz`, `sequence_annotations.jgz`
and `set_lists/set_lists_fewview_dev.json`. Cameras there are PyTorch3D's (row vectors, x left, y
up); they leave as poses of optical frames. Next: evaluation/benchmark_poses.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidllm_ros.data.published_files import field_of, numbers_of, read_json
from vidllm_ros.geometry.transforms import invert_transform, make_transform

# RelPose's training categories, in the order in which VGGT's evaluation visits them.
SEEN_CATEGORIES = (
    *("apple", "backpack", "banana", "baseballbat", "baseballglove"),
    *("bench", "bicycle", "bottle", "bowl", "broccoli"),
    *("cake", "car", "carrot", "cellphone", "chair"),
    *("cup", "donut", "hairdryer", "handbag", "hydrant"),
    *("keyboard", "laptop", "microwave", "motorcycle", "mouse"),
    *("orange", "parkingmeter", "pizza", "plant", "stopsign"),
    *("teddybear", "toaster", "toilet", "toybus", "toyplane"),
    *("toytrain", "toytruck", "tv", "umbrella", "vase"),
    *("wineglass",),
)
SET_LIST = "set_lists/set_lists_fewview_dev.json"
LEAST_QUALITY = 0.5
LEAST_FRAMES = 50
FAR_TRANSLATION = 1e5
ROTATION_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Co3dSequence:
    """The frames of a sequence that a set list names, in the list's order.

    Attributes:
        category, name: as published.
        images: paths below the data folder.
        T_world_camera: poses of optical frames, (S, 4, 4), in the sequence's own unit of length.
    """

    category: str
    name: str
    images: tuple[str, ...]
    T_world_camera: NDArray[np.float64]


def pose_from_pytorch3d(R: NDArray[np.float64], T: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn PyTorch3D's camera (x_camera = x_world R + T; x left, y up) into T_world_camera.

    Source: VGGT's Co3D evaluation: x and y of T and the first two columns of R change sign, then R
    is transposed; that is the extrinsics in OpenCV's axes.
    """
    turned = np.array(R, np.float64)
    turned[:, :2] *= -1
    shifted = np.array(T, np.float64)
    shifted[:2] *= -1
    return invert_transform(make_transform(turned.T, shifted))


def categories_of(folder: Path) -> tuple[str, ...]:
    """Return the seen categories of which this folder has annotations.

    Raises:
        FileNotFoundError: it has none.
    """
    found = tuple(c for c in SEEN_CATEGORIES if (folder / c / "frame_annotations.jgz").is_file())
    if not found:
        raise FileNotFoundError(
            f"{folder}: expected folders like apple/ with frame_annotations.jgz, found none; see "
            "docs/evaluation.md for the layout"
        )
    return found


def load_category(folder: Path, category: str, subset: str = "test") -> list[Co3dSequence]:
    """Read the good sequences of a category, by name: quality above 0.5, at least 50 frames.

    Sequences with a translation out of all measure (its sum above 1e5) are left out, as in VGGT's
    evaluation.

    Raises:
        FileNotFoundError, ValueError: a file is missing or torn; a record lacks a field, repeats
            one, or holds numbers that are none; names file, record and field.
    """
    place = Path(folder) / category
    good = good_sequences(place / "sequence_annotations.jgz")
    listed = listed_frames(place / SET_LIST, subset, good)
    frames = frame_viewpoints(place / "frame_annotations.jgz", listed)
    sequences = []
    for name in sorted(listed):
        keys = listed[name]
        if len(keys) < LEAST_FRAMES:
            continue
        missing = [key for key in keys if (name, key) not in frames]
        if missing:
            raise ValueError(
                f"{place / 'frame_annotations.jgz'}: expected frame {missing[0]} of {name}, which "
                f"{SET_LIST} names, got none; the files do not belong together"
            )
        chosen = [frames[name, key] for key in keys]
        if any(T.sum() > FAR_TRANSLATION for _, _, T in chosen):
            continue
        poses = np.stack([pose_from_pytorch3d(R, T) for _, R, T in chosen])
        sequences.append(Co3dSequence(category, name, tuple(c[0] for c in chosen), poses))
    return sequences


def good_sequences(file: Path) -> set[str]:
    """Return the names of sequences whose viewpoint quality is above 0.5."""
    good: set[str] = set()
    seen: set[str] = set()
    for index, record in enumerate(_records(file)):
        where = f"{file}, record {index}"
        name = str(field_of(record, "sequence_name", where))
        if name in seen:
            raise ValueError(f"{where}: sequence {name} is there twice; copy the file again")
        seen.add(name)
        quality = record.get("viewpoint_quality_score")  # None where it was never judged
        if quality is not None:
            score = numbers_of(record, "viewpoint_quality_score", (), where)
            if score > LEAST_QUALITY:
                good.add(name)
    return good


def listed_frames(file: Path, subset: str, good: set[str]) -> dict[str, list[int]]:
    """Return frame numbers by sequence that a set list names in a subset."""
    lists = read_json(file)
    entries = field_of(lists, subset, str(file))
    listed: dict[str, list[int]] = {}
    for index, entry in enumerate(entries):
        where = f"{file}, {subset}[{index}]"
        if not isinstance(entry, list) or len(entry) < 2 or not isinstance(entry[1], int):
            raise ValueError(f"{where}: expected [sequence, frame, image], got {entry!r:.80}")
        if entry[0] in good:
            numbers = listed.setdefault(str(entry[0]), [])
            numbers.append(entry[1])
    for name, numbers in listed.items():
        if len(set(numbers)) != len(numbers):
            twice = next(n for n in numbers if numbers.count(n) > 1)
            raise ValueError(f"{file}, {subset}: frame {twice} of {name} is listed twice; mend it")
    return listed


Viewpoint = tuple[str, NDArray[np.float64], NDArray[np.float64]]


def frame_viewpoints(file: Path, listed: dict[str, list[int]]) -> dict[tuple[str, int], Viewpoint]:
    """Return (image path, R, T) of the listed frames, by sequence and frame number."""
    wanted = {(name, number) for name, numbers in listed.items() for number in numbers}
    frames: dict[tuple[str, int], Viewpoint] = {}
    for index, record in enumerate(_records(file)):
        where = f"{file}, record {index}"
        number = field_of(record, "frame_number", where)
        key = (str(field_of(record, "sequence_name", where)), int(number))
        if key not in wanted:
            continue
        where = f"{where} ({key[0]}, frame {key[1]})"
        if key in frames:
            raise ValueError(f"{where}: the frame is there twice; copy the file again")
        R = numbers_of(record, "viewpoint.R", (3, 3), where)
        if np.abs(R @ R.T - np.eye(3)).max() > ROTATION_TOLERANCE:
            raise ValueError(
                f"{where}, field 'viewpoint.R': expected a rotation, got {R.tolist()}"
            )
        T = numbers_of(record, "viewpoint.T", (3,), where)
        frames[key] = (str(field_of(record, "image.path", where)), R, T)
    return frames


def _records(file: Path) -> list[dict[str, object]]:
    records = read_json(file)
    if not isinstance(records, list):
        raise ValueError(f"{file}: expected a list of records, got {type(records).__name__}")
    for index, record in enumerate(records):
        if not isinstance(record, dict):
            raise ValueError(f"{file}, record {index}: expected fields, got {record!r:.60}")
    return records
