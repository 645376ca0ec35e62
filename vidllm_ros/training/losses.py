# SPDX-License-Identifier: Apache-2.0
"""Losses of the reconstruction branch: camera, relative depth, point map, metric depth.

They follow VGGT's released form where Vid-LLM says "as VGGT" (eq. 8) and the paper's eq. 9 for
metric depth. Relative targets live in units of the scene's mean point distance, metric ones in
metres; both copies are kept (docs/deviations.md). Next: grounding_losses.py, then stages.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from vidllm_ros.network.full_float32 import exact_product

POSE_ERROR_CLAMP = 100.0
PIXEL_ERROR_CLAMP = 100.0
NORMAL_FLOOR = 1e-4
SCALE_RANGE = (1e-6, 1e6)


class _Sharing:
    """Whether means are over the items of all processes, or of this one alone."""

    is_on = True


@contextmanager
def alone() -> Iterator[None]:
    """Let means be over this process's items: for what the others do not compute too."""
    before, _Sharing.is_on = _Sharing.is_on, False
    try:
        yield
    finally:
        _Sharing.is_on = before


def shared_count(count: Tensor) -> Tensor:
    """Mean over processes of the number of items a mean is over.

    A sum divided by it, averaged over processes as DDP averages gradients, is the mean over the
    items of all of them: two processes give what one gives for the same batch. Every process must
    come here equally often.
    """
    if not (_Sharing.is_on and distributed.is_available() and distributed.is_initialized()):
        return count
    world = distributed.get_world_size()
    if world == 1:
        return count
    total = count.detach().float().clone()
    distributed.all_reduce(total)
    return total / world


def shared_mean(values: Tensor) -> Tensor:
    """Mean of all elements over all processes; exactly 0 where there is none."""
    count = torch.as_tensor(float(values.numel()), device=values.device)
    return values.sum() / at_least_one(shared_count(count))


def at_least_one(count: Tensor) -> Tensor:
    """Replace a count of 0 by 1, so that a sum over nothing stays 0."""
    return torch.where(count > 0, count, torch.ones_like(count))


@dataclass(frozen=True)
class RelativeScene:
    """Ground truth divided by the mean distance of its points from the first camera.

    Attributes:
        scale: metres per unit, (B,).
        depth: (B, S, H, W), units.
        pointmap_world: (B, S, H, W, 3), units, in the first camera's frame.
        translation: of `T_camera_world`, (B, S, 3), units.
    """

    scale: Tensor
    depth: Tensor
    pointmap_world: Tensor
    translation: Tensor


def unproject_to_world(depth: Tensor, K: Tensor, T_world_camera: Tensor) -> Tensor:
    """Lift depth to points in the window's world, (..., H, W, 3), m; integer pixel centres.

    Args:
        depth: (..., H, W), m.
        K: (..., 3, 3), px.
        T_world_camera: (..., 4, 4).
    """
    height, width = depth.shape[-2:]
    v, u = torch.meshgrid(
        torch.arange(height, dtype=depth.dtype, device=depth.device),
        torch.arange(width, dtype=depth.dtype, device=depth.device),
        indexing="ij",
    )
    focal_x, focal_y = K[..., 0, 0, None, None], K[..., 1, 1, None, None]
    x = (u - K[..., 0, 2, None, None]) / focal_x * depth
    y = (v - K[..., 1, 2, None, None]) / focal_y * depth
    points_camera = torch.stack([x, y, depth], dim=-1)  # (..., H, W, 3)
    rotation = T_world_camera[..., None, :3, :3]
    origin = T_world_camera[..., None, None, :3, 3]
    return exact_product(points_camera, rotation.transpose(-1, -2)) + origin


def normalise_scene(
    depth: Tensor, valid: Tensor, K: Tensor, T_world_camera: Tensor
) -> RelativeScene:
    """Divide ground truth by the mean distance of its points to the first camera.

    Source: VGGT Sec. 3.4; predictions are not normalised.

    Args:
        depth: (B, S, H, W), m; anything where not valid.
        valid: (B, S, H, W).
        K: (B, S, 3, 3), px.
        T_world_camera: (B, S, 4, 4), the first is the identity.
    """
    depth = torch.where(valid, depth, torch.zeros_like(depth))
    points = unproject_to_world(depth, K, T_world_camera)
    distance = points.norm(dim=-1) * valid
    scale = distance.sum(dim=(1, 2, 3)) / (valid.sum(dim=(1, 2, 3)) + 1e-3)
    scale = scale.clamp(*SCALE_RANGE)
    rotation = T_world_camera[..., :3, :3]
    origin = T_world_camera[..., :3, 3:]
    translation = -exact_product(rotation.transpose(-1, -2), origin)[..., 0]  # of T_camera_world
    return RelativeScene(
        scale=scale,
        depth=depth / scale[:, None, None, None],
        pointmap_world=points / scale[:, None, None, None, None],
        translation=translation / scale[:, None, None],
    )


