# SPDX-License-Identifier: Apache-2.0
"""The network written out literally, with the same weights: what every fast path must equal.

Attention is a product, a softmax and a product; every layer's output is kept as the published
code keeps it; maps are enlarged before the 1x1 convolution; each bin has a probability and a
centre; a question reads the scene again for each of its words. What acceleration.py compiles is
not called. Benchmarks time it, tests compare with it. Next: vidllm.py, the network as it is run.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vidllm_ros.network.aggregator import Aggregator, AggregatorOutput
from vidllm_ros.network.dense_head import DPTDecoder, DPTHead, ResidualUnit, resize
from vidllm_ros.network.encoder import Encoder, EncoderOutput
from vidllm_ros.network.full_float32 import full_float32
from vidllm_ros.network.language import SceneLanguageModel
from vidllm_ros.network.layers import Attention, Block, RotaryTables
from vidllm_ros.network.metric_depth import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    MetricDepth,
    MetricDepthOutput,
)
from vidllm_ros.network.uv_embedding import UV_WEIGHT, uv_embedding

FRAMES_AT_A_TIME = 8
TABLE_VALUES = 1 << 30  # of scores; one head over a window at paper size has 1.1 billion


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt d) v over (B, heads, P, d), the whole table of a head in memory.

    Heads one by one where the table of all is large: at paper size it would be 36 GB in bfloat16,
    and autocast makes its softmax float32.
    """
    step = max(1, TABLE_VALUES // (len(q) * q.shape[-2] * k.shape[-2]))
    heads = []
    for some_q, some_k, some_v in zip(*(x.split(step, dim=1) for x in (q, k, v)), strict=True):
        scores = some_q @ some_k.transpose(-2, -1) / q.shape[-1] ** 0.5
        heads.append(torch.softmax(scores, dim=-1) @ some_v)
    return torch.cat(heads, dim=1)


def rotate(x: Tensor, tables: RotaryTables) -> Tensor:
    """Rotate (..., P, d) by x cos + partner(x) sin, rows in the first half, columns in the second.

    In each half the partner of channel i is i + d/4, negated, and the partner of that is i.
    """
    cos = torch.cat([tables.cos, tables.cos], dim=-1).flatten(1)  # (P, d)
    sin = torch.cat([tables.sin, tables.sin], dim=-1).flatten(1)
    halves = []
    for half in x.float().chunk(2, dim=-1):
        first, second = half.chunk(2, dim=-1)
        halves.append(torch.cat([-second, first], dim=-1))
    return (x.float() * cos + torch.cat(halves, dim=-1) * sin).to(x.dtype)


def run_attention(attention: Attention, x: Tensor, rotary: RotaryTables | None) -> Tensor:
    """Compute what `Attention` computes."""
    split = [
        part.unflatten(-1, (attention.heads, -1)).transpose(1, 2)
        for part in attention.qkv(x).chunk(3, dim=-1)
    ]
    q, k, v = attention.q_norm(split[0]), attention.k_norm(split[1]), split[2]
    if rotary is not None:
        q, k = rotate(q, rotary), rotate(k, rotary)
    return attention.proj(attend(q.to(v.dtype), k.to(v.dtype), v).transpose(1, 2).flatten(2))


def run_block(block: Block, x: Tensor, rotary: RotaryTables | None = None) -> Tensor:
    """Compute what `Block` computes."""
    x = x + block.ls1.gamma * run_attention(block.attn, block.norm1(x), rotary)
    return x + block.ls2.gamma * block.mlp(block.norm2(x))


def encode(encoder: Encoder, images: Tensor) -> EncoderOutput:
    """Compute what `Encoder` computes, keeping the output of every layer.

    The blocks are transformers' own, whose "eager" attention is the literal one.
    """
    batch, frames, _, height, width = images.shape
    backbone = encoder.backbone
    before = backbone.config._attn_implementation
    backbone.config._attn_implementation = "eager"
    try:
        hidden = backbone.embeddings(encoder._normalise(images.flatten(0, 1)))
        kept = []
        for layer in backbone.encoder.layer:
            hidden = layer.forward(hidden, None)  # a call would run what was compiled
            kept.append(hidden)
    finally:
        backbone.config._attn_implementation = before
    patches = [encoder.backbone.layernorm(each)[:, encoder.special_tokens :] for each in kept]
    levels = [each.to(hidden.dtype).unflatten(0, (batch, frames)) for each in patches]
    grid = (height // encoder.patch_size, width // encoder.patch_size)
    return EncoderOutput(levels[-1], [levels[index] for index in encoder.level_layers], grid)


def aggregate(aggregator: Aggregator, tokens: Tensor, grid: tuple[int, int]) -> AggregatorOutput:
    """Compute what `Aggregator` computes, keeping both outputs of every pair."""
    batch, frames = tokens.shape[:2]
    special = aggregator._special_tokens(batch, frames).to(tokens.dtype)
    x = torch.cat([special, tokens], dim=2)
    in_frame = aggregator.rotary.tables(grid, aggregator.patch_start, tokens.device)
    across = in_frame.repeat(frames)
    outputs = {}
    for index in range(len(aggregator.frame_blocks)):
        frame_block, global_block = aggregator.frame_blocks[index], aggregator.global_blocks[index]
        local = run_block(frame_block, x.flatten(0, 1), in_frame)  # type: ignore[arg-type]
        local = local.unflatten(0, (batch, frames))
        x = run_block(global_block, local.flatten(1, 2), across)  # type: ignore[arg-type]
        x = x.unflatten(1, (frames, -1))
        outputs[index] = torch.cat([local, x], dim=-1)
    return AggregatorOutput(outputs, aggregator.patch_start)


def decode(
    decoder: DPTDecoder, levels: list[Tensor], grid: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """Return `DPTDecoder`'s final map, (F, features // 2, H, W), enlarged before each 1x1."""
    aspect = size[1] / size[0]
    maps = []
    for index, level in enumerate(levels):
        x = decoder.norm(level).transpose(1, 2).unflatten(2, grid)
        x = _place(decoder, decoder.projects[index](x), aspect)
        maps.append(decoder.reduces[index](decoder.resizes[index](x)))
    x = maps[3]
    for index in (3, 2, 1, 0):
        fusion: Any = decoder.fusions[index]
        if fusion.skip_unit is not None:
            x = x + _residual(fusion.skip_unit, maps[index])
        x = _residual(fusion.out_unit, x)
        height, width = maps[max(index - 1, 0)].shape[-2:]
        scale = 1 if index else 2
        x = fusion.out_conv(resize(x, (scale * height, scale * width)))
    return _place(decoder, resize(decoder.output_conv(x), size), aspect)


def _place(decoder: DPTDecoder, x: Tensor, aspect: float) -> Tensor:
    if not decoder.uv_embedding:
        return x
    height, width = x.shape[-2:]
    table = UV_WEIGHT * uv_embedding(x.shape[1], (height, width), aspect, x.device)
    return x + table.to(x.dtype)


def _residual(unit: ResidualUnit, x: Tensor) -> Tensor:
    active = functional.relu(x)
    out: Tensor = unit.conv2(functional.relu(unit.conv1(active)))
    return out + (active if unit.rectified else x)


def dense(
    head: DPTHead, levels: list[Tensor], grid: tuple[int, int], size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Return values and confidence of `DPTHead`."""
    batch, frames = levels[0].shape[:2]
    flat = [level.flatten(0, 1) for level in levels]
    raw = [
        head.predictor(decode(head.decoder, [level[i : i + FRAMES_AT_A_TIME] for level in flat],
                              grid, size))
        for i in range(0, batch * frames, FRAMES_AT_A_TIME)
    ]  # fmt: skip
    maps = torch.cat(raw).float().permute(0, 2, 3, 1).unflatten(0, (batch, frames))
    return head.activation(maps[..., :-1]).squeeze(-1), 1 + torch.exp(maps[..., -1])


def metric_depth(
    head: MetricDepth, levels: list[Tensor], grid: tuple[int, int], size: tuple[int, int]
) -> MetricDepthOutput:
    """Return depth and, of every frame and bin, probabilities and centres.

    Raises:
        ValueError: the centres are not the residual ones of Sec. 3.2.
    """
    if head.residual is None:
        raise ValueError("head: expected residual centers, got attractors; take others")
    batch, frames = levels[0].shape[:2]
    flat = [level.flatten(0, 1) for level in levels]
    read_at = size if head.full_size else (8 * grid[0], 8 * grid[1])
    base = head.log_centers.float().exp().view(1, -1, 1, 1)
    parts = []
    for i in range(0, batch * frames, FRAMES_AT_A_TIME):
        final = decode(head.decoder, [level[i : i + FRAMES_AT_A_TIME] for level in flat],
                       grid, read_at)  # fmt: skip
        pixel = functional.relu(head.pixel(final))
        centers = (base + _float32(head.residual, pixel)).clamp(*head.range_m)  # (F, A, h', w')
        probabilities = _bin_probabilities(head, pixel)
        expected = (probabilities * centers).sum(1, keepdim=True)
        parts.append((resize(expected.clamp(*head.range_m), size), probabilities, centers))
    depth, probabilities, centers = (torch.cat(part) for part in zip(*parts, strict=True))
    return MetricDepthOutput(depth.reshape(batch, frames, *size), probabilities, centers)


def _bin_probabilities(head: MetricDepth, pixel: Tensor) -> Tensor:
    """Return the softened binomial over bins, (F, A, h', w'), of (F, C, h', w')."""
    raw = functional.softplus(_float32(head.binomial, functional.gelu(head.hidden(pixel)))) + 1e-4
    success = raw[:, :1] / (raw[:, :1] + raw[:, 1:2])
    share = raw[:, 2:3] / (raw[:, 2:3] + raw[:, 3:])
    temperature = MIN_TEMPERATURE + (MAX_TEMPERATURE - MIN_TEMPERATURE) * share
    hit, miss = success.clamp(1e-4, 1).log(), (1 - success).clamp(1e-4, 1).log()
    index = torch.arange(head.bins, device=pixel.device, dtype=torch.float32).view(1, -1, 1, 1)
    last = head.bins - 1
    k, rest = index + 1e-7, last - index + 1e-7  # their logarithms stay finite
    choose = last * math.log(last) - k * k.log() - rest * rest.log()  # Stirling's, no root
    logits = choose + index * hit + (last - index) * miss
    return torch.softmax(logits / temperature, dim=1)


def _float32(conv: nn.Conv2d, x: Tensor) -> Tensor:
    with full_float32(x.device):
        assert conv.bias is not None
        return functional.conv2d(x.float(), conv.weight.float(), conv.bias.float())


def next_token(language: SceneLanguageModel, scene_embeds: Tensor, ids: Tensor) -> Tensor:
    """Return the logits after `ids`, (1, V), reading the scene from its start."""
    words = language.model.get_input_embeddings()(ids).to(scene_embeds.dtype)
    read = torch.cat([language._prefix_embeds(scene_embeds), words], dim=1)
    hidden = language.model.base_model(inputs_embeds=read, use_cache=False).last_hidden_state
    return language._logits(hidden[:, -1])
