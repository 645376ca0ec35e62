# SPDX-License-Identifier: Apache-2.0
"""Tokens vote for their own place until they are taught; queries begin where things are."""

from dataclasses import replace

import pytest
import torch

from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.grounding import GroundingDecoder
from vidllm_ros.network.patches3d import ScenePatches
from vidllm_ros.network.query_attention import NeighbourAttention, QueriedScene
from vidllm_ros.network.token_votes import TokenVotes, likeliest

CONFIG = VidLLMConfig(
    grounding_queries=6, grounding_dim=32, grounding_heads=2, grounding_votes=True
)
THINGS = torch.tensor([[1.0, 0.0, 0.5], [-1.5, 1.0, 0.3], [0.0, -2.0, 0.4]])


def queried(count: int = 50) -> QueriedScene:
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(2, count, dtype=torch.bool)
    mask[1, 30:] = False
    positions = torch.randn(2, count, 3, generator=generator)
    return QueriedScene(torch.randn(2, count, 32, generator=generator), positions, mask, positions)


def room() -> tuple[ScenePatches, torch.Tensor]:
    """Twenty tokens half a metre in front of each of three things, sixty of the walls."""
    generator = torch.Generator().manual_seed(1)
    spread = torch.randn(3, 20, 3, generator=generator)
    near = THINGS[:, None] + torch.tensor([0.5, 0.0, 0.0]) + 0.15 * spread
    walls = 3.0 * torch.randn(60, 3, generator=generator)
    kind = torch.cat([torch.arange(3).repeat_interleave(20), torch.full((60,), 3)])
    looks = torch.randn(4, 192, generator=generator)
    noise = torch.randn(120, 192, generator=generator)
    places = torch.cat([near.flatten(0, 1), walls])[None]
    tokens = (looks[kind] + 0.3 * noise)[None]
    return ScenePatches(tokens, places, torch.ones(1, 120, dtype=torch.bool)), kind


def test_untrained_votes_are_the_tokens_own_places_and_change_nothing():
    torch.manual_seed(0)
    scene = queried()
    voted, votes = TokenVotes(32, 2)(scene)
    assert torch.equal(votes.center, scene.positions)
    assert torch.equal(voted.tokens, scene.tokens)
    hears = NeighbourAttention(32, 2, 8, hears_votes=True)
    deaf = NeighbourAttention(32, 2, 8)
    deaf.load_state_dict(hears.state_dict(), strict=False)
    x, anchors = torch.randn(2, 5, 32), torch.randn(2, 5, 3)
    torch.testing.assert_close(hears(x, anchors, voted), deaf(x, anchors, scene))


def test_near_is_who_votes_near():
    torch.manual_seed(0)
    scene = queried()
    moved = replace(scene, votes=scene.positions.flip(1))
    hears = NeighbourAttention(32, 2, 1, hears_votes=True)
    with torch.no_grad():
        hears.voted.second.weight.normal_()
        at = scene.positions[:1, :1]
        heard = hears(torch.zeros(1, 1, 32), at, moved)
        token = QueriedScene(*(part[:, -1:] for part in vars(moved).values()))
        assert torch.allclose(heard[:1], hears(torch.zeros(1, 1, 32), at, token)[:1], atol=1e-6)
        value = hears.kv(moved.tokens[0, -1])[32:] + hears.relative(
            scene.positions[0, -1] - at[0, 0]
        )
        value = value + hears.voted(moved.votes[0, -1] - at[0, 0])
        torch.testing.assert_close(heard[0, 0], hears.proj(value))


def test_untrained_votes_leave_the_queries_where_they_were():
    patches, _ = room()
    anchors = []
    for has_votes in (True, False):
        torch.manual_seed(0)
        anchors.append(GroundingDecoder(replace_votes(has_votes), 24).propose(patches).anchors)
    assert torch.equal(*anchors)


def test_the_likeliest_are_marked_and_padding_never():
    logits = torch.tensor([[0.0, 3.0, 1.0, 9.0], [5.0, 1.0, 2.0, 0.0]])
    mask = torch.tensor([[True, True, True, False], [True, True, True, True]])
    assert likeliest(logits, mask, 2).tolist() == [
        [False, True, True, False],
        [True, False, True, False],
    ]
    assert torch.equal(likeliest(logits, mask, 4), mask)
    assert likeliest(logits, mask & False, 2).sum() == 0
    assert torch.equal(likeliest(0 * logits, mask, 1), mask)  # ties stay together


def test_padding_changes_no_vote():
    torch.manual_seed(0)
    votes = TokenVotes(32, 2).eval()
    with torch.no_grad():
        for parameter in votes.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        scene = queried()
        _, padded = votes(scene)
        _, alone = votes(QueriedScene(*(part[1:, :30] for part in vars(scene).values())))
    torch.testing.assert_close(padded.center[1:, :30], alone.center, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(padded.logits[1:, :30], alone.logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("has_votes", [True, False])
def test_taught_votes_bring_queries_to_the_things(has_votes):
    torch.manual_seed(0)
    decoder = GroundingDecoder(replace_votes(has_votes), 24)
    patches, kind = room()
    middles = torch.cat([THINGS, torch.zeros(1, 3)])[kind]
    if decoder.votes is not None:
        optimizer = torch.optim.AdamW(decoder.parameters(), lr=3e-3)
        for _ in range(80):
            votes = decoder.propose(patches).votes
            away = (votes.center[0] - middles)[kind < 3].abs().sum(-1).mean()
            thing = torch.nn.functional.binary_cross_entropy_with_logits(
                votes.logits[0], (kind < 3).float()
            )
            optimizer.zero_grad()
            (away + thing).backward()
            optimizer.step()
        assert away < 0.2, away
    anchors = decoder.propose(patches).anchors[0]
    gaps = torch.cdist(THINGS, anchors).min(1).values
    assert (gaps.max() < 0.3) == has_votes  # spread over everything, six queries meet no thing


def replace_votes(has_votes: bool) -> VidLLMConfig:
    return VidLLMConfig.from_dict({**CONFIG.to_dict(), "grounding_votes": has_votes})