def camera_loss(
    pose_encodings: Sequence[Tensor],
    target: Tensor,
    gamma: float = 0.6,
    weights: tuple[float, float, float] = (1.0, 1.0, 0.5),
) -> Tensor:
    """L1 between pose encodings, later refinements counting more.

    Source: VGGT's released loss: gamma^(n-1-i) over n refinements, then their mean.

    Args:
        pose_encodings: one (B, S, 9) a refinement: translation, quaternion xyzw, field of view.
        target: (B, S, 9), translation in relative units, quaternion with w >= 0.
        gamma: weight ratio of neighbouring refinements.
        weights: of translation, rotation and field of view.
    """
    total = target.new_zeros(())
    count = len(pose_encodings)
    for index, encoding in enumerate(pose_encodings):
        error = (encoding.float() - target).abs()
        translation = shared_mean(error[..., :3].clamp(max=POSE_ERROR_CLAMP))
        stage = (
            weights[0] * translation
            + weights[1] * shared_mean(error[..., 3:7])
            + weights[2] * shared_mean(error[..., 7:])
        )
        total = total + gamma ** (count - 1 - index) * stage
    return total / count


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where `mask`; exactly 0, with a gradient of 0, where nothing is valid.

    Over the items of all processes, see `shared_count`.
    """
    kept = torch.where(mask, values, torch.zeros_like(values))
    return kept.sum() / at_least_one(shared_count(mask.sum()))


def confidence_loss(
    error: Tensor, confidence: Tensor, valid: Tensor, alpha: float = 0.2
) -> Tensor:
    """Error weighted by the confidence the network claims, which costs it its logarithm.

    Source: VGGT Sec. 3.4: `error * c - alpha * log c`.
    """
    return masked_mean(error * confidence - alpha * confidence.log(), valid)


def gradient_loss(difference: Tensor, valid: Tensor, scales: int = 4) -> Tensor:
    """L1 of horizontal and vertical steps of the difference, over strides 1, 2, 4, ...

    Args:
        difference: prediction minus truth, (..., H, W); finite everywhere.
        valid: (..., H, W).
        scales: number of strides.
    """
    total = difference.new_zeros(())
    for scale in range(scales):
        step = 2**scale
        coarse, mask = difference[..., ::step, ::step], valid[..., ::step, ::step]
        for dim in (-1, -2):
            size = coarse.shape[dim]
            if size < 2:
                continue
            jump = coarse.narrow(dim, 1, size - 1) - coarse.narrow(dim, 0, size - 1)
            both = mask.narrow(dim, 1, size - 1) & mask.narrow(dim, 0, size - 1)
            total = total + masked_mean(jump.abs().clamp(max=PIXEL_ERROR_CLAMP), both)
    return total / scales


def normals(pointmap: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Cross products of right and down neighbours, (..., H-1, W-1, 3), unit, and their mask."""
    right = pointmap[..., :-1, 1:, :] - pointmap[..., :-1, :-1, :]
    down = pointmap[..., 1:, :-1, :] - pointmap[..., :-1, :-1, :]
    cross = torch.cross(right, down, dim=-1)
    # A soft floor: dividing by the tiny cross product of a flat guess gives gradients of 1e10.
    normal = cross / (cross.square().sum(-1, keepdim=True) + NORMAL_FLOOR**2).sqrt()
    return normal, valid[..., :-1, :-1] & valid[..., :-1, 1:] & valid[..., 1:, :-1]


