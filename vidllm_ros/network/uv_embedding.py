# SPDX-License-Identifier: Apache-2.0
"""Where a pixel of a dense head's map lies, as sines that are added to its channels.

Part of the "Dense Head" of the figure, as VGGT has it. Next: dense_head.py, which adds it at five
sizes.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch._guards import detect_fake_mode

UV_WEIGHT = 0.1
UV_FREQUENCY = 100.0


def uv_embedding(
    channels: int, size: tuple[int, int], aspect: float, device: torch.device
) -> Tensor:
    """Return the sine-cosine embedding of pixel centres on a diagonal of length two.

    Columns fill the first half of the channels, rows the second. Source: VGGT, model-code facts
    A.5.

    Args:
        channels: a multiple of 4.
        size: (rows, columns) of the map.
        aspect: width over height of the image, so that all levels share one coordinate.
        device: where to build it.

    Returns:
        (channels, rows, columns), float32, channel by channel for each pixel in memory: as the
        maps that it is added to.
    """
    if channels % 4:
        raise ValueError(f"channels: expected a multiple of 4 for uv embedding, got {channels}")
    rows, columns = size
    diagonal = (aspect * aspect + 1.0) ** 0.5
    # What is traced or made up, without memory behind it, must not be what later passes find.
    is_real = not torch.compiler.is_compiling() and detect_fake_mode() is None
    sines = _sines if is_real else _sines.__wrapped__
    across = sines(channels // 4, columns, aspect / diagonal, device)
    down = sines(channels // 4, rows, 1.0 / diagonal, device)
    pixels = [across.expand(rows, -1, -1), down[:, None].expand(-1, columns, -1)]
    return torch.cat(pixels, dim=-1).permute(2, 0, 1)


@lru_cache(maxsize=256)  # a few hundred bytes to kilobytes each; a window asks for 12, often
def _sines(quarter: int, count: int, span: float, device: torch.device) -> Tensor:
    """Return sines, then cosines along one axis, (count, 2 * quarter), float32."""
    exponents = torch.arange(quarter, device=device, dtype=torch.float64) / quarter
    edge = span * (count - 1) / count
    place = torch.linspace(-edge, edge, count, device=device, dtype=torch.float64)
    angles = place[:, None] * UV_FREQUENCY**-exponents
    return torch.cat([angles.sin(), angles.cos()], dim=-1).float()


def add_uv(x: Tensor, aspect: float) -> Tensor:
    """Return maps (F, C, rows, columns) with a tenth of their uv embedding added.

    Without gradient `x` itself is written to: hand over a map that nobody else reads.
    """
    table = (
        UV_WEIGHT * uv_embedding(x.shape[1], (x.shape[-2], x.shape[-1]), aspect, x.device)
    ).to(x.dtype)
    return x + table if torch.is_grad_enabled() else x.add_(table)
