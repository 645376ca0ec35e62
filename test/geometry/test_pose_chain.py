# SPDX-License-Identifier: Apache-2.0
"""Poses chained from depth and shared points agree with those that made the points."""

from __future__ import annotations

import numpy as np
import pytest
from camera_walk import Walk, angle_deg, walk
from scipy.spatial.transform import Rotation

from vidllm_ros.geometry.pose_chain import _Shared, chain_poses, depth_at
from vidllm_ros.geometry.tracks import Tracks


def still(count: int) -> np.ndarray:
    return np.tile(np.eye(4), (count, 1, 1))


def test_exact_points_give_exact_poses() -> None:
    made = walk(frames=6, noise_px=0.0)
    poses, wrong = chain_poses(made.tracks, made.depth, made.K, still(6))
    np.testing.assert_allclose(poses, made.T_camera_world, atol=1e-4)
    assert not wrong.any()


def test_outliers_are_marked_and_do_not_move_the_poses() -> None:
    made = walk(frames=5, noise_px=0.1)
    uv = made.tracks.uv.copy()
    bad = (made.tracks.point % 10 == 3) & (made.tracks.frame > 0)
    uv[bad] += np.random.default_rng(5).uniform(8.0, 30.0, (int(bad.sum()), 2))
    tracks = Tracks(made.tracks.frame, made.tracks.point, uv)
    poses, wrong = chain_poses(tracks, made.depth, made.K, still(5))
    assert wrong[bad].mean() > 0.9
    assert wrong[~bad].mean() < 0.05
    assert angle_deg(poses, made.T_camera_world).max() < 1.0


def test_a_frame_that_shares_nothing_keeps_the_given_step() -> None:
    made: Walk = walk(frames=4, noise_px=0.0)
    keep = made.tracks.frame != 2
    tracks = Tracks(made.tracks.frame[keep], made.tracks.point[keep], made.tracks.uv[keep])
    guess = still(4)
    guess[2:, 0, 3] = 0.5
    poses, _ = chain_poses(tracks, made.depth[keep], made.K, guess)
    np.testing.assert_allclose(poses[2] @ np.linalg.inv(poses[1]), guess[2], atol=1e-9)


def test_depth_is_read_between_pixels_and_never_zero() -> None:
    depth = np.tile(np.arange(4, dtype=np.float32), (2, 3, 1))
    tracks = Tracks(np.array([0, 1]), np.array([0, 0]), np.array([[1.5, 1.0], [0.0, 2.0]]))
    np.testing.assert_allclose(depth_at(tracks, depth), [1.5, 0.05], atol=0.02)


def test_points_that_agree_by_chance_are_not_believed() -> None:
    made = walk(frames=3, noise_px=0.0)
    uv = made.tracks.uv.copy()
    lost = made.tracks.frame == 2
    uv[lost] = np.random.default_rng(4).uniform(5.0, 80.0, (int(lost.sum()), 2))
    tracks = Tracks(made.tracks.frame, made.tracks.point, uv)
    guess = still(3)
    guess[2, 0, 3] = 0.25
    poses, wrong = chain_poses(tracks, made.depth, made.K, guess)
    np.testing.assert_allclose(poses[2] @ np.linalg.inv(poses[1]), guess[2], atol=1e-9)
    assert wrong[lost & (made.tracks.frame == 2)].all()


def first_place(tracks: Tracks, point: int) -> np.ndarray:
    """Where the first frame sees a point, (2,), px."""
    return tracks.uv[(tracks.point == point) & (tracks.frame == 0)][0]


def long_step(spread: float) -> tuple[Walk, np.ndarray]:
    """Half a metre and six degrees, depths `spread` off; and a guess 70 degrees off."""
    made = walk(frames=2, noise_px=0.0)
    turn = Rotation.from_euler("y", 6.0, degrees=True).as_matrix()
    T = made.T_camera_world.copy()
    T[1, :3, :3], T[1, :3, 3] = turn, -turn @ np.array([-0.4, 0.0, 0.15])
    frame, point = made.tracks.frame, made.tracks.point
    camera = np.einsum("nij,nj->ni", T[frame, :3, :3], made.points[point]) + T[frame, :3, 3]
    uv = camera[:, :2] / camera[:, 2:] * 90.0 + np.array([56.0, 42.0])
    depth = camera[:, 2] * np.exp(np.random.default_rng(2).normal(0.0, spread, len(uv)))
    guess = still(2)
    guess[1, :3, :3] = Rotation.from_euler("x", 70.0, degrees=True).as_matrix()
    tracks = Tracks(frame, point, uv)
    return Walk(tracks, depth, made.K, T, made.points, made.stamps_s), guess


@pytest.mark.parametrize("spread", [0.5, 1.0])
def test_a_long_step_on_depth_that_errs_keeps_its_turn(spread: float) -> None:
    made, guess = long_step(spread)
    poses, wrong = chain_poses(made.tracks, made.depth, made.K, guess)
    assert angle_deg(poses, made.T_camera_world).max() < 10.0  # the guess is 70 off
    assert wrong.mean() < 0.3


def test_where_depth_tells_nothing_directions_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Shared, "_by_depth", lambda self, reach: None)
    made, guess = long_step(0.0)
    poses, wrong = chain_poses(made.tracks, made.depth, made.K, guess)  # a turn alone
    assert angle_deg(poses, made.T_camera_world).max() < 8.0
    np.testing.assert_array_equal(poses[1, :3, 3], 0.0)
    assert 0.0 < wrong.mean() < 0.3
    guess[:, :3, 3] = -guess[:, :3, :3] @ np.array([1.7, -0.4, 3.1])  # turns where it stands
    poses, _ = chain_poses(made.tracks, made.depth, made.K, guess)
    turn = poses[1, :3, :3] @ poses[0, :3, :3].T
    assert np.degrees(Rotation.from_matrix(turn).magnitude()) < 14.0  # the guess's is 70
    poses, wrong = chain_poses(made.tracks, made.depth, made.K, made.T_camera_world)
    np.testing.assert_allclose(poses, made.T_camera_world, atol=1e-9)  # a guess that is right
    assert not wrong.any()


@pytest.mark.parametrize("reach_px", [3.0, 6.0, 12.0])
def test_flow_without_sense_is_no_turn(reach_px: float) -> None:
    made, _ = long_step(3.0)
    rng = np.random.default_rng(7)
    uv, later = made.tracks.uv.copy(), made.tracks.frame == 1
    for row in np.flatnonzero(later):
        uv[row] = (
            first_place(made.tracks, made.tracks.point[row]) + rng.uniform(-1, 1, 2) * reach_px
        )
    shared = _Shared(
        np.array([first_place(made.tracks, p) for p in made.tracks.point[later]]),
        made.depth[later],
        made.K[0],
        uv[later],
        made.K[1],
    )
    assert shared._turn() is None


def test_points_in_one_spot_and_lenses_that_are_none_tell_nothing() -> None:
    spot = np.tile([[90.0, 20.0]], (40, 1))
    K = np.array([[90.0, 0, 56], [0, 90.0, 42], [0, 0, 1]])
    given = np.eye(4)
    given[0, 3] = 0.1
    for lens in (K, K * np.nan, np.diag([0.0, 0.0, 1.0])):
        step, agree = _Shared(spot, np.ones(40), lens, spot + np.array([9.0, 0.0]), lens).step(
            given
        )
        assert np.isfinite(step).all()
        assert step[:3, :3].trace() > 2.5  # no turn of half a circle
        assert len(agree) == 40
