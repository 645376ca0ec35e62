# SPDX-License-Identifier: Apache-2.0
"""Corners are followed where keyframes or the network need them, and only there."""

import numpy as np
import pytest

from vidllm_ros.geometry.corner_follower import CornerFollower
from vidllm_ros.network.configuration import VidLLMConfig
from vidllm_ros.network.vidllm import VidLLM
from vidllm_ros.streaming.backend import StandInBackend, uses_corners
from vidllm_ros.streaming.session import Session, SessionSettings
from vidllm_ros.streaming.window import Arrival, FrameWindow, WindowSettings

PERIOD_NS = 200_000_000


@pytest.fixture
def followed(monkeypatch):
    """Count the frames that corners are followed into."""
    seen = []
    real = CornerFollower.add
    monkeypatch.setattr(
        CornerFollower, "add", lambda self, *image: (seen.append(1), real(self, *image))[1]
    )
    return seen


def picture(index):
    return np.random.default_rng(index).integers(0, 256, (48, 64, 3), np.uint8)


def settings(keyframe_motion, size):
    return WindowSettings(
        size=size, stride=1, min_frames=1, min_shared=0, keyframe_motion=keyframe_motion
    )


@pytest.mark.parametrize(
    ("keyframe_motion", "size", "gives_corners", "is_following"),
    [
        (0.0, 4, False, False),
        (0.0, 1, True, False),
        (0.1, 1, True, False),
        (0.0, 4, True, True),
        (0.1, 4, False, True),
    ],
)
def test_followed_where_something_asks(
    followed, keyframe_motion, size, gives_corners, is_following
):
    window = FrameWindow(settings(keyframe_motion, size), gives_corners=gives_corners)
    arrivals = [window.add(i * PERIOD_NS, picture(i)).arrival for i in range(4)]
    assert len(followed) == (4 if is_following else 0)
    assert arrivals == [Arrival.KEPT] * 4  # noise: every view is another
    assert (window.take().frames.corners is not None) == is_following


def test_the_backend_says_whether_it_reads_them(followed):
    class Reader(StandInBackend):
        uses_corners = True

    asked = SessionSettings(window=settings(0.0, 4))
    for backend, count in ((StandInBackend(), 0), (Reader(), 1)):
        Session(backend, asked).add_frame(0, picture(0))
        assert len(followed) == count
    assert uses_corners(object())  # who says nothing is given them


@pytest.mark.parametrize(
    ("refinement", "expected"), [("none", False), ("bundle_adjustment", True)]
)
def test_the_network_reads_them_for_its_poses(refinement, expected):
    model = VidLLM.__new__(VidLLM)  # no weights: only what the config says
    model.__dict__["config"] = VidLLMConfig(pose_refinement=refinement)
    assert uses_corners(model) is expected
