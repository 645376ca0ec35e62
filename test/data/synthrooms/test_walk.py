# SPDX-License-Identifier: Apache-2.0
"""The camera walks as a person would hold it, clear of the furniture."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from vidllm_ros.data.synthrooms import generate_room
from vidllm_ros.data.synthrooms.render import trace
from vidllm_ros.data.synthrooms.rooms import Room
from vidllm_ros.data.synthrooms.walk import (
    HARD_SHARES,
    NoRoomToWalkError,
    Walk,
    catmull_rom,
    make_walk,
    poses_from_angles,
    walk_kind,
)


@pytest.fixture(scope="module")
def walks() -> list[tuple[Room, Walk]]:
    found = []
    for seed in range(40):
        room = generate_room(seed)
        try:
            found.append((room, make_walk(room, 32, seed)))
        except NoRoomToWalkError:
            continue
    assert len(found) > 30
    return found


def test_poses_are_level_enough_and_at_eye_height(walks: list[tuple[Room, Walk]]) -> None:
    for _, walk in walks:
        T = walk.T_world_camera
        np.testing.assert_allclose(
            T[:, :3, :3] @ T[:, :3, :3].transpose(0, 2, 1),
            np.tile(np.eye(3), (32, 1, 1)),
            atol=1e-9,
        )
        np.testing.assert_allclose(np.linalg.det(T[:, :3, :3]), 1)
        pitch = np.degrees(np.arcsin(T[:, 2, 2]))
        assert pitch.min() > -40
        assert pitch.max() < 8
        assert (T[:, 2, 3] > 1.05).all()
        assert (T[:, 2, 3] < 1.75).all()
        assert (T[:, 2, 1] < -0.7).all()  # image down is down
        assert 50 <= math.degrees(walk.fov_x_rad) <= 80


def test_motion_is_smooth_and_of_a_walks_length(walks: list[tuple[Room, Walk]]) -> None:
    travels = []
    for _, walk in walks:
        T = walk.T_world_camera
        steps = np.linalg.norm(np.diff(T[:, :3, 3], axis=0), axis=1)
        turn = np.einsum("sij,sij->s", T[1:, :3, :3], T[:-1, :3, :3])
        turns = np.degrees(np.arccos(np.clip((turn - 1) / 2, -1, 1)))
        assert steps.max() < 0.25
        assert turns.max() < 20
        travels.append(steps.sum())
    assert 0.8 < np.median(travels) < 2.5
    assert max(travels) < 3.6


def test_camera_keeps_clear_of_walls_and_furniture(walks: list[tuple[Room, Walk]]) -> None:
    for room, walk in walks:
        position = walk.T_world_camera[:, :3, 3]
        assert (np.abs(position[:, 0]) < room.size[0] / 2 - 0.25).all()
        assert (np.abs(position[:, 1]) < room.size[1] / 2 - 0.25).all()
        for x, y, a, b, yaw in room.obstacles:
            c, s = np.cos(yaw), np.sin(yaw)
            dx, dy = position[:, 0] - x, position[:, 1] - y
            along, across = np.abs(c * dx + s * dy) - a, np.abs(-s * dx + c * dy) - b
            away = np.hypot(np.maximum(along, 0), np.maximum(across, 0))
            assert away.min() > 0.22, room.seed  # 0.3 m less a hand's tremor and the grid


def test_hard_walks_have_their_share() -> None:
    kinds = Counter(walk_kind(seed) for seed in range(3000))
    assert set(kinds) == {"walk", *HARD_SHARES}
    for kind, share in HARD_SHARES.items():
        assert kinds[kind] / 3000 == pytest.approx(share, abs=0.015)


def test_each_hard_walk_does_what_it_is_called() -> None:
    ends: dict[str, list[float]] = {kind: [] for kind in HARD_SHARES}
    for seed in range(140):
        kind = walk_kind(seed)
        if kind == "walk" or len(ends[kind]) == 5:
            continue
        try:
            room = generate_room(seed)
            walk = make_walk(room, 32, seed)
        except NoRoomToWalkError:
            continue
        assert walk.kind == kind
        seen = trace(room, walk, 21, 28)
        if kind == "turn":
            travel = np.linalg.norm(np.ptp(walk.T_world_camera[:, :3, 3], axis=0))
            ends[kind].append(float(travel))
        elif kind == "close-up":
            shares = np.bincount(seen.instance_ids[-6:].ravel() + 1)[1:] / seen.depth[-6:].size
            ends[kind].append(float(shares.max()))
        else:
            ends[kind].append(float((seen.instance_ids[-6:] < 0).mean()))
    assert max(ends["turn"]) < 0.15  # a hand's tremor
    assert np.median(ends["close-up"]) > 0.25  # one thing fills the picture
    assert np.median(ends["blank wall"]) > 0.8  # next to nothing to hold on to


def test_same_seed_same_walk() -> None:
    room = generate_room(3)
    first, again = make_walk(room, 8, 3), make_walk(room, 8, 3)
    assert first.T_world_camera.tobytes() == again.T_world_camera.tobytes()
    other = make_walk(room, 8, 4)
    assert first.T_world_camera.tobytes() != other.T_world_camera.tobytes()


def test_angles_to_poses() -> None:
    angles = np.zeros(2), np.array([0.0, -0.3]), np.zeros(2)
    T = poses_from_angles(np.array([[1.0, 2, 3], [0, 0, 0]]), *angles)
    np.testing.assert_allclose(T[0, :3, :3], [[0, 0, 1], [-1, 0, 0], [0, -1, 0]], atol=1e-12)
    np.testing.assert_allclose(T[0, :3, 3], [1, 2, 3])
    assert T[1, 2, 2] == pytest.approx(math.sin(-0.3))


def test_curve_passes_through_its_nodes() -> None:
    nodes = np.array([[0.0, 0], [1, 0], [1, 1], [0, 2]])
    curve = catmull_rom(nodes, 31)
    np.testing.assert_allclose(curve[[0, 10, 20, 30]], nodes, atol=1e-12)
