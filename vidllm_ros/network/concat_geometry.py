# SPDX-License-Identifier: Apache-2.0
"""VGGT by itself: the geometry half of the paper's concatenation baseline (Table 5).

The same encoder, aggregator and heads as the network of the figure, without the adapter between
them, filled from a checkpoint of VGGT's published key layout. Its unit is its own: `to_metres`
brings it to metres by a metric depth of some of the frames. Next: concat_metric_depth.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vidllm_ros.network.aggregator import Aggregator
from vidllm_ros.network.camera_head import CameraHead, decode_pose
from vidllm_ros.network.concat_parts import put_places, read_places
from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.convert import KeyReport, convert_vggt
from vidllm_ros.network.convert_files import TensorFiles
from vidllm_ros.network.convert_sizes import vggt_sizes
from vidllm_ros.network.dense_head import DPTHead, build_depth_head, build_point_head
from vidllm_ros.network.encoder import Encoder, EncoderOutput
from vidllm_ros.network.metric_geometry import MetricGeometry, relative_to_first
from vidllm_ros.network.scale_alignment import ScaleAlignment, align_scale, confidence_weights

DEPTH_SOURCES = ("depth_head", "point_head")


@dataclass(frozen=True)
class VggtOutput:
    """What VGGT says of S frames, in its own unit.

    Attributes:
        pose_encodings: one an iteration, each (B, S, 9); the last one counts.
        depth: (B, S, H, W); its confidence, (B, S, H, W), >= 1.
        points: in the first camera's frame, (B, S, H, W, 3), and their confidence; None where the
            point head was not asked or there is none.
        image_size: (H, W), px.
    """

    pose_encodings: list[Tensor]
    depth: Tensor
    depth_confidence: Tensor
    points: Tensor | None
    points_confidence: Tensor | None
    image_size: tuple[int, int]


class VggtGeometry(nn.Module):
    """Encoder, aggregator, camera head and dense heads in a row, as VGGT has them.

    Source: model-code facts A.2 to A.5; agreement with the public implementation is tested on
    golden numbers (test/network/test_concat_geometry.py).
    """

    def __init__(self, config: VidLLMConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.aggregator = Aggregator(config)
        self.camera_head = CameraHead(config)
        self.depth_head = build_depth_head(config)
        self.point_head: DPTHead | None = build_point_head(config) if config.point_head else None

    @property
    def device(self) -> torch.device:
        return self.aggregator.camera_token.device

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Mixed precision where the weights are half precision, nothing otherwise."""
        dtype = self.aggregator.camera_token.dtype
        if dtype in (torch.bfloat16, torch.float16):
            return torch.autocast(self.device.type, dtype=dtype)
        return contextlib.nullcontext()

    def forward(self, images: Tensor, with_points: bool = False) -> VggtOutput:
        """Reconstruct frames.

        Args:
            images: RGB in [0, 1], (B, S, 3, H, W), H and W multiples of the patch size.
            with_points: run the point head too.
        """
        size = (images.shape[-2], images.shape[-1])
        return self.of_encoded(self.encode(images), size, with_points)

    def encode(self, images: Tensor) -> EncoderOutput:
        """Encode frames; of the encoder's layers VGGT reads the last one alone."""
        encoded: EncoderOutput = self.encoder(images)
        return EncoderOutput(encoded.patch_tokens, [], encoded.grid)

    def of_encoded(
        self, encoded: EncoderOutput, size: tuple[int, int], with_points: bool = False
    ) -> VggtOutput:
        """Run everything after the encoder.

        Args:
            encoded: of the frames.
            size: their (H, W), px.
            with_points: as in `forward`.

        Raises:
            ValueError: points are asked for and the checkpoint has no point head.
        """
        aggregated = self.aggregator(encoded.patch_tokens, encoded.grid)
        levels = aggregated.patch_levels(self.config.aggregator_layers)
        depth = self.depth_head(levels, encoded.grid, size)
        points = None
        if with_points:
            if self.point_head is None:
                raise ValueError(
                    "depth_from: expected a checkpoint with a point head for 'point_head', got "
                    "none; use 'depth_head'"
                )
            points = self.point_head(levels, encoded.grid, size)
        return VggtOutput(
            pose_encodings=self.camera_head(aggregated.last),
            depth=depth.values,
            depth_confidence=depth.confidence,
            points=None if points is None else points.values,
            points_confidence=None if points is None else points.confidence,
            image_size=size,
        )


