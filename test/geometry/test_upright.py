# SPDX-License-Identifier: Apache-2.0
"""Up is found where cameras and surfaces agree, and left alone where they do not."""

import numpy as np
import pytest
import torch

from vidllm_ros.geometry.camera import unproject
from vidllm_ros.geometry.transforms import (
    T_WORLD_OPTICAL_LEVEL,
    invert_transform,
    make_transform,
)
from vidllm_ros.geometry.upright import find_up, first_pose, upright_pose
from vidllm_ros.structures import Reconstruction, SceneContext

ROOM_M = np.array([5.0, 4.0, 2.6])


def turned(axis, degrees):
    half, unit = np.radians(degrees), np.asarray(axis, float)
    cross = np.cross(np.eye(3), unit)
    return np.eye(3) - np.sin(half) * cross + (1 - np.cos(half)) * cross @ cross


def look_round(pitch_deg, roll_deg=0.0, turn_deg=50.0, noise=0.0, bumpy=False):
    """Window of an empty room, seen by a camera that turns; returns it and the true up."""
    rng = np.random.default_rng(0)
    tilt = turned([1, 0, 0], pitch_deg) @ turned([0, 0, 1], roll_deg)
    yaws = np.linspace(0.0, turn_deg, 8)
    R = np.stack([turned([0, 0, 1], y) @ T_WORLD_OPTICAL_LEVEL[:3, :3] @ tilt for y in yaws])
    T = make_transform(R, np.tile([2.0, 2.2, 1.4], (8, 1)))
    K = np.tile([[60.0, 0, 56], [0, 60.0, 42], [0, 0, 1]], (8, 1, 1))
    rays = np.einsum("sij,hwj->shwi", R, unproject(np.ones((84, 112)), K[0]))
    with np.errstate(divide="ignore"):
        walls = np.where(rays > 0, (ROOM_M - T[0, :3, 3]) / rays, -T[0, :3, 3] / rays)
    depth = walls.min(axis=-1)
    if bumpy:
        depth = 2.0 + np.kron(rng.random((8, 21, 28)), np.ones((1, 4, 4)))
    depth = depth * (1 + noise * rng.standard_normal(depth.shape))
    poses = invert_transform(T[0]) @ T
    stamps = tuple(range(8))
    scene = SceneContext(torch.zeros(0, 4), torch.zeros(0, 3), stamps, poses)
    rec = Reconstruction(
        images=np.zeros((8, 84, 112, 3), np.uint8),
        stamps_ns=stamps,
        depth=depth.astype(np.float32),
        valid=np.ones(depth.shape, bool),
        confidence=np.ones(depth.shape, np.float32),
        K=K,
        T_world_camera=poses,
        scale=1.0,
        scale_spread=0.0,
        scene=scene,
    )
    return rec, R[0].T @ [0.0, 0.0, 1.0]


def degrees_apart(a, b):
    return np.degrees(np.arccos(np.clip(a @ b, -1, 1)))


@pytest.mark.parametrize("pitch", [-30.0, -12.0, 0.0, 8.0, 25.0])
def test_up_of_a_tilted_camera(pitch):
    rec, up = look_round(pitch)
    assert degrees_apart(find_up(rec), up) < 1.0
    noisy, _ = look_round(pitch, noise=0.02)
    assert degrees_apart(find_up(noisy), up) < 3.0


@pytest.mark.parametrize(
    "doubtful",
    [{"turn_deg": 3.0}, {"roll_deg": 25.0, "turn_deg": 90.0}, {"bumpy": True}, {"pitch_deg": 60}],
)
def test_nothing_is_said_where_nothing_is_sure(doubtful):
    rec, _ = look_round(**{"pitch_deg": -20.0, **doubtful})
    assert find_up(rec) is None
    np.testing.assert_array_equal(first_pose(rec), T_WORLD_OPTICAL_LEVEL)


def test_the_first_camera_looks_along_x_and_floors_are_level():
    rec, up = look_round(-20.0)
    T = first_pose(rec)
    assert degrees_apart(T[:3, :3] @ up, np.array([0.0, 0.0, 1.0])) < 1.0
    ahead = T[:3, :3] @ [0.0, 0.0, 1.0]
    assert ahead[0] > 0.9
    assert abs(ahead[1]) < 1e-9
    np.testing.assert_allclose(T[:3, :3] @ T[:3, :3].T, np.eye(3), atol=1e-12)
    assert np.linalg.det(T[:3, :3]) == pytest.approx(1.0)


def test_a_level_camera_keeps_the_fixed_rotation():
    np.testing.assert_allclose(
        upright_pose(np.array([0.0, -1.0, 0.0])), T_WORLD_OPTICAL_LEVEL, atol=1e-12
    )
    with pytest.raises(ValueError, match="across the optical axis"):
        upright_pose(np.array([0.0, 0.0, 1.0]))