def normal_loss(predicted: Tensor, target: Tensor, valid: Tensor, scales: int = 3) -> Tensor:
    """One minus the cosine between surface normals of two point maps, over strides 1, 2, 4, ...

    Args:
        predicted: (..., H, W, 3); finite everywhere.
        target: (..., H, W, 3); finite everywhere.
        valid: (..., H, W).
        scales: number of strides.
    """
    total = predicted.new_zeros(())
    for scale in range(scales):
        step = 2**scale
        mask = valid[..., ::step, ::step]
        ours, seen = normals(predicted[..., ::step, ::step, :], mask)
        theirs, _ = normals(target[..., ::step, ::step, :], mask)
        total = total + masked_mean(1.0 - (ours * theirs).sum(-1), seen)
    return total / scales


def depth_loss(
    predicted: Tensor,
    confidence: Tensor,
    target: Tensor,
    valid: Tensor,
    alpha: float = 0.2,
    gradient_weight: float = 1.0,
) -> Tensor:
    """Relative depth: confidence term, plain L1 and gradients over four scales.

    Args:
        predicted: (B, S, H, W), relative units.
        confidence: (B, S, H, W), >= 1.
        target: (B, S, H, W), relative units, finite everywhere.
        valid: (B, S, H, W).
        alpha: what confidence is worth.
        gradient_weight: of the gradients.
    """
    difference = (predicted.float() - target).clamp(-PIXEL_ERROR_CLAMP, PIXEL_ERROR_CLAMP)
    error = difference.abs()
    total = confidence_loss(error, confidence.float(), valid, alpha) + masked_mean(error, valid)
    if gradient_weight:
        total = total + gradient_weight * gradient_loss(difference, valid)
    return total


def point_loss(
    predicted: Tensor,
    confidence: Tensor,
    target: Tensor,
    valid: Tensor,
    alpha: float = 0.2,
    normal_weight: float = 1.0,
) -> Tensor:
    """Point map: confidence term, plain L2 norm and normals over three scales.

    Args:
        predicted: (B, S, H, W, 3), relative units, first camera's frame.
        confidence: (B, S, H, W), >= 1.
        target: like the prediction.
        valid: (B, S, H, W).
        alpha: what confidence is worth.
        normal_weight: of the normals.
    """
    predicted = predicted.float()
    # Clamped before it is squared: a far guess, exp of a large number, must not become inf.
    difference = (predicted - target).clamp(-PIXEL_ERROR_CLAMP, PIXEL_ERROR_CLAMP)
    error = (difference.square().sum(-1) + 1e-8).sqrt()
    total = confidence_loss(error, confidence.float(), valid, alpha) + masked_mean(error, valid)
    if normal_weight:
        total = total + normal_weight * normal_loss(predicted, target, valid)
    return total


def metric_depth_loss(
    predicted: Tensor, target: Tensor, valid: Tensor, alpha: float = 1.0, epsilon: float = 1e-3
) -> Tensor:
    """Scale penalty and robust residual of the log depth, per image.

    Source: Vid-LLM eq. 9: with e the log error and b its mean over the image's valid pixels,
    `b^2 + mean((e - b)^2 / (1 + alpha |e - b|))`; alpha and epsilon are not printed.

    Args:
        predicted: (B, S, H, W), m, positive.
        target: (B, S, H, W), m; anything where not valid.
        valid: (B, S, H, W).
        alpha: how soon large residuals count linearly.
        epsilon: added before the logarithm, m.
    """
    target = torch.where(valid, target, torch.ones_like(target))
    error = torch.log(predicted.float() + epsilon) - torch.log(target + epsilon)
    error = torch.where(valid, error, torch.zeros_like(error))
    count = valid.sum(dim=(-1, -2))
    mean = error.sum(dim=(-1, -2)) / count.clamp(min=1)
    residual = error - mean[..., None, None]
    robust = residual.square() / (1.0 + alpha * residual.abs()) * valid
    per_image = mean.square() + robust.sum(dim=(-1, -2)) / count.clamp(min=1)
    return masked_mean(per_image, count > 0)


def silog_loss(predicted: Tensor, target: Tensor, valid: Tensor, lam: float = 0.15) -> Tensor:
    """Scale-invariant log error over all valid pixels, `sqrt(var + lam mean^2)`.

    Source: ZoeDepth without its factor of ten; the switchable alternative to eq. 9.
    """
    target = torch.where(valid, target, torch.ones_like(target))
    error = predicted.float().clamp(min=1e-6).log() - target.log()
    mean = masked_mean(error, valid)
    variance = masked_mean((error - mean).square(), valid)
    return (variance + lam * mean.square() + 1e-8).sqrt()