def load_vggt_geometry(
    path: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> VggtGeometry:
    """Load a checkpoint of VGGT's key layout; sizes are read off its tensors.

    Args:
        path: file or folder: VGGT-1B, VGGT-1B-Commercial or another of the layout.
        device: where to run.
        dtype: of the weights; the camera head stays in float32.

    Raises:
        FileNotFoundError: there are no weights.
        ValueError: they are not VGGT's, or not whole.
    """
    files, config, report = look_at_vggt(path)
    with torch.device("meta"):
        model = VggtGeometry(config)
    places = read_places(
        files,
        report.used,
        device,
        lambda name: torch.float32 if name.startswith("camera_head.") else dtype,
    )
    put_places(model, places, "geometry", path)
    return model.eval().requires_grad_(False)


def look_at_vggt(path: Path) -> tuple[TensorFiles, VidLLMConfig, KeyReport]:
    """Return a checkpoint's files, its sizes and where its tensors go, without reading them.

    Raises:
        FileNotFoundError, ValueError: as `load_vggt_geometry`.
    """
    files = TensorFiles(path)
    try:
        config = VidLLMConfig(**vggt_sizes({n: t.shape for n, t in files.tensors.items()}))
        _, report = convert_vggt(files.meta(), config)
    except ValueError as error:
        raise ValueError(f"geometry: expected a checkpoint of VGGT in {path}: {error}") from error
    if report.missing:
        raise ValueError(
            f"geometry: expected all tensors of VGGT in {path}, got none for {report.missing[0]} "
            f"and {len(report.missing) - 1} more; is the checkpoint whole?"
        )
    return files, config, report


def usual_size(config: VidLLMConfig) -> tuple[int, int]:
    """Return (H, W) at VGGT of a 4:3 camera, width first as its loader has it, px."""
    patch, width = config.patch_size, config.image_size // config.patch_size
    return max(2, round(0.75 * width)) * patch, width * patch


@dataclass(frozen=True)
class MetricSample:
    """Metric depth of some frames: which, and (F, H, W), m."""

    frames: Sequence[int]
    depth: Tensor


def relative_depth(output: VggtOutput, source: str = "depth_head") -> tuple[Tensor, Tensor]:
    """Return depth and confidence, (B, S, H, W) each, in VGGT's unit.

    Args:
        output: of VGGT.
        source: "depth_head", or "point_head": how far along its camera's axis the point of each
            pixel lies.
    """
    if source not in DEPTH_SOURCES:
        raise ValueError(f"depth_from: expected one of {DEPTH_SOURCES}, got {source!r}")
    if source == "depth_head":
        return output.depth.float(), output.depth_confidence.float()
    if output.points is None or output.points_confidence is None:
        raise ValueError("depth_from: expected the point head's output, got none; run it")
    T_camera_world, _ = decode_pose(output.pose_encodings[-1].float(), *output.image_size)
    axis = T_camera_world[..., 2, :3]  # (B, S, 3)
    along = (output.points.float() * axis[:, :, None, None]).sum(-1)
    return along + T_camera_world[..., 2, 3, None, None], output.points_confidence.float()


def to_metres(
    output: VggtOutput, sample: MetricSample | None, source: str, mode: str
) -> tuple[MetricGeometry, Tensor]:
    """Give VGGT's reconstruction of one window its scale, and make the first camera the world.

    Source: Vid-LLM Table 5, "VGGT + LLaVA-3D" and its scaled variant; the scale is the paper's own
    alignment (Sec. 3.2) against a public metric-depth model.

    Args:
        output: of a batch of one.
        sample: metric depth of the frames the scale is fitted to; None leaves VGGT's unit as it
            is, the unscaled variant.
        source: which head gives depth, see `relative_depth`.
        mode: of `align_scale`: "least_squares" or "log_median".

    Returns:
        the geometry, all S frames; the depth's confidence, (1, S, H, W).

    Raises:
        ValueError: no pixel of the sample can be used.
    """
    depth, confidence = relative_depth(output, source)
    valid = torch.isfinite(depth) & (depth > 0) & torch.isfinite(confidence)
    if sample is None:
        fit = align_scale(depth[0], depth[0], confidence[0], valid[0], mode="none")
    else:
        fit = _fit(depth[0], confidence[0], valid[0], sample, mode)
    scale, spread = fit.scale.to(depth.device), fit.spread.to(depth.device)
    T_camera_world, K = decode_pose(output.pose_encodings[-1].float(), *output.image_size)
    T_world_camera = relative_to_first(T_camera_world)
    T_world_camera[..., :3, 3] *= scale
    metric = MetricGeometry(
        depth=torch.where(valid, depth * scale, 0.0),
        valid=valid,
        K=K,
        T_world_camera=T_world_camera,
        scale=scale[None],
        spread=spread[None],
    )
    return metric, confidence


def _fit(
    depth: Tensor, confidence: Tensor, valid: Tensor, sample: MetricSample, mode: str
) -> ScaleAlignment:
    """Fit the scale on the sampled frames alone."""
    chosen = torch.as_tensor(list(sample.frames), device=depth.device)
    relative = depth.index_select(0, chosen)
    return align_scale(
        relative,
        sample.depth.to(relative),
        confidence_weights(confidence.index_select(0, chosen)),
        valid.index_select(0, chosen),
        frames=len(chosen),
        mode=mode,
    )
