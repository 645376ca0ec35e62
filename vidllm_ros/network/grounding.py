# SPDX-License-Identifier: Apache-2.0
"""Grounding: boxes proposed once a scene, matched with words as often as needed.

Queries start at scene tokens spread by farthest point sampling, or where the tokens of things vote
their middles to be (token_votes.py), and look at their neighbours; each layer says a box. A phrase
is the hidden state of its <loc>, compared with every query, so one scene serves many phrases, and
a phrase may name no box at all. Next: box_features.py scores given boxes the same way; vidllm.py
turns both into answers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.layers import Mlp
from vidllm_ros.network.patches3d import PositionMlp, ScenePatches
from vidllm_ros.network.query_attention import DistanceAttention, NeighbourAttention, QueriedScene
from vidllm_ros.network.scene_places import SIGHT, split_sight
from vidllm_ros.network.token_votes import TokenVotes, Votes, likeliest

INITIAL_SIZE_M = 0.6
MIN_LOG_SIZE, MAX_LOG_SIZE = -4.0, 2.5
INITIAL_SCALE, INITIAL_BIAS = 10.0, -4.0
CANDIDATES = 6  # likeliest tokens a query, among which queries are spread


@dataclass(frozen=True)
class BoxLayer:
    """The boxes one decoder layer says; the window's world, Q queries.

    Attributes:
        center: (B, Q, 3), m.
        log_size: log of full edge lengths, (B, Q, 3), log m.
        rotation: box axes to world, (B, Q, 3, 3).
        objectness_logits: (B, Q); very low where the query is padding.
    """

    center: Tensor
    log_size: Tensor
    rotation: Tensor
    objectness_logits: Tensor

    @property
    def size(self) -> Tensor:
        """Full edge lengths, (B, Q, 3), m."""
        return self.log_size.exp()


@dataclass(frozen=True)
class Proposals:
    """Boxes of a scene, before any phrase.

    Attributes:
        layers: what every decoder layer says, the last one counts.
        features: of the queries, for `match`, (B, Q, G).
        anchors: where the queries started, (B, Q, 3), m.
        mask: which queries are real, (B, Q): a scene of few tokens has fewer.
        votes: of the tokens, where they vote.
    """

    layers: tuple[BoxLayer, ...]
    features: Tensor
    anchors: Tensor
    mask: Tensor
    votes: Votes | None = None

    @property
    def last(self) -> BoxLayer:
        return self.layers[-1]


def farthest_points(positions: Tensor, mask: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Choose spread-out points, the first one nearest the middle; deterministic.

    Args:
        positions: (B, M, 3), m.
        mask: (B, M).
        count: Q.

    Returns:
        indices into M, (B, Q), and which of them are real, (B, Q): no point is taken twice.
    """
    places = torch.where(mask[..., None], positions.detach().float(), 0.0)
    weight = mask[..., None].float()
    middle = (places * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp_min(1.0)
    start = torch.where(mask, (places - middle).square().sum(-1), torch.inf)
    chosen = [start.argmin(dim=1)]
    distance = torch.where(mask, torch.inf, -1.0)
    batch = torch.arange(len(places), device=places.device)
    for _ in range(count - 1):
        gap = (places - places[batch, chosen[-1]][:, None]).square().sum(-1)
        distance = torch.minimum(distance, gap)
        distance[batch, chosen[-1]] = -1.0  # never again, even among equal points
        distance = torch.where(mask, distance, -1.0)
        chosen.append(distance.argmax(dim=1))
    real = torch.arange(count, device=places.device) < mask.sum(1, keepdim=True)
    return torch.stack(chosen, dim=1), real


def rotation_from_6d(numbers: Tensor) -> Tensor:
    """Orthonormalise two columns, (..., 6) -> (..., 3, 3); continuous, as Zhou et al. 2019
    show.
    """
    first = functional.normalize(numbers[..., :3], dim=-1, eps=1e-6)
    second = numbers[..., 3:] - (first * numbers[..., 3:]).sum(-1, keepdim=True) * first
    second = functional.normalize(second, dim=-1, eps=1e-6)
    return torch.stack([first, second, torch.linalg.cross(first, second)], dim=-1)


class GroundingLayer(nn.Module):
    """Neighbours, other queries, feed-forward; then a box around the query's place."""

    def __init__(self, dim: int, heads: int, neighbours: int, hears_votes: bool) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(4))
        self.neighbour_attention = NeighbourAttention(dim, heads, neighbours, hears_votes)
        self.distance_attention = DistanceAttention(dim, heads)
        self.mlp = Mlp(dim, dim)
        self.box = Mlp(dim, dim, 13)  # offset 3, log size 3, rotation 6, objectness 1
        nn.init.zeros_(self.box.fc2.weight)
        with torch.no_grad():
            self.box.fc2.bias.zero_()
            self.box.fc2.bias[6] = self.box.fc2.bias[10] = 1.0  # identity rotation
            self.box.fc2.bias[12] = -1.0

    def forward(
        self, x: Tensor, center: Tensor, proposals_mask: Tensor, scene: QueriedScene
    ) -> tuple[Tensor, BoxLayer]:
        """X (B, Q, G) at `center` (B, Q, 3), m."""
        x = x + self.neighbour_attention(self.norms[0](x), center, scene)
        x = x + self.distance_attention(self.norms[1](x), center, proposals_mask)
        x = x + self.mlp(self.norms[2](x))
        raw = self.box(self.norms[3](x)).float()
        log_size = (raw[..., 3:6] + torch.tensor(INITIAL_SIZE_M).log().item()).clamp(
            MIN_LOG_SIZE, MAX_LOG_SIZE
        )
        objectness = raw[..., 12].masked_fill(~proposals_mask, -1e4)
        box = BoxLayer(
            center + raw[..., :3], log_size, rotation_from_6d(raw[..., 6:12]), objectness
        )
        return x, box


