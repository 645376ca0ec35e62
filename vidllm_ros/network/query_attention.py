# SPDX-License-Identifier: Apache-2.0
"""Attention of the box decoder: queries look at the scene tokens around them and at each other.

Next: token_votes.py and grounding.py, which are made of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from vidllm_ros.network.patches3d import PositionMlp


@dataclass(frozen=True)
class QueriedScene:
    """What queries look at.

    Attributes:
        tokens: (B, M, G).
        positions: (B, M, 3), m.
        mask: which tokens are real, (B, M).
        votes: where each token says its thing's middle is, (B, M, 3), m; the positions where
            nobody votes.
    """

    tokens: Tensor
    positions: Tensor
    mask: Tensor
    votes: Tensor


class NeighbourAttention(nn.Module):
    """Each query attends to its k nearest scene tokens; where they lie is added to them.

    Args:
        dim: channels of queries and tokens.
        heads: of the attention.
        neighbours: k.
        hears_votes: tokens are near whose votes are, and where they vote is added too.
    """

    def __init__(self, dim: int, heads: int, neighbours: int, hears_votes: bool = False) -> None:
        super().__init__()
        self.heads, self.neighbours = heads, neighbours
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.relative = PositionMlp(dim)
        self.voted = PositionMlp(dim) if hears_votes else None
        if self.voted is not None:  # begins as if nobody voted
            nn.init.zeros_(self.voted.second.weight)

    def forward(self, x: Tensor, anchors: Tensor, scene: QueriedScene) -> Tensor:
        """Attend from queries (B, Q, G) at anchors (B, Q, 3), m."""
        tokens, positions, mask = scene.tokens, scene.positions, scene.mask
        k = min(self.neighbours, tokens.shape[1])
        places = positions if self.voted is None else scene.votes
        gap = torch.cdist(anchors.float(), places.float())  # (B, Q, M)
        gap = gap.masked_fill(~mask[:, None], torch.inf)
        near = gap.topk(k, dim=-1, largest=False, sorted=False).indices  # (B, Q, k)
        batch = torch.arange(len(x), device=x.device)[:, None, None]
        offset = positions[batch, near] - anchors[:, :, None]
        # Projecting all M tokens once is cheaper than their Q*k copies.
        k_near, v_near = self.kv(tokens)[batch, near].chunk(2, dim=-1)  # (B, Q, k, G)
        where = self.relative(offset)
        if self.voted is not None:
            where = where + self.voted(scene.votes[batch, near] - anchors[:, :, None])
        real = mask[batch, near]
        out = functional.scaled_dot_product_attention(
            self._split(self.q(x)[:, :, None]),
            self._split(k_near + where),
            self._split(v_near + where),
            attn_mask=(real | ~real.any(-1, keepdim=True))[:, :, None, None],
        )
        return self.proj(out.transpose(2, 3).flatten(3)[:, :, 0])

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(2, 3)  # (B, Q, heads, k, G/heads)


class DistanceAttention(nn.Module):
    """Self-attention among queries that fades with distance: softmax(q k / sqrt(d) - sigma D).

    sigma is positive, one a query and head. Source: LLaVA-3D, facts B.5.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.fade = nn.Linear(dim, heads)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, centers: Tensor, mask: Tensor) -> Tensor:
        """X (B, Q, G), centers (B, Q, 3), m, mask (B, Q)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        sigma = functional.softplus(self.fade(x)).transpose(1, 2)[..., None]  # (B, heads, Q, 1)
        distance = torch.cdist(centers.float(), centers.float())[:, None]
        bias = (-sigma.float() * distance).masked_fill(~mask[:, None, None], -1e4)
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        return self.proj(out.transpose(1, 2).flatten(2))
