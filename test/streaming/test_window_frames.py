# SPDX-License-Identifier: Apache-2.0
"""Which frames stay and which make a window: joined to the last one, even in time, bounded."""

from __future__ import annotations

import numpy as np
import pytest

from vidllm_ros.streaming.window_frames import KeptFrame, bounded, composed, join_frames, thinned

RGB = np.zeros((4, 6, 3), np.uint8)


def kept(*stamps: int, K: np.ndarray | None = None) -> list[KeptFrame]:
    return [KeptFrame(stamp, RGB, K, None) for stamp in stamps]


def stamps(frames: list[KeptFrame]) -> list[int]:
    return [frame.stamp_ns for frame in frames]


def test_without_a_window_before_it_the_newest_make_one() -> None:
    assert stamps(composed(kept(*range(10)), [], 4, 2)) == [6, 7, 8, 9]


def test_a_window_that_reaches_back_far_enough_is_the_newest() -> None:
    frames = kept(*range(10))
    assert stamps(composed(frames, frames[4:8], 4, 2)) == [6, 7, 8, 9]
    assert stamps(composed(frames, frames[:2], 4, 0)) == [6, 7, 8, 9]  # nothing is to be shared


def test_a_late_window_begins_with_anchors_and_spreads_the_rest() -> None:
    frames = kept(*range(21))
    window = composed(frames, frames[:4], 6, 2)
    assert stamps(window)[:2] == [2, 3]
    assert window[-1] is frames[-1]
    gaps = np.diff(stamps(window)[1:])
    assert gaps.max() <= 2 * gaps.min()
    assert stamps(composed(frames, frames[:4], 2, 8)) == [3, 20]  # one frame at least is new


def test_memory_is_bounded_by_two_windows_however_late() -> None:
    anchors, frames = kept(0, 1), []
    for stamp in range(2, 500):
        frames = bounded([*frames, *kept(stamp)], anchors, 8)
    assert stamps(frames)[-8:] == list(range(492, 500))
    assert len(frames) == 16
    gaps = np.diff([1, *stamps(frames)[:8]])
    assert gaps.max() <= 4 * gaps.min()
    assert stamps(bounded(frames, [], 8)) == list(range(492, 500))


@pytest.mark.parametrize("count", [1, 3, 7])
def test_thinning_keeps_the_last(count: int) -> None:
    frames = kept(1, 2, 3, 50, 51, 99, 100)
    assert thinned(frames, count, 0)[-1] is frames[-1]
    assert len(thinned(frames, count, 0)) == count


def test_intrinsics_are_given_where_every_frame_has_them() -> None:
    with_K = kept(1, 2, K=np.eye(3))
    assert join_frames(with_K, "cam").K.shape == (2, 3, 3)
    joined = join_frames([*with_K, *kept(3)], "cam")
    assert (joined.K, joined.corners, joined.frame_id) == (None, None, "cam")
    assert joined.stamps_ns == (1, 2, 3)