class GroundingDecoder(nn.Module):
    """Propose boxes from the 3D patches and match them with the language model's <loc> states.

    LLaVA-3D feeds <loc> into the decoder; here the decoder does not know the phrase, so that the
    node's eighteen labels and every later question share one run. Source: facts B.5; the split
    is ours.
    """

    def __init__(self, config: VidLLMConfig, language_dim: int) -> None:
        super().__init__()
        dim, heads = config.grounding_dim, config.grounding_heads
        self.queries, near = config.grounding_queries, config.grounding_neighbours
        self.norm = nn.LayerNorm(config.width)
        self.embed = nn.Linear(config.width, dim)
        self.place = PositionMlp(dim)
        self.sight = nn.Linear(SIGHT, dim) if config.scene_places else None
        if self.sight is not None:  # begins as if nothing were said
            nn.init.zeros_(self.sight.weight)
            nn.init.zeros_(self.sight.bias)
        has_votes = config.grounding_votes
        self.votes = TokenVotes(dim, heads) if has_votes else None
        self.layers = nn.ModuleList(
            GroundingLayer(dim, heads, near[min(level, len(near) - 1)], has_votes)
            for level in range(config.grounding_layers)
        )
        self.feature = nn.Sequential(nn.LayerNorm(dim), Mlp(dim, dim))
        self.phrase = nn.Sequential(nn.LayerNorm(language_dim), Mlp(language_dim, dim, dim))
        self.log_scale = nn.Parameter(torch.tensor(INITIAL_SCALE).log())
        self.bias = nn.Parameter(torch.tensor(INITIAL_BIAS))

    def propose(self, patches: ScenePatches) -> Proposals:
        """Propose boxes in a scene's frame.

        Args:
            patches: T_3D of B scenes, as fine as the decoder is to read them.
        """
        positions, mask = patches.positions, patches.mask
        tokens, sight = split_sight(patches.tokens, self.sight is not None, self.norm.weight.dtype)
        embedded = self.embed(self.norm(tokens))
        if self.sight is not None and sight is not None:
            embedded = embedded + self.sight(sight.to(self.sight.weight.dtype))
        scene = QueriedScene(embedded + self.place(positions), positions, mask, positions)
        votes = None
        if self.votes is None:
            indices, real = farthest_points(positions, mask, self.queries)
        else:
            scene, votes = self.votes(scene)
            likely = likeliest(votes.logits, mask, CANDIDATES * self.queries)
            indices, real = farthest_points(scene.votes, likely, self.queries)
        batch = torch.arange(len(tokens), device=tokens.device)[:, None]
        anchors = scene.votes[batch, indices].detach().float()
        x = embedded[batch, indices] + self.place(anchors)
        center, said = anchors, []
        for layer in self.layers:
            x, box = layer(x, center, real, scene)
            said.append(box)
            center = box.center.detach()
        return Proposals(tuple(said), self.feature(x), anchors, real, votes)

    def match(self, features: Tensor, loc_hidden: Tensor) -> Tensor:
        """Say how well each phrase fits each box: logits for a sigmoid, (B, R, Q).

        Scaled cosine plus bias, so that "none of them" is an answer.

        Args:
            features: of proposals or of given boxes, (B, Q, G).
            loc_hidden: hidden states at <loc>, (B, R, D).
        """
        phrase = functional.normalize(self.phrase(loc_hidden).float(), dim=-1)
        boxes = functional.normalize(features.float(), dim=-1)
        cosine = phrase @ boxes.transpose(1, 2)
        return self.log_scale.float().exp().clamp_max(100.0) * cosine + self.bias.float()
