# SPDX-License-Identifier: Apache-2.0
"""Each reading of "shorter side to 518", and intrinsics that follow the pixels."""

import cv2
import numpy as np
import pytest

from vidllm_ros.geometry.camera import project
from vidllm_ros.geometry.image import ResizePlan, plan_resize, resize_frames, resize_image
from vidllm_ros.structures import Frames


@pytest.mark.parametrize(
    ("height", "width", "image_size", "mode", "plan"),
    [
        (480, 640, 518, "width", ResizePlan(392, 518, 0, 0, 392, 518)),
        (640, 480, 518, "width", ResizePlan(686, 518, 0, 84, 518, 518)),
        (480, 640, 518, "shorter", ResizePlan(518, 691, 2, 0, 518, 686)),
        (480, 640, 518, "square", ResizePlan(518, 691, 86, 0, 518, 518)),
        (84, 112, 112, "width", ResizePlan(84, 112, 0, 0, 84, 112)),
        (20, 2000, 112, "width", ResizePlan(14, 112, 0, 0, 14, 112)),
    ],
)
def test_plan(height, width, image_size, mode, plan):
    assert plan_resize(height, width, image_size, 14, mode) == plan


@pytest.mark.parametrize("mode", ["width", "shorter", "square"])
@pytest.mark.parametrize("size", [(480, 640), (641, 479), (123, 457), (15, 14)])
def test_box_is_whole_patches_inside_the_resized_image(mode, size):
    plan = plan_resize(*size, 112, 14, mode)
    assert plan.height % 14 == 0
    assert plan.width % 14 == 0
    assert 0 <= plan.top <= plan.resized_height - plan.height
    assert 0 <= plan.left <= plan.resized_width - plan.width


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((1, 1, 112, 14, "width"), "at least 14 x 14 px, got 1 x 1"),
        ((100, 100, 100, 14, "width"), "multiple of 14"),
        ((100, 100, 112, 14, "height"), "'width', 'shorter' or 'square'"),
    ],
)
def test_plan_says_what_is_wrong(arguments, words):
    with pytest.raises(ValueError, match=words):
        plan_resize(*arguments)


@pytest.mark.parametrize("mode", ["width", "shorter", "square"])
@pytest.mark.parametrize(("height", "width"), [(240, 320), (320, 240), (60, 80)])
def test_intrinsics_follow_a_painted_dot(mode, height, width):
    K = np.array([[300.0, 0, width / 2 - 0.5], [0, 300.0, height / 2 - 0.5], [0, 0, 1]])
    u, v = width // 2 + 9, height // 2 - 11
    image = np.zeros((height, width, 3), np.uint8)
    image[v - 2 : v + 3, u - 2 : u + 3] = 255
    frames = Frames(np.stack([image, image]), (5, 6), "left_optical_frame", np.stack([K, K]))
    small = resize_frames(frames, 112, 14, mode)
    assert small.stamps_ns == (5, 6)
    assert small.frame_id == "left_optical_frame"
    assert small.images.dtype == np.uint8
    weights = small.images[1, :, :, 0] / small.images[1, :, :, 0].sum()
    rows, columns = np.indices(weights.shape)
    found = [(weights * columns).sum(), (weights * rows).sum()]
    ray = np.array([[(u - K[0, 2]) / 300, (v - K[1, 2]) / 300, 1.0]])
    uv, _ = project(ray, small.K[1])
    np.testing.assert_allclose(uv[0], found, atol=0.1)


def test_same_size_is_left_untouched_and_uncalibrated_stays_so():
    images = np.random.default_rng(0).integers(0, 256, (2, 84, 112, 3), np.uint8)
    small = resize_frames(Frames(images, (0, 1)), 112, 14, "width")
    np.testing.assert_array_equal(small.images, images)
    assert small.K is None


@pytest.mark.parametrize("size", [(480, 640), (481, 641), (1080, 1920), (1440, 1920)])
def test_a_much_larger_image_comes_out_as_from_one_pass(size):
    """Halved first or not, it is the mean over areas: one grey level apart, nothing moved."""
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    image = cv2.normalize(
        cv2.GaussianBlur(noise, (0, 0), size[1] / 160), None, 0, 255, cv2.NORM_MINMAX
    )
    plan = plan_resize(*size, 112, 14, "width")
    got = resize_image(image, plan).astype(float)
    once = cv2.resize(image, (plan.resized_width, plan.resized_height), interpolation=3)
    once = once[plan.top :, plan.left :][: plan.height, : plan.width].astype(float)
    assert np.abs(got - once).mean() < 1.0
    assert abs((got - once).mean()) < 0.6
    assert np.abs(got - once).max() <= 12
