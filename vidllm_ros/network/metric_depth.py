# SPDX-License-Identifier: Apache-2.0
"""Metric depth: metres from the encoder alone, by bins whose centres every pixel may move.

"DPT decoder" and "Metric Bins Module" of the figure. Shares nothing with the aggregator's depth
head, so that the two can disagree and scale_alignment.py can fit one to the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.dense_head import DPTDecoder, resize
from vidllm_ros.network.frame_turns import finish_at_a_time
from vidllm_ros.network.full_float32 import full_float32
from vidllm_ros.network.layers import is_plain

PIXEL_CHANNELS = 32
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.0212, 50.0
ATTRACTORS = (16, 8, 4, 1)
ATTRACTOR_ALPHA, ATTRACTOR_GAMMA = 300.0, 2
# Where training starts: success 0.68 is 2.3 m of 0.1-10 m, temperature 1.3 a spread of a few bins.
INITIAL_LOGITS = (1.0, 0.1, -4.0, 0.0)


@dataclass(frozen=True)
class MetricDepthOutput:
    """Depth and how it came about; F = B*S frames, (h', w') the size the bins were read at.

    Attributes:
        depth: (B, S, H, W), m, float32, inside [min_depth_m, max_depth_m]; of the canonical camera
            where the configuration has one (metric_geometry.py brings it to the window's).
        probabilities: of the bins, (F, A, h', w'); None where they were not kept.
        centers: of the bins at every pixel, (F, A, h', w'), m; likewise.
    """

    depth: Tensor
    probabilities: Tensor | None
    centers: Tensor | None


def log_binomial(success: Tensor, temperature: Tensor, bins: int) -> Tensor:
    """Return ordinal probabilities over bins: binomial in log space, softened by a temperature.

    Neighbouring bins get neighbouring mass, which a softmax over free logits does not promise. The
    binomial coefficient is Stirling's without its square root, so the ends stay finite.
    Source: ZoeDepth, model facts D.2; Vid-LLM Sec. 3.2 "ordinal-aware".

    Args:
        success: p, (F, 1, h, w), in (0, 1).
        temperature: t, (F, 1, h, w), > 0.
        bins: A.

    Returns:
        (F, A, h, w), sums to 1 over A.
    """
    index, log_choose = _binomial_table(bins, success.device).unbind()
    index, log_choose = index.view(1, -1, 1, 1), log_choose.view(1, -1, 1, 1)
    hit, miss = _log_odds(success)
    logits = log_choose + index * hit + (bins - 1 - index) * miss
    return torch.softmax(logits / temperature, dim=1)


def _binomial_table(bins: int, device: torch.device) -> Tensor:
    """Return the bins' numbers and the logs of their binomial coefficients, (2, A)."""
    eps = 1e-7
    index = torch.arange(bins, device=device, dtype=torch.float32)
    k, n = index + eps, bins - 1 + eps
    return torch.stack([index, n * math.log(n) - k * k.log() - (n - k) * (n - k + eps).log()])


def _log_odds(success: Tensor) -> tuple[Tensor, Tensor]:
    return success.clamp(1e-4, 1.0).log(), (1 - success).clamp(1e-4, 1.0).log()


def _in_float32(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Run a 1x1 convolution in float32: half precision steps depth by half a percent.

    What stands in the place of such a convolution is called, in the precision of the run.
    """
    if not is_plain(conv, nn.Conv2d):
        return conv(x).float()  # type: ignore[no-any-return]
    with full_float32(x.device):
        bias = None if conv.bias is None else conv.bias.float()
        return functional.conv2d(x.float(), conv.weight.float(), bias)


class AttractorCenters(nn.Module):
    """ZoeDepth's refinement: at every scale the centres are pulled to a few predicted depths."""

    def __init__(self, features: int, embedding: int) -> None:
        super().__init__()
        self.seed = nn.Conv2d(features, embedding, 1)
        self.embeds = nn.ModuleList(nn.Conv2d(features, embedding, 1) for _ in ATTRACTORS)
        self.attracts = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(embedding, embedding, 1), nn.ReLU(), nn.Conv2d(embedding, count, 1)
            )
            for count in ATTRACTORS
        )

    def forward(self, base: Tensor, bottleneck: Tensor, fused: list[Tensor]) -> Tensor:
        """Pull `base` (1, A, 1, 1), m, through all scales; (F, A, h', w') at the finest."""
        embedding = self.seed(bottleneck)
        centers = base.expand(len(bottleneck), -1, *bottleneck.shape[-2:])
        for feature, embed, attract in zip(fused, self.embeds, self.attracts, strict=True):
            size = (feature.shape[-2], feature.shape[-1])
            embedding = embed(feature) + resize(embedding, size)
            centers = resize(centers, size)
            targets = functional.softplus(attract(embedding).float())  # (F, a, h', w')
            pull = torch.zeros_like(centers)
            for target in targets.split(1, dim=1):
                distance = target - centers
                pull = pull + distance / (1 + ATTRACTOR_ALPHA * distance**ATTRACTOR_GAMMA)
            centers = centers + pull / targets.shape[1]
        return centers


