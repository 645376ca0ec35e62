# SPDX-License-Identifier: Apache-2.0
"""A transformer block's sums in fewer passes over memory, for float32 inference.

On a CPU half of a small block's time is spent between its products: biases copied, channels
scaled, halves of a head put side by side. Here the same terms are added in another order, from
the stored weights at every call, so nothing is remembered and no key changes. Training, half
precision and compiled blocks take the plain way in layers.py, which a test compares. Next:
layers.py.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

HIDDEN_VALUES = 1 << 18  # of an MLP at a time on a CPU: 1 MB stays in the second-level cache


def can_take(x: Tensor, weight: Tensor) -> bool:
    """Say whether these ways are open: float32 without gradient, autocast or compiler."""
    is_plain = (
        torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or torch.is_autocast_enabled(x.device.type)
    )
    return not is_plain and x.dtype == weight.dtype == torch.float32


def add_linear(base: Tensor, x: Tensor, linear: nn.Linear, gamma: Tensor) -> Tensor:
    """Return base + gamma * linear(x), (..., P, D): the product adds up onto the base."""
    return _add_product(base, x, _unchanged, linear, gamma, len(x.flatten(0, -2)))


def add_mlp(
    base: Tensor,
    x: Tensor,
    up: nn.Linear,
    activation: Callable[[Tensor], Tensor],
    down: nn.Linear,
    gamma: Tensor,
) -> Tensor:
    """Return base + gamma * down(activation(up(x))), (..., P, D), on a CPU some tokens at a time.

    Hidden values are then read from the cache they were written to.
    """
    rows = len(x.flatten(0, -2))
    step = max(1, HIDDEN_VALUES // up.out_features) if x.device.type == "cpu" else rows
    return _add_product(base, x, lambda part: activation(up(part)), down, gamma, step)


def _unchanged(x: Tensor) -> Tensor:
    return x


def _add_product(
    base: Tensor,
    x: Tensor,
    hidden: Callable[[Tensor], Tensor],
    linear: nn.Linear,
    gamma: Tensor,
    step: int,
) -> Tensor:
    """Return base + gamma * linear(hidden(x)), `step` tokens at a time."""
    shifted = base.clone() if linear.bias is None else torch.addcmul(base, gamma, linear.bias)
    sums = shifted.flatten(0, -2)
    weight = (linear.weight * gamma[:, None]).t()
    for place, part in zip(
        sums.split(max(1, step)), x.flatten(0, -2).split(max(1, step)), strict=True
    ):
        torch.addmm(place, hidden(part), weight, out=place)
    return sums.view(base.shape)


def turned_queries_and_keys(
    x: Tensor, qkv: nn.Linear, norms: tuple[nn.LayerNorm, nn.LayerNorm], heads: int, turns: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return normalised and rotated queries and keys, and values, (B, heads, P, head_dim) each.

    The two channels that turn together lie side by side and turn as one complex number. Channels
    of queries and keys then stand in another order than in layers.py, the same for both, so that
    their products, which is all that attention reads, are the same.

    Args:
        x: (B, P, C).
        qkv: to queries, keys and values, rows as in `Attention`.
        norms: of queries and of keys.
        heads: of the attention.
        turns: cos + i sin of every token's angles, (P, 1, head_dim/2).
    """
    width = qkv.out_features // 3
    pairs = (heads, 2, 2, turns.shape[-1] // 2)  # axis, partner, frequency
    weight = qkv.weight.view(3, *pairs, -1)[:2].transpose(3, 4).reshape(2, width, -1)
    bias = qkv.bias.view(3, *pairs)[:2].transpose(3, 4).reshape(2, width)
    turned = []
    for rows, shift, norm in zip(weight, bias, norms, strict=True):
        flat = functional.linear(x, rows, shift).unflatten(-1, (heads, -1))  # (B, P, heads, d)
        scale, offset = (
            part.view(pairs[1:]).transpose(1, 2).flatten() for part in (norm.weight, norm.bias)
        )
        flat = functional.layer_norm(flat, flat.shape[-1:], scale, offset, norm.eps)
        numbers = torch.view_as_complex(flat.unflatten(-1, (-1, 2))).mul_(turns)
        turned.append(torch.view_as_real(numbers).flatten(-2).transpose(1, 2))
    values = functional.linear(x, qkv.weight[2 * width :], qkv.bias[2 * width :])
    return turned[0], turned[1], values.unflatten(-1, (heads, -1)).transpose(1, 2)
