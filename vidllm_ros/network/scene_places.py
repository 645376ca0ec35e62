# SPDX-License-Identifier: Apache-2.0
"""How each 3D patch was seen, and where it is, in waves that attention can compare.

3D patches carry their place already (patches3d.py), as a smooth sum beside meaning: a metre moves
a token by a fifth of what meaning moves it, and in the room's axes nothing says from where a thing
was seen. Here seven numbers ride behind a patch's channels through the pooling: the direction it
was seen along, whether the first frame shows it, and where it lies from the first camera. The box
decoder reads them as they are: a thing's middle lies behind what is seen of it. The language model
is told them and the token's place in waves, behind the projector.
Source: Fourier features as NeRF's positional encoding; the use is ours. Next: language.py.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

SIGHT = 7  # direction 3, first frame 1, place from the first camera 3
WAVES_M = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
TURNS = (1.0, 2.0, 4.0, 8.0)  # waves a full circle
TOLD = 2 * (4 * len(WAVES_M) + 2 * len(TURNS)) + 4
NEAREST_M = 1e-3


def sight_of(points: Tensor, T_scene_camera: Tensor) -> Tensor:
    """Say how patches were seen, (B, S, N, SIGHT).

    Unit direction from the patch's camera in the scene's frame; 1 where the first frame shows it;
    place in the first camera's optical frame, m. All of them may be averaged.

    Args:
        points: of patches, (B, S, N, 3), m, in the scene's frame.
        T_scene_camera: (B, S, 4, 4), m.
    """
    along = points - T_scene_camera[:, :, None, :3, 3]
    along = along / along.norm(dim=-1, keepdim=True).clamp_min(NEAREST_M)
    is_first = torch.zeros_like(points[..., :1])
    is_first[:, 0] = 1.0
    first = T_scene_camera[:, :1, None]  # (B, 1, 1, 4, 4)
    offset = points - first[..., :3, 3]
    from_first = (offset.unsqueeze(-1) * first[..., :3, :3]).sum(-2)  # R^T (p - t)
    return torch.cat([along, is_first, from_first], dim=-1)


def with_sight(tokens: Tensor, sight: Tensor) -> Tensor:
    """Put sight, (..., SIGHT), behind tokens, (..., C); float32: bfloat16 rounds 8 m to 3 cm."""
    return torch.cat([tokens.float(), sight.float()], dim=-1)


def split_sight(
    tokens: Tensor, has_sight: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """Part tokens from how they were seen.

    Args:
        tokens: (..., C + SIGHT); (..., C) without sight.
        has_sight: whether they carry it.
        dtype: of the weights that read the tokens, which keep theirs without sight.

    Returns:
        tokens, (..., C), and sight, (..., SIGHT), float32 and detached, or None.
    """
    if not has_sight:
        return tokens, None
    return tokens[..., :-SIGHT].to(dtype), tokens[..., -SIGHT:].detach().float()


def channels(width: int, has_sight: bool) -> int:
    """Channels of a scene token of a network of so many."""
    return width + SIGHT if has_sight else width


def bearings(places: Tensor) -> Tensor:
    """Azimuth (right positive) and elevation (up positive), rad, and distance, m, (..., 3).

    Args:
        places: in an optical frame, x right, y down, z ahead, (..., 3), m.
    """
    x, y, z = places.unbind(-1)
    level = torch.hypot(x, z)
    return torch.stack([torch.atan2(x, z), torch.atan2(-y, level), torch.hypot(level, y)], dim=-1)


def in_waves(positions: Tensor, sight: Tensor) -> Tensor:
    """Return what the language model is told, (..., TOLD).

    Args:
        positions: (..., 3), m, in the scene's frame.
        sight: (..., SIGHT).
    """
    seen = bearings(sight[..., 4:])
    lengths = torch.cat([positions, seen[..., 2:]], dim=-1)  # (..., 4), m
    steps = 2 * math.pi / torch.tensor(WAVES_M, device=positions.device)
    turns = torch.tensor(TURNS, device=positions.device)
    phases = torch.cat(
        [(lengths[..., None] * steps).flatten(-2), (seen[..., :2, None] * turns).flatten(-2)],
        dim=-1,
    )
    return torch.cat([phases.sin(), phases.cos(), sight[..., :4]], dim=-1)


class ScenePlaces(nn.Module):
    """Embed tokens' places for the language model: waves - Linear - GELU - Linear.

    The last layer begins at zero: a network that never had places says what it said.

    Args:
        dim: width of the language model.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.first = nn.Linear(TOLD, dim)
        self.second = nn.Linear(dim, dim)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, positions: Tensor, sight: Tensor) -> Tensor:
        """Return what is added to projected tokens, (B, M, dim); arguments as `in_waves`."""
        told = in_waves(positions.float(), sight.float())
        placed: Tensor = self.second(functional.gelu(self.first(told.to(self.first.weight.dtype))))
        return placed
