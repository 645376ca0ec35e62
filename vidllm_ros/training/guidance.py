# SPDX-License-Identifier: Apache-2.0
"""Guide a short run to correspondence: where rendered truth knows what the attention should find.

A reconstruction branch that starts from nothing spends most of its steps finding out that the same
corner in two frames is the same corner. Rendered rooms know it, so two heads of every global block
are told which patches of other frames show their patch's point, and every level is asked,
linearly, for the direction and place of each patch and camera in the first camera's frame.
Nothing of this is shipped. Source: ours (docs/deviations.md). Next: stages.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from vidllm_ros.data.scene_batch import SceneBatch
from vidllm_ros.network.aggregator import Aggregator, AggregatorOutput
from vidllm_ros.network.full_float32 import exact_product
from vidllm_ros.network.layers import Attention, Block, RotaryTables, rotate
from vidllm_ros.training.losses import masked_mean, shared_mean, unproject_to_world

DEPTH_TOLERANCE = 0.1
NEVER = -1e4
ANY_FRAME_HEAD, FIRST_FRAME_HEAD = 0, 1


@dataclass
class Watched:
    """What an aggregator did in one forward pass.

    Attributes:
        inputs: per global block, the normed tokens its attention read, and their rotary tables.
        output: of the whole.
    """

    inputs: dict[int, tuple[Tensor, RotaryTables]] = field(default_factory=dict)
    output: AggregatorOutput | None = None


def global_attentions(aggregator: Aggregator) -> list[Attention]:
    """Return the attention of every global block, in order."""
    return [block.attn for block in aggregator.global_blocks if isinstance(block, Block)]


@contextmanager
def watch(aggregator: Aggregator) -> Iterator[Watched]:
    """Note what the aggregator's attention reads while the context lasts."""
    watched = Watched()

    def keep(index: int, arguments: tuple[Tensor, RotaryTables]) -> None:
        watched.inputs[index] = arguments

    def keep_output(result: AggregatorOutput) -> None:
        watched.output = result

    hooks = [
        attention.register_forward_pre_hook(lambda _, a, i=i: keep(i, a))
        for i, attention in enumerate(global_attentions(aggregator))
    ]
    hooks.append(aggregator.register_forward_hook(lambda _, a, result: keep_output(result)))
    try:
        yield watched
    finally:
        for hook in hooks:
            hook.remove()


@dataclass(frozen=True)
class PatchTruth:
    """What is known of every patch, at its centre pixel.

    Attributes:
        ray: unit viewing direction in the first camera's frame, (B, S, N, 3).
        point: over the scene's scale, first camera's frame, (B, S, N, 3).
        valid: whether the point is known, (B, S, N).
        camera: right and forward axes and place of each camera in the first camera's frame, the
            place over the scene's scale, (B, S, 9).
        seen_by: which patches of other frames show the same point, (B, S*N, S*N).
    """

    ray: Tensor
    point: Tensor
    valid: Tensor
    camera: Tensor
    seen_by: Tensor


