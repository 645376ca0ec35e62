# SPDX-License-Identifier: Apache-2.0
"""Place what a window shows by the truth, spoilt as the network's own geometry is.

The words stage reads places, whoever found them, and the network's own cost six times as much as
meaning alone: aggregator, heads, bundle adjustment. So most looks of a short run may take the
truth of rendered rooms with errors of the kind and size that the network's depth and poses have,
and a run of the same length sees several times as many rooms. Source: ours
(docs/deviations.md, D77).
Next: words_stage.py, which ends on the network's own geometry.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from vidllm_ros.data.scene_batch import SceneBatch
from vidllm_ros.network.full_float32 import exact_product
from vidllm_ros.network.metric_geometry import MetricGeometry


@dataclass(frozen=True)
class Errors:
    """Deviations of what the network says; measured on 60 rooms (docs/log.md).

    Attributes:
        scale: of the window's scale, in logarithms.
        frame: of each frame's depth, in logarithms, once the window's scale is right.
        region: of each of REGIONS of a frame, likewise.
        pixel: of what is left, likewise.
        turn: of each step of the camera, about every axis, rad.
        step: likewise along every axis, m.
    """

    scale: float = 0.07
    frame: float = 0.045
    region: float = 0.06
    pixel: float = 0.03
    turn: float = 0.005
    step: float = 0.012


NANO = Errors()
REGIONS = (3, 4)  # rows and columns of a frame that err by themselves


def true_geometry(batch: SceneBatch) -> MetricGeometry:
    """Return the truth of a batch as the network would say it."""
    scale = torch.ones(len(batch.images), device=batch.images.device)
    return MetricGeometry(
        depth=batch.depth,
        valid=batch.valid,
        K=batch.K,
        T_world_camera=batch.T_world_camera,
        scale=scale,
        spread=torch.zeros_like(scale),
    )


def spoilt(metric: MetricGeometry, errors: Errors = NANO) -> MetricGeometry:
    """Return geometry with errors, by torch's chances; the first camera stays the world.

    Args:
        metric: B windows of F frames.
        errors: deviations.
    """
    B, F, H, W = metric.depth.shape

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape).to(metric.depth)

    scale = torch.exp(errors.scale * draw(B))
    regions = functional.interpolate(
        draw(B, F, *REGIONS), size=(H, W), mode="bicubic", align_corners=False
    )
    away = errors.frame * draw(B, F, 1, 1) + errors.region * regions
    away = away + errors.pixel * draw(B, F, H, W)
    depth = metric.depth * scale[:, None, None, None] * torch.exp(away)
    turn, step = errors.turn * draw(B, F, 3), errors.step * draw(B, F, 3)
    turn[:, 0], step[:, 0] = 0.0, 0.0
    drift = torch.linalg.matrix_exp(_skew(turn.cumsum(1)))
    T_world_camera = metric.T_world_camera.clone()
    T_world_camera[..., :3, :3] = exact_product(drift, metric.T_world_camera[..., :3, :3])
    moved = metric.T_world_camera[..., :3, 3] + step.cumsum(1)
    T_world_camera[..., :3, 3] = moved * scale[:, None, None]
    return replace(metric, depth=depth, T_world_camera=T_world_camera, scale=metric.scale * scale)


def _skew(v: Tensor) -> Tensor:
    """Cross-product matrices, (..., 3) -> (..., 3, 3)."""
    zero = torch.zeros_like(v[..., 0])
    rows = [zero, -v[..., 2], v[..., 1], v[..., 2], zero, -v[..., 0], -v[..., 1], v[..., 0], zero]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))
