# SPDX-License-Identifier: Apache-2.0
"""How patches were seen rides through the pooling, and reaches words and boxes."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from vidllm_ros.network import scene_places
from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.patches3d import Patches3D, ScenePatches
from vidllm_ros.network.scene_places import SIGHT, TOLD, split_sight
from vidllm_ros.network.vidllm import VidLLM


def cameras(frames: int = 3, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    T = np.repeat(np.eye(4)[None], frames, 0)
    T[:, :3, :3] = Rotation.random(frames, random_state=seed).as_matrix()
    T[:, :3, 3] = rng.normal(size=(frames, 3))
    return torch.from_numpy(T[None]).float()


def test_sight_is_what_the_cameras_saw():
    T = cameras()
    in_camera = torch.tensor([[0.0, 0.0, 2.0], [1.0, -1.0, 3.0]]).expand(1, 3, 2, 3)
    points = torch.einsum("bsij,bsnj->bsni", T[..., :3, :3], in_camera) + T[:, :, None, :3, 3]
    sight = scene_places.sight_of(points, T)
    back = torch.einsum("bsji,bsnj->bsni", T[..., :3, :3], sight[..., :3])
    torch.testing.assert_close(back, in_camera / in_camera.norm(dim=-1, keepdim=True))
    assert (sight[:, 0, :, 3] == 1).all()
    assert (sight[:, 1:, :, 3] == 0).all()
    torch.testing.assert_close(sight[:, 0, :, 4:], in_camera[:, 0])  # the first camera's own
    elsewhere = torch.linalg.solve(
        T[:, :1, None, :3, :3], (points - T[:, :1, None, :3, 3])[..., None]
    )
    torch.testing.assert_close(sight[..., 4:], elsewhere[..., 0], rtol=1e-4, atol=1e-4)


def test_a_patch_at_the_camera_has_no_direction_and_breaks_nothing():
    T = cameras(1)
    sight = scene_places.sight_of(T[:, :, None, :3, 3], T)
    assert torch.isfinite(sight).all()
    assert (sight[..., :3] == 0).all()
    assert torch.isfinite(scene_places.in_waves(torch.zeros(1, 1, 1, 3), sight)).all()


@pytest.mark.parametrize(
    ("place", "azimuth", "elevation"),
    [
        ((0.0, 0.0, 2.0), 0, 0),
        ((2.0, 0.0, 2.0), 45, 0),
        ((-1.0, 0.0, 0.0), -90, 0),
        ((0.0, -1.0, 1.0), 0, 45),
    ],
)
def test_right_and_up_are_positive(place, azimuth, elevation):
    found = scene_places.bearings(torch.tensor(place))
    assert math.degrees(found[0]) == pytest.approx(azimuth, abs=1e-4)
    assert math.degrees(found[1]) == pytest.approx(elevation, abs=1e-4)
    assert found[2].item() == pytest.approx(np.linalg.norm(place))


def test_waves_tell_near_places_apart_and_have_the_width_they_say():
    here = torch.tensor([[0.3, 0.1, 2.0]])
    sight = torch.cat([torch.zeros(1, 4), here], dim=-1)
    told = scene_places.in_waves(here, sight)
    assert told.shape == (1, TOLD)
    moved = here + torch.tensor([0.1, 0.0, 0.0])
    there = scene_places.in_waves(moved, torch.cat([torch.zeros(1, 4), moved], dim=-1))
    assert (there - told).norm() > 1.0


def test_tokens_carry_sight_through_the_pooling_and_positions_agree_with_it():
    torch.manual_seed(0)
    config = VidLLMConfig(scene_places=True, voxel_size_m=0.3)
    patches = Patches3D(config)
    semantic = torch.randn(1, 2, 12, config.width)
    depth = torch.rand(1, 2, 42, 56) + 1.5
    K = torch.tensor([[60.0, 0, 28], [0, 60, 21], [0, 0, 1]]).expand(1, 2, 3, 3)
    T = torch.eye(4).repeat(1, 2, 1, 1)
    T[0, 1, 0, 3] = 0.2
    pooled = patches(semantic, depth, K, T, torch.ones(1, 2, 42, 56) > 0)
    tokens, sight = split_sight(pooled.tokens, True, torch.float32)
    assert tokens.shape[-1] == config.width
    torch.testing.assert_close(sight[0, :, 4:], pooled.positions[0], rtol=1e-4, atol=1e-4)
    assert (sight[0, :, :3].norm(dim=-1) <= 1 + 1e-5).all()
    assert 0 < sight[0, :, 3].mean() < 1
    config.scene_places = False
    without = Patches3D(config)
    without.load_state_dict(patches.state_dict())
    plain = without(semantic, depth, K, T, torch.ones(1, 2, 42, 56) > 0)
    torch.testing.assert_close(plain.tokens, tokens)


def test_untaught_places_change_nothing_and_taught_ones_do(tiny_fields):
    torch.manual_seed(0)
    plain = VidLLM(VidLLMConfig(**tiny_fields)).eval()
    placed = VidLLM(VidLLMConfig(**tiny_fields, scene_places=True)).eval()
    lost, extra = placed.load_state_dict(plain.state_dict(), strict=False)
    assert not extra
    assert {name.split(".")[0] for name in lost} == {"places", "grounding"}
    tokens = torch.randn(1, 20, plain.config.width)
    positions, mask = torch.randn(1, 20, 3), torch.ones(1, 20, dtype=torch.bool)
    bare = ScenePatches(tokens, positions, mask)
    seen = ScenePatches(torch.cat([tokens, torch.randn(1, 20, SIGHT)], -1), positions, mask)
    torch.testing.assert_close(placed.scene_embeds(seen), plain.scene_embeds(bare))
    torch.testing.assert_close(
        placed.grounding.propose(seen).features, plain.grounding.propose(bare).features
    )
    torch.nn.init.normal_(placed.places.second.weight)
    torch.nn.init.normal_(placed.grounding.sight.weight)
    moved = replace(seen, positions=positions + 0.1)
    assert not torch.allclose(placed.scene_embeds(seen), plain.scene_embeds(bare))
    assert not torch.allclose(placed.scene_embeds(moved), placed.scene_embeds(seen))
    assert not torch.allclose(
        placed.grounding.propose(seen).features, plain.grounding.propose(bare).features
    )


def test_half_precision_meaning_leaves_sight_exact():
    """As on a GPU, whose weights and tokens are bfloat16: 3 cm at 8 m would break short waves."""
    torch.manual_seed(0)
    patches = Patches3D(VidLLMConfig(scene_places=True, voxel_size_m=0.3))
    depth = torch.rand(1, 2, 42, 56) + 6.0
    K = torch.tensor([[60.0, 0, 28], [0, 60, 21], [0, 0, 1]]).expand(1, 2, 3, 3)
    T = torch.eye(4).repeat(1, 2, 1, 1)
    half = torch.randn(1, 2, 12, 192).bfloat16()
    pooled = patches(half, depth, K, T, torch.ones(1, 2, 42, 56) > 0)
    tokens, sight = split_sight(pooled.tokens, True, torch.bfloat16)
    assert tokens.dtype == torch.bfloat16
    torch.testing.assert_close(sight[0, :, 4:], pooled.positions[0], rtol=1e-4, atol=1e-4)


def test_padded_tokens_send_no_gradient_that_is_not_a_number(build_tiny):
    """Words teach the adapter through tokens of scenes of unequal size."""
    model = build_tiny(scene_places=True)
    torch.nn.init.normal_(model.places.second.weight)
    torch.nn.init.normal_(model.grounding.sight.weight)
    tokens = torch.randn(2, 9, model.config.width + SIGHT)
    tokens[1, 5:] = 0
    tokens.requires_grad_(True)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, 5:] = False
    scene = ScenePatches(tokens, torch.randn(2, 9, 3) * mask[..., None], mask)
    said = model.scene_embeds(scene).square().sum() + model.grounding.propose(scene).features.sum()
    said.backward()
    assert torch.isfinite(tokens.grad).all()
    assert tokens.grad[..., :-SIGHT].abs().sum() > 0
    assert (tokens.grad[..., -SIGHT:] == 0).all()  # geometry is not to be moved by words


def test_everything_can_be_asked_of_a_scene_with_sight(build_tiny, frames):
    model = build_tiny(scene_places=True, scene_frame="room", grounding_tokens=64)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("language", "grounding", "box_features", "projector", "places")):
                parameter.add_(0.1 * torch.randn_like(parameter))
    scene = model.reconstruct(frames).scene
    assert scene.tokens.shape[1] == scene.fine[0].shape[1] == model.config.width + SIGHT
    heard = []
    model.places.register_forward_hook(lambda _, args, out: heard.append((args, out)))
    found = model.detect(scene, threshold=0.0)
    answer = model.answer(scene, "What colour is the chair?", max_new_tokens=5)
    assert answer.stamps_ns == scene.stamps_ns
    assert found
    model.describe(scene, found[0], max_new_tokens=5)
    assert model.score_boxes(scene, found, "the table").shape == (len(found),)
    assert len(heard) == 1  # once a scene
    (positions, sight), out = heard[0]
    torch.testing.assert_close(positions[0], scene.positions)
    np.testing.assert_allclose(
        sight[0, :, 4:], scene.positions @ torch.from_numpy(scene.T_world_scene[:3, :3].T).float(),
        rtol=1e-3, atol=1e-3,
    )  # fmt: skip
    assert out.abs().max() > 0
