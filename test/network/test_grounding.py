# SPDX-License-Identifier: Apache-2.0
"""Queries are spread and real, padding is never seen, boxes are proper, one scene is learnt."""

from dataclasses import replace

import pytest
import torch

from vidllm_ros.network.box_features import BoxBatch, BoxFeatures, pool_boxes
from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.grounding import GroundingDecoder, farthest_points, rotation_from_6d
from vidllm_ros.network.patches3d import ScenePatches

CONFIG = VidLLMConfig(grounding_queries=12, grounding_dim=32, grounding_heads=2)


def build(has_votes=False):
    torch.manual_seed(0)
    config = VidLLMConfig.from_dict({**CONFIG.to_dict(), "grounding_votes": has_votes})
    return GroundingDecoder(config, 24)


def scene(batch=2, count=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(batch, count, 192, generator=generator)
    positions = 2 * torch.randn(batch, count, 3, generator=generator)
    mask = torch.ones(batch, count, dtype=torch.bool)
    mask[-1, 30:] = False
    return ScenePatches(tokens, positions, mask)


def test_farthest_points_spread_and_are_distinct():
    patches = scene()
    positions, mask = patches.positions, patches.mask
    indices, real = farthest_points(positions, mask, 12)
    assert real.all()
    for b in range(2):
        assert len(set(indices[b].tolist())) == 12
        assert mask[b, indices[b]].all()
        chosen = positions[b, indices[b]]
        gaps = torch.cdist(chosen, chosen) + 1e9 * torch.eye(12)
        cover = torch.cdist(positions[b, mask[b]], chosen).min(1).values.max()
        assert gaps.min() >= cover - 1e-5, "each chosen point is farther than any point left"
    again, _ = farthest_points(positions, mask, 12)
    assert torch.equal(indices, again)


def test_few_or_equal_points_give_few_real_queries():
    patches = scene()
    positions, mask = patches.positions, patches.mask
    mask[0, 5:] = False
    positions[0] = 1.0
    mask[1] = False
    indices, real = farthest_points(positions, mask, 12)
    assert real.sum(1).tolist() == [5, 0]
    assert sorted(indices[0, :5].tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("has_votes", [False, True])
def test_padding_changes_nothing(has_votes):
    decoder = build(has_votes).eval()
    patches = scene()
    tokens, positions, mask = patches.tokens, patches.positions, patches.mask
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        padded = decoder.propose(patches)
        alone = decoder.propose(ScenePatches(tokens[1:, :30], positions[1:, :30], mask[1:, :30]))
        torch.testing.assert_close(padded.features[1:], alone.features, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(padded.last.center[1:], alone.last.center, atol=1e-4, rtol=1e-4)


def test_boxes_are_proper_and_empty_scene_has_no_objects():
    decoder = build()
    patches = scene()
    patches.mask[0] = False
    proposals = decoder.propose(replace(patches, tokens=100 * patches.tokens))
    last = proposals.last
    assert len(proposals.layers) == CONFIG.grounding_layers
    assert last.center.shape == last.size.shape == (2, 12, 3)
    assert proposals.features.shape == (2, 12, 32)
    assert (last.size > 0).all()
    eye = torch.eye(3).expand(2, 12, 3, 3)
    torch.testing.assert_close(last.rotation @ last.rotation.mT, eye, atol=1e-5, rtol=0)
    assert not proposals.mask[0].any()
    assert (last.objectness_logits[0].sigmoid() == 0).all()
    assert all(torch.isfinite(value).all() for value in (last.center, last.size, last.rotation))
    torch.testing.assert_close(last.center, proposals.anchors), "boxes start at their tokens"


def test_rotation_from_6d_inverts_columns():
    R = torch.linalg.qr(torch.randn(5, 3, 3, generator=torch.Generator().manual_seed(0))).Q
    R = R * torch.linalg.det(R)[:, None, None]
    torch.testing.assert_close(rotation_from_6d(R[..., :2].mT.reshape(5, 6)), R, atol=1e-5, rtol=0)


def test_pool_boxes_is_the_mean_inside_an_oriented_box_else_the_nearest():
    patches = scene(1, 40)
    tokens, positions, mask = patches.tokens, patches.positions, patches.mask
    angle = torch.tensor(0.6)
    R = torch.tensor([[angle.cos(), -angle.sin(), 0], [angle.sin(), angle.cos(), 0], [0, 0, 1.0]])
    boxes = BoxBatch(
        torch.tensor([[[0.2, 0.1, 0.0], [50.0, 0, 0]]]),
        torch.tensor([[[2.0, 1.0, 9.0], [1.0, 1.0, 1.0]]]),
        R.expand(1, 2, 3, 3),
    )
    pooled = pool_boxes(patches, boxes)
    local = (positions[0] - boxes.center[0, 0]) @ R
    inside = (local.abs() <= boxes.size[0, 0] / 2 + 0.05).all(-1) & mask[0]
    assert 0 < inside.sum() < 40
    torch.testing.assert_close(pooled[0, 0], tokens[0, inside].mean(0))
    gap = (positions[0] - boxes.center[0, 1]).norm(dim=-1).masked_fill(~mask[0], torch.inf)
    torch.testing.assert_close(pooled[0, 1], tokens[0, gap.argmin()])


def test_learns_boxes_and_phrases_of_one_scene():
    decoder = build()
    patches = scene(1)
    positions, mask = patches.positions, patches.mask
    loc = torch.randn(1, 3, 24, generator=torch.Generator().manual_seed(4))
    chosen, _ = farthest_points(positions, mask, 12)
    wanted = positions[0, chosen[0]] + 0.3
    which = torch.zeros(1, 3, 12)
    which[0, 0, 2] = which[0, 1, 5] = which[0, 1, 7] = 1.0  # the third phrase names nothing
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=3e-3)
    for _ in range(80):
        proposals = decoder.propose(patches)
        logits = decoder.match(proposals.features, loc)
        fit = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, which, pos_weight=torch.tensor(4.0)
        )
        place = sum((layer.center[0] - wanted).abs().mean() for layer in proposals.layers)
        edges = sum((layer.size[0] - 0.9).abs().mean() for layer in proposals.layers)
        loss = fit + place + edges
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    scores = decoder.match(decoder.propose(patches).features, loc).sigmoid()
    assert ((scores > 0.5) == which.bool()).all(), scores
    assert place < 0.1, place
    assert edges < 0.1, edges


@pytest.mark.parametrize("name", ["features", "embeds"])
def test_given_boxes_get_features_of_the_right_width(name):
    torch.manual_seed(0)
    module = BoxFeatures(CONFIG, 24)
    patches = scene()
    boxes = BoxBatch(torch.zeros(2, 5, 3), torch.ones(2, 5, 3), torch.eye(3).expand(2, 5, 3, 3))
    out = getattr(module, name)(patches, boxes)
    assert out.shape == (2, 5, 32 if name == "features" else 24)
    assert torch.isfinite(out).all()
    patches.mask[0] = False
    assert torch.isfinite(getattr(module, name)(patches, boxes)).all()


def test_a_token_half_a_millimetre_outside_a_box_stays_outside_under_autocast():
    """As bfloat16 the token's place, 1.0505 m from the centre, would be 1.047 m: inside."""
    patches = ScenePatches(
        torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]),
        torch.tensor([[[0.1, 0.0, 0.0], [1.0505, 0.0, 0.0]]]),
        torch.ones(1, 2, dtype=torch.bool),
    )
    box = BoxBatch(torch.zeros(1, 1, 3), torch.full((1, 1, 3), 2.0), torch.eye(3)[None, None])
    with torch.autocast("cpu", torch.bfloat16):
        pooled = pool_boxes(patches, box)
    assert pooled[0, 0].tolist() == [1.0, 0.0]
