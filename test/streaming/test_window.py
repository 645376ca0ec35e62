# SPDX-License-Identifier: Apache-2.0
"""Windows follow from stamps alone, share frames, and begin anew where they must."""

import numpy as np
import pytest

from vidllm_ros.streaming.window import Arrival, FrameWindow, WindowSettings
from vidllm_ros.structures import Frames

PERIOD_NS = 200_000_000
SMALL = {"size": 8, "stride": 2, "min_frames": 4, "min_shared": 3}


def picture(value=0, height=6, width=8):
    return np.full((height, width, 3), value % 256, np.uint8)


def make_window(**changes):
    return FrameWindow(WindowSettings(**{**SMALL, **changes}))


def feed(window, count, first=0, take=True):
    """Add frames of stamps first.. in periods; return the windows as places in the film."""
    taken = []
    for i in range(first, first + count):
        if window.add(i * PERIOD_NS, picture(i)).is_ready and take:
            taken.append(places(window.take()))
    return taken


def places(window):
    return [stamp // PERIOD_NS for stamp in window.frames.stamps_ns]


def test_windows_grow_to_their_size_and_then_slide():
    assert feed(make_window(), 13) == [
        [0, 1, 2, 3],
        [0, 1, 2, 3, 4, 5],
        [0, 1, 2, 3, 4, 5, 6, 7],
        [2, 3, 4, 5, 6, 7, 8, 9],
        [4, 5, 6, 7, 8, 9, 10, 11],
    ]


def test_only_full_windows_where_asked_for():
    assert feed(make_window(min_frames=8), 11) == [list(range(8)), list(range(2, 10))]


def test_frames_carry_their_own_image_stamp_and_intrinsics():
    window = make_window(min_frames=2)
    for i in range(2):
        window.add(i * PERIOD_NS, picture(i), "eye_optical_frame", np.eye(3) * (i + 1))
    taken = window.take()
    assert taken.frames.frame_id == "eye_optical_frame"
    assert (taken.world, taken.index) == (0, 0)
    np.testing.assert_array_equal(taken.frames.images[:, 0, 0, 0], [0, 1])
    np.testing.assert_array_equal(taken.frames.K[:, 0, 0], [1, 2])
    assert window.take() is None


def test_one_frame_without_intrinsics_leaves_the_window_uncalibrated():
    window = make_window(min_frames=2)
    window.add(0, picture(), K=np.eye(3))
    window.add(PERIOD_NS, picture())
    assert window.take().frames.K is None


def test_same_frames_give_the_same_windows_whenever_they_are_taken():
    """A window is what was there when it became ready, not what is there when it is taken."""
    prompt, late = make_window(), make_window()
    for i in range(4):
        prompt.add(i * PERIOD_NS, picture(i))
        late.add(i * PERIOD_NS, picture(i))
    want = places(prompt.take())
    late.add(4 * PERIOD_NS, picture(4))
    assert places(late.take()) == want


def test_newer_window_replaces_one_not_taken_and_is_counted():
    window = make_window()
    feed(window, 6, take=False)
    assert window.counts.skipped_windows == 1
    assert places(window.take()) == [0, 1, 2, 3, 4, 5]


def test_slow_network_still_gets_windows_that_share_frames():
    window = make_window()
    feed(window, 4)
    feed(window, 60, first=4, take=False)
    taken = window.take()
    chosen = places(taken)
    assert chosen[:3] == [1, 2, 3]
    assert chosen[-1] == 63
    assert len(chosen) == 8
    assert chosen == sorted(set(chosen))
    assert np.diff(chosen[2:]).max() < 24  # spread over the time between
    window.settle(is_placed=True)
    feed(window, 100, first=64, take=False)
    assert places(window.take())[:3] == chosen[-3:]


def test_memory_is_bounded_however_slow_the_network_is():
    window = make_window()
    feed(window, 4)
    feed(window, 500, first=4, take=False)
    assert window.held_count <= 2 * 8 + 3


def test_window_that_found_no_place_does_not_become_the_anchor():
    window = make_window()
    feed(window, 4)
    window.settle(is_placed=True)
    feed(window, 20, first=4)
    window.settle(is_placed=False)
    feed(window, 30, first=24, take=False)
    assert places(window.take())[:3] == [1, 2, 3]


def test_last_frames_of_a_film_come_when_asked_for():
    window = make_window()
    feed(window, 3)
    assert window.take() is None
    assert places(window.take(partial=True)) == [0, 1, 2]
    assert window.take(partial=True) is None
    assert feed(window, 1, first=3) == [[0, 1, 2, 3]]  # due, as it would have been
    feed(window, 1, first=4)
    assert places(window.take(partial=True)) == [0, 1, 2, 3, 4]


def test_partial_windows_do_not_move_the_next_ones():
    def due(partial_after):
        window, ends = make_window(), []
        for i in range(40):
            is_ready = window.add(i * PERIOD_NS, picture(i)).is_ready
            taken = window.take(partial=i in partial_after)
            if is_ready:
                ends.append(places(taken))
        return ends

    wanted = due(())
    assert len(wanted) > 5
    assert due((2, 3, 12)) == wanted  # before the first window is due, and between two


def test_a_pause_is_no_gap():
    window = make_window()
    feed(window, 10)
    window.expect_gap()
    added = window.add(100 * PERIOD_NS, picture())
    assert added.restarted == ""
    assert window.world == 0
    assert "no frame for" in window.add(200 * PERIOD_NS, picture()).restarted  # only once


@pytest.mark.parametrize("rate_hz", [30, 60])
def test_fast_cameras_are_thinned_by_stamp(rate_hz):
    window = make_window(min_gap_s=0.1)
    rng = np.random.default_rng(0)
    kept = []
    for i in range(3 * rate_hz):
        stamp = round((i + rng.uniform(-0.1, 0.1)) / rate_hz * 1e9)
        if window.add(stamp, picture(i)).arrival is Arrival.KEPT:
            kept.append(stamp)
    gaps_s = np.diff(kept) * 1e-9
    assert gaps_s.min() >= 0.094
    assert np.median(gaps_s) == pytest.approx(0.1, abs=0.01)
    assert window.counts.passed_over == 3 * rate_hz - len(kept)


def test_still_camera_adds_nothing_until_it_moves():
    window = make_window(min_motion=3.0)
    assert window.add(0, picture(100)).arrival is Arrival.KEPT
    for i in range(1, 5):
        assert window.add(i * PERIOD_NS, picture(101)).arrival is Arrival.STILL
    assert window.add(5 * PERIOD_NS, picture(110)).arrival is Arrival.KEPT
    assert (window.counts.kept, window.counts.still, window.kept_count) == (2, 4, 2)


def test_still_camera_goes_on_at_the_same_pace_with_the_newest_frame():
    """The views that were kept stay in the window, however long the camera stands."""
    window = make_window(min_motion=3.0)
    moving = [window.add(i * PERIOD_NS, picture(10 * i)).is_ready for i in range(8)]
    assert [i for i, is_ready in enumerate(moving) if is_ready] == [3, 5, 7]
    assert not window.take().is_still
    taken = []
    for i in range(8, 108):
        if window.add(i * PERIOD_NS, picture(71 + i % 2)).is_ready:
            taken.append(window.take())
    assert len(taken) == 50
    assert all(entry.is_still for entry in taken)
    for n, entry in enumerate(taken):
        assert places(entry) == [1, 2, 3, 4, 5, 6, 7, 9 + 2 * n]
    assert window.held_count <= 9
    window.add(108 * PERIOD_NS, picture(90))
    window.add(109 * PERIOD_NS, picture(100))
    moved = window.take()
    assert not moved.is_still
    assert places(moved) == [2, 3, 4, 5, 6, 7, 108, 109]


def test_still_from_the_beginning_gives_a_first_window_in_time():
    window = make_window(min_motion=3.0)
    taken = []
    for i in range(8):
        if window.add(i * PERIOD_NS, picture(5)).is_ready:
            taken.append(window.take())
    assert [places(entry) for entry in taken] == [[0, 3], [0, 5], [0, 7]]
    assert [entry.is_still for entry in taken] == [False, True, True]


def test_still_window_after_one_that_was_skipped_or_failed_has_something_new():
    window = make_window(min_motion=3.0)
    for i in range(8):
        window.add(i * PERIOD_NS, picture(10 * i))  # never taken
    window.add(8 * PERIOD_NS, picture(71))
    window.add(9 * PERIOD_NS, picture(71))
    first = window.take()
    assert (places(first)[-2:], first.is_still) == ([7, 9], False)
    window.settle(is_placed=False)
    window.add(10 * PERIOD_NS, picture(71))
    window.add(11 * PERIOD_NS, picture(71))
    assert not window.take().is_still
    window.settle(is_placed=True)
    window.add(12 * PERIOD_NS, picture(71))
    window.add(13 * PERIOD_NS, picture(71))
    assert window.take().is_still


def test_slow_motion_adds_up_until_a_frame_is_kept():
    window = make_window(min_motion=3.0)
    kept = [i for i in range(20) if window.add(i * PERIOD_NS, picture(i)).arrival is Arrival.KEPT]
    assert kept == [0, 3, 6, 9, 12, 15, 18]


def test_noise_is_stillness_and_a_pixel_of_motion_is_not_forever():
    """The default threshold lies between a sensor's noise and a camera's creeping."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(40, 215, (12, 16))
    scene = np.kron(coarse, np.ones((40, 48)))[..., None].repeat(3, axis=-1)
    window = make_window(min_motion=WindowSettings.min_motion)

    def view(shift_px):
        noisy = scene[:480, shift_px : shift_px + 640] + rng.normal(0, 4, (480, 640, 3))
        return noisy.clip(0, 255).astype(np.uint8)

    arrivals = [window.add(i * PERIOD_NS, view(0)).arrival for i in range(10)]
    assert arrivals[1:] == [Arrival.STILL] * 9
    arrivals = [window.add((10 + i) * PERIOD_NS, view(i)).arrival for i in range(10)]
    assert Arrival.BETWEEN in arrivals


def test_frames_are_made_small_once_and_only_those_that_are_used():
    made = []

    def halve(frames):
        made.append(int(frames.images[0, 0, 0, 0]))
        if frames.images.shape[1] < 4:
            raise ValueError("images: expected at least 4 px")
        return Frames(frames.images[:, ::2, ::2], frames.stamps_ns, frames.frame_id)

    window = FrameWindow(WindowSettings(**SMALL, min_gap_s=0.3, min_motion=0.0), prepare=halve)
    for i in range(8):
        window.add(i * PERIOD_NS, picture(i))
    assert made == [0, 2, 4, 6]
    assert window.take().frames.images.shape == (4, 3, 4, 3)
    small = window.add(8 * PERIOD_NS, picture(8, height=2))
    assert small.arrival is Arrival.UNUSABLE
    assert "at least 4 px" in small.problem
    assert not small.restarted  # one bad frame does not cost the map
    assert window.counts.dropped == 1
    assert not window.add(10 * PERIOD_NS, picture(9)).restarted
    assert "image size changed" in window.add(12 * PERIOD_NS, picture(9, height=8)).restarted


def test_backward_jump_begins_a_new_world_and_says_so():
    window = make_window()
    feed(window, 10)
    added = window.add(0, picture())
    assert "jumped back by 1.800 s" in added.restarted
    assert added.arrival is Arrival.KEPT
    assert window.counts.restarts == 1
    assert feed(window, 3, first=1) == [[0, 1, 2, 3]]
    assert window.world == 1


def test_frames_out_of_order_are_dropped_and_counted():
    window = make_window()
    feed(window, 3)
    for stamp in (2 * PERIOD_NS, PERIOD_NS):
        added = window.add(stamp, picture())
        assert added.arrival is Arrival.DROPPED
        assert not added.restarted
    assert window.counts.dropped == 2
    assert feed(window, 1, first=3) == [[0, 1, 2, 3]]


def test_dropped_frames_do_not_move_the_clock():
    window = make_window()
    feed(window, 4)
    window.add(2 * PERIOD_NS, picture())
    assert window.add(3 * PERIOD_NS, picture()).arrival is Arrival.DROPPED


@pytest.mark.parametrize(
    ("stamp", "rgb", "frame_id", "words"),
    [
        (20 * PERIOD_NS + 10**10, picture(), "a", "no frame for"),
        (4 * PERIOD_NS, picture(height=7), "a", "image size changed from 8 x 6 to 8 x 7"),
        (4 * PERIOD_NS, picture(), "b", "camera changed from a to b"),
    ],
)
def test_other_reasons_for_a_new_world(stamp, rgb, frame_id, words):
    window = make_window()
    for i in range(3):
        window.add(i * PERIOD_NS, picture(i), "a")
    added = window.add(stamp, rgb, frame_id)
    assert words in added.restarted
    assert window.world == 1
    assert window.kept_count == 1


def test_restart_throws_a_ready_window_away():
    window = make_window()
    feed(window, 4, take=False)
    window.restart()
    assert window.take() is None
    assert window.take(partial=True) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": 0, "stride": 1, "min_frames": 1}, "size: expected at least 1"),
        ({"stride": 0}, "stride: expected 1 to size"),
        ({"stride": 9}, "stride: expected 1 to size"),
        ({"min_frames": 9}, "min_frames: expected 1 to size"),
        ({"min_gap_s": -1.0}, "min_gap_s: expected at least 0"),
        ({"min_gap_s": float("nan")}, "min_gap_s"),
        ({"max_gap_s": 0.05}, "max_gap_s: expected more than min_gap_s"),
    ],
)
def test_settings_say_what_is_wrong(changes, words):
    with pytest.raises(ValueError, match=words):
        WindowSettings(**{**SMALL, **changes})


def test_defaults_are_windows_of_32_by_8():
    settings = WindowSettings()
    assert (settings.size, settings.stride) == (32, 8)
