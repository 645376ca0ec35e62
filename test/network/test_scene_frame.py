# SPDX-License-Identifier: Apache-2.0
"""Places in a scene come from poses that were not rounded on the way."""

import torch
from scipy.spatial.transform import Rotation

from vidllm_ros.network.scene_frame import scene_frames, scene_poses


def random_poses(*shape):
    generator = torch.Generator().manual_seed(3)
    count = int(torch.tensor(shape).prod())
    T = torch.eye(4).repeat(count, 1, 1)
    T[:, :3, :3] = torch.from_numpy(Rotation.random(count, random_state=3).as_matrix()).float()
    T[:, :3, 3] = 3 * torch.randn(count, 3, generator=generator)
    return T.reshape(*shape, 4, 4)


def test_scene_poses_are_products_in_float32_under_autocast():
    T_scene_world, T_world_camera = random_poses(2), random_poses(2, 5)
    exact = torch.einsum("bij,bfjk->bfik", T_scene_world.double(), T_world_camera.double())
    with torch.autocast("cpu", torch.bfloat16):
        found = scene_poses(T_scene_world, T_world_camera)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, atol=1e-5, rtol=1e-5)


def test_the_cameras_own_frame_turns_nothing():
    depth, valid = torch.ones(2, 3, 8, 8), torch.ones(2, 3, 8, 8, dtype=torch.bool)
    T = scene_frames("camera", depth, valid, torch.eye(3).repeat(2, 3, 1, 1), random_poses(2, 3))
    assert torch.equal(T, torch.eye(4).expand(2, 4, 4))
