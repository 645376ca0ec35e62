# SPDX-License-Identifier: Apache-2.0
"""Transformer parts that the aggregator, the camera head, the adapter and grounding share.

They compute what VGGT's blocks compute (LayerNorm before each half, LayerScale after it, q and k
normalised before the rotary embedding), so that public weights fit; attention is always
`scaled_dot_product_attention`. Nothing here is a box of the figure. Next: encoder.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

LONG_SEQUENCE = 1000  # float32 is faster at 53 tokens, bfloat16 at 1,700 (docs/performance.md)


@dataclass(frozen=True)
class RotaryTables:
    """Cosines and sines of every token's angles, (P, 2, 1, head_dim/4): axis y then x.

    Special tokens have angle zero and so stay as they are.
    """

    cos: Tensor
    sin: Tensor

    def repeat(self, frames: int) -> RotaryTables:
        """Return the tables of `frames` frames in a row: a frame has no angle of its own."""
        return RotaryTables(self.cos.repeat(frames, 1, 1, 1), self.sin.repeat(frames, 1, 1, 1))

    def turns(self) -> Tensor:
        """Return cos + i sin, (P, 1, head_dim/2), angles of the row before those of the column."""
        return torch.complex(self.cos, self.sin).flatten(1)[:, None]


@dataclass(frozen=True)
class RotaryEmbedding2D:
    """Rotate the first half of a head by the token's row, the second half by its column.

    Patch (0, 0) sits at position (1, 1); position 0 belongs to camera and register tokens. Tables
    are made anew for each forward pass: a cached one would be an inference tensor in a later
    training step, and a buffer would not survive loading on the meta device. Source: VGGT,
    model-code facts A.3.
    """

    head_dim: int
    frequency: float = 100.0

    def __post_init__(self) -> None:
        if self.head_dim % 4:
            raise ValueError(f"head_dim: expected a multiple of 4, got {self.head_dim}")

    def tables(
        self, grid: tuple[int, int], special_tokens: int, device: torch.device
    ) -> RotaryTables:
        """Return the tables of one frame: special tokens, then h*w patches in row order."""
        height, width = grid
        rows = torch.arange(1, height + 1, device=device, dtype=torch.float32)
        columns = torch.arange(1, width + 1, device=device, dtype=torch.float32)
        patches = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)
        positions = torch.cat([patches.new_zeros(special_tokens, 2), patches])  # (P, 2)
        quarter = self.head_dim // 4
        exponents = torch.arange(quarter, device=device, dtype=torch.float32) / quarter
        angles = positions[:, :, None, None] * self.frequency**-exponents  # (P, 2, 1, hd/4)
        return RotaryTables(angles.cos(), angles.sin())


def rotate(x: Tensor, tables: RotaryTables) -> Tensor:
    """Apply rotary tables to queries or keys, (..., P, head_dim), in float32; keep the dtype."""
    quarter = x.shape[-1] // 4
    pairs = x.float().unflatten(-1, (2, 2, quarter))  # axis, partner, frequency
    first, second = pairs[..., :1, :], pairs[..., 1:, :]
    rotated = torch.cat(
        [
            torch.addcmul(first * tables.cos, second, tables.sin, value=-1),
            torch.addcmul(second * tables.cos, first, tables.sin),
        ],
        dim=-2,
    )
    return rotated.flatten(-3).to(x.dtype)


class Mlp(nn.Module):
    """Two linear layers with exact GELU between them: `in_dim` -> `hidden` -> `out_dim`."""

    def __init__(self, in_dim: int, hidden: int, out_dim: int | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_dim, hidden)
        self.fc2 = nn.Linear(hidden, in_dim if out_dim is None else out_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    """Scale every channel by a learnt factor."""

    def __init__(self, dim: int, initial: float = 0.01) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), initial))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma

    def add_to(self, base: Tensor, x: Tensor) -> Tensor:
        """Return base + gamma * x in one pass over memory."""
        return torch.addcmul(base, x, self.gamma.to(x.dtype))


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Say whether a module is just this layer, so that its weights may be read instead of called.

    What stands around a layer (adapters, parametrised weights), listens to it or holds its weight
    in another form (quantised, sharded) would be missed.
    """
    return (
        type(module) is kind
        and type(module.weight) in (nn.Parameter, Tensor)
        and not module._forward_hooks
        and not module._forward_pre_hooks
    )


