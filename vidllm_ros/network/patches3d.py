# SPDX-License-Identifier: Apache-2.0
"""3D patches: semantic tokens put at their place in metres, then pooled by voxels.

"3D Position Embedding -> 3D Patches -> Pooling" of the figure. A patch is lifted at its centre
by the aligned depth, its place is embedded and added, and patches that share a voxel become one
token, which bounds what the language model reads. Next: language.py and grounding.py, which read
the tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.scene_places import sight_of, with_sight

CELL_BITS = 18
MAX_DISTANCE_M = 1e4
MAX_CELL = 2 ** (CELL_BITS - 1) - 1


@dataclass(frozen=True)
class ScenePatches:
    """Tokens with their places, padded at the end to the fullest scene of the batch.

    Attributes:
        tokens: T_3D, (B, M, C); zero where padded. With `scene_places` SIGHT more channels say how
            each was seen (scene_places.py).
        positions: (B, M, 3), m, in the window's world; zero where padded.
        mask: which tokens are real, (B, M).
        fine: the same scenes pooled less, where the box decoder reads more tokens than the
            language model.
    """

    tokens: Tensor
    positions: Tensor
    mask: Tensor
    fine: ScenePatches | None = None

    @property
    def for_boxes(self) -> ScenePatches:
        """What the box decoder reads."""
        return self if self.fine is None else self.fine

    def of_scene(self, scene: int) -> tuple[Tensor, Tensor]:
        """Return one scene's real tokens, (M, C), and positions, (M, 3), m."""
        real = self.mask[scene]
        return self.tokens[scene, real], self.positions[scene, real]


