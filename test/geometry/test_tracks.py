# SPDX-License-Identifier: Apache-2.0
"""Corners are followed where the picture really goes, and tracks are cut where told."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from vidllm_ros.geometry.sharpness import sharpness
from vidllm_ros.geometry.tracks import Tracks, find_corners, follow, follow_turned, track_points

Way = Callable[..., tuple[np.ndarray, np.ndarray]]
SHIFT = np.array([3.0, -1.5])


@pytest.fixture(scope="module")
def sliding() -> np.ndarray:
    """A blurred noise picture that slides by SHIFT px a frame, (6, 84, 112, 3)."""
    rng = np.random.default_rng(3)
    noise = cv2.GaussianBlur(rng.integers(0, 256, (84, 112, 3)).astype(np.uint8), (0, 0), 2.0)
    noise = cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX)
    moves = [np.float32([[1, 0, i * SHIFT[0]], [0, 1, i * SHIFT[1]]]) for i in range(6)]
    return np.array([cv2.warpAffine(noise, move, (112, 84)) for move in moves])


def test_follows_a_sliding_picture(sliding: np.ndarray) -> None:
    tracks = track_points(sliding)
    assert tracks.points > 50
    same = tracks.point[1:] == tracks.point[:-1]
    assert (np.diff(tracks.frame)[same] == 1).all()
    steps = np.diff(tracks.uv, axis=0)[same]
    error = np.linalg.norm(steps - SHIFT, axis=1)
    assert np.median(error) < 0.1
    assert np.quantile(error, 0.9) < 0.5


@pytest.mark.parametrize("way", [follow, follow_turned])
def test_what_is_hidden_does_not_come_back(sliding: np.ndarray, way: Way) -> None:
    """Another picture covers the left half: corners there are given up, the others not."""
    before, now = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in sliding[:2])
    rng = np.random.default_rng(8)
    other = cv2.GaussianBlur(rng.integers(0, 256, (84, 56)).astype(np.uint8), (0, 0), 2.0)
    now[:, :56] = cv2.normalize(other, None, 0, 255, cv2.NORM_MINMAX)
    here = find_corners(before, np.zeros((0, 2), np.float32), 200, 4)
    there, good = way(before, now, here, 3, 0.7)
    hidden = here[:, 0] < 56 - SHIFT[0] - 8
    shown = here[:, 0] > 56 + 8
    assert min(hidden.sum(), shown.sum()) > 30
    assert good[hidden].mean() < 0.1
    right = np.linalg.norm(there - here - SHIFT, axis=1) < 0.5
    assert (good & right)[shown].mean() > 0.7


def test_a_turning_camera_is_followed_at_the_edges_too() -> None:
    """Seven degrees of yaw: a corner at the edge moves and stretches more than one amid."""
    rng = np.random.default_rng(4)
    noise = cv2.GaussianBlur(rng.integers(0, 256, (84, 160)).astype(np.uint8), (0, 0), 1.5)
    wide = cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX)
    K = np.array([[60.0, 0, 56], [0, 60.0, 42], [0, 0, 1]])
    shown = np.array([[1.0, 0, -24], [0, 1, 0], [0, 0, 1]])  # the middle of the wide picture
    turn = K @ cv2.Rodrigues(np.array([0.0, np.radians(7.0), 0.0]))[0] @ np.linalg.inv(K)
    before = cv2.warpPerspective(wide, shown, (112, 84), flags=cv2.INTER_CUBIC)
    now = cv2.warpPerspective(wide, turn @ shown, (112, 84), flags=cv2.INTER_CUBIC)
    here = find_corners(before, np.zeros((0, 2), np.float32), 200, 4)
    truth = cv2.perspectiveTransform(here[:, None].astype(np.float64), turn)[:, 0]
    inside = ((truth > 3) & (truth < [108, 80])).all(1)
    error = {}
    for way in (follow, follow_turned):
        there, good = way(before, now, here, 3, 0.7)
        assert there.dtype == np.float32
        assert good[inside].mean() > 0.6
        error[way] = np.linalg.norm(there - truth, axis=1)[good & inside]
    assert np.median(error[follow_turned]) < 0.06
    assert np.median(error[follow_turned]) < 0.5 * np.median(error[follow])
    assert np.quantile(error[follow_turned], 0.9) < 0.25


def test_too_few_points_to_tell_a_turn_are_followed_as_they_are(sliding: np.ndarray) -> None:
    before, now = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in sliding[:2])
    few = find_corners(before, np.zeros((0, 2), np.float32), 200, 4)[:6]
    for ours, plain in zip(
        follow_turned(before, now, few, 3, 0.7), follow(before, now, few, 3, 0.7), strict=True
    ):
        np.testing.assert_array_equal(ours, plain)


def test_no_track_has_a_single_observation(sliding: np.ndarray) -> None:
    assert np.bincount(track_points(sliding).point).min() >= 2


def test_nothing_to_follow_gives_no_tracks() -> None:
    tracks = track_points(np.full((4, 42, 56, 3), 120, np.uint8))
    assert (len(tracks), tracks.points) == (0, 0)
    assert tracks.uv.shape == (0, 2)


def test_one_frame_gives_no_tracks(sliding: np.ndarray) -> None:
    assert len(track_points(sliding[:1])) == 0


def test_tracks_say_how_sharp_each_point_is_where_it_lies(sliding: np.ndarray) -> None:
    tracks = track_points(sliding)
    assert tracks.sharp is not None
    contrast = cv2.createCLAHE(2.0, (4, 4))
    gray = [contrast.apply(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)) for image in sliding]
    for row in (0, len(tracks) // 2, len(tracks) - 1):
        alone = sharpness(gray, tracks.frame[row : row + 1], tracks.uv[row : row + 1])
        np.testing.assert_array_equal(tracks.sharp[row], alone[0])


def test_cut_begins_a_new_track_at_a_wrong_observation() -> None:
    tracks = Tracks(
        np.array([0, 1, 2, 3, 1, 2]),
        np.array([0, 0, 0, 0, 1, 1]),
        np.arange(12.0).reshape(6, 2),
        np.arange(24.0).reshape(6, 2, 2),
    )
    wrong = np.array([False, False, True, False, False, True])
    left, rows = tracks.cut(wrong)
    assert rows.tolist() == [0, 1, 2, 3]
    assert left.point.tolist() == [0, 0, 1, 1]
    assert left.frame.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(left.uv, tracks.uv[rows])
    assert left.sharp is not None
    assert tracks.sharp is not None
    np.testing.assert_array_equal(left.sharp, tracks.sharp[rows])
