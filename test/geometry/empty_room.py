# SPDX-License-Identifier: Apache-2.0
"""An empty room seen by a camera that turns in its middle: true depth, known up and walls."""

import numpy as np
import torch

from vidllm_ros.geometry.camera import unproject
from vidllm_ros.geometry.transforms import (
    T_WORLD_OPTICAL_LEVEL,
    invert_transform,
    make_transform,
)
from vidllm_ros.structures import Reconstruction, SceneContext

ROOM_M = np.array([5.0, 4.0, 2.6])


def turned(axis, degrees):
    half, unit = np.radians(degrees), np.asarray(axis, float)
    cross = np.cross(np.eye(3), unit)
    return np.eye(3) - np.sin(half) * cross + (1 - np.cos(half)) * cross @ cross


def look_round(
    pitch_deg, roll_deg=0.0, turn_deg=50.0, noise=0.0, bumpy=False, yaw_deg=0.0, frames=8
):
    """Return a window of the room, seen by a camera that turns from `yaw_deg` on, and the true
    up, both in the first camera's frame.
    """
    rng = np.random.default_rng(0)
    tilt = turned([1, 0, 0], pitch_deg) @ turned([0, 0, 1], roll_deg)
    yaws = yaw_deg + np.linspace(0.0, turn_deg, frames)
    R = np.stack([turned([0, 0, 1], y) @ T_WORLD_OPTICAL_LEVEL[:3, :3] @ tilt for y in yaws])
    T = make_transform(R, np.tile([2.0, 2.2, 1.4], (frames, 1)))
    K = np.tile([[60.0, 0, 56], [0, 60.0, 42], [0, 0, 1]], (frames, 1, 1))
    rays = np.einsum("sij,hwj->shwi", R, unproject(np.ones((84, 112)), K[0]))
    with np.errstate(divide="ignore"):
        walls = np.where(rays > 0, (ROOM_M - T[0, :3, 3]) / rays, -T[0, :3, 3] / rays)
    depth = walls.min(axis=-1)
    if bumpy:
        depth = 2.0 + np.kron(rng.random((frames, 21, 28)), np.ones((1, 4, 4)))
    depth = depth * (1 + noise * rng.standard_normal(depth.shape))
    poses = invert_transform(T[0]) @ T
    stamps = tuple(range(frames))
    scene = SceneContext(torch.zeros(0, 4), torch.zeros(0, 3), stamps, poses)
    rec = Reconstruction(
        images=np.zeros((frames, 84, 112, 3), np.uint8),
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
