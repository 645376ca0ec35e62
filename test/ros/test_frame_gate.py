# SPDX-License-Identifier: Apache-2.0
"""One odd frame is dropped, three in a row are followed."""

from __future__ import annotations

from vidllm_ros.ros.frame_gate import FOLLOW_AFTER, FrameGate, Shape

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
