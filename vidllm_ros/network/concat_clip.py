# SPDX-License-Identifier: Apache-2.0
"""What CLIP sees of a window's frames, and where each of its patches is.

Frames are made small until their shorter side is CLIP's, then the centre square is cut out; depth
and intrinsics follow. A patch's place is that of its top left pixel, as LLaVA-3D has it (nearest
neighbour on its patch grid), so that its position embedding sees what it was trained on. Next:
concat_llava3d.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vidllm_ros.geometry.camera import crop_K, scale_K
from vidllm_ros.geometry.image import ResizePlan
from vidllm_ros.structures import Reconstruction

Float64 = NDArray[np.float64]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def clip_plan(height: int, width: int, side: int) -> ResizePlan:
    """Return how an image becomes CLIP's square: shorter side to `side`, then the centre."""
    if width <= height:
        size = (int(side * height / width), side)
    else:
        size = (side, int(side * width / height))
    return ResizePlan(
        resized_height=size[0],
        resized_width=size[1],
        left=(size[1] - side) // 2,
        top=(size[0] - side) // 2,
        height=side,
        width=side,
    )


def prepare_clip(images: NDArray[np.uint8], side: int) -> Tensor:
    """Return what CLIP's tower reads, (S, H, W, 3) RGB -> (S, 3, side, side).

    Bicubic with antialiasing (PIL), as the public processor does; equality is tested.
    """
    plan = clip_plan(images.shape[1], images.shape[2], side)
    box = (plan.left, plan.top, plan.left + side, plan.top + side)
    cut = [
        np.asarray(
            Image.fromarray(image)
            .resize((plan.resized_width, plan.resized_height), Image.Resampling.BICUBIC)
            .crop(box)
        )
        for image in images
    ]
    pixels = torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    return (pixels - mean) / std


def lift_clip_patches(
    rec: Reconstruction, frames: Sequence[int], side: int, patch: int
) -> tuple[Float64, NDArray[np.bool_]]:
    """Place CLIP's patches in the window's world.

    Args:
        rec: the window.
        frames: which of its frames.
        side: of CLIP's square, px.
        patch: px.

    Returns:
        places (F, N, 3), m, patches in row order; which of them are known (F, N).
    """
    height, width = rec.depth.shape[1:]
    plan = clip_plan(height, width, side)
    chosen = list(frames)
    first = np.arange(0, side - patch + 1, patch)
    rows = _nearest(first + plan.top, height, plan.resized_height)
    columns = _nearest(first + plan.left, width, plan.resized_width)
    depth = rec.depth[chosen][:, rows][:, :, columns].astype(np.float64)
    valid = rec.valid[chosen][:, rows][:, :, columns] & np.isfinite(depth) & (depth > 0)
    depth = np.where(valid, depth, 0.0)
    K = scale_K(rec.K[chosen], plan.resized_width / width, plan.resized_height / height)
    K = crop_K(K, plan.left, plan.top)
    x = (first - K[:, 0, 2, None]) / K[:, 0, 0, None]  # (F, w)
    y = (first - K[:, 1, 2, None]) / K[:, 1, 1, None]  # (F, h)
    points = np.stack([x[:, None] * depth, y[:, :, None] * depth, depth], axis=-1)
    pose = np.asarray(rec.T_world_camera, np.float64)[chosen]
    flat = points.reshape(len(chosen), -1, 3)
    placed = flat @ np.swapaxes(pose[:, :3, :3], 1, 2) + pose[:, None, :3, 3]
    return placed, valid.reshape(len(chosen), -1)


def _nearest(target: NDArray[np.int_], source_size: int, target_size: int) -> NDArray[np.int_]:
    """Return which source pixel lies under the centre of each target pixel."""
    found = np.floor((target + 0.5) * source_size / target_size).astype(int)
    return np.clip(found, 0, source_size - 1)
