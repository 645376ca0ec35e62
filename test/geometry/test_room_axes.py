# SPDX-License-Identifier: Apache-2.0
"""A room's axes are found from any heading, and a camera that is sure of nothing keeps its own."""

import dataclasses

import numpy as np
import pytest
from empty_room import look_round, turned

from vidllm_ros.geometry.room_axes import SeenViews, room_frame
from vidllm_ros.geometry.transforms import T_WORLD_OPTICAL_LEVEL


def true_axes(pitch_deg, yaw_deg):
    """Return T_room_first's rotation: down, and ahead along the wall nearest the heading."""
    first = (
        turned([0, 0, 1], yaw_deg) @ T_WORLD_OPTICAL_LEVEL[:3, :3] @ turned([1, 0, 0], pitch_deg)
    )
    nearest = 90.0 * np.round(yaw_deg / 90.0)
    return (turned([0, 0, 1], nearest) @ T_WORLD_OPTICAL_LEVEL[:3, :3]).T @ first


def degrees_apart(R, other):
    return np.degrees(np.arccos(np.clip((np.trace(R.T @ other) - 1) / 2, -1, 1)))


@pytest.mark.parametrize("pitch", [-20.0, 0.0, 12.0])
@pytest.mark.parametrize("yaw", [-130.0, -20.0, 0.0, 35.0, 80.0, 170.0])
def test_axes_lie_along_the_walls_from_any_heading(pitch, yaw):
    rec, _ = look_round(pitch, yaw_deg=yaw, noise=0.01)
    T = room_frame(rec)
    assert degrees_apart(T[:3, :3], true_axes(pitch, yaw)) < 3.0
    np.testing.assert_allclose(T[:3, :3] @ T[:3, :3].T, np.eye(3), atol=1e-12)
    assert np.linalg.det(T[:3, :3]) == pytest.approx(1.0)
    np.testing.assert_array_equal(T[:3, 3], 0.0)


def test_a_camera_that_hardly_turns_counts_as_level():
    rec, _ = look_round(-20.0, yaw_deg=30.0, turn_deg=2.0)
    T = room_frame(rec)
    np.testing.assert_allclose(T[1, :3], [0.0, 1.0, 0.0], atol=1e-12)


def test_without_walls_the_heading_stays():
    rec, _ = look_round(0.0)
    blind = dataclasses.replace(rec, valid=np.zeros_like(rec.valid))
    np.testing.assert_allclose(room_frame(blind), np.eye(4), atol=1e-12)


def test_a_camera_that_looks_straight_down_has_axes_too():
    rec, _ = look_round(0.0)
    down = np.tile(np.eye(4), (8, 1, 1))
    down[:, :3, :3] = turned([1, 0, 0], 90.0)
    views = SeenViews(rec.depth, np.zeros_like(rec.valid), rec.K, down)
    T = room_frame(views)
    assert np.isfinite(T).all()
    assert np.linalg.det(T[:3, :3]) == pytest.approx(1.0)
