# SPDX-License-Identifier: Apache-2.0
"""Features of boxes that someone gives: proposals to be scored, and boxes to be talked about.

What lies in a box is the mean of the scene tokens inside it; where it is, an embedding of its
centre and size. `features` go to `GroundingDecoder.match`, `embeds` stand at the <box> token of
a prompt (the paper's "3D coordinate tokens", Sec. 4.1). Next: vidllm.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.full_float32 import exact_product
from vidllm_ros.network.layers import Mlp
from vidllm_ros.network.patches3d import PositionMlp, ScenePatches
from vidllm_ros.network.scene_places import split_sight

MARGIN_M = 0.05


@dataclass(frozen=True)
class BoxBatch:
    """Oriented boxes in the window's world.

    Attributes:
        center: (B, R, 3), m.
        size: full edge lengths, (B, R, 3), m.
        rotation: box axes to world, (B, R, 3, 3).
    """

    center: Tensor
    size: Tensor
    rotation: Tensor


def pool_boxes(patches: ScenePatches, boxes: BoxBatch) -> Tensor:
    """Average the tokens inside each box, (B, R, C); the nearest token where a box holds none.

    Tokens are voxel means, so the box is widened by 5 cm on each side.

    Args:
        patches: tokens of B scenes.
        boxes: R a scene.
    """
    tokens, positions, mask = patches.tokens, patches.positions, patches.mask
    offset = positions[:, None] - boxes.center[:, :, None]  # (B, R, M, 3)
    local = exact_product(offset, boxes.rotation)
    inside = (local.abs() <= boxes.size[:, :, None] / 2 + MARGIN_M).all(-1) & mask[:, None]
    distance = offset.norm(dim=-1).masked_fill(~mask[:, None], torch.inf)
    nearest = torch.zeros_like(inside).scatter(-1, distance.argmin(-1, keepdim=True), True)
    chosen = torch.where(inside.any(-1, keepdim=True), inside, nearest & mask[:, None])
    weight = chosen.to(tokens.dtype)
    return weight @ tokens / weight.sum(-1, keepdim=True).clamp_min(1.0)


class BoxFeatures(nn.Module):
    """Turn given boxes into match features (B, R, G) and into <box> embeddings (B, R, D)."""

    def __init__(self, config: VidLLMConfig, language_dim: int) -> None:
        super().__init__()
        dim = config.grounding_dim
        self.has_sight = config.scene_places
        self.norm = nn.LayerNorm(config.width)
        self.content = nn.Linear(config.width, dim)
        self.center = PositionMlp(dim)
        self.size = PositionMlp(dim)
        self.feature = nn.Sequential(nn.LayerNorm(dim), Mlp(dim, dim))
        self.to_language = nn.Sequential(nn.LayerNorm(dim), Mlp(dim, dim, language_dim))

    def _describe(self, patches: ScenePatches, boxes: BoxBatch) -> Tensor:
        tokens, _ = split_sight(pool_boxes(patches, boxes), self.has_sight, self.norm.weight.dtype)
        content = self.content(self.norm(tokens))
        return content + self.center(boxes.center) + self.size(boxes.size)

    def features(self, patches: ScenePatches, boxes: BoxBatch) -> Tensor:
        """Return features to be matched with <loc> states, (B, R, G)."""
        return self.feature(self._describe(patches, boxes))

    def embeds(self, patches: ScenePatches, boxes: BoxBatch) -> Tensor:
        """Embed boxes as the language model reads them at <box>, (B, R, D)."""
        return self.to_language(self._describe(patches, boxes))
