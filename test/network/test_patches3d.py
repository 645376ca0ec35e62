# SPDX-License-Identifier: Apache-2.0
"""Eq. 3 agrees with the package's geometry; pooling is a mean, bounded, repeatable, NaN-proof."""

import numpy as np
import pytest
import torch

from vidllm_ros.geometry.camera import unproject
from vidllm_ros.geometry.transforms import matrix_from_quat_xyzw, transform_points
from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.patches3d import (
    Patches3D,
    ScenePatches,
    lift_patches,
    patch_center_depth,
    pool_voxels,
)


def camera(seed=0):
    rng = np.random.default_rng(seed)
    K = np.array([[60.0, 0, 28], [0, 58, 21], [0, 0, 1]])
    T = np.eye(4)
    T[:3, :3] = matrix_from_quat_xyzw(rng.normal(size=4))
    T[:3, 3] = rng.normal(size=3)
    return K, T


def test_lift_equals_unprojection_with_scale_one():
    K, T_world_camera = camera()
    depth = np.random.default_rng(1).uniform(1, 4, (42, 56)).astype(np.float32)
    depth = np.repeat(np.repeat(depth[::14, ::14], 14, 0), 14, 1)  # constant in a patch
    points_world = transform_points(T_world_camera, unproject(depth, K))
    # the centre of a patch, 14j + 6.5, is the mean of its four middle pixels
    middle = np.mean([points_world[r::14, c::14] for r in (6, 7) for c in (6, 7)], axis=0)
    center, good = patch_center_depth(torch.from_numpy(depth), torch.ones(42, 56) > 0, 14)
    ours = lift_patches(
        center, torch.from_numpy(K).float(), torch.from_numpy(T_world_camera).float(), 14
    )
    assert good.all()
    np.testing.assert_allclose(ours.numpy(), middle.reshape(-1, 3), atol=1e-5)


def test_centre_depth_never_averages_an_edge_nor_takes_invalid_values():
    depth = torch.full((14, 14), 5.0)
    depth[6, 6], depth[6, 7], depth[7, 6] = 1.0, 1.1, float("nan")
    valid = torch.ones(14, 14, dtype=torch.bool)
    assert patch_center_depth(depth, valid, 14)[0].item() == pytest.approx(1.1)
    valid[6, 6] = valid[6, 7] = False
    assert patch_center_depth(depth, valid, 14)[0].item() == 5.0
    valid[7, 7] = False
    value, good = patch_center_depth(depth, valid, 14)
    assert value.item() == 0.0
    assert not good.item()


def scene(batch=2, count=60, width=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return ScenePatches(
        torch.randn(batch, count, width, generator=generator),
        2 * torch.randn(batch, count, 3, generator=generator),
        torch.rand(batch, count, generator=generator) > 0.2,
    )


def test_pool_is_the_mean_of_each_voxel():
    patches = scene()
    pooled = pool_voxels(patches, 1.0, 1000)
    for b in range(2):
        cells = {}
        for token, place, real in zip(
            patches.tokens[b], patches.positions[b], patches.mask[b], strict=True
        ):
            if real:
                key = tuple(torch.round(place).int().tolist())
                cells.setdefault(key, []).append((token, place))
        means = [
            (
                torch.stack([t for t, _ in cells[key]]).mean(0),
                torch.stack([p for _, p in cells[key]]).mean(0),
            )
            for key in sorted(cells)
        ]
        assert int(pooled.mask[b].sum()) == len(means)
        real = pooled.mask[b]
        torch.testing.assert_close(pooled.tokens[b][real], torch.stack([t for t, _ in means]))
        torch.testing.assert_close(pooled.positions[b][real], torch.stack([p for _, p in means]))
        assert (pooled.tokens[b][~real] == 0).all()


def test_pool_does_not_depend_on_order_or_batch():
    patches = scene()
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    shuffled = ScenePatches(
        patches.tokens[:, order], patches.positions[:, order], patches.mask[:, order]
    )
    first, second = pool_voxels(patches, 1.0, 1000), pool_voxels(shuffled, 1.0, 1000)
    torch.testing.assert_close(first.tokens, second.tokens)
    assert torch.equal(first.mask, second.mask)
    single = pool_voxels(
        ScenePatches(patches.tokens[1:], patches.positions[1:], patches.mask[1:]), 1.0, 1000
    )
    count = int(single.mask.sum())
    torch.testing.assert_close(single.tokens[0, :count], first.tokens[1, :count])


def test_cap_coarsens_only_the_scene_that_exceeds_it_and_keeps_the_mean():
    patches = scene(count=400)
    patches.positions[1] *= 0.05
    free, capped = pool_voxels(patches, 0.3, 10_000), pool_voxels(patches, 0.3, 40)
    assert int(free.mask[0].sum()) > 40 >= int(capped.mask[0].sum()) > 10
    assert torch.equal(free.mask[1].nonzero(), capped.mask[1].nonzero())
    spread = patches.positions[0][patches.mask[0]]
    kept = capped.positions[0][capped.mask[0]]
    assert kept.max() > 0.5 * spread.max(), "far evidence stays"


def test_zero_voxel_keeps_every_patch():
    patches = scene()
    pooled = pool_voxels(patches, 0.0, 3)
    assert pooled.mask.sum() == patches.mask.sum()
    torch.testing.assert_close(
        pooled.tokens[0][pooled.mask[0]], patches.tokens[0][patches.mask[0]]
    )


def test_empty_scene_is_one_padded_token():
    patches = scene()
    patches.mask[0] = False
    pooled = pool_voxels(patches, 1.0, 100)
    assert not pooled.mask[0].any()
    assert pooled.mask[1].any()
    nothing = pool_voxels(
        ScenePatches(patches.tokens, patches.positions, patches.mask & False), 1.0, 100
    )
    assert nothing.tokens.shape == (2, 1, 5)
    assert not nothing.mask.any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0, 0.0, 1e30])
