# SPDX-License-Identifier: Apache-2.0
"""Dense heads of the figure: tokens of four layers become a map of numbers a pixel (DPT).

`DPTDecoder` reassembles and fuses; `DPTHead` puts depth or points and a confidence on top. The
metric decoder of metric_depth.py is the same decoder fed by the encoder. Next: metric_depth.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.frame_turns import (
    DECODER_VALUES,
    LEAST_FRAMES,
    finish_at_a_time,
    in_turns,
)
from vidllm_ros.network.layers import is_plain
from vidllm_ros.network.uv_embedding import add_uv

LAST_CHANNELS = 32


@dataclass(frozen=True)
class DecoderFeatures:
    """Maps of a decoder, F frames; for a grid of h*w patches.

    Attributes:
        bottleneck: coarsest level before fusion, (F, features, ceil(h/2), ceil(w/2)).
        fused: after each fusion, coarse to fine, (F, features, ., .) at 1, 2, 4 and 8 times the
            grid.
        final: (F, features // 2, 8*h, 8*w); `finish` brings it to image size.
    """

    bottleneck: Tensor
    fused: list[Tensor]
    final: Tensor


@dataclass(frozen=True)
class DenseOutput:
    """Per-pixel answer of a dense head.

    Attributes:
        values: depth (B, S, H, W) or points (B, S, H, W, 3), in units of the relative
            reconstruction.
        confidence: (B, S, H, W), >= 1.
    """

    values: Tensor
    confidence: Tensor


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps bilinearly so that corner pixels keep their place."""
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=True)


class ResidualUnit(nn.Module):
    """x + conv(relu(conv(relu x))); with `rectified`, relu(x) is what is added.

    VGGT's shared in-place ReLU overwrites x before the sum, and its weights were trained so.
    """

    def __init__(self, features: int, rectified: bool) -> None:
        super().__init__()
        self.rectified = rectified
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        active = functional.relu(x)
        out = self.conv2(functional.relu_(self.conv1(active)))
        return out.add_(active if self.rectified else x)  # convolutions do not need their outputs


