# SPDX-License-Identifier: Apache-2.0
"""Real-scale alignment: metres per unit of the relative reconstruction, one number a scene.

Each sampled frame is fitted by weighted least squares, s_f = sum(w d_rel d_met) / sum(w
d_rel^2), and the median over frames is taken, so that one bad frame does not move the scene. The
scale multiplies depth and camera translation alike. Next: patches3d.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vidllm_ros.network.configuration import SCALE_ALIGNMENTS

MAX_WEIGHT = 20.0


@dataclass(frozen=True)
class ScaleAlignment:
    """A scene's scale.

    Attributes:
        scale: metres per relative unit, 0-d tensor.
        per_frame: the sampled frames' own scales, (F,); empty where none was fitted.
        spread: inter-quartile range of `per_frame` over their median, 0-d; 0 where none was
            fitted.
    """

    scale: Tensor
    per_frame: Tensor
    spread: Tensor


def sample_frames(frames: int, count: int, seed: int) -> list[int]:
    """Choose `count` of `frames` without replacement, ascending; all where there are no more."""
    if frames <= count:
        return list(range(frames))
    generator = torch.Generator().manual_seed(seed)
    return sorted(torch.randperm(frames, generator=generator)[:count].tolist())


def frames_read(total: int, count: int, seed: int, mode: str) -> list[int]:
    """Say whose metric depth a scene's scale reads, ascending: nobody else's need be computed.

    Args:
        total: frames of the scene.
        count: how many are sampled.
        seed: of the sample.
        mode: as in `align_scale`; "metric_only" reads all, "none" reads none.
    """
    if mode == "metric_only":
        return list(range(total))
    return [] if mode == "none" else sample_frames(total, count, seed)


def confidence_weights(confidence: Tensor) -> Tensor:
    """Turn the depth head's confidence, 1 + exp(.), into weights in [0, 20]."""
    return (confidence - 1.0).clamp(0.0, MAX_WEIGHT)


def align_scale(
    depth_rel: Tensor,
    depth_metric: Tensor,
    weights: Tensor,
    valid: Tensor,
    frames: int = 16,
    seed: int = 0,
    mode: str = "least_squares",
) -> ScaleAlignment:
    """Fit the scene's scale.

    The median is numpy's (mean of the middle two); torch.median takes the lower one.
    Source: Vid-LLM Sec. 3.2 (real-scale alignment); weights and "log_median" are ours.

    Args:
        depth_rel: (S, H, W), relative units.
        depth_metric: (S, H, W), m.
        weights: (S, H, W), >= 0, see `confidence_weights`.
        valid: where both depths mean something, (S, H, W); not finite or not positive never
            counts.
        frames: how many frames to sample.
        seed: of the sample.
        mode: "least_squares"; "log_median", exp of the weighted median of log(d_met / d_rel),
            which far pixels do not rule; "metric_only" and "none" answer 1.

    Raises:
        ValueError: unknown mode, or no frame has a usable pixel.
    """
    if mode not in SCALE_ALIGNMENTS:
        raise ValueError(f"mode: expected one of {SCALE_ALIGNMENTS}, got {mode!r}")
    if mode in ("metric_only", "none"):
        one = depth_rel.new_ones((), dtype=torch.float32)
        return ScaleAlignment(one, one.new_zeros(0), torch.zeros_like(one))
    chosen = sample_frames(len(depth_rel), frames, seed)
    usable = valid[chosen] & _positive(depth_rel[chosen]) & _positive(depth_metric[chosen])
    usable = usable & torch.isfinite(weights[chosen])
    relative = torch.where(usable, depth_rel[chosen].float(), 1.0).flatten(1)
    metric = torch.where(usable, depth_metric[chosen].float(), 1.0).flatten(1)
    weight = torch.where(usable, weights[chosen].float(), 0.0).flatten(1)
    fitted = weight.sum(-1) > 0
    if not bool(fitted.any()):
        raise ValueError(
            "depth_rel, depth_metric: expected a pixel with positive, finite depth and weight, "
            f"got none in {len(chosen)} frames"
        )
    if mode == "log_median":
        per_frame = _log_median(relative, metric, weight)
    else:
        per_frame = (weight * relative * metric).sum(-1) / (weight * relative**2).sum(-1)
    per_frame = per_frame[fitted]
    low, middle, high = torch.quantile(
        per_frame, per_frame.new_tensor([0.25, 0.5, 0.75])
    )  # linear interpolation: the even median is the mean of the middle two
    return ScaleAlignment(middle, per_frame, (high - low) / middle)


def _positive(depth: Tensor) -> Tensor:
    return torch.isfinite(depth) & (depth > 0)


def _log_median(relative: Tensor, metric: Tensor, weight: Tensor) -> Tensor:
    """Weighted median of the log ratio of each frame, (F, H*W) -> (F,)."""
    ratio, order = torch.sort(torch.log(metric) - torch.log(relative), dim=-1, stable=True)
    mass = weight.gather(-1, order).cumsum(-1)
    middle = torch.searchsorted(mass, 0.5 * mass[:, -1:]).clamp_max(ratio.shape[-1] - 1)
    return ratio.gather(-1, middle).squeeze(-1).exp()
