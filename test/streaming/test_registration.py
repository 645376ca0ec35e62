# SPDX-License-Identifier: Apache-2.0
"""Windows find their place by shared frames, in spite of wild poses and of scales that differ."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vidllm_ros.geometry.transforms import make_transform, rotation_angle
from vidllm_ros.streaming.registration import average_transform, chain, place_frames, register

T_MAP_FIRST = make_transform(Rotation.from_rotvec([0.2, -0.4, 0.9]).as_matrix(), [3.0, 1.0, -2.0])


def walk_error_m(room, errors, place, seed, count=96):
    """Reconstruct a walk window by window and compare all its cameras with the truth, m."""
    backend = room.Backend(errors, seed)
    poses, placed = {}, ()
    for start in range(0, count - 31, 8):
        rec = backend.window(range(start, start + 32))
        placed = place_frames(rec, place(placed, rec) if placed else np.eye(4))
        poses |= {frame.stamp_ns: frame.T_map_camera for frame in placed}
    places = [stamp // room.PERIOD_NS for stamp in sorted(poses)]
    return room.trajectory_error_m(np.stack([poses[stamp] for stamp in sorted(poses)]), places)


def robust(placed, rec):
    return register(placed, rec).T_map_window


@pytest.mark.parametrize("place", [robust, chain])
def test_without_errors_windows_lie_exactly(room, place):
    assert walk_error_m(room, room.Errors(), place, seed=0) < 1e-9


def test_window_is_placed_wherever_the_first_one_lies(room):
    backend = room.Backend()
    first, second = backend.window(range(0, 32)), backend.window(range(8, 40))
    found = register(place_frames(first, T_MAP_FIRST), second)
    np.testing.assert_allclose(
        found.T_map_window, T_MAP_FIRST @ first.T_world_camera[8], atol=1e-9
    )
    assert found.shared_frames == 24
    assert found.spread_m < 1e-9
    assert found.spread_rad < 1e-6
    assert found.residual_m < 1e-5
    assert found.scale_ratio == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    "errors",
    [{"turn_rad": 0.01, "shift_m": 0.03}, {"scale": 0.05, "turn_rad": 0.005, "shift_m": 0.01}],
)
def test_robust_drifts_less_than_chaining(room, errors):
    seeds = range(3)
    ours = [walk_error_m(room, room.Errors(**errors), robust, seed) for seed in seeds]
    plain = [walk_error_m(room, room.Errors(**errors), chain, seed) for seed in seeds]
    assert np.mean(ours) < 0.75 * np.mean(plain)
    assert np.mean(ours) < 0.12


def test_wild_frames_do_not_move_the_window(room):
    first = room.Backend().window(range(0, 32))
    second = room.Backend(room.Errors(wild_frames=0.3), seed=4).window(range(8, 40))
    moved = np.linalg.norm(
        second.T_world_camera[:, :3, 3]
        - room.Backend().window(range(8, 40)).T_world_camera[:, :3, 3],
        axis=1,
    )
    assert 5 <= (moved > 0.1).sum() <= 14  # the test's premise
    found = register(place_frames(first, np.eye(4)), second).T_map_window
    np.testing.assert_allclose(found, first.T_world_camera[8], atol=0.01)


def test_scale_of_a_window_is_reported_and_not_followed(room):
    first, second = room.Backend().window(range(0, 32)), room.Backend().window(range(8, 40))
    poses = second.T_world_camera.copy()
    poses[:, :3, 3] *= 1.25
    larger = replace(second, T_world_camera=poses, depth=second.depth * np.float32(1.25))
    found = register(place_frames(first, np.eye(4)), larger)
    assert found.scale_ratio == pytest.approx(0.8, rel=1e-3)
    assert np.linalg.det(found.T_map_window[:3, :3]) == pytest.approx(1)
    assert found.residual_m > 0.2


def test_nothing_shared_is_no_place(room):
    backend = room.Backend()
    placed = place_frames(backend.window(range(0, 32)), np.eye(4))
    assert register(placed, backend.window(range(40, 72))) is None
    assert register((), backend.window(range(0, 4))) is None
    assert chain(placed, backend.window(range(40, 72))) is None


def test_one_shared_frame_is_enough(room):
    backend = room.Backend()
    first, second = backend.window(range(0, 32)), backend.window(range(31, 50))
    found = register(place_frames(first, np.eye(4)), second)
    assert found.shared_frames == 1
    np.testing.assert_allclose(found.T_map_window, first.T_world_camera[31], atol=1e-9)


def test_invalid_depth_takes_no_part(room):
    first, second = room.Backend().window(range(0, 32)), room.Backend().window(range(8, 40))
    depth = second.depth.copy()
    depth[:, :20] = np.nan
    depth[:, 20:30] = 100
    valid = np.ones(depth.shape, bool)
    valid[:, 20:30] = False
    found = register(place_frames(first, np.eye(4)), replace(second, depth=depth, valid=valid))
    assert found.residual_m < 1e-5
    nothing = replace(second, valid=np.zeros(depth.shape, bool))
    blind = register(place_frames(first, np.eye(4)), nothing)
    assert np.isnan(blind.residual_m)
    assert blind.scale_ratio == 1
    np.testing.assert_allclose(blind.T_map_window, first.T_world_camera[8], atol=1e-9)


def test_geometric_median_of_transforms():
    rng = np.random.default_rng(0)
    turns = Rotation.from_rotvec(rng.normal(0, 0.02, (21, 3))).as_matrix()
    good = T_MAP_FIRST @ make_transform(turns, rng.normal(0, 0.02, (21, 3)))
    wild = make_transform(Rotation.random(9, random_state=1).as_matrix(), rng.normal(0, 5, (9, 3)))
    found = average_transform(np.concatenate([good, wild]))
    assert rotation_angle(found[:3, :3].T @ T_MAP_FIRST[:3, :3]) < 0.03
    assert np.linalg.norm(found[:3, 3] - T_MAP_FIRST[:3, 3]) < 0.03
    np.testing.assert_allclose(average_transform(T_MAP_FIRST[None]), T_MAP_FIRST, atol=1e-12)