class Fusion(nn.Module):
    """Add a finer level to what came from below, refine, and bring it to the next size.

    The 1x1 convolution runs before the bilinear resize: the resize's weights sum to one, so the
    two commute, and it touches a quarter of the pixels. A test holds it against the other order.
    """

    def __init__(self, features: int, rectified: bool, has_skip: bool) -> None:
        super().__init__()
        self.skip_unit = ResidualUnit(features, rectified) if has_skip else None
        self.out_unit = ResidualUnit(features, rectified)
        self.out_conv = nn.Conv2d(features, features, 1)

    def forward(self, x: Tensor, skip: Tensor | None, size: tuple[int, int]) -> Tensor:
        return resize(self.out_conv(self.mix(x, skip)), size)

    def mix(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """Everything before the resize and the 1x1 convolution."""
        if self.skip_unit is not None and skip is not None:
            x = self.skip_unit(skip).add_(x)
        return self.out_unit(x)


class DPTDecoder(nn.Module):
    """Reassemble tokens of four layers at 4, 2, 1 and 1/2 times the grid and fuse them upward.

    Source: DPT as VGGT has it (model-code facts A.5) with every flag on; with the flags off it is
    Depth-Anything's, which the metric branch uses (facts D.3).
    """

    def __init__(
        self,
        in_dim: int,
        features: int,
        channels: list[int],
        uv_embedding: bool = True,
        token_norm: bool = True,
        inplace_relu_residual: bool = True,
    ) -> None:
        super().__init__()
        if len(channels) != 4:
            raise ValueError(f"channels: expected four, one a level, got {channels}")
        a, b, c, d = channels
        self.uv_embedding = uv_embedding
        self.norm = nn.LayerNorm(in_dim) if token_norm else nn.Identity()
        self.projects = nn.ModuleList(nn.Conv2d(in_dim, width, 1) for width in channels)
        self.resizes = nn.ModuleList(
            [
                nn.ConvTranspose2d(a, a, 4, stride=4),
                nn.ConvTranspose2d(b, b, 2, stride=2),
                nn.Identity(),
                nn.Conv2d(d, d, 3, stride=2, padding=1),
            ]
        )
        self.reduces = nn.ModuleList(
            nn.Conv2d(width, features, 3, padding=1, bias=False) for width in (a, b, c, d)
        )
        self.fusions = nn.ModuleList(
            Fusion(features, inplace_relu_residual, has_skip=level < 3) for level in range(4)
        )
        self.output_conv = nn.Conv2d(features, features // 2, 3, padding=1)
        self.finish = Finish(uv_embedding)

    def frames_at_a_time(self, frames: int, patches: int) -> int:
        """Say how many of `frames` to decode at a time: at least eight, more where maps are small.

        Their largest map has 64 values a patch and channel.
        """
        values = 64 * patches * self.output_conv.in_channels
        return in_turns(frames, values, DECODER_VALUES, LEAST_FRAMES)

    def forward(
        self, levels: list[Tensor], grid: tuple[int, int], image_size: tuple[int, int]
    ) -> DecoderFeatures:
        """Decode patch tokens, up to eight times the grid.

        Args:
            levels: patch tokens of four layers, shallow to deep, each (F, h*w, in_dim).
            grid: (h, w), patches.
            image_size: (H, W), px, whose aspect counts.
        """
        aspect = image_size[1] / image_size[0]
        maps = []
        for level, project, rescale, reduce in zip(
            levels, self.projects, self.resizes, self.reduces, strict=True
        ):
            x = _project(project, self.norm(level)).unflatten(2, grid)  # (F, channels, h, w)
            x = add_uv(x, aspect) if self.uv_embedding else x
            x = enlarge(rescale, x) if isinstance(rescale, nn.ConvTranspose2d) else rescale(x)
            maps.append(reduce(x))
        sizes = [_size(level) for level in maps]
        finest = (2 * sizes[0][0], 2 * sizes[0][1])
        x = maps[3]
        fused = []
        for index, size in ((3, sizes[2]), (2, sizes[1]), (1, sizes[0]), (0, finest)):
            x = self.fusions[index](x, maps[index] if index < 3 else None, size)
            fused.append(x)
        return DecoderFeatures(maps[3], fused, self.output_conv(x))


class Finish(nn.Module):
    """Bring a decoder's final map to image size; apart from it, to go through in smaller turns."""

    def __init__(self, uv_embedding: bool) -> None:
        super().__init__()
        self.uv_embedding = uv_embedding

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        x = resize(x, size)
        return add_uv(x, size[1] / size[0]) if self.uv_embedding else x


def _project(conv: Any, tokens: Tensor) -> Tensor:
    """Run a 1x1 convolution as a product over tokens (F, N, in_dim) -> (F, channels, N).

    No map of in_dim channels is laid out, which costs more than the product. What stands in the
    place of such a convolution is called.
    """
    if not is_plain(conv, nn.Conv2d):
        return conv(tokens.transpose(1, 2)[..., None]).squeeze(-1)  # type: ignore[no-any-return]
    return functional.linear(tokens, conv.weight.flatten(1), conv.bias).transpose(1, 2)


def enlarge(conv: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """Run a transposed convolution whose windows do not overlap as a product over pixels.

    Args:
        conv: with a stride as long as its kernel; called where something listens to it.
        x: (F, in, h, w).

    Returns:
        (F, out, k*h, k*w), channel by channel for each pixel in memory.
    """
    if not is_plain(conv, nn.ConvTranspose2d):
        return conv(x).contiguous(memory_format=torch.channels_last)  # type: ignore[no-any-return]
    rows, columns = conv.kernel_size
    weight = conv.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (k*k*out, in)
    bias = None if conv.bias is None else conv.bias.repeat(rows * columns)
    values = functional.linear(x.permute(0, 2, 3, 1), weight, bias)
    windows = values.unflatten(-1, (rows, columns, -1)).transpose(2, 3)  # (F, h, k, w, k, out)
    return windows.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def _size(x: Tensor) -> tuple[int, int]:
    return x.shape[-2], x.shape[-1]


def inverse_log(x: Tensor) -> Tensor:
    """sign(x) * (exp|x| - 1): near ones stay linear, far ones reach far."""
    return torch.sign(x) * torch.expm1(x.abs())


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"exp": torch.exp, "inv_log": inverse_log}


class DPTHead(nn.Module):
    """Depth (`output_dim` 2, "exp") or points (4, "inv_log") with a confidence 1 + exp(.).

    Source: Vid-LLM Fig. 2 "Dense Head"; VGGT, model-code facts A.5.
    """

    def __init__(
        self,
        config: VidLLMConfig,
        in_dim: int,
        output_dim: int,
        features: int,
        channels: list[int],
        activation: str = "exp",
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation: expected one of {list(ACTIVATIONS)}, got {activation!r}"
            )
        if output_dim < 2:
            raise ValueError(f"output_dim: expected values and a confidence, got {output_dim}")
        self.activation = ACTIVATIONS[activation]
        self.patch_size = config.patch_size
        self.decoder = DPTDecoder(in_dim, features, channels)
        self.predictor = nn.Sequential(
            nn.Conv2d(features // 2, LAST_CHANNELS, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(LAST_CHANNELS, output_dim, 1),
        )

    def forward(
        self,
        levels: list[Tensor],
        grid: tuple[int, int],
        image_size: tuple[int, int],
        frames_chunk: int | None = None,
    ) -> DenseOutput:
        """Predict maps.

        Args:
            levels: patch tokens of four aggregator outputs, each (B, S, N, in_dim).
            grid: (h, w), patches.
            image_size: (H, W), px; patch size times grid.
            frames_chunk: frames decoded at a time, which bounds memory and changes nothing else;
                where None, `DPTDecoder.frames_at_a_time`.

        Raises:
            ValueError: grid, token count and image size do not belong together.
        """
        batch, frames, patches = levels[0].shape[:3]
        expected = (grid[0] * self.patch_size, grid[1] * self.patch_size)
        if patches != grid[0] * grid[1] or tuple(image_size) != expected:
            raise ValueError(
                f"grid: expected h*w = {patches} and image_size {expected} px, "
                f"got {grid} and {tuple(image_size)}"
            )
        flat = [level.flatten(0, 1) for level in levels]
        step = frames_chunk or self.decoder.frames_at_a_time(batch * frames, patches)
        chunks = [
            self._predict([level[start : start + step] for level in flat], grid, image_size)
            for start in range(0, batch * frames, step)
        ]
        maps = torch.cat(chunks).unflatten(0, (batch, frames))  # (B, S, H, W, output_dim)
        values, confidence = self.activation(maps[..., :-1]), 1 + torch.exp(maps[..., -1])
        return DenseOutput(values.squeeze(-1), confidence)

    def _predict(
        self, levels: list[Tensor], grid: tuple[int, int], image_size: tuple[int, int]
    ) -> Tensor:
        """Return raw maps, (F, H, W, output_dim), float32: their exponential needs the range."""
        final = self.decoder(levels, grid, image_size).final
        wide, _, narrow = self.predictor
        maps = []
        for part in final.split(finish_at_a_time(final, image_size, LAST_CHANNELS)):
            # The largest map of the head: rectified in place, it is written once and not twice.
            hidden = functional.relu_(wide(self.decoder.finish(part, image_size)))
            maps.append(narrow(hidden).float().permute(0, 2, 3, 1))
        return torch.cat(maps)


def build_depth_head(config: VidLLMConfig) -> DPTHead:
    """Return the head of relative depth."""
    return DPTHead(
        config, 2 * config.width, 2, config.dense_features, config.dense_channels, "exp"
    )


def build_point_head(config: VidLLMConfig) -> DPTHead:
    """Return the head of the point map in the first camera's frame."""
    return DPTHead(
        config, 2 * config.width, 4, config.dense_features, config.dense_channels, "inv_log"
    )
