# SPDX-License-Identifier: Apache-2.0
"""Frames are kept by how far the view has moved, not by how many came."""

import cv2
import numpy as np
import pytest

from vidllm_ros.geometry.corner_follower import tracks_of
from vidllm_ros.streaming.window import Arrival, FrameWindow, WindowSettings
from vidllm_ros.structures import Frames

PERIOD_NS = 100_000_000
HEIGHT, WIDTH = 84, 112


@pytest.fixture(scope="module")
def scene():
    """A blurred noise picture, much wider than a view."""
    noise = np.random.default_rng(5).integers(0, 256, (HEIGHT, 12 * WIDTH, 3)).astype(np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2.0), None, 0, 255, cv2.NORM_MINMAX)


@pytest.fixture
def lead(scene):
    """Show views that begin at these columns; return what became of each, and the windows."""

    def run(window, columns, first=0):
        arrivals, taken = [], []
        for i, column in enumerate(columns, first):
            view = np.ascontiguousarray(scene[:, column : column + WIDTH])
            added = window.add(i * PERIOD_NS, view)
            arrivals.append(added.arrival)
            if added.is_ready:
                taken.append(window.take())
        return arrivals, taken

    return run


def make_window(**changes):
    settings = {"size": 8, "stride": 4, "min_frames": 4, "min_shared": 3, "keyframe_motion": 0.1}
    return FrameWindow(WindowSettings(**{**settings, **changes}))


def places(window):
    return [stamp // PERIOD_NS for stamp in window.frames.stamps_ns]


def kept(arrivals):
    return [i for i, arrival in enumerate(arrivals) if arrival is Arrival.KEPT]


@pytest.mark.parametrize(("step_px", "every"), [(2, 6), (4, 3), (6, 2), (12, 1)])
def test_keyframes_are_a_tenth_of_the_image_apart_at_any_speed(lead, step_px, every):
    arrivals, _ = lead(make_window(), range(0, 40 * step_px, step_px))
    assert kept(arrivals) == list(range(0, 40, every))  # 11.2 px and the step beyond


def test_forth_and_back_is_no_motion(lead):
    window = make_window()
    arrivals, _ = lead(window, [0, 3, 6, 9, 6, 3, 0, 3, 6, 9, 6, 3] * 3)
    assert kept(arrivals) == [0]
    assert window.counts.between > 20
    assert window.counts.between + window.counts.still == 35


def test_a_view_that_is_gone_is_a_keyframe(lead):
    arrivals, _ = lead(make_window(), [0, 2, 600, 602])
    assert kept(arrivals) == [0, 2]


def test_windows_hold_keyframes_and_the_newest_frame_at_the_same_pace(lead):
    _, taken = lead(make_window(), range(0, 120, 2))
    assert [places(window)[-1] for window in taken] == list(range(3, 60, 4))
    for window in taken:
        *older, newest = places(window)
        assert older == list(range(0, newest, 6))[-7:]
        assert window.is_still == (newest > 4 and newest // 6 == (newest - 4) // 6)


def test_same_film_gives_the_same_windows(lead):
    rng = np.random.default_rng(1)
    columns = np.cumsum(rng.integers(0, 9, 40))
    first, second = (lead(make_window(), columns)[1] for _ in range(2))
    assert [places(w) for w in first] == [places(w) for w in second]
    for one, other in zip(first, second, strict=True):
        for a, b in zip(one.frames.corners, other.frames.corners, strict=True):
            np.testing.assert_array_equal(a.uv, b.uv)


def test_every_frame_is_kept_where_asked_for(lead):
    arrivals, _ = lead(make_window(keyframe_motion=0.0, min_motion=0.0), range(0, 20))
    assert kept(arrivals) == list(range(20))


def test_a_creeping_camera_has_a_keyframe_now_and_then(lead):
    arrivals, _ = lead(make_window(keyframe_gap_s=1.5), [i % 4 * 2 for i in range(40)])
    assert np.diff(kept(arrivals)).max() <= 16
    assert len(kept(arrivals)) >= 3


def test_where_nothing_can_be_followed_brightness_decides():
    window = make_window(min_motion=3.0)
    blank = [np.full((HEIGHT, WIDTH, 3), value, np.uint8) for value in (50, 51, 60, 61, 70)]
    arrivals = [window.add(i * PERIOD_NS, image).arrival for i, image in enumerate(blank)]
    assert kept(arrivals) == [0, 2, 4]


def test_corners_of_keyframes_lie_on_the_same_points_of_the_scene(lead):
    """They are followed through frames that no window holds, and made small with the image."""
    window = make_window()
    window.prepare = halved
    step_px = 3
    _, taken = lead(window, range(0, 40 * step_px, step_px))
    frames = taken[-1].frames
    assert frames.images.shape[1:3] == (HEIGHT // 2, WIDTH // 2)
    tracks = tracks_of(frames.corners, frames.images.shape[1:3])
    assert tracks.points > 30
    column = 2 * (tracks.uv[:, 0] + 0.5) - 0.5  # of the camera's image
    column += np.array(places(taken[-1]))[tracks.frame] * step_px
    first = np.searchsorted(tracks.point, np.arange(tracks.points))
    apart_px = column - column[first][tracks.point]
    assert np.median(np.abs(apart_px)) < 0.2
    assert np.quantile(np.abs(apart_px), 0.9) < 1.0


def halved(frames):
    corners = tuple(
        type(seen)(seen.ids, (seen.uv + 0.5) / 2 - 0.5) for seen in frames.corners or ()
    )
    return Frames(frames.images[:, ::2, ::2], frames.stamps_ns, frames.frame_id, frames.K, corners)


def test_memory_is_bounded_on_a_long_way(lead):
    window = make_window()
    _, taken = lead(window, [i * 5 % 1200 for i in range(120)])
    assert window.held_count <= 2 * 8 + 4
    assert max(len(seen.ids) for seen in taken[-1].frames.corners) <= 200
