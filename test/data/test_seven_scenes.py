# SPDX-License-Identifier: Apache-2.0
"""7-Scenes: stamps agree with the film's, depth in metres, faults named; the real kitchen too."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vidllm_ros.data.seven_scenes import is_sequence, load_sequence
from vidllm_ros.data.video import iterate_frames
from vidllm_ros.geometry.camera import project, unproject
from vidllm_ros.geometry.transforms import invert_transform, transform_points

KITCHEN = Path(__file__).parents[3] / "shared" / "data" / "redkitchen"
HEIGHT, WIDTH = 48, 64
K_TEXT = "50 0 32\n0 50 24\n0 0 1\n"


def write_sequence(folder: Path, frames: int = 4) -> Path:
    (folder / "camera-intrinsics.txt").write_text(K_TEXT)
    for i in range(frames):
        stem = f"frame-{i * 5:06d}"
        color = np.full((HEIGHT, WIDTH, 3), 10 * i, np.uint8)
        cv2.imwrite(str(folder / f"{stem}.color.png"), color)
        depth = np.full((HEIGHT, WIDTH), 1500 + i, np.uint16)
        depth[0, 0], depth[0, 1] = 0, 65535
        cv2.imwrite(str(folder / f"{stem}.depth.png"), depth)
        T = np.eye(4)
        T[:3, :3] = Rotation.from_euler("y", 0.1 * i).as_matrix()
        T[:3, 3] = (i, 2, 3)
        np.savetxt(folder / f"{stem}.pose.txt", T)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_sequence(tmp_path)


def test_sequence_is_metres_poses_and_the_films_own_stamps(folder: Path) -> None:
    assert is_sequence(folder)
    sequence = load_sequence(folder)
    assert sequence.frames.stamps_ns == tuple(f.stamp_ns for f in iterate_frames(folder))
    assert sequence.frames.images[:, 5, 5, 0].tolist() == [0, 10, 20, 30]
    assert sequence.depth.dtype == np.float32
    assert sequence.depth[:, 5, 5].tolist() == pytest.approx([1.5, 1.501, 1.502, 1.503])
    invalid = np.isnan(sequence.depth)
    assert invalid[:, 0, :2].all()
    assert invalid.sum() == 2 * len(sequence)
    assert sequence.T_world_camera[:, :3, 3].tolist() == [[i, 2, 3] for i in range(4)]
    assert sequence.K.tolist() == [[[50, 0, 32], [0, 50, 24], [0, 0, 1]]] * 4


def test_count_chooses_evenly(folder: Path) -> None:
    sequence = load_sequence(folder, count=2)
    assert sequence.frames.images[:, 5, 5, 0].tolist() == [0, 30]
    assert sequence.T_world_camera[:, 0, 3].tolist() == [0, 3]
    assert sequence.depth[1, 5, 5] == pytest.approx(1.503)


def test_folder_without_poses_is_no_sequence(folder: Path) -> None:
    (folder / "frame-000005.pose.txt").unlink()
    assert not is_sequence(folder)
    with pytest.raises(FileNotFoundError, match=r"frame-000005\.pose\.txt: no such file"):
        load_sequence(folder)
    assert not is_sequence(folder / "nothing")


def test_published_intrinsics_only_for_the_published_size(folder: Path) -> None:
    (folder / "camera-intrinsics.txt").unlink()
    with pytest.raises(ValueError, match=r"expected camera-intrinsics\.txt"):
        load_sequence(folder)


@pytest.mark.parametrize(
    "text",
    [
        "1 2 3",
        "words",
        "2 0 0 0 0 2 0 0 0 0 2 0 0 0 0 1",
        "nan " * 16,
        "-1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1",
    ],
)
def test_what_is_no_pose_is_named(folder: Path, text: str) -> None:
    (folder / "frame-000010.pose.txt").write_text(text)
    with pytest.raises(ValueError, match=r"frame-000010\.pose\.txt: expected a rigid"):
        load_sequence(folder)


def test_what_is_no_depth_is_named(folder: Path) -> None:
    cv2.imwrite(str(folder / "frame-000010.depth.png"), np.ones((HEIGHT, WIDTH), np.uint8))
    with pytest.raises(ValueError, match=r"frame-000010\.depth\.png: expected 16 bit depth"):
        load_sequence(folder)


@pytest.mark.skipif(not KITCHEN.is_dir(), reason=f"no red kitchen at {KITCHEN}")
def test_real_kitchen_agrees_with_itself() -> None:
    """Depth of one frame, carried to the next by the poses and K, meets that frame's depth."""
    sequence = load_sequence(KITCHEN, count=20)
    assert len(sequence) == 20
    assert 0.5 < np.nanmedian(sequence.depth) < 4
    assert 0.02 < np.isnan(sequence.depth).mean() < 0.3
    errors = []
    for a, b in ((0, 1), (8, 9), (18, 19)):
        pointmap = unproject(sequence.depth[a], sequence.K[a])[::4, ::4].reshape(-1, 3)
        T_b_a = invert_transform(sequence.T_world_camera[b]) @ sequence.T_world_camera[a]
        uv, z = project(
            transform_points(T_b_a, pointmap[np.isfinite(pointmap).all(1)]), sequence.K[b]
        )
        u, v = np.round(uv).astype(int).T
        inside = (z > 0) & (u >= 0) & (u < 640) & (v >= 0) & (v < 480)
        errors.append(np.abs(sequence.depth[b][v[inside], u[inside]] - z[inside]) / z[inside])
    assert np.nanmedian(np.concatenate(errors)) < 0.03
