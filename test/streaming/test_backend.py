# SPDX-License-Identifier: Apache-2.0
"""The stand-in keeps the contract of a network, the same every time, and never hides."""

import numpy as np
import pytest

from vidllm_ros.streaming.backend import StandInBackend
from vidllm_ros.structures import Frames


def make_frames(count=3, first_ns=10**18, height=60, width=80):
    images = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)
    return Frames(images, tuple(first_ns + i * 10**9 for i in range(count)), "eye_optical_frame")


def test_wall_stands_where_it_stands():
    backend, frames = StandInBackend(), make_frames()
    rec = backend.reconstruct(frames)
    assert rec.stamps_ns == frames.stamps_ns
    assert rec.frame_id == "eye_optical_frame"
    np.testing.assert_array_equal(rec.depth, np.full((3, 84, 112), 2.0, np.float32))
    np.testing.assert_array_equal(rec.T_world_camera[0], np.eye(4))
    np.testing.assert_allclose(rec.T_world_camera[:, 0, 3], [0, 0.05, 0.1])
    again = StandInBackend().reconstruct(frames)
    for name in ("images", "depth", "confidence", "K", "T_world_camera"):
        np.testing.assert_array_equal(getattr(again, name), getattr(rec, name))


def test_every_word_says_what_it_is():
    backend = StandInBackend()
    scene = backend.reconstruct(make_frames()).scene
    answer = backend.answer(scene, "is there a chair?")
    assert answer.text.startswith("stand-in:")
    assert "is there a chair?" in answer.text
    assert answer.confidence == 0
    assert answer.stamps_ns == scene.stamps_ns
    (found,) = backend.ground(scene, "chair")
    assert found.label == "chair"
    assert backend.describe(scene, found).text.startswith("stand-in:")
    assert [box.label for box in backend.detect(scene)] == ["stand-in"]


def test_images_smaller_than_a_patch_are_refused():
    with pytest.raises(ValueError, match="at least 14 x 14 px"):
        StandInBackend().reconstruct(make_frames(height=1, width=1))
