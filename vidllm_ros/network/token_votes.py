# SPDX-License-Identifier: Apache-2.0
"""Every scene token votes: whether it shows a thing, and where that thing's middle is.

A camera sees the near side of things, so no token lies where a box has its middle; told to each
token that shows a thing, the way there is learnt from hundreds of them a room instead of one pair
of query and box a thing. Source: Qi et al. 2019, "Deep Hough Voting" (VoteNet); votes of tokens
that read their neighbours by attention, and queries among the likeliest votes, are ours. Next:
grounding.py, whose queries begin at votes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from vidllm_ros.network.layers import Mlp
from vidllm_ros.network.query_attention import NeighbourAttention, QueriedScene

NEIGHBOURS = 8  # about a square of three by three voxels


@dataclass(frozen=True)
class Votes:
    """What the tokens of B scenes say.

    Attributes:
        center: of the thing each token shows, (B, M, 3), m, in the scene's frame.
        logits: that it shows one, (B, M).
    """

    center: Tensor
    logits: Tensor


class TokenVotes(nn.Module):
    """Let tokens look around and vote; untrained, each votes for its own place.

    Args:
        dim: channels of the tokens.
        heads: of the attention.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.around = NeighbourAttention(dim, heads, NEIGHBOURS)
        self.says = Mlp(dim, dim, 4)  # offset 3, thing 1
        for last in (self.around.proj, self.says.fc2):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, scene: QueriedScene) -> tuple[QueriedScene, Votes]:
        """Return the scene with its votes, and the votes as they are taught."""
        x = scene.tokens
        x = x + self.around(self.norms[0](x), scene.positions, replace(scene, tokens=x))
        said = self.says(self.norms[1](x)).float()
        center = scene.positions.float() + said[..., :3]
        votes = Votes(center, said[..., 3])
        return replace(scene, tokens=x, votes=center.detach()), votes


def likeliest(logits: Tensor, mask: Tensor, count: int) -> Tensor:
    """Mark the `count` real tokens that most likely show a thing, (B, M), with all ties.

    Args:
        logits: (B, M).
        mask: which tokens are real, (B, M).
        count: all of them where there are fewer.
    """
    if logits.shape[1] <= count:
        return mask
    known = logits.detach().masked_fill(~mask, -torch.inf)
    least = known.topk(count, dim=1).values[:, -1:]
    return mask & (known >= least)  # untrained, all tokens are alike: none is left out
