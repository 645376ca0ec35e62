# SPDX-License-Identifier: Apache-2.0
"""Place what a window shows by the truth, spoiled as the network's own geometry is.

The words stage reads places, whoever found them, and the network's own cost six times as much as
meaning alone: aggregator, heads, bundle adjustment. So most looks of a short run may take the
truth of rendered rooms with errors of the kind that the network's depth and poses have, and see
several times as many rooms. Source: ours (docs/deviations.md, D77). Next: words_stage.py;
cli/spoiled_truth.py spoils windows for benchmarks of what comes after the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from vidllm_ros.data.scene_batch import SceneBatch
from vidllm_ros.network.full_float32 import exact_product
from vidllm_ros.network.metric_geometry import MetricGeometry

REGIONS = (3, 4)  # rows and columns of a frame that err by themselves


@dataclass(frozen=True)
class Errors:
    """Deviations, normal and without the tails that a network's errors have.

    The defaults lie between the plain and the robust deviation of nano's errors in 60 rooms
    (docs/log.md).

    Attributes:
        scale: of the window's scale, in logarithms.
        frame: of each frame's depth, in logarithms, once the window's scale is right.
        region: of each of REGIONS of a frame, likewise; smooth between their middles.
        patch: of what is left at each patch, likewise.
        turn: of each step of the camera, about every axis, rad.
        step: likewise along every axis, m.
    """

    scale: float = 0.07
    frame: float = 0.045
    region: float = 0.06
    patch: float = 0.03
    turn: float = 0.005
    step: float = 0.012


NANO = Errors()


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


def spoiled(
    metric: MetricGeometry,
    patch_size: int,
    rngs: Sequence[np.random.Generator],
    errors: Errors = NANO,
) -> MetricGeometry:
    """Return geometry with errors; the first camera stays the world.

    Args:
        metric: B windows of F frames; H and W are multiples of the patch size.
        patch_size: edge of what errs by itself, px.
        rngs: B, one a window: its errors do not depend on what else is in the batch.
        errors: deviations.
    """
    frames, *size = metric.depth.shape[1:]
    cells = [side // patch_size for side in size]
    scales, factors, drifts, moves = [], [], [], []
    for rng in rngs:
        scale = np.exp(errors.scale * rng.standard_normal())
        away = errors.frame * rng.standard_normal((frames, 1, 1))
        away = away + errors.region * _smooth(rng.standard_normal((frames, *REGIONS)), size)
        grain = errors.patch * rng.standard_normal((frames, *cells))
        away = away + np.kron(grain, np.ones((1, patch_size, patch_size)))
        turn, step = rng.standard_normal((2, frames, 3))
        turn[0], step[0] = 0.0, 0.0
        scales.append(scale)
        factors.append(scale * np.exp(away))
        drifts.append(Rotation.from_rotvec(errors.turn * turn.cumsum(0)).as_matrix())
        moves.append(errors.step * step.cumsum(0))
    scale, factor, drift, move = (
        torch.from_numpy(np.stack(part)).to(metric.depth)
        for part in (scales, factors, drifts, moves)
    )
    T_world_camera = metric.T_world_camera.clone()
    T_world_camera[..., :3, :3] = exact_product(drift, metric.T_world_camera[..., :3, :3])
    moved = metric.T_world_camera[..., :3, 3] + move
    T_world_camera[..., :3, 3] = moved * scale[:, None, None]
    return replace(
        metric,
        depth=metric.depth * factor,
        T_world_camera=T_world_camera,
        scale=metric.scale * scale,
    )


def _smooth(regions: NDArray[np.float64], size: Sequence[int]) -> NDArray[np.float64]:
    """Draw regions (F, h, w) of deviation 1 out to (F, H, W), of deviation 1 over all frames."""
    height, width = size
    fields = np.stack(
        [cv2.resize(one, (width, height), interpolation=cv2.INTER_CUBIC) for one in regions]
    )
    return np.asarray(fields / _SHRINKS, np.float64)


def _shrinking() -> float:
    """Deviation that drawing independent regions out leaves of 1."""
    alone = np.zeros((28 * REGIONS[0], 28 * REGIONS[1]))
    for index in np.ndindex(*REGIONS):
        one = np.zeros(REGIONS)
        one[index] = 1.0
        alone += cv2.resize(one, alone.shape[::-1], interpolation=cv2.INTER_CUBIC) ** 2
    return float(np.sqrt(alone.mean()))


_SHRINKS = _shrinking()
