# SPDX-License-Identifier: Apache-2.0
"""Bring frames to the network's size, with their intrinsics.

The paper's sentence "shorter side to 518, cropped to multiples of 14" has three readings; all are
here and `VidLLMConfig.resize_mode` names the one in use. Next: network/vidllm.py, which calls this
before the encoder.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vidllm_ros.geometry.camera import crop_K, scale_K
from vidllm_ros.structures import Corners, Frames


@dataclass(frozen=True)
class ResizePlan:
    """First resize the whole image, then cut a box out of it.

    Attributes:
        resized_height, resized_width: size after resizing, px.
        left, top: corner of the box in the resized image, px.
        height, width: size of the box, px: multiples of the patch.
    """

    resized_height: int
    resized_width: int
    left: int
    top: int
    height: int
    width: int


def plan_resize(
    height: int, width: int, image_size: int, patch_size: int, mode: str
) -> ResizePlan:
    """Choose the resize and the crop for images of one size.

    Source: VGGT's loader ("width"), the paper's text ("shorter"), its square reading ("square").

    Args:
        height: of the source image, px.
        width: of the source image, px.
        image_size: target of the side that `mode` names, px, a multiple of `patch_size`.
        patch_size: px.
        mode: "width": width to image_size, height to the nearest multiple of the patch, its centre
            kept where it is more than image_size; "shorter": shorter side to image_size, both
            sides cut to multiples; "square": the centre square.

    Raises:
        ValueError: the image is smaller than one patch, or an argument is not as described.
    """
    if height < patch_size or width < patch_size:
        raise ValueError(
            f"images: expected at least {patch_size} x {patch_size} px, got {width} x {height}; "
            "use a larger image"
        )
    if image_size < patch_size or image_size % patch_size:
        raise ValueError(f"image_size: expected a multiple of {patch_size} px, got {image_size}")
    if mode == "width":
        full_width = image_size
        full_height = max(round(height * image_size / width / patch_size), 1) * patch_size
    elif mode in ("shorter", "square"):
        factor = image_size / min(height, width)
        full_height, full_width = round(height * factor), round(width * factor)
    else:
        raise ValueError(f"mode: expected 'width', 'shorter' or 'square', got {mode!r}")
    if mode == "shorter":
        box_height = full_height // patch_size * patch_size
        box_width = full_width // patch_size * patch_size
    else:
        box_height, box_width = min(full_height, image_size), min(full_width, image_size)
    return ResizePlan(
        resized_height=full_height,
        resized_width=full_width,
        left=(full_width - box_width) // 2,
        top=(full_height - box_height) // 2,
        height=box_height,
        width=box_width,
    )


def resize_image(image: NDArray[np.uint8], plan: ResizePlan) -> NDArray[np.uint8]:
    """Resize and crop one image (H, W, 3) or (H, W): area when shrinking, cubic when growing.

    A much larger image is halved first, by means of 2 x 2 pixels: half the time. Each halving
    rounds up, an eighth of a grey level on average; fine texture differs by one or two on average
    from the area's mean taken at once.
    """
    while _is_much_larger(image, plan):
        half = (image.shape[1] // 2, image.shape[0] // 2)
        image = np.asarray(cv2.resize(image, half, interpolation=cv2.INTER_AREA), np.uint8)
    height, width = image.shape[:2]
    if (height, width) != (plan.resized_height, plan.resized_width):
        shrinks = plan.resized_height * plan.resized_width < height * width
        how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        size = (plan.resized_width, plan.resized_height)
        image = np.asarray(cv2.resize(image, size, interpolation=how), np.uint8)
    rows = slice(plan.top, plan.top + plan.height)
    return np.ascontiguousarray(image[rows, plan.left : plan.left + plan.width])


def _is_much_larger(image: NDArray[np.uint8], plan: ResizePlan) -> bool:
    """Whether halves of an image's sides are whole and still at least twice what is wanted."""
    height, width = image.shape[:2]
    is_even = height % 2 == 0 and width % 2 == 0
    return is_even and height >= 4 * plan.resized_height and width >= 4 * plan.resized_width


def resize_K(
    K: NDArray[np.float64], height: int, width: int, plan: ResizePlan
) -> NDArray[np.float64]:
    """Carry intrinsics (..., 3, 3) of a (height, width) image through the plan."""
    scaled = scale_K(K, plan.resized_width / width, plan.resized_height / height)
    return crop_K(scaled, plan.left, plan.top)


def _resize_corners(seen: Corners, height: int, width: int, plan: ResizePlan) -> Corners:
    A = resize_K(np.eye(3), height, width, plan)
    return Corners(seen.ids, seen.uv * A[[0, 1], [0, 1]] + A[:2, 2])


def resize_frames(frames: Frames, image_size: int, patch_size: int, mode: str) -> Frames:
    """Resize and crop frames to the network's size and adjust their K and corners.

    Raises:
        ValueError: the images are too small, see `plan_resize`.
    """
    height, width = frames.images.shape[1:3]
    plan = plan_resize(height, width, image_size, patch_size, mode)
    return Frames(
        images=np.stack([resize_image(image, plan) for image in frames.images]),
        stamps_ns=frames.stamps_ns,
        frame_id=frames.frame_id,
        K=None if frames.K is None else resize_K(frames.K, height, width, plan),
        corners=None
        if frames.corners is None
        else tuple(_resize_corners(seen, height, width, plan) for seen in frames.corners),
    )
