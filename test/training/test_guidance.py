# SPDX-License-Identifier: Apache-2.0
"""Correspondences against a pixel-by-pixel twin; what the guides ask and what they leave alone."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from vidllm_ros.data.scene_batch import SceneBatch
from vidllm_ros.network.aggregator import Aggregator
from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.training import guidance

GRID = (2, 3)


@pytest.fixture
def batch() -> SceneBatch:
    """A flat wall at z = 2 seen by three cameras that turn and slide a little."""
    frames, H, W = 3, 28, 42
    K = torch.tensor([[40.0, 0, 21], [0, 40, 14], [0, 0, 1]]).repeat(1, frames, 1, 1)
    poses = torch.eye(4).repeat(1, frames, 1, 1)
    for i in range(1, frames):
        turn = Rotation.from_euler("y", 8.0 * i, degrees=True).as_matrix()
        poses[0, i, :3, :3] = torch.from_numpy(turn).float()
        poses[0, i, 0, 3] = 0.05 * i
    v, u = torch.meshgrid(torch.arange(H) * 1.0, torch.arange(W) * 1.0, indexing="ij")
    rays = torch.stack([(u - 21) / 40, (v - 14) / 40, torch.ones(H, W)], -1)
    turned = rays @ poses[:, :, None, :3, :3].mT
    depth = 2.0 / turned[..., 2]  # the wall is z = 2 in the first camera
    valid = torch.ones_like(depth, dtype=torch.bool)
    valid[:, 2, 20:] = False
    empty = torch.zeros(0)
    return SceneBatch(
        images=torch.rand(1, frames, 3, H, W, generator=torch.Generator().manual_seed(0)),
        depth=torch.where(valid, depth, torch.zeros_like(depth)),
        valid=valid,
        K=K,
        T_world_camera=poses,
        patch_labels=empty,
        patch_colors=empty,
        patch_objects=empty,
        dense_frames=empty,
        boxes=(),
        sentences=(),
        scene_ids=("wall",),
        index=0,
    )


def test_correspondences_are_their_twin(batch):
    truth = guidance.patch_truth(batch, torch.tensor([2.0]), 14)
    depth, K = batch.depth[0].numpy(), batch.K[0, 0].numpy()
    poses = batch.T_world_camera[0].double().numpy()
    found = 0
    for s in range(3):
        for row in range(2):
            for column in range(3):
                v, u = 14 * row + 7, 14 * column + 7
                n = s * 6 + row * 3 + column
                z = depth[s, v, u]
                assert bool(truth.valid[0, s, row * 3 + column]) == bool(batch.valid[0, s, v, u])
                ray = np.linalg.inv(K) @ [u, v, 1.0]
                world = poses[s] @ [*(ray * z), 1.0]
                turned = poses[s][:3, :3] @ ray
                np.testing.assert_allclose(
                    truth.ray[0, s, row * 3 + column], turned / np.linalg.norm(turned), atol=1e-5
                )
                np.testing.assert_allclose(
                    truth.point[0, s, row * 3 + column], world[:3] / 2.0, atol=1e-5
                )
                wanted = np.zeros(18, bool)
                for t in range(3):
                    seen = np.linalg.inv(poses[t]) @ world
                    if t == s or z == 0 or seen[2] < 0.1:
                        continue
                    x, y = np.round((K @ seen[:3])[:2] / seen[2]).astype(int)
                    if 0 <= x < 42 and 0 <= y < 28:
                        agrees = abs(depth[t, y, x] - seen[2]) < 0.1 * seen[2]
                        wanted[t * 6 + (y // 14) * 3 + x // 14] = agrees
                assert truth.seen_by[0, n].tolist() == wanted.tolist()
                found += wanted.sum()
    assert found > 12


def test_guides_teach_the_attention_and_leave_no_hook(batch):
    torch.manual_seed(0)
    config = VidLLMConfig(encoder={"hidden_size": 48}, aggregator_heads=3, adapter_heads=3)
    aggregator = Aggregator(config)
    tokens = torch.randn(1, 3, 6, 48)
    truth = guidance.patch_truth(batch, torch.tensor([2.0]), 14)
    probes = guidance.LevelProbes(96, 4)
    mover = torch.optim.Adam([*aggregator.parameters(), *probes.parameters()], lr=3e-3)
    curve = []
    for _ in range(60):
        with guidance.watch(aggregator) as watched:
            output = aggregator(tokens, GRID)
        looks, hit = guidance.attention_guidance(aggregator, watched, truth)
        errors = probes(output, config.aggregator_layers, truth)
        mover.zero_grad()
        (looks + errors.ray + errors.point + errors.camera).backward()
        mover.step()
        curve.append([v.item() for v in (looks, errors.ray, errors.point, errors.camera, hit)])
    assert len(watched.inputs) == 4
    for before, after in zip(curve[0][:4], curve[-1][:4], strict=True):
        assert after < 0.5 * before
    assert curve[-1][4] > 0.9
    assert not aggregator._forward_hooks
    assert all(not block.attn._forward_pre_hooks for block in aggregator.global_blocks)


def test_correspondences_are_not_rounded_by_autocast(batch):
    plain = guidance.patch_truth(batch, torch.tensor([2.0]), 14)
    with torch.autocast("cpu", torch.bfloat16):
        half = guidance.patch_truth(batch, torch.tensor([2.0]), 14)
    for name, value in vars(plain).items():
        torch.testing.assert_close(getattr(half, name), value)