class PositionMlp(nn.Module):
    """Embed metres: Linear - LayerNorm - ReLU - Linear on raw coordinates, as LLaVA-3D does.

    The first layer runs in float32: bfloat16 resolves a coordinate of 4 m to 16 mm only.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(3, width)
        self.norm = nn.LayerNorm(width)
        self.second = nn.Linear(width, width)
        for layer in (self.first, self.second):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, points: Tensor) -> Tensor:
        """(..., 3), m -> (..., width)."""
        with torch.autocast(points.device.type, enabled=False):
            weight, bias = self.first.weight.float(), self.first.bias.float()
            x = functional.linear(points.float(), weight, bias)
            x = functional.relu(self.norm(x.to(self.norm.weight.dtype)))
        return self.second(x)


def patch_center_depth(depth: Tensor, valid: Tensor, patch_size: int) -> tuple[Tensor, Tensor]:
    """Sample depth at patch centres, u = 14j + 6.5, v = 14i + 6.5 for 14 px patches.

    The centre lies between four pixels (an odd patch has one); the lower median of the valid
    ones is taken: a mean across a depth edge would put the patch where nothing is.

    Args:
        depth: (..., H, W), m; may hold NaN where not valid.
        valid: (..., H, W).
        patch_size: px.

    Returns:
        depth (..., h, w), m, and valid (..., h, w); depth is 0 where not valid.
    """
    first = (patch_size - 1) // 2
    steps = {first, patch_size // 2}
    picks = [
        (..., slice(row, None, patch_size), slice(column, None, patch_size))
        for row in sorted(steps)
        for column in sorted(steps)
    ]
    good = valid & torch.isfinite(depth) & (depth > 0)
    filled = torch.where(good, depth, torch.inf)
    values = torch.stack([filled[pick] for pick in picks], dim=-1).sort(dim=-1).values
    count = torch.stack([good[pick] for pick in picks], dim=-1).sum(-1)  # (..., h, w)
    middle = ((count - 1) // 2).clamp_min(0)
    sampled = values.gather(-1, middle.unsqueeze(-1)).squeeze(-1)
    return torch.where(count > 0, sampled, 0.0), count > 0


def lift_patches(depth: Tensor, K: Tensor, T_world_camera: Tensor, patch_size: int) -> Tensor:
    """Place patch centres in the world: X = R (z K^-1 [u, v, 1]) + t.

    Source: Vid-LLM eq. (3), with [u, v] = [column, row] and the world-to-camera pose inverted.

    Args:
        depth: at patch centres, (..., h, w), m.
        K: intrinsics of the image, (..., 3, 3), px.
        T_world_camera: (..., 4, 4), m.
        patch_size: px.

    Returns:
        (..., h*w, 3), m.
    """
    height, width = depth.shape[-2:]
    offset = (patch_size - 1) / 2
    v = patch_size * torch.arange(height, device=depth.device, dtype=torch.float32) + offset
    u = patch_size * torch.arange(width, device=depth.device, dtype=torch.float32) + offset
    x = (u - K[..., 0, 2, None, None]) / K[..., 0, 0, None, None] * depth
    y = (v[:, None] - K[..., 1, 2, None, None]) / K[..., 1, 1, None, None] * depth
    points = torch.stack([x, y, depth], dim=-1).flatten(-3, -2)  # (..., h*w, 3)
    rotation, translation = T_world_camera[..., :3, :3], T_world_camera[..., None, :3, 3]
    return (points.unsqueeze(-2) * rotation[..., None, :, :]).sum(-1) + translation


def pool_voxels(patches: ScenePatches, voxel_m: float, cap: int) -> ScenePatches:
    """Average tokens and places that share a voxel; coarsen the voxel of a scene that exceeds
    `cap`.

    Growing the voxel, rather than dropping tokens, keeps evidence from everywhere. Tokens come
    in the order of their voxels, which does not depend on the order of frames; sums run in a
    fixed order, so the result is repeatable on a GPU too. Source: LLaVA-3D (facts B.3); the
    coarsening is ours.

    Args:
        patches: padded anywhere.
        voxel_m: edge, m; 0 keeps every patch.
        cap: tokens a scene at most (not held with voxel_m 0).
    """
    batch = len(patches.tokens)
    mask = patches.mask & torch.isfinite(patches.positions).all(-1)
    if voxel_m == 0:
        return _pad(batch, mask.nonzero()[:, 0], patches.tokens[mask], patches.positions[mask])
    reach_m = voxel_m * MAX_CELL  # 26 km at 0.2 m: farther is not a place
    mask = mask & (patches.positions.abs() < reach_m).all(-1)
    scene = mask.nonzero()[:, 0]  # (V,)
    places = patches.positions[mask].float()
    edge = places.new_full((batch,), voxel_m)
    while True:
        cells = torch.round(places / edge[scene, None]).long() + MAX_CELL
        keys = scene
        for axis in range(3):
            keys = (keys << CELL_BITS) | cells[:, axis]
        voxels, member, counts = keys.unique(return_inverse=True, return_counts=True)
        voxel_scene = voxels >> (3 * CELL_BITS)
        load = torch.bincount(voxel_scene, minlength=batch)
        if not len(voxels) or int(load.max()) <= cap:
            break
        growth = (load / cap).sqrt().clamp_min(1.1)  # surfaces: count falls with the edge squared
        edge = torch.where(load > cap, edge * growth, edge)
    order = member.argsort(stable=True)
    tokens = _segment_mean(patches.tokens[mask][order], counts)
    return _pad(batch, voxel_scene, tokens, _segment_mean(places[order], counts))


def _segment_mean(values: Tensor, counts: Tensor) -> Tensor:
    """Mean of consecutive runs of rows, (V, C) and (R,) -> (R, C), in float32 and back."""
    if not len(counts):
        return values[:0]
    mean = torch.segment_reduce(values.float(), "mean", lengths=counts, axis=0)
    return mean.to(values.dtype)


def _pad(batch: int, scene: Tensor, tokens: Tensor, positions: Tensor) -> ScenePatches:
    """Lay out rows sorted by scene as (B, M, .); M is at least 1."""
    load = torch.bincount(scene, minlength=batch)
    longest = max(1, int(load.max()))
    slot = torch.arange(len(scene), device=scene.device) - (load.cumsum(0) - load)[scene]
    padded = tokens.new_zeros(batch, longest, tokens.shape[-1])
    places = positions.new_zeros(batch, longest, 3)
    padded = padded.index_put((scene, slot), tokens)
    places = places.index_put((scene, slot), positions)
    return ScenePatches(padded, places, torch.arange(longest, device=scene.device) < load[:, None])


class Patches3D(nn.Module):
    """T_3D = T'_lang + MLP(X), pooled; X is where each patch is (Vid-LLM eq. 3-4)."""

    def __init__(self, config: VidLLMConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.voxel_m = config.voxel_size_m
        self.cap = config.max_scene_tokens
        self.fine_cap = config.grounding_tokens
        self.has_sight = config.scene_places
        self.position = PositionMlp(config.width)

    def forward(
        self, semantic: Tensor, depth: Tensor, K: Tensor, T_world_camera: Tensor, valid: Tensor
    ) -> ScenePatches:
        """Lift, embed and pool.

        Args:
            semantic: T'_lang, (B, S, N, C).
            depth: aligned, (B, S, H, W), m.
            K: (B, S, 3, 3), px.
            T_world_camera: (B, S, 4, 4), m.
            valid: (B, S, H, W).

        Raises:
            ValueError: N is not the number of patches of an HxW image.
        """
        center_depth, good = patch_center_depth(depth.float(), valid, self.patch_size)
        if semantic.shape[2] != center_depth[0, 0].numel():
            raise ValueError(
                f"semantic: expected {center_depth[0, 0].numel()} tokens for depth "
                f"{tuple(depth.shape)}, got {semantic.shape[2]}; depth must be at image size"
            )
        points = lift_patches(center_depth, K.float(), T_world_camera.float(), self.patch_size)
        good = good.flatten(2) & (points.abs() < MAX_DISTANCE_M).all(-1)  # False for NaN too
        points = torch.where(good[..., None], points, 0.0)  # NaN must not meet a weight
        tokens = semantic + self.position(points).to(semantic.dtype)
        if self.has_sight:
            tokens = with_sight(tokens, sight_of(points, T_world_camera.float()))
        flat = ScenePatches(tokens.flatten(1, 2), points.flatten(1, 2), good.flatten(1, 2))
        pooled = pool_voxels(flat, self.voxel_m, self.cap)
        if not self.fine_cap:
            return pooled
        return replace(pooled, fine=pool_voxels(flat, self.voxel_m, self.fine_cap))