class MetricDepth(nn.Module):
    """Expected depth over adaptive bins: d = sum_k p(k) c(k), c_i(k) = c_k + r_k(F_i).

    c_k are learnt and start log-spaced; r_k is a 1x1 convolution that starts at zero; centres are
    clamped to the range, so that depth is positive. Source: Vid-LLM Sec. 3.2; model facts D.4.
    """

    def __init__(self, config: VidLLMConfig) -> None:
        super().__init__()
        features, bins = config.metric_features, config.metric_bins
        self.bins = bins
        self.range_m = (config.min_depth_m, config.max_depth_m)
        self.full_size = config.metric_full_size
        self.decoder = DPTDecoder(
            config.width,
            features,
            config.metric_channels,
            uv_embedding=False,
            token_norm=False,
            inplace_relu_residual=False,
        )
        self.pixel = nn.Conv2d(features // 2, PIXEL_CHANNELS, 3, padding=1)
        self.hidden = nn.Conv2d(PIXEL_CHANNELS, config.metric_embedding, 1)
        self.binomial = nn.Conv2d(config.metric_embedding, 4, 1)
        nn.init.trunc_normal_(self.binomial.weight, std=0.02)
        low, high = (math.log(value) for value in self.range_m)
        self.log_centers = nn.Parameter(torch.linspace(low, high, bins))
        self.residual: nn.Conv2d | None = None
        self.attractors: AttractorCenters | None = None
        if config.metric_centers == "residual":
            self.residual = nn.Conv2d(PIXEL_CHANNELS, bins, 1)
            nn.init.zeros_(self.residual.weight)
            nn.init.zeros_(self.residual.bias)  # type: ignore[arg-type]
        else:
            self.attractors = AttractorCenters(features, config.metric_embedding)
        with torch.no_grad():
            self.binomial.bias.copy_(torch.tensor(INITIAL_LOGITS))  # type: ignore[union-attr]

    def forward(
        self,
        levels: list[Tensor],
        grid: tuple[int, int],
        image_size: tuple[int, int],
        frames_chunk: int | None = None,
        keep_bins: bool = True,
    ) -> MetricDepthOutput:
        """Predict depth of every frame.

        Args:
            levels: the encoder's four levels, each (B, S, N, C); S may be 0.
            grid: (h, w), patches.
            image_size: (H, W), px.
            frames_chunk: frames decoded at a time: bounds memory, changes nothing else; where
                None, `DPTDecoder.frames_at_a_time`.
            keep_bins: hand out probabilities and centres too; without, the same depth for less
                (residual centres only: attractors need them).
        """
        batch, frames, patches = levels[0].shape[:3]
        if not frames:
            return MetricDepthOutput(
                levels[0].new_empty(batch, 0, *image_size).float(), None, None
            )
        flat = [level.flatten(0, 1) for level in levels]
        step = frames_chunk or self.decoder.frames_at_a_time(batch * frames, patches)
        if not keep_bins and self.residual is not None:
            chunks = [
                self._depth_alone([level[i : i + step] for level in flat], grid, image_size)
                for i in range(0, batch * frames, step)
            ]
            depth = torch.cat(chunks).reshape(batch, frames, *image_size)
            return MetricDepthOutput(depth, None, None)
        parts = [
            self._predict([level[start : start + step] for level in flat], grid, image_size)
            for start in range(0, batch * frames, step)
        ]
        depth, probabilities, centers = (torch.cat(part) for part in zip(*parts, strict=True))
        return MetricDepthOutput(depth.reshape(batch, frames, *image_size), probabilities, centers)

    def _predict(
        self, levels: list[Tensor], grid: tuple[int, int], image_size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return depth (F, 1, H, W), probabilities and centers (F, A, h', w')."""
        size = self._size(grid, image_size)
        decoded = self.decoder(levels, grid, size)
        pixel = functional.relu(self.pixel(self.decoder.finish(decoded.final, size)))  # F_i
        success, temperature = self._binomial_of(pixel)
        probabilities = log_binomial(success, temperature, self.bins)
        base = self.log_centers.float().exp().view(1, -1, 1, 1)
        if self.residual is not None:
            centers = base + _in_float32(self.residual, pixel)
        else:
            assert self.attractors is not None
            centers = self.attractors(base, decoded.bottleneck, decoded.fused)
            centers = resize(centers, (pixel.shape[-2], pixel.shape[-1]))
        centers = centers.clamp(*self.range_m)
        depth = (probabilities * centers).sum(1, keepdim=True)
        depth = depth.clamp(*self.range_m)  # rounding of the sum may leave the range by one bit
        return resize(depth, image_size), probabilities, centers

    def _size(self, grid: tuple[int, int], image_size: tuple[int, int]) -> tuple[int, int]:
        return image_size if self.full_size else (8 * grid[0], 8 * grid[1])

    def _binomial_of(self, pixel: Tensor) -> tuple[Tensor, Tensor]:
        """Return success and temperature of every pixel, (F, 1, h', w') each, float32."""
        raw = _in_float32(self.binomial, functional.gelu(self.hidden(pixel)))
        p0, p1, t0, t1 = (functional.softplus(raw) + 1e-4).split(1, dim=1)
        spread = MAX_TEMPERATURE - MIN_TEMPERATURE
        return p0 / (p0 + p1), MIN_TEMPERATURE + spread * t0 / (t0 + t1)

    def _depth_alone(
        self, levels: list[Tensor], grid: tuple[int, int], image_size: tuple[int, int]
    ) -> Tensor:
        """Return the depth of `_predict`, (F, 1, H, W), without keeping a bin.

        The logits of all bins are (k, log C(k)) times two numbers a pixel, one product of inner
        dimension two; what all bins share falls out of the softmax. One frame at a time, so that
        its bins stay in cache.
        """
        size = self._size(grid, image_size)
        final = self.decoder(levels, grid, size).final
        step = finish_at_a_time(final, size, self.bins)
        parts = [self._depth_of(self.decoder.finish(part, size)) for part in final.split(step)]
        return resize(torch.cat(parts), image_size)

    def _depth_of(self, final: Tensor) -> Tensor:
        """Return `_depth_alone` at the size the bins are read at, (F, 1, h', w')."""
        pixel = functional.relu_(self.pixel(final))
        success, temperature = self._binomial_of(pixel)
        hit, miss = _log_odds(success)
        table = _binomial_table(self.bins, pixel.device).T  # (A, 2)
        numbers = torch.cat([hit - miss, torch.ones_like(hit)], dim=1) / temperature
        low, high = self.range_m
        depth = torch.empty_like(success, dtype=torch.float32)
        centers_of = self._centers_of(pixel)  # another layer's run here, a plain one's below
        with full_float32(pixel.device):
            for place, centers, two in zip(
                depth.flatten(1), centers_of, numbers.float().flatten(2), strict=True
            ):
                centers.clamp_(low, high)
                place.copy_(centers.mul_(torch.softmax(table @ two, dim=0)).sum(0))
        return depth.clamp_(low, high)

    def _centers_of(self, pixel: Tensor) -> Iterable[Tensor]:
        """Return the centres of each frame of `pixel`, (A, h'*w'), m, before the range.

        Products of a plain layer are made as they are read, those of another at once: it runs in
        the precision of the run, which ends where they are read.
        """
        assert self.residual is not None
        base = self.log_centers.float().exp()[:, None]
        if not is_plain(self.residual, nn.Conv2d):
            shifts = [_in_float32(self.residual, frame)[0].flatten(1) for frame in pixel.split(1)]
            return [base + shift for shift in shifts]
        assert self.residual.bias is not None
        weight = self.residual.weight.float().flatten(1)  # (A, PIXEL_CHANNELS)
        base = base + self.residual.bias.float()[:, None]
        return (torch.addmm(base, weight, features.float()) for features in pixel.flatten(2))
