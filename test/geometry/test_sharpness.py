# SPDX-License-Identifier: Apache-2.0
"""Points are sharp across an edge, blunt along it, and blunt all round where all is even."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from vidllm_ros.geometry.sharpness import FLOOR_PX, GRAIN, SQUARE_PX, sharpness


def deviation(image: np.ndarray, uv: tuple[float, float], direction: tuple[float, float]) -> float:
    """Of a point along a unit direction, px."""
    root = sharpness([image], np.array([0]), np.array([uv], np.float64))[0]
    covariance = np.linalg.inv(root.T @ root)
    return float(np.sqrt(np.asarray(direction) @ covariance @ np.asarray(direction)))


@pytest.mark.parametrize("degrees", [0, 30, 90])
def test_an_edge_is_sharp_across_and_blunt_along(degrees: int) -> None:
    across = np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])
    v, u = np.mgrid[:60, :60]
    distance = (u - 30) * across[0] + (v - 30) * across[1]
    image = np.clip(128 + 40 * distance, 30, 220).astype(np.uint8)
    assert deviation(image, (30, 30), tuple(across)) < 0.2
    assert deviation(image, (30, 30), (-across[1], across[0])) > 1.0


def test_a_ramp_gives_the_deviation_that_can_be_counted() -> None:
    image = np.tile(np.arange(60, dtype=np.uint8) * 3, (60, 1))
    counted = np.hypot(GRAIN / (3.0 * SQUARE_PX), FLOOR_PX)  # 121 px, 3 gray levels a px
    assert deviation(image, (30, 30), (1.0, 0.0)) == pytest.approx(counted, rel=1e-3)


def test_where_nothing_is_to_be_seen_nothing_is_known() -> None:
    image = np.full((60, 60), 90, np.uint8)
    root = sharpness([image], np.array([0]), np.array([[30.0, 30.0]]))
    assert np.isfinite(root).all()
    assert abs(np.linalg.det(root[0])) > 0
    assert deviation(image, (30, 30), (1.0, 0.0)) > 100


def dot(image: np.ndarray) -> None:
    image[30, 30] = 200


def disc(image: np.ndarray) -> None:
    cv2.circle(image, (30, 30), 3, 200, -1)


def square(image: np.ndarray) -> None:
    image[28:33, 28:33] = 200


@pytest.mark.parametrize("draw", [dot, disc, square])
def test_what_is_alike_in_all_directions_is_known_in_all(draw) -> None:
    image = np.full((60, 60), 90, np.uint8)
    draw(image)  # OpenCV's two directions are zero or the same here
    sharp = [deviation(image, (30, 30), way) for way in ((1, 0), (0, 1), (0.6, 0.8))]
    assert max(sharp) == pytest.approx(min(sharp), rel=1e-3)
    assert max(sharp) < 2.0


def test_every_point_is_looked_up_in_its_own_image() -> None:
    rng = np.random.default_rng(5)
    rough = cv2.GaussianBlur(rng.integers(0, 256, (60, 60)).astype(np.uint8), (0, 0), 1.0)
    images = [np.full((60, 60), 90, np.uint8), rough]
    found = sharpness(images, np.array([1, 0, 1]), np.full((3, 2), 30.0))
    np.testing.assert_array_equal(found[0], found[2])
    assert np.linalg.norm(found[0]) > 10 * np.linalg.norm(found[1])
