# SPDX-License-Identifier: Apache-2.0
"""Rectification moves a pixel to where the lens model says, and refuses what is no camera."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from vidllm_ros.ros.calibration import Calibration, Rectifier

K = np.array([[200.0, 0, 160], [0, 210.0, 120], [0, 0, 1]])


@pytest.mark.parametrize(
    ("model", "D"),
    [("plumb_bob", (-0.25, 0.06, 0.001, -0.001, 0.0)), ("equidistant", (0.02, -0.01, 0.0, 0.0))],
)
def test_a_spot_moves_to_its_pinhole_place(model: str, D: tuple[float, ...]) -> None:
    ray = np.array([[[0.45, -0.3]]])  # x/z, y/z
    if model == "equidistant":
        spot = cv2.fisheye.distortPoints(ray, K, np.array(D))[0, 0]
    else:
        point = np.append(ray[0, 0], 1.0).reshape(1, 1, 3)
        spot = cv2.projectPoints(point, np.zeros(3), np.zeros(3), K, np.array(D))[0][0, 0]
    rows, columns = np.mgrid[:240, :320]
    blob = 255 * np.exp(-((columns - spot[0]) ** 2 + (rows - spot[1]) ** 2) / 8)
    image = np.repeat(blob[..., None], 3, axis=2).astype(np.uint8)
    rectified = Rectifier(Calibration(K, D, model, 320, 240)).rectify(image)
    weight = rectified[..., 0].astype(float)
    found = [(weight * columns).sum() / weight.sum(), (weight * rows).sum() / weight.sum()]
    expected = (K @ np.append(ray[0, 0], 1.0))[:2]
    np.testing.assert_allclose(found, expected, atol=0.3)
    assert np.linalg.norm(expected - spot) > 2  # the test would see a missing rectification


def test_without_distortion_the_frame_is_untouched() -> None:
    image = np.zeros((240, 320, 3), np.uint8)
    assert Rectifier(Calibration(K, (0.0,) * 5, "plumb_bob", 320, 240)).rectify(image) is image


def test_other_size_is_refused() -> None:
    with pytest.raises(ValueError, match="expected the image's size 10x20, got 320x240"):
        Rectifier(Calibration(K, (), "", 320, 240)).rectify(np.zeros((20, 10, 3), np.uint8))


@pytest.mark.parametrize(
    ("K_bad", "D", "model", "words"),
    [
        (K * np.nan, (), "plumb_bob", "finite K"),
        (-K, (), "plumb_bob", "fx, fy > 0"),
        (np.eye(3), (), "plumb_bob", "field of view"),  # a driver's placeholder
        (np.diag([200.0, 1.0, 1.0]), (), "plumb_bob", "field of view"),
        (np.diag([1e5, 1e5, 1.0]), (), "plumb_bob", "field of view"),
        (K, (0.1,), "magic", "distortion_model: expected one of"),
        (K, (float("inf"),), "plumb_bob", "finite"),
    ],
)
def test_what_is_no_camera_is_refused(
    K_bad: np.ndarray, D: tuple[float, ...], model: str, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        Calibration(K_bad, D, model, 320, 240)


@pytest.mark.parametrize(
    ("focal_px", "width", "height"),
    [(130.0, 640, 480), (5000.0, 640, 480), (800.0, 1280, 64), (300.0, 480, 640)],
    ids=["fisheye", "telephoto", "a strip", "portrait"],
)
def test_unusual_cameras_are_taken(focal_px: float, width: int, height: int) -> None:
    lens = np.array([[focal_px, 0, width / 2], [0, focal_px, height / 2], [0, 0, 1]])
    assert Calibration(lens, (), "", width, height).K is lens
