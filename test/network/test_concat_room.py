# SPDX-License-Identifier: Apache-2.0
"""The room that words speak of: upright, floor at 0, and the way back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vidllm_ros.geometry.transforms import invert_transform, make_transform
from vidllm_ros.network.concat_room import boxes_from_text, in_room, room_of, spread_frames
from vidllm_ros.structures import GroundedBox, Reconstruction, SceneContext


def blank(count: int = 2) -> Reconstruction:
    pose = np.tile(np.eye(4), (count, 1, 1))
    stamps = tuple(range(count))
    return Reconstruction(
        images=np.zeros((count, 8, 8, 3), np.uint8),
        stamps_ns=stamps,
        depth=np.ones((count, 8, 8), np.float32),
        valid=np.ones((count, 8, 8), bool),
        confidence=np.ones((count, 8, 8), np.float32),
        K=np.tile([[8.0, 0, 4], [0, 8.0, 4], [0, 0, 1]], (count, 1, 1)),
        T_world_camera=pose,
        scale=1.0,
        scale_spread=0.0,
        scene=SceneContext(torch.zeros(0, 0), torch.zeros(0, 3), stamps, pose),
    )


def test_a_level_camera_gives_z_up_and_the_floor_at_zero() -> None:
    rng = np.random.default_rng(0)
    # Optical axes: x right, y down, z ahead; the floor 1.2 m below, a ceiling 1.3 m above.
    points = rng.uniform([-2.0, -1.3, 1.0], [2.0, 1.2, 5.0], (20_000, 3))
    T = room_of(blank(), points)
    placed = points @ T[:3, :3].T + T[:3, 3]
    np.testing.assert_allclose(T[:3, :3] @ [0, 1, 0], [0, 0, -1], atol=1e-9)
    np.testing.assert_allclose(T[:3, :3] @ [0, 0, 1], [1, 0, 0], atol=1e-9)
    assert np.quantile(placed[:, 2], 0.02) == pytest.approx(0.0, abs=0.02)
    np.testing.assert_allclose(placed[:, :2].mean(0), 0.0, atol=0.05)


def test_one_stray_point_moves_nothing() -> None:
    points = np.random.default_rng(0).uniform(-1, 1, (5000, 3))
    stray = np.concatenate([points, [[1000.0, 1000.0, 1000.0]]])
    np.testing.assert_allclose(room_of(blank(), stray), room_of(blank(), points), atol=0.02)


def test_without_points_the_first_camera_is_the_origin() -> None:
    assert room_of(blank(), np.zeros((0, 3)))[:3, 3].tolist() == [0.0, 0.0, 0.0]


def test_boxes_go_to_the_room_and_come_back() -> None:
    turn = make_transform(np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), np.array([1.0, 2, 3]))
    scene = SceneContext(
        torch.zeros(0, 0), torch.zeros(0, 3), (1,), np.eye(4)[None], T_world_scene=turn
    )
    (box,) = boxes_from_text(scene, "a chair [1, 2, 3, 0.5, 0.6, 0.7]", "chair", 0.3)
    back = in_room(scene, box)
    np.testing.assert_allclose(back.center, [1.0, 2.0, 3.0], atol=1e-12)
    np.testing.assert_allclose(back.size, [0.5, 0.6, 0.7])
    np.testing.assert_allclose(back.quat_xyzw, [0, 0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(
        invert_transform(turn) @ [*box.center, 1], [1.0, 2.0, 3.0, 1.0], atol=1e-12
    )
    assert boxes_from_text(scene, "no box", "chair", 0.3) == ()
    assert isinstance(box, GroundedBox)


def test_frames_are_spread_evenly() -> None:
    assert list(spread_frames(3, 8)) == [0, 1, 2]
    assert spread_frames(32, 4) == [0, 10, 21, 31]
    assert spread_frames(32, 1) == [0]
    assert len(spread_frames(21, 20)) == 20
