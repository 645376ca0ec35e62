# SPDX-License-Identifier: Apache-2.0
"""Intrinsics that come late count for all windows, or a new world begins: it has one metre."""

import numpy as np
import pytest

from vidllm_ros.geometry.image import resize_frames
from vidllm_ros.streaming.window import Arrival, FrameWindow, WindowSettings

PERIOD_NS = 200_000_000
K = np.array([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]])
SETTINGS = {"size": 8, "stride": 4, "min_frames": 4, "min_shared": 3, "keyframe_motion": 0.0}


def picture(index):
    """The same view, a little brighter each time: no motion, and never still."""
    return np.random.default_rng(0).integers(0, 100, (48, 64, 3), np.uint8) + np.uint8(3 * index)


def lead(window, first_with_K, count=40, take=True, **kwargs):
    """Add frames, those from `first_with_K` on with K; return what was added and taken."""
    added, taken = [], []
    for i in range(count):
        lens = {"K": K, **kwargs} if i >= first_with_K else {}
        added.append(window.add(i * PERIOD_NS, picture(i), **lens))
        if added[-1].is_ready and take:
            taken.append(window.take())
    return added, taken


@pytest.mark.parametrize("late", [1, 3])
@pytest.mark.parametrize("keyframe_motion", [0.0, 1.0])
def test_the_first_frames_are_given_the_lens(late, keyframe_motion):
    """Without motion the first frame, which is always a keyframe, is in every window."""
    window = FrameWindow(
        WindowSettings(**{**SETTINGS, "keyframe_motion": keyframe_motion, "keyframe_gap_s": 1e6})
    )
    added, taken = lead(window, late)
    assert len(taken) >= 8
    for each in taken:
        np.testing.assert_array_equal(each.frames.K, np.tile(K, (len(each.frames.images), 1, 1)))
    held = late if keyframe_motion == 0 else min(late, 2)  # the keyframe and the newest
    assert [one.calibrated for one in added if one.calibrated] == [held]
    assert (taken[-1].frames.stamps_ns[0] == 0) == (keyframe_motion == 1.0)
    assert (window.world, window.counts.restarts) == (0, 0)


def test_it_is_the_lens_of_the_small_image():
    window = FrameWindow(
        WindowSettings(**SETTINGS), prepare=lambda frames: resize_frames(frames, 28, 14, "width")
    )
    _, taken = lead(window, 1)
    assert taken[0].frames.images.shape[2] == 28
    np.testing.assert_array_equal(taken[0].frames.K[0], taken[0].frames.K[1])
    assert taken[0].frames.K[0, 0, 0] == pytest.approx(60 * 28 / 64)


def test_a_window_that_waits_to_be_taken_is_given_it_as_well():
    window = FrameWindow(WindowSettings(**SETTINGS))
    lead(window, 4, count=5, take=False)
    assert window.take().frames.K is not None


def test_after_a_window_without_it_a_new_world_begins():
    """What was mapped has another metre, and joined windows are not rescaled."""
    window = FrameWindow(WindowSettings(**SETTINGS))
    added, taken = lead(window, 6)
    assert "intrinsics came" in added[6].restarted
    assert added[6].arrival is Arrival.KEPT
    assert [(each.world, each.frames.K is not None) for each in taken[:3]] == [
        (0, False), (1, True), (1, True),
    ]  # fmt: skip
    assert window.counts.restarts == 1


def test_frames_that_were_not_undistorted_are_left_behind():
    window = FrameWindow(WindowSettings(**SETTINGS))
    added, taken = lead(window, 1, is_remapped=True)
    assert "not undistorted" in added[1].restarted
    assert taken[0].frames.stamps_ns[0] == PERIOD_NS
    assert all(each.frames.K is not None for each in taken)
    assert window.counts.restarts == 1


def test_a_frame_out_of_order_with_a_lens_is_dropped_and_changes_nothing():
    window = FrameWindow(WindowSettings(**SETTINGS))
    window.add(PERIOD_NS, picture(0))
    assert window.add(PERIOD_NS, picture(1), K=K, is_remapped=True).arrival is Arrival.DROPPED
    assert window.counts.restarts == 0


def test_a_lens_that_changes_stays_each_frames_own():
    window = FrameWindow(WindowSettings(**SETTINGS))
    for i in range(4):
        window.add(i * PERIOD_NS, picture(i), K=K + i, is_remapped=True)
    np.testing.assert_array_equal(window.take().frames.K[:, 0, 0], 60.0 + np.arange(4))
    assert window.counts.restarts == 0
