# SPDX-License-Identifier: Apache-2.0
"""From the reconstruction branch's numbers to metres in the first camera's frame.

Relative depth and translation get one scale, fitted to the metric depth (scale_alignment.py),
and the first camera becomes the world. What comes out is detached: it is what the 3D patches,
the language branch and the robot see. Next: patches3d.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vidllm_ros.network.camera_head import decode_pose
from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.cross_task_adapter import AdapterOutput
from vidllm_ros.network.full_float32 import exact_product
from vidllm_ros.network.metric_depth import MetricDepthOutput
from vidllm_ros.network.patches3d import ScenePatches
from vidllm_ros.network.scale_alignment import align_scale, confidence_weights, frames_read
from vidllm_ros.structures import Frames, Reconstruction, SceneContext


@dataclass(frozen=True)
class GeometryOutput:
    """What the reconstruction branch says; F of the S frames have dense maps.

    Attributes:
        pose_encodings: one an iteration, each (B, S, 9); the last one counts.
        depth_rel: (B, F, H, W), relative units.
        depth_confidence: (B, F, H, W), >= 1.
        points: (B, F, H, W, 3), relative units, in training with a point head only.
        points_confidence: (B, F, H, W), likewise.
        metric_depth: of the F frames, m, as a camera of `metric_focal` would have it where the
            configuration names one; of `metric_frames` only where these are named.
        adapter: both token streams, all S frames.
        dense_frames: which frames have dense maps, (F,).
        image_size: (H, W), px.
        metric_frames: which of the F frames have metric depth, ascending; all where None.
    """

    pose_encodings: list[Tensor]
    depth_rel: Tensor
    depth_confidence: Tensor
    points: Tensor | None
    points_confidence: Tensor | None
    metric_depth: MetricDepthOutput
    adapter: AdapterOutput
    dense_frames: Tensor
    image_size: tuple[int, int]
    metric_frames: tuple[int, ...] | None = None


@dataclass(frozen=True)
class MetricGeometry:
    """Geometry in metres, detached, in the first camera's frame; F dense frames only.

    Attributes:
        depth: (B, F, H, W), m.
        valid: (B, F, H, W).
        K: (B, F, 3, 3), px.
        T_world_camera: (B, F, 4, 4), m.
        scale: metres per relative unit, (B,).
        spread: see `ScaleAlignment`, (B,).
    """

    depth: Tensor
    valid: Tensor
    K: Tensor
    T_world_camera: Tensor
    scale: Tensor
    spread: Tensor


def to_metric(geometry: GeometryOutput, config: VidLLMConfig) -> MetricGeometry:
    """Scale depth and translation to metres and make the first camera the world.

    Source: Vid-LLM Sec. 3.2, D = s * D_rel and t likewise; with "metric_only" (Table 6) the metric
    depth itself is used and the translation stays as it is.

    Args:
        geometry: of `VidLLM.geometry`.
        config: says which alignment.

    Raises:
        ValueError: a scene has no pixel to fit the scale to, or a frame that the alignment reads
            has no metric depth.
    """
    mode = config.scale_alignment
    relative = geometry.depth_rel.detach().float()
    confidence = geometry.depth_confidence.detach().float()
    encoding = geometry.pose_encodings[-1].detach().float()
    T_camera_world, K = decode_pose(encoding, *geometry.image_size)
    factor = canonical_factor(K, geometry.image_size[1], config.metric_focal)
    metric = _metric_depth(geometry, config) * factor[:, None, None, None]
    depth = metric if mode == "metric_only" else relative
    valid = torch.isfinite(depth) & (depth > 0) & torch.isfinite(confidence)
    fits = [
        align_scale(
            relative[b],
            metric[b],
            confidence_weights(confidence[b]),
            valid[b],
            frames=config.scale_frames,
            seed=config.scale_seed,
            mode=mode,
        )
        for b in range(len(relative))
    ]
    scale = torch.stack([fit.scale for fit in fits])
    T_world_camera = relative_to_first(T_camera_world)
    T_world_camera[..., :3, 3] *= scale[:, None, None]
    return MetricGeometry(
        depth=torch.where(valid, depth * scale[:, None, None, None], 0.0),
        valid=valid,
        K=K.index_select(1, geometry.dense_frames),
        T_world_camera=T_world_camera.index_select(1, geometry.dense_frames),
        scale=scale,
        spread=torch.stack([fit.spread for fit in fits]),
    )


def frames_with_metric_depth(frames: int, config: VidLLMConfig) -> list[int]:
    """Return which of `frames` dense frames `to_metric` reads the metric depth of, ascending."""
    return frames_read(frames, config.scale_frames, config.scale_seed, config.scale_alignment)


def _metric_depth(geometry: GeometryOutput, config: VidLLMConfig) -> Tensor:
    """Return metric depth of all dense frames, (B, F, H, W), 0 where none was computed."""
    metric = geometry.metric_depth.depth.detach().float()
    known = geometry.metric_frames
    if known is None:
        return metric
    frames = geometry.depth_rel.shape[1]
    missing = sorted(set(frames_with_metric_depth(frames, config)) - set(known))
    if missing:
        raise ValueError(
            f"metric_frames: expected all that scale_alignment {config.scale_alignment!r} "
            f"reads, got {list(known)} without {missing}; take frames_with_metric_depth"
        )
    every = metric.new_zeros(geometry.depth_rel.shape)
    every[:, list(known)] = metric
    return every


def with_lens(metric: MetricGeometry, K: Tensor) -> MetricGeometry:
    """Take a calibrated camera's intrinsics, and the depth the same images mean under them.

    An image fixes sizes over depth times the focal length only: a network that took the lens for
    longer than it is has put everything as much too far. Depth, translation and scale are
    multiplied by true over predicted focal length, the median over the window. Source: the
    canonical camera of Metric3D (arXiv 2307.10984), applied to the output; see docs/log.md.

    Args:
        metric: B windows.
        K: (B, F, 3, 3), px.
    """
    K = K.to(metric.K)
    factor = window_focal(K) / window_focal(metric.K)  # (B,)
    T_world_camera = metric.T_world_camera.clone()
    T_world_camera[..., :3, 3] *= factor[:, None, None]
    return replace(
        metric,
        depth=metric.depth * factor[:, None, None, None],
        K=K,
        T_world_camera=T_world_camera,
        scale=metric.scale * factor,
    )


def window_focal(K: Tensor) -> Tensor:
    """Return the focal length of windows, (B, F, 3, 3) -> (B,), px: median over the frames.

    Of each frame the geometric mean of both axes counts; the median of an even number is the mean
    of the middle two, in logarithms.
    """
    focal = K[..., [0, 1], [0, 1]].float().log().mean(-1)  # (B, F)
    return torch.quantile(focal, 0.5, dim=-1).exp()


def canonical_factor(K: Tensor, width: int, focal: float) -> Tensor:
    """Return what turns the canonical camera's depth into that of a window's camera, (B,).

    Source: Metric3D (arXiv 2307.10984), whose labels are scaled like this.

    Args:
        K: the window's intrinsics, true or predicted, (B, F, 3, 3), px.
        width: of the image, px.
        focal: the canonical camera's, over the image's width; 0 where there is none: ones.
    """
    own = window_focal(K)
    return own / (focal * width) if focal else torch.ones_like(own)


def relative_to_first(T_camera_world: Tensor) -> Tensor:
    """Turn extrinsics (B, S, 4, 4) into poses T_world_camera whose world is the first camera."""
    rotation, translation = T_camera_world[..., :3, :3], T_camera_world[..., :3, 3:]
    inverse = T_camera_world.clone()  # T_w_camera, w the branch's own world
    inverse[..., :3, :3] = rotation.mT
    inverse[..., :3, 3:] = -exact_product(rotation.mT, translation)
    T_world_camera = exact_product(T_camera_world[:, :1], inverse)
    T_world_camera[:, 0] = torch.eye(4, device=T_camera_world.device)
    return T_world_camera


def to_reconstruction(
    frames: Frames,
    metric: MetricGeometry,
    confidence: Tensor,
    patches: ScenePatches,
    T_scene_world: Tensor,
) -> Reconstruction:
    """Hand one window out: arrays for whoever publishes, the scene left on the device.

    Args:
        frames: as the network saw them; all of them have dense maps.
        metric: of a batch of one.
        confidence: of the depth, (1, S, H, W).
        patches: the pooled scene of a batch of one.
        T_scene_world: (1, 4, 4), a rotation: the frame of the pooled scene's positions.
    """
    T_world_camera = metric.T_world_camera[0].double().cpu().numpy()
    tokens, positions = patches.of_scene(0)
    return Reconstruction(
        images=frames.images,
        stamps_ns=frames.stamps_ns,
        depth=metric.depth[0].cpu().numpy(),
        valid=metric.valid[0].cpu().numpy(),
        confidence=confidence[0].float().cpu().numpy(),
        K=metric.K[0].double().cpu().numpy(),
        T_world_camera=T_world_camera,
        scale=float(metric.scale[0]),
        scale_spread=float(metric.spread[0]),
        scene=SceneContext(
            tokens,
            positions,
            frames.stamps_ns,
            T_world_camera,
            T_world_scene=T_scene_world[0].double().cpu().numpy().T,  # a rotation: its inverse
            fine=None if patches.fine is None else patches.fine.of_scene(0),
        ),
        frame_id=frames.frame_id,
    )