def _check_heads(dim: int, heads: int) -> int:
    if dim % heads:
        raise ValueError(f"heads: expected a divisor of {dim} channels, got {heads}")
    return dim // heads


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention, (B, heads, P, head_dim) each; by the faster kernel (ours).

    PyTorch's CPU kernel goes backwards through short sequences 3.5 times slower in bfloat16 than
    in float32 (docs/performance.md); there the sums are float32's.
    """
    is_slow = v.device.type == "cpu" and v.dtype == torch.bfloat16 and v.shape[-2] < LONG_SEQUENCE
    if not (is_slow and torch.is_grad_enabled() and v.requires_grad):
        return functional.scaled_dot_product_attention(q, k, v)
    with torch.autocast("cpu", enabled=False):
        out = functional.scaled_dot_product_attention(q.float(), k.float(), v.float())
    return out.to(v.dtype)


class Attention(nn.Module):
    """Self-attention over (B, P, C); optional LayerNorm of q and k, optional rotary embedding."""

    def __init__(
        self, dim: int, heads: int, qk_norm: bool = False, norm_eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.heads = heads
        head_dim = _check_heads(dim, heads)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = nn.LayerNorm(head_dim, eps=norm_eps) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(head_dim, eps=norm_eps) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rotary: RotaryTables | None = None) -> Tensor:
        if rotary is not None and self._turns_pairs(x):
            q, k, v = self._turned_by_pairs(x, rotary.turns())
        else:
            qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            q, k, v = qkv.unbind(0)  # (B, heads, P, head_dim)
            q, k = self.q_norm(q), self.k_norm(k)
            if rotary is not None:
                q, k = rotate(q, rotary), rotate(k, rotary)
        # Under autocast the norms answer in float32; one dtype for all keeps the fast kernels.
        out = attend(q.to(v.dtype), k.to(v.dtype), v)
        return self.proj(out.transpose(1, 2).flatten(2))

    def _turns_pairs(self, x: Tensor) -> bool:
        """Say whether `_turned_by_pairs` may be taken: float32, no gradient, as it is written."""
        return (
            is_plain(self.qkv, nn.Linear)
            and is_plain(self.q_norm, nn.LayerNorm)
            and is_plain(self.k_norm, nn.LayerNorm)
            and x.dtype == self.qkv.weight.dtype == torch.float32
            and not torch.is_grad_enabled()
            and not torch.is_autocast_enabled(x.device.type)
            and not torch.compiler.is_compiling()
        )

    def _turned_by_pairs(self, x: Tensor, turns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return normalised and rotated queries and keys, and values, (B, heads, P, head_dim).

        Weights are read so that the two channels that turn together come out side by side, and
        turn as one complex number: no halves are put together, nothing is copied. Channels of
        queries and keys stand in another order than otherwise, the same for both, so that their
        products are the same.

        Args:
            x: (B, P, C).
            turns: cos + i sin of every token's angles, (P, 1, head_dim/2).
        """
        head = (2, 2, turns.shape[-1] // 2)  # axis, partner, frequency
        weight = self.qkv.weight.view(3, self.heads, *head, -1)
        bias = self.qkv.bias.view(3, self.heads, *head)
        turned, norms = [], cast("tuple[nn.LayerNorm, ...]", (self.q_norm, self.k_norm))
        for index, norm in enumerate(norms):
            rows = weight[index].transpose(2, 3).flatten(0, 3)  # (C, C)
            shift = bias[index].transpose(2, 3).flatten()
            flat = functional.linear(x, rows, shift).unflatten(-1, (self.heads, -1))
            scale, offset = (
                part.view(head).transpose(1, 2).flatten() for part in (norm.weight, norm.bias)
            )
            flat = functional.layer_norm(flat, flat.shape[-1:], scale, offset, norm.eps)
            pairs = torch.view_as_complex(flat.unflatten(-1, (-1, 2))).mul_(turns)
            turned.append(torch.view_as_real(pairs).flatten(-2).transpose(1, 2))
        v = functional.linear(x, weight[2].flatten(0, 3), bias[2].flatten())
        return turned[0], turned[1], v.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class CrossAttention(nn.Module):
    """Attention of (B, N, C) queries to a (B, M, context_dim) context; no norm of its own."""

    def __init__(self, dim: int, heads: int, context_dim: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        _check_heads(dim, heads)
        context_dim = dim if context_dim is None else context_dim
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(context_dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend to `context`.

        Args:
            x: queries, (B, N, C).
            context: (B, M, context_dim).
            mask: what `scaled_dot_product_attention` takes: bool (True attends) or an additive
                bias, broadcastable to (B, heads, N, M).
        """
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(context).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        if mask is not None and mask.dtype != torch.bool:
            mask = mask.to(q.dtype)
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(out.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """x + ls1(attention(norm1 x)), then x + ls2(mlp(norm2 x)); `eps` is the norms'."""

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_ratio: float = 4.0,
        eps: float = 1e-5,
        qk_norm: bool = False,
        layer_scale: float = 0.01,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads, qk_norm=qk_norm)
        self.ls1 = LayerScale(dim, layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.ls2 = LayerScale(dim, layer_scale)

    def forward(self, x: Tensor, rotary: RotaryTables | None = None) -> Tensor:
        x = self.ls1.add_to(x, self.attn(self.norm1(x), rotary))
        return self.ls2.add_to(x, self.mlp(self.norm2(x)))
