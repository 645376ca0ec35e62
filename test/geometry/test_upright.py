# SPDX-License-Identifier: Apache-2.0
"""Up is found where cameras and surfaces agree, and left alone where they do not."""

import numpy as np
import pytest
from empty_room import look_round

from vidllm_ros.geometry.transforms import T_WORLD_OPTICAL_LEVEL
from vidllm_ros.geometry.upright import find_up, first_pose, upright_pose


def degrees_apart(a, b):
    return np.degrees(np.arccos(np.clip(a @ b, -1, 1)))


@pytest.mark.parametrize("pitch", [-30.0, -12.0, 0.0, 8.0, 25.0])
def test_up_of_a_tilted_camera(pitch):
    rec, up = look_round(pitch)
    assert degrees_apart(find_up(rec), up) < 1.0
    noisy, _ = look_round(pitch, noise=0.02)
    assert degrees_apart(find_up(noisy), up) < 3.0


@pytest.mark.parametrize(
    "doubtful",
    [{"turn_deg": 3.0}, {"roll_deg": 25.0, "turn_deg": 90.0}, {"bumpy": True}, {"pitch_deg": 60}],
)
def test_nothing_is_said_where_nothing_is_sure(doubtful):
    rec, _ = look_round(**{"pitch_deg": -20.0, **doubtful})
    assert find_up(rec) is None
    np.testing.assert_array_equal(first_pose(rec), T_WORLD_OPTICAL_LEVEL)


def test_the_first_camera_looks_along_x_and_floors_are_level():
    rec, up = look_round(-20.0)
    T = first_pose(rec)
    assert degrees_apart(T[:3, :3] @ up, np.array([0.0, 0.0, 1.0])) < 1.0
    ahead = T[:3, :3] @ [0.0, 0.0, 1.0]
    assert ahead[0] > 0.9
    assert abs(ahead[1]) < 1e-9
    np.testing.assert_allclose(T[:3, :3] @ T[:3, :3].T, np.eye(3), atol=1e-12)
    assert np.linalg.det(T[:3, :3]) == pytest.approx(1.0)


def test_a_level_camera_keeps_the_fixed_rotation():
    np.testing.assert_allclose(
        upright_pose(np.array([0.0, -1.0, 0.0])), T_WORLD_OPTICAL_LEVEL, atol=1e-12
    )
    with pytest.raises(ValueError, match="across the optical axis"):
        upright_pose(np.array([0.0, 0.0, 1.0]))