def test_bad_depth_leaks_into_no_token_and_no_gradient(bad):
    torch.manual_seed(0)
    module = Patches3D(VidLLMConfig())
    K, T = (torch.from_numpy(x).float().expand(1, 2, -1, -1) for x in camera())
    semantic = torch.randn(1, 2, 12, 192, requires_grad=True)
    depth = 1 + torch.rand(1, 2, 42, 56)
    valid = torch.ones_like(depth, dtype=torch.bool)
    spoiled = depth.clone()
    spoiled[0, 0, :14] = bad
    valid[0, 0, :14] = False
    expected = module(semantic, depth, K, T, valid)
    marked = module(semantic, spoiled, K, T, valid)
    torch.testing.assert_close(marked.tokens, expected.tokens)
    unmarked = module(semantic, spoiled, K, T, torch.ones_like(valid))
    torch.testing.assert_close(unmarked.tokens, expected.tokens)
    unmarked.tokens.square().sum().backward()
    assert torch.isfinite(semantic.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())
    assert (semantic.grad[0, 0, :4] == 0).all()


def test_relative_depth_at_wrong_size_is_named():
    module = Patches3D(VidLLMConfig())
    K, T = (torch.from_numpy(x).float().expand(1, 1, -1, -1) for x in camera())
    depth = torch.ones(1, 1, 28, 28)
    with pytest.raises(ValueError, match="semantic: expected 4 tokens"):
        module(torch.zeros(1, 1, 12, 192), depth, K, T, depth > 0)


def test_the_box_decoder_may_read_finer_tokens_of_the_same_patches():
    lifting = Patches3D(VidLLMConfig(max_scene_tokens=4, grounding_tokens=40)).eval()
    generator = torch.Generator().manual_seed(2)
    semantic = torch.randn(1, 2, 12, 192, generator=generator)
    depth = 1.0 + torch.rand(1, 2, 42, 56, generator=generator)
    K = torch.tensor([[40.0, 0, 28], [0, 40, 21], [0, 0, 1]]).expand(1, 2, 3, 3)
    poses = torch.eye(4).expand(1, 2, 4, 4)
    pooled = lifting(semantic, depth, K, poses, torch.ones(1, 2, 42, 56, dtype=torch.bool))
    fine = pooled.for_boxes
    assert fine is pooled.fine
    assert pooled.mask.sum() <= 4 < fine.mask.sum() <= 24
    plain = Patches3D(VidLLMConfig(max_scene_tokens=4))
    plain.load_state_dict(lifting.state_dict())
    coarse = plain(semantic, depth, K, poses, torch.ones(1, 2, 42, 56, dtype=torch.bool))
    assert coarse.for_boxes is coarse
    torch.testing.assert_close(coarse.tokens, pooled.tokens)
