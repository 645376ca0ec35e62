# SPDX-License-Identifier: Apache-2.0
"""One odd frame is dropped, three in a row are followed; what shows nothing is said."""

from __future__ import annotations

import numpy as np
import pytest

from vidllm_ros.ros.frame_gate import FOLLOW_AFTER, FrameGate, Shape, blindness

A = Shape(640, 480, "rgb8", "camera")
B = Shape(320, 240, "rgb8", "camera")
C = Shape(640, 480, "bgr8", "camera")


def test_odd_frames_between_good_ones_never_get_in() -> None:
    gate = FrameGate()
    for shape in [A, B, A, B, C, A, C, B]:
        assert (gate.refuse(shape) == "") == (shape == A)


def test_a_lasting_change_is_followed() -> None:
    gate = FrameGate()
    gate.refuse(A)
    refused = [bool(gate.refuse(B)) for _ in range(FOLLOW_AFTER + 1)]
    assert refused == [True] * (FOLLOW_AFTER - 1) + [False, False]
    assert "640x480 rgb8" in gate.refuse(A)


@pytest.mark.parametrize("level", [0, 3, 128, 255])
@pytest.mark.parametrize("size", [(480, 640), (42, 56), (7, 9), (1080, 1920)])
def test_a_covered_lens_shows_nothing(level: int, size: tuple[int, int]) -> None:
    words = blindness(np.full((*size, 3), level, np.uint8))
    assert f"of one brightness ({level} of 255, deviation 0.0)" in words


@pytest.mark.parametrize("deviation", [2.0, 8.0, 20.0])
@pytest.mark.parametrize("size", [(480, 640), (240, 320), (120, 160)])
def test_grain_is_no_picture(deviation: float, size: tuple[int, int]) -> None:
    grain = np.random.default_rng(0).normal(40.0, deviation, (*size, 3))
    assert "is the lens covered" in blindness(grain.clip(0, 255).astype(np.uint8))


def test_a_blank_wall_a_lamp_in_the_dark_and_fine_patterns_show_something() -> None:
    wall = np.full((480, 640, 3), 180, np.float32)
    wall += 3.0 * np.linspace(-1, 1, 640)[None, :, None]  # light falls off from left to right
    assert blindness(wall.astype(np.uint8)) == ""
    lamp = np.zeros((480, 640, 3), np.uint8)
    lamp[200:230, 300:330] = 255
    assert blindness(lamp) == ""
    chequers = np.kron(np.indices((24, 32)).sum(0) % 2, np.ones((20, 20)))[..., None] * 255
    assert blindness(np.repeat(chequers, 3, axis=-1).astype(np.uint8)) == ""
