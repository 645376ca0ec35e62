# SPDX-License-Identifier: Apache-2.0
"""What CLIP sees and where it is, against the public processor and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from vidllm_ros.network.concat_clip import clip_plan, lift_clip_patches, prepare_clip
from vidllm_ros.structures import Reconstruction, SceneContext


@pytest.mark.parametrize("size", [(480, 640), (392, 518), (640, 480), (336, 336), (100, 450)])
def test_pixels_equal_the_public_processors(size: tuple[int, int]) -> None:
    images = np.random.default_rng(0).integers(0, 255, (2, *size, 3), dtype=np.uint8)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}
    )
    wanted = processor(images=list(images), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(prepare_clip(images, 336), wanted)


def window(depth: np.ndarray, K: np.ndarray, T_world_camera: np.ndarray) -> Reconstruction:
    """Return a window of given geometry; depth that is 0 counts as unknown."""
    count, height, width = depth.shape
    stamps = tuple(range(count))
    return Reconstruction(
        images=np.zeros((count, height, width, 3), np.uint8),
        stamps_ns=stamps,
        depth=depth.astype(np.float32),
        valid=depth > 0,
        confidence=np.ones(depth.shape, np.float32),
        K=K,
        T_world_camera=T_world_camera,
        scale=1.0,
        scale_spread=0.0,
        scene=SceneContext(torch.zeros(0, 0), torch.zeros(0, 3), stamps, T_world_camera),
    )


def test_a_patch_is_at_its_top_left_pixel() -> None:
    # 56 x 84 becomes 28 x 42, of which columns 7 to 35 are CLIP's: pixel (0, 0) of the square is
    # (7, 0) of the small image and lies between columns 14 and 15 of the whole one.
    plan = clip_plan(56, 84, 28)
    assert (plan.resized_height, plan.resized_width, plan.left, plan.top) == (28, 42, 7, 0)
    K = np.array([[[50.0, 0, 41.5], [0, 60.0, 27.5], [0, 0, 1]]] * 2)
    pose = np.tile(np.eye(4), (2, 1, 1))
    pose[1, :3, :3] = [[0, 0, 1], [0, 1, 0], [-1, 0, 0]]
    pose[1, :3, 3] = [1.0, 2.0, 3.0]
    depth = np.full((2, 56, 84), 9.0)
    depth[:, 1, 15] = 2.0  # what pixel (0, 0) of the square shows
    depth[:, 29, 43] = 0.0  # patch (1, 1): pixel (14, 14), unknown
    points, valid = lift_clip_patches(window(depth, K, pose), [0, 1], 28, 14)
    assert points.shape == (2, 4, 3)
    assert valid.tolist() == [[True, True, True, False]] * 2
    ray = np.array([(14.5 - 41.5) / 50.0, (0.5 - 27.5) / 60.0, 1.0])
    np.testing.assert_allclose(points[0, 0], 2.0 * ray)
    np.testing.assert_allclose(points[1, 0], pose[1, :3, :3] @ (2.0 * ray) + [1.0, 2.0, 3.0])
    right = np.array([(42.5 - 41.5) / 50.0, (0.5 - 27.5) / 60.0, 1.0])
    np.testing.assert_allclose(points[0, 1], 9.0 * right)


def test_frames_are_chosen_by_number() -> None:
    K = np.array([[[50.0, 0, 27.5], [0, 50.0, 27.5], [0, 0, 1]]] * 3)
    depth = np.stack([np.full((56, 56), z) for z in (1.0, 2.0, 3.0)])
    points, _ = lift_clip_patches(window(depth, K, np.tile(np.eye(4), (3, 1, 1))), [2, 0], 28, 14)
    assert points[:, 0, 2].tolist() == [3.0, 1.0]
