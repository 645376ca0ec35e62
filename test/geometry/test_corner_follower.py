# SPDX-License-Identifier: Apache-2.0
"""Corners keep their numbers and their places through a stream, and say how far it has moved."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from vidllm_ros.geometry.corner_follower import CornerFollower, tracks_of, work_image
from vidllm_ros.geometry.image import resize_frames
from vidllm_ros.geometry.tracks import find_corners
from vidllm_ros.structures import Corners, Frames

HEIGHT, WIDTH = 84, 112
STEP_PX = 1.7


@pytest.fixture(scope="module")
def stream() -> list[np.ndarray]:
    """A blurred noise picture that slides to the left by a fraction of a pixel more each frame."""
    noise = np.random.default_rng(4).integers(0, 256, (HEIGHT, 2 * WIDTH, 3)).astype(np.uint8)
    noise = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2.0), None, 0, 255, cv2.NORM_MINMAX)
    moves = [np.float32([[1, 0, -i * STEP_PX], [0, 1, 0]]) for i in range(20)]
    return [cv2.warpAffine(noise, move, (WIDTH, HEIGHT)) for move in moves]


def show(follower: CornerFollower, rgb: np.ndarray) -> None:
    follower.add(work_image(rgb), rgb.shape)


def follow_all(images: list[np.ndarray], every: int) -> list[Corners]:
    follower, seen = CornerFollower(), []
    for i, image in enumerate(images):
        show(follower, image)
        if i % every == 0:
            follower.mark()
            seen.append(follower.corners)
    return seen


@pytest.mark.parametrize("enlarged", [1, 5])
def test_numbers_stay_with_points_of_the_scene(stream: list[np.ndarray], enlarged: int) -> None:
    """Also on images larger than those it works on, in their own pixels."""
    size = (enlarged * WIDTH, enlarged * HEIGHT)
    seen = follow_all([cv2.resize(image, size) for image in stream], every=5)
    _, first, last = np.intersect1d(seen[0].ids, seen[-1].ids, return_indices=True)
    assert len(first) > 30
    moved = seen[-1].uv[last] - seen[0].uv[first]
    error = np.linalg.norm(moved / enlarged - [-15 * STEP_PX, 0], axis=1)
    assert np.median(error) < 0.1
    assert len(np.unique(np.concatenate([c.ids for c in seen]))) > len(seen[0].ids)  # new ones


def test_motion_counts_from_the_mark(stream: list[np.ndarray]) -> None:
    follower = CornerFollower()
    assert follower.motion() == math.inf
    for i, image in enumerate(stream[:8]):
        show(follower, image)
        if i == 0:
            follower.mark()
        assert follower.motion() == pytest.approx(i * STEP_PX / WIDTH, abs=0.003)
    follower.mark()
    assert follower.motion() == 0


def test_what_cannot_be_followed_is_infinitely_far(stream: list[np.ndarray]) -> None:
    follower = CornerFollower()
    show(follower, np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
    follower.mark()
    assert len(follower.corners.ids) == 0
    assert follower.motion() == math.inf
    show(follower, stream[0])
    follower.mark()
    show(follower, stream[0][::-1].copy())  # another view altogether
    assert follower.motion() == math.inf
    show(follower, stream[0][:40])  # another size
    assert len(follower.corners.ids) == 0


def test_tracks_are_corners_of_two_frames_inside_the_image() -> None:
    corners = [
        Corners(np.array([7, 3, 9]), np.array([[1.0, 2], [5, 5], [4, 4]])),
        Corners(np.array([3]), np.array([[6.0, 5]])),
        Corners(np.array([9, 7, 3]), np.array([[4.0, 30], [2, 2], [7, 5]])),
    ]
    tracks = tracks_of(corners, (20, 20))
    assert tracks.frame.tolist() == [0, 1, 2, 0, 2]
    assert tracks.point.tolist() == [0, 0, 0, 1, 1]
    assert tracks.uv[:, 0].tolist() == [5, 6, 7, 1, 2]
    assert len(tracks_of([Corners(np.zeros(0, np.int64), np.zeros((0, 2)))] * 2, (20, 20))) == 0


def test_corners_go_with_frames_that_are_chosen_and_made_small() -> None:
    corners = tuple(Corners(np.array([i]), np.array([[79.5, 59.5]])) for i in range(3))
    frames = Frames(np.zeros((3, 120, 160, 3), np.uint8), (0, 1, 2), corners=corners)
    small = resize_frames(frames.select([2, 0]), 56, 14, "width")
    assert small.corners is not None
    assert [seen.ids.tolist() for seen in small.corners] == [[2], [0]]
    height = small.images.shape[1]
    np.testing.assert_allclose(small.corners[0].uv, [[27.5, height / 2 - 0.5]])
    with pytest.raises(ValueError, match="corners: expected 3"):
        Frames(frames.images, (0, 1, 2), corners=corners[:2])


def test_too_few_corners_are_refused() -> None:
    with pytest.raises(ValueError, match="max_corners: expected at least 8, got 3"):
        CornerFollower(3)


@pytest.mark.parametrize("size", [(1, 224), (2, 640), (3, 1000), (480, 3), (97, 641)])
def test_odd_sizes_are_followed_or_not_but_never_fail(size: tuple[int, int]) -> None:
    follower = CornerFollower()
    for seed in range(2):
        rgb = np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)
        show(follower, rgb)
        follower.mark()
    assert np.isfinite(follower.corners.uv).all()


def grown(image: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """A picture seen from nearer, or by a camera that rolled; and the 2 x 3 that says how."""
    height, width = image.shape[:2]
    angle, factor = {"roll": (8.0, 1.0), "zoom": (0.0, 1.15)}[kind]
    move = cv2.getRotationMatrix2D((width / 2, height / 2), angle, factor)
    return cv2.warpAffine(image, move, (width, height)), move


@pytest.mark.parametrize("kind", ["roll", "zoom"])
def test_corners_that_move_apart_are_kept(kind: str) -> None:
    noise = np.random.default_rng(5).integers(0, 256, (240, 320, 3)).astype(np.uint8)
    before = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2.5), None, 0, 255, cv2.NORM_MINMAX)
    now, move = grown(before, kind)
    follower = CornerFollower()
    show(follower, before)
    follower.mark()
    first = follower.corners
    show(follower, now)
    _, i, j = np.intersect1d(first.ids, follower.corners.ids, return_indices=True)
    truth = first.uv @ move[:, :2].T + move[:, 2]
    inside = ((truth > 8) & (truth < [311, 231])).all(axis=1)
    right = np.linalg.norm(follower.corners.uv[j] - truth[i], axis=1) < 1.0
    assert right.sum() > 0.6 * inside.sum()


def test_new_corners_keep_their_distance_from_those_followed() -> None:
    """Also where they are looked for in half the size; dots on black are found where they are."""
    image = np.zeros((240, 320, 3), np.uint8)
    u, v = np.meshgrid(np.arange(20, 310, 24), np.arange(20, 230, 24))
    dots = np.stack([u.ravel(), v.ravel()], axis=1)
    for x, y in dots.tolist():
        cv2.circle(image, (x, y), 3, (255, 255, 255), -1)
    gray = work_image(image)
    taken = dots[::2].astype(np.float32)
    found = find_corners(gray, taken, 200, 11)
    gap = np.linalg.norm(found[:, None] - taken[None], axis=-1).min(axis=1)
    near = np.linalg.norm(found[:, None] - dots[None], axis=-1).min(axis=1)
    assert len(found) > 30
    assert gap.min() > 8
    assert np.median(near) < 5
    assert (
        np.abs(
            np.mean(found - dots[np.linalg.norm(found[:, None] - dots[None], axis=-1).argmin(1)])
        )
        < 0.6
    )
