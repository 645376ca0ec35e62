# SPDX-License-Identifier: Apache-2.0
"""Cross-Task Adapter: one encoder, two streams, and bridge tokens that carry news between them.

Second box of the figure. T_geom goes to the aggregator, T_lang to the 3D patches. The rows of the
paper's Table 6 are the config's `adapter`. Next: aggregator.py and patches3d.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.layers import Attention, CrossAttention, LayerScale, Mlp

GATE_INIT = 0.1


@dataclass(frozen=True)
class AdapterOutput:
    """Both streams after the exchange.

    Attributes:
        geometry: T'_geom, for the aggregator, (B, S, N, C).
        semantic: T'_lang, for the 3D patches, (B, S, N, C).
        bridge: T'_bridge, (B, K, C), or (B, S, K, C) with a bridge a frame; None without bridge.
    """

    geometry: Tensor
    semantic: Tensor
    bridge: Tensor | None


class TaskProjection(nn.Module):
    """phi of eq. (1): two linear layers with GELU; residual unless configured literally.

    Starts as the identity, so that an aggregator trained on plain encoder tokens meets what it
    knows: the distillation loss compares directions only and would let the magnitude drift.
    Source: Vid-LLM eq. (1); deviation: residual.
    """

    def __init__(self, width: int, expansion: int, residual: bool) -> None:
        super().__init__()
        self.mlp = Mlp(width, expansion * width)
        self.residual = residual
        if residual:
            nn.init.zeros_(self.mlp.fc2.weight)
            nn.init.zeros_(self.mlp.fc2.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.mlp(tokens) if self.residual else self.mlp(tokens)


class BridgeExchange(nn.Module):
    """Learnt tokens collect from both streams (eq. 2) and are read back by both.

    T'_bridge = MHA(T_bridge, LN T_geom, LN T_geom) + MHA'(T_bridge, LN T_lang, LN T_lang), as
    printed; the write-back T'_s = T_s + g_s * MHA_s(LN T_s, T'_bridge, T'_bridge) is ours (the
    paper says only "integrated"): it keeps N, and its small gate g keeps both streams near their
    start.
    """

    def __init__(self, width: int, heads: int, bridge_tokens: int, per_frame: bool) -> None:
        super().__init__()
        self.per_frame = per_frame
        self.tokens = nn.Parameter(0.02 * torch.randn(1, bridge_tokens, width))
        self.norm_geometry = nn.LayerNorm(width)
        self.norm_semantic = nn.LayerNorm(width)
        self.norm_bridge = nn.LayerNorm(width)
        self.collect_geometry = CrossAttention(width, heads)
        self.collect_semantic = CrossAttention(width, heads)
        self.write_geometry = CrossAttention(width, heads)
        self.write_semantic = CrossAttention(width, heads)
        self.gate_geometry = LayerScale(width, GATE_INIT)
        self.gate_semantic = LayerScale(width, GATE_INIT)

    def forward(self, geometry: Tensor, semantic: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Exchange; streams (B, S, N, C), bridge as in `AdapterOutput`."""
        shape = geometry.shape
        scope = (shape[0] * shape[1], shape[2]) if self.per_frame else (shape[0], -1)
        geometry = geometry.reshape(*scope, shape[-1])  # (B, S*N, C) or (B*S, N, C)
        semantic = semantic.reshape(*scope, shape[-1])
        fused_geometry, fused_semantic = self.norm_geometry(geometry), self.norm_semantic(semantic)
        start = self.tokens.expand(len(geometry), -1, -1)
        bridge = self.collect_geometry(start, fused_geometry)
        bridge = bridge + self.collect_semantic(start, fused_semantic)  # (., K, C)
        news = self.norm_bridge(bridge)
        geometry = geometry + self.gate_geometry(self.write_geometry(fused_geometry, news))
        semantic = semantic + self.gate_semantic(self.write_semantic(fused_semantic, news))
        if self.per_frame:
            bridge = bridge.unflatten(0, shape[:2])
        return geometry.reshape(shape), semantic.reshape(shape), bridge


class CrossAttentionExchange(nn.Module):
    """Table 6, "CA without bridge": each stream attends to the other inside its frame."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_geometry = nn.LayerNorm(width)
        self.norm_semantic = nn.LayerNorm(width)
        self.to_geometry = CrossAttention(width, heads)
        self.to_semantic = CrossAttention(width, heads)
        self.gate_geometry = LayerScale(width, GATE_INIT)
        self.gate_semantic = LayerScale(width, GATE_INIT)

    def forward(self, geometry: Tensor, semantic: Tensor) -> tuple[Tensor, Tensor, None]:
        shape = geometry.shape
        fused_geometry = self.norm_geometry(geometry).flatten(0, 1)  # (B*S, N, C)
        fused_semantic = self.norm_semantic(semantic).flatten(0, 1)
        to_geometry = self.to_geometry(fused_geometry, fused_semantic).reshape(shape)
        to_semantic = self.to_semantic(fused_semantic, fused_geometry).reshape(shape)
        geometry = geometry + self.gate_geometry(to_geometry)
        return geometry, semantic + self.gate_semantic(to_semantic), None


class ConcatExchange(nn.Module):
    """Table 6, "Concat-SA": self-attention over both streams of a frame side by side."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.gate = LayerScale(width, GATE_INIT)

    def forward(self, geometry: Tensor, semantic: Tensor) -> tuple[Tensor, Tensor, None]:
        both = torch.cat([geometry, semantic], dim=2)  # (B, S, 2N, C)
        mixed = self.attention(self.norm(both).flatten(0, 1)).reshape(both.shape)
        first, second = (both + self.gate(mixed)).chunk(2, dim=2)
        return first, second, None


class CrossTaskAdapter(nn.Module):
    """Split the encoder's tokens into a geometry and a semantic stream that know of each other.

    Source: Vid-LLM eq. (1)-(2), Table 6.
    """

    def __init__(self, config: VidLLMConfig) -> None:
        super().__init__()
        self.variant = config.adapter
        width, heads = config.width, config.adapter_heads
        if self.variant == "none":
            return
        residual = config.adapter_residual
        self.phi_geometry = TaskProjection(width, config.adapter_expansion, residual)
        self.phi_semantic = TaskProjection(width, config.adapter_expansion, residual)
        self.exchange: nn.Module
        if self.variant == "bridge":
            per_frame = config.bridge_per_frame
            self.exchange = BridgeExchange(width, heads, config.bridge_tokens, per_frame)
        elif self.variant == "cross_attention":
            self.exchange = CrossAttentionExchange(width, heads)
        else:
            self.exchange = ConcatExchange(width, heads)

    def forward(self, tokens: Tensor) -> AdapterOutput:
        """Split and exchange.

        Args:
            tokens: the encoder's last patch tokens (T_base), (B, S, N, C).
        """
        if self.variant == "none":
            return AdapterOutput(tokens, tokens, None)
        geometry, semantic = self.phi_geometry(tokens), self.phi_semantic(tokens)
        return AdapterOutput(*self.exchange(geometry, semantic))
