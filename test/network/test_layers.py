# SPDX-License-Identifier: Apache-2.0
"""Attention, rotary embedding and blocks against plain twins and known identities."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vidllm_ros.network.layers import (
    LONG_SEQUENCE,
    Attention,
    Block,
    CrossAttention,
    LayerScale,
    Mlp,
    RotaryEmbedding2D,
    RotaryTables,
    attend,
    rotate,
)

CPU = torch.device("cpu")


def plain_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + bias
    return scores.softmax(-1) @ v


def plain_rotary(x: Tensor, row: float, column: float, frequency: float) -> Tensor:
    """One token's head, (head_dim,), rotated pair by pair in float64."""
    out = x.double().clone()
    half = len(x) // 2
    for start, position in ((0, row), (half, column)):
        for i in range(half // 2):
            angle = position * frequency ** (-2 * i / half)
            a, b = x[start + i].double(), x[start + i + half // 2].double()
            out[start + i] = a * math.cos(angle) - b * math.sin(angle)
            out[start + i + half // 2] = b * math.cos(angle) + a * math.sin(angle)
    return out


def test_rotary_leaves_special_tokens_unrotated() -> None:
    tables = RotaryEmbedding2D(16).tables((3, 4), special_tokens=5, device=CPU)
    x = torch.randn(2, 3, 17, 16)
    rotated = rotate(x, tables)
    assert torch.equal(rotated[..., :5, :], x[..., :5, :])
    assert (rotated[..., 5:, :] - x[..., 5:, :]).abs().amax(-1).min() > 1e-3


def test_rotary_matches_pairwise_rotation() -> None:
    height, width = 3, 5
    tables = RotaryEmbedding2D(24, 100.0).tables((height, width), 2, CPU)
    x = torch.randn(2 + height * width, 24)
    rotated = rotate(x, tables)
    for row in range(height):
        for column in range(width):
            token = 2 + row * width + column
            expected = plain_rotary(x[token], row + 1, column + 1, 100.0)
            torch.testing.assert_close(rotated[token].double(), expected, atol=1e-5, rtol=0)


def test_rotary_product_depends_on_offset_only() -> None:
    tables = RotaryEmbedding2D(32).tables((6, 6), 0, CPU)
    q, k = torch.randn(32), torch.randn(32)
    rotated_q = rotate(q.expand(36, 32), tables).unflatten(0, (6, 6))
    rotated_k = rotate(k.expand(36, 32), tables).unflatten(0, (6, 6))
    first = rotated_q[1, 1] @ rotated_k[3, 2]
    moved = rotated_q[2, 3] @ rotated_k[4, 4]
    other = rotated_q[1, 1] @ rotated_k[2, 3]
    assert first == pytest.approx(moved.item(), abs=1e-4)
    assert abs(first - other) > 1e-3


def test_rotary_keeps_length_and_dtype() -> None:
    tables = RotaryEmbedding2D(16).tables((4, 4), 1, CPU)
    x = torch.randn(17, 16)
    torch.testing.assert_close(rotate(x, tables).norm(dim=-1), x.norm(dim=-1))
    assert rotate(x.bfloat16(), tables).dtype == torch.bfloat16


def test_rotary_repeat_gives_every_frame_the_same_angles() -> None:
    tables = RotaryEmbedding2D(8).tables((2, 2), 1, CPU)
    x = torch.randn(5, 8)
    repeated = rotate(x.repeat(3, 1), tables.repeat(3)).unflatten(0, (3, 5))
    for frame in range(3):
        assert torch.equal(repeated[frame], rotate(x, tables))


def test_rotary_rejects_a_head_it_cannot_split() -> None:
    with pytest.raises(ValueError, match="head_dim: expected a multiple of 4, got 6"):
        RotaryEmbedding2D(6)


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("rotary", [False, True])
def test_attention_matches_plain_softmax(qk_norm: bool, rotary: bool) -> None:
    attention = Attention(24, heads=3, qk_norm=qk_norm)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tables: RotaryTables | None = RotaryEmbedding2D(8).tables((2, 3), 1, CPU) if rotary else None
    x = torch.randn(2, 7, 24)
    q, k, v = attention.qkv(x).chunk(3, dim=-1)
    heads = []
    for head in range(3):
        part = slice(8 * head, 8 * head + 8)
        qh, kh = attention.q_norm(q[..., part]), attention.k_norm(k[..., part])
        if tables is not None:
            qh, kh = rotate(qh, tables), rotate(kh, tables)
        heads.append(plain_attention(qh, kh, v[..., part]))
    expected = attention.proj(torch.cat(heads, dim=-1))
    torch.testing.assert_close(attention(x, tables), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["none", "bool", "bias"])
def test_cross_attention_matches_plain_softmax(kind: str) -> None:
    attention = CrossAttention(16, heads=2, context_dim=12)
    x, context = torch.randn(2, 5, 16), torch.randn(2, 6, 12)
    mask: Tensor | None = None
    bias: Tensor = torch.zeros(2, 1, 5, 6)
    if kind == "bool":
        mask = torch.rand(2, 1, 5, 6) > 0.4
        mask[..., 0] = True
        bias = torch.zeros_like(bias).masked_fill(~mask, -torch.inf)
    elif kind == "bias":
        mask = bias = torch.randn(2, 1, 5, 6)
    k, v = attention.kv(context).chunk(2, dim=-1)
    q = attention.q(x)
    heads = [
        plain_attention(q[..., p], k[..., p], v[..., p], bias[:, 0])
        for p in (slice(0, 8), slice(8, 16))
    ]
    expected = attention.proj(torch.cat(heads, dim=-1))
    torch.testing.assert_close(attention(x, context, mask), expected, atol=1e-5, rtol=1e-4)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="heads: expected a divisor of 10 channels, got 3"):
        Attention(10, heads=3)


def test_block_is_two_scaled_residual_halves() -> None:
    block = Block(16, heads=2, mlp_ratio=2, layer_scale=0.3)
    x = torch.randn(1, 4, 16)
    middle = x + 0.3 * block.attn(block.norm1(x))
    expected = middle + 0.3 * block.mlp(block.norm2(middle))
    torch.testing.assert_close(block(x), expected)
    assert block.mlp.fc1.out_features == 32
    assert block.norm1.eps == 1e-5


def test_layer_scale_and_mlp_shapes() -> None:
    assert torch.equal(LayerScale(3, 0.5)(torch.ones(2, 3)), torch.full((2, 3), 0.5))
    assert Mlp(8, 16, 3)(torch.randn(2, 8)).shape == (2, 3)
    x = torch.randn(4, 8)
    mlp = Mlp(8, 16)
    exact_gelu = torch.nn.GELU(approximate="none")
    torch.testing.assert_close(mlp(x), mlp.fc2(exact_gelu(mlp.fc1(x))))


def test_block_trains_under_bfloat16_autocast() -> None:
    block = Block(16, heads=2, qk_norm=True)
    tables = RotaryEmbedding2D(8).tables((2, 2), 1, CPU)
    x = torch.randn(2, 5, 16)
    with torch.autocast("cpu", torch.bfloat16):
        out = block(x, tables)
    assert torch.isfinite(out).all()
    torch.testing.assert_close(out.float(), block(x, tables), atol=0.02, rtol=0.02)
    out.float().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in block.parameters())


def count_float32_kernels(monkeypatch) -> list[torch.dtype]:
    seen: list[torch.dtype] = []
    kernel = torch.nn.functional.scaled_dot_product_attention

    def watched(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen.append(v.dtype)
        assert torch.is_autocast_enabled("cpu") == (v.dtype == torch.bfloat16)
        return kernel(q, k, v)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    return seen


def test_short_bfloat16_sequences_learn_through_float32_on_a_cpu(monkeypatch) -> None:
    q, k, v = (torch.randn(2, 3, 7, 16, dtype=torch.bfloat16).requires_grad_() for _ in range(3))
    seen = count_float32_kernels(monkeypatch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = attend(q, k, v)
    assert seen == [torch.float32]
    expected = plain_attention(q.float(), k.float(), v.float()).bfloat16()
    torch.testing.assert_close(out, expected, atol=1e-2, rtol=1e-2)
    grad = torch.randn_like(out)
    for ours, theirs in zip(
        torch.autograd.grad(out, (q, k, v), grad),
        torch.autograd.grad(expected, (q, k, v), grad),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-2, rtol=2e-2)


@pytest.mark.parametrize(("length", "learns"), [(LONG_SEQUENCE, True), (7, False)])
def test_long_sequences_and_inference_stay_in_bfloat16(monkeypatch, length, learns) -> None:
    v = torch.randn(1, 1, length, 8, dtype=torch.bfloat16, requires_grad=learns)
    seen = count_float32_kernels(monkeypatch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        attend(v, v, v)
    assert seen == [torch.bfloat16]


def test_bfloat16_weights_learn_without_autocast() -> None:
    attention = Attention(32, 2).bfloat16()
    attention(torch.randn(1, 7, 32, dtype=torch.bfloat16)).sum().backward()
    assert attention.qkv.weight.grad is not None
    assert attention.qkv.weight.grad.isfinite().all()