@torch.no_grad()
def patch_truth(batch: SceneBatch, scale: Tensor, patch_size: int) -> PatchTruth:
    """Work out directions, points and correspondences of all patches.

    A patch of another frame shows the point if it projects into it and the depth seen there agrees
    within a tenth.

    Args:
        batch: truth.
        scale: metres per relative unit, (B,).
        patch_size: px.
    """
    depth, K, T_world_camera = batch.depth, batch.K, batch.T_world_camera
    B, S, H, W = depth.shape
    half = patch_size // 2
    turn = T_world_camera.clone()
    turn[..., :3, 3] = 0.0
    rays = unproject_to_world(torch.ones_like(depth), K, turn)[
        :, :, half::patch_size, half::patch_size
    ]
    points = unproject_to_world(depth, K, T_world_camera)[:, :, half::patch_size, half::patch_size]
    points = points.flatten(2, 3)  # (B, S, N, 3)
    valid = batch.valid[:, :, half::patch_size, half::patch_size].flatten(2)
    T_camera_world = torch.linalg.inv(T_world_camera)
    turned = T_camera_world[:, None, :, :3, :3].mT  # (B, 1, T, 3, 3)
    seen = exact_product(points[:, :, None], turned)
    seen = seen + T_camera_world[:, None, :, None, :3, 3]  # (B, S, T, N, 3)
    z = seen[..., 2]
    focal_x, focal_y = K[:, None, :, None, 0, 0], K[:, None, :, None, 1, 1]
    column = (seen[..., 0] / z.clamp(min=0.05) * focal_x + K[:, None, :, None, 0, 2]).round()
    row = (seen[..., 1] / z.clamp(min=0.05) * focal_y + K[:, None, :, None, 1, 2]).round()
    inside = (z > 0.1) & (column >= 0) & (column < W) & (row >= 0) & (row < H)
    column, row = column.clamp(0, W - 1).long(), row.clamp(0, H - 1).long()
    scene = torch.arange(B, device=depth.device)[:, None, None, None]
    frame = torch.arange(S, device=depth.device)[None, None, :, None]
    agrees = (depth[scene, frame, row, column] - z).abs() < DEPTH_TOLERANCE * z
    other = ~torch.eye(S, dtype=torch.bool, device=depth.device)[None, :, :, None]
    good = inside & agrees & other & valid[:, :, None]
    patches = (H // patch_size) * (W // patch_size)
    index = (row // patch_size) * (W // patch_size) + column // patch_size + patches * frame
    index = torch.where(good, index, S * patches).permute(0, 1, 3, 2).flatten(1, 2)
    seen_by = torch.zeros(B, S * patches, S * patches + 1, dtype=torch.bool, device=depth.device)
    seen_by.scatter_(-1, index, True)
    places = T_world_camera[..., :3, 3] / scale[:, None, None]
    return PatchTruth(
        functional.normalize(rays.flatten(2, 3), dim=-1),
        points / scale[:, None, None, None],
        valid,
        torch.cat([T_world_camera[..., :3, 0], T_world_camera[..., :3, 2], places], dim=-1),
        seen_by[..., :-1],
    )


def attention_guidance(
    aggregator: Aggregator, watched: Watched, truth: PatchTruth
) -> tuple[Tensor, Tensor]:
    """Ask two heads of every global block to look where the same point is.

    One looks in any other frame; one in the first, which is the world: what it finds there, at a
    known place of a known camera, says where its own camera looks.

    Returns:
        cross-entropy with all right patches counting as one, and the last block's share of patches
        whose strongest look at the first frame is right.
    """
    _, S, N = truth.valid.shape
    frame = torch.arange(S * N, device=truth.valid.device) // N
    to_first = truth.seen_by & (frame == 0)
    total = truth.ray.new_zeros(())
    hit = total
    attentions = global_attentions(aggregator)
    for index, (tokens, rotary) in watched.inputs.items():
        attention = attentions[index]
        qkv = attention.qkv(tokens).unflatten(-1, (3, attention.heads, -1))
        q, k, _ = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        q, k = (
            rotate(norm(x), rotary).unflatten(2, (S, -1))[:, :, :, aggregator.patch_start :]
            for norm, x in ((attention.q_norm, q), (attention.k_norm, k))
        )
        for head, wanted, allowed in (
            (ANY_FRAME_HEAD, truth.seen_by, frame[:, None] != frame[None]),
            (FIRST_FRAME_HEAD, to_first, None),
        ):
            own, others = q[:, head].flatten(1, 2).float(), k[:, head].flatten(1, 2).float()
            logits = own @ others.transpose(1, 2) / own.shape[-1] ** 0.5  # (B, S*N, S*N)
            if allowed is not None:
                logits = logits.masked_fill(~allowed, NEVER)
            right = logits.masked_fill(~wanted, NEVER).logsumexp(-1)
            known = wanted.any(-1)
            total = total + masked_mean(logits.logsumexp(-1) - right, known)
            best = logits.argmax(-1, keepdim=True)
            hit = masked_mean(wanted.gather(-1, best)[..., 0].float(), known)
    return total / max(2 * len(watched.inputs), 1), hit


@dataclass(frozen=True)
class ProbeErrors:
    """Mean absolute errors of the linear probes, mean over levels.

    Attributes:
        ray: of the patches' directions.
        point: of the patches' places.
        camera: of each camera's right and forward axes and, over the scene's scale, its place.
    """

    ray: Tensor
    point: Tensor
    camera: Tensor


class LevelProbes(nn.Module):
    """Ask every level of the aggregator, linearly, where its patches and its cameras are.

    Args:
        width: channels of a level.
        levels: how many there are.
    """

    def __init__(self, width: int, levels: int) -> None:
        super().__init__()
        self.probes = nn.ModuleList(linear_probe(width, 6) for _ in range(levels))
        self.cameras = nn.ModuleList(linear_probe(width, 9) for _ in range(levels))

    def forward(
        self, output: AggregatorOutput, layers: Sequence[int], truth: PatchTruth
    ) -> ProbeErrors:
        """Compare with the truth.

        Args:
            output: of the aggregator.
            layers: which of its levels to ask.
            truth: of patches and cameras.
        """
        ray = point = camera = truth.ray.new_zeros(())
        everywhere = torch.ones_like(truth.valid)
        for level, probe, camera_probe in zip(layers, self.probes, self.cameras, strict=True):
            tokens = output.levels[level]
            said = probe(tokens[:, :, output.patch_start :]).float()
            ray = ray + masked_mean((said[..., :3] - truth.ray).abs().mean(-1), everywhere)
            point = point + masked_mean((said[..., 3:] - truth.point).abs().mean(-1), truth.valid)
            wrong = (camera_probe(tokens[:, :, 0]).float() - truth.camera).abs()
            camera = camera + shared_mean(wrong)
        count = len(self.probes)
        return ProbeErrors(ray / count, point / count, camera / count)


def linear_probe(width: int, outputs: int) -> nn.Sequential:
    """Return a norm and a linear map, nothing that could work the answer out by itself."""
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, outputs))
